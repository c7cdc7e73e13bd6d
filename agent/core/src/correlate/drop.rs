//! What correlation comes to: drops, and what names them.

use std::{fmt, net::IpAddr};

use jiff::Timestamp;

use super::{
    Evidence,
    key::{Key, Manner},
};
use crate::{flow::Flow, hash::hash64, observation::AttemptId};

/// Names a drop: a hash of what every node that sees the attempt can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DropId(pub u64);

impl fmt::Display for DropId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl DropId {
    pub(super) fn of(attempt: &AttemptId) -> Self {
        let AttemptId { protocol, source, source_port, sequence, foreign } = attempt;
        let by = foreign.map(|by| format!(" by {by}")).unwrap_or_default();
        Self(hash64(&format!("{protocol} {source} {source_port} {sequence}{by}")))
    }

    /// For attempts that are only known by their number, and for what else became of one.
    pub(super) fn of_key(key: &Key, first: Timestamp) -> Self {
        let Key { flow, dialled, manner, foreign } = key;
        let dialled = dialled.map_or(*flow, |dialled| flow.to(dialled));
        let manner = match manner {
            Manner::Lost { has_arrived: true } => "arrived".to_owned(),
            Manner::Lost { has_arrived: false } => "lost".to_owned(),
            Manner::Dropped { reason } => format!("dropped {reason}"),
            Manner::Rejected => "rejected".to_owned(),
        };
        let by = foreign.map(|by| format!(" by {by}")).unwrap_or_default();
        Self(hash64(&format!("{flow} {dialled} {manner} {}{by}", first.as_microsecond())))
    }
}

/// A flow whose attempts are silently dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct Drop {
    /// Its name, which stays while the flow goes on.
    pub id: DropId,
    /// The flow where it was dropped: after DNAT, where that is known.
    pub flow: Flow,
    /// The destination that the client dialled, where it differs.
    pub dialled: Option<(IpAddr, u16)>,
    /// The interface by which its packets came, where their source address is not their sender's.
    pub foreign: Option<u32>,
    /// What speaks for it.
    pub evidence: Evidence,
    /// How many of the packets that this kernel dropped were in an earlier report of it.
    pub reported_packets: u64,
}

impl Drop {
    /// The flow as the client dialled it, where that differs.
    pub fn flow_dialled(&self) -> Option<Flow> {
        self.dialled.map(|dialled| self.flow.to(dialled))
    }

    /// Packets that this kernel dropped and no earlier report of this drop has counted.
    pub fn unreported_packets(&self) -> u64 {
        self.evidence.kernel_packets().saturating_sub(self.reported_packets)
    }
}

/// Attempts of one source, or of one sender in many names, to more flows than are kept apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folded {
    /// The source; of one sender in many names, one of these.
    pub source: IpAddr,
    /// The interface by which all of them came, where they are not of one source, or the source is forged; 0:
    /// the node itself sent them, or that is not known.
    pub sender: Option<u32>,
    /// A flow among them.
    pub example: Flow,
    /// Attempts that opened another flow.
    pub attempts: u64,
    /// Dropped packets.
    pub packets: u64,
    /// When the first was seen.
    pub first: Timestamp,
    /// When the last was seen.
    pub last: Timestamp,
}

/// What correlation comes to.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are drops, and none is kept")]
pub enum Correlated {
    /// A flow is dropped, or keeps being dropped.
    Drop(Drop),
    /// Many flows of one source are dropped.
    Folded(Folded),
    /// A flow that had never been answered was.
    Answered {
        /// The flow at the pod's veth.
        flow: Flow,
        /// When.
        at: Timestamp,
    },
}
