//! What was seen of one attempt, and of which flow each of its packets is known to be.
//!
//! A packet is of the backend where this kernel dropped it. Of one that was sent again and not dropped
//! here, only what was dialled is known: it went to any backend of a Service. So it counts for what was
//! dialled, and for no backend; and of an attempt that was dropped at a backend it counts for nothing,
//! as it may have arrived, or have been dropped and only counted.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;

use super::{
    Evidence, GRACE, SETTLE,
    key::{Key, Manner},
};
use crate::{
    flow::Flow,
    observation::{Fact, Observation},
};

/// How many signs of one attempt are kept while it is pending (about 200 bytes each): twice as many as
/// the kernel side hands over of one that is no flood, each SYN with a drop and a retransmission.
const SIGNS_MAX: usize = 32;

/// The signs of an attempt.
#[derive(Debug, Default)]
pub(super) struct Signs(Vec<Observation>);

/// What became of a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// It is kept.
    New,
    /// It was there already.
    Again,
    /// There are too many.
    Shed,
}

/// What an attempt comes to.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// What is known of its packets, each part with what it is evidence for.
    pub(super) packets: BTreeMap<Key, Evidence>,
    /// What was sent again, and not dropped here, of what was dialled.
    pub(super) lost: Option<(Flow, Evidence)>,
    /// How its connect ended, with the flow that was dialled.
    pub(super) end: Option<(Flow, Evidence)>,
    /// Whether it was seen what was dialled.
    pub(super) is_dialled_seen: bool,
}

impl Signs {
    pub(super) fn add(&mut self, observation: &Observation) -> Added {
        let counts_once = matches!(observation.fact, Fact::KernelDrop { .. } | Fact::Retransmitted);
        let is_it = |other: &Observation| {
            (other.at, rank(&other.fact)) == (observation.at, rank(&observation.fact))
        };
        if counts_once && self.0.iter().any(is_it) {
            return Added::Again;
        }
        if self.0.len() >= SIGNS_MAX {
            return Added::Shed;
        }
        self.0.push(observation.clone());
        Added::New
    }

    /// Packets that this kernel dropped.
    pub(super) fn kernel_packets(&self) -> u64 {
        self.dropped().map(|seen| seen.packets).sum()
    }

    /// The interface by which it came, where its source address is not its sender's.
    pub(super) fn foreign(&self) -> Option<u32> {
        self.0.first().and_then(|seen| seen.sender.foreign())
    }

    /// What was seen of it first.
    pub(super) fn first(&self) -> Option<&Observation> {
        self.0.first()
    }

    /// The flows that it may be of: as it was dialled, and where it was dropped.
    pub(super) fn flows(&self) -> impl Iterator<Item = Flow> {
        self.0.iter().flat_map(|seen| [Some(seen.flow), seen.flow_dialled()]).flatten()
    }

    /// The flows whose packets this kernel dropped, with what was dialled where that is known to differ; and
    /// those whose packets were sent again, as they were dialled.
    pub(super) fn failing_flows(&self) -> impl Iterator<Item = (Flow, Option<(IpAddr, u16)>)> {
        let again = self.0.iter().filter(|seen| seen.fact == Fact::Retransmitted);
        let again = again.map(|seen| (dialled_of(seen), None));
        self.dropped().map(|seen| (seen.flow, seen.dialled)).chain(again)
    }

    /// Takes out the packets that were dropped at a backend of what was dialled before they were sent
    /// again, with that they were.
    pub(super) fn take_dropped_behind(&mut self, dialled: &Flow) -> Self {
        let is_behind = |seen: &Observation| {
            let is_dropped = matches!(seen.fact, Fact::KernelDrop { .. });
            is_dropped && seen.flow != *dialled && seen.flow_dialled() == Some(*dialled)
        };
        if !self.0.iter().any(is_behind) || !self.was_dropped_before_it_came_again() {
            return Self::default();
        }
        let is_its = |seen: &Observation| is_behind(seen) || seen.fact == Fact::Retransmitted;
        let (taken, left) = std::mem::take(&mut self.0).into_iter().partition(is_its);
        self.0 = left;
        Self(taken)
    }

    /// What was seen before a time, and what later.
    pub(super) fn split_at(self, time: Timestamp) -> (Self, Self) {
        let (before, after) = self.0.into_iter().partition(|seen| seen.at < time);
        (Self(before), Self(after))
    }

    /// When it is to be judged.
    pub(super) fn due(&self) -> Timestamp {
        let last = self.0.iter().map(|seen| seen.at).max().unwrap_or(Timestamp::MAX - SETTLE);
        let has_ended =
            self.0.iter().any(|seen| matches!(seen.fact, Fact::Failed { .. } | Fact::Rejected(_)));
        let in_vain = self.kernel_packets() >= 2 || self.was_dropped_before_it_came_again();
        last + if has_ended || in_vain { GRACE } else { SETTLE }
    }

    /// Whether a packet was dropped before the next came. What is dropped as it comes again may be the
    /// repetition alone: the first packet may wait at its destination, or for the answer's way.
    fn was_dropped_before_it_came_again(&self) -> bool {
        let dropped = self.dropped().map(|seen| seen.at).min();
        let came_again = self.0.iter().filter(|seen| seen.fact == Fact::Retransmitted);
        let came_again = came_again.map(|seen| seen.at).min();
        dropped.is_some_and(|dropped| came_again.is_some_and(|again| dropped < again))
    }

    fn dropped(&self) -> impl Iterator<Item = &Observation> {
        self.0.iter().filter(|seen| matches!(seen.fact, Fact::KernelDrop { .. }))
    }

    /// What it comes to, nothing more being added.
    pub(super) fn into_parts(mut self) -> Parts {
        self.0.sort_by_key(|seen| (seen.at, rank(&seen.fact)));
        let dialled = self.dialled();
        let rejections: Vec<Timestamp> = self.rejections().map(|seen| seen.at).collect();
        let mut parts = Parts { is_dialled_seen: dialled.is_some(), ..Parts::default() };
        let mut came_again: Option<&Observation> = None;
        for seen in &self.0 {
            match &seen.fact {
                Fact::Retransmitted => {
                    parts.add_lost(came_again.replace(seen));
                }
                Fact::KernelDrop { reason, .. } => {
                    let near = |at: &Timestamp| seen.at.duration_since(*at).abs() <= GRACE;
                    let manner = match rejections.iter().any(near) {
                        true => Manner::Rejected,
                        false => Manner::Dropped { reason: reason.number },
                    };
                    let dialled = seen.flow_dialled().or(dialled);
                    parts.add_dropped(
                        seen,
                        key(seen, seen.flow, dialled, manner),
                        came_again.take(),
                    );
                }
                Fact::Rejected(_) => parts.add_rejected(seen, dialled, came_again.take()),
                Fact::Failed { .. } => {
                    let (flow, end) =
                        parts.end.get_or_insert((dialled_of(seen), Evidence::default()));
                    *flow = (*flow).max(dialled_of(seen));
                    end.add(seen);
                }
                Fact::AnsweredLate | Fact::AnsweredFirst => {}
            }
        }
        parts.add_lost(came_again);
        parts.count_rejections_with_what_was_dropped();
        parts.end_all();
        parts
    }

    /// What was dialled, where that was seen.
    fn dialled(&self) -> Option<Flow> {
        let of_veth = |seen: &&Observation| !matches!(seen.fact, Fact::KernelDrop { .. });
        let on_veth = self.0.iter().filter(of_veth).map(dialled_of).max();
        on_veth.or_else(|| self.0.iter().filter_map(Observation::flow_dialled).max())
    }

    fn rejections(&self) -> impl Iterator<Item = &Observation> {
        self.0.iter().filter(|seen| matches!(seen.fact, Fact::Rejected(_)))
    }
}

impl Parts {
    /// A packet that was dropped here: its first one, or the one that came again.
    fn add_dropped(&mut self, seen: &Observation, key: Key, came_again: Option<&Observation>) {
        let evidence = self.packets.entry(key).or_default();
        let is_first_packet = came_again.is_none();
        match came_again {
            Some(again) => evidence.add(&of_this_packet(again, &key)),
            None => evidence.is_attempt(),
        }
        let of_packet = if is_first_packet { seen.clone() } else { of_this_packet(seen, &key) };
        evidence.add(&of_packet);
        if key.dialled.is_none() {
            // All its packets have this destination.
            evidence.is_attempt();
        }
    }

    fn add_rejected(
        &mut self,
        seen: &Observation,
        dialled: Option<Flow>,
        came_again: Option<&Observation>,
    ) {
        let flow = dialled_of(seen);
        let evidence = self.packets.entry(key(seen, flow, dialled, Manner::Rejected)).or_default();
        if let Some(again) = came_again {
            evidence.add(again);
        }
        evidence.is_attempt();
        evidence.add(seen);
    }

    /// A packet that came again and was not seen to be dropped.
    fn add_lost(&mut self, came_again: Option<&Observation>) {
        let Some(seen) = came_again else { return };
        let (_, evidence) =
            self.lost.get_or_insert_with(|| (dialled_of(seen), Evidence::default()));
        evidence.is_attempt();
        evidence.add(seen);
    }

    /// A rule that rejects frees the packet as well: that is one.
    fn count_rejections_with_what_was_dropped(&mut self) {
        let of_filter = |key: &&Key| key.manner == Manner::Rejected && key.dialled.is_some();
        let dropped = self.packets.keys().filter(of_filter).copied().next_back();
        let Some(dropped) = dropped else { return };
        let as_dialled = dropped.dialled.map(|dialled| dropped.flow.to(dialled));
        let as_dialled = as_dialled.map(|flow| Key { flow, dialled: None, ..dropped });
        if let Some(rejected) = as_dialled.and_then(|key| self.packets.remove(&key)) {
            self.packets.entry(dropped).or_default().merge_same(rejected);
        }
    }

    /// The connect's end is that of all its packets.
    fn end_all(&mut self) {
        let Some((_, end)) = &self.end else { return };
        let lost = self.lost.iter_mut().map(|(_, evidence)| evidence);
        for evidence in self.packets.values_mut().chain(lost) {
            evidence.ended_with(end);
            evidence.has_one_that_ended(end, evidence.last());
        }
    }
}

/// The order of signs of the same moment: a packet is seen on its veth before it is dropped.
const fn rank(fact: &Fact) -> u8 {
    match fact {
        Fact::Retransmitted => 0,
        Fact::KernelDrop { .. } => 1,
        Fact::Rejected(_) => 2,
        Fact::Failed { .. } | Fact::AnsweredLate | Fact::AnsweredFirst => 3,
    }
}

fn dialled_of(seen: &Observation) -> Flow {
    seen.flow_dialled().unwrap_or(seen.flow)
}

fn key(seen: &Observation, flow: Flow, dialled: Option<Flow>, manner: Manner) -> Key {
    let dialled = dialled.filter(|dialled| *dialled != flow);
    let dialled: Option<(IpAddr, u16)> = dialled.map(|to| (to.destination, to.port));
    Key { flow, dialled, manner, foreign: seen.sender.foreign() }
}

/// The same without what is known of the attempt's first packet, which another backend may have got.
fn of_this_packet(seen: &Observation, key: &Key) -> Observation {
    let first = if key.dialled.is_some() { seen.at } else { seen.first };
    Observation { first, ..seen.clone() }
}
