//! When flows last got an answer.

use std::{
    collections::{HashMap, HashSet},
    os::fd::AsFd as _,
};

use aya::maps::{HashMap as KernelHashMap, IterableMap as _, MapData, MapError};
use jiff::{SignedDuration, Timestamp};
use whydrop_core::flow::{Flow, Protocol};
use whydrop_ebpf::SuccessKey;

use super::{
    clock::{Clock, SinceBoot},
    decode::{from_ip, ip},
    error::Error,
    sys::{self, Entries},
};

/// How many answers are handed on from one agent to the next: what the kernel's table has room for.
/// The latest stay.
pub const ANSWERS_MAX: usize = 16_384;

/// How many flows are looked up one by one: beyond it, reading the whole table is the cheaper.
pub const LOOKED_UP_MAX: usize = 512;

/// The table of last answers. The destination is the one that was dialled, and for an answer that a
/// local pod gave also the pod's own.
///
/// What an agent before this one knew is kept here and not put into the kernel's table: that would
/// make a flow's first answer no news to the programs, and its clock cannot tell of a time before
/// the machine was started.
#[derive(Debug)]
pub struct Successes {
    map: KernelHashMap<MapData, SuccessKey, u64>,
    before: HashMap<Flow, SinceBoot>,
}

/// Every answer that is known, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// When each flow got its last one, at most [`ANSWERS_MAX`].
    pub last: Vec<(Flow, SinceBoot)>,
    /// How many of these the kernel's table has.
    pub in_kernel: usize,
    /// How many more there were, which are forgotten from here on.
    pub forgotten: usize,
}

impl Successes {
    pub(crate) fn new(map: KernelHashMap<MapData, SuccessKey, u64>) -> Self {
        Self { map, before: HashMap::new() }
    }

    /// Takes what an agent before this one knew.
    pub fn remember(&mut self, answers: impl IntoIterator<Item = (Flow, SinceBoot)>) {
        self.before.extend(answers);
    }

    /// When the flow last got an answer, if it did as far as the table reaches back.
    pub fn last(&self, flow: &Flow) -> Result<Option<Timestamp>, Error> {
        let Flow { source, destination, port, protocol } = *flow;
        let key = SuccessKey {
            source: from_ip(source),
            destination: from_ip(destination),
            port,
            protocol: protocol.number(),
            pad: 0,
        };
        match self.map.get(&key, 0) {
            Ok(at) => Ok(Some(Clock::read()?.wall(at))),
            Err(MapError::KeyNotFound) => match self.before.get(flow) {
                Some(at) => Ok(Some(Clock::read()?.wall_of(*at))),
                None => Ok(None),
            },
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
            let mut answered = HashMap::new();
            for flow in flows {
                let last = self.last(flow)?.filter(|at| *at >= time);
                answered.extend(last.map(|at| (*flow, at)));
            }
            return Ok(answered);
        }
        let answered = self.since(time)?.into_iter();
        Ok(answered.filter(|(flow, _)| flows.contains(flow)).collect())
    }

    /// The flows that got an answer at this time or later, in no order.
    pub fn since(&self, time: Timestamp) -> Result<Vec<(Flow, Timestamp)>, Error> {
        let clock = Clock::read()?;
        let from = clock.monotonic(time);
        let mut found = Vec::new();
        self.each(|flow, at| {
            if at >= from {
                found.push((flow, clock.wall(at)));
            }
        })?;
        Ok(found)
    }

    /// Every answer that is known. What finds no room is forgotten, and what the kernel knows better
    /// is left to it.
    pub fn all(&mut self) -> Result<Answers, Error> {
        let mut last = Vec::new();
        self.each(|flow, at| {
            last.push((flow, SignedDuration::from_nanos(i64::try_from(at).unwrap_or(i64::MAX))));
        })?;
        let in_kernel = last.len();
        for (flow, _) in &last {
            self.before.remove(flow);
        }
        // While programs change the table, an entry may come twice: there may be more than it holds.
        let room = ANSWERS_MAX.saturating_sub(in_kernel);
        let forgotten = self.before.len().saturating_sub(room);
        if forgotten > 0 {
            let mut times: Vec<SinceBoot> = self.before.values().copied().collect();
            let (_, newest_forgotten, _) = times.select_nth_unstable(forgotten - 1);
            let newest_forgotten = *newest_forgotten;
            self.before.retain(|_, at| *at > newest_forgotten);
        }
        last.extend(self.before.iter().map(|(flow, at)| (*flow, *at)));
        last.truncate(ANSWERS_MAX);
        Ok(Answers { last, in_kernel, forgotten })
    }

    /// Gives every entry of the kernel's table to `each`, with its time in nanoseconds.
    fn each(&self, mut each: impl FnMut(Flow, u64)) -> Result<(), Error> {
        sys::entries(self.map.map().fd().as_fd(), Entries::Stay, |key: &SuccessKey, at: &u64| {
            if let Some(protocol) = Protocol::from_number(key.protocol) {
                let (source, destination) = (ip(key.source), ip(key.destination));
                each(Flow { source, destination, port: key.port, protocol }, *at);
            }
        })
        .map_err(Error::io("reading the table of last answers"))
    }
}
