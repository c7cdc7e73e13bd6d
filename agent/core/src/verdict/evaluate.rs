//! The one evaluator: a flow's verdict in both directions, with the trace it rests on.

use std::{cmp::Reverse, sync::Arc};

use super::{
    Asking, Decision, DirectionVerdict, Exemption, PolicyTrace, Question, RuleTrace, SeenBy,
    Subject, Verdict,
    matching::{End, peers, ports},
    outcome::MatchOutcome,
    selects::selects,
    unread::{may_turn, on_second_networks},
    walk::{Ending, Stages, walk},
};
use crate::{
    cluster::{
        Snapshot,
        known_address::{Judged, KnownAddress},
        object::{Kind, Pod},
        profile::{Hairpin, OwnNode, Profile, Undeclared},
        resolve::{Endpoint, Holder},
    },
    flow::Direction,
    kinds,
    policy::{Layer, Policy, PolicyKind, Rule, RuleRef},
};

/// What the policies of a snapshot say of a flow.
pub fn evaluate(snapshot: &Snapshot, question: &Question) -> Verdict {
    let stages = Stages::of(snapshot);
    Verdict {
        revision: snapshot.revision(),
        exempt: exemption(snapshot.profile(), question),
        egress: judge(snapshot, &stages, question, Direction::Egress),
        ingress: judge(snapshot, &stages, question, Direction::Ingress),
    }
}

fn exemption(profile: &Profile, question: &Question) -> Option<Exemption> {
    let Question { source, destination, seen_by, .. } = question;
    let runs_on = |pod: &Pod, holder: &Holder| matches!(holder, Holder::Node(node) if pod.node.as_ref() == Some(&node.name));
    match (&source.holder, &destination.holder) {
        (Holder::Pod(a), Holder::Pod(b)) => {
            // Of a template there may be several pods.
            let same = (&a.namespace, &a.name) == (&b.namespace, &b.name) && !a.is_template;
            let is_policed = *seen_by == SeenBy::Hairpin && profile.hairpin == Hairpin::Policed;
            (same && !is_policed).then_some(Exemption::SamePod)
        }
        (Holder::Pod(_), Holder::Node(_)) if profile.own_node == OwnNode::ExemptToPod => None,
        (Holder::Pod(pod), other) | (other, Holder::Pod(pod)) => {
            runs_on(pod, other).then_some(Exemption::LocalNode)
        }
        _ => None,
    }
}

/// What policies say of packets with addresses that they do not judge.
fn unjudged(question: &Question) -> Option<DirectionVerdict> {
    let known = |end: &Endpoint| end.known_address().filter(|known| known.judged != Judged::Yes);
    let (source, destination) = (known(&question.source), known(&question.destination));
    if let Some(KnownAddress { judged: Judged::Never, .. }) = destination {
        return Some(DirectionVerdict::not_isolated());
    }
    let (end, known) = match (source, destination) {
        (_, Some(known)) => (&question.destination, known),
        (Some(known), None) => (&question.source, known),
        (None, None) => return None,
    };
    let why = format!("{} is {}: policies do not judge it", end.address_text(), known.what);
    Some(DirectionVerdict::unknown(why.into()))
}

/// No `NetworkPolicy` governs a pod on another network than the cluster's own.
fn on_second_network(
    snapshot: &Snapshot,
    pod: &Pod,
    network: &str,
    direction: Direction,
) -> DirectionVerdict {
    match on_second_networks(snapshot, pod, direction) {
        Some(may_decide) => DirectionVerdict::unknown(
            format!(
                "network {network} of pod {}/{} is a second one, which no NetworkPolicy governs: \
                 {may_decide}",
                pod.namespace, pod.name
            )
            .into(),
        ),
        None => DirectionVerdict::not_isolated(),
    }
}

fn judge(
    snapshot: &Snapshot,
    stages: &Stages,
    question: &Question,
    direction: Direction,
) -> DirectionVerdict {
    if let Some(verdict) = unjudged(question) {
        return verdict;
    }
    let (target, peer) = match direction {
        Direction::Egress => (&question.source, &question.destination),
        Direction::Ingress => (&question.destination, &question.source),
    };
    if !question.seen_by.includes(direction) {
        return DirectionVerdict::not_isolated();
    }
    if let Some(why) = not_synced(snapshot) {
        return DirectionVerdict::unknown(why);
    }
    let pod = match &target.holder {
        Holder::Pod(pod) => pod,
        // No policy that is read applies to a node, a hostNetwork pod or an address outside the
        // cluster. That of a Service is judged as it stands: the caller translates it first.
        Holder::Node(_) | Holder::Outside | Holder::Service(_) => {
            let verdict = DirectionVerdict::not_isolated();
            let why = may_turn(snapshot, &verdict, target, peer, direction);
            return why.map_or(verdict, DirectionVerdict::unknown);
        }
        // `NetworkPolicy` is about the network of the pod's `status.podIPs`.
        Holder::SecondNetwork(pod, network) => {
            return on_second_network(snapshot, pod, network, direction);
        }
        Holder::Hidden(hidden) => return DirectionVerdict::unknown(hidden.why.clone()),
        Holder::Unknown(why) => return DirectionVerdict::unknown(why.clone()),
    };
    let subject = Subject {
        snapshot,
        destination: &question.destination,
        port: question.port,
        protocol: question.protocol,
        family: question.source.address.or(question.destination.address),
        asking: None,
    };
    let (governing, mut doubts) = governing(snapshot, stages, pod, direction);
    let mut verdict = DirectionVerdict::not_isolated();
    let ends = (End::of(snapshot, target), End::of(snapshot, peer));
    let trace = |policy| trace(policy, direction, &ends, subject);
    verdict.trace = governing.iter().map(trace).collect();
    verdict.decide(stages);
    if verdict.decision != Decision::Denied {
        verdict.would_deny = would_deny(stages, &verdict.trace);
    }
    doubts.extend(may_turn(snapshot, &verdict, target, peer, direction));
    if !doubts.is_empty() {
        // A policy that perhaps selects the pod may turn the verdict either way.
        verdict.decision = Decision::Unknown;
        verdict.unknown.append(&mut doubts);
    }
    verdict
}

/// Of a kind that every verdict needs: that its objects are not all known.
fn not_synced(snapshot: &Snapshot) -> Option<Arc<str>> {
    // Service accounts are missed where a policy asks for their labels, and what a plugin says of nodes
    // where an address is nobody's. Pools say less of the sources of nodes where they are missing.
    let is_needed = |kind: &Kind| {
        !matches!(kind, Kind::ServiceAccount | Kind::PluginNode(_) | Kind::AddressPool)
    };
    let mut unsynced = snapshot.sync().unsynced().iter().filter(|(kind, _)| is_needed(kind));
    let (kind, why) = unsynced.next()?;
    let why = why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    Some(format!("{kind} objects are not synced yet{why}").into())
}

/// The policies that select the pod in this direction, in order, and why others may.
fn governing(
    snapshot: &Snapshot,
    stages: &Stages,
    pod: &Pod,
    direction: Direction,
) -> (Vec<Arc<Policy>>, Vec<Arc<str>>) {
    let labels = snapshot.namespace(&pod.namespace).map(|namespace| &namespace.labels);
    let mut doubts = Vec::new();
    let mut governing = Vec::new();
    let candidates = match pod.is_template {
        // Its pods will have labels that it has not.
        true => snapshot.policies().of_namespace(&pod.namespace),
        false => snapshot.policies().candidates(&pod.namespace, &pod.labels, labels),
    };
    for policy in candidates {
        if rules_of(snapshot, &policy, direction).is_none()
            || !is_in_force(snapshot.profile(), policy.reference.kind)
        {
            continue;
        }
        let placed = match selects(snapshot, &policy.subject, pod) {
            MatchOutcome::Miss(_) => continue,
            MatchOutcome::Unknown(why) => Err(why),
            MatchOutcome::Match => stages.place(&policy.layer),
        };
        match placed {
            Ok(place) => governing.push((place, policy)),
            Err(_) if policy.reference.kind.is_staged() => {}
            Err(why) => doubts.push(why),
        }
    }
    governing.sort_by_cached_key(|(place, policy)| {
        let rules = policy.written_rules(direction).map_or(0, <[_]>::len);
        // "Rules with lower priority values have higher precedence"; the order of equal ones is
        // not defined, and Calico's releases differ in it. Among Kubernetes' own policies, after
        // Calico's of the same order, it decides nothing but who is named first.
        let rank = (*place, policy.order, policy.layer == Layer::NetworkPolicy);
        match policy.layer {
            Layer::NetworkPolicy => {
                (rank, Reverse(policy.created), rules, policy.reference.clone())
            }
            _ => (rank, Reverse(None), 0, policy.reference.clone()),
        }
    });
    doubts.dedup();
    doubts.extend(unreadable(snapshot, &pod.namespace));
    (governing.into_iter().map(|(_, policy)| policy).collect(), doubts)
}

/// Policies that may govern the pods of a namespace, and that whoever asks may not read.
fn unreadable<'a>(
    snapshot: &'a Snapshot,
    namespace: &'a str,
) -> impl Iterator<Item = Arc<str>> + 'a {
    let decides = |kind: Kind| kinds::of(kind).decides();
    let unreadable = snapshot.sync().all_unreadable(namespace).filter(move |(k, ..)| decides(*k));
    unreadable.map(|(kind, namespace, why)| match namespace {
        Some(namespace) => {
            format!("{kind} objects of namespace {namespace} may decide: {why}").into()
        }
        None => format!("{kind} objects may decide: {why}").into(),
    })
}

/// The rules by which a policy governs a direction, as the engine takes it.
pub(crate) fn rules_of<'a>(
    snapshot: &Snapshot,
    policy: &'a Policy,
    direction: Direction,
) -> Option<&'a [Rule]> {
    match snapshot.profile().undeclared {
        Undeclared::Ignored => policy.rules(direction),
        Undeclared::Applied => policy.written_rules(direction),
    }
}

/// Whether the engine enforces policies of a kind, as far as is known. Whether it enforces any
/// `NetworkPolicy` is another question: what those say is asked anyway.
pub(super) fn is_in_force(profile: &Profile, kind: PolicyKind) -> bool {
    match kind {
        PolicyKind::AdminNetworkPolicy | PolicyKind::BaselineAdminNetworkPolicy => {
            profile.admin_policies.is_in_force()
        }
        _ => true,
    }
}

fn trace(
    policy: &Arc<Policy>,
    direction: Direction,
    (own, peer): &(End<'_>, End<'_>),
    subject: Subject<'_>,
) -> PolicyTrace {
    let rules = policy.written_rules(direction).unwrap_or_default().iter().enumerate();
    let rules = rules.map(|(index, rule)| {
        let asking = Asking { policy: &policy.reference, direction, rule: index };
        let subject = Subject { asking: Some(asking), ..subject };
        RuleTrace {
            rule: index,
            name: rule.name.clone(),
            action: rule.action,
            own: peers(&rule.own, own, subject),
            peer: peers(&rule.peers, peer, subject),
            port: ports(rule, subject),
        }
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
fn would_deny(stages: &Stages, trace: &[PolicyTrace]) -> Vec<Arc<Policy>> {
    let staged = trace.iter().filter(|trace| trace.is_staged());
    let denying = staged.filter(|one| {
        let with_one = trace.iter().filter(|t| !t.is_staged() || std::ptr::eq(*t, *one));
        matches!(walk(stages, with_one).end, Ending::Denied { .. })
    });
    denying.map(|trace| trace.policy.clone()).collect()
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

    pub(super) fn unknown(why: Arc<str>) -> Self {
        Self { decision: Decision::Unknown, unknown: vec![why], ..Self::not_isolated() }
    }

    fn decide(&mut self, stages: &Stages) {
        let walk = walk(stages, self.trace.iter().filter(|trace| !trace.is_staged()));
        self.passed = walk.passed;
        self.allowed_by = admitting(&self.trace).collect();
        match walk.end {
            Ending::Nowhere => {}
            Ending::Allowed { layer, by } => {
                self.decision = Decision::Allowed;
                if !self.allowed_by.contains(&by) {
                    self.allowed_by.insert(0, by);
                }
                self.layer = Some(layer);
            }
            Ending::Denied { layer, by } => {
                self.decision = Decision::Denied;
                self.denied_by = by;
                self.layer = Some(layer);
            }
            Ending::Unknown { layer, why } => {
                self.decision = Decision::Unknown;
                self.unknown = why;
                self.layer = Some(layer).filter(|layer| layer.tier().is_some());
            }
        }
        self.isolating = self.isolating(stages);
    }

    fn isolating(&self, stages: &Stages) -> Vec<Arc<Policy>> {
        let decided = self.layer.as_ref().and_then(Layer::tier);
        let last = self.layer.as_ref().filter(|_| decided.is_some());
        let last = last.and_then(|layer| stages.place(layer).ok());
        let governs = |trace: &&PolicyTrace| {
            let place = stages.place(trace.layer()).ok();
            let is_tier = trace.layer().tier().is_some() && !trace.is_staged();
            is_tier && last.as_ref().is_none_or(|last| place.as_ref() <= Some(last))
        };
        let mut isolating: Vec<_> = self.trace.iter().filter(governs).collect();
        isolating.sort_by_cached_key(|trace| {
            let PolicyTrace { policy, rules } = trace;
            let elsewhere = policy.layer.tier() != decided;
            // A remedy isolates what it was not made for only beside what isolated that before.
            let is_remedy = policy.is_remedy;
            (elsewhere, is_remedy, Reverse(policy.created), rules.len(), policy.reference.clone())
        });
        isolating.into_iter().map(|trace| trace.policy.clone()).collect()
    }
}
