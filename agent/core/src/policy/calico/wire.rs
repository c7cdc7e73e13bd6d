//! Calico's objects as they are written. Every field may be absent, or null.

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicySpec,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

/// `NetworkPolicy`, `GlobalNetworkPolicy`, and the staged forms of both.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct CalicoPolicy {
    pub metadata: ObjectMeta,
    pub spec: Spec,
}

/// `spec` of a policy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct Spec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_selector: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub types: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<WireRule>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<WireRule>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_not_track: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none", rename = "preDNAT")]
    pub pre_dnat: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apply_on_forward: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub performance_hints: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staged_action: Option<String>,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct WireRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_version: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<IntOrString>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_protocol: Option<IntOrString>,
    #[serde(skip_serializing_if = "Option::is_none", rename = "notICMP")]
    pub not_icmp: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<WireEntity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<WireEntity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
}

/// One end.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct WireEntity {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nets: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<ServiceMatch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<IntOrString>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_nets: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_selector: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_ports: Option<Vec<IntOrString>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_accounts: Option<ServiceAccountMatch>,
}

impl WireEntity {
    /// Whether it says anything of ports.
    pub(super) fn names_ports(&self) -> bool {
        let some = |ports: &Option<Vec<IntOrString>>| ports.as_ref().is_some_and(|p| !p.is_empty());
        some(&self.ports) || some(&self.not_ports)
    }
}

/// A Service as an end.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct ServiceMatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Service accounts as an end.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct ServiceAccountMatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

/// `StagedKubernetesNetworkPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct StagedKubernetesPolicy {
    pub metadata: ObjectMeta,
    pub spec: StagedKubernetesSpec,
}

/// `spec` of a `StagedKubernetesNetworkPolicy`: that of a `NetworkPolicy`, and what to do with it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct StagedKubernetesSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_types: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<NetworkPolicyIngressRule>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<NetworkPolicyEgressRule>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staged_action: Option<String>,
}

impl StagedKubernetesPolicy {
    /// The policy that it would become.
    pub(super) fn unstaged(&self) -> NetworkPolicy {
        let spec = self.spec.clone();
        NetworkPolicy {
            metadata: self.metadata.clone(),
            spec: Some(NetworkPolicySpec {
                pod_selector: spec.pod_selector,
                policy_types: spec.policy_types,
                ingress: spec.ingress,
                egress: spec.egress,
            }),
        }
    }
}

/// Tier.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct CalicoTier {
    pub metadata: ObjectMeta,
    pub spec: TierSpec,
}

/// `spec` of a Tier.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct TierSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_action: Option<String>,
}

/// `NetworkSet` and `GlobalNetworkSet`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct CalicoNetworkSet {
    pub metadata: ObjectMeta,
    pub spec: NetworkSetSpec,
}

/// `spec` of a network set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's own fields, documented there")]
pub struct NetworkSetSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nets: Option<Vec<String>>,
}
