//! What an incident needs to know of the cluster beside what was dropped, and what is asked for it.
//!
//! A node's agent knows its own pods. How many replicas there are elsewhere, and which Services they
//! are behind, is looked up while an incident goes on.

use std::{collections::BTreeSet, net::IpAddr};

use jiff::{SignedDuration, Timestamp};

use super::affected::Party;
use crate::cluster::{
    Name, Snapshot,
    look_up::{LookUp, Query},
};

/// How old such a fact may become before it is asked for again: twice within the time in which an
/// incident is reported again.
const FRESH: SignedDuration = SignedDuration::from_secs(30);

/// How many parties that one incident affects are asked about; of the others what this node knows is
/// reported.
pub(super) const PARTIES_MAX: usize = 4;

/// How many pods of a party are remembered, any of which says which Services it is behind: pods go.
pub(super) const PODS_MAX: usize = 8;

/// How many look-ups for incidents may be begun at a time, a second as a rule: a fifth of what an
/// agent may ask, so that drops, which cannot be judged without theirs, come first.
const LOOK_UPS_MAX: usize = 4;

/// Of these, what is not known or is old by now: what was never asked for first, then the oldest.
pub(super) fn to_look_up(
    snapshot: &Snapshot,
    wanted: BTreeSet<Query>,
    now: Timestamp,
) -> Vec<Query> {
    let asked = |query: &Query| snapshot.look_up_of(query).map(|LookUp { at, .. }| *at);
    let with_time = wanted.into_iter().map(|query| (asked(&query), query));
    let is_old = |at: &Option<Timestamp>| at.is_none_or(|at| now.duration_since(at) >= FRESH);
    let mut missing: Vec<_> = with_time.filter(|(at, _)| is_old(at)).collect();
    missing.sort();
    missing.into_iter().take(LOOK_UPS_MAX).map(|(_, query)| query).collect()
}

/// How old it may become who is at the ends of what goes on, where they are not followed: an end is to be
/// reported within a minute or so.
const ENDS_FRESH: SignedDuration = SignedDuration::from_secs(60);

/// How many of them are looked up at a time.
const ENDS_MAX: usize = 2;

/// Of these addresses, which were looked up, those for which that was too long ago, the oldest first.
pub(super) fn ends_to_look_up(
    snapshot: &Snapshot,
    ends: BTreeSet<IpAddr>,
    now: Timestamp,
) -> Vec<Query> {
    let queries = ends.into_iter().map(Query::from);
    let asked = queries.filter_map(|query| Some((snapshot.look_up_of(&query)?.at, query)));
    let mut old: Vec<_> = asked.filter(|(at, _)| now.duration_since(*at) >= ENDS_FRESH).collect();
    old.sort();
    old.into_iter().take(ENDS_MAX).map(|(_, query)| query).collect()
}

/// What is to be known of a party, one of whose pods is this.
pub(super) fn queries_of(party: &Party, pod: &Name) -> impl Iterator<Item = Query> + use<> {
    let scale = match party {
        Party::Workload(namespace, workload) if has_scale(&workload.kind) => {
            Some(Query::Scale(namespace.clone(), workload.clone()))
        }
        _ => None,
    };
    scale.into_iter().chain([Query::ServicesOf(pod.clone())])
}

/// The kinds of workloads whose status says how many pods they have.
fn has_scale(kind: &str) -> bool {
    ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"].contains(&kind)
}
