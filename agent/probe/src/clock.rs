//! The programs' clock and ours.

use std::{fs, io, time::Duration};

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};

use super::error::Error;

/// A time on the monotonic clock; negative: before the machine was started.
pub type SinceBoot = SignedDuration;

/// Names each start of the machine (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A start of the machine: what a monotonic time needs beside it to outlive the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The kernel's name for it.
    pub id: String,
    /// When it was, by the wall clock as it goes now.
    pub began: Timestamp,
}

impl Boot {
    /// The one that this process runs in.
    ///
    /// # Errors
    /// The kernel's boot id or its clock cannot be read.
    pub fn read() -> Result<Self, Error> {
        let id = fs::read_to_string(BOOT_ID).map_err(Error::io("reading which boot this is"))?;
        Ok(Self { id: id.trim().to_owned(), began: Clock::read()?.zero })
    }

    /// A time of this boot that was noted in another one, or in this one.
    ///
    /// Within one boot the monotonic clock says it, however the wall clock was set since; across
    /// boots the wall clock alone can.
    #[must_use]
    pub fn translate(&self, noted_in: &Self, at: SinceBoot) -> SinceBoot {
        if noted_in.id == self.id {
            return at;
        }
        self.began.duration_until(noted_in.began).saturating_add(at)
    }

    /// How long ago it was.
    pub fn age(&self) -> SinceBoot {
        self.began.duration_until(Timestamp::now())
    }
}

/// Time as everything here measures it, which no one can set: the wall clock as it was when this was
/// read, and from then on the monotonic clock, by which the programs note their times. Both are slewed
/// alike; what is set is the wall clock alone.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The wall-clock time at which the monotonic clock was zero.
    zero: Timestamp,
}

impl Clock {
    /// As the clocks are now.
    ///
    /// # Errors
    /// There is no monotonic clock.
    pub fn read() -> Result<Self, Error> {
        let monotonic = monotonic().map_err(Error::io("reading the clock"))?;
        Ok(Self::new(Timestamp::now(), monotonic))
    }

    /// What time it is.
    pub fn now(self) -> Timestamp {
        // It was there when this was read.
        monotonic().map_or_else(|_| Timestamp::now(), |monotonic| self.wall(monotonic))
    }

    /// By how much the wall clock was set since this was read: forward, or back where it is negative.
    pub fn was_set_by(self) -> SignedDuration {
        Timestamp::now().duration_since(self.now())
    }

    /// From both clocks, read at once.
    pub fn new(wall: Timestamp, monotonic_ns: u64) -> Self {
        Self { zero: wall.saturating_sub(duration(monotonic_ns)).unwrap_or(wall) }
    }

    /// The wall-clock time of a monotonic time.
    pub(crate) fn wall(self, monotonic_ns: u64) -> Timestamp {
        self.zero.saturating_add(duration(monotonic_ns)).unwrap_or(Timestamp::MAX)
    }

    /// The wall-clock time of a monotonic time that may be before the machine was started.
    pub(crate) fn wall_of(self, since_boot: SinceBoot) -> Timestamp {
        self.zero.saturating_add(since_boot).unwrap_or(self.zero)
    }

    /// The monotonic time of a wall-clock time; 0 for one before it began.
    pub(crate) fn monotonic(self, wall: Timestamp) -> u64 {
        u64::try_from(wall.duration_since(self.zero).as_nanos()).unwrap_or(0)
    }
}

fn monotonic() -> io::Result<u64> {
    let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(Duration::from(monotonic).as_nanos()).unwrap_or(u64::MAX))
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
        assert_eq!(
            clock.wall_of(SinceBoot::from_secs(-4)),
            "2026-01-02T03:04:00Z".parse().unwrap()
        );
    }

    #[test]
    fn time_goes_on_and_that_the_wall_clock_was_set_is_known() {
        let hour = SignedDuration::from_hours(1);
        let clock = Clock::read().unwrap();
        let before = Clock { zero: clock.zero + hour };
        for (clock, set_by) in [(clock, SignedDuration::ZERO), (before, -hour)] {
            let first = clock.now();
            assert!(clock.now() >= first);
            assert!((clock.was_set_by() - set_by).abs() < SignedDuration::from_secs(1));
        }
    }

    #[test]
    fn a_time_outlives_its_boot_and_a_clock_that_is_set() {
        let boot = |id: &str, began: &str| Boot { id: id.into(), began: began.parse().unwrap() };
        let then = boot("a", "2026-01-02T03:00:00Z");
        let at = SinceBoot::from_secs(60);
        // The clock was set by an hour, and the machine went on.
        assert_eq!(boot("a", "2026-01-02T04:00:00Z").translate(&then, at), at);
        // The machine was started again ten minutes later.
        let now = boot("b", "2026-01-02T03:10:00Z");
        assert_eq!(now.translate(&then, at), SinceBoot::from_secs(60 - 600));
        assert_eq!(Boot::read().unwrap().id, Boot::read().unwrap().id);
        assert!(Boot::read().unwrap().age() > SinceBoot::ZERO);
    }
}
