//! What a remedy does, in a sentence.

use std::sync::Arc;

use super::{PAIRS_MAX, nodes, packets::Packets};
use crate::{
    cluster::{
        Snapshot,
        resolve::{Endpoint, Holder},
    },
    diagnosis::{Diagnosis, Situation},
    flow::Direction,
    policy::Policy,
};

/// How many names are listed before the others are counted.
const NAMES_MAX: usize = 4;

/// What is to be said of a remedy.
pub(super) struct Known<'a> {
    pub(super) packets: &'a Packets,
    pub(super) policies: &'a [Policy],
    /// The namespaces of which a rule names all pods.
    pub(super) wide: &'a [Arc<str>],
    /// Not all pairs of pods were judged for what else it allows.
    pub(super) is_cut: bool,
}

/// `allow frontend/pod-a to reach backend/pod-b on 8080/TCP: apply backend/allow-…`, and what is to
/// be known of it beside.
pub(super) fn summary(snapshot: &Snapshot, lead: &Diagnosis, known: &Known<'_>) -> String {
    let Known { packets, policies, wide, is_cut } = *known;
    let question = &lead.question;
    let names: Vec<_> = policies.iter().map(|policy| policy.reference.to_string()).collect();
    let mut parts =
        vec![format!("{}: apply {}", purpose(snapshot, lead, packets), names.join(" and "))];
    if let Some(Situation::Probe(_)) = lead.cause.situation {
        parts.push("or use an exec probe, which needs no rule".to_owned());
    }
    if let (Holder::Node(node), true) = (&question.source.holder, opens_ingress(lead))
        && nodes::clients(snapshot, node, question.source.address).which == nodes::Which::One
    {
        parts.push("add the network of the other nodes, which are too many to list".to_owned());
    }
    parts.extend(wide.iter().map(|namespace| {
        format!(
            "no label of these pods lasts, so the rule is for every pod of namespace {namespace}"
        )
    }));
    parts.extend(everything_selected(policies).map(|policy| {
        format!(
            "no label of its pods lasts, so {} selects every pod of its namespace",
            policy.reference
        )
    }));
    if is_cut {
        parts.push(format!("what else it allows was looked for in {PAIRS_MAX} pairs of ends"));
    }
    if !packets.untried.is_empty() {
        parts.push(format!("not tried for {}", listed(&packets.untried)));
    }
    parts.join("; ")
}

/// `allow frontend/pod-a to reach backend/pod-b on 8080/TCP`.
pub(super) fn purpose(snapshot: &Snapshot, lead: &Diagnosis, packets: &Packets) -> String {
    let question = &lead.question;
    let (port, protocol) = (question.port, question.protocol);
    let source = client(snapshot, lead);
    let destination = match &lead.service {
        Some(dialled) if packets.backends > 1 => {
            let (namespace, name) = (&dialled.service.namespace, &dialled.service.name);
            format!("all {} backends of Service {namespace}/{name}", packets.backends)
        }
        _ if packets.backends > 1 => several(packets),
        _ => question.destination.to_string(),
    };
    match lead.cause.situation {
        Some(Situation::Dns) => format!("allow {source} to ask the cluster's DNS, UDP and TCP"),
        Some(Situation::Probe(probe)) => {
            format!("allow {source} to probe ({probe}) {destination} on {port}/{protocol}")
        }
        _ => {
            let carried = lead.carried(snapshot).filter(|c| packets.required().any(|own| own == c));
            let other = carried.filter(|carried| carried.port != port);
            let other = other.map(|other| format!(" and {}/{}", other.port, other.protocol));
            let other = other.unwrap_or_default();
            format!("allow {source} to reach {destination} on {port}/{protocol}{other}")
        }
    }
}

/// Several ends that are no Service's: those of a workload, or of a name.
fn several(packets: &Packets) -> String {
    let mut workloads = packets.asked().map(|asked| {
        let pod = asked.destination.pod()?;
        Some(format!("{}/{}", pod.namespace, pod.workload.as_ref()?.name))
    });
    let first = workloads.next().flatten();
    if let Some(workload) =
        first.filter(|first| workloads.all(|other| other.as_ref() == Some(first)))
    {
        return format!("all {} pods of {workload}", packets.backends);
    }
    let mut names: Vec<String> =
        packets.asked().map(|asked| asked.destination.to_string()).collect();
    names.sort();
    names.dedup();
    listed(&names)
}

fn opens_ingress(lead: &Diagnosis) -> bool {
    lead.verdict.denied_directions().any(|direction| direction == Direction::Ingress)
}

/// Who connects. A node stands for others.
fn client(snapshot: &Snapshot, lead: &Diagnosis) -> String {
    let Endpoint { address, holder } = &lead.question.source;
    let Holder::Node(node) = holder else {
        let source = lead.question.source.to_string();
        if !address.is_some_and(|address| snapshot.is_api_server_address(address)) {
            return source;
        }
        let all = snapshot.api_server_addresses().iter().map(ToString::to_string).collect();
        return match <Vec<String>>::as_slice(&all) {
            [_] => format!("the API server ({source})"),
            several => format!("the API servers ({})", listed(several)),
        };
    };
    let clients = nodes::clients(snapshot, node, *address);
    match (clients.which, clients.names.len()) {
        (nodes::Which::One, _) | (_, 1) => format!("node {}", node.name),
        (nodes::Which::ControlPlane, _) => {
            format!("the control plane's nodes ({})", listed(&clients.names))
        }
        (nodes::Which::All, _) => format!("all nodes ({})", listed(&clients.names)),
    }
}

fn listed<T: AsRef<str>>(names: &[T]) -> String {
    let first: Vec<&str> = names.iter().take(NAMES_MAX).map(AsRef::as_ref).collect();
    match names.len() - first.len() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// The policies that select all pods of their namespace.
fn everything_selected(policies: &[Policy]) -> impl Iterator<Item = &Policy> {
    policies.iter().filter(|policy| policy.subject.pods.is_everything())
}
