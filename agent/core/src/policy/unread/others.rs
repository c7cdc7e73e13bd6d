//! Kinds of which little more is read than whom they select.

use std::sync::Arc;

use serde_json::Value;

use super::{
    Bearing, Ends, Reach, Subject, Sway, all_pods, pods,
    written::{has_items, has_spec, items, namespace, selector},
};
use crate::{
    policy::{Namespaces, PodPeer, selector::Selector},
    problem::FieldPath,
};

/// The namespace whose `AuthorizationPolicies` are about the whole mesh, as Istio installs itself.
const ISTIO_ROOT: &str = "istio-system";

/// Pods of the policy's own namespace by `spec.podSelector`.
fn selected(object: &Value) -> Reach {
    let own = namespace(object);
    let subject = pods(Some(&own), selector(&object["spec"]["podSelector"]));
    Reach { subjects: vec![Subject::Pods(subject)], ..Reach::widest(Some(&own)) }
}

/// A `NetworkPolicy` that is malformed, and what else selects pods as one does.
pub fn by_pod_selector(object: &Value) -> Reach {
    selected(object)
}

/// A policy of Calico's that is malformed, by its `selector`.
pub fn by_calico_selector(object: &Value) -> Reach {
    let is_global = object["kind"].as_str().is_some_and(|kind| kind.starts_with("Global"));
    let own = (!is_global).then(|| namespace(object));
    let path = FieldPath::default();
    let read = |field: &str| {
        let text = object["spec"][field].as_str().filter(|text| !text.is_empty())?;
        Selector::read(text, &path).ok()
    };
    let mut subject = pods(own.as_ref(), read("selector").unwrap_or_default());
    if let (true, Some(namespaces)) = (is_global, read("namespaceSelector")) {
        subject.namespaces = Namespaces::Selected(namespaces);
    }
    Reach { subjects: vec![Subject::Pods(subject)], ..Reach::widest(own.as_ref()) }
}

/// AWS' `ApplicationNetworkPolicy`: a `NetworkPolicy` whose rules may name domains besides
/// (<https://github.com/aws/amazon-network-policy-controller-k8s>, `api/v1alpha1`).
pub fn application_network_policy(object: &Value) -> Reach {
    of_types(object)
}

/// What `policyTypes` and rules say as those of a `NetworkPolicy` do.
fn of_types(object: &Value) -> Reach {
    let spec = &object["spec"];
    let types: Vec<&str> = items(&spec["policyTypes"]).iter().filter_map(Value::as_str).collect();
    let sway = |direction: &str, policy_type: &str| {
        let rules = &spec[direction];
        // "It defaults by the rules that are there", and to Ingress without any.
        let governs = match types.is_empty() {
            true => policy_type == "Ingress" || has_items(rules),
            false => types.contains(&policy_type),
        };
        if governs { Sway::of(has_items(rules), true) } else { Sway::NONE }
    };
    match has_spec(object) {
        true => Reach {
            egress: sway("egress", "Egress"),
            ingress: sway("ingress", "Ingress"),
            ..selected(object)
        },
        false => selected(object),
    }
}

/// GKE's `FQDNNetworkPolicy`: isolates the egress of the pods that it selects, and allows domains
/// (<https://cloud.google.com/kubernetes-engine/docs/how-to/fqdn-network-policies>).
pub fn fqdn(object: &Value) -> Reach {
    let egress = Sway { allows: Some(Ends::Outside), denies: Some(Ends::Any) };
    Reach { egress, ingress: Sway::NONE, ..selected(object) }
}

/// Calico's `HostEndpoint`: an interface of a node, which policies then govern. What it denies, and to
/// whom, is up to them (<https://docs.tigera.io/calico/latest/reference/resources/hostendpoint>).
pub fn host_endpoint(object: &Value) -> Reach {
    let node = object["spec"]["node"].as_str().filter(|node| !node.is_empty());
    let subject = match node {
        Some(node) => Subject::Node(node.into()),
        None => Subject::Nodes(Selector::EVERYTHING),
    };
    Reach {
        subjects: vec![subject],
        egress: Sway::DENIES,
        ingress: Sway::DENIES,
        ..Reach::widest(None)
    }
}

/// A policy for `NetworkAttachmentDefinitions` (<https://github.com/k8snetworkplumbingwg/multi-networkpolicy>).
pub fn second_network(object: &Value) -> Reach {
    Reach { bearing: Bearing::SecondNetworks, ..of_types(object) }
}

/// OVN-Kubernetes' `AdminPolicyBasedExternalRoute`: the gateways by which pods leave the cluster. No
/// policy: what it changes is the way (<https://ovn-kubernetes.io/api-reference/admin-epbr-api-spec/>).
pub fn external_route(object: &Value) -> Reach {
    let namespaces = selector(&object["spec"]["from"]["namespaceSelector"]);
    let subject = PodPeer::new(Namespaces::Selected(namespaces), Selector::EVERYTHING);
    Reach {
        bearing: Bearing::WayOut,
        subjects: vec![Subject::Pods(subject)],
        egress: Sway { allows: None, denies: Some(Ends::Outside) },
        ingress: Sway::NONE,
        ..Reach::widest(None)
    }
}

/// Istio's `AuthorizationPolicy`: requests to the workloads that it selects, of all namespaces if it is
/// in the mesh's root (<https://istio.io/latest/docs/reference/config/security/authorization-policy/>).
pub fn istio(object: &Value) -> Reach {
    let own = namespace(object);
    let own = (&*own != ISTIO_ROOT).then_some(own);
    let subject = pods(own.as_ref(), selector(&object["spec"]["selector"]));
    mesh(subject, own.as_ref())
}

/// Linkerd's `Server`: a port of pods that only those reach whom an authorization lets
/// (<https://linkerd.io/2/reference/authorization-policy/>).
pub fn linkerd_server(object: &Value) -> Reach {
    let Reach { subjects, .. } = selected(object);
    Reach { subjects, ..mesh(all_pods(Some(&namespace(object))), Some(&namespace(object))) }
}

/// Linkerd's authorizations of its `Servers`, of routes, or of a namespace.
pub fn linkerd(object: &Value) -> Reach {
    mesh(all_pods(Some(&namespace(object))), Some(&namespace(object)))
}

fn mesh(subject: PodPeer, own: Option<&Arc<str>>) -> Reach {
    Reach {
        bearing: Bearing::Requests,
        subjects: vec![Subject::Pods(subject)],
        egress: Sway::NONE,
        ingress: Sway::DENIES,
        ..Reach::widest(own)
    }
}
