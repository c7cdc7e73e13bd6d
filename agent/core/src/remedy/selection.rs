//! Which labels stand for a pod.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::{
    cluster::{Snapshot, object::Pod},
    policy::{
        requirement::{Labels, Operator, Requirement},
        selector::Selector,
    },
};

/// Labels that controllers put on single pods or revisions: a rule by them ends with the rollout.
const PASSING: [&str; 9] = [
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "controller-uid",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "job-name",
];

/// Labels by which people name what a pod is, the most distinctive first.
const DISTINCTIVE: [&str; 8] = [
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/component",
    "app",
    "k8s-app",
    "name",
    "component",
    "role",
];

/// The labels that stand for a pod: the most distinctive one, and as many more as it takes to leave
/// out the pods of its namespace that all of its lasting labels leave out.
pub(super) fn pod_labels(snapshot: &Snapshot, pod: &Pod) -> BTreeMap<String, String> {
    let mut lasting: Vec<(&Arc<str>, &Arc<str>)> =
        pod.labels.iter().filter(|(key, _)| !PASSING.contains(&&***key)).collect();
    let weight =
        |key: &str| DISTINCTIVE.iter().position(|k| *k == key).unwrap_or(DISTINCTIVE.len());
    lasting.sort_by_key(|(key, _)| (weight(key), (*key).clone()));
    let neighbours: Vec<_> =
        snapshot.pods().filter(|other| other.namespace == pod.namespace).collect();
    let selected = |labels: &[(&Arc<str>, &Arc<str>)]| {
        let has = |other: &Labels| labels.iter().all(|(key, value)| other.get(*key) == Some(value));
        neighbours.iter().filter(|other| has(&other.labels)).count()
    };
    let fewest = selected(&lasting);
    let mut chosen = Vec::new();
    for label in lasting {
        let before = selected(&chosen);
        if !chosen.is_empty() && before == fewest {
            break;
        }
        chosen.push(label);
        if chosen.len() > 1 && selected(&chosen) == before {
            chosen.pop();
        }
    }
    chosen.into_iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// Selects the pod, and only pods that a policy with the selector `isolating` isolates already: a
/// new policy must not isolate a pod that is open now, nor one that will come.
pub(super) fn target_selector(
    snapshot: &Snapshot,
    pod: &Pod,
    isolating: &Selector,
) -> LabelSelector {
    let mut labels = pod_labels(snapshot, pod);
    let mut expressions = Vec::new();
    for requirement in isolating.requirements() {
        if labels.contains_key(&*requirement.key) {
            // The pod's own value meets it, as the policy selects the pod.
            continue;
        }
        match (&requirement.operator, pod.labels.get(&requirement.key)) {
            (Operator::In(values), Some(value)) if values.len() == 1 => {
                labels.insert(requirement.key.to_string(), value.to_string());
            }
            _ => expressions.extend(expression(requirement)),
        }
    }
    LabelSelector {
        match_labels: (!labels.is_empty()).then_some(labels),
        match_expressions: (!expressions.is_empty()).then_some(expressions),
    }
}

fn expression(requirement: &Requirement) -> Option<LabelSelectorRequirement> {
    let (operator, values) = match &requirement.operator {
        Operator::In(values) => ("In", values.as_slice()),
        Operator::NotIn(values) => ("NotIn", values.as_slice()),
        Operator::Exists => ("Exists", &[][..]),
        Operator::DoesNotExist => ("DoesNotExist", &[][..]),
        // Calico's: no policy of Kubernetes can ask for it.
        Operator::Contains(_) | Operator::StartsWith(_) | Operator::EndsWith(_) => return None,
    };
    Some(LabelSelectorRequirement {
        key: requirement.key.to_string(),
        operator: operator.to_owned(),
        values: (!values.is_empty()).then(|| values.iter().map(ToString::to_string).collect()),
    })
}
