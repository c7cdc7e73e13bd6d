//! The rows.

use k8s_openapi::{
    Resource as _,
    api::{discovery::v1::EndpointSlice, networking::v1::NetworkPolicy},
};
use serde_json::Value;

use super::{
    Decoder, KindRow, Role, Scope,
    decode::{decode, decode_strictly},
};
use crate::{
    cluster::{
        address_pool::address_pool,
        caller::CallerKind,
        object::{Kind, Object, PluginNodeKind, WorkloadKind},
        translate,
    },
    policy::{
        PolicyKind, admin,
        calico::{self, Group},
        network_policy,
        unread::{self, Family},
    },
    problem::Problem,
};

/// What a row does not say.
const OBJECT: KindRow = KindRow {
    api_versions: &["v1"],
    kind: "",
    plural: "",
    scope: Scope::Namespace,
    role: Role::Object,
    is_remedy: false,
    decoder: None,
    reach: None,
    family: Family::Any,
};

const TEMPLATE: KindRow = KindRow { role: Role::Template, ..OBJECT };

/// What makes something connect to pods.
const CALLER: KindRow = KindRow { scope: Scope::Cluster, role: Role::Caller, ..OBJECT };

const ADMIN: KindRow = KindRow {
    api_versions: &[admin::API_VERSION],
    scope: Scope::Cluster,
    role: Role::Policy,
    reach: Some(unread::by_subject),
    ..OBJECT
};

/// Calico's objects are followed as they are stored, wherever the API server of Kubernetes stores them.
/// Calico's own API server shows the same objects once more in its own group, which is not followed.
const CALICO: KindRow = KindRow {
    api_versions: &[Group::Stored.api_version(), Group::Api.api_version()],
    role: Role::Policy,
    ..OBJECT
};

/// Policies of network plugins, and of versions to come: where there are any, they may decide.
const UNREAD: KindRow = KindRow { role: Role::Unread, ..OBJECT };

/// What decides nothing of a first packet.
const REMARKED: KindRow = KindRow { role: Role::Remarked, ..OBJECT };

pub(super) const ROWS: &[KindRow] = &[
    KindRow {
        kind: "Pod",
        plural: "pods",
        decoder: Some(read(Kind::Pod, |value, _| {
            Ok(Object::Pod(translate::pod(&decode(value)?)?))
        })),
        ..OBJECT
    },
    KindRow {
        kind: "Namespace",
        plural: "namespaces",
        scope: Scope::Cluster,
        decoder: Some(read(Kind::Namespace, |value, _| {
            Ok(Object::Namespace(translate::namespace(&decode(value)?)?))
        })),
        ..OBJECT
    },
    KindRow {
        kind: "Node",
        plural: "nodes",
        scope: Scope::Cluster,
        decoder: Some(read(Kind::Node, |value, _| {
            Ok(Object::Node(translate::node(&decode(value)?)?))
        })),
        ..OBJECT
    },
    // Which address of a node its own packets to pods carry, where Cilium connects them.
    KindRow {
        api_versions: &["cilium.io/v2"],
        kind: "CiliumNode",
        plural: "ciliumnodes",
        scope: Scope::Cluster,
        decoder: Some(read(Kind::PluginNode(PluginNodeKind::Cilium), |value, _| {
            Ok(Object::PluginNode(translate::cilium_node(&decode(value)?)?))
        })),
        ..OBJECT
    },
    // What `calicoctl get nodes` prints. The Node's annotations say the same, unless Calico keeps its
    // data in etcd; no API server has it.
    KindRow {
        api_versions: &[Group::Api.api_version(), Group::Stored.api_version()],
        kind: "Node",
        plural: "nodes",
        scope: Scope::Cluster,
        role: Role::Given,
        decoder: Some(read(Kind::PluginNode(PluginNodeKind::Calico), |value, _| {
            Ok(Object::PluginNode(translate::calico_node(&decode(value)?)?))
        })),
        ..OBJECT
    },
    // Whether what a node sends to pods of others goes by the tunnel, and with which address.
    KindRow {
        kind: "IPPool",
        plural: "ippools",
        scope: Scope::Cluster,
        role: Role::Object,
        decoder: Some(read(Kind::AddressPool, |value, _| {
            Ok(Object::AddressPool(address_pool(&decode(value)?)?))
        })),
        ..CALICO
    },
    KindRow {
        kind: "Service",
        plural: "services",
        role: Role::LookedUp,
        decoder: Some(read(Kind::Service, |value, _| {
            Ok(Object::Service(translate::service(&decode(value)?)?))
        })),
        ..OBJECT
    },
    KindRow {
        api_versions: &[EndpointSlice::API_VERSION],
        kind: "EndpointSlice",
        plural: "endpointslices",
        role: Role::LookedUp,
        decoder: Some(read(Kind::EndpointSlice, |value, _| {
            Ok(Object::EndpointSlice(translate::endpoint_slice(&decode(value)?)?))
        })),
        ..OBJECT
    },
    // By whose labels Calico's policies may select pods.
    KindRow {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        decoder: Some(read(Kind::ServiceAccount, |value, _| {
            Ok(Object::ServiceAccount(translate::service_account(&decode(value)?)?))
        })),
        ..OBJECT
    },
    KindRow {
        api_versions: &["apps/v1", "apps/v1beta2", "apps/v1beta1", "extensions/v1beta1"],
        kind: "Deployment",
        plural: "deployments",
        decoder: Some(read(Kind::Template(WorkloadKind::Deployment), |value, _| {
            template(value, WorkloadKind::Deployment)
        })),
        ..TEMPLATE
    },
    KindRow {
        api_versions: &["apps/v1", "apps/v1beta2", "apps/v1beta1"],
        kind: "StatefulSet",
        plural: "statefulsets",
        decoder: Some(read(Kind::Template(WorkloadKind::StatefulSet), |value, _| {
            template(value, WorkloadKind::StatefulSet)
        })),
        ..TEMPLATE
    },
    KindRow {
        api_versions: &["apps/v1", "apps/v1beta2", "extensions/v1beta1"],
        kind: "DaemonSet",
        plural: "daemonsets",
        decoder: Some(read(Kind::Template(WorkloadKind::DaemonSet), |value, _| {
            template(value, WorkloadKind::DaemonSet)
        })),
        ..TEMPLATE
    },
    KindRow {
        api_versions: &["apps/v1", "apps/v1beta2", "extensions/v1beta1"],
        kind: "ReplicaSet",
        plural: "replicasets",
        decoder: Some(read(Kind::Template(WorkloadKind::ReplicaSet), |value, _| {
            template(value, WorkloadKind::ReplicaSet)
        })),
        ..TEMPLATE
    },
    KindRow {
        api_versions: &["batch/v1"],
        kind: "Job",
        plural: "jobs",
        decoder: Some(read(Kind::Template(WorkloadKind::Job), |value, _| {
            template(value, WorkloadKind::Job)
        })),
        ..TEMPLATE
    },
    KindRow {
        api_versions: &["batch/v1", "batch/v1beta1"],
        kind: "CronJob",
        plural: "cronjobs",
        decoder: Some(read(Kind::Template(WorkloadKind::CronJob), |value, _| {
            template(value, WorkloadKind::CronJob)
        })),
        ..TEMPLATE
    },
    KindRow {
        api_versions: &["v1"],
        kind: "ReplicationController",
        plural: "replicationcontrollers",
        decoder: Some(read(Kind::Template(WorkloadKind::ReplicationController), |value, _| {
            template(value, WorkloadKind::ReplicationController)
        })),
        ..TEMPLATE
    },
    KindRow {
        api_versions: &["apps.openshift.io/v1"],
        kind: "DeploymentConfig",
        plural: "deploymentconfigs",
        decoder: Some(read(Kind::Template(WorkloadKind::DeploymentConfig), |value, _| {
            template(value, WorkloadKind::DeploymentConfig)
        })),
        ..TEMPLATE
    },
    KindRow {
        api_versions: &["admissionregistration.k8s.io/v1", "admissionregistration.k8s.io/v1beta1"],
        kind: "ValidatingWebhookConfiguration",
        plural: "validatingwebhookconfigurations",
        decoder: Some(read(
            Kind::Caller(CallerKind::ValidatingWebhookConfiguration),
            |value, api_version| {
                webhooks(value, CallerKind::ValidatingWebhookConfiguration, api_version)
            },
        )),
        ..CALLER
    },
    KindRow {
        api_versions: &["admissionregistration.k8s.io/v1", "admissionregistration.k8s.io/v1beta1"],
        kind: "MutatingWebhookConfiguration",
        plural: "mutatingwebhookconfigurations",
        decoder: Some(read(
            Kind::Caller(CallerKind::MutatingWebhookConfiguration),
            |value, api_version| {
                webhooks(value, CallerKind::MutatingWebhookConfiguration, api_version)
            },
        )),
        ..CALLER
    },
    KindRow {
        api_versions: &["apiregistration.k8s.io/v1", "apiregistration.k8s.io/v1beta1"],
        kind: "APIService",
        plural: "apiservices",
        decoder: Some(read(Kind::Caller(CallerKind::ApiService), |value, _| {
            translate::caller::api_service(&decode(value)?).map(Object::Caller)
        })),
        ..CALLER
    },
    KindRow {
        api_versions: &["apiextensions.k8s.io/v1", "apiextensions.k8s.io/v1beta1"],
        kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        decoder: Some(read(Kind::Caller(CallerKind::CustomResourceDefinition), |value, _| {
            translate::caller::definition(&decode(value)?).map(Object::Caller)
        })),
        ..CALLER
    },
    KindRow {
        api_versions: &["monitoring.coreos.com/v1"],
        kind: "PodMonitor",
        plural: "podmonitors",
        scope: Scope::AnyNamespace,
        decoder: Some(read(Kind::Caller(CallerKind::PodMonitor), |value, _| {
            monitor(value, CallerKind::PodMonitor)
        })),
        ..CALLER
    },
    KindRow {
        api_versions: &["monitoring.coreos.com/v1"],
        kind: "ServiceMonitor",
        plural: "servicemonitors",
        scope: Scope::AnyNamespace,
        decoder: Some(read(Kind::Caller(CallerKind::ServiceMonitor), |value, _| {
            monitor(value, CallerKind::ServiceMonitor)
        })),
        ..CALLER
    },
    // The group that it came from has the same fields; charts and repositories still hold it.
    KindRow {
        api_versions: &[
            NetworkPolicy::API_VERSION,
            "networking.k8s.io/v1beta1",
            "extensions/v1beta1",
        ],
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        role: Role::Policy,
        is_remedy: true,
        decoder: Some(read(Kind::Policy(PolicyKind::NetworkPolicy), |mut value, _| {
            value["apiVersion"] = NetworkPolicy::API_VERSION.into();
            network_policy::lower(&decode_strictly(&value)?).map(Object::Policy)
        })),
        reach: Some(unread::by_pod_selector),
        ..OBJECT
    },
    KindRow {
        kind: "AdminNetworkPolicy",
        plural: "adminnetworkpolicies",
        decoder: Some(read(Kind::Policy(PolicyKind::AdminNetworkPolicy), |value, _| {
            admin::lower(&decode_strictly(&value)?).map(Object::Policy)
        })),
        ..ADMIN
    },
    KindRow {
        kind: "BaselineAdminNetworkPolicy",
        plural: "baselineadminnetworkpolicies",
        decoder: Some(read(Kind::Policy(PolicyKind::BaselineAdminNetworkPolicy), |value, _| {
            admin::lower_baseline(&decode_strictly(&value)?).map(Object::Policy)
        })),
        ..ADMIN
    },
    KindRow {
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        is_remedy: true,
        decoder: Some(read(Kind::Policy(PolicyKind::CalicoNetworkPolicy), |value, api_version| {
            calico_policy(&value, api_version, PolicyKind::CalicoNetworkPolicy)
        })),
        reach: Some(unread::by_calico_selector),
        ..CALICO
    },
    KindRow {
        kind: "GlobalNetworkPolicy",
        plural: "globalnetworkpolicies",
        scope: Scope::Cluster,
        decoder: Some(read(Kind::Policy(PolicyKind::GlobalNetworkPolicy), |value, api_version| {
            calico_policy(&value, api_version, PolicyKind::GlobalNetworkPolicy)
        })),
        reach: Some(unread::by_calico_selector),
        ..CALICO
    },
    KindRow {
        kind: "StagedNetworkPolicy",
        plural: "stagednetworkpolicies",
        role: Role::Staged,
        decoder: Some(read(Kind::Policy(PolicyKind::StagedNetworkPolicy), |value, api_version| {
            calico_policy(&value, api_version, PolicyKind::StagedNetworkPolicy)
        })),
        ..CALICO
    },
    KindRow {
        kind: "StagedGlobalNetworkPolicy",
        plural: "stagedglobalnetworkpolicies",
        scope: Scope::Cluster,
        role: Role::Staged,
        decoder: Some(read(
            Kind::Policy(PolicyKind::StagedGlobalNetworkPolicy),
            |value, api_version| {
                calico_policy(&value, api_version, PolicyKind::StagedGlobalNetworkPolicy)
            },
        )),
        ..CALICO
    },
    KindRow {
        kind: "StagedKubernetesNetworkPolicy",
        plural: "stagedkubernetesnetworkpolicies",
        role: Role::Staged,
        decoder: Some(read(
            Kind::Policy(PolicyKind::StagedKubernetesNetworkPolicy),
            |value, api_version| {
                let policy = decode_strictly(&value)?;
                calico::lower_staged_kubernetes(&policy, group(api_version)).map(Object::Policy)
            },
        )),
        ..CALICO
    },
    KindRow {
        kind: "Tier",
        plural: "tiers",
        scope: Scope::Cluster,
        decoder: Some(read(Kind::Tier, |value, _| {
            calico::tier(&decode_strictly(&value)?).map(Object::Tier)
        })),
        ..CALICO
    },
    KindRow {
        kind: "NetworkSet",
        plural: "networksets",
        scope: Scope::AnyNamespace,
        decoder: Some(read(Kind::NetworkSet, |value, _| {
            calico::network_set(&decode_strictly(&value)?, false).map(Object::NetworkSet)
        })),
        ..CALICO
    },
    KindRow {
        kind: "GlobalNetworkSet",
        plural: "globalnetworksets",
        scope: Scope::Cluster,
        decoder: Some(read(Kind::GlobalNetworkSet, |value, _| {
            calico::network_set(&decode_strictly(&value)?, true).map(Object::NetworkSet)
        })),
        ..CALICO
    },
    // Of Kubernetes' own API: the successor of both admin kinds. Served in either version, or in both.
    KindRow {
        api_versions: &["policy.networking.k8s.io/v1beta1", "policy.networking.k8s.io/v1alpha2"],
        kind: "ClusterNetworkPolicy",
        plural: "clusternetworkpolicies",
        scope: Scope::Cluster,
        reach: Some(unread::cluster_network_policy),
        family: Family::ClusterNetworkPolicy,
        ..UNREAD
    },
    KindRow {
        api_versions: &["cilium.io/v2"],
        kind: "CiliumNetworkPolicy",
        plural: "ciliumnetworkpolicies",
        reach: Some(unread::cilium),
        family: Family::Cilium,
        ..UNREAD
    },
    KindRow {
        api_versions: &["cilium.io/v2"],
        kind: "CiliumClusterwideNetworkPolicy",
        plural: "ciliumclusterwidenetworkpolicies",
        scope: Scope::Cluster,
        reach: Some(unread::cilium_clusterwide),
        family: Family::Cilium,
        ..UNREAD
    },
    // Antrea's tiers and groups decide nothing by themselves: policies name them.
    KindRow {
        api_versions: &["crd.antrea.io/v1beta1"],
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        reach: Some(unread::antrea),
        family: Family::Antrea,
        ..UNREAD
    },
    KindRow {
        api_versions: &["crd.antrea.io/v1beta1"],
        kind: "ClusterNetworkPolicy",
        plural: "clusternetworkpolicies",
        scope: Scope::Cluster,
        reach: Some(unread::antrea),
        family: Family::Antrea,
        ..UNREAD
    },
    // OVN-Kubernetes'. Its EgressIP, EgressService and EgressQoS let pass what passes without them.
    KindRow {
        api_versions: &["k8s.ovn.org/v1"],
        kind: "EgressFirewall",
        plural: "egressfirewalls",
        reach: Some(unread::egress_firewall),
        family: Family::OvnKubernetes,
        ..UNREAD
    },
    KindRow {
        api_versions: &["network.openshift.io/v1"],
        kind: "EgressNetworkPolicy",
        plural: "egressnetworkpolicies",
        reach: Some(unread::egress_firewall),
        family: Family::OpenshiftSdn,
        ..UNREAD
    },
    // AWS'. Its PolicyEndpoints are made of policies, and say nothing that those do not.
    KindRow {
        api_versions: &["networking.k8s.aws/v1alpha1"],
        kind: "ApplicationNetworkPolicy",
        plural: "applicationnetworkpolicies",
        reach: Some(unread::application_network_policy),
        family: Family::Aws,
        ..UNREAD
    },
    KindRow {
        api_versions: &["networking.k8s.aws/v1alpha1"],
        kind: "ClusterNetworkPolicy",
        plural: "clusternetworkpolicies",
        scope: Scope::Cluster,
        reach: Some(unread::cluster_network_policy),
        family: Family::Aws,
        ..UNREAD
    },
    KindRow {
        api_versions: &["networking.gke.io/v1alpha1", "networking.gke.io/v1"],
        kind: "FQDNNetworkPolicy",
        plural: "fqdnnetworkpolicies",
        reach: Some(unread::fqdn),
        family: Family::Gke,
        ..UNREAD
    },
    // By which Calico's policies govern nodes.
    KindRow {
        kind: "HostEndpoint",
        plural: "hostendpoints",
        scope: Scope::Cluster,
        role: Role::Unread,
        reach: Some(unread::host_endpoint),
        family: Family::Calico,
        ..CALICO
    },
    KindRow {
        api_versions: &["k8s.ovn.org/v1"],
        kind: "AdminPolicyBasedExternalRoute",
        plural: "adminpolicybasedexternalroutes",
        scope: Scope::Cluster,
        reach: Some(unread::external_route),
        ..REMARKED
    },
    KindRow {
        api_versions: &["k8s.cni.cncf.io/v1beta1", "k8s.cni.cncf.io/v1beta2"],
        kind: "MultiNetworkPolicy",
        plural: "multi-networkpolicies",
        reach: Some(unread::second_network),
        ..REMARKED
    },
    KindRow {
        api_versions: &["security.istio.io/v1", "security.istio.io/v1beta1"],
        kind: "AuthorizationPolicy",
        plural: "authorizationpolicies",
        scope: Scope::AnyNamespace,
        reach: Some(unread::istio),
        ..REMARKED
    },
    KindRow {
        api_versions: &[
            "policy.linkerd.io/v1beta3",
            "policy.linkerd.io/v1beta2",
            "policy.linkerd.io/v1beta1",
        ],
        kind: "Server",
        plural: "servers",
        reach: Some(unread::linkerd_server),
        ..REMARKED
    },
    KindRow {
        api_versions: &["policy.linkerd.io/v1alpha1"],
        kind: "AuthorizationPolicy",
        plural: "authorizationpolicies",
        reach: Some(unread::linkerd),
        ..REMARKED
    },
    KindRow {
        api_versions: &["policy.linkerd.io/v1beta1"],
        kind: "ServerAuthorization",
        plural: "serverauthorizations",
        reach: Some(unread::linkerd),
        ..REMARKED
    },
];

const fn read(kind: Kind, decode: fn(Value, &str) -> Result<Object, Problem>) -> Decoder {
    Decoder { kind, decode }
}

fn template(value: Value, kind: WorkloadKind) -> Result<Object, Problem> {
    translate::template(kind, decode(value)?).map(Object::Template)
}

fn webhooks(value: Value, kind: CallerKind, api_version: &str) -> Result<Object, Problem> {
    translate::caller::webhooks(kind, &decode(value)?, api_version).map(Object::Caller)
}

fn monitor(value: Value, kind: CallerKind) -> Result<Object, Problem> {
    translate::caller::monitor(kind, &decode(value)?).map(Object::Caller)
}

fn calico_policy(value: &Value, api_version: &str, kind: PolicyKind) -> Result<Object, Problem> {
    calico::lower(&decode_strictly(value)?, kind, group(api_version)).map(Object::Policy)
}

/// The group of an `apiVersion` of Calico's rows.
fn group(api_version: &str) -> Group {
    Group::of(api_version).unwrap_or(Group::Stored)
}
