//! Policies of one remedy that select alike, as one.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort,
};

use super::Manifest;
use crate::policy::calico::wire::{CalicoPolicy, WireEntity, WireRule};

/// Adds a policy to those of a remedy: to the one that selects the same pods for the same direction,
/// else as another. Whether it became part of one.
pub(super) fn add(policies: &mut Vec<Manifest>, added: Manifest) -> bool {
    for known in policies.iter_mut() {
        let is_merged = match (known, &added) {
            (Manifest::Kubernetes(known), Manifest::Kubernetes(added)) => kubernetes(known, added),
            (Manifest::Calico(known, group), Manifest::Calico(added, other)) => {
                group == other && calico(known, added)
            }
            _ => false,
        };
        if is_merged {
            return true;
        }
    }
    policies.push(added);
    false
}

fn kubernetes(known: &mut NetworkPolicy, added: &NetworkPolicy) -> bool {
    let is_alike = known.metadata.namespace == added.metadata.namespace;
    let (Some(known), Some(added)) = (&mut known.spec, &added.spec) else { return false };
    if !is_alike
        || known.pod_selector != added.pod_selector
        || known.policy_types != added.policy_types
    {
        return false;
    }
    for rule in added.ingress.iter().flatten() {
        rule_of_kubernetes(known.ingress.get_or_insert_default(), rule.clone());
    }
    for rule in added.egress.iter().flatten() {
        rule_of_kubernetes(known.egress.get_or_insert_default(), rule.clone());
    }
    true
}

/// What a rule of either direction says.
trait Rule {
    fn halves(&mut self) -> (&mut Vec<NetworkPolicyPeer>, &mut Vec<NetworkPolicyPort>);
}

impl Rule for NetworkPolicyIngressRule {
    fn halves(&mut self) -> (&mut Vec<NetworkPolicyPeer>, &mut Vec<NetworkPolicyPort>) {
        (self.from.get_or_insert_default(), self.ports.get_or_insert_default())
    }
}

impl Rule for NetworkPolicyEgressRule {
    fn halves(&mut self) -> (&mut Vec<NetworkPolicyPeer>, &mut Vec<NetworkPolicyPort>) {
        (self.to.get_or_insert_default(), self.ports.get_or_insert_default())
    }
}

/// Adds a rule: its ends where one is for the same ports, its ports where one is for the same ends.
fn rule_of_kubernetes<R: Rule>(rules: &mut Vec<R>, mut added: R) {
    let (added_peers, added_ports) = added.halves();
    for rule in rules.iter_mut() {
        let (peers, ports) = rule.halves();
        if ports == added_ports {
            extend(peers, added_peers);
            return;
        }
        if peers == added_peers {
            extend(ports, added_ports);
            return;
        }
    }
    rules.push(added);
}

fn calico(known: &mut CalicoPolicy, added: &CalicoPolicy) -> bool {
    if known.metadata.namespace != added.metadata.namespace {
        return false;
    }
    let (known, added) = (&mut known.spec, &added.spec);
    if known.tier != added.tier
        || known.selector != added.selector
        || known.service_account_selector != added.service_account_selector
        || known.types != added.types
    {
        return false;
    }
    for rule in added.ingress.iter().flatten() {
        rule_of_calico(known.ingress.get_or_insert_default(), rule);
    }
    for rule in added.egress.iter().flatten() {
        rule_of_calico(known.egress.get_or_insert_default(), rule);
    }
    true
}

/// Adds a rule: its networks where one differs in nothing else.
fn rule_of_calico(rules: &mut Vec<WireRule>, added: &WireRule) {
    for rule in rules.iter_mut() {
        if rule == added {
            return;
        }
        if without_nets(rule) != without_nets(added) || is_v4(rule) != is_v4(added) {
            continue;
        }
        for (entity, more) in
            [(&mut rule.source, &added.source), (&mut rule.destination, &added.destination)]
        {
            let nets = entity.as_mut().and_then(|entity| entity.nets.as_mut());
            let more = more.as_ref().and_then(|entity| entity.nets.as_ref());
            if let (Some(nets), Some(more)) = (nets, more) {
                extend(nets, more);
            }
        }
        return;
    }
    rules.push(added.clone());
}

fn without_nets(rule: &WireRule) -> WireRule {
    let mut rule = rule.clone();
    for entity in [&mut rule.source, &mut rule.destination].into_iter().flatten() {
        // That there are any stays.
        if let Some(nets) = &mut entity.nets {
            nets.clear();
        }
    }
    rule
}

/// The family of its networks, which is one.
fn is_v4(rule: &WireRule) -> Option<bool> {
    let ends = [&rule.source, &rule.destination].into_iter().flatten();
    let nets = ends.filter_map(|entity: &WireEntity| entity.nets.as_ref());
    nets.flatten().next().map(|net| !net.contains(':'))
}

fn extend<T: PartialEq + Clone>(known: &mut Vec<T>, more: &[T]) {
    for one in more {
        if !known.contains(one) {
            known.push(one.clone());
        }
    }
}

/// The same policies, each with one rule: what can be added to a policy that is there.
pub(super) fn single_rules(manifest: &Manifest) -> Vec<Manifest> {
    match manifest {
        Manifest::Kubernetes(policy) => {
            let Some(spec) = &policy.spec else { return Vec::new() };
            let with =
                |change: &dyn Fn(&mut k8s_openapi::api::networking::v1::NetworkPolicySpec)| {
                    let mut policy = policy.clone();
                    policy.spec.as_mut().map(change);
                    Manifest::Kubernetes(policy)
                };
            let ingress = spec.ingress.iter().flatten();
            let egress = spec.egress.iter().flatten();
            ingress
                .map(|rule| with(&|spec| spec.ingress = Some(vec![rule.clone()])))
                .chain(egress.map(|rule| with(&|spec| spec.egress = Some(vec![rule.clone()]))))
                .collect()
        }
        Manifest::Calico(policy, group) => {
            let with = |change: &dyn Fn(&mut crate::policy::calico::wire::Spec)| {
                let mut policy = policy.clone();
                change(&mut policy.spec);
                Manifest::Calico(policy, *group)
            };
            let ingress = policy.spec.ingress.iter().flatten();
            let egress = policy.spec.egress.iter().flatten();
            ingress
                .map(|rule| with(&|spec| spec.ingress = Some(vec![rule.clone()])))
                .chain(egress.map(|rule| with(&|spec| spec.egress = Some(vec![rule.clone()]))))
                .collect()
        }
    }
}
