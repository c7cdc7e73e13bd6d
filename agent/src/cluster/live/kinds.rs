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

const ADMIN: (&str, &str) = ("policy.networking.k8s.io", "v1alpha1");
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

/// Policies of network plugins, and of versions to come: where there are any, they may decide.
pub(super) const UNREAD: [Followed; 7] = [
    policy(
        ("policy.networking.k8s.io", "v1alpha2"),
        "ClusterNetworkPolicy",
        "clusternetworkpolicies",
        None,
    ),
    policy(CALICO, "NetworkPolicy", "networkpolicies", None),
    policy(CALICO, "GlobalNetworkPolicy", "globalnetworkpolicies", None),
    policy(CILIUM, "CiliumNetworkPolicy", "ciliumnetworkpolicies", None),
    policy(CILIUM, "CiliumClusterwideNetworkPolicy", "ciliumclusterwidenetworkpolicies", None),
    policy(ANTREA, "NetworkPolicy", "networkpolicies", None),
    policy(ANTREA, "ClusterNetworkPolicy", "clusternetworkpolicies", None),
];

/// What an agent follows.
pub(super) fn followed() -> impl Iterator<Item = Followed> {
    [POD, NAMESPACE, NODE, NETWORK_POLICY].into_iter().chain(CLUSTER_POLICIES).chain(UNREAD)
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
            Some(_) => self.kind.to_owned(),
            None => format!("{} {}", self.api_version(), self.kind),
        }
    }
}
