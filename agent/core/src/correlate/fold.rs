//! Sources with too many flows to keep apart.

use jiff::Timestamp;

use super::{Correlator, Folded, OPEN_MAX, REPORT_INTERVAL, SETTLE};
use crate::observation::{Fact, Observation};

impl Correlator {
    pub(super) fn fold(&mut self, observation: &Observation) {
        let flow = observation.flow;
        // What arrived was not dropped by a filter: a scan of closed ports is no news.
        if observation.delivered
            || (!self.folded.contains_key(&flow.source) && self.folded.len() >= OPEN_MAX)
        {
            return self.shed(observation);
        }
        let folded = self.folded.entry(flow.source).or_insert_with(|| Folded {
            source: flow.source,
            example: flow,
            attempts: 0,
            packets: 0,
            first: observation.first,
            last: observation.at,
        });
        folded.attempts += u64::from(observation.attempt.is_some());
        folded.first = folded.first.min(observation.first);
        folded.last = folded.last.max(observation.at);
        if let Fact::KernelDrop { .. } = observation.fact {
            folded.packets += observation.packets;
            self.account.folded += observation.packets;
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
        folded.sort_by_key(|folded| folded.source);
        folded
    }
}
