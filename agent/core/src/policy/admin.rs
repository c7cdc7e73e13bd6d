//! `policy.networking.k8s.io/v1alpha1` `AdminNetworkPolicy` and `BaselineAdminNetworkPolicy`.
//!
//! Semantics: <https://network-policy-api.sigs.k8s.io/api-overview/>.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};

use super::{
    Action, Block, Layer, Namespaces, Peer, Peers, PodPeer, Policy, PolicyKind, PortMatch,
    PortRange, Rule,
    metadata::{Header, Rules},
    network_policy::{network, port_number, protocol},
    order::Order,
    selector::Selector,
};
use crate::problem::{FieldPath, Problem};

/// The group and version of both kinds.
pub const API_VERSION: &str = "policy.networking.k8s.io/v1alpha1";

/// The highest number, so the lowest precedence, that an `AdminNetworkPolicy` may have.
const PRIORITY_MAX: i32 = 1000;

/// The wire form of both kinds.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct AdminNetworkPolicy {
    pub metadata: ObjectMeta,
    pub spec: Spec,
}

/// `spec` of both kinds; a baseline has no `priority`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct Spec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    pub subject: PodsOrNamespaces,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<IngressRule>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<EgressRule>,
}

/// A subject, or a peer that is made of pods: exactly one of the fields.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct PodsOrNamespaces {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPods>,
}

/// Pods with both selectors.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct NamespacedPods {
    pub namespace_selector: LabelSelector,
    pub pod_selector: LabelSelector,
}

/// An ingress rule.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct IngressRule {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub action: String,
    pub from: Vec<PodsOrNamespaces>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
}

/// An egress rule.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct EgressRule {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub action: String,
    pub to: Vec<EgressPeer>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
}

/// An egress peer: exactly one of the fields.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct EgressPeer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPods>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub domain_names: Vec<String>,
}

/// A port: exactly one of the fields.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct Port {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_number: Option<PortNumber>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub named_port: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_range: Option<NumberRange>,
}

/// A single port.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct PortNumber {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    pub port: i32,
}

/// A range, both ends included.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct NumberRange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    pub start: i32,
    pub end: i32,
}

/// Lowers an `AdminNetworkPolicy`.
///
/// # Errors
/// The first field that the API server would refuse.
pub fn lower(policy: &AdminNetworkPolicy) -> Result<Policy, Problem> {
    let path = FieldPath::root("spec").field("priority");
    match policy.spec.priority {
        Some(priority @ 0..=PRIORITY_MAX) => {
            let order = Order::of(priority.unsigned_abs());
            lower_as(policy, PolicyKind::AdminNetworkPolicy, Layer::Admin, order)
        }
        Some(other) => Err(path.expected(format!("0 to {PRIORITY_MAX}"), other.to_string())),
        None => Err(path.expected(format!("0 to {PRIORITY_MAX}"), "none")),
    }
}

/// Lowers a `BaselineAdminNetworkPolicy`.
///
/// # Errors
/// The first field that the API server would refuse.
pub fn lower_baseline(policy: &AdminNetworkPolicy) -> Result<Policy, Problem> {
    if policy.spec.priority.is_some() {
        return Err(FieldPath::root("spec").field("priority").expected("none", "a priority"));
    }
    lower_as(policy, PolicyKind::BaselineAdminNetworkPolicy, Layer::Baseline, Order::of(0))
}

fn lower_as(
    policy: &AdminNetworkPolicy,
    kind: PolicyKind,
    layer: Layer,
    order: Order,
) -> Result<Policy, Problem> {
    let header = Header::cluster_wide(&policy.metadata, kind, API_VERSION)?;
    let path = FieldPath::root("spec");
    let spec = &policy.spec;
    let Some(subject) = pod_peer(&spec.subject, &path.field("subject"))? else {
        return Err(path.field("subject").expected("namespaces or pods", "neither"));
    };
    let ingress = rules(&spec.ingress, &path.field("ingress"), |rule, path| {
        let action = action(&rule.action, &layer, &path.field("action"))?;
        let mut peers = Vec::new();
        for (index, from) in rule.from.iter().enumerate() {
            let pods = pod_peer(from, &path.field("from").index(index))?;
            peers.push(pods.map_or_else(unknown_peer, Peer::Pods));
        }
        let peers = some_peers(peers, &path.field("from"))?;
        Ok(Rule::new(action, peers, ports(&rule.ports, &path.field("ports"))?).named(&rule.name))
    })?;
    let egress = rules(&spec.egress, &path.field("egress"), |rule, path| {
        let action = action(&rule.action, &layer, &path.field("action"))?;
        let mut peers = Vec::new();
        for (index, to) in rule.to.iter().enumerate() {
            egress_peer(to, &path.field("to").index(index), &mut peers)?;
        }
        let peers = some_peers(peers, &path.field("to"))?;
        Ok(Rule::new(action, peers, ports(&rule.ports, &path.field("ports"))?).named(&rule.name))
    })?;
    let rules = Rules { ingress: Some(ingress), egress: Some(egress) };
    Ok(header.policy((layer, order), subject, rules))
}

fn rules<T>(
    written: &[T],
    path: &FieldPath,
    lower: impl Fn(&T, &FieldPath) -> Result<Rule, Problem>,
) -> Result<Vec<Rule>, Problem> {
    written.iter().enumerate().map(|(index, rule)| lower(rule, &path.index(index))).collect()
}

fn action(text: &str, layer: &Layer, path: &FieldPath) -> Result<Action, Problem> {
    match (text, layer) {
        ("Allow", _) => Ok(Action::Allow),
        ("Deny", _) => Ok(Action::Deny),
        ("Pass", Layer::Admin) => Ok(Action::Pass),
        (other, Layer::Admin) => Err(path.expected("Allow, Deny or Pass", format!("{other:?}"))),
        (other, _) => Err(path.expected("Allow or Deny", format!("{other:?}"))),
    }
}

/// `from` and `to` have at least one element: there is no "everyone" by omission here.
fn some_peers(peers: Vec<Peer>, path: &FieldPath) -> Result<Peers, Problem> {
    if peers.is_empty() {
        return Err(path.expected("at least one peer", "none"));
    }
    Ok(Peers::AnyOf(peers))
}

/// A peer whose field this version does not know.
fn unknown_peer() -> Peer {
    Peer::Undecidable("a peer of a form that this version does not know".into())
}

fn pod_peer(peer: &PodsOrNamespaces, path: &FieldPath) -> Result<Option<PodPeer>, Problem> {
    match (&peer.namespaces, &peer.pods) {
        (Some(_), Some(_)) => Err(path.expected("namespaces or pods", "both")),
        (Some(namespaces), None) => {
            let namespaces = Selector::lower(namespaces, &path.field("namespaces"))?;
            Ok(Some(PodPeer::new(Namespaces::Selected(namespaces), Selector::EVERYTHING)))
        }
        (None, Some(pods)) => {
            let path = path.field("pods");
            let namespaces =
                Selector::lower(&pods.namespace_selector, &path.field("namespaceSelector"))?;
            let pods = Selector::lower(&pods.pod_selector, &path.field("podSelector"))?;
            Ok(Some(PodPeer::new(Namespaces::Selected(namespaces), pods)))
        }
        (None, None) => Ok(None),
    }
}

fn egress_peer(peer: &EgressPeer, path: &FieldPath, peers: &mut Vec<Peer>) -> Result<(), Problem> {
    let EgressPeer { namespaces, pods, nodes, networks, domain_names } = peer;
    let selected = PodsOrNamespaces { namespaces: namespaces.clone(), pods: pods.clone() };
    let before = peers.len();
    peers.extend(pod_peer(&selected, path)?.map(Peer::Pods));
    if let Some(nodes) = nodes {
        peers.push(Peer::Nodes(Selector::lower(nodes, &path.field("nodes"))?));
    }
    for (index, text) in networks.iter().enumerate() {
        let network = network(text, &path.field("networks").index(index))?;
        peers.push(Peer::Block(Block { network, except: Vec::new() }));
    }
    for name in domain_names {
        let what: Arc<str> = format!("the domain name {name}").into();
        peers.push(Peer::Undecidable(what));
    }
    if peers.len() == before {
        peers.push(unknown_peer());
    }
    Ok(())
}

fn ports(ports: &[Port], path: &FieldPath) -> Result<Vec<PortMatch>, Problem> {
    ports.iter().enumerate().map(|(index, entry)| port(entry, &path.index(index))).collect()
}

fn port(entry: &Port, path: &FieldPath) -> Result<PortMatch, Problem> {
    match (&entry.port_number, &entry.named_port, &entry.port_range) {
        (Some(single), None, None) => {
            let path = path.field("portNumber");
            let number = port_number(single.port, &path.field("port"))?;
            Ok(PortMatch {
                protocol: Some(protocol(single.protocol.as_deref(), &path.field("protocol"))?),
                ports: PortRange::Numbers(number, number),
            })
        }
        (None, Some(name), None) => {
            Ok(PortMatch { protocol: None, ports: PortRange::Named(name.as_str().into()) })
        }
        (None, None, Some(range)) => {
            let path = path.field("portRange");
            let first = port_number(range.start, &path.field("start"))?;
            let last = port_number(range.end, &path.field("end"))?;
            if last < first {
                return Err(path
                    .field("end")
                    .expected(format!("{first} or more"), last.to_string()));
            }
            Ok(PortMatch {
                protocol: Some(protocol(range.protocol.as_deref(), &path.field("protocol"))?),
                ports: PortRange::Numbers(first, last),
            })
        }
        _ => Err(path.expected("one of portNumber, namedPort, portRange", "none or several")),
    }
}
