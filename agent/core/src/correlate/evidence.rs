//! The evidence that an attempt, or a flow of attempts, was dropped.

use std::{ops::RangeInclusive, sync::Arc};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, IntoStaticStr};

use super::{GRACE, SETTLE};
use crate::observation::{DropReason, Fact, Observation, Rejection};

/// How many different kernel drops are kept apart in one flow: a filter and a full queue is two;
/// more than this says nothing more.
const KERNEL_DROPS_MAX: usize = 4;

/// How many signs of one attempt are remembered to recognise one that comes twice: as many SYNs as a
/// connect sends (7 with `tcp_syn_retries` 6), each with a drop and a retransmission.
const SIGNS_MAX: usize = 16;

/// How sure it is that attempts were dropped, and where.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Display,
    IntoStaticStr,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[strum(serialize_all = "kebab-case")]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceLevel {
    /// This kernel freed them with a drop reason: it happened here.
    KernelDrop,
    /// Nothing came back: it happened on the way, or on another node.
    Unanswered,
    /// Somebody said no: not silent.
    Rejected,
    /// They were answered, although policies deny them.
    Answered,
    /// Nothing was seen; a question was asked.
    None,
}

impl EvidenceLevel {
    /// The level as records spell it.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Packets that this kernel dropped alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelDrops {
    /// Why.
    pub reason: DropReason,
    /// Where in the kernel.
    pub location: Option<Arc<str>>,
    /// The packets' device then; 0 for none.
    pub interface: u32,
    /// How many.
    pub packets: u64,
}

/// Everything that was seen, summed: the order in which it came leaves no trace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    kernel_drops: Vec<KernelDrops>,
    kernel_packets: u64,
    retransmitted: u64,
    attempts: u64,
    span: Option<(Timestamp, Timestamp)>,
    /// `errno` of a connect that failed; 0: given up by the application.
    pub failed: Option<i32>,
    /// The refusal, where there was one.
    pub rejected: Option<Rejection>,
    /// A packet reached the destination pod's veth on this node.
    pub delivered: bool,
    /// The veth by which the attempts entered the node, where it is one of ours.
    pub entered: Option<u32>,
    /// When an attempt of the flow was answered after all.
    pub answered: Option<Timestamp>,
    /// Single observations that were counted so far, sorted; only while the attempt is pending.
    signs: Vec<(Timestamp, u8)>,
}

impl Evidence {
    /// Adds an observation; `false`: it was there already.
    pub(super) fn add(&mut self, observation: &Observation) -> bool {
        let counted = match observation.fact {
            Fact::KernelDrop { .. } => Some(0),
            Fact::Retransmitted => Some(1),
            // Twice they say no more than once.
            Fact::Failed { .. } | Fact::Rejected(_) => None,
            Fact::AnsweredLate | Fact::AnsweredFirst => return true,
        };
        if observation.attempt.is_some() {
            if let Some(sign) = counted.map(|kind| (observation.at, kind)) {
                match self.signs.binary_search(&sign) {
                    Ok(_) => return false,
                    Err(place) if self.signs.len() < SIGNS_MAX => self.signs.insert(place, sign),
                    Err(_) => {}
                }
            }
            self.attempts = self.attempts.max(1);
        }
        self.extend_span(observation.first, observation.at);
        self.delivered |= observation.delivered;
        self.entered = self.entered.max(observation.entered);
        match &observation.fact {
            Fact::KernelDrop { reason, location, interface } => {
                self.add_kernel_drops(KernelDrops {
                    reason: reason.clone(),
                    location: location.clone(),
                    interface: *interface,
                    packets: observation.packets,
                });
            }
            Fact::Retransmitted => self.retransmitted += observation.packets,
            Fact::Failed { errno } => self.failed = self.failed.max(Some(*errno)),
            Fact::Rejected(rejection) => self.rejected = self.rejected.max(Some(*rejection)),
            Fact::AnsweredLate | Fact::AnsweredFirst => {}
        }
        true
    }

    /// Nothing more will be added one by one.
    pub(super) fn sealed(mut self) -> Self {
        self.signs = Vec::new();
        self
    }

    /// It is more of an attempt that was counted when its first packets were judged.
    pub(super) fn is_of_known_attempt(&mut self) {
        self.attempts = 0;
    }

    /// Adds what speaks for another attempt of the same flow.
    pub(super) fn merge(&mut self, other: Self) {
        if let Some((first, last)) = other.span {
            self.extend_span(first, last);
        }
        for drops in other.kernel_drops {
            self.add_kernel_drops(drops);
        }
        self.retransmitted += other.retransmitted;
        self.attempts += other.attempts;
        self.failed = self.failed.max(other.failed);
        self.rejected = self.rejected.max(other.rejected);
        self.delivered |= other.delivered;
        self.entered = self.entered.max(other.entered);
        self.answered = self.answered.max(other.answered);
    }

    fn add_kernel_drops(&mut self, drops: KernelDrops) {
        self.kernel_packets += drops.packets;
        let key = |drops: &KernelDrops| (drops.reason.number, drops.interface);
        match self.kernel_drops.binary_search_by_key(&key(&drops), key) {
            Ok(place) => {
                let known = &mut self.kernel_drops[place];
                known.packets += drops.packets;
                // A counter does not know the place.
                known.location = known.location.take().max(drops.location);
            }
            Err(place) if self.kernel_drops.len() < KERNEL_DROPS_MAX => {
                self.kernel_drops.insert(place, drops);
            }
            Err(_) => {}
        }
    }

    fn extend_span(&mut self, first: Timestamp, last: Timestamp) {
        let (a, b) = self.span.unwrap_or((first, last));
        self.span = Some((a.min(first), b.max(last)));
    }

    /// Whether it shows that something went unanswered. A connect that the application gave up
    /// without a second SYN shows nothing.
    pub(super) fn is_unanswered(&self) -> bool {
        self.kernel_packets > 0
            || self.retransmitted > 0
            || self.rejected.is_some()
            || self.failed.is_some_and(|errno| errno != 0)
    }

    /// When an attempt with this evidence is to be judged.
    pub(super) fn due(&self) -> Timestamp {
        let ended = self.failed.is_some() || self.rejected.is_some();
        let in_vain = self.kernel_packets + self.retransmitted >= 2;
        let dropped_again = self.kernel_packets > 0 && in_vain;
        self.last() + if ended || dropped_again { GRACE } else { SETTLE }
    }

    /// How sure it is, and where it happened: one of the first three.
    pub fn level(&self) -> EvidenceLevel {
        if self.rejected.is_some() {
            EvidenceLevel::Rejected
        } else if self.kernel_packets > 0 {
            EvidenceLevel::KernelDrop
        } else {
            EvidenceLevel::Unanswered
        }
    }

    /// Packets that went without an answer: those dropped here, or those known to have been sent.
    pub fn packets(&self) -> u64 {
        self.kernel_packets.max(self.attempts + self.retransmitted)
    }

    /// Packets that this kernel dropped.
    pub fn kernel_packets(&self) -> u64 {
        self.kernel_packets
    }

    /// The kind of kernel drop that took most packets.
    pub fn kernel_drop(&self) -> Option<&KernelDrops> {
        self.kernel_drops.iter().max_by(|a, b| {
            // Among equals by name, not by which came first.
            (a.packets, &b.reason.name).cmp(&(b.packets, &a.reason.name))
        })
    }

    /// From when the first packet was seen to when the last sign was.
    pub fn span(&self) -> RangeInclusive<Timestamp> {
        self.first()..=self.last()
    }

    /// When the first packet was seen.
    pub fn first(&self) -> Timestamp {
        self.span.map_or(Timestamp::MIN, |(first, _)| first)
    }

    /// When the last sign was seen.
    pub fn last(&self) -> Timestamp {
        self.span.map_or(Timestamp::MIN, |(_, last)| last)
    }
}
