//! Other ways to let a denied flow pass, with what each would newly allow beside it.

use std::fmt;

use super::{end_like, gain::WhatIf, label_namespace};
use crate::{
    cluster::{Snapshot, resolve::Endpoint},
    diagnosis::{Diagnosis, Situation},
    flow::Direction,
    policy::{PortMatch, PortRange, RuleRef},
    verdict::{Question, evaluate, nearest::Lack},
};

/// How many pairs of ends are judged to find what else a choice allows; beyond it the number is a
/// lower bound. At some ten microseconds each this stays within ten milliseconds.
const PAIRS_MAX: usize = 500;

/// Another way than a new policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What to do.
    pub action: ChoiceKind,
    /// How many other pairs of ends it newly allows on this port, at least.
    pub newly_allowed: usize,
}

/// What another way is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChoiceKind {
    /// Give the namespace the label that a rule selects it by: the command.
    LabelNamespace(String),
    /// Add the port to the rule that admits the ends.
    WidenPort(RuleRef, PortMatch),
    /// Let the kubelet run a command in the container instead of connecting to it.
    ExecProbe,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            ChoiceKind::LabelNamespace(command) => write!(f, "{command}")?,
            ChoiceKind::WidenPort(rule, port) => {
                let (kind, policy) = (rule.policy.kind, &rule.policy);
                write!(f, "add port {port} to rule {} of {kind} {policy}", rule.rule)?;
            }
            ChoiceKind::ExecProbe => f.write_str("make it an exec probe, which needs no rule")?,
        }
        match self.newly_allowed {
            0 => f.write_str(" (allows nothing else)"),
            more => write!(f, " (newly allows {more} other pairs, at least)"),
        }
    }
}

/// The other ways, each proved by judging the flow with it, the least costly first.
pub fn choices(snapshot: &Snapshot, diagnosis: &Diagnosis) -> Vec<Choice> {
    if !diagnosis.cause.class.is_denial() {
        return Vec::new();
    }
    let mut choices = Vec::new();
    if let Some((command, after)) = label_namespace(snapshot, diagnosis) {
        let newly_allowed = newly_allowed(snapshot, &after, diagnosis);
        choices.push(Choice { action: ChoiceKind::LabelNamespace(command), newly_allowed });
    }
    choices.extend(widen_port(snapshot, diagnosis));
    if let Some(Situation::Probe(_)) = diagnosis.cause.situation {
        choices.push(Choice { action: ChoiceKind::ExecProbe, newly_allowed: 0 });
    }
    choices.sort_by_key(|choice| choice.newly_allowed);
    choices
}

/// The rule that lacks nothing but the port, with the port.
fn widen_port(snapshot: &Snapshot, diagnosis: &Diagnosis) -> Option<Choice> {
    let miss = diagnosis.cause.nearest_miss.as_ref()?;
    if !matches!(miss.lack, Lack::Port | Lack::Protocol | Lack::NamedPort) {
        return None;
    }
    let Question { port, protocol, .. } = diagnosis.question;
    let mut policy = snapshot.policies().get(&miss.rule.policy)?.as_ref().clone();
    let rules = match diagnosis.cause.direction? {
        Direction::Egress => policy.egress.as_mut()?,
        Direction::Ingress => policy.ingress.as_mut()?,
    };
    let added = PortMatch { protocol: Some(protocol), ports: PortRange::Numbers(port, port) };
    rules.get_mut(miss.rule.rule)?.ports.push(added.clone());
    let after = snapshot.with_policy(policy);
    passes(&after, &diagnosis.question).then(|| Choice {
        action: ChoiceKind::WidenPort(miss.rule.clone(), added),
        newly_allowed: newly_allowed(snapshot, &after, diagnosis),
    })
}

fn passes(snapshot: &Snapshot, question: &Question) -> bool {
    evaluate(snapshot, question).decision().lets_pass()
}

/// How many other pairs pass that did not before: of all pods, those of the peer's namespace first,
/// with those of the namespace whose policies deny.
fn newly_allowed(before: &Snapshot, after: &Snapshot, diagnosis: &Diagnosis) -> usize {
    let question = &diagnosis.question;
    let is_egress = diagnosis.cause.direction == Some(Direction::Egress);
    let (governed, peer) = match is_egress {
        true => (&question.source, &question.destination),
        false => (&question.destination, &question.source),
    };
    let mut denied = pods_like(before, governed);
    denied
        .retain(|end| end.pod().map(|pod| &pod.namespace) == governed.pod().map(|p| &p.namespace));
    let peers = pods_like(before, peer);
    let pairs = peers.iter().flat_map(|peer| {
        denied.iter().map(move |governed| match is_egress {
            true => (governed, peer),
            false => (peer, governed),
        })
    });
    let ports = [(question.port, question.protocol)];
    WhatIf { before, after }.gain(question, pairs.take(PAIRS_MAX), &ports).others
}

/// The pods that could stand where this end stands, those of its own namespace first; what is no
/// pod stands for itself.
fn pods_like(snapshot: &Snapshot, end: &Endpoint) -> Vec<Endpoint> {
    let Some(own) = end.pod() else { return vec![end.clone()] };
    let mut pods: Vec<_> = snapshot.pods().filter(|pod| !pod.host_network).collect();
    pods.sort_by_key(|pod| (pod.namespace != own.namespace, &pod.namespace, &pod.name));
    pods.into_iter().filter_map(|pod| end_like(pod, end)).collect()
}
