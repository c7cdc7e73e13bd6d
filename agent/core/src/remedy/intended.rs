//! A policy that admits the flow, and whose own selector just misses the pod: perhaps it was written
//! for it.

use std::{fmt, sync::Arc};

use super::{
    labels::{is_plain, question_in, simple_labels},
    selection,
};
use crate::{
    cluster::{
        Snapshot,
        object::{Pod, Workload},
    },
    diagnosis::Diagnosis,
    flow::Direction,
    policy::{Namespaces, Policy, PolicyRef, selector::Selector},
    verdict::evaluate,
};

/// How many policies of a namespace are tried: each costs an evaluation and a copy of its pods.
const POLICIES_MAX: usize = 16;

/// That pods be given the label by which a policy would select them that admits the flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelPods {
    /// The policy.
    pub policy: PolicyRef,
    /// In which direction it admits the flow.
    pub direction: Direction,
    /// Its rule that does, by its index.
    pub rule: usize,
    /// A pod that it does not select: `NAMESPACE/NAME`.
    pub pod: String,
    /// What made the pod: its template has to have the label.
    pub workload: Option<Workload>,
    /// The label that the pod lacks: `component=server`.
    pub label: String,
    /// What its value is instead.
    pub found: Option<String>,
    /// The command that gives it; none where only its maker knows how.
    pub command: Option<String>,
}

impl fmt::Display for LabelPods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, direction, rule, pod, label, .. } = self;
        let kind = policy.kind;
        write!(
            f,
            "{kind} {policy} admits this by {direction} rule {rule}, but does not select {pod}: it \
             asks for the label {label}"
        )?;
        match &self.found {
            Some(found) => write!(f, ", and the pod's is {found}")?,
            None => f.write_str(", which the pod lacks")?,
        }
        f.write_str("; if it was intended for these pods, ")?;
        match (&self.command, &self.workload) {
            (Some(command), Some(_)) => write!(f, "{command} (which replaces the pods)"),
            (Some(command), None) => write!(f, "{command}"),
            (None, Some(Workload { kind, name })) => {
                write!(
                    f,
                    "let the pods of {kind} {name} have it, or its owner widen its podSelector"
                )
            }
            (None, None) => f.write_str("let the pod have it, or its owner widen its podSelector"),
        }
    }
}

/// The policies of the denied pod's namespace that would admit the flow if the pod had one more
/// label, or another value of one, and the cluster in which all pods of its owner have it.
pub(super) fn intended(snapshot: &Snapshot, diagnosis: &Diagnosis) -> Vec<(LabelPods, Snapshot)> {
    let Some(direction) = diagnosis.cause.direction else { return Vec::new() };
    let target = match direction {
        Direction::Egress => &diagnosis.question.source,
        Direction::Ingress => &diagnosis.question.destination,
    };
    let Some(pod) = target.pod() else { return Vec::new() };
    let mut candidates: Vec<_> = snapshot
        .policies()
        .iter()
        .filter(|policy| policy.rules(direction).is_some_and(|rules| !rules.is_empty()))
        .filter_map(|policy| Some((policy, missing(policy, pod)?)))
        .collect();
    candidates.sort_by(|(a, _), (b, _)| a.reference.cmp(&b.reference));
    let tried = candidates.into_iter().take(POLICIES_MAX);
    tried
        .filter_map(|(policy, label)| with_label(snapshot, diagnosis, policy, pod, label))
        .collect()
}

type Label = (Arc<str>, Arc<str>);

/// The one label that a policy of the pod's namespace asks for and that the pod has not.
fn missing(policy: &Policy, pod: &Pod) -> Option<Label> {
    let is_own = policy.subject.namespaces == Namespaces::Own(pod.namespace.clone());
    if !is_own || policy.reference.kind.is_staged() || policy.subject.accounts.is_some() {
        return None;
    }
    let selector = &policy.subject.pods;
    if !is_plainly_labels(selector) || selector.unmet(&pod.labels).count() != 1 {
        return None;
    }
    simple_labels(selector.unmet(&pod.labels))?.pop()
}

/// Whether a selector asks for nothing but what its requirements say.
fn is_plainly_labels(selector: &Selector) -> bool {
    let parts = selector.expression().map_or(0, |expression| expression.conjuncts().len());
    selector.expression().is_none() || parts == selector.requirements().len()
}

fn with_label(
    snapshot: &Snapshot,
    diagnosis: &Diagnosis,
    policy: &Policy,
    pod: &Pod,
    (key, value): Label,
) -> Option<(LabelPods, Snapshot)> {
    let direction = diagnosis.cause.direction?;
    let mut after = snapshot.clone();
    for replica in selection::replicas(snapshot, pod).map(|replica| &**replica).chain([pod]) {
        let mut relabelled = Pod::clone(replica);
        relabelled.labels.insert(key.clone(), value.clone());
        after = after.with_pod(relabelled);
    }
    let verdict = evaluate(&after, &question_in(&after, &diagnosis.question));
    let admits = verdict.direction(direction).allowed_by.iter();
    let rule =
        admits.filter(|rule| rule.policy == policy.reference).map(|rule| rule.rule).next()?;
    let label = LabelPods {
        policy: policy.reference.clone(),
        direction,
        rule,
        pod: format!("{}/{}", pod.namespace, pod.name),
        workload: pod.workload.clone(),
        label: format!("{key}={value}"),
        found: pod.labels.get(&key).map(|found| format!("{key}={found}")),
        command: command(pod, &key, &value),
    };
    Some((label, after))
}

/// The kinds whose template is at `spec.template`, as `kubectl` names them. A Job's cannot be changed.
const TEMPLATED: [(&str, &str); 3] =
    [("Deployment", "deployment"), ("StatefulSet", "statefulset"), ("DaemonSet", "daemonset")];

/// The command that gives the label. None for one that the pods have with another value: their
/// owner may select them by it, which cannot be changed.
fn command(pod: &Pod, key: &Arc<str>, value: &str) -> Option<String> {
    let Pod { namespace, name, .. } = pod;
    if pod.labels.contains_key(key) || !is_plain(namespace) || !is_plain(name) {
        return None;
    }
    let Some(Workload { kind, name }) = &pod.workload else {
        return Some(format!("kubectl -n {namespace} label pod {name} {key}={value}"));
    };
    let (_, resource) = TEMPLATED.iter().find(|(known, _)| **known == **kind)?;
    if !is_plain(name) {
        return None;
    }
    let labels = format!("{{\"{key}\":\"{value}\"}}");
    let patch = format!("{{\"spec\":{{\"template\":{{\"metadata\":{{\"labels\":{labels}}}}}}}}}");
    Some(format!("kubectl -n {namespace} patch {resource} {name} --type merge --patch '{patch}'"))
}
