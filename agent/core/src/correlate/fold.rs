//! Sources and senders with too many flows to keep apart.

use std::net::IpAddr;

use jiff::Timestamp;

use super::{
    Correlator, Drop, Folded, OPEN_MAX, REPORT_INTERVAL, SETTLE, key::Key, party_of, places::SentOf,
};
use crate::observation::{AttemptId, Fact, Observation};

impl Correlator {
    /// Of one source, or of one sender in others' names or from outside.
    pub(super) fn fold(&mut self, observation: &Observation) {
        let source = match party_of(observation).of {
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
        // What arrived was not dropped by a filter: a scan of closed ports is no news.
        if observation.delivered {
            return self.shed(observation);
        }
        let dropped = matches!(observation.fact, Fact::KernelDrop { .. });
        self.add_folded(
            (observation.sender.interface, source),
            Folded {
                source: observation.flow.source,
                sender: observation.sender.is_spoofed().then_some(observation.sender.interface),
                example: observation.flow,
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
        if evidence.delivered {
            self.account.shed += evidence.kernel_packets();
            return;
        }
        self.add_folded(
            (evidence.sender.interface, None),
            Folded {
                source: drop.flow.source,
                sender: evidence.sender.is_spoofed().then_some(evidence.sender.interface),
                example: drop.flow,
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
        let Some(first) = pending.signs.first().cloned() else { return };
        let packets = pending.signs.kernel_packets();
        if first.delivered {
            self.account.shed += packets;
            return;
        }
        self.add_folded(
            (first.sender.interface, None),
            Folded {
                source: first.flow.source,
                sender: first.sender.is_spoofed().then_some(first.sender.interface),
                example: first.flow,
                attempts: 1,
                packets,
                first: first.first,
                last: first.at,
            },
        );
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

    fn add_folded(&mut self, of: (u32, Option<IpAddr>), more: Folded) {
        // As many as there are senders, and sources with that many flows each.
        if !self.folded.contains_key(&of) && self.folded.len() >= OPEN_MAX {
            self.account.shed += more.packets;
            return;
        }
        self.account.folded += more.packets;
        match self.folded.get_mut(&of) {
            Some(folded) => {
                if folded.source != more.source {
                    folded.sender = Some(of.0);
                }
                folded.attempts += more.attempts;
                folded.packets += more.packets;
                folded.first = folded.first.min(more.first);
                folded.last = folded.last.max(more.last);
            }
            None => {
                self.folded.insert(of, more);
            }
        }
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
