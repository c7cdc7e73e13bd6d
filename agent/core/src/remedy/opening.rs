//! What a policy of a remedy is to allow: one direction of one packet.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{NoRemedy, dns, nodes, selection};
use crate::{
    cluster::{
        Snapshot,
        object::Pod,
        resolve::{Endpoint, Holder},
    },
    diagnosis::Situation,
    flow::{Direction, Protocol},
    policy::Policy,
    verdict::{Question, Verdict},
};

/// One direction of a packet that is to pass, for the pods that stand where its pod stands.
pub(super) struct Opening<'a> {
    pub(super) direction: Direction,
    /// The pod that is denied.
    pub(super) pod: &'a Pod,
    /// The labels that stand for it.
    pub(super) labels: BTreeMap<String, String>,
    /// The policy that isolates it: a new one may select only what this one selects.
    pub(super) lead: Arc<Policy>,
    /// The other ends.
    pub(super) others: Vec<Other>,
    pub(super) ports: Vec<(u16, Protocol)>,
}

/// Other ends, as rules name them.
pub(super) enum Other {
    /// Pods with these labels; without any, all of the namespace.
    Pods { namespace: Arc<str>, labels: BTreeMap<String, String> },
    /// These addresses.
    Addresses(Vec<IpAddr>),
}

impl<'a> Opening<'a> {
    /// What is to be opened of a denied packet in this direction; the error: there is no pod whose
    /// policies could, or no rule can name the other end.
    pub(super) fn of(
        snapshot: &Snapshot,
        question: &'a Question,
        verdict: &Verdict,
        direction: Direction,
        situation: Option<Situation>,
    ) -> Result<Self, NoRemedy> {
        let (target, other) = match direction {
            Direction::Egress => (&question.source, &question.destination),
            Direction::Ingress => (&question.destination, &question.source),
        };
        let pod = target.pod().ok_or(NoRemedy::Unproved)?;
        let labels = selection::pod_labels(snapshot, pod);
        let responsible = verdict.direction(direction).responsible();
        let lead = selection::isolating(pod, &labels, &responsible);
        let lead = lead.ok_or(NoRemedy::Unproved)?.clone();
        let named = Other::of(snapshot, other, direction);
        let mut others = vec![named.ok_or_else(|| NoRemedy::Unnamed(other.to_string()))?];
        if let (Some(Situation::Dns), Direction::Egress) = (situation, direction) {
            let cache = snapshot.dns_cache();
            others.extend((!cache.is_empty()).then_some(Other::Addresses(cache)));
        }
        let ports = ports(snapshot, question, situation);
        Ok(Self { direction, pod, labels, lead, others, ports })
    }

    pub(super) fn policy_type(&self) -> &'static str {
        match self.direction {
            Direction::Egress => "Egress",
            Direction::Ingress => "Ingress",
        }
    }

    /// Whether a rule names pods of the whole namespace, as its pod has no label that lasts.
    pub(super) fn namespaces_named(&self) -> impl Iterator<Item = &Arc<str>> {
        self.others.iter().filter_map(|other| match other {
            Other::Pods { namespace, labels } if labels.is_empty() => Some(namespace),
            Other::Pods { .. } | Other::Addresses(_) => None,
        })
    }
}

impl Other {
    fn of(snapshot: &Snapshot, other: &Endpoint, direction: Direction) -> Option<Self> {
        match &other.holder {
            Holder::Pod(pod) => Some(Self::Pods {
                namespace: pod.namespace.clone(),
                labels: selection::pod_labels(snapshot, pod),
            }),
            Holder::Node(node) if direction == Direction::Ingress => {
                let addresses = nodes::clients(snapshot, node, other.address).addresses;
                // A rule without peers is for everybody.
                (!addresses.is_empty()).then_some(Self::Addresses(addresses))
            }
            Holder::Node(_) | Holder::SecondNetwork(..) | Holder::Outside => {
                Some(Self::Addresses(vec![other.address?]))
            }
            Holder::Service(_) | Holder::Hidden(_) | Holder::Unknown(_) => None,
        }
    }
}

/// The ports to open: the flow's own; for DNS both of its protocols, or large answers fail. What a mesh
/// sends instead of the flow is a packet of its own.
pub(super) fn ports(
    snapshot: &Snapshot,
    question: &Question,
    situation: Option<Situation>,
) -> Vec<(u16, Protocol)> {
    match situation {
        Some(Situation::Dns) => dns::ports(snapshot, question),
        _ => vec![(question.port, question.protocol)],
    }
}
