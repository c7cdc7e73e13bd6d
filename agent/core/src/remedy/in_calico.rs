//! A remedy as a `NetworkPolicy` of Calico's, last in the tier whose end denies the flow: what no rule
//! of the tier decides is all that it can let pass, and every rule that denies stays in force.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString};

use super::opening::{Opening, Other};
use crate::{
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

fn tier<'o>(opening: &'o Opening<'_>) -> &'o str {
    opening.lead.layer.tier().unwrap_or(DEFAULT_TIER)
}

/// The policy that allows what is opening in one direction.
pub(super) fn policy(opening: &Opening<'_>, name: String) -> CalicoPolicy {
    let others: Vec<_> =
        opening.others.iter().flat_map(|other| entities(&opening.pod.namespace, other)).collect();
    let pairs = opening.ports.iter().flat_map(|port| others.iter().map(move |other| (port, other)));
    let rules = pairs.map(|((port, protocol), other)| {
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
    CalicoPolicy {
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
    }
}

/// Selects the pod, and only pods that the policy that leads selects already: a new policy must not
/// put a pod into a tier that it was not in.
fn selector_of_pod(opening: &Opening<'_>) -> String {
    let mut parts = labels(&opening.labels);
    for part in parts_of(&opening.lead.subject.pods) {
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    all_of(parts)
}

/// Other ends, as closely as labels or addresses can say, in rules of one address family each: a
/// rule holds networks of no more.
fn entities(own: &str, other: &Other) -> Vec<WireEntity> {
    match other {
        Other::Addresses(addresses) => {
            let of_family = |is_v4: bool| {
                let family = addresses.iter().filter(|address| address.is_ipv4() == is_v4);
                let nets: Vec<_> =
                    family.map(|address: &IpAddr| IpNet::from(*address).to_string()).collect();
                (!nets.is_empty()).then(|| WireEntity { nets: Some(nets), ..WireEntity::default() })
            };
            [true, false].into_iter().filter_map(of_family).collect()
        }
        Other::Pods { namespace, labels: own_labels } => {
            let is_elsewhere = **namespace != *own;
            let by_name = Requirement::equals(given_label::NAME, namespace.clone());
            vec![WireEntity {
                selector: Some(all_of(labels(own_labels))),
                namespace_selector: is_elsewhere.then(|| Expression::Label(by_name).to_string()),
                ..WireEntity::default()
            }]
        }
    }
}

/// That each of these labels is there.
fn labels(labels: &BTreeMap<String, String>) -> Vec<Expression> {
    let label = |(key, value): (&String, &String)| {
        Expression::Label(Requirement::equals(key.as_str(), value.as_str()))
    };
    labels.iter().map(label).collect()
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
