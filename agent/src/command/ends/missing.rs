//! What to say of an end that is not there, and of what is.

use std::{collections::BTreeSet, str::FromStr as _};

use anyhow::{Error, anyhow};
use strsim::jaro_winkler;
use whydrop_core::cluster::{
    Snapshot,
    object::{Kind, WorkloadKind},
};

use super::{suggest::there_are, written::is_kind};

/// From which likeness on, of at most 1, a name is taken for another that is misspelt.
const LIKE: f64 = 0.85;

/// There is no such pod.
pub(super) fn no_pod(snapshot: &Snapshot, namespace: Option<&str>, name: &str) -> Error {
    let Some(namespace) = namespace else { return nowhere(snapshot, "pod", name) };
    let pods = snapshot.pods_and_templates().filter(|pod| *pod.namespace == *namespace);
    let names = pods.map(|pod| &*pod.name);
    absent(snapshot, "pod", namespace, name, &there_are(name, names))
}

/// There is no such Service.
pub(super) fn no_service(snapshot: &Snapshot, namespace: Option<&str>, name: &str) -> Error {
    let Some(namespace) = namespace else { return nowhere(snapshot, "Service", name) };
    let services = snapshot.services().filter(|service| *service.namespace == *namespace);
    let names = services.map(|service| &*service.name);
    absent(snapshot, "Service", namespace, name, &there_are(name, names))
}

/// There is no such workload.
pub(super) fn no_workload(
    snapshot: &Snapshot,
    kind: WorkloadKind,
    namespace: Option<&str>,
    name: &str,
) -> Error {
    let noun = kind.to_string();
    let Some(namespace) = namespace else { return nowhere(snapshot, &noun, name) };
    let workloads = workloads(snapshot).into_iter();
    let of_kind = workloads.filter(|(of, place, _)| *of == kind && place == namespace);
    let names: Vec<String> = of_kind.map(|(.., name)| name).collect();
    let there = there_are(name, names.iter().map(String::as_str));
    absent(snapshot, &noun, namespace, name, &there)
}

/// There is no such node.
pub(super) fn no_node(snapshot: &Snapshot, name: &str) -> Error {
    if let Some(why) = snapshot.sync().unreadable_in_cluster(Kind::Node) {
        return anyhow!("the nodes are unknown: {why}; name the address of node {name}");
    }
    let names = snapshot.nodes().map(|node| &*node.name);
    anyhow!("no node {name}{}", there_are(name, names))
}

/// A name that is not the cluster's.
pub(super) fn no_name(text: &str) -> Error {
    anyhow!(
        "{text} is no name of the cluster's DNS (SERVICE.NAMESPACE.svc) and no pod: of what is outside, \
         name the address"
    )
}

/// Nothing of this name in a namespace: what else it may be, or what there is.
fn absent(snapshot: &Snapshot, noun: &str, namespace: &str, name: &str, there: &str) -> Error {
    let others = others(snapshot, noun, namespace, name);
    if !others.is_empty() {
        let others = others.join(", and ");
        return anyhow!(
            "no {noun} {name} in namespace {namespace}; {namespace}/{name} is {others}"
        );
    }
    if !has_namespace(snapshot, namespace) {
        let like = like_namespace(snapshot, namespace);
        let like = like.map(|like| format!("; is it {like}?")).unwrap_or_default();
        return anyhow!(
            "no {noun} {name} in namespace {namespace}, of which nothing is known{like}"
        );
    }
    anyhow!("no {noun} {name} in namespace {namespace}{there}")
}

/// Nothing of this name in any namespace.
fn nowhere(snapshot: &Snapshot, noun: &str, name: &str) -> Error {
    let everywhere = namespaces(snapshot);
    let others = everywhere.iter().flat_map(|namespace| others(snapshot, noun, namespace, name));
    let others: Vec<String> = others.collect();
    match others.is_empty() {
        true => anyhow!("no {noun} {name} in any namespace"),
        false => anyhow!("no {noun} {name} in any namespace; {name} is {}", others.join(", and ")),
    }
}

/// What else has this name in a namespace, and how it is written: `a Service: pulp/svc/page`.
fn others(snapshot: &Snapshot, noun: &str, namespace: &str, name: &str) -> Vec<String> {
    let mut others = Vec::new();
    if noun != "pod" && snapshot.pod(namespace, name).is_some() {
        // Such as one of namespace `job`.
        let pod = if is_kind(namespace) { "pod/" } else { "" };
        others.push(format!("a pod: {namespace}/{pod}{name}"));
    }
    if noun != "Service" && snapshot.service(namespace, name).is_some() {
        others.push(format!("a Service: {namespace}/svc/{name}"));
    }
    for (kind, of, workload) in workloads(snapshot) {
        if of == namespace && workload == name && noun != kind.to_string() {
            others.push(format!("a {kind}: {namespace}/{}/{name}", kind.short()));
        }
    }
    others
}

/// All workloads that are known: by their objects, and by their pods.
fn workloads(snapshot: &Snapshot) -> BTreeSet<(WorkloadKind, String, String)> {
    let templates = snapshot.templates().map(|template| {
        (template.kind, template.pod.namespace.to_string(), template.name.to_string())
    });
    let of_pods = snapshot.pods().filter_map(|pod| {
        let workload = pod.workload.as_ref()?;
        let kind = WorkloadKind::from_str(&workload.kind).ok()?;
        Some((kind, pod.namespace.to_string(), workload.name.to_string()))
    });
    templates.chain(of_pods).collect()
}

/// Whether anything is known of a namespace.
pub(super) fn has_namespace(snapshot: &Snapshot, name: &str) -> bool {
    snapshot.namespace(name).is_some()
        || snapshot.sync().unreadable(Kind::Namespace, name).is_some()
        || namespaces(snapshot).contains(name)
}

/// All namespaces that are known: by their objects, and by what is in them.
fn namespaces(snapshot: &Snapshot) -> BTreeSet<String> {
    let pods = snapshot.pods_and_templates().map(|pod| &pod.namespace);
    let services = snapshot.services().map(|service| &service.namespace);
    let policies =
        snapshot.policies().iter().filter_map(|policy| policy.reference.namespace.as_ref());
    let named = pods.chain(services).chain(policies);
    named
        .map(ToString::to_string)
        .chain(snapshot.namespaces().map(|n| n.name.to_string()))
        .collect()
}

fn like_namespace(snapshot: &Snapshot, name: &str) -> Option<String> {
    let like = namespaces(snapshot).into_iter().map(|other| (jaro_winkler(name, &other), other));
    let like = like.filter(|(likeness, _)| *likeness >= LIKE);
    like.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, other)| other)
}
