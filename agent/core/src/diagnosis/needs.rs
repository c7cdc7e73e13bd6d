//! What must be known of the cluster before a case can be judged.

use std::net::IpAddr;

use jiff::Timestamp;

use super::{Case, Fate, situation};
use crate::{
    cluster::{Name, Snapshot, look_up::Query, object::Service, resolve::Holder},
    flow::Flow,
    service::{self, Entry},
};

/// How many endpoints that are not ready are looked up: some names say which they are.
const UNREADY_MAX: usize = 8;

/// What to look up before a case can be judged: nothing where everything is listed. Of a Service
/// that nobody translated, its backends; of the policies over either end, Services that they name; and
/// what shows the situation that a drop is in.
pub fn to_look_up(snapshot: &Snapshot, case: &Case<'_>, now: Timestamp) -> Vec<Query> {
    if snapshot.knows_all_pods() {
        return Vec::new();
    }
    let dialled = case.dialled.map(|(address, _)| address);
    let ends = [Some(case.flow.source), Some(case.flow.destination), dialled];
    let mut missing: Vec<Query> = ends
        .into_iter()
        .flatten()
        .filter(|address| snapshot.is_missing(*address, case.at, now))
        .map(Query::from)
        .collect();
    let Flow { destination, port, protocol, .. } = case.flow;
    if let Some(found) = service::find(snapshot, destination, port, protocol, case.at) {
        let backends = behind(snapshot, &found.service).into_iter();
        let backends = backends.filter(|address| snapshot.is_missing(*address, case.at, now));
        missing.extend(backends.map(Query::from));
    }
    let of_rules = services_of_rules(snapshot, case).into_iter().chain(former(snapshot, case));
    let (exposed, found) = exposed(snapshot, case);
    // A Service is edited or made again under its name: a drop is judged by the one of its time.
    let of_then = of_rules.chain(found).map(|name| (Query::Service(name), case.at));
    // All that are exposed are too many to be listed with each drop: whichever of them was found is
    // looked up by its name.
    let of_late = exposed.into_iter().chain(situation::to_look_up(snapshot, case));
    let sought = of_then.chain(of_late.map(|sought| (sought, None)));
    let old = sought.filter(|(sought, then)| snapshot.is_fresh(sought, *then, now) != Some(true));
    missing.extend(old.map(|(sought, _)| sought));
    missing.sort_unstable();
    missing.dedup();
    missing
}

/// What is behind a Service: those that are ready, or, where none is, some of the others, so that it can
/// be said who they are.
fn behind(snapshot: &Snapshot, service: &Service) -> Vec<IpAddr> {
    let ready: Vec<IpAddr> = snapshot.slices(service).flat_map(|slice| slice.ready()).collect();
    if !ready.is_empty() {
        return ready;
    }
    let endpoints = snapshot.slices(service).flat_map(|slice| &slice.endpoints);
    endpoints.map(|endpoint| endpoint.address).take(UNREADY_MAX).collect()
}

/// Of what was dropped on its way to an address that no Service has any more, whether the one that had it
/// is gone.
fn former(snapshot: &Snapshot, case: &Case<'_>) -> Option<Name> {
    if !matches!(case.fate, Fate::Dropped(_)) {
        return None;
    }
    let service = service::former(snapshot, case.flow.destination, case.at)?;
    Some((service.namespace.clone(), service.name.clone()))
}

/// Of what was dropped on its way to nobody in the cluster, or to a node: whether that is a Service's
/// address or port, and which Service was found so, for what is behind it.
fn exposed(snapshot: &Snapshot, case: &Case<'_>) -> (Option<Query>, Option<Name>) {
    if !matches!(case.fate, Fate::Dropped(_)) {
        return (None, None);
    }
    let Flow { destination, port, protocol, .. } = case.flow;
    let dialled = case.dialled.unwrap_or((destination, port));
    let end = snapshot.resolve(dialled.0, case.at);
    if end.known_address().is_some() {
        return (None, None);
    }
    let service = service::find(snapshot, dialled.0, dialled.1, protocol, case.at);
    let name = service
        .filter(|found| !matches!(found.entry, Entry::Cluster))
        .map(|found| (found.service.namespace.clone(), found.service.name.clone()));
    let is_perhaps = matches!(end.holder, Holder::Outside | Holder::Node(_)) || name.is_some();
    (is_perhaps.then_some(Query::Exposed), name)
}

/// The Services that policies name which may govern one of the ends.
fn services_of_rules(snapshot: &Snapshot, case: &Case<'_>) -> Vec<Name> {
    let ends = [case.flow.source, case.flow.destination];
    let ends = ends.map(|address| snapshot.resolve(address, case.at));
    let pods = ends.iter().filter_map(|end| end.pod());
    let policies = pods.flat_map(|pod| {
        let labels = snapshot.namespace(&pod.namespace).map(|namespace| &namespace.labels);
        snapshot.policies().candidates(&pod.namespace, &pod.labels, labels)
    });
    policies
        .flat_map(|policy| {
            let services = policy.services().into_iter();
            let names = services.map(|s| (s.namespace.clone(), s.name.clone()));
            names.collect::<Vec<_>>()
        })
        .collect()
}
