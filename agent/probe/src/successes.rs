//! Which answers flows got.

use std::{
    collections::{HashMap, HashSet},
    os::fd::AsFd as _,
};

use aya::maps::{HashMap as KernelHashMap, IterableMap as _, MapData, MapError};
use jiff::{SignedDuration, Timestamp};
use whydrop_core::flow::{Flow, Protocol, Worked};
use whydrop_ebpf::{Success, SuccessKey};

use super::{
    clock::{Clock, SinceBoot},
    decode::{from_ip, ip},
    error::Error,
    sys::{self, Entries},
};

/// How many flows' answers are handed on from one agent to the next: what the kernel's table has room
/// for. The latest stay.
pub const ANSWERS_MAX: usize = 16_384;

/// How many flows are looked up one by one: beyond it, reading the whole table is the cheaper.
pub const LOOKED_UP_MAX: usize = 512;

/// Which answers a flow got: of each connection one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// When the first came.
    pub first: SinceBoot,
    /// When the last but one did, if there was more than one.
    pub before: Option<SinceBoot>,
    /// When the last did.
    pub last: SinceBoot,
    /// How many came.
    pub connections: u64,
}

impl Answered {
    /// One answer.
    pub const fn once(at: SinceBoot) -> Self {
        Self { first: at, before: None, last: at, connections: 1 }
    }

    /// With what came before all of it.
    fn after(self, earlier: Self) -> Self {
        Self {
            first: earlier.first.min(self.first),
            before: self.before.or(Some(earlier.last)),
            last: self.last,
            connections: earlier.connections.saturating_add(self.connections),
        }
    }

    /// What of it came at this time or later, as far as is known; `None`: nothing did.
    fn since(self, time: Option<Timestamp>, clock: Clock) -> Option<Worked> {
        let is_in = |at: &SinceBoot| time.is_none_or(|time| clock.wall_of(*at) >= time);
        let last = Some(self.last).filter(is_in)?;
        let (first, connections) = match (Some(self.first).filter(is_in), self.before) {
            (Some(first), _) => (first, self.connections),
            // How many came between these two and that time is not known.
            (None, Some(before)) if is_in(&before) => (before, 2),
            (None, _) => (last, 1),
        };
        Some(Worked { first: clock.wall_of(first), last: clock.wall_of(last), connections })
    }
}

impl From<Success> for Answered {
    fn from(success: Success) -> Self {
        let Success { first_ns, before_ns, last_ns, count } = success;
        let since_boot =
            |ns: u64| SignedDuration::from_nanos(i64::try_from(ns).unwrap_or(i64::MAX));
        Self {
            first: since_boot(first_ns),
            before: (before_ns != 0).then(|| since_boot(before_ns)),
            last: since_boot(last_ns),
            connections: count,
        }
    }
}

/// The table of answers. The destination is the one that was dialled, and for an answer that a
/// local pod gave also the pod's own.
///
/// What an agent before this one knew is kept here and not put into the kernel's table: that would
/// make a flow's first answer no news to the programs, and its clock has no time before
/// the machine was started.
#[derive(Debug)]
pub struct Successes {
    map: KernelHashMap<MapData, SuccessKey, Success>,
    clock: Clock,
    before: HashMap<Flow, Remembered>,
}

/// What an agent before this one knew of a flow.
#[derive(Clone, Copy, Debug)]
struct Remembered {
    answered: Answered,
    /// The kernel's table had later answers: without them, when the last one came is not known.
    is_continued: bool,
}

/// Every answer that is known, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// Of each flow, at most [`ANSWERS_MAX`].
    pub of: Vec<(Flow, Answered)>,
    /// How many of these the kernel's table has a part of.
    pub in_kernel: usize,
    /// How many more there were, which are forgotten from here on.
    pub forgotten: usize,
}

impl Successes {
    pub(crate) fn new(map: KernelHashMap<MapData, SuccessKey, Success>, clock: Clock) -> Self {
        Self { map, clock, before: HashMap::new() }
    }

    /// The same, by another clock: the times since the machine was started remain.
    pub(crate) fn by(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// How many entries the kernel's table has.
    pub(crate) fn in_kernel(&self) -> Result<u64, Error> {
        let mut count = 0;
        self.each(|_, _| count += 1)?;
        Ok(count)
    }

    /// Takes what an agent before this one knew.
    pub fn remember(&mut self, answers: impl IntoIterator<Item = (Flow, Answered)>) {
        let remembered = |answered| Remembered { answered, is_continued: false };
        self.before
            .extend(answers.into_iter().map(|(flow, answered)| (flow, remembered(answered))));
    }

    /// When each of these flows last got an answer; those that did as far as the table reaches back.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn last_of<'f>(
        &self,
        flows: impl IntoIterator<Item = &'f Flow>,
    ) -> Result<Vec<(Flow, Timestamp)>, Error> {
        let worked = self.worked_of(flows.into_iter().map(|flow| (*flow, None)))?.into_iter();
        Ok(worked.map(|(flow, worked)| (flow, worked.last)).collect())
    }

    /// Which connections of each of these flows were answered at its time or later (ever, where
    /// there is none); those that were as far as the table reaches back.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn worked_of(
        &self,
        flows: impl IntoIterator<Item = (Flow, Option<Timestamp>)>,
    ) -> Result<Vec<(Flow, Worked)>, Error> {
        let mut found = Vec::new();
        for (flow, since) in flows {
            let answered = self.answered(&flow)?;
            let worked = answered.and_then(|answered| answered.since(since, self.clock));
            found.extend(worked.map(|worked| (flow, worked)));
        }
        Ok(found)
    }

    fn answered(&self, flow: &Flow) -> Result<Option<Answered>, Error> {
        let Flow { source, destination, port, protocol } = *flow;
        let key = SuccessKey {
            source: from_ip(source),
            destination: from_ip(destination),
            port,
            protocol: protocol.number(),
            pad: 0,
        };
        let before = self.before.get(flow);
        match self.map.get(&key, 0) {
            Ok(success) => Ok(Some(with(success.into(), before))),
            Err(MapError::KeyNotFound) => {
                Ok(before.filter(|before| !before.is_continued).map(|before| before.answered))
            }
            Err(error) => Err(Error::kernel("looking up a flow's last answer", error)),
        }
    }

    /// Which of these flows got an answer at this time or later, and when.
    ///
    /// A few are looked up one by one. For more the table is read as a whole, in some twenty calls,
    /// so that a bad moment of thirty thousand flows costs no more than that.
    pub fn since_of(
        &self,
        flows: &HashSet<Flow>,
        time: Timestamp,
    ) -> Result<HashMap<Flow, Timestamp>, Error> {
        if flows.len() <= LOOKED_UP_MAX {
            let last = self.last_of(flows)?.into_iter();
            return Ok(last.filter(|(_, at)| *at >= time).collect());
        }
        let answered = self.since(time)?.into_iter();
        Ok(answered.filter(|(flow, _)| flows.contains(flow)).collect())
    }

    /// The flows that got an answer at this time or later, in no order.
    pub fn since(&self, time: Timestamp) -> Result<Vec<(Flow, Timestamp)>, Error> {
        let clock = self.clock;
        let from = clock.monotonic(time);
        let mut found = Vec::new();
        self.each(|flow, success| {
            if success.last_ns >= from {
                found.push((flow, clock.wall(success.last_ns)));
            }
        })?;
        Ok(found)
    }

    /// Every answer that is known. What finds no room is forgotten.
    pub fn all(&mut self) -> Result<Answers, Error> {
        let mut in_kernel = 0;
        let mut of = HashMap::new();
        self.each(|flow, success| {
            in_kernel += 1;
            of.insert(flow, Answered::from(*success));
        })?;
        self.before.retain(|flow, before| match of.get_mut(flow) {
            Some(answered) => {
                *answered = with(*answered, Some(before));
                before.is_continued = true;
                true
            }
            // What came later was evicted from the kernel's table.
            None => !before.is_continued,
        });
        // While programs change the table, an entry may come twice: there may be more than it holds.
        let room = ANSWERS_MAX.saturating_sub(in_kernel);
        let alone = self.before.values().filter(|before| !before.is_continued);
        let mut times: Vec<SinceBoot> = alone.map(|before| before.answered.last).collect();
        let forgotten = times.len().saturating_sub(room);
        if forgotten > 0 {
            let (_, newest_forgotten, _) = times.select_nth_unstable(forgotten - 1);
            let newest_forgotten = *newest_forgotten;
            self.before
                .retain(|_, before| before.is_continued || before.answered.last > newest_forgotten);
        }
        let alone = self.before.iter().filter(|(_, before)| !before.is_continued);
        let alone = alone.map(|(flow, before)| (*flow, before.answered));
        let of = of.into_iter().chain(alone).take(ANSWERS_MAX).collect();
        Ok(Answers { of, in_kernel, forgotten })
    }

    /// Gives every entry of the kernel's table to `each`.
    fn each(&self, mut each: impl FnMut(Flow, &Success)) -> Result<(), Error> {
        sys::entries(
            self.map.map().fd().as_fd(),
            Entries::Stay,
            |key: &SuccessKey, success: &Success| {
                if let Some(protocol) = Protocol::from_number(key.protocol) {
                    let (source, destination) = (ip(key.source), ip(key.destination));
                    each(Flow { source, destination, port: key.port, protocol }, success);
                }
            },
        )
        .map_err(Error::io("reading the table of last answers"))
    }
}

/// What the kernel has of a flow, with what an agent before this one knew.
fn with(answered: Answered, before: Option<&Remembered>) -> Answered {
    before.map_or(answered, |before| answered.after(before.answered))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: i64) -> SinceBoot {
        SinceBoot::from_secs(n)
    }

    #[test]
    fn what_an_agent_before_knew_is_counted_as_well() {
        let kernel = Success { first_ns: 50, before_ns: 0, last_ns: 50, count: 1 };
        let now = Answered::from(kernel);
        assert_eq!(now, Answered::once(SinceBoot::from_nanos(50)));
        let earlier = Answered {
            first: second(-9),
            before: Some(second(-7)),
            last: second(-5),
            connections: 4,
        };
        let both = Answered {
            first: second(-9),
            before: Some(second(-5)),
            last: now.last,
            connections: 5,
        };
        assert_eq!(now.after(earlier), both);
    }

    /// An address is used again: what came before a pod was made was another's.
    #[test]
    fn only_what_came_since_a_pod_was_made_is_its_own() {
        let clock = Clock::new("2026-01-02T03:00:00Z".parse().unwrap(), 0);
        let at = |n: i64| clock.wall_of(second(n));
        let answered = Answered {
            first: second(10),
            before: Some(second(30)),
            last: second(40),
            connections: 9,
        };
        let worked =
            |first, connections| Some(Worked { first: at(first), last: at(40), connections });
        for (since, expected) in [
            (None, worked(10, 9)),
            (Some(10), worked(10, 9)),
            (Some(11), worked(30, 2)),
            (Some(31), worked(40, 1)),
            (Some(41), None),
        ] {
            assert_eq!(answered.since(since.map(at), clock), expected, "since {since:?}");
        }
    }
}
