//! Packets that the kernel counted without handing them over one by one.

use jiff::Timestamp;

use super::{
    Correlator, Drop, DropId, Evidence, Loose, PENDING_MAX, SETTLE,
    key::{Key, Manner},
    places::Sending,
    places::Way,
};
use crate::observation::{Fact, Observation};

impl Correlator {
    pub(super) fn counter(&mut self, observation: &Observation) {
        let Some(key) = self.key_of_counter(observation) else { return };
        let party = Sending::of_observation(observation);
        if let Fact::KernelDrop { .. } = observation.fact {
            let dialled = observation.flow_dialled().unwrap_or(observation.flow);
            self.counted_of.insert((dialled, key.foreign), observation.at, party);
        }
        let mut evidence = Evidence::default();
        evidence.add(observation);
        if let Some(key) = self.counted_key(&key) {
            return self.add_to_open(&key, evidence);
        }
        if !self.loose.contains_key(&key) {
            if self.is_crowded(observation, &party) {
                return self.fold(observation);
            }
            if self.sheds_new {
                return self.shed(observation);
            }
            if self.loose.len() >= PENDING_MAX {
                match self.loose_places.way(&party) {
                    Way::Gives(key) => self.give_way_loose(&key),
                    Way::None => return self.fold_all_of_sender(observation),
                }
            }
            self.loose_places.insert(key, party);
        }
        let loose = self.loose.entry(key).or_insert_with(|| Loose {
            evidence: Evidence::default(),
            // Later than the attempt of this flow that was seen, which decides.
            due: observation.at + SETTLE * 2,
        });
        loose.evidence.merge(evidence);
    }

    /// What counted packets are of. That connects end names no packet; and what is sent again, of a flow
    /// whose packets are seen to be dropped here or at a backend, says no more than those.
    fn key_of_counter(&self, observation: &Observation) -> Option<Key> {
        let Observation { flow, dialled, .. } = *observation;
        let foreign = observation.sender.foreign();
        let manner = match &observation.fact {
            Fact::KernelDrop { reason, .. } => Manner::Dropped { reason: reason.number },
            Fact::Rejected(_) => Manner::Rejected,
            Fact::Retransmitted if !self.open_of.is_dropped(&(flow, foreign)) => {
                Manner::Lost { has_arrived: observation.delivered }
            }
            _ => return None,
        };
        let dialled = dialled.filter(|_| !manner.is_lost());
        Some(Key { flow, dialled, manner, foreign })
    }

    /// The open drop that counted packets are of: of those of the flow that may count them, the one in
    /// which something was seen last.
    fn counted_key(&self, of: &Key) -> Option<Key> {
        let may_count = |key: &Key, evidence: &Evidence| match of.manner {
            Manner::Lost { .. } => key.manner.is_lost(),
            Manner::Rejected => key.manner == Manner::Rejected,
            Manner::Dropped { reason } => {
                let is_dialled = of.dialled.is_none() || of.dialled == key.dialled;
                is_dialled && (key.manner == of.manner || evidence.has_reason(reason))
            }
        };
        let flow = of.own();
        let own = self.open_of.as_is(&flow);
        let own = own.filter_map(|key| Some((key, &self.open.get(&key)?.drop.evidence)));
        let own = own.filter(|(key, evidence)| may_count(key, evidence));
        // Of the same time, silence: it is what counters count.
        let latest = own
            .max_by_key(|(key, evidence)| (evidence.last(), key.manner != Manner::Rejected, *key));
        latest.map(|(key, _)| key)
    }

    /// Counters without an attempt that was seen: of an answered flow, or their event was lost.
    pub(super) fn settle_loose(&mut self, key: &Key, now: Timestamp) {
        let Some(loose) = self.loose.remove(key) else { return };
        self.loose_places.remove(key);
        let (Key { flow, dialled, manner, foreign }, evidence) = (*key, loose.evidence);
        if let Some(key) = self.counted_key(key) {
            self.add_to_open(&key, evidence);
        } else if self.forgiven.contains(&key.own()) {
            self.account.recovered += evidence.kernel_packets();
        } else if !manner.is_lost() || !self.open_of.is_dropped(&key.own()) {
            let id = DropId::of_key(key, evidence.first());
            let drop = Drop { id, flow, dialled, foreign, evidence, reported_packets: 0 };
            self.open(drop, manner, now);
        }
    }
}
