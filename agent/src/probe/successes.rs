//! When flows last got an answer.

use std::os::fd::AsFd as _;

use aya::maps::{HashMap, IterableMap as _, MapData, MapError};
use jiff::Timestamp;
use whydrop_core::flow::{Flow, Protocol};
use whydrop_ebpf::SuccessKey;

use super::{
    clock::Clock,
    decode::{from_ip, ip},
    error::Error,
    sys::{self, Entries},
};

/// The table of last answers. The destination is the one that was dialled, and for an answer that a
/// local pod gave also the pod's own.
#[derive(Debug)]
pub struct Successes {
    map: HashMap<MapData, SuccessKey, u64>,
}

impl Successes {
    pub(crate) fn new(map: HashMap<MapData, SuccessKey, u64>) -> Self {
        Self { map }
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
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(Error::kernel("looking up a flow's last answer", error)),
        }
    }

    /// The flows that got an answer at this time or later, in no order.
    pub fn since(&self, time: Timestamp) -> Result<Vec<(Flow, Timestamp)>, Error> {
        let clock = Clock::read()?;
        let from = clock.monotonic(time);
        let mut found = Vec::new();
        sys::entries(self.map.map().fd().as_fd(), Entries::Stay, |key: &SuccessKey, at: &u64| {
            if *at >= from
                && let Some(protocol) = Protocol::from_number(key.protocol)
            {
                let flow = Flow {
                    source: ip(key.source),
                    destination: ip(key.destination),
                    port: key.port,
                    protocol,
                };
                found.push((flow, clock.wall(*at)));
            }
        })
        .map_err(Error::io("reading the table of last answers"))?;
        Ok(found)
    }
}
