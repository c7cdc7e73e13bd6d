//! The smallest additive rule that lets a denied flow pass, proved by judging the flow with it.
//!
//! Never the deletion of a policy, and never a rule against an explicit deny: that is its owner's.

pub mod choices;
mod selection;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::networking::v1::{
        IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule,
        NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use crate::{
    cluster::{
        Snapshot,
        object::{Namespace, Pod},
        resolve::{Endpoint, Holder},
    },
    diagnosis::{Class, Diagnosis, Situation},
    flow::{Direction, Protocol},
    policy::{
        Layer, NAMESPACE_NAME_LABEL, PolicyKind, PolicyRef,
        evaluate::{Decision, Question, evaluate},
        matching::selects,
        nearest::Lack,
        network_policy::lower,
        selector::{Operator, Requirement},
    },
};
use selection::{pod_labels, target_selector};

/// How many pairs of pods are judged to tell what else a remedy allows; beyond it the number is
/// a lower bound. At some microseconds each this stays within milliseconds.
const PAIRS_MAX: usize = 2_000;

/// The longest name that a label value or a DNS label may have.
const NAME_MAX: usize = 63;

/// What to apply.
#[derive(Clone, Debug)]
pub struct Remedy {
    /// One policy for each direction that denies.
    pub policies: Vec<NetworkPolicy>,
    /// What it does, and the other choices, in a sentence.
    pub summary: String,
    /// The flow passes with it, by the same evaluator, and nothing that passed is denied by it.
    pub verified: bool,
    /// How many other pairs of ends it newly allows, at least.
    pub newly_allowed: usize,
}

/// Finds the remedy for a denied flow; `None` where there is no additive rule to give, or where it
/// cannot be proved.
pub fn remedy(snapshot: &Snapshot, diagnosis: &Diagnosis) -> Option<Remedy> {
    let Diagnosis { question, verdict, cause, .. } = diagnosis;
    if !cause.class.is_denial() || cause.class == Class::ExplicitDeny {
        return None;
    }
    let ports = ports(question, cause.situation);
    let mut policies = Vec::new();
    let mut with_remedy = snapshot.clone();
    for direction in verdict.denied_directions() {
        if verdict.direction(direction).layer != Some(Layer::NetworkPolicy) {
            return None;
        }
        let policy = policy(snapshot, diagnosis, direction, &ports)?;
        with_remedy = with_remedy.with_policy(lower(&policy).ok()?);
        policies.push(policy);
    }
    let passes = |question: &Question, snapshot: &Snapshot| {
        matches!(evaluate(snapshot, question).decision(), Decision::Allowed | Decision::NotIsolated)
    };
    let verified =
        passes(question, &with_remedy) && isolates_nobody(snapshot, &with_remedy, &policies);
    if !verified {
        return None;
    }
    Some(Remedy {
        summary: summary(snapshot, diagnosis, &policies),
        newly_allowed: newly_allowed(snapshot, &with_remedy, question, &policies, &ports),
        policies,
        verified,
    })
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

fn policy(
    snapshot: &Snapshot,
    diagnosis: &Diagnosis,
    direction: Direction,
    ports: &[(u16, Protocol)],
) -> Option<NetworkPolicy> {
    let question = &diagnosis.question;
    let (target, other) = match direction {
        Direction::Egress => (&question.source, &question.destination),
        Direction::Ingress => (&question.destination, &question.source),
    };
    let pod = target.pod()?;
    let lead = diagnosis.verdict.direction(direction).isolating.first()?;
    let peers = peers(snapshot, pod, other, diagnosis.cause.situation)?;
    let ports: Vec<_> = ports
        .iter()
        .map(|(port, protocol)| NetworkPolicyPort {
            end_port: None,
            port: Some(IntOrString::Int(i32::from(*port))),
            protocol: Some(protocol.to_string()),
        })
        .collect();
    let mut spec = NetworkPolicySpec {
        pod_selector: Some(target_selector(snapshot, pod, &lead.subject.pods)),
        policy_types: Some(vec![match direction {
            Direction::Egress => "Egress".to_owned(),
            Direction::Ingress => "Ingress".to_owned(),
        }]),
        ..NetworkPolicySpec::default()
    };
    match direction {
        Direction::Egress => {
            let rule = NetworkPolicyEgressRule { ports: Some(ports), to: Some(peers) };
            spec.egress = Some(vec![rule]);
        }
        Direction::Ingress => {
            let rule = NetworkPolicyIngressRule { ports: Some(ports), from: Some(peers) };
            spec.ingress = Some(vec![rule]);
        }
    }
    Some(NetworkPolicy {
        metadata: ObjectMeta {
            name: Some(free_name(snapshot, diagnosis, direction, pod)),
            namespace: Some(pod.namespace.to_string()),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
    })
}

/// The other end as a rule's peers.
fn peers(
    snapshot: &Snapshot,
    target: &Pod,
    other: &Endpoint,
    situation: Option<Situation>,
) -> Option<Vec<NetworkPolicyPeer>> {
    let block = |address: std::net::IpAddr| NetworkPolicyPeer {
        ip_block: Some(IPBlock { cidr: ipnet::IpNet::from(address).to_string(), except: None }),
        ..NetworkPolicyPeer::default()
    };
    match &other.holder {
        Holder::Pod(peer) => {
            let labels = pod_labels(snapshot, peer);
            let elsewhere = (peer.namespace != target.namespace).then(|| LabelSelector {
                match_labels: Some(BTreeMap::from([(
                    NAMESPACE_NAME_LABEL.to_owned(),
                    peer.namespace.to_string(),
                )])),
                match_expressions: None,
            });
            // Without a label to go by, the namespace is as close as a rule can come.
            let pods = LabelSelector {
                match_labels: (!labels.is_empty()).then_some(labels),
                match_expressions: None,
            };
            let by_namespace_alone = elsewhere.is_some() && pods.match_labels.is_none();
            Some(vec![NetworkPolicyPeer {
                namespace_selector: elsewhere,
                pod_selector: (!by_namespace_alone).then_some(pods),
                ip_block: None,
            }])
        }
        Holder::Node(node) if matches!(situation, Some(Situation::Probe(_))) => {
            let mut addresses = node.addresses.clone();
            if !addresses.contains(&other.address) {
                addresses.insert(0, other.address);
            }
            Some(addresses.into_iter().map(block).collect())
        }
        Holder::Node(_) | Holder::Outside => Some(vec![block(other.address)]),
        Holder::Service(_) | Holder::Unknown(_) => None,
    }
}

/// `allow-pod-a-to-pod-b-8080`, or with a number behind it where that is taken: a remedy is a new
/// policy, and never replaces one.
fn free_name(
    snapshot: &Snapshot,
    diagnosis: &Diagnosis,
    direction: Direction,
    pod: &Pod,
) -> String {
    let short = |end: &Endpoint| match &end.holder {
        Holder::Pod(pod) => {
            pod.workload.as_ref().map_or_else(|| pod.name.to_string(), |w| w.name.to_string())
        }
        Holder::Node(_) => "node".to_owned(),
        _ => end.address.to_string().replace([':', '.'], "-"),
    };
    let question = &diagnosis.question;
    let what = match diagnosis.cause.situation {
        Some(Situation::Dns) => "dns".to_owned(),
        Some(Situation::Probe(_)) => format!("probes-{}", question.port),
        None => question.port.to_string(),
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
    // Two policies of one remedy may stand in one namespace.
    let both = diagnosis.verdict.denied_directions().count() > 1;
    let ending = if both { format!("-{direction}") } else { String::new() };
    let name = |ending: &str| {
        let mut name: String = base.chars().take(NAME_MAX - ending.len()).collect();
        name.truncate(name.trim_end_matches(['-', '.']).len());
        name + ending
    };
    let is_free = |name: &str| {
        let reference = PolicyRef {
            kind: PolicyKind::NetworkPolicy,
            namespace: Some(pod.namespace.clone()),
            name: name.into(),
        };
        snapshot.policies().get(&reference).is_none()
    };
    let first = name(&ending);
    let numbered = (2..).map(|number: u64| name(&format!("{ending}-{number}")));
    std::iter::once(first.clone()).chain(numbered).find(|name| is_free(name)).unwrap_or(first)
}

/// A new policy isolates the pods that it selects: none may be among them that was not before.
fn isolates_nobody(before: &Snapshot, after: &Snapshot, policies: &[NetworkPolicy]) -> bool {
    let lowered = policies.iter().filter_map(|policy| lower(policy).ok());
    for policy in lowered {
        let own = |pod: &&std::sync::Arc<Pod>| {
            !pod.host_network && selects(after, &policy.subject, pod).is_match()
        };
        for pod in before.pods().filter(own) {
            let labels = before.namespace(&pod.namespace).map(|namespace| &namespace.labels);
            let isolated = [Direction::Egress, Direction::Ingress].into_iter().all(|direction| {
                policy.rules(direction).is_none()
                    || before.policies().candidates(&pod.namespace, &pod.labels, labels).iter().any(
                        |other| {
                            other.layer == Layer::NetworkPolicy
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

/// How many other pairs pass with the remedy that did not before.
fn newly_allowed(
    before: &Snapshot,
    after: &Snapshot,
    question: &Question,
    policies: &[NetworkPolicy],
    ports: &[(u16, Protocol)],
) -> usize {
    let lowered: Vec<_> = policies.iter().filter_map(|policy| lower(policy).ok()).collect();
    let candidates = |direction: Direction, end: &Endpoint| -> Vec<Endpoint> {
        // On the governed side the pods that the policy selects; on the other, or where that side
        // was not denied, the ends that its peers can match.
        let of_policy = lowered.iter().find(|policy| policy.rules(direction).is_some());
        let mut ends = vec![end.clone()];
        for pod in before.pods().filter(|pod| !pod.host_network) {
            let selected = match of_policy {
                Some(policy) => selects(before, &policy.subject, pod).is_match(),
                None => end.pod().is_some(),
            };
            let family = pod.addresses.iter().find(|a| a.is_ipv4() == end.address.is_ipv4());
            if let Some(address) = family.filter(|_| selected) {
                let end = Endpoint { address: *address, holder: Holder::Pod(pod.clone()) };
                if !ends.iter().any(|known| known.address == end.address) {
                    ends.push(end);
                }
            }
        }
        ends
    };
    let sources = candidates(Direction::Egress, &question.source);
    let destinations = candidates(Direction::Ingress, &question.destination);
    let pairs = sources.iter().flat_map(|s| destinations.iter().map(move |d| (s, d)));
    let newly = pairs.take(PAIRS_MAX).filter(|(source, destination)| {
        let asked = source.address == question.source.address
            && destination.address == question.destination.address;
        !asked
            && ports.iter().any(|(port, protocol)| {
                let question = Question {
                    source: (*source).clone(),
                    destination: (*destination).clone(),
                    port: *port,
                    protocol: *protocol,
                };
                let denied =
                    |snapshot| evaluate(snapshot, &question).decision() == Decision::Denied;
                denied(before) && !denied(after)
            })
    });
    newly.count()
}

fn summary(snapshot: &Snapshot, diagnosis: &Diagnosis, policies: &[NetworkPolicy]) -> String {
    let Question { source, destination, port, protocol } = &diagnosis.question;
    let names: Vec<_> = policies
        .iter()
        .map(|policy| {
            let ObjectMeta { namespace, name, .. } = &policy.metadata;
            format!(
                "{}/{}",
                namespace.as_deref().unwrap_or_default(),
                name.as_deref().unwrap_or_default()
            )
        })
        .collect();
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
        None => {
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
    if miss.lack != Lack::NamespaceLabels || miss.wanted.contains("own namespace") {
        return None;
    }
    let direction = diagnosis.cause.direction?;
    let peer = match direction {
        Direction::Egress => diagnosis.question.destination.pod()?,
        Direction::Ingress => diagnosis.question.source.pod()?,
    };
    let namespace = snapshot.namespace(&peer.namespace)?;
    let policy = snapshot.policies().get(&miss.rule.policy)?;
    let rule = policy.rules(direction)?.get(miss.rule.rule)?;
    let crate::policy::Peers::AnyOf(peers) = &rule.peers else { return None };
    for candidate in peers {
        let crate::policy::Peer::Pods(pods) = candidate else { continue };
        let crate::policy::Namespaces::Selected(selector) = &pods.namespaces else { continue };
        let Some(labels) = simple_labels(selector.unmet(&namespace.labels)) else { continue };
        let mut relabelled = Namespace::clone(namespace);
        relabelled.labels.extend(labels.iter().map(|(k, v)| (k.clone(), v.clone())));
        let relabelled = snapshot.with_namespace(relabelled);
        let verdict = evaluate(&relabelled, &diagnosis.question);
        if matches!(verdict.decision(), Decision::Allowed | Decision::NotIsolated) {
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
) -> Option<Vec<(std::sync::Arc<str>, std::sync::Arc<str>)>> {
    let labels: Option<Vec<_>> = requirements
        .map(|requirement| match &requirement.operator {
            // The API server owns this label.
            _ if &*requirement.key == NAMESPACE_NAME_LABEL => None,
            Operator::In(values) => Some((requirement.key.clone(), values.first()?.clone())),
            _ => None,
        })
        .collect();
    labels.filter(|labels| !labels.is_empty())
}
