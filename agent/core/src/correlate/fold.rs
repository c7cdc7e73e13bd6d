//! Sources and senders with too many flows to keep apart.

use std::net::IpAddr;

use jiff::Timestamp;

use super::{
    Correlator, Drop, Folded, OPEN_MAX, REPORT_INTERVAL, SETTLE,
    key::Key,
    places::{Sending, SentOf},
};
use crate::{
    flow::Flow,
    observation::{AttemptId, Fact, Observation, Sender},
};

/// What is added.
#[derive(Clone, Copy)]
struct More {
    flow: Flow,
    attempts: u64,
    packets: u64,
    first: Timestamp,
    last: Timestamp,
}

impl Correlator {
    /// Of one source, or of one sender in others' names or from outside.
    pub(super) fn fold(&mut self, observation: &Observation) {
        let source = match Sending::of_observation(observation).of {
            SentOf::Source(source) => Some(source),
            SentOf::Spoofed | SentOf::FromOutside(_) => None,
        };
        self.fold_of(observation, source);
    }

    /// Nobody has more places than this sender.
    pub(super) fn fold_all_of_sender(&mut self, observation: &Observation) {
        self.fold_of(observation, None);
    }

    fn fold_of(&mut self, observation: &Observation, source: Option<IpAddr>) {
        let dropped = matches!(observation.fact, Fact::KernelDrop { .. });
        self.add_folded(
            (&observation.sender, source),
            observation.delivered,
            More {
                flow: observation.flow,
                attempts: u64::from(observation.attempt.is_some()),
                packets: if dropped { observation.packets } else { 0 },
                first: observation.first,
                last: observation.at,
            },
        );
    }

    /// What is known of a flow for which there is no place.
    pub(super) fn fold_drop(&mut self, drop: &Drop) {
        let evidence = &drop.evidence;
        self.add_folded(
            (&evidence.sender, None),
            evidence.delivered,
            More {
                flow: drop.flow,
                attempts: evidence.attempts(),
                packets: evidence.kernel_packets(),
                first: evidence.first(),
                last: evidence.last(),
            },
        );
    }

    /// A pending attempt gives way to another sender's.
    pub(super) fn give_way(&mut self, attempt: &AttemptId) {
        self.pending_places.remove(attempt);
        let Some(pending) = self.pending.remove(attempt) else { return };
        self.due.remove(&(pending.due, *attempt));
        let packets = pending.signs.kernel_packets();
        let Some(seen) = pending.signs.first() else { return };
        let (flow, first, last) = (seen.flow, seen.first, seen.at);
        let more = More { flow, attempts: 1, packets, first, last };
        self.add_folded((&seen.sender, None), seen.delivered, more);
    }

    /// Counters that are of no open flow give way to another sender's.
    pub(super) fn give_way_loose(&mut self, key: &Key) {
        self.loose_places.remove(key);
        let Some(loose) = self.loose.remove(key) else { return };
        let Key { flow, dialled, foreign, .. } = *key;
        let id = super::DropId::of_key(key, loose.evidence.first());
        let evidence = loose.evidence;
        self.fold_drop(&Drop { id, flow, dialled, foreign, evidence, reported_packets: 0 });
    }

    /// Of a source, or of all that a sender sends; what arrived was not dropped by a filter: a scan of closed
    /// ports is no news.
    fn add_folded(&mut self, of: (&Sender, Option<IpAddr>), arrived: bool, more: More) {
        let (Sender { interface, .. }, source) = of;
        let key = (*interface, source);
        // As many as there are senders, and sources with that many flows each.
        let has_place = self.folded.contains_key(&key) || self.folded.len() < OPEN_MAX;
        if arrived || !has_place {
            self.account.shed += more.packets;
            return;
        }
        self.account.folded += more.packets;
        let More { flow, attempts, packets, first, last } = more;
        let folded = self.folded.entry(key).or_insert_with(|| Folded {
            source: flow.source,
            sender: of.0.is_spoofed().then_some(*interface),
            example: flow,
            attempts: 0,
            packets: 0,
            first,
            last,
        });
        if folded.source != flow.source {
            folded.sender = Some(*interface);
        }
        folded.attempts += attempts;
        folded.packets += packets;
        folded.first = folded.first.min(first);
        folded.last = folded.last.max(last);
    }

    pub(super) fn folded_due(&self, folded: &Folded) -> Timestamp {
        // The first fold is reported soon, the others once in an interval, all together.
        let next = self.folds_reported_at.map(|at| at + REPORT_INTERVAL);
        next.unwrap_or(Timestamp::MIN).max(folded.first + SETTLE)
    }

    pub(super) fn due_folds(&mut self, now: Timestamp) -> Vec<Folded> {
        if !self.folded.values().any(|folded| self.folded_due(folded) <= now) {
            return Vec::new();
        }
        self.drain_folds(now)
    }

    pub(super) fn drain_folds(&mut self, now: Timestamp) -> Vec<Folded> {
        self.folds_reported_at = Some(now);
        let mut folded: Vec<_> = std::mem::take(&mut self.folded).into_values().collect();
        folded.sort_by_key(|folded| (folded.source, folded.sender));
        folded
    }
}
