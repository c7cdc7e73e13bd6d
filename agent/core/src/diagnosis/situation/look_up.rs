//! What shows a situation, where the cluster is too large to be listed.

use std::sync::Arc;

use super::callers::is_api_server;
use crate::{
    cluster::{
        Snapshot, api_server,
        look_up::Query,
        object::Pod,
        resolve::{Endpoint, Holder},
    },
    diagnosis::{Case, Fate},
    flow::{Direction, Protocol},
};

/// What to look up so that a drop's situation shows: between a pod that policies govern and who is no
/// pod, where the API servers are; of what comes in from there, the Services that the pod is behind, and, from
/// an API server, what it calls.
///
/// Of anything else, and of what was answered, nothing: a flow that passes is in none.
pub(in crate::diagnosis) fn to_look_up(snapshot: &Snapshot, case: &Case<'_>) -> Vec<Query> {
    if !matches!(case.fate, Fate::Dropped(_)) || case.flow.protocol != Protocol::Tcp {
        return Vec::new();
    }
    let ends = [case.flow.source, case.flow.destination];
    let [source, destination] = ends.map(|address| snapshot.resolve(address, case.at));
    let api_servers = Query::Service(api_server::service_name());
    if governed(snapshot, &source, Direction::Egress).is_some() && is_no_pod(&destination) {
        return vec![api_servers];
    }
    let pod = governed(snapshot, &destination, Direction::Ingress);
    let Some(pod) = pod.filter(|_| is_no_pod(&source)) else { return Vec::new() };
    if pod.probes.iter().any(|probe| probe.port == case.flow.port) && is_own_node(&source, pod) {
        // The kubelet's.
        return Vec::new();
    }
    let of_pod = Query::ServicesOf((pod.namespace.clone(), pod.name.clone()));
    let mut queries = vec![api_servers, of_pod];
    if is_api_server(snapshot, &source) {
        queries.push(Query::Callers);
    }
    queries
}

/// The pod at an end, if a policy may govern it in this direction.
fn governed<'a>(
    snapshot: &Snapshot,
    end: &'a Endpoint,
    direction: Direction,
) -> Option<&'a Arc<Pod>> {
    let pod = end.pod()?;
    let labels = snapshot.namespace(&pod.namespace).map(|namespace| &namespace.labels);
    let policies = snapshot.policies().candidates(&pod.namespace, &pod.labels, labels);
    policies.iter().any(|policy| policy.rules(direction).is_some()).then_some(pod)
}

/// Whether an end is known to be no pod, and to be nothing by its address alone.
fn is_no_pod(end: &Endpoint) -> bool {
    matches!(end.holder, Holder::Node(_) | Holder::Outside) && end.known_address().is_none()
}

fn is_own_node(end: &Endpoint, pod: &Pod) -> bool {
    matches!(&end.holder, Holder::Node(node) if pod.node.as_ref() == Some(&node.name))
}
