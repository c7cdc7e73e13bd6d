//! Kinds with a `subject`: `ClusterNetworkPolicy` of Kubernetes and of AWS, and admin policies that are
//! malformed.

use serde_json::Value;

use super::{
    Reach, Subject, Sway, all_pods,
    written::{has_spec, items, selector},
};
use crate::policy::{Namespaces, PodPeer, selector::Selector};

/// A `ClusterNetworkPolicy`, of `policy.networking.k8s.io` or of `networking.k8s.aws`, whose form is
/// that of the former's first version.
///
/// "Admin tier policies come before `NetworkPolicies`, Baseline ones after them"; rules of neither
/// isolate a pod (<https://network-policy-api.sigs.k8s.io/api-overview/>).
pub fn cluster_network_policy(object: &Value) -> Reach {
    let widest = Reach::widest(None);
    if !has_spec(object) {
        return widest;
    }
    let spec = &object["spec"];
    Reach {
        subjects: vec![subject(&spec["subject"])],
        egress: sway(&spec["egress"]),
        ingress: sway(&spec["ingress"]),
        is_baseline: spec["tier"] == "Baseline",
        ..widest
    }
}

/// An admin policy that is malformed: whom it may be about, by its subject.
pub fn by_subject(object: &Value) -> Reach {
    let widest = Reach::widest(None);
    match has_spec(object) {
        true => Reach { subjects: vec![subject(&object["spec"]["subject"])], ..widest },
        false => widest,
    }
}

fn subject(written: &Value) -> Subject {
    let (namespaces, pods) = (&written["namespaces"], &written["pods"]);
    if namespaces.is_object() {
        let namespaces = Namespaces::Selected(selector(namespaces));
        return Subject::Pods(PodPeer::new(namespaces, Selector::EVERYTHING));
    }
    if pods.is_object() {
        let namespaces = Namespaces::Selected(selector(&pods["namespaceSelector"]));
        return Subject::Pods(PodPeer::new(namespaces, selector(&pods["podSelector"])));
    }
    Subject::Pods(all_pods(None))
}

/// What the rules of a direction may do; one that passes a flow on leaves it to policies that come later.
fn sway(rules: &Value) -> Sway {
    let actions = items(rules).iter().map(|rule| match rule["action"].as_str() {
        Some("Accept" | "Allow") => Sway::of(true, false),
        Some("Deny") => Sway::DENIES,
        Some("Pass") => Sway::NONE,
        _ => Sway::EITHER,
    });
    actions.fold(Sway::NONE, Sway::or)
}
