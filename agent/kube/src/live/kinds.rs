//! Which kinds are asked of the API server.

use kube::discovery::ApiResource;
use whydrop_core::{cluster::object::Kind, policy::PolicyKind};

/// A kind to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Followed {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    /// What it is to us; `None`: a policy that cannot be read, and so is only counted.
    pub(super) is: Option<Kind>,
}

const fn core(kind: &'static str, plural: &'static str, is: Kind) -> Followed {
    Followed { group: "", version: "v1", kind, plural, is: Some(is) }
}

const fn policy(
    (group, version): (&'static str, &'static str),
    kind: &'static str,
    plural: &'static str,
    is: Option<PolicyKind>,
) -> Followed {
    let is = match is {
        Some(kind) => Some(Kind::Policy(kind)),
        None => None,
    };
    Followed { group, version, kind, plural, is }
}

const fn calico(kind: &'static str, plural: &'static str, is: Kind) -> Followed {
    let (group, version) = CALICO;
    Followed { group, version, kind, plural, is: Some(is) }
}

pub(super) const POD: Followed = core("Pod", "pods", Kind::Pod);
pub(super) const NAMESPACE: Followed = core("Namespace", "namespaces", Kind::Namespace);
pub(super) const NODE: Followed = core("Node", "nodes", Kind::Node);
pub(super) const SERVICE: Followed = core("Service", "services", Kind::Service);
pub(super) const ENDPOINT_SLICE: Followed = Followed {
    group: "discovery.k8s.io",
    version: "v1",
    kind: "EndpointSlice",
    plural: "endpointslices",
    is: Some(Kind::EndpointSlice),
};
pub(super) const NETWORK_POLICY: Followed = policy(
    ("networking.k8s.io", "v1"),
    "NetworkPolicy",
    "networkpolicies",
    Some(PolicyKind::NetworkPolicy),
);

/// By whose labels Calico's policies may select pods.
pub(super) const SERVICE_ACCOUNT: Followed =
    core("ServiceAccount", "serviceaccounts", Kind::ServiceAccount);

const ADMIN: (&str, &str) = ("policy.networking.k8s.io", "v1alpha1");
/// As Calico's objects are stored, wherever the API server of Kubernetes stores them. Calico's own
/// API server shows the same objects once more, as `projectcalico.org/v3`: that is not followed.
const CALICO: (&str, &str) = ("crd.projectcalico.org", "v1");
const CILIUM: (&str, &str) = ("cilium.io", "v2");
const ANTREA: (&str, &str) = ("crd.antrea.io", "v1beta1");

/// The policies of the cluster as a whole that can be read.
pub(super) const CLUSTER_POLICIES: [Followed; 2] = [
    policy(
        ADMIN,
        "AdminNetworkPolicy",
        "adminnetworkpolicies",
        Some(PolicyKind::AdminNetworkPolicy),
    ),
    policy(
        ADMIN,
        "BaselineAdminNetworkPolicy",
        "baselineadminnetworkpolicies",
        Some(PolicyKind::BaselineAdminNetworkPolicy),
    ),
];

/// Where this kind is served, Calico enforces.
pub(super) const CALICO_NETWORK_POLICY: Followed =
    calico("NetworkPolicy", "networkpolicies", Kind::Policy(PolicyKind::CalicoNetworkPolicy));

/// What governs pods of a namespace and is in it.
pub(super) const CALICO_OF_NAMESPACES: [Followed; 3] = [
    CALICO_NETWORK_POLICY,
    calico(
        "StagedNetworkPolicy",
        "stagednetworkpolicies",
        Kind::Policy(PolicyKind::StagedNetworkPolicy),
    ),
    calico(
        "StagedKubernetesNetworkPolicy",
        "stagedkubernetesnetworkpolicies",
        Kind::Policy(PolicyKind::StagedKubernetesNetworkPolicy),
    ),
];

/// What counts wherever a pod is: policies of any namespace may select by a network set.
pub(super) const CALICO_OF_CLUSTER: [Followed; 5] = [
    calico(
        "GlobalNetworkPolicy",
        "globalnetworkpolicies",
        Kind::Policy(PolicyKind::GlobalNetworkPolicy),
    ),
    calico(
        "StagedGlobalNetworkPolicy",
        "stagedglobalnetworkpolicies",
        Kind::Policy(PolicyKind::StagedGlobalNetworkPolicy),
    ),
    calico("Tier", "tiers", Kind::Tier),
    calico("GlobalNetworkSet", "globalnetworksets", Kind::GlobalNetworkSet),
    calico("NetworkSet", "networksets", Kind::NetworkSet),
];

/// Policies of network plugins, and of versions to come: where there are any, they may decide.
pub(super) const UNREAD: [Followed; 5] = [
    policy(
        ("policy.networking.k8s.io", "v1alpha2"),
        "ClusterNetworkPolicy",
        "clusternetworkpolicies",
        None,
    ),
    policy(CILIUM, "CiliumNetworkPolicy", "ciliumnetworkpolicies", None),
    policy(CILIUM, "CiliumClusterwideNetworkPolicy", "ciliumclusterwidenetworkpolicies", None),
    policy(ANTREA, "NetworkPolicy", "networkpolicies", None),
    policy(ANTREA, "ClusterNetworkPolicy", "clusternetworkpolicies", None),
];

/// What an agent follows.
pub(super) fn followed() -> impl Iterator<Item = Followed> {
    [POD, NAMESPACE, NODE, NETWORK_POLICY, SERVICE_ACCOUNT]
        .into_iter()
        .chain(CLUSTER_POLICIES)
        .chain(CALICO_OF_NAMESPACES)
        .chain(CALICO_OF_CLUSTER)
        .chain(UNREAD)
}

impl Followed {
    /// The API group.
    pub(super) fn group(&self) -> &'static str {
        self.group
    }

    /// `apiVersion`.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// As the client wants it.
    pub(super) fn resource(&self) -> ApiResource {
        ApiResource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            api_version: self.api_version(),
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }

    /// `kind`.
    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }

    /// For people: `NetworkPolicy`, `cilium.io CiliumNetworkPolicy`.
    pub(super) fn name(&self) -> String {
        match self.is {
            Some(kind) => kind.to_string(),
            None => format!("{} {}", self.api_version(), self.kind),
        }
    }
}
