//! What correlation comes to: drops, and what names them.

use std::{fmt, net::IpAddr};

use jiff::Timestamp;

use super::Evidence;
use crate::{flow::Flow, observation::AttemptId};

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
        let AttemptId { protocol, source, source_port, sequence } = attempt;
        Self::hash(&format!("{protocol} {source} {source_port} {sequence}"))
    }

    /// For attempts of which only the number is known.
    pub(super) fn of_flow(flow: &Flow, first: Timestamp) -> Self {
        Self::hash(&format!("{flow} {}", first.as_second()))
    }

    fn hash(text: &str) -> Self {
        let hash = blake3::hash(text.as_bytes());
        let (first, _) = hash.as_bytes().split_at(8);
        Self(first.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }
}

/// A flow whose attempts die silently.
#[derive(Clone, Debug, PartialEq)]
pub struct Drop {
    /// Its name, which stays while the flow goes on.
    pub id: DropId,
    /// The flow where it died: after DNAT, where that is known.
    pub flow: Flow,
    /// The destination that the client dialled, where it differs.
    pub dialled: Option<(IpAddr, u16)>,
    /// What speaks for it.
    pub evidence: Evidence,
    /// How many of the packets that this kernel dropped were in an earlier report of it.
    pub told_packets: u64,
}

impl Drop {
    /// Packets that this kernel dropped and no earlier report of this drop tells of.
    pub fn untold_packets(&self) -> u64 {
        self.evidence.kernel_packets().saturating_sub(self.told_packets)
    }
}

/// Attempts of one source to more flows than are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folded {
    /// The source.
    pub source: IpAddr,
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
pub enum Correlated {
    /// A flow dies, or goes on dying.
    Drop(Drop),
    /// Many flows of one source die.
    Folded(Folded),
    /// A flow that had never been answered was.
    Answered {
        /// The flow at the pod's veth.
        flow: Flow,
        /// When.
        at: Timestamp,
    },
}
