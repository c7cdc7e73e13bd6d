//! Cutting drops where what explains their packets changes, so that a report has packets of one cause.
//!
//! What came before is reported once all of it is known, and what came after it right after that.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use jiff::Timestamp;

use super::{
    COPIES, Correlator, Drop, DropId, GRACE, OPEN_MAX,
    attempt::Signs,
    key::Key,
    open::{Cut, Open},
};
use crate::flow::Flow;

/// Where flows were cut lately: attempts that are pending are cut as they are judged.
#[derive(Debug, Default)]
pub(super) struct Cuts(HashMap<Flow, BTreeSet<Cut>>);

impl Cuts {
    /// In place of those that are yet to come.
    fn insert(&mut self, flow: &Flow, cut: Cut, now: Timestamp) {
        if self.0.len() < OPEN_MAX {
            let cuts = self.0.entry(*flow).or_default();
            cuts.retain(|known| known.at <= now);
            cuts.insert(cut);
        }
    }

    /// Forgets those that no pending attempt may be of.
    pub(super) fn forget(&mut self, now: Timestamp) {
        self.0.retain(|_, cuts| {
            cuts.retain(|cut| now.duration_since(cut.at) <= COPIES);
            !cuts.is_empty()
        });
    }

    /// Those of an attempt's flows, the earliest first.
    pub(super) fn of(&self, signs: &Signs) -> BTreeSet<Cut> {
        // What others send in the name of a flow, no policy of its own explains.
        let own = signs.flows().filter(|_| signs.foreign().is_none());
        own.filter_map(|flow| self.0.get(&flow)).flatten().copied().collect()
    }
}

impl Correlator {
    /// The flows that have packets which no report has yet, with what was dialled for each where that
    /// differs.
    pub fn unreported(&self) -> BTreeSet<(Flow, Option<(IpAddr, u16)>)> {
        let open = self.open.iter().filter(|(key, open)| key.foreign.is_none() && open.has_news());
        let open = open.map(|(key, _)| (key.flow, key.dialled));
        let pending = self.pending.iter().filter(|(attempt, _)| attempt.foreign.is_none());
        let pending = pending.flat_map(|(_, pending)| pending.signs.failing_flows());
        open.chain(pending).collect()
    }

    /// What explains the packets of a flow changes: those before are reported by themselves, soon, and those
    /// after it as soon as they are.
    pub fn cut(&mut self, flow: &Flow, cut: Cut, now: Timestamp) {
        self.cuts.insert(flow, cut, now);
        let keys: Vec<Key> = self.open_of.as_is(&(*flow, None)).collect();
        for key in &keys {
            if let Some(open) = self.open.get_mut(key) {
                open.withdraw(now);
            }
        }
        self.cut_all(&keys, cut);
    }

    /// Whether a flow is to be cut later than now.
    pub fn is_cut_later(&self, flow: &Flow, now: Timestamp) -> bool {
        let cuts = self.cuts.0.get(flow);
        cuts.is_some_and(|cuts| cuts.last().is_some_and(|last| last.at > now))
    }

    /// The flows that are open, each with when its first packet was seen.
    pub fn going_on(&self) -> impl Iterator<Item = (Flow, Timestamp)> {
        let own = self.open.iter().filter(|(key, _)| key.foreign.is_none());
        own.map(|(key, open)| (key.flow, open.drop.evidence.first()))
    }

    /// A pod at an end of a flow has ended at this time: what is open of it is over, and what came since
    /// is a drop of its own.
    pub fn end(&mut self, flow: &Flow, at: Timestamp) {
        let is_of_before = |open: &Open| open.drop.evidence.first() < at;
        let own = (*flow, None);
        let keys = self.open_of.as_is(&own);
        let keys = keys.filter(|key| self.open.get(key).is_some_and(is_of_before));
        for key in keys.collect::<Vec<_>>() {
            let after = self.open.get_mut(&key).and_then(|open| open.take_since(at));
            self.close_with_news(&key);
            if let Some(evidence) = after {
                let id = DropId::of_key(&key, evidence.first());
                let Key { flow, dialled, manner, foreign } = key;
                let due = evidence.last() + GRACE;
                let drop = Drop { id, flow, dialled, foreign, evidence, reported_packets: 0 };
                self.open(drop, manner, due);
            }
        }
    }

    /// Cuts these drops, if they have what no report had yet.
    pub(super) fn cut_all(&mut self, keys: &[Key], cut: Cut) {
        for key in keys {
            if let Some(open) = self.open.get_mut(key) {
                open.cut(cut);
                self.attend_when_due(key);
            }
        }
    }
}
