//! The policies of a run, and what they say by an evaluator of their own: some twenty lines that share
//! nothing with the core's.

use std::{collections::BTreeSet, sync::Arc};

use whydrop_core::{
    flow::{Direction, Protocol},
    policy::{
        Action, KUBERNETES_ORDER, Layer, Namespaces, Peer, Peers, PodPeer, Policy, PolicyKind,
        PolicyRef, PortMatch, PortRange, Rule, requirement::Requirement, selector::Selector,
    },
};

use crate::time::{Ms, whole_second};

pub(crate) type Label = (&'static str, &'static str);
pub(crate) type Labels = Vec<Label>;

/// A `NetworkPolicy`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Net {
    pub(crate) namespace: &'static str,
    pub(crate) name: &'static str,
    /// Which pods of its namespace; `None`: all.
    pub(crate) selects: Option<Label>,
    pub(crate) direction: Direction,
    pub(crate) allows: Vec<Allow>,
}

/// A rule of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Allow {
    pub(crate) peer: Whom,
    /// `None`: all.
    pub(crate) port: Option<u16>,
}

/// Whom a rule admits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Whom {
    Everyone,
    /// Pods with this label of namespaces with that one; `None`: any.
    Pods {
        of: Option<Label>,
        pods: Option<Label>,
    },
}

/// A pod as policies see it.
#[derive(Clone, Debug)]
pub(crate) struct End<'a> {
    pub(crate) namespace: &'static str,
    pub(crate) of: &'a Labels,
    pub(crate) labels: &'a Labels,
}

fn has(labels: &Labels, wanted: Option<Label>) -> bool {
    wanted.is_none_or(|wanted| labels.contains(&wanted))
}

impl Net {
    fn selects(&self, pod: &End<'_>) -> bool {
        self.namespace == pod.namespace && has(pod.labels, self.selects)
    }

    /// `other`: `None` where the plugin knows no pod there.
    fn admits(&self, other: Option<&End<'_>>, port: u16) -> bool {
        self.allows.iter().any(|allow| {
            let admits_port = allow.port.is_none_or(|own| own == port);
            admits_port
                && match allow.peer {
                    Whom::Everyone => true,
                    Whom::Pods { of, pods } => {
                        other.is_some_and(|end| has(end.of, of) && has(end.labels, pods))
                    }
                }
        })
    }

    /// As the agent reads it.
    pub(crate) fn object(&self, created: Ms) -> Policy {
        let namespace: Arc<str> = self.namespace.into();
        let rules = Some(self.allows.iter().map(Allow::rule).collect());
        let (ingress, egress) = match self.direction {
            Direction::Ingress => (rules, None),
            Direction::Egress => (None, rules),
        };
        Policy {
            reference: PolicyRef {
                kind: PolicyKind::NetworkPolicy,
                namespace: Some(namespace.clone()),
                name: self.name.into(),
            },
            api_version: "networking.k8s.io/v1".into(),
            stored_as: None,
            uid: None,
            created: Some(whole_second(created)),
            written: None,
            mute: None,
            is_remedy: false,
            layer: Layer::NetworkPolicy,
            order: KUBERNETES_ORDER,
            subject: PodPeer::new(Namespaces::Own(namespace), selector(self.selects)),
            ingress,
            egress,
            undeclared: None,
        }
    }

    pub(crate) fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl Allow {
    fn rule(&self) -> Rule {
        let peers = match self.peer {
            Whom::Everyone => Peers::Everyone,
            Whom::Pods { of, pods } => {
                let peer = PodPeer::new(Namespaces::Selected(selector(of)), selector(pods));
                Peers::AnyOf(vec![Peer::Pods(peer)])
            }
        };
        let port = |port: u16| PortMatch {
            protocol: Some(Protocol::Tcp),
            ports: PortRange::Numbers(port, port),
        };
        Rule::new(Action::Allow, peers, self.port.map(port).into_iter().collect())
    }
}

fn selector(label: Option<Label>) -> Selector {
    Selector::new(label.map(|(key, value)| Requirement::equals(key, value)).into_iter().collect())
}

/// A direction that denies, and all policies that isolate its end and do not admit the flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Denial {
    pub(crate) is_egress: bool,
    pub(crate) by: BTreeSet<String>,
}

/// What these policies say, by the specification: a pod that a policy selects is isolated, and what any
/// of those admits passes. The directions that deny, in the packet's order.
pub(crate) fn denials(
    policies: &[&Net],
    source: Option<&End<'_>>,
    destination: Option<&End<'_>>,
    port: u16,
) -> Vec<Denial> {
    let of = |direction: Direction, own: Option<&End<'_>>, other: Option<&End<'_>>| {
        let own = own?;
        let governing = policies.iter().filter(|p| p.direction == direction && p.selects(own));
        let governing: Vec<_> = governing.collect();
        let is_denied = !governing.is_empty() && !governing.iter().any(|p| p.admits(other, port));
        let by = governing.iter().map(|policy| policy.id()).collect();
        is_denied.then_some(Denial { is_egress: direction == Direction::Egress, by })
    };
    let egress = of(Direction::Egress, source, destination);
    egress.into_iter().chain(of(Direction::Ingress, destination, source)).collect()
}
