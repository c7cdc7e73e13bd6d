//! Cilium's policies.
//!
//! Semantics: <https://docs.cilium.io/en/stable/security/policy/>. Their rules and those of Kubernetes'
//! policies are one set: any of them isolates the pod that it selects, any may allow a flow, and a deny
//! rule wins over every allow.

use std::sync::Arc;

use serde_json::Value;

use super::{
    Reach, Subject, Sway, all_pods,
    written::{has_items, has_spec, items, namespace, selector},
};
use crate::policy::{
    Accounts, NAMESPACE_NAME_LABEL, Namespaces, PodPeer,
    requirement::{Operator, Requirement},
    selector::Selector,
};

/// By which selectors name the namespace of a pod (`pkg/k8s/apis/cilium.io/const.go`).
const NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// What the labels of a pod's namespace begin with.
const OF_NAMESPACE: &str = "io.cilium.k8s.namespace.labels.";
/// The service account of a pod.
const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";
/// The sources of labels that are a pod's own.
const SOURCES_OF_PODS: [&str; 2] = ["k8s", "any"];

/// What the keys of labels begin with that are no part of a pod's identity unless Cilium is configured
/// so: what a selector asks of them is not what the pod's labels say (`pkg/labelsfilter/filter.go`, the
/// default list; `app.kubernetes.io` is a part).
const NOT_OF_IDENTITY: [&str; 13] = [
    "io.kubernetes",
    "kubernetes.io",
    "beta.kubernetes.io",
    "k8s.io",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/",
    "pod-template-generation",
    "pod-template-hash",
    "controller-revision-hash",
    "controller-uid",
    "annotation",
    "etcd_node",
];

/// A `CiliumNetworkPolicy`: about pods of its own namespace.
pub fn cilium(object: &Value) -> Reach {
    of_specs(object, Some(&namespace(object)))
}

/// A `CiliumClusterwideNetworkPolicy`: about pods of any namespace, or about nodes.
pub fn cilium_clusterwide(object: &Value) -> Reach {
    of_specs(object, None)
}

fn of_specs(object: &Value, own: Option<&Arc<str>>) -> Reach {
    let widest = Reach::widest(own);
    let single = has_spec(object).then_some(&object["spec"]);
    let specs: Vec<&Value> = single.into_iter().chain(items(&object["specs"])).collect();
    if specs.is_empty() {
        return widest;
    }
    let of_direction =
        |direction: &str| specs.iter().map(|spec| sway(spec, direction)).fold(Sway::NONE, Sway::or);
    Reach {
        subjects: specs.iter().map(|spec| subject(spec, own)).collect(),
        egress: of_direction("egress"),
        ingress: of_direction("ingress"),
        ..widest
    }
}

/// "A section makes a default deny for its direction"; `[]` is as if it were absent, and a rule `{}`
/// matches nothing.
fn sway(spec: &Value, direction: &str) -> Sway {
    let allow = &spec[direction];
    let deny = &spec[format!("{direction}Deny")];
    let is_empty = |rule: &Value| rule.as_object().is_some_and(serde_json::Map::is_empty);
    let allows = items(allow).iter().any(|rule| !is_empty(rule));
    let has_section = has_items(allow) || has_items(deny);
    let isolates = has_section && spec["enableDefaultDeny"][direction] != false;
    Sway::of(allows, isolates || has_items(deny))
}

fn subject(spec: &Value, own: Option<&Arc<str>>) -> Subject {
    if spec["nodeSelector"].is_object() {
        return Subject::Nodes(Selector::new(plain(&spec["nodeSelector"])));
    }
    if !spec["endpointSelector"].is_object() {
        return Subject::Pods(all_pods(own));
    }
    let (mut of_pod, mut of_namespace, mut accounts) = (Vec::new(), Vec::new(), None);
    for requirement in plain(&spec["endpointSelector"]) {
        let key = requirement.key.clone();
        if &*key == NAMESPACE {
            of_namespace.push(Requirement { key: NAMESPACE_NAME_LABEL.into(), ..requirement });
        } else if let Some(label) = key.strip_prefix(OF_NAMESPACE) {
            of_namespace.push(Requirement { key: label.into(), ..requirement });
        } else if &*key == SERVICE_ACCOUNT {
            if let Operator::In(names) = requirement.operator {
                accounts = Some(Accounts { names, selector: Selector::EVERYTHING });
            }
        } else if !NOT_OF_IDENTITY.iter().any(|prefix| key.starts_with(prefix)) {
            of_pod.push(requirement);
        }
    }
    let namespaces = match own {
        Some(own) => Namespaces::Own(own.clone()),
        None => Namespaces::Selected(Selector::new(of_namespace)),
    };
    Subject::Pods(PodPeer { accounts, ..PodPeer::new(namespaces, Selector::new(of_pod)) })
}

/// What a selector asks for, with keys as Kubernetes has them: `k8s:app` and `any:app` are `app`. What
/// is asked of labels from elsewhere is left out: it may be so.
fn plain(written: &Value) -> Vec<Requirement> {
    let asked = selector(written).requirements().to_vec();
    let plain = asked.into_iter().filter_map(|asked| match asked.key.split_once(':') {
        None => Some(asked),
        Some((source, key)) if SOURCES_OF_PODS.contains(&source) => {
            Some(Requirement { key: key.into(), operator: asked.operator })
        }
        Some(_) => None,
    });
    plain.collect()
}
