//! The one evaluator: a flow's verdict in both directions, with the trace it rests on.

use std::{cmp::Reverse, sync::Arc};

use super::{
    Action, Layer, Policy, RuleRef,
    matching::{Outcome, PeerMiss, PortMiss, Subject, peers, ports, selects},
};
use crate::{
    cluster::{
        Snapshot,
        object::Pod,
        resolve::{Endpoint, Holder},
    },
    flow::{Direction, Protocol},
};

/// A flow whose ends are resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Who connects.
    pub source: Endpoint,
    /// Who is connected to.
    pub destination: Endpoint,
    /// Destination port, as it arrives there.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// What the policies say of a flow.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Revision of the snapshot it was computed from.
    pub revision: u64,
    /// Traffic that the specification lets pass whatever the policies say.
    pub exempt: Option<Exemption>,
    /// At the source.
    pub egress: DirectionVerdict,
    /// At the destination.
    pub ingress: DirectionVerdict,
}

/// Traffic that policies do not govern by the specification.
///
/// "A Pod cannot block access to itself; traffic to and from the node where a Pod is running is
/// always allowed" (<https://kubernetes.io/docs/concepts/services-networking/network-policies/>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exemption {
    /// A pod to itself.
    SamePod,
    /// A pod from or to an address of the node it runs on.
    LocalNode,
}

/// What a direction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// No policy governs this end in this direction: the flow passes.
    NotIsolated,
    /// A rule admits the flow.
    Allowed,
    /// A rule denies it, or policies isolate the pod and no rule admits it.
    Denied,
    /// It cannot be told.
    Unknown,
}

/// The verdict of one direction.
#[derive(Clone, Debug)]
pub struct DirectionVerdict {
    /// What it came to, exemptions not applied.
    pub decision: Decision,
    /// Which layer decided; none did where the end is not isolated.
    pub layer: Option<Layer>,
    /// Every `NetworkPolicy` that selects the pod in this direction, whoever decided; the one that
    /// leads first: the latest, then the one with the fewest rules, then by name.
    pub isolating: Vec<Arc<Policy>>,
    /// Every rule of those that admits the flow, and the ordered rule that allowed it.
    pub allowed_by: Vec<RuleRef>,
    /// The ordered rule that denied it.
    pub denied_by: Option<RuleRef>,
    /// Why it is unknown; not empty only then.
    pub unknown: Vec<Arc<str>>,
    /// Policy by policy, rule by rule, of those that select the pod.
    pub trace: Vec<PolicyTrace>,
}

/// How one policy's rules took the flow.
#[derive(Clone, Debug)]
pub struct PolicyTrace {
    /// The policy.
    pub policy: Arc<Policy>,
    /// Its rules in order.
    pub rules: Vec<RuleTrace>,
}

/// How one rule took the flow.
#[derive(Clone, Debug)]
pub struct RuleTrace {
    /// Index in the policy as written.
    pub rule: usize,
    /// What it does when both halves match.
    pub action: Action,
    /// Whether `from`/`to` matches.
    pub peer: Outcome<PeerMiss>,
    /// Whether `ports` matches.
    pub port: Outcome<PortMiss>,
}

impl RuleTrace {
    /// Whether both halves match; `Err` names what cannot be told.
    pub fn matches(&self) -> Result<bool, Arc<str>> {
        match (&self.peer, &self.port) {
            (Outcome::Miss(_), _) | (_, Outcome::Miss(_)) => Ok(false),
            (Outcome::Match, Outcome::Match) => Ok(true),
            (Outcome::Unknown(why), _) | (_, Outcome::Unknown(why)) => Err(why.clone()),
        }
    }
}

impl Verdict {
    /// The verdict of a direction.
    pub fn direction(&self, direction: Direction) -> &DirectionVerdict {
        match direction {
            Direction::Egress => &self.egress,
            Direction::Ingress => &self.ingress,
        }
    }

    /// What both directions come to, exemptions not applied: denied if either denies.
    pub fn decision(&self) -> Decision {
        match (self.egress.decision, self.ingress.decision) {
            (Decision::Denied, _) | (_, Decision::Denied) => Decision::Denied,
            (Decision::Unknown, _) | (_, Decision::Unknown) => Decision::Unknown,
            (Decision::NotIsolated, Decision::NotIsolated) => Decision::NotIsolated,
            _ => Decision::Allowed,
        }
    }

    /// The directions that deny, in the packet's order.
    pub fn denied_directions(&self) -> impl Iterator<Item = Direction> {
        [Direction::Egress, Direction::Ingress]
            .into_iter()
            .filter(|direction| self.direction(*direction).decision == Decision::Denied)
    }

    /// Why the verdict is unknown, direction by direction.
    pub fn unknowns(&self) -> impl Iterator<Item = &Arc<str>> {
        self.egress.unknown.iter().chain(&self.ingress.unknown)
    }
}

/// What the policies of a snapshot say of a flow.
pub fn evaluate(snapshot: &Snapshot, question: &Question) -> Verdict {
    Verdict {
        revision: snapshot.revision(),
        exempt: exemption(&question.source, &question.destination),
        egress: judge(snapshot, question, Direction::Egress),
        ingress: judge(snapshot, question, Direction::Ingress),
    }
}

fn exemption(source: &Endpoint, destination: &Endpoint) -> Option<Exemption> {
    let runs_on = |pod: &Pod, holder: &Holder| matches!(holder, Holder::Node(node) if pod.node.as_ref() == Some(&node.name));
    match (&source.holder, &destination.holder) {
        (Holder::Pod(a), Holder::Pod(b)) => {
            let same = (&a.namespace, &a.name) == (&b.namespace, &b.name);
            same.then_some(Exemption::SamePod)
        }
        (Holder::Pod(pod), other) | (other, Holder::Pod(pod)) => {
            runs_on(pod, other).then_some(Exemption::LocalNode)
        }
        _ => None,
    }
}

fn judge(snapshot: &Snapshot, question: &Question, direction: Direction) -> DirectionVerdict {
    let (target, peer) = match direction {
        Direction::Egress => (&question.source, &question.destination),
        Direction::Ingress => (&question.destination, &question.source),
    };
    if let Some((kind, why)) = snapshot.unsynced().first_key_value() {
        let why = why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        return DirectionVerdict::unknown(format!("{kind} objects are not synced yet{why}").into());
    }
    let pod = match &target.holder {
        Holder::Pod(pod) => pod,
        // No policy applies to a node, a hostNetwork pod or an address outside the cluster. That of
        // a Service is judged as it stands: whoever asks translates it first.
        Holder::Node(_) | Holder::Outside | Holder::Service(_) => {
            return DirectionVerdict::not_isolated();
        }
        Holder::Unknown(why) => return DirectionVerdict::unknown(why.clone()),
    };
    let subject = Subject {
        snapshot,
        peer,
        destination: &question.destination,
        port: question.port,
        protocol: question.protocol,
    };
    let (governing, doubts) = governing(snapshot, pod, direction);
    let mut verdict = DirectionVerdict::not_isolated();
    verdict.trace = governing.iter().map(|policy| trace(policy, direction, subject)).collect();
    verdict.isolating =
        governing.into_iter().filter(|policy| policy.layer == Layer::NetworkPolicy).collect();
    for rule in admitting(&verdict.trace) {
        verdict.allowed_by.push(rule);
    }
    verdict.decide();
    if !doubts.is_empty() {
        // A policy that perhaps selects the pod may turn the verdict either way.
        verdict.decision = Decision::Unknown;
        verdict.unknown = doubts;
    }
    verdict
}

/// The policies that select the pod in this direction, in order, and why others may.
fn governing(
    snapshot: &Snapshot,
    pod: &Pod,
    direction: Direction,
) -> (Vec<Arc<Policy>>, Vec<Arc<str>>) {
    let labels = snapshot.namespace(&pod.namespace).map(|namespace| &namespace.labels);
    let mut doubts = Vec::new();
    let mut governing = snapshot.policies().candidates(&pod.namespace, &pod.labels, labels);
    governing.retain(|policy| {
        policy.rules(direction).is_some()
            && match selects(snapshot, &policy.subject, pod) {
                Outcome::Match => true,
                Outcome::Miss(_) => false,
                Outcome::Unknown(why) => {
                    doubts.push(why);
                    false
                }
            }
    });
    governing.sort_by_cached_key(|policy| {
        let rules = policy.rules(direction).map_or(0, <[_]>::len);
        // "Rules with lower priority values have higher precedence"; the order of equal ones is
        // not defined. In the additive layer order decides nothing but who is named first.
        let rank = (policy.layer, policy.priority);
        match policy.layer {
            Layer::NetworkPolicy => {
                (rank, Reverse(policy.created), rules, policy.reference.clone())
            }
            _ => (rank, Reverse(None), 0, policy.reference.clone()),
        }
    });
    doubts.dedup();
    doubts.extend(snapshot.unread().iter().map(|(kind, count)| {
        format!("{count} of kind {kind}, which this version cannot read, may decide").into()
    }));
    (governing, doubts)
}

fn trace(policy: &Arc<Policy>, direction: Direction, subject: Subject<'_>) -> PolicyTrace {
    let rules = policy.rules(direction).unwrap_or_default().iter().enumerate();
    let rules = rules.map(|(index, rule)| RuleTrace {
        rule: index,
        action: rule.action,
        peer: peers(&rule.peers, subject),
        port: ports(&rule.ports, subject),
    });
    PolicyTrace { policy: policy.clone(), rules: rules.collect() }
}

/// The rules of the additive layer that admit the flow.
fn admitting(trace: &[PolicyTrace]) -> impl Iterator<Item = RuleRef> {
    let additive = trace.iter().filter(|trace| trace.policy.layer == Layer::NetworkPolicy);
    additive.flat_map(|trace| {
        let admitting = trace.rules.iter().filter(|rule| rule.matches() == Ok(true));
        admitting.map(|rule| trace.rule_ref(rule))
    })
}

impl PolicyTrace {
    /// Names a rule of this policy.
    pub fn rule_ref(&self, rule: &RuleTrace) -> RuleRef {
        RuleRef { policy: self.policy.reference.clone(), rule: rule.rule }
    }
}

/// What an ordered layer came to.
enum Ordered {
    Decided(Action, RuleRef),
    NextLayer,
    Unknown(Arc<str>),
}

impl DirectionVerdict {
    fn not_isolated() -> Self {
        Self {
            decision: Decision::NotIsolated,
            layer: None,
            isolating: Vec::new(),
            allowed_by: Vec::new(),
            denied_by: None,
            unknown: Vec::new(),
            trace: Vec::new(),
        }
    }

    fn unknown(why: Arc<str>) -> Self {
        Self { decision: Decision::Unknown, unknown: vec![why], ..Self::not_isolated() }
    }

    /// Admin rules first, then the isolating policies, then baseline rules; else it passes.
    fn decide(&mut self) {
        match self.ordered(Layer::Admin) {
            Ordered::NextLayer => {}
            ordered => return self.take(Layer::Admin, ordered),
        }
        if !self.isolating.is_empty() {
            return self.decide_additive();
        }
        let ordered = self.ordered(Layer::Baseline);
        self.take(Layer::Baseline, ordered);
    }

    /// "The effects of those policies do not conflict; they are additive": any rule that admits is
    /// enough, and a rule that cannot be decided leaves a denial open.
    fn decide_additive(&mut self) {
        self.layer = Some(Layer::NetworkPolicy);
        if !self.allowed_by.is_empty() {
            self.decision = Decision::Allowed;
            return;
        }
        let additive = self.trace.iter().filter(|t| t.policy.layer == Layer::NetworkPolicy);
        self.unknown =
            additive.flat_map(|t| &t.rules).filter_map(|rule| rule.matches().err()).collect();
        self.unknown.dedup();
        self.decision = if self.unknown.is_empty() { Decision::Denied } else { Decision::Unknown };
    }

    fn ordered(&self, layer: Layer) -> Ordered {
        for trace in self.trace.iter().filter(|trace| trace.policy.layer == layer) {
            for rule in &trace.rules {
                match (rule.matches(), rule.action) {
                    (Ok(false), _) => {}
                    (Err(why), _) => return Ordered::Unknown(why),
                    (Ok(true), Action::Pass) => return Ordered::NextLayer,
                    (Ok(true), action) => return Ordered::Decided(action, trace.rule_ref(rule)),
                }
            }
        }
        Ordered::NextLayer
    }

    fn take(&mut self, layer: Layer, ordered: Ordered) {
        match ordered {
            Ordered::NextLayer => {}
            Ordered::Unknown(why) => {
                self.decision = Decision::Unknown;
                self.unknown.push(why);
            }
            Ordered::Decided(action, rule) => {
                self.layer = Some(layer);
                if action == Action::Deny {
                    self.decision = Decision::Denied;
                    self.denied_by = Some(rule);
                } else {
                    self.decision = Decision::Allowed;
                    self.allowed_by.insert(0, rule);
                }
            }
        }
    }
}
