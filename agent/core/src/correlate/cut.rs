//! Cutting drops where what explains their packets changes, so that a report has packets of one cause.
//!
//! What came before is reported once all of it is known, and what came after it right after that.

use std::{collections::BTreeSet, net::IpAddr};

use jiff::Timestamp;

use super::{
    Correlator, Drop, Evidence, OPEN_MAX, Open, REPORT_INTERVAL, SETTLE, attempt::Signs, key::Key,
};
use crate::flow::Flow;

/// A cut, and what came after it.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) at: Timestamp,
    after: Option<Evidence>,
}

impl Cut {
    /// When all that came before it is known: attempts are judged by then.
    pub(super) fn due(&self) -> Timestamp {
        self.at + SETTLE * 2
    }

    pub(super) fn add(&mut self, evidence: Evidence) {
        match &mut self.after {
            Some(after) => after.merge(evidence),
            None => self.after = Some(evidence),
        }
    }
}

impl Open {
    /// What no report had yet, if there is any: up to a cut, and afterwards what came after it, which is
    /// news then.
    pub(super) fn report(&mut self, now: Timestamp) -> Option<Drop> {
        let report = self.news.then(|| self.drop.clone());
        if self.news {
            self.news = false;
            // What comes after a cut is not to wait for its time.
            let since = if self.cut.is_some() { now.checked_sub(REPORT_INTERVAL) } else { Ok(now) };
            self.reported_at = since.ok();
            self.drop.reported_packets = self.drop.evidence.kernel_packets();
            self.drop.evidence.was_reported();
        }
        if let Some(after) = self.cut.take().and_then(|cut| cut.after) {
            self.drop.evidence.merge(after);
            self.news = true;
        }
        match report {
            None if self.news => self.report(now),
            report => report,
        }
    }

    pub(super) fn unreported_packets(&self) -> u64 {
        let after = self.cut.as_ref().and_then(|cut| cut.after.as_ref());
        self.drop.unreported_packets() + after.map_or(0, Evidence::kernel_packets)
    }
}

impl Correlator {
    /// The flows that have packets which no report has yet, with what was dialled for each where that
    /// differs.
    pub fn unreported(&self) -> BTreeSet<(Flow, Option<(IpAddr, u16)>)> {
        let open = self.open.iter().filter(|(_, open)| open.news);
        let open = open.map(|(key, _)| (key.flow, key.dialled));
        let pending = self.pending.values().flat_map(|pending| pending.signs.dropped_flows());
        open.chain(pending).collect()
    }

    /// What explains the packets of a flow changes at this time: those before are reported by themselves,
    /// soon, and those after it as soon as they are.
    pub fn cut(&mut self, flow: &Flow, at: Timestamp) {
        if self.cuts.len() < OPEN_MAX {
            self.cuts.insert(*flow, at);
        }
        let keys: Vec<Key> = self.open_of.as_is(flow).collect();
        self.cut_all(&keys, at);
    }

    /// When what explains the packets of an attempt changed that is pending; `None`: it did not.
    pub(super) fn cut_of(&self, signs: &Signs) -> Option<Timestamp> {
        signs.flows().filter_map(|flow| self.cuts.get(&flow).copied()).max()
    }

    /// Cuts these drops, if they have what no report had yet.
    pub(super) fn cut_all(&mut self, keys: &[Key], at: Timestamp) {
        for key in keys {
            let Some(open) = self.open.get_mut(key).filter(|open| open.news) else { continue };
            let cut = open.cut.get_or_insert(Cut { at, after: None });
            let due = open.due.min(cut.due());
            self.reschedule(key, due);
        }
    }
}
