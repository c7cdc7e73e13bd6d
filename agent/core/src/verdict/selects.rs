//! Which pods selectors select: by namespace, by their own labels and by service account.

use std::sync::Arc;

use super::outcome::{LabelMiss, MatchOutcome, label_list};
use crate::{
    cluster::{
        Snapshot,
        object::{Kind, Pod},
    },
    policy::{
        Accounts, NAMESPACE_NAME_LABEL, Namespaces, PodPeer, given_label,
        requirement::{Labelled, Labels},
    },
};

/// The labels that Calico gives a pod.
fn given_to_pod(pod: &Pod) -> [(&str, &str); 3] {
    [
        (given_label::NAMESPACE, &pod.namespace),
        (given_label::SERVICE_ACCOUNT, &pod.service_account),
        (given_label::ORCHESTRATOR, "k8s"),
    ]
}

/// The label that Calico gives a namespace.
fn given_to_namespace(name: &str) -> [(&str, &str); 1] {
    [(given_label::NAME, name)]
}

/// Whether the peer (or a policy's subject) selects a pod: by its namespace, its own labels and its
/// service account.
pub fn selects(
    snapshot: &Snapshot,
    wanted: &PodPeer,
    pod: &Pod,
) -> MatchOutcome<(Option<LabelMiss>, Option<LabelMiss>)> {
    let of = Labelled { given: &given_to_pod(pod), ..Labelled::from(&pod.labels) };
    let mut unknown = None;
    let mut pod_miss = (!wanted.pods.matches(of)).then(|| {
        let found = format!("pod {}/{}: {}", pod.namespace, pod.name, label_list(&pod.labels));
        LabelMiss::of("pod", &wanted.pods, of, found)
    });
    if let Some(why) = of_controllers(wanted, pod, of) {
        (pod_miss, unknown) = (None, Some(why));
    }
    if let Some(accounts) = &wanted.accounts {
        match account(snapshot, accounts, pod) {
            MatchOutcome::Match => {}
            MatchOutcome::Unknown(why) => unknown = Some(why),
            MatchOutcome::Miss(miss) => pod_miss = pod_miss.or(Some(miss)),
        }
    }
    match namespace(snapshot, &wanted.namespaces, &pod.namespace) {
        MatchOutcome::Miss(namespace) => MatchOutcome::Miss((Some(namespace), pod_miss)),
        // Whatever else is not known, this does not match.
        _ if pod_miss.is_some() => MatchOutcome::Miss((None, pod_miss)),
        MatchOutcome::Unknown(why) => MatchOutcome::Unknown(why),
        MatchOutcome::Match => unknown.map_or(MatchOutcome::Match, MatchOutcome::Unknown),
    }
}

/// Labels that controllers give to the pods that they make, with values that nobody knows before.
///
/// <https://kubernetes.io/docs/reference/labels-annotations-taints/>
const GIVEN_BY_CONTROLLERS: [&str; 10] = [
    "pod-template-hash",
    "pod-template-generation",
    "controller-revision-hash",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "controller-uid",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "batch.kubernetes.io/job-completion-index",
    "job-name",
];

/// Why it is unknown whether pods that are to come are selected: all that is asked of them beside is so,
/// and the rest is for their controller to say.
fn of_controllers(wanted: &PodPeer, pod: &Pod, of: Labelled<'_>) -> Option<Arc<str>> {
    if !pod.is_template {
        return None;
    }
    let unknown = |key: &&str| !pod.labels.contains_key(*key);
    let keys: Vec<&str> = GIVEN_BY_CONTROLLERS.into_iter().filter(unknown).collect();
    if !wanted.pods.asks_for(&keys) {
        return None;
    }
    let (given, rest) = wanted.pods.split(&keys);
    (!given.is_everything() && rest.matches(of)).then(|| {
        let Pod { namespace, name, .. } = pod;
        format!("whether pods of {namespace}/{name} have {given} is unknown before they are there")
            .into()
    })
}

/// Whether a namespace is wanted.
pub(super) fn namespace(
    snapshot: &Snapshot,
    wanted: &Namespaces,
    name: &Arc<str>,
) -> MatchOutcome<LabelMiss> {
    let selector = match wanted {
        Namespaces::Own(own) if own == name => return MatchOutcome::Match,
        Namespaces::Own(own) => {
            return MatchOutcome::Miss(LabelMiss {
                wanted: format!("pods of the policy's own namespace {own} (no namespaceSelector)"),
                found: format!("namespace {name}"),
                unmet: 1,
                is_other_namespace: true,
            });
        }
        Namespaces::Selected(selector) => selector,
    };
    let given = given_to_namespace(name);
    if let Some(namespace) = snapshot.namespace(name) {
        let of = Labelled { given: &given, global: false, ..Labelled::from(&namespace.labels) };
        if selector.matches(of) {
            return MatchOutcome::Match;
        }
        let found = format!("namespace {name}: {}", label_list(&namespace.labels));
        return MatchOutcome::Miss(LabelMiss::of("namespace", selector, of, found));
    }
    // Of a namespace that is not in the snapshot, only the labels that it is given are known.
    let labels: Labels = [(NAMESPACE_NAME_LABEL.into(), name.clone())].into();
    let known = Labelled { given: &given, global: false, ..Labelled::from(&labels) };
    let (by_name, others) = selector.split(&[NAMESPACE_NAME_LABEL, given[0].0]);
    if !by_name.matches(known) {
        let found = format!("namespace {name}: {}", label_list(&labels));
        return MatchOutcome::Miss(LabelMiss::of("namespace", &by_name, known, found));
    }
    if others.is_everything() {
        return MatchOutcome::Match;
    }
    let why = match snapshot.sync().unreadable(Kind::Namespace, name) {
        Some(why) => why.to_string(),
        None => "it is not among the objects".to_owned(),
    };
    MatchOutcome::Unknown(
        format!("does namespace {name} have label {others}? That is unknown: {why}").into(),
    )
}

/// Whether a pod runs as one of these service accounts. One of which there is no object has no
/// labels.
fn account(snapshot: &Snapshot, wanted: &Accounts, pod: &Pod) -> MatchOutcome<LabelMiss> {
    let (namespace, name) = (&pod.namespace, &pod.service_account);
    if !wanted.names.is_empty() && !wanted.names.contains(name) {
        return MatchOutcome::Miss(LabelMiss {
            wanted: format!("service account {}", wanted.names.join(" or ")),
            found: format!("pod {namespace}/{}: service account {name}", pod.name),
            unmet: 1,
            is_other_namespace: false,
        });
    }
    if wanted.selector.is_everything() {
        return MatchOutcome::Match;
    }
    if snapshot.sync().unsynced().contains_key(&Kind::ServiceAccount) {
        return MatchOutcome::Unknown("ServiceAccount objects are not synced yet".into());
    }
    if let Some(why) = snapshot.sync().unreadable(Kind::ServiceAccount, namespace) {
        let why = format!("the labels of service account {namespace}/{name} are unknown: {why}");
        return MatchOutcome::Unknown(why.into());
    }
    let account = snapshot.service_account(namespace, name);
    let none = Labels::new();
    let labels = account.map_or(&none, |account| &account.labels);
    let of = Labelled { given: &[(given_label::NAME, name)], ..Labelled::from(labels) };
    if wanted.selector.matches(of) {
        return MatchOutcome::Match;
    }
    let found = format!("service account {namespace}/{name}: {}", label_list(labels));
    MatchOutcome::Miss(LabelMiss::of("service account", &wanted.selector, of, found))
}
