//! The evidence that an attempt, or a flow of attempts, was dropped.

use std::{ops::RangeInclusive, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, IntoStaticStr};

use crate::observation::{DropReason, Fact, Observation, Rejection, Sender};

/// How many different kernel drops are kept apart in one flow: a filter and a full queue is two;
/// more than this says nothing more.
const KERNEL_DROPS_MAX: usize = 4;

/// Of how many attempts of a flow it is kept that they ended in vain: of those that a report may yet have.
const ENDED_MAX: usize = 8;

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
    /// The packets' device then; 0 for none, [`IN_POD`](crate::observation::IN_POD) for one of the
    /// destination pod's own.
    pub interface: u32,
    /// How many.
    pub packets: u64,
}

/// Packets that this kernel dropped alike, how many of them a report had, and when the last was dropped
/// that none had.
#[derive(Clone, Debug, PartialEq)]
struct Counted {
    drops: KernelDrops,
    reported: u64,
    last: Option<Timestamp>,
}

/// Everything that was seen, summed: the order in which it came leaves no trace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    kernel_drops: Vec<Counted>,
    kernel_packets: u64,
    retransmitted: u64,
    attempts: u64,
    span: Option<(Timestamp, Timestamp)>,
    /// From the first sign that no report had yet to the last.
    latest: Option<(Timestamp, Timestamp)>,
    /// When the last packet was seen, or refused.
    packet: Option<Timestamp>,
    /// Before when it is judged, where what explains it was seen to change then.
    judged_before: Option<Timestamp>,
    /// Whether a report had some of it.
    is_reported: bool,
    /// When the last packets were seen of attempts that ended in vain, the latest [`ENDED_MAX`].
    ended: Vec<Timestamp>,
    /// `errno` of a connect that failed; 0: given up by the application.
    pub failed: Option<i32>,
    /// The refusal, where there was one.
    pub rejected: Option<Rejection>,
    /// A packet reached the destination pod's veth on this node.
    pub delivered: bool,
    /// The veth by which the attempts entered the node, where it is one of ours.
    pub entered: Option<u32>,
    /// Who sent them.
    pub sender: Sender,
    /// When an attempt of the flow was answered after all.
    pub answered: Option<Timestamp>,
    /// Attempts of it that another backend of the Service answered, once their packets were sent again.
    rescued: u64,
}

impl Evidence {
    /// Adds an observation.
    pub(super) fn add(&mut self, observation: &Observation) {
        self.extend_span(observation.first, observation.at);
        self.delivered |= observation.delivered;
        self.entered = self.entered.max(observation.entered);
        self.sender = self.sender.max(observation.sender);
        if !matches!(observation.fact, Fact::Failed { .. }) {
            self.packet = self.packet.max(Some(observation.at));
        }
        match &observation.fact {
            Fact::KernelDrop { reason, location, interface } => {
                let drops = KernelDrops {
                    reason: reason.clone(),
                    location: location.clone(),
                    interface: *interface,
                    packets: observation.packets,
                };
                let last = Some(observation.at);
                self.add_kernel_drops(Counted { drops, reported: 0, last });
            }
            Fact::Retransmitted => self.retransmitted += observation.packets,
            Fact::Failed { errno } => {
                self.failed = self.failed.max(Some(*errno));
                self.add_ended([observation.at]);
            }
            Fact::Rejected(rejection) => self.rejected = self.rejected.max(Some(*rejection)),
            Fact::AnsweredLate | Fact::AnsweredFirst => {}
        }
    }

    /// It has an attempt's first packet.
    pub(super) fn is_attempt(&mut self) {
        self.attempts = 1;
    }

    /// It is more of an attempt that was counted when its first packets were judged. A refusal alone is of
    /// a packet that nothing else was seen of.
    pub(super) fn is_of_known_attempt(&mut self) {
        if self.kernel_packets > 0 || self.retransmitted > 0 {
            self.attempts = 0;
        }
    }

    /// It was reported: what comes now is news.
    pub(super) fn was_reported(&mut self) {
        self.latest = None;
        for counted in &mut self.kernel_drops {
            (counted.reported, counted.last) = (counted.drops.packets, None);
        }
        self.is_reported = true;
    }

    /// What was taken to be reported was not, since it was answered.
    pub(crate) fn was_not_reported(&mut self) {
        self.is_reported = false;
    }

    /// Whether an earlier report had some of it.
    pub fn is_reported(&self) -> bool {
        self.is_reported
    }

    /// Whether an attempt ended in vain whose last packet is among those that no earlier report had, by what
    /// is known now of the same drop.
    pub fn ends_in_vain(&self, by_now: &Self) -> bool {
        let latest = self.latest();
        self.ended.iter().chain(&by_now.ended).any(|last| latest.contains(last))
    }

    /// The attempt that began it ended so, which is no packet and no news of its own.
    pub(super) fn ended_with(&mut self, end: &Self) {
        self.failed = self.failed.max(end.failed);
    }

    /// An attempt whose packets it counts ended so, its last packet having been seen then.
    pub(super) fn has_one_that_ended(&mut self, end: &Self, last: Timestamp) {
        if end.failed.is_some() {
            self.add_ended([last]);
        }
    }

    fn add_ended(&mut self, times: impl IntoIterator<Item = Timestamp>) {
        self.ended.extend(times);
        self.ended.sort_unstable();
        self.ended.dedup();
        self.ended.drain(..self.ended.len().saturating_sub(ENDED_MAX));
    }

    /// Adds what speaks for another attempt of the same flow.
    pub(super) fn merge(&mut self, other: Self) {
        self.span = joined(self.span, other.span);
        self.latest = joined(self.latest, other.latest);
        self.packet = self.packet.max(other.packet);
        self.is_reported |= other.is_reported;
        self.add_ended(other.ended);
        for drops in other.kernel_drops {
            self.add_kernel_drops(drops);
        }
        self.retransmitted += other.retransmitted;
        self.attempts += other.attempts;
        self.failed = self.failed.max(other.failed);
        self.rejected = self.rejected.max(other.rejected);
        self.delivered |= other.delivered;
        self.entered = self.entered.max(other.entered);
        self.sender = self.sender.max(other.sender);
        self.answered = self.answered.max(other.answered);
        self.rescued += other.rescued;
    }

    /// Adds what speaks for the same attempt.
    pub(super) fn merge_same(&mut self, other: Self) {
        let attempts = self.attempts.max(other.attempts);
        self.merge(other);
        self.attempts = attempts;
    }

    /// Whether this kernel dropped packets of it for the reason of this number.
    pub(super) fn has_reason(&self, reason: u32) -> bool {
        self.kernel_drops.iter().any(|counted| counted.drops.reason.number == reason)
    }

    fn add_kernel_drops(&mut self, counted: Counted) {
        self.kernel_packets += counted.drops.packets;
        let key = |counted: &Counted| (counted.drops.reason.number, counted.drops.interface);
        match self.kernel_drops.binary_search_by_key(&key(&counted), key) {
            Ok(place) => {
                let known = &mut self.kernel_drops[place];
                known.reported += counted.reported;
                known.last = known.last.max(counted.last);
                let (known, drops) = (&mut known.drops, counted.drops);
                known.packets += drops.packets;
                // A counter does not know the place.
                known.location = known.location.take().max(drops.location);
            }
            Err(place) if self.kernel_drops.len() < KERNEL_DROPS_MAX => {
                self.kernel_drops.insert(place, counted);
            }
            Err(_) => {}
        }
    }

    fn extend_span(&mut self, first: Timestamp, last: Timestamp) {
        self.span = joined(self.span, Some((first, last)));
        self.latest = joined(self.latest, Some((last, last)));
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

    /// Attempts that were dropped so, those included that another backend answered in the end.
    pub fn attempts(&self) -> u64 {
        self.attempts
    }

    /// How many of them another backend of the Service answered, once their packets were sent again.
    pub fn rescued(&self) -> u64 {
        self.rescued
    }

    /// An attempt that it counts was answered by another backend.
    pub(super) fn is_rescued(&mut self) {
        self.rescued += 1;
    }

    /// Packets that this kernel dropped.
    pub fn kernel_packets(&self) -> u64 {
        self.kernel_packets
    }

    /// The kind of kernel drop that took most packets: of those that no report had yet, which are what is
    /// to be explained; where there are none, of all.
    pub fn kernel_drop(&self) -> Option<&KernelDrops> {
        let most = self.kernel_drops.iter().max_by(|a, b| {
            let rank = |counted: &Counted| {
                let packets = counted.drops.packets;
                (packets.saturating_sub(counted.reported), packets)
            };
            // Among equals by name, not by which came first.
            (rank(a), &b.drops.reason.name).cmp(&(rank(b), &a.drops.reason.name))
        });
        most.map(|counted| &counted.drops)
    }

    /// From when the first packet was seen to when the last sign was.
    pub fn span(&self) -> RangeInclusive<Timestamp> {
        self.first()..=self.last()
    }

    /// From the first sign that no earlier report of it had to the last one.
    pub fn latest(&self) -> RangeInclusive<Timestamp> {
        self.latest.map_or_else(|| self.span(), |(first, last)| first..=last)
    }

    /// As of when it is judged: of its packets that no report had yet the last that this kernel dropped;
    /// where it dropped none, the last packet of all. That a connect ends in vain is later than both, and
    /// no policy's doing. What is the tail of what a change ended is judged as of before that.
    pub fn judged_as_of(&self) -> Timestamp {
        let dropped = self.kernel_drops.iter().filter_map(|counted| counted.last).max();
        let last = dropped.or(self.packet).unwrap_or_else(|| self.last());
        let before = self.judged_before.map(|seen| seen - SignedDuration::from_nanos(1));
        before.map_or(last, |before| last.min(before))
    }

    /// It is judged as of before this time, if there is any.
    pub(super) fn judge_before(&mut self, seen: Option<Timestamp>) {
        self.judged_before = seen;
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

/// From the earlier of two beginnings to the later of two ends.
fn joined(
    one: Option<(Timestamp, Timestamp)>,
    other: Option<(Timestamp, Timestamp)>,
) -> Option<(Timestamp, Timestamp)> {
    match (one, other) {
        (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
        (one, None) => one,
        (None, other) => other,
    }
}
