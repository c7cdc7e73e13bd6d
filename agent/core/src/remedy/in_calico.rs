//! A remedy as a `NetworkPolicy` of Calico's, last in the tier whose end denies the flow: what no rule
//! of the tier decides is all that it can let pass, and every rule that denies stays in force.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString};

use super::{Opening, nodes_addresses, selection::pod_labels};
use crate::{
    cluster::resolve::Holder,
    diagnosis::Situation,
    flow::Direction,
    policy::{
        DEFAULT_TIER,
        calico::{
            Group,
            wire::{CalicoPolicy, Spec, WireEntity, WireRule},
        },
        expression::Expression,
        given_label,
        requirement::Requirement,
        selector::Selector,
    },
};

/// What the names of policies in a tier begin with: as stored, always with the tier; for Calico's API
/// server, only where the tier is another than the default one.
pub(super) fn name_prefix(opening: &Opening<'_>, group: Group) -> String {
    match (tier(opening), group) {
        (DEFAULT_TIER, Group::Api) => String::new(),
        (tier, _) => format!("{tier}."),
    }
}

fn tier<'a>(opening: &Opening<'a>) -> &'a str {
    opening.lead.layer.tier().unwrap_or(DEFAULT_TIER)
}

/// The policy that allows what is opening in one direction.
pub(super) fn policy(opening: &Opening<'_>, name: String) -> Option<CalicoPolicy> {
    let other = other_end(opening)?;
    let rules = opening.ports.iter().map(|(port, protocol)| {
        let on_port = |end: WireEntity| {
            let ports = Some(vec![IntOrString::Int(i32::from(*port))]);
            Some(WireEntity { ports, ..end })
        };
        let (source, destination) = match opening.direction {
            Direction::Egress => (None, on_port(other.clone())),
            Direction::Ingress => (Some(other.clone()), on_port(WireEntity::default())),
        };
        WireRule {
            action: Some("Allow".to_owned()),
            protocol: Some(IntOrString::String(protocol.to_string())),
            source,
            destination,
            ..WireRule::default()
        }
    });
    let rules = Some(rules.collect());
    let (ingress, egress) = match opening.direction {
        Direction::Ingress => (rules, None),
        Direction::Egress => (None, rules),
    };
    let accounts = opening.lead.subject.accounts.as_ref();
    Some(CalicoPolicy {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(opening.pod.namespace.to_string()),
            ..ObjectMeta::default()
        },
        spec: Spec {
            tier: Some(tier(opening).to_owned()).filter(|tier| tier != DEFAULT_TIER),
            selector: Some(selector_of_pod(opening)),
            service_account_selector: accounts
                .filter(|accounts| !accounts.selector.is_everything())
                .map(|accounts| accounts.selector.to_string()),
            types: Some(vec![opening.policy_type().to_owned()]),
            ingress,
            egress,
            ..Spec::default()
        },
    })
}

/// Selects the pod, and only pods that the policy that leads selects already: a new policy must not
/// put a pod into a tier that it was not in.
fn selector_of_pod(opening: &Opening<'_>) -> String {
    let mut parts = labels(opening, opening.pod);
    for part in parts_of(&opening.lead.subject.pods) {
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    all_of(parts)
}

/// The other end, as closely as labels or its address can say.
fn other_end(opening: &Opening<'_>) -> Option<WireEntity> {
    let of_addresses = |addresses: Vec<IpAddr>| {
        // A rule holds networks of one family.
        let family = addresses.into_iter().filter(|a| opening.other.may_be_of_family(*a));
        let nets = family.map(|address| IpNet::from(address).to_string()).collect();
        Some(WireEntity { nets: Some(nets), ..WireEntity::default() })
    };
    match &opening.other.holder {
        Holder::Pod(peer) => {
            let is_elsewhere = peer.namespace != opening.pod.namespace;
            let by_name = Requirement::equals(given_label::NAME, peer.namespace.clone());
            Some(WireEntity {
                selector: Some(all_of(labels(opening, peer))),
                namespace_selector: is_elsewhere.then(|| Expression::Label(by_name).to_string()),
                ..WireEntity::default()
            })
        }
        Holder::Node(node) if matches!(opening.situation, Some(Situation::Probe(_))) => {
            of_addresses(nodes_addresses(node, opening.other.address))
        }
        Holder::Node(_) | Holder::SecondNetwork(..) | Holder::Outside => {
            of_addresses(vec![opening.other.address?])
        }
        Holder::Service(_) | Holder::Hidden(_) | Holder::Unknown(_) => None,
    }
}

/// The labels that stand for a pod.
fn labels(opening: &Opening<'_>, pod: &crate::cluster::object::Pod) -> Vec<Expression> {
    let labels = pod_labels(opening.snapshot, pod).into_iter();
    labels.map(|(key, value)| Expression::Label(Requirement::equals(key, value))).collect()
}

/// What a selector asks for, whichever language it is in.
fn parts_of(selector: &Selector) -> Vec<Expression> {
    match selector.expression() {
        Some(expression) => expression.conjuncts().to_vec(),
        None => selector.requirements().iter().cloned().map(Expression::Label).collect(),
    }
}

fn all_of(mut parts: Vec<Expression>) -> String {
    match parts.len() {
        0 => Expression::All.to_string(),
        1 => parts.remove(0).to_string(),
        _ => Expression::And(parts).to_string(),
    }
}
