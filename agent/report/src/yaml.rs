//! Objects as YAML that `kubectl apply -f -` takes.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::networking::v1::NetworkPolicySpec, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::Serialize;
use whydrop_core::{kinds, remedy::Manifest};

use crate::escape::yaml;

/// A policy with its fields in the order in which people write them.
#[derive(Serialize)]
struct Document<'a, Spec> {
    #[serde(rename = "apiVersion")]
    api_version: &'a str,
    kind: &'a str,
    metadata: Metadata<'a>,
    spec: Spec,
}

#[derive(Serialize)]
struct Metadata<'a> {
    namespace: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<&'a BTreeMap<String, String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    pod_selector: serde_json::Value,
    policy_types: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ingress: Vec<RuleDocument>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    egress: Vec<RuleDocument>,
}

#[derive(Serialize)]
struct RuleDocument {
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<serde_json::Value>,
}

/// Writes policies as a stream of YAML documents.
pub fn documents(policies: &[Manifest]) -> String {
    // Objects of the API are maps of strings, numbers and lists: nothing that YAML cannot hold.
    let written = |policy: &Manifest| match policy {
        Manifest::Kubernetes(kubernetes) => {
            let spec = kubernetes.spec.as_ref().map_or_else(|| spec(NO_SPEC), spec);
            yaml(&document(policy, &kubernetes.metadata, spec))
        }
        Manifest::Calico(calico, _) => yaml(&document(policy, &calico.metadata, &calico.spec)),
    };
    policies.iter().filter_map(written).collect::<Vec<_>>().join("---\n")
}

/// A part of an object as comments, to be read before what changes it.
pub fn commented(part: &serde_json::Value) -> String {
    let yaml = yaml(part).unwrap_or_default();
    format!("#   {}\n", yaml.trim_end().replace('\n', "\n#   "))
}

fn document<'a, Spec>(
    policy: &Manifest,
    metadata: &'a ObjectMeta,
    spec: Spec,
) -> Document<'a, Spec> {
    let metadata = Metadata {
        namespace: metadata.namespace.as_deref().unwrap_or_default(),
        name: metadata.name.as_deref().unwrap_or_default(),
        labels: metadata.labels.as_ref().filter(|labels| !labels.is_empty()),
        annotations: metadata.annotations.as_ref().filter(|annotations| !annotations.is_empty()),
    };
    let kind = kinds::of_policy(policy.kind()).kind;
    Document { api_version: policy.api_version(), kind, metadata, spec }
}

const NO_SPEC: &NetworkPolicySpec =
    &NetworkPolicySpec { egress: None, ingress: None, pod_selector: None, policy_types: None };

fn spec(spec: &NetworkPolicySpec) -> Spec<'_> {
    let ingress = spec.ingress.iter().flatten().map(|rule| RuleDocument {
        from: rule.from.as_ref().map(value),
        to: None,
        ports: rule.ports.as_ref().map(value),
    });
    let egress = spec.egress.iter().flatten().map(|rule| RuleDocument {
        from: None,
        to: rule.to.as_ref().map(value),
        ports: rule.ports.as_ref().map(value),
    });
    Spec {
        pod_selector: value(&spec.pod_selector.clone().unwrap_or_default()),
        policy_types: spec.policy_types.as_deref().unwrap_or_default(),
        ingress: ingress.collect(),
        egress: egress.collect(),
    }
}

fn value<T: Serialize>(part: &T) -> serde_json::Value {
    serde_json::to_value(part).unwrap_or_default()
}
