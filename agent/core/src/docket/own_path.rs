//! Looking after the agent's own path: what it must reach, and whether something cuts it off.
//!
//! The agent is in its node's network, where the policies of most CNIs select nobody: what can cut it
//! off is a policy over the pods that it connects to, and one over the node itself (Calico's host
//! endpoints, a host firewall), which is not read. The first is judged by the policies, the second
//! shows by connections of this node that are dropped here.

use std::{net::IpAddr, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::action::{Action, CutBy};
use crate::{
    cluster::Snapshot,
    correlate::Drop,
    diagnosis::{Diagnosis, to_look_up},
    flow::Flow,
    own_path::{Destination, case, cut_off},
    policy::PolicyRef,
};

/// How often the policies are asked: they change seldom, and it takes a few microseconds.
const EVERY: SignedDuration = SignedDuration::from_mins(1);

/// How soon again, where something has to be looked up first.
const LOOKED_UP_WITHIN: SignedDuration = SignedDuration::from_secs(5);

/// Connections that keep being dropped are reported again in this time.
const REPORTED_AGAIN_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// What is watched, and what was reported of it.
#[derive(Debug)]
pub(super) struct OwnPath {
    watched: Vec<Watched>,
    next: Option<Timestamp>,
}

#[derive(Debug)]
struct Watched {
    destination: Destination,
    /// The policies that cut it off, as reported.
    cut: Option<Cut>,
    /// When it was reported that connections to it are dropped.
    dropped: Option<Timestamp>,
}

/// What makes one cut another: which policy leads, and why.
#[derive(Debug, PartialEq, Eq)]
struct Cut {
    policy: Option<PolicyRef>,
    why: String,
}

impl Cut {
    fn of(diagnosis: &Diagnosis) -> Self {
        let policy = diagnosis.cause.policy.as_ref().map(|policy| policy.reference.clone());
        Self { policy, why: diagnosis.cause.text.clone() }
    }
}

impl OwnPath {
    pub(super) fn to(destinations: Vec<Destination>) -> Self {
        let watched = |destination: Destination| Watched { destination, cut: None, dropped: None };
        Self { watched: destinations.into_iter().map(watched).collect(), next: None }
    }

    /// Policies, or what they select by, changed.
    pub(super) fn policies_changed(&mut self) {
        self.next = None;
    }

    /// Asks the policies, if it is time to, and says what has changed.
    pub(super) fn check(
        &mut self,
        node: &Arc<str>,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Vec<Action> {
        if self.watched.is_empty() || self.next.is_some_and(|next| now < next) {
            return Vec::new();
        }
        let mut next = now + EVERY;
        let (mut actions, mut is_free_again) = (Vec::new(), false);
        for Watched { destination, cut, .. } in &mut self.watched {
            let Some(source) = own_address(node, snapshot, destination.address.ip()) else {
                continue;
            };
            let case = case(source, destination.address);
            let missing = to_look_up(snapshot, &case, now);
            if !missing.is_empty() {
                next = now + LOOKED_UP_WITHIN;
                actions.push(Action::LookUp(missing));
                continue;
            }
            let diagnosis = cut_off(snapshot, &case);
            let found = diagnosis.as_ref().map(Cut::of);
            if *cut == found {
                continue;
            }
            *cut = found;
            match diagnosis {
                Some(diagnosis) => {
                    let by = CutBy::Policies(Box::new(diagnosis));
                    actions.push(Action::CutOff { destination: destination.clone(), by });
                }
                None => is_free_again = true,
            }
        }
        self.next = Some(next);
        actions.extend(is_free_again.then_some(Action::Reconnected));
        actions
    }

    /// Says so where a drop is of a connection of this node to what the agent must reach: its own,
    /// as a rule.
    pub(super) fn dropped(
        &mut self,
        drop: &Drop,
        diagnosis: &Diagnosis,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Option<Action> {
        if !snapshot.node_facts().is_local(drop.flow.source) {
            return None;
        }
        let Flow { destination, port, .. } = drop.flow;
        let dialled = drop.dialled.unwrap_or((destination, port));
        let watched = self.watched.iter_mut().find(|watched| {
            let address = watched.destination.address;
            let own = (address.ip(), address.port());
            own == (destination, port) || own == dialled
        })?;
        let is_news = |at: Timestamp| now.duration_since(at) >= REPORTED_AGAIN_AFTER;
        if watched.cut.is_some() || !watched.dropped.is_none_or(is_news) {
            return None;
        }
        watched.dropped = Some(now);
        let by = if diagnosis.cause.class.is_denial() {
            CutBy::Policies(Box::new(diagnosis.clone()))
        } else {
            let dropped = drop.evidence.kernel_drop().map(|drops| drops.reason.clone());
            CutBy::Unexplained { dropped }
        };
        Some(Action::CutOff { destination: watched.destination.clone(), by })
    }
}

/// An address of this node, of the family of another.
fn own_address(node: &Arc<str>, snapshot: &Snapshot, other: IpAddr) -> Option<IpAddr> {
    let is_of_family = |address: &IpAddr| address.is_ipv4() == other.is_ipv4();
    let of_node = snapshot.node(node).and_then(|node| node.listed_addresses().find(is_of_family));
    of_node.or_else(|| snapshot.node_facts().local_addresses().find(is_of_family))
}
