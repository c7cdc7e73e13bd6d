//! Antrea's policies.
//!
//! Semantics: <https://github.com/antrea-io/antrea/blob/main/docs/antrea-network-policy.md>. Rules of
//! tiers other than `baseline` come before Kubernetes' policies, those of `baseline` after them, where
//! none of those selects the pod. A policy that matches nothing isolates nobody.

use std::sync::Arc;

use serde_json::Value;

use super::{
    Reach, Subject, Sway, all_pods,
    written::{has_items, has_spec, items, namespace, selector},
};
use crate::policy::{Accounts, Namespaces, PodPeer, selector::Selector};

/// The tier that is asked after Kubernetes' policies.
const BASELINE: &str = "baseline";

/// A `NetworkPolicy` or a `ClusterNetworkPolicy` of Antrea's; only the former is in a namespace.
pub fn antrea(object: &Value) -> Reach {
    let own = (object["kind"] == "NetworkPolicy").then(|| namespace(object));
    let widest = Reach::widest(own.as_ref());
    if !has_spec(object) {
        return widest;
    }
    let spec = &object["spec"];
    // "appliedTo is in the spec, or in every rule."
    let rules = || items(&spec["ingress"]).iter().chain(items(&spec["egress"]));
    let of_rules = rules().flat_map(|rule| items(&rule["appliedTo"]));
    let applied: Vec<&Value> = items(&spec["appliedTo"]).iter().chain(of_rules).collect();
    let subjects = match applied.as_slice() {
        [] if has_items(&spec["ingress"]) || has_items(&spec["egress"]) => widest.subjects.clone(),
        applied => applied.iter().map(|entry| subject(entry, own.as_ref())).collect(),
    };
    let tier = spec["tier"].as_str().unwrap_or_default();
    Reach {
        subjects,
        egress: sway(&spec["egress"]),
        ingress: sway(&spec["ingress"]),
        is_baseline: tier.eq_ignore_ascii_case(BASELINE),
        ..widest
    }
}

/// An entry of `appliedTo`: in a `NetworkPolicy` pods of its own namespace. A group, a Service and what
/// else may be written may stand for any of them.
fn subject(entry: &Value, own: Option<&Arc<str>>) -> Subject {
    let (pods, namespaces) = (&entry["podSelector"], &entry["namespaceSelector"]);
    if entry["nodeSelector"].is_object() {
        return Subject::Nodes(selector(&entry["nodeSelector"]));
    }
    if let Some(name) = entry["serviceAccount"]["name"].as_str() {
        let namespace = entry["serviceAccount"]["namespace"].as_str().map(Arc::from);
        let names = vec![name.into()];
        let accounts = Accounts { names, selector: Selector::EVERYTHING };
        return Subject::Pods(PodPeer {
            accounts: Some(accounts),
            ..all_pods(own.or(namespace.as_ref()))
        });
    }
    let namespaces = match own {
        Some(own) => Namespaces::Own(own.clone()),
        None => Namespaces::Selected(selector(namespaces)),
    };
    Subject::Pods(PodPeer::new(namespaces, selector(pods)))
}

/// `Pass` leaves the flow to Kubernetes' policies, as if there were no rule.
fn sway(rules: &Value) -> Sway {
    let actions = items(rules).iter().map(|rule| match rule["action"].as_str() {
        Some("Allow") => Sway::of(true, false),
        Some("Drop" | "Reject") => Sway::DENIES,
        Some("Pass") => Sway::NONE,
        _ => Sway::EITHER,
    });
    actions.fold(Sway::NONE, Sway::or)
}
