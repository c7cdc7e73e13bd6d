//! Examining flows that work again after policies changed: whether they still should.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use crate::{
    correlate::places::{Places, Sending},
    diagnosis::ENFORCED_WITHIN,
    flow::Flow,
};

/// How often answers are looked at after a change, and for how long: a flow that is used at all is
/// used within a minute, and a CNI that has not enforced by then will be found by the next change.
const EVERY: SignedDuration = SignedDuration::from_secs(10);
const FOR: SignedDuration = SignedDuration::from_secs(60);

/// A flow that a policy should have stopped is reported once in this time.
const REPORTED_AGAIN_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// How many flows are remembered as reported: as many as there are open drops at most.
const REPORTED_MAX: usize = 4096;

/// When to look again, and what was reported already.
#[derive(Debug, Default)]
pub(super) struct Recheck {
    changed: Option<Timestamp>,
    next: Option<Timestamp>,
    reported: HashMap<Flow, Timestamp>,
    places: Places<Flow>,
}

impl Recheck {
    /// Policies or what they select by changed.
    pub(super) fn policies_changed(&mut self, now: Timestamp) {
        self.changed = Some(now);
        self.next = Some(now + ENFORCED_WITHIN + SignedDuration::from_secs(1));
    }

    /// When to look next.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.next
    }

    /// If it is time to look: since when answers are to be looked at.
    pub(super) fn due(&mut self, now: Timestamp) -> Option<Timestamp> {
        let (changed, next) = (self.changed?, self.next?);
        if next > now {
            return None;
        }
        self.next = (now < changed + FOR).then(|| now + EVERY);
        Some((changed + ENFORCED_WITHIN).max(now - EVERY))
    }

    /// Whether a flow that should not work has not been reported lately.
    pub(super) fn is_news(&mut self, flow: Flow, now: Timestamp) -> bool {
        let places = &mut self.places;
        self.reported.retain(|flow, at| {
            let stays = now.duration_since(*at) < REPORTED_AGAIN_AFTER;
            if !stays {
                places.remove(flow);
            }
            stays
        });
        if self.reported.contains_key(&flow) {
            return false;
        }
        let party = Sending::of_answer(&flow);
        // What gives way may be reported again before its time, which is no loss.
        if self.reported.len() >= REPORTED_MAX
            && let Some(other) = places.way_for_all(&party)
        {
            places.remove(&other);
            self.reported.remove(&other);
        }
        places.insert(flow, party);
        self.reported.insert(flow, now);
        true
    }
}
