//! The smallest additive rule that lets a denied flow pass, proved by judging the flow with it.
//!
//! Never the deletion of a policy, and never a rule against an explicit deny: that is its owner's.

pub mod choices;
mod gain;
mod in_calico;
mod in_kubernetes;
pub mod patch;
mod selection;

use std::{net::IpAddr, sync::Arc};

use gain::WhatIf;
use k8s_openapi::{Resource as _, api::networking::v1::NetworkPolicy};

use crate::{
    cluster::{
        Engine, Snapshot,
        object::{Namespace, Node, Pod},
        resolve::{Endpoint, Holder},
    },
    diagnosis::{Class, Diagnosis, Situation},
    flow::{Direction, Protocol},
    policy::{
        Layer, NAMESPACE_NAME_LABEL, Namespaces, Peer, Peers, Policy, PolicyKind, PolicyRef,
        calico::{self, Group, wire::CalicoPolicy},
        given_label, network_policy,
        requirement::{Operator, Requirement},
    },
    verdict::{DirectionVerdict, Question, evaluate, nearest::Lack, selects::selects},
};

/// How many pairs of pods are judged to find what else a remedy allows; beyond it the number is
/// a lower bound. At some microseconds each this stays within milliseconds.
const PAIRS_MAX: usize = 2_000;

/// The longest name that a label value or a DNS label may have.
const NAME_MAX: usize = 63;

/// What to apply.
#[derive(Clone, Debug)]
pub struct Remedy {
    /// One policy for each direction that denies.
    pub policies: Vec<Manifest>,
    /// What it does, and the other choices, in a sentence.
    pub summary: String,
    /// The flow passes with it, by the same evaluator, and nothing that passed is denied by it.
    pub verified: bool,
    /// How many other pairs of ends it newly allows, at least.
    pub newly_allowed: usize,
}

impl Remedy {
    /// The cluster with it.
    pub fn applied(&self, snapshot: &Snapshot) -> Snapshot {
        let policies = self.policies.iter().filter_map(Manifest::lower);
        policies.fold(snapshot.clone(), |with, policy| with.with_policy(policy))
    }
}

/// A policy to apply.
#[derive(Clone, Debug)]
pub enum Manifest {
    /// `networking.k8s.io/v1` `NetworkPolicy`.
    Kubernetes(NetworkPolicy),
    /// Calico's `NetworkPolicy`, in this group.
    Calico(CalicoPolicy, Group),
}

impl Manifest {
    /// Its kind.
    pub const fn kind(&self) -> PolicyKind {
        match self {
            Self::Kubernetes(_) => PolicyKind::NetworkPolicy,
            Self::Calico(..) => PolicyKind::CalicoNetworkPolicy,
        }
    }

    /// The group and version that it is written in.
    pub const fn api_version(&self) -> &'static str {
        match self {
            Self::Kubernetes(_) => NetworkPolicy::API_VERSION,
            Self::Calico(_, group) => group.api_version(),
        }
    }

    /// The policy that it is, if it is one.
    pub fn lower(&self) -> Option<Policy> {
        match self {
            Self::Kubernetes(policy) => network_policy::lower(policy).ok(),
            Self::Calico(policy, group) => {
                calico::lower(policy, PolicyKind::CalicoNetworkPolicy, *group).ok()
            }
        }
    }
}

/// The kind of policy that a remedy is written as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Kubernetes,
    Calico(Group),
}

/// What a policy of a remedy is to allow: one direction of the flow, for the pod that it selects.
#[derive(Clone, Copy)]
struct Opening<'a> {
    snapshot: &'a Snapshot,
    direction: Direction,
    /// The pod that is denied.
    pod: &'a Pod,
    /// The other end.
    other: &'a Endpoint,
    /// The policy that leads the denial.
    lead: &'a Policy,
    ports: &'a [(u16, Protocol)],
    situation: Option<Situation>,
}

impl Opening<'_> {
    fn policy_type(&self) -> &'static str {
        match self.direction {
            Direction::Egress => "Egress",
            Direction::Ingress => "Ingress",
        }
    }
}

/// Finds the remedy for a denied flow; `None` where there is no additive rule to give, or where it
/// cannot be proved.
pub fn remedy(snapshot: &Snapshot, diagnosis: &Diagnosis) -> Option<Remedy> {
    remedy_named(snapshot, diagnosis, "")
}

/// The same, of policies whose names end like this.
pub(crate) fn remedy_named(
    snapshot: &Snapshot,
    diagnosis: &Diagnosis,
    ending: &str,
) -> Option<Remedy> {
    let Diagnosis { verdict, cause, .. } = diagnosis;
    if !cause.class.is_denial() || cause.class == Class::ExplicitDeny {
        return None;
    }
    if verdict.denied_directions().any(|d| verdict.direction(d).denied_by.is_some()) {
        return None;
    }
    let of_kind = |direction| form(verdict.direction(direction));
    let as_calico = |_| Some(Form::Calico(Group::Stored));
    remedy_of_form(snapshot, diagnosis, ending, of_kind).or_else(|| {
        // A policy of Kubernetes comes before Calico's of a higher order, whose denials stand.
        let is_calico = snapshot.engine() == Engine::Calico;
        is_calico.then(|| remedy_of_form(snapshot, diagnosis, ending, as_calico)).flatten()
    })
}

/// The kind of the policies responsible: Calico's, if any of them is.
fn form(verdict: &DirectionVerdict) -> Option<Form> {
    if verdict.layer == Some(Layer::NetworkPolicy) {
        return Some(Form::Kubernetes);
    }
    let responsible = verdict.responsible();
    let is_calico = |policy: &&Arc<Policy>| matches!(policy.layer, Layer::Tier(_));
    let calico = responsible.iter().find(is_calico)?;
    Group::of(&calico.api_version).map(Form::Calico)
}

fn remedy_of_form(
    snapshot: &Snapshot,
    diagnosis: &Diagnosis,
    ending: &str,
    form: impl Fn(Direction) -> Option<Form>,
) -> Option<Remedy> {
    let Diagnosis { question, verdict, cause, .. } = diagnosis;
    let ports = ports(question, cause.situation);
    let mut manifests = Vec::new();
    let mut policies = Vec::new();
    let mut with_remedy = snapshot.clone();
    for direction in verdict.denied_directions() {
        let form = form(direction)?;
        let (target, other) = match direction {
            Direction::Egress => (&question.source, &question.destination),
            Direction::Ingress => (&question.destination, &question.source),
        };
        let responsible = verdict.direction(direction).responsible();
        let (pod, lead) = (target.pod()?, responsible.first()?);
        let situation = cause.situation;
        let opening = Opening { snapshot, direction, pod, other, lead, ports: &ports, situation };
        let name = free_name(&opening, diagnosis, form, ending);
        let manifest = match form {
            Form::Kubernetes => Manifest::Kubernetes(in_kubernetes::policy(&opening, name)?),
            Form::Calico(group) => Manifest::Calico(in_calico::policy(&opening, name)?, group),
        };
        let policy = manifest.lower()?;
        with_remedy = with_remedy.with_policy(policy.clone());
        policies.push(policy);
        manifests.push(manifest);
    }
    let passes = evaluate(&with_remedy, question).decision().lets_pass();
    let verified = passes && isolates_nobody(snapshot, &with_remedy, &policies);
    if !verified {
        return None;
    }
    Some(Remedy {
        summary: summary(snapshot, diagnosis, &policies),
        newly_allowed: newly_allowed(snapshot, &with_remedy, question, &policies, &ports)?,
        policies: manifests,
        verified,
    })
}

/// A node's addresses, with the one that it was seen with first.
fn nodes_addresses(node: &Node, seen: Option<IpAddr>) -> Vec<IpAddr> {
    let unlisted = seen.filter(|seen| !node.listed_addresses().any(|listed| listed == *seen));
    unlisted.into_iter().chain(node.listed_addresses()).collect()
}

/// The ports to open: the flow's own; for DNS both of its protocols, or large answers fail.
fn ports(question: &Question, situation: Option<Situation>) -> Vec<(u16, Protocol)> {
    match situation {
        Some(Situation::Dns) => {
            vec![(question.port, Protocol::Udp), (question.port, Protocol::Tcp)]
        }
        _ => vec![(question.port, question.protocol)],
    }
}

/// `allow-pod-a-to-pod-b-8080`, or with a number behind it where that is taken: a remedy is a new
/// policy, and never replaces one.
fn free_name(
    opening: &Opening<'_>,
    diagnosis: &Diagnosis,
    form: Form,
    given_ending: &str,
) -> String {
    let direction = opening.direction;
    let short = |end: &Endpoint| match &end.holder {
        Holder::Pod(pod) => {
            pod.workload.as_ref().map_or_else(|| pod.name.to_string(), |w| w.name.to_string())
        }
        Holder::Node(_) => "node".to_owned(),
        _ => end.address.map_or_else(
            || "unknown".to_owned(),
            |address| address.to_string().replace([':', '.'], "-"),
        ),
    };
    let question = &diagnosis.question;
    let what = match diagnosis.cause.situation {
        Some(Situation::Dns) => "dns".to_owned(),
        Some(Situation::Probe(_)) => format!("probes-{}", question.port),
        Some(Situation::Start) | None => question.port.to_string(),
    };
    let base = match (direction, diagnosis.cause.situation) {
        (Direction::Egress, Some(Situation::Dns)) => {
            format!("allow-{}-{what}", short(&question.source))
        }
        (_, Some(Situation::Probe(_))) => {
            format!("allow-{what}-of-{}", short(&question.destination))
        }
        _ => {
            format!("allow-{}-to-{}-{what}", short(&question.source), short(&question.destination))
        }
    };
    let (kind, prefix) = match form {
        Form::Kubernetes => (PolicyKind::NetworkPolicy, String::new()),
        Form::Calico(group) => {
            (PolicyKind::CalicoNetworkPolicy, in_calico::name_prefix(opening, group))
        }
    };
    // Two policies of one remedy may stand in one namespace.
    let both = diagnosis.verdict.denied_directions().count() > 1;
    let ending = if both { format!("-{direction}") } else { String::new() } + given_ending;
    let name = |ending: &str| {
        let mut name: String = base.chars().take(NAME_MAX - ending.len()).collect();
        name.truncate(name.trim_end_matches(['-', '.']).len());
        prefix.clone() + &name + ending
    };
    let is_free = |name: &str| {
        let reference =
            PolicyRef { kind, namespace: Some(opening.pod.namespace.clone()), name: name.into() };
        opening.snapshot.policies().get(&reference).is_none()
    };
    let first = name(&ending);
    let numbered = (2..).map(|number: u64| name(&format!("{ending}-{number}")));
    std::iter::once(first.clone()).chain(numbered).find(|name| is_free(name)).unwrap_or(first)
}

/// A new policy isolates the pods that it selects: none may be among them that was not before.
fn isolates_nobody(before: &Snapshot, after: &Snapshot, policies: &[Policy]) -> bool {
    for policy in policies {
        let own =
            |pod: &&Arc<Pod>| !pod.host_network && selects(after, &policy.subject, pod).is_match();
        for pod in before.pods().filter(own) {
            let labels = before.namespace(&pod.namespace).map(|namespace| &namespace.labels);
            let isolated = [Direction::Egress, Direction::Ingress].into_iter().all(|direction| {
                policy.rules(direction).is_none()
                    || before.policies().candidates(&pod.namespace, &pod.labels, labels).iter().any(
                        |other| {
                            other.layer.tier() == policy.layer.tier()
                                && !other.reference.kind.is_staged()
                                && other.rules(direction).is_some()
                                && selects(before, &other.subject, pod).is_match()
                        },
                    )
            });
            if !isolated {
                return false;
            }
        }
    }
    true
}

/// How many other pairs pass with the remedy that did not before; `None`: one of them is denied by
/// a rule, which no remedy may get round.
fn newly_allowed(
    before: &Snapshot,
    after: &Snapshot,
    question: &Question,
    policies: &[Policy],
    ports: &[(u16, Protocol)],
) -> Option<usize> {
    let candidates = |direction: Direction, end: &Endpoint| -> Vec<Endpoint> {
        // On the governed side the pods that the policy selects; on the other, or where that side
        // was not denied, the ends that its peers can match.
        let of_policy = policies.iter().find(|policy| policy.rules(direction).is_some());
        let mut ends = vec![end.clone()];
        for pod in before.pods().filter(|pod| !pod.host_network) {
            let selected = match of_policy {
                Some(policy) => selects(before, &policy.subject, pod).is_match(),
                None => end.pod().is_some(),
            };
            let like = end_like(pod, end).filter(|_| selected);
            if let Some(end) = like.filter(|end| !ends.iter().any(|known| known.is_same(end))) {
                ends.push(end);
            }
        }
        ends
    };
    let sources = candidates(Direction::Egress, &question.source);
    let destinations = candidates(Direction::Ingress, &question.destination);
    let pairs = sources.iter().flat_map(|s| destinations.iter().map(move |d| (s, d)));
    let gain = WhatIf { before, after }.gain(question, pairs.take(PAIRS_MAX), ports);
    (!gain.overrules_a_rule).then_some(gain.others)
}

/// A pod where this end is: with its address of the same family.
fn end_like(pod: &Arc<Pod>, end: &Endpoint) -> Option<Endpoint> {
    let address = *pod.addresses.iter().find(|address| end.may_be_of_family(**address))?;
    Some(Endpoint { address: Some(address), holder: Holder::Pod(pod.clone()) })
}

fn summary(snapshot: &Snapshot, diagnosis: &Diagnosis, policies: &[Policy]) -> String {
    let Question { source, destination, port, protocol, .. } = &diagnosis.question;
    let names: Vec<_> = policies.iter().map(|policy| policy.reference.to_string()).collect();
    let names = names.join(" and ");
    let text = match diagnosis.cause.situation {
        Some(Situation::Dns) => {
            format!("allow {source} to ask the cluster's DNS, UDP and TCP: apply {names}")
        }
        Some(Situation::Probe(probe)) => format!(
            "allow {source} to probe ({probe}) {destination} on {port}/{protocol}: apply {names}; \
             add the other nodes' addresses if the pod may move, or use an exec probe, which needs \
             no rule"
        ),
        Some(Situation::Start) | None => {
            format!("allow {source} to reach {destination} on {port}/{protocol}: apply {names}")
        }
    };
    match label_namespace(snapshot, diagnosis) {
        Some((command, _)) => format!("{text}; or {command}"),
        None => text,
    }
}

/// The other choice where a rule selects namespaces by a label that this one lacks: to label it,
/// if that alone lets the flow pass. The command, and the cluster with the label.
fn label_namespace(snapshot: &Snapshot, diagnosis: &Diagnosis) -> Option<(String, Snapshot)> {
    let miss = diagnosis.cause.nearest_miss.as_ref()?;
    if miss.lack != Lack::NamespaceLabels {
        return None;
    }
    let direction = diagnosis.cause.direction?;
    let peer = match direction {
        Direction::Egress => diagnosis.question.destination.pod()?,
        Direction::Ingress => diagnosis.question.source.pod()?,
    };
    let namespace = snapshot.namespace(&peer.namespace).filter(|n| is_plain(&n.name))?;
    let policy = snapshot.policies().get(&miss.rule.policy)?;
    let rule = policy.rules(direction)?.get(miss.rule.rule)?;
    let Peers::AnyOf(peers) = &rule.peers else { return None };
    for candidate in peers {
        let (Peer::Pods(pods) | Peer::Members(pods)) = candidate else { continue };
        let Namespaces::Selected(selector) = &pods.namespaces else { continue };
        let Some(labels) = simple_labels(selector.unmet(&namespace.labels)) else { continue };
        let mut relabelled = Namespace::clone(namespace);
        relabelled.labels.extend(labels.iter().map(|(k, v)| (k.clone(), v.clone())));
        let relabelled = snapshot.with_namespace(relabelled);
        let verdict = evaluate(&relabelled, &diagnosis.question);
        if verdict.decision().lets_pass() {
            let labels: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let labels = labels.join(" ");
            let command = format!("kubectl label namespace {} {labels}", namespace.name);
            return Some((command, relabelled));
        }
    }
    None
}

/// Labels that meet these requirements, where each asks for a value.
fn simple_labels<'a>(
    requirements: impl Iterator<Item = &'a Requirement>,
) -> Option<Vec<(Arc<str>, Arc<str>)>> {
    let labels: Option<Vec<_>> = requirements
        .map(|requirement| match &requirement.operator {
            // The API server, or Calico, owns these labels.
            _ if &*requirement.key == NAMESPACE_NAME_LABEL => None,
            _ if requirement.key.starts_with(given_label::PREFIX) => None,
            Operator::In(values) => Some((requirement.key.clone(), values.first()?.clone())),
            _ => None,
        })
        .collect();
    let are_plain = |(key, value): &(Arc<str>, Arc<str>)| {
        is_plain(key) && (value.is_empty() || is_plain(value))
    };
    labels.filter(|labels| !labels.is_empty() && labels.iter().all(are_plain))
}

/// Whether it is of the characters that names and labels have (`apimachinery/pkg/util/validation`):
/// of no others can the API server take a label, and a shell takes them as they are.
fn is_plain(text: &str) -> bool {
    let is_of_names = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(is_of_names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_no_object_can_have_is_no_choice() {
        let labels = |value: &str| {
            let operator = Operator::In(vec![value.into()]);
            simple_labels([Requirement { key: "team".into(), operator }].iter())
        };
        assert!(labels("blue-1.x_y").is_some() && labels("").is_some());
        for value in ["x$(id)", "a b", "'", ";", "-x", "\u{202e}x", "x\n"] {
            assert_eq!(labels(value), None, "{value:?}");
        }
    }
}
