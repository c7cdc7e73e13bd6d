//! What an incident needs to know of the cluster beside who died, and what is asked for it.
//!
//! A node's agent knows its own pods. How many replicas there are elsewhere, and which Services they
//! are behind, is looked up while an incident goes on.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::affected::Party;
use crate::cluster::{
    Name, Snapshot,
    look_up::{LookUp, Sought},
};

/// How old such a fact may become before it is asked for again: twice within the time in which an
/// incident is told anew.
const FRESH: SignedDuration = SignedDuration::from_secs(30);

/// How many parties that suffer by one incident are asked about; of the others it is told what this
/// node knows.
pub(super) const PARTIES_MAX: usize = 4;

/// How many pods of a party are remembered, any of which says which Services it is behind: pods go.
pub(super) const PODS_MAX: usize = 8;

/// How many look-ups for incidents may be begun at a time, a second as a rule: a fifth of what an
/// agent may ask, so that drops, which cannot be judged without theirs, come first.
const LOOK_UPS_MAX: usize = 4;

/// Of these, what is not known or is old by now: what was never asked for first, then the eldest.
pub(super) fn to_look_up(
    snapshot: &Snapshot,
    wanted: BTreeSet<Sought>,
    now: Timestamp,
) -> Vec<Sought> {
    let asked = |sought: &Sought| snapshot.look_up_of(sought).map(|LookUp { at, .. }| *at);
    let with_time = wanted.into_iter().map(|sought| (asked(&sought), sought));
    let is_old = |at: &Option<Timestamp>| at.is_none_or(|at| now.duration_since(at) >= FRESH);
    let mut missing: Vec<_> = with_time.filter(|(at, _)| is_old(at)).collect();
    missing.sort();
    missing.into_iter().take(LOOK_UPS_MAX).map(|(_, sought)| sought).collect()
}

/// What is to be known of a party, one of whose pods is this.
pub(super) fn of(party: &Party, pod: &Name) -> impl Iterator<Item = Sought> + use<> {
    let scale = match party {
        Party::Workload(namespace, workload) if tells_its_scale(&workload.kind) => {
            Some(Sought::Scale(namespace.clone(), workload.clone()))
        }
        _ => None,
    };
    scale.into_iter().chain([Sought::ServicesOf(pod.clone())])
}

/// The kinds of workloads whose status says how many pods they have.
fn tells_its_scale(kind: &str) -> bool {
    ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"].contains(&kind)
}
