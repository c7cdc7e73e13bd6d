//! The table: what each engine does, from which version on, each cell with its source.
//!
//! A cell that is not about an engine's own ways is that of [`TEXT`], the API's text. Where a source is
//! a file, it is one of the engine's repository. "Conformance" is `tests/conformance` of ours, whose
//! expected values the engine's own code computed.

use super::{
    Blocks, Denied, Enforced, EngineName, Equals, Hairpin, HostNetwork, Judged, OwnNode, Profile,
    Translation, Undeclared, Version,
};

/// One engine, from one version on.
pub(super) struct Row {
    /// Which engine.
    pub(super) engine: EngineName,
    /// From which version on; `None`: any, also one that is not known.
    pub(super) since: Option<Version>,
    /// What it does.
    pub(super) profile: Profile,
}

/// What an engine of this version does: the row of the latest version up to it, and without a version
/// what is true of any.
pub(super) fn profile(engine: EngineName, version: Option<Version>) -> Profile {
    let of_engine = || PROFILES.iter().filter(|row| row.engine == engine);
    let of_version = of_engine().find(|row| match (row.since, version) {
        (Some(since), Some(version)) => since <= version,
        _ => false,
    });
    // Older than all that have a row of their own: the oldest such row says so by starting at 0.
    let row = of_version.or_else(|| of_engine().find(|row| row.since.is_none()));
    row.map_or(TEXT, |row| row.profile)
}

/// The API's text.
const TEXT: Profile = Profile {
    // <https://kubernetes.io/docs/concepts/services-networking/network-policies/>: "Creating a
    // NetworkPolicy resource without a controller that implements it will have no effect."
    policies: Enforced::NotSaid,
    // <https://network-policy-api.sigs.k8s.io/implementations/>: some engines do.
    admin_policies: Enforced::NotSaid,
    cluster_policies: Enforced::NotSaid,
    // The same page as the first: "These should be cluster-external IPs, since Pod IPs are ephemeral".
    // It does not say that others do not match.
    blocks: Blocks::Everyone,
    // The same: for both ways "it is not defined whether this happens before or after NetworkPolicy
    // processing". Most engines judge afterwards.
    egress: Translation::After,
    // It does not say. Every engine here but one drops them in silence.
    denied: Denied::Dropped,
    // The same: "the behavior is undefined when the set of NetworkPolicies changes".
    judged: Judged::NotSaid,
    // The same: "traffic to and from the node where a Pod is running is always allowed".
    own_node: OwnNode::Exempt,
    // The same: "a Pod cannot block access to itself". It does not say whether through a Service too.
    hairpin: Hairpin::Exempt,
    // The same: "hostNetwork pods … traffic is treated as the node's", or it is ignored.
    host_network: HostNetwork::Node,
    // The same: "Network policies do not conflict; they are additive."
    equals: Equals::NoOrder,
    // The API's reference, `policyTypes`: "policies that contain an egress section are assumed to
    // affect egress" only where `policyTypes` is absent.
    undeclared: Undeclared::Ignored,
};

/// An engine that enforces `NetworkPolicy` and none of the admin kinds.
const ENFORCING: Profile = Profile {
    policies: Enforced::Yes,
    admin_policies: Enforced::No,
    cluster_policies: Enforced::No,
    ..TEXT
};

const CALICO: Profile = Profile {
    // Conformance, CALICO.md: `nets` match any address, pods and nodes included.
    blocks: Blocks::Everyone,
    // felix/rules/static.go: workload policies are in FORWARD, after DNAT; felix/bpf: after NAT.
    egress: Translation::After,
    // felix/rules/static.go: established connections are accepted before policies.
    judged: Judged::Connections,
    // Conformance, CALICO.md: `local-node` for traffic from the node; what a pod sends is policed.
    own_node: OwnNode::ExemptToPod,
    // felix/rules/dispatch.go: what comes from a pod's interface and goes to it is in both chains of
    // FORWARD. Seen: the differential of Services with Felix 3.28, tests/tests/fleet.
    hairpin: Hairpin::Policed,
    // Conformance, CALICO.md: a hostNetwork pod is its node.
    host_network: HostNetwork::Node,
    // felix/calc/policy_sorter.go (`PolKVLess`): name, then namespace, then kind; earlier releases
    // put tier and namespace first.
    equals: Equals::ByName,
    // libcalico-go/lib/backend/k8s/conversion: `policyTypes` become the policy's types.
    undeclared: Undeclared::Ignored,
    ..ENFORCING
};

const CILIUM: Profile = Profile {
    // Release notes: never read. <https://docs.cilium.io/en/stable/network/kubernetes/policy/>
    admin_policies: Enforced::No,
    // Conformance of Cilium's own code: CIDRs match no pod and no node, not even 0.0.0.0/0; option
    // `policy-cidr-match-mode` can change that.
    blocks: Blocks::OutsideOnly,
    // <https://docs.cilium.io/en/stable/network/concepts/ebpf/lifeofapacket/>: Services are
    // translated at the socket, or where the packet leaves the pod, before policy.
    egress: Translation::After,
    // bpf/lib/policy.h: packets of the direction that opened the connection are judged again.
    judged: Judged::Packets,
    // Conformance: the local node is allowed to pods (`allow-localhost`); a pod to its node is policed.
    own_node: OwnNode::ExemptToPod,
    // Conformance: entities `host` and `remote-node`, which no pod selector matches.
    host_network: HostNetwork::Node,
    // Conformance: no order; a deny wins over every allow.
    equals: Equals::NoOrder,
    // pkg/k8s/network_policy.go: both sections are parsed whatever `policyTypes` says.
    undeclared: Undeclared::Applied,
    ..ENFORCING
};

const OVN_KUBERNETES: Profile = Profile {
    // docs/features/network-security-controls/admin-network-policy.md
    admin_policies: Enforced::Yes,
    // No reader of the kind in go-controller.
    cluster_policies: Enforced::No,
    // go-controller/pkg/ovn/gress_policy.go: a match on the address alone.
    blocks: Blocks::Everyone,
    // go-controller/pkg/ovn: egress ACLs have `apply-after-lb`.
    egress: Translation::After,
    // OVN's `allow-related`: a changed ACL is applied to packets of open connections as well.
    judged: Judged::Packets,
    // go-controller/pkg/ovn/base_network_controller_policy.go (`addAllowACLFromNode`): from the node's
    // management port to pods; nothing the other way.
    own_node: OwnNode::ExemptToPod,
    // go-controller/pkg/ovn/addresssetmanager (`host-network-namespace`), dist/images/ovnkube.sh.
    host_network: HostNetwork::Namespace("ovn-host-network"),
    // The API's text: additive.
    equals: Equals::NoOrder,
    // go-controller/pkg/ovn/base_network_controller_policy.go (`getPolicyType`).
    undeclared: Undeclared::Ignored,
    ..ENFORCING
};

const AWS: Profile = Profile {
    // aws-network-policy-agent, README: `enable-network-policy`, false by default.
    policies: Enforced::IfSwitchedOn,
    // amazon-network-policy-controller-k8s, api/v1alpha1: kinds of its own group only.
    admin_policies: Enforced::No,
    cluster_policies: Enforced::No,
    // aws-network-policy-agent, pkg/fwruleprocessor: longest prefix of an address.
    blocks: Blocks::Everyone,
    // amazon-network-policy-controller-k8s, pkg/resolvers: the addresses of Services that select the
    // peers are listed beside those of the pods.
    egress: Translation::Before,
    // aws-network-policy-agent, pkg/ebpf/c: the classifier drops them.
    denied: Denied::Dropped,
    // aws-network-policy-agent, pkg/ebpf/c: connections that are known pass.
    judged: Judged::Connections,
    // aws-network-policy-agent, pkg/fwruleprocessor: the node's own address is let pass in both
    // directions.
    own_node: OwnNode::Exempt,
    // The API's text, here and below.
    hairpin: Hairpin::Exempt,
    host_network: HostNetwork::Node,
    equals: Equals::NoOrder,
    // pkg/policyendpoints/manager.go: `policyTypes` become the isolation of the endpoint.
    undeclared: Undeclared::Ignored,
};

/// The rows, of one engine the latest version first; the last one of each is of a version that is not
/// known.
pub(super) const PROFILES: &[Row] = &[
    Row { engine: EngineName::Unknown, since: None, profile: TEXT },
    // Release notes of 3.32.0: AdminNetworkPolicy and BaselineAdminNetworkPolicy are no longer
    // enforced, ClusterNetworkPolicy is.
    Row {
        engine: EngineName::Calico,
        since: Some(Version(3, 32)),
        profile: Profile { cluster_policies: Enforced::Yes, ..CALICO },
    },
    // Release notes of 3.29.0: "Add support for the core functionalities of the new k8s
    // AdminNetworkPolicy API".
    Row {
        engine: EngineName::Calico,
        since: Some(Version(3, 29)),
        profile: Profile { admin_policies: Enforced::Yes, ..CALICO },
    },
    Row { engine: EngineName::Calico, since: Some(Version(0, 0)), profile: CALICO },
    Row {
        engine: EngineName::Calico,
        since: None,
        profile: Profile {
            admin_policies: Enforced::NotSaid,
            cluster_policies: Enforced::NotSaid,
            ..CALICO
        },
    },
    // 1.20: option `enable-k8s-cluster-network-policy`, off by default, which reads `v1alpha2`.
    Row {
        engine: EngineName::Cilium,
        since: Some(Version(1, 20)),
        profile: Profile { cluster_policies: Enforced::IfSwitchedOn, ..CILIUM },
    },
    // 1.19: selectors that name no cluster mean the local one (`policy-default-local-cluster`), and
    // before those of every cluster of a mesh. Of one cluster it is the same.
    Row { engine: EngineName::Cilium, since: Some(Version(1, 19)), profile: CILIUM },
    Row { engine: EngineName::Cilium, since: Some(Version(0, 0)), profile: CILIUM },
    Row {
        engine: EngineName::Cilium,
        since: None,
        profile: Profile { cluster_policies: Enforced::IfSwitchedOn, ..CILIUM },
    },
    Row {
        engine: EngineName::Antrea,
        since: None,
        profile: Profile {
            // docs/feature-gates.md: `AdminNetworkPolicy` deprecated and off, `ClusterNetworkPolicy`
            // alpha and off.
            admin_policies: Enforced::IfSwitchedOn,
            cluster_policies: Enforced::IfSwitchedOn,
            // Conformance, ANTREA.md: every address in it.
            blocks: Blocks::Everyone,
            // docs/design/ovs-pipeline.md: ServiceLB and EndpointDNAT come before EgressRule.
            egress: Translation::After,
            // docs/design/ovs-pipeline.md: established connections skip the rules.
            judged: Judged::Connections,
            // Conformance, ANTREA.md: from the node; what a pod sends to its node is policed.
            own_node: OwnNode::ExemptToPod,
            // Conformance, ANTREA.md: a hostNetwork pod is its node.
            host_network: HostNetwork::Node,
            // Conformance, ANTREA.md: equal tier and priority are not ordered.
            equals: Equals::NotSaid,
            // Conformance, ANTREA.md: controller 2.7 applies and isolates, against its documentation.
            undeclared: Undeclared::Applied,
            ..ENFORCING
        },
    },
    Row { engine: EngineName::OvnKubernetes, since: None, profile: OVN_KUBERNETES },
    Row {
        engine: EngineName::Openshift,
        since: None,
        profile: Profile {
            // openshift/cluster-network-operator, bindata/network/ovn-kubernetes.
            host_network: HostNetwork::Namespace("openshift-host-network"),
            ..OVN_KUBERNETES
        },
    },
    Row { engine: EngineName::AwsVpcCni, since: None, profile: AWS },
    // <https://docs.aws.amazon.com/eks/latest/userguide/auto-net-pol.html>: once ConfigMap
    // kube-system/amazon-vpc-cni has `enable-network-policy-controller: "true"`.
    Row { engine: EngineName::EksAuto, since: None, profile: AWS },
    // By the version of Kubernetes. <https://cloud.google.com/kubernetes-engine/docs/concepts/dataplane-v2>:
    // made of Cilium; ClusterNetworkPolicy from 1.36 on.
    Row {
        engine: EngineName::GkeDataplaneV2,
        since: Some(Version(1, 36)),
        profile: Profile { cluster_policies: Enforced::Yes, ..CILIUM },
    },
    Row { engine: EngineName::GkeDataplaneV2, since: Some(Version(0, 0)), profile: CILIUM },
    Row {
        engine: EngineName::GkeDataplaneV2,
        since: None,
        profile: Profile { cluster_policies: Enforced::NotSaid, ..CILIUM },
    },
    Row {
        engine: EngineName::KubeRouter,
        since: None,
        profile: Profile {
            // pkg/controllers/netpol/policy.go: an ipset of the block's addresses.
            blocks: Blocks::Everyone,
            // pkg/controllers/netpol/pod.go: chains of FORWARD, after DNAT.
            egress: Translation::After,
            // pkg/controllers/netpol/pod.go: a pod's chain ends with `-j REJECT`.
            denied: Denied::Rejected,
            // pkg/controllers/netpol: related and established traffic is accepted first.
            judged: Judged::Connections,
            // pkg/controllers/netpol/pod.go: "from local node" is accepted; INPUT leads through the
            // pod's chain.
            own_node: OwnNode::ExemptToPod,
            // pkg/controllers/netpol/utils.go: hostNetwork pods are left out.
            host_network: HostNetwork::Node,
            // pkg/controllers/netpol/policy.go: by `policyTypes`.
            undeclared: Undeclared::Ignored,
            ..ENFORCING
        },
    },
    Row {
        engine: EngineName::KubeNetworkPolicies,
        since: None,
        profile: Profile {
            // install-anp.yaml, install-cnp.yaml: images of their own.
            admin_policies: Enforced::IfSwitchedOn,
            cluster_policies: Enforced::IfSwitchedOn,
            // pkg/networkpolicy/networkpolicy.go: the address alone.
            blocks: Blocks::Everyone,
            // pkg/dataplane/controller.go: POSTROUTING, after DNAT.
            egress: Translation::After,
            // pkg/cmd/cmd.go: `strict-mode`, true by default.
            judged: Judged::Packets,
            // pkg/dataplane/controller.go: what root sends on the node is accepted; INPUT is queued.
            own_node: OwnNode::ExemptToPod,
            host_network: HostNetwork::Node,
            // pkg/networkpolicy/networkpolicy.go: a loop over `policyTypes`.
            undeclared: Undeclared::Ignored,
            ..ENFORCING
        },
    },
    Row {
        engine: EngineName::Flannel,
        since: None,
        // <https://github.com/flannel-io/flannel>, README: "Flannel is focused on networking and not
        // on enforcing network policy".
        profile: Profile { policies: Enforced::No, ..ENFORCING },
    },
    Row {
        engine: EngineName::AzureNpm,
        since: None,
        // azure-container-networking, npm/pkg/dataplane: new connections in FORWARD, after DNAT, so
        // that traffic with the node itself is not seen; translatePolicy.go: by `policyTypes`.
        profile: Profile { judged: Judged::Connections, ..ENFORCING },
    },
    Row {
        engine: EngineName::Weave,
        since: None,
        // weave, prog/weave-npc/main.go: new connections after DNAT; local destinations return early.
        profile: Profile { judged: Judged::Connections, ..ENFORCING },
    },
];
