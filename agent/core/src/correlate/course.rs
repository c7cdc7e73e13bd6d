//! The course of an open flow: opened, reported when it is due, closed.

use jiff::Timestamp;

use super::{
    Correlated, Correlator, Drop, Evidence, GRACE, IDLE, OPEN_MAX,
    key::{Key, Manner},
    open::Open,
    places::{Sending, Way},
};

impl Correlator {
    pub(super) fn open(&mut self, drop: Drop, manner: Manner, now: Timestamp) {
        if self.sheds_new {
            self.account.shed += drop.evidence.kernel_packets();
            return;
        }
        let Drop { flow, dialled, foreign, .. } = drop;
        let key = Key { flow, dialled, manner, foreign };
        let party = Sending::of_drop(&drop);
        let party = if manner == Manner::Rejected { party.refused() } else { party };
        if self.open.len() >= OPEN_MAX {
            match self.open_places.way(&party) {
                Way::Gives(other) => {
                    self.evicted += 1;
                    self.close_with_news(&other);
                }
                Way::None => return self.fold_drop(&drop),
            }
        }
        self.open_places.insert(key, party);
        self.open_of.insert(&key);
        let due = self.concluded.remove(&key).unwrap_or(now).max(now);
        self.open.insert(key, Open::new(drop, due));
        self.open_due.insert((due, key));
    }

    pub(super) fn add_to_open(&mut self, key: &Key, evidence: Evidence) {
        if let Some(open) = self.open.get_mut(key) {
            open.add(evidence);
            self.attend_when_due(key);
        }
    }

    /// Reports an open flow, or closes it.
    pub(super) fn attend(&mut self, key: &Key, now: Timestamp) -> Option<Drop> {
        let open = self.open.get_mut(key)?;
        let report = open.report(now);
        if open.next().is_some() {
            self.attend_when_due(key);
            return report;
        }
        if report.is_none() && now.duration_since(open.last()) >= IDLE {
            self.close(key);
            return None;
        }
        let closes = open.last() + IDLE;
        self.reschedule(key, closes.max(now + GRACE));
        report
    }

    pub(super) fn attend_when_due(&mut self, key: &Key) {
        if let Some(due) = self.open.get(key).and_then(Open::next) {
            self.reschedule(key, due);
        }
    }

    pub(super) fn close(&mut self, key: &Key) -> Option<Open> {
        let open = self.open.remove(key)?;
        self.open_due.remove(&(open.due, *key));
        self.open_of.remove(key);
        self.open_places.remove(key);
        Some(open)
    }

    /// Closes an open flow, and reports what no report had yet: when it was reported before.
    pub(super) fn close_with_news(&mut self, key: &Key) -> Option<Timestamp> {
        let open = self.close(key)?;
        let reported_at = open.reported_at;
        self.clear.extend(open.rest().into_iter().map(Correlated::Drop));
        reported_at
    }

    pub(super) fn reschedule(&mut self, key: &Key, due: Timestamp) {
        if let Some(open) = self.open.get_mut(key) {
            self.open_due.remove(&(open.due, *key));
            open.due = due;
            self.open_due.insert((due, *key));
        }
    }
}
