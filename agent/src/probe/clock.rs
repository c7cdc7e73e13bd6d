//! The programs' clock and ours.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};

use super::error::Error;

/// Reads the programs' times as wall-clock times.
///
/// The programs read the monotonic clock, which has no date. The difference is taken now and then,
/// since the wall clock is set and slewed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// The wall-clock time at which the monotonic clock was zero.
    zero: Timestamp,
}

impl Clock {
    /// As the clocks are now.
    pub(crate) fn read() -> Result<Self, Error> {
        let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .map_err(|errno| Error::io("reading the clock")(errno.into()))?;
        let ns = Duration::from(monotonic).as_nanos();
        Ok(Self::new(Timestamp::now(), u64::try_from(ns).unwrap_or(u64::MAX)))
    }

    /// From both clocks, read at once.
    pub(crate) fn new(wall: Timestamp, monotonic_ns: u64) -> Self {
        Self { zero: wall.saturating_sub(duration(monotonic_ns)).unwrap_or(wall) }
    }

    /// The wall-clock time of a monotonic time.
    pub(crate) fn wall(self, monotonic_ns: u64) -> Timestamp {
        self.zero.saturating_add(duration(monotonic_ns)).unwrap_or(Timestamp::MAX)
    }

    /// The monotonic time of a wall-clock time; 0 for one before it began.
    pub(crate) fn monotonic(self, wall: Timestamp) -> u64 {
        u64::try_from(wall.duration_since(self.zero).as_nanos()).unwrap_or(0)
    }
}

fn duration(ns: u64) -> SignedDuration {
    SignedDuration::from_nanos(i64::try_from(ns).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_convert_both_ways() {
        let clock = Clock::new("2026-01-02T03:04:05Z".parse().unwrap(), 1_000_000_000);
        assert_eq!(clock.wall(3_000_000_000), "2026-01-02T03:04:07Z".parse().unwrap());
        assert_eq!(clock.monotonic(clock.wall(123_456_789)), 123_456_789);
        assert_eq!(clock.monotonic(Timestamp::MIN), 0);
    }
}
