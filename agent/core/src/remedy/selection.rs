//! Which labels stand for a pod: those that its owner's template makes lasting.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::{
    cluster::{
        Snapshot,
        lasting::{Says, is_sort, passing, says},
        object::{Pod, Workload},
    },
    policy::{
        Policy,
        requirement::{Labels, Operator, Requirement},
        selector::Selector,
    },
};

/// The labels by which controllers mark the revision of a template.
const REVISIONS: [&str; 3] =
    ["pod-template-hash", "controller-revision-hash", "rollouts-pod-template-hash"];

/// The pods of one owner: what a rule for one of them is to be for. A pod that nothing owns stands
/// for itself.
pub(super) fn replicas<'a>(
    snapshot: &'a Snapshot,
    pod: &'a Pod,
) -> impl Iterator<Item = &'a Arc<Pod>> {
    let owner = snapshot.workloads_of(pod).pop();
    snapshot.pods().filter(move |other| is_replica(snapshot, pod, owner.as_ref(), other))
}

fn is_replica(snapshot: &Snapshot, pod: &Pod, owner: Option<&Workload>, other: &Pod) -> bool {
    if other.namespace != pod.namespace {
        return false;
    }
    match owner {
        Some(owner) => snapshot.workloads_of(other).last() == Some(owner),
        None => other.name == pod.name,
    }
}

/// The labels that stand for a pod: those by which all pods of its owner are selected, and as few
/// others of its namespace as its lasting labels allow; of such sets a small one, with the name of
/// the application in it. Empty: it has no label that lasts.
pub(super) fn pod_labels(snapshot: &Snapshot, pod: &Pod) -> BTreeMap<String, String> {
    let of_owner: Vec<&Labels> = replicas(snapshot, pod).map(|other| &other.labels).collect();
    let template = snapshot.template_of(pod).map(|template| &template.pod.labels);
    let mut lasting = lasting(pod, &of_owner, template);
    if lasting.is_empty() {
        // Its template has other labels now: those of the pod's own revision.
        let revision = |labels: &Labels| REVISIONS.map(|key| labels.get(key).cloned());
        let own: Vec<&Labels> =
            of_owner.into_iter().filter(|l| revision(l) == revision(&pod.labels)).collect();
        lasting = self::lasting(pod, &own, None);
    }
    lasting.sort_by_key(|(key, _)| (says(key), (*key).clone()));
    let owner = snapshot.workloads_of(pod).pop();
    let others: Vec<&Labels> = snapshot
        .pods_and_templates()
        .filter(|other| other.namespace == pod.namespace && !other.host_network)
        .filter(|other| !is_replica(snapshot, pod, owner.as_ref(), other))
        .filter(|other| other.name != pod.name)
        .map(|other| &other.labels)
        .collect();
    chosen(&lasting, &others).into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}

type Label<'a> = (&'a Arc<str>, &'a Arc<str>);

/// The labels of a pod that all of these, and the template, have as well and that are known to last.
fn lasting<'a>(pod: &'a Pod, of_owner: &[&Labels], template: Option<&Labels>) -> Vec<Label<'a>> {
    let lasts = |(key, value): &Label<'_>| {
        of_owner.iter().copied().chain(template).all(|labels| labels.get(*key) == Some(*value))
            && passing(pod, key, value, template.is_some()).is_none()
    };
    pod.labels.iter().filter(lasts).collect()
}

/// As few of these labels, the best first, as leave out all others that all of them leave out.
fn chosen<'a>(lasting: &[Label<'a>], others: &[&Labels]) -> Vec<(&'a str, &'a str)> {
    let selected = |labels: &[Label<'_>]| {
        let has = |other: &&&Labels| labels.iter().all(|(k, v)| other.get(*k) == Some(*v));
        others.iter().filter(has).count()
    };
    let fewest = selected(lasting);
    let is_named = |label: &Label<'_>| matches!(says(label.0), Says::Name(_));
    let mut chosen: Vec<Label<'_>> = Vec::new();
    for label in lasting {
        let before = selected(&chosen);
        if !chosen.is_empty() && before == fewest {
            break;
        }
        chosen.push(*label);
        if chosen.len() > 1 && selected(&chosen) == before {
            chosen.pop();
        }
    }
    // What came first may be of no use beside what came later; a name is of use to people.
    let mut place = chosen.len();
    while place > 0 && chosen.len() > 1 {
        place -= 1;
        let mut without = chosen.clone();
        without.remove(place);
        if !is_named(&chosen[place]) && selected(&without) == fewest {
            chosen = without;
        }
    }
    let sorts = lasting.iter().filter(|(key, _)| is_sort(key));
    let sorts: Vec<_> = sorts.filter(|sort| !chosen.contains(sort)).copied().collect();
    chosen.extend(sorts);
    chosen.into_iter().map(|(key, value)| (&**key, &**value)).collect()
}

/// Of the policies that isolate a pod, the one whose selector asks least beside these labels, and
/// nothing that does not last: a new policy may select only what is isolated already.
pub(super) fn isolating<'a>(
    pod: &Pod,
    labels: &BTreeMap<String, String>,
    policies: &'a [Arc<Policy>],
) -> Option<&'a Arc<Policy>> {
    let cost = |policy: &&Arc<Policy>| {
        let asked = policy.subject.pods.requirements().iter();
        let asked: Vec<_> = asked.filter(|r| !labels.contains_key(&*r.key)).collect();
        let is_passing = |requirement: &&Requirement| {
            let value = pod.labels.get(&requirement.key);
            value.is_some_and(|value| passing(pod, &requirement.key, value, false).is_some())
        };
        (asked.iter().any(is_passing), asked.len())
    };
    // The first of those that cost the same: the one that leads.
    policies.iter().min_by_key(cost)
}

/// Selects the pod by these labels, and only pods that a policy with the selector `isolating`
/// isolates already: a new policy must not isolate a pod that is open now, nor one that will come.
pub(super) fn target_selector(
    pod: &Pod,
    mut labels: BTreeMap<String, String>,
    isolating: &Selector,
) -> LabelSelector {
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
