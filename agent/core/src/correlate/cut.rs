//! Cutting drops where what explains their packets changes, so that a report has packets of one cause.

use std::{collections::BTreeSet, net::IpAddr};

use jiff::Timestamp;

use super::{Correlated, Correlator, OPEN_MAX, attempt::Signs, key::Key};
use crate::flow::Flow;

impl Correlator {
    /// The flows that have packets which no report has yet, with what was dialled for each where that
    /// differs.
    pub fn unreported(&self) -> BTreeSet<(Flow, Option<(IpAddr, u16)>)> {
        let open = self.open.iter().filter(|(_, open)| open.news);
        let open = open.map(|(key, _)| (key.flow, key.dialled));
        let pending = self.pending.values().flat_map(|pending| pending.signs.dropped_flows());
        open.chain(pending).collect()
    }

    /// What explains the packets of a flow has changed: those before are reported now, and the first that
    /// come after it at once.
    pub fn cut(&mut self, flow: &Flow, at: Timestamp) {
        for key in self.open_of.as_is(flow).collect::<Vec<_>>() {
            self.report_now(&key);
            if let Some(open) = self.open.get_mut(&key) {
                open.reported_at = None;
            }
            self.reschedule_after_cut(&key, at);
        }
        if self.cuts.len() < OPEN_MAX {
            self.cuts.insert(*flow, at);
        }
    }

    /// When what explains the packets of an attempt changed that is pending; `None`: it did not.
    pub(super) fn cut_of(&self, signs: &Signs) -> Option<Timestamp> {
        signs.flows().filter_map(|flow| self.cuts.get(&flow).copied()).max()
    }

    /// Reports what no report of an open drop had yet.
    pub(super) fn report_now(&mut self, key: &Key) {
        let Some(open) = self.open.get_mut(key).filter(|open| open.news) else { return };
        let report = open.drop.clone();
        open.was_reported();
        self.clear.push(Correlated::Drop(report));
    }

    /// What comes next is reported at once; nothing is to be done before.
    fn reschedule_after_cut(&mut self, key: &Key, at: Timestamp) {
        let Some(open) = self.open.get(key) else { return };
        let closes = open.drop.evidence.last() + super::IDLE;
        self.reschedule(key, closes.max(at));
    }
}
