//! The one evaluator: a flow's verdict in both directions, with the trace it rests on.

use std::{cmp::Reverse, fmt, sync::Arc};

use super::{
    Action, Layer, Policy, PolicyKind, RuleRef,
    matching::{End, Outcome, PeerMiss, PortMiss, Subject, peers, ports, selects},
    tier::Tier,
    walk::{Ending, Layers, walk},
};
use crate::{
    cluster::{
        Engine, Snapshot,
        object::{Kind, Pod},
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

impl fmt::Display for Question {
    /// `frontend/pod-a -> backend/pod-b:8080/TCP`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, destination, port, protocol } = self;
        write!(f, "{source} -> {destination}:{port}/{protocol}")
    }
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
/// Calico lets a node reach its pods, and polices what a pod sends to its node.
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
    /// Which layer decided: by a rule, or a tier by its end. None did where the flow passes for
    /// want of anything that decides.
    pub layer: Option<Layer>,
    /// Every policy of a tier that selects the pod in this direction, up to the tier that decided,
    /// or of all tiers where none did; first those of the tier that decided, and of those the one
    /// that leads: the latest, then the one with the fewest rules, then by name.
    pub isolating: Vec<Arc<Policy>>,
    /// The rule that allowed it, and every rule of Kubernetes' policies that admits it.
    pub allowed_by: Vec<RuleRef>,
    /// The ordered rule that denied it; none where a tier's end did.
    pub denied_by: Option<RuleRef>,
    /// The tiers that passed the flow on.
    pub passed: Vec<Passed>,
    /// Staged policies that would deny the flow, which passes as it is, were they in force.
    pub would_deny: Vec<Arc<Policy>>,
    /// Why it is unknown; not empty only then.
    pub unknown: Vec<Arc<str>>,
    /// Policy by policy, rule by rule, of those that select the pod.
    pub trace: Vec<PolicyTrace>,
}

/// A tier that passed a flow on to the next.
#[derive(Clone, Debug, PartialEq)]
pub struct Passed {
    /// The tier.
    pub tier: Arc<Tier>,
    /// The rule that did; `None`: the tier's end.
    pub rule: Option<RuleRef>,
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
    /// What it does when all of it matches.
    pub action: Action,
    /// Whether what it asks of the pod itself matches.
    pub own: Outcome<PeerMiss>,
    /// Whether `from`/`to` matches.
    pub peer: Outcome<PeerMiss>,
    /// Whether `ports` matches.
    pub port: Outcome<PortMiss>,
}

impl RuleTrace {
    /// Whether all of it matches; `Err` names what cannot be told.
    pub fn matches(&self) -> Result<bool, Arc<str>> {
        match (&self.own, &self.peer, &self.port) {
            (Outcome::Miss(_), ..) | (_, Outcome::Miss(_), _) | (.., Outcome::Miss(_)) => Ok(false),
            (Outcome::Match, Outcome::Match, Outcome::Match) => Ok(true),
            (Outcome::Unknown(why), ..)
            | (_, Outcome::Unknown(why), _)
            | (.., Outcome::Unknown(why)) => Err(why.clone()),
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
        exempt: exemption(snapshot.engine(), &question.source, &question.destination),
        egress: judge(snapshot, question, Direction::Egress),
        ingress: judge(snapshot, question, Direction::Ingress),
    }
}

fn exemption(engine: Engine, source: &Endpoint, destination: &Endpoint) -> Option<Exemption> {
    let runs_on = |pod: &Pod, holder: &Holder| matches!(holder, Holder::Node(node) if pod.node.as_ref() == Some(&node.name));
    match (&source.holder, &destination.holder) {
        (Holder::Pod(a), Holder::Pod(b)) => {
            let same = (&a.namespace, &a.name) == (&b.namespace, &b.name);
            same.then_some(Exemption::SamePod)
        }
        (Holder::Pod(_), Holder::Node(_)) if engine == Engine::Calico => None,
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
    // Service accounts are missed where a policy asks for their labels.
    let mut unsynced =
        snapshot.unsynced().iter().filter(|(kind, _)| **kind != Kind::ServiceAccount);
    if let Some((kind, why)) = unsynced.next() {
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
        destination: &question.destination,
        port: question.port,
        protocol: question.protocol,
    };
    let layers = Layers { snapshot };
    let (governing, doubts) = governing(&layers, pod, direction);
    let mut verdict = DirectionVerdict::not_isolated();
    let ends = (End::of(snapshot, target), End::of(snapshot, peer));
    let trace = |policy| trace(policy, direction, &ends, subject);
    verdict.trace = governing.iter().map(trace).collect();
    verdict.decide(&layers);
    if verdict.decision != Decision::Denied {
        verdict.would_deny = would_deny(&layers, &verdict.trace);
    }
    if !doubts.is_empty() {
        // A policy that perhaps selects the pod may turn the verdict either way.
        verdict.decision = Decision::Unknown;
        verdict.unknown = doubts;
    }
    verdict
}

/// The policies that select the pod in this direction, in order, and why others may.
fn governing(
    layers: &Layers<'_>,
    pod: &Pod,
    direction: Direction,
) -> (Vec<Arc<Policy>>, Vec<Arc<str>>) {
    let snapshot = layers.snapshot;
    let labels = snapshot.namespace(&pod.namespace).map(|namespace| &namespace.labels);
    let mut doubts = Vec::new();
    let mut governing = Vec::new();
    for policy in snapshot.policies().candidates(&pod.namespace, &pod.labels, labels) {
        if policy.rules(direction).is_none() {
            continue;
        }
        let placed = match selects(snapshot, &policy.subject, pod) {
            Outcome::Miss(_) => continue,
            Outcome::Unknown(why) => Err(why),
            Outcome::Match => layers.place(&policy.layer),
        };
        match placed {
            Ok(place) => governing.push((place, policy)),
            Err(_) if policy.reference.kind.is_staged() => {}
            Err(why) => doubts.push(why),
        }
    }
    governing.sort_by_cached_key(|(place, policy)| {
        let rules = policy.rules(direction).map_or(0, <[_]>::len);
        // "Rules with lower priority values have higher precedence"; the order of equal ones is
        // not defined, and Calico's releases differ in it. Among Kubernetes' own policies, after
        // Calico's of the same order, it decides nothing but who is named first.
        let rank = (place.clone(), policy.order, policy.layer == Layer::NetworkPolicy);
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
    (governing.into_iter().map(|(_, policy)| policy).collect(), doubts)
}

fn trace(
    policy: &Arc<Policy>,
    direction: Direction,
    (own, peer): &(End<'_>, End<'_>),
    subject: Subject<'_>,
) -> PolicyTrace {
    let rules = policy.rules(direction).unwrap_or_default().iter().enumerate();
    let rules = rules.map(|(index, rule)| RuleTrace {
        rule: index,
        action: rule.action,
        own: peers(&rule.own, own, subject),
        peer: peers(&rule.peers, peer, subject),
        port: ports(rule, subject),
    });
    PolicyTrace { policy: policy.clone(), rules: rules.collect() }
}

/// The rules of Kubernetes' policies that admit the flow.
fn admitting(trace: &[PolicyTrace]) -> impl Iterator<Item = RuleRef> {
    let additive =
        trace.iter().filter(|trace| trace.policy.reference.kind == PolicyKind::NetworkPolicy);
    additive.flat_map(|trace| {
        let admitting = trace.rules.iter().filter(|rule| rule.matches() == Ok(true));
        admitting.map(|rule| trace.rule_ref(rule))
    })
}

/// The staged policies that would each turn a walk that ends otherwise into a denial.
fn would_deny(layers: &Layers<'_>, trace: &[PolicyTrace]) -> Vec<Arc<Policy>> {
    let staged = trace.iter().filter(|trace| trace.is_staged());
    let denying = staged.filter(|one| {
        let with_one = trace.iter().filter(|t| !t.is_staged() || std::ptr::eq(*t, *one));
        let end = walk(layers, with_one).end;
        matches!(end, Ending::AtEndOfTier(_) | Ending::AtRule { is_allowed: false, .. })
    });
    denying.map(|trace| trace.policy.clone()).collect()
}

impl PolicyTrace {
    /// Where the policy stands.
    pub fn layer(&self) -> &Layer {
        &self.policy.layer
    }

    /// Whether the policy is only looked at.
    pub fn is_staged(&self) -> bool {
        self.policy.reference.kind.is_staged()
    }

    /// Names a rule of this policy.
    pub fn rule_ref(&self, rule: &RuleTrace) -> RuleRef {
        RuleRef { policy: self.policy.reference.clone(), rule: rule.rule }
    }
}

impl DirectionVerdict {
    fn not_isolated() -> Self {
        Self {
            decision: Decision::NotIsolated,
            layer: None,
            isolating: Vec::new(),
            allowed_by: Vec::new(),
            denied_by: None,
            passed: Vec::new(),
            would_deny: Vec::new(),
            unknown: Vec::new(),
            trace: Vec::new(),
        }
    }

    fn unknown(why: Arc<str>) -> Self {
        Self { decision: Decision::Unknown, unknown: vec![why], ..Self::not_isolated() }
    }

    /// The policies behind a denial: that of the rule, or all that isolate the pod in the tier
    /// whose end it is.
    pub fn responsible(&self) -> Vec<Arc<Policy>> {
        if self.decision != Decision::Denied {
            return Vec::new();
        }
        let tier = self.layer.as_ref().and_then(Layer::tier);
        if let Some(rule) = &self.denied_by {
            let named = self.trace.iter().filter(|t| t.policy.reference == rule.policy);
            return named.map(|trace| trace.policy.clone()).collect();
        }
        let of_tier = self.isolating.iter().filter(|policy| policy.layer.tier() == tier);
        of_tier.cloned().collect()
    }

    fn decide(&mut self, layers: &Layers<'_>) {
        let walk = walk(layers, self.trace.iter().filter(|trace| !trace.is_staged()));
        self.passed = walk.passed;
        self.allowed_by = admitting(&self.trace).collect();
        match walk.end {
            Ending::Nowhere => {}
            Ending::AtRule { layer, rule, is_allowed: true } => {
                self.decision = Decision::Allowed;
                if !self.allowed_by.contains(&rule) {
                    self.allowed_by.insert(0, rule);
                }
                self.layer = Some(layer);
            }
            Ending::AtRule { layer, rule, is_allowed: false } => {
                self.decision = Decision::Denied;
                self.denied_by = Some(rule);
                self.layer = Some(layer);
            }
            Ending::AtEndOfTier(layer) => {
                self.decision = Decision::Denied;
                self.layer = Some(layer);
            }
            Ending::Unknown { layer, why } => {
                self.decision = Decision::Unknown;
                self.unknown = why;
                self.layer = Some(layer).filter(|layer| layer.tier().is_some());
            }
        }
        self.isolating = self.isolating(layers);
    }

    fn isolating(&self, layers: &Layers<'_>) -> Vec<Arc<Policy>> {
        let decided = self.layer.as_ref().and_then(Layer::tier);
        let last = self.layer.as_ref().filter(|_| decided.is_some());
        let last = last.and_then(|layer| layers.place(layer).ok());
        let governs = |trace: &&PolicyTrace| {
            let place = layers.place(trace.layer()).ok();
            let is_tier = trace.layer().tier().is_some() && !trace.is_staged();
            is_tier && last.as_ref().is_none_or(|last| place.as_ref() <= Some(last))
        };
        let mut isolating: Vec<_> = self.trace.iter().filter(governs).collect();
        isolating.sort_by_cached_key(|trace| {
            let PolicyTrace { policy, rules } = trace;
            let elsewhere = policy.layer.tier() != decided;
            (elsewhere, Reverse(policy.created), rules.len(), policy.reference.clone())
        });
        isolating.into_iter().map(|trace| trace.policy.clone()).collect()
    }
}
