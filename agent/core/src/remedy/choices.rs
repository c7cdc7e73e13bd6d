//! Other ways to let a denied flow pass, with what each would newly allow beside it.

use std::fmt;

use super::{
    gain::{Gain, GainedPath, WhatIf},
    intended::{LabelPods, intended},
    labels::{is_plain, question_in, simple_labels},
    packets::end_like,
};
use crate::{
    cluster::{Snapshot, object::Namespace, resolve::Endpoint},
    diagnosis::{Diagnosis, Situation},
    flow::Direction,
    policy::{Namespaces, Peer, Peers, PortMatch, PortRange, RuleRef},
    verdict::{Question, evaluate, nearest::Lack},
};

/// How many pairs of ends are judged to find what else a choice allows; beyond it the number is a
/// lower bound. At some ten microseconds each this stays within ten milliseconds.
const PAIRS_MAX: usize = 500;

/// How many paths are named in a sentence.
const PATHS_NAMED: usize = 2;

/// Another way than a new policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What to do.
    pub action: ChoiceKind,
    /// How many other pairs of ends it newly allows on this port, at least.
    pub newly_allowed: usize,
    /// Between whom these are: the paths with most pairs.
    pub newly_allowed_paths: Vec<GainedPath>,
}

/// What another way is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChoiceKind {
    /// Give the pods the one label that a policy lacks for selecting them which admits the flow.
    LabelPods(LabelPods),
    /// Give the namespace the label that a rule selects it by: the command.
    LabelNamespace(String),
    /// Add the port to the rule that admits the ends.
    WidenPort(RuleRef, PortMatch),
    /// Let the kubelet run a command in the container instead of connecting to it.
    ExecProbe,
}

impl ChoiceKind {
    /// The command that does it, where one does.
    pub fn command(&self) -> Option<&str> {
        match self {
            Self::LabelPods(label) => label.command.as_deref(),
            Self::LabelNamespace(command) => Some(command),
            Self::WidenPort(..) | Self::ExecProbe => None,
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            ChoiceKind::LabelPods(label) => write!(f, "{label}")?,
            ChoiceKind::LabelNamespace(command) => write!(f, "{command}")?,
            ChoiceKind::WidenPort(rule, port) => {
                let (kind, policy) = (rule.policy.kind, &rule.policy);
                write!(f, "add port {port} to rule {} of {kind} {policy}", rule.rule)?;
            }
            ChoiceKind::ExecProbe => f.write_str("make it an exec probe, which needs no rule")?,
        }
        let named = self.newly_allowed_paths.iter().take(PATHS_NAMED).map(ToString::to_string);
        let named = named.collect::<Vec<_>>().join(", ");
        match self.newly_allowed {
            0 => f.write_str(" (allows nothing else)"),
            1 => write!(f, " (newly allows 1 other pair, at least: {named})"),
            more => write!(f, " (newly allows {more} other pairs, at least: {named})"),
        }
    }
}

/// The other ways for one flow.
pub fn choices(snapshot: &Snapshot, diagnosis: &Diagnosis) -> Vec<Choice> {
    choices_for_all(snapshot, std::slice::from_ref(diagnosis))
}

/// The other ways, each proved by judging every packet of the question with it: first the one for
/// which a policy is there that was intended for these pods, as far as that shows, then the least
/// costly.
pub fn choices_for_all(snapshot: &Snapshot, diagnoses: &[Diagnosis]) -> Vec<Choice> {
    let Some(lead) = diagnoses.iter().find(|diagnosis| diagnosis.cause.class.is_denial()) else {
        return Vec::new();
    };
    let ways = Ways { snapshot, lead, diagnoses };
    let mut choices: Vec<_> =
        [ways.label_namespace(), ways.widen_port()].into_iter().flatten().collect();
    if let Some(Situation::Probe(_)) = lead.cause.situation {
        choices.push(Choice {
            action: ChoiceKind::ExecProbe,
            newly_allowed: 0,
            newly_allowed_paths: Vec::new(),
        });
    }
    choices.sort_by_key(|choice| choice.newly_allowed);
    choices.splice(..0, ways.label_pods());
    choices
}

/// What is thought about.
struct Ways<'a> {
    snapshot: &'a Snapshot,
    /// The packet that leads: the first that is denied.
    lead: &'a Diagnosis,
    /// All packets.
    diagnoses: &'a [Diagnosis],
}

impl Ways<'_> {
    /// The choice, if every packet passes with it.
    fn choice(&self, action: ChoiceKind, after: &Snapshot) -> Option<Choice> {
        let passes = |diagnosis: &Diagnosis| {
            diagnosis.verdict.exempt.is_some() && !diagnosis.cause.class.is_denial()
                || evaluate(after, &question_in(after, &diagnosis.question)).decision().lets_pass()
        };
        if !self.diagnoses.iter().all(passes) {
            return None;
        }
        let gain = self.newly_allowed(after);
        let (newly_allowed, newly_allowed_paths) = (gain.pairs, gain.paths);
        Some(Choice { action, newly_allowed, newly_allowed_paths })
    }

    fn label_pods(&self) -> Option<Choice> {
        intended(self.snapshot, self.lead)
            .into_iter()
            .filter_map(|(label, after)| self.choice(ChoiceKind::LabelPods(label), &after))
            .min_by_key(|choice| choice.newly_allowed)
    }

    /// Where a rule selects namespaces by a label that this one lacks: to label it.
    fn label_namespace(&self) -> Option<Choice> {
        let (snapshot, lead) = (self.snapshot, self.lead);
        let miss = lead.cause.nearest_miss.as_ref()?;
        if miss.lack != Lack::NamespaceLabels {
            return None;
        }
        let direction = lead.cause.direction?;
        let peer = match direction {
            Direction::Egress => lead.question.destination.pod()?,
            Direction::Ingress => lead.question.source.pod()?,
        };
        let namespace = snapshot.namespace(&peer.namespace).filter(|n| is_plain(&n.name))?;
        let policy = snapshot.policies().get(&miss.rule.policy)?;
        let rule = policy.written_rules(direction)?.get(miss.rule.rule)?;
        let Peers::AnyOf(peers) = &rule.peers else { return None };
        peers.iter().find_map(|candidate| {
            let (Peer::Pods(pods) | Peer::Members(pods)) = candidate else { return None };
            let Namespaces::Selected(selector) = &pods.namespaces else { return None };
            let labels = simple_labels(selector.unmet(&namespace.labels))?;
            let mut relabelled = Namespace::clone(namespace);
            relabelled.labels.extend(labels.iter().map(|(k, v)| (k.clone(), v.clone())));
            let after = snapshot.with_namespace(relabelled);
            let labels: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let command =
                format!("kubectl label namespace {} {}", namespace.name, labels.join(" "));
            self.choice(ChoiceKind::LabelNamespace(command), &after)
        })
    }

    /// The rule that lacks nothing but the port, with the port.
    fn widen_port(&self) -> Option<Choice> {
        let miss = self.lead.cause.nearest_miss.as_ref()?;
        if !matches!(miss.lack, Lack::Port | Lack::Protocol | Lack::NamedPort) {
            return None;
        }
        let Question { port, protocol, .. } = self.lead.question;
        let mut policy = self.snapshot.policies().get(&miss.rule.policy)?.as_ref().clone();
        let rules = match self.lead.cause.direction? {
            Direction::Egress => policy.egress.as_mut()?,
            Direction::Ingress => policy.ingress.as_mut()?,
        };
        let added = PortMatch { protocol: Some(protocol), ports: PortRange::Numbers(port, port) };
        rules.get_mut(miss.rule.rule)?.ports.push(added.clone());
        let after = self.snapshot.with_policy(policy);
        self.choice(ChoiceKind::WidenPort(miss.rule.clone(), added), &after)
    }

    /// What else passes that did not before: of all pods, those of the peer's namespace first, with
    /// those of the namespace whose policies deny.
    fn newly_allowed(&self, after: &Snapshot) -> Gain {
        let question = &self.lead.question;
        let before = self.snapshot;
        let is_egress = self.lead.cause.direction == Some(Direction::Egress);
        let (governed, peer) = match is_egress {
            true => (&question.source, &question.destination),
            false => (&question.destination, &question.source),
        };
        let mut denied = pods_like(before, governed);
        let namespace = |end: &Endpoint| end.pod().map(|pod| pod.namespace.clone());
        denied.retain(|end| namespace(end) == namespace(governed));
        let peers = pods_like(before, peer);
        let ends = if is_egress { (&*denied, &*peers) } else { (&*peers, &*denied) };
        let ports = [(question.port, question.protocol)];
        let asked: Vec<_> = self.diagnoses.iter().map(|diagnosis| &diagnosis.question).collect();
        WhatIf { before, after }.gain(&asked, ends, &ports, PAIRS_MAX)
    }
}

/// The pods that could stand where this end stands, those of its own namespace first; what is no
/// pod stands for itself.
fn pods_like(snapshot: &Snapshot, end: &Endpoint) -> Vec<Endpoint> {
    let Some(own) = end.pod() else { return vec![end.clone()] };
    let mut pods: Vec<_> = snapshot.pods().filter(|pod| !pod.host_network).collect();
    pods.sort_by_key(|pod| (pod.namespace != own.namespace, &pod.namespace, &pod.name));
    pods.into_iter().filter_map(|pod| end_like(pod, end)).collect()
}
