//! What the core keeps of Kubernetes objects: only what a decision or a report needs.

mod service;

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use jiff::Timestamp;
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use super::{
    address_pool::AddressPool,
    caller::{Caller, CallerKind},
    node_address::NodeAddress,
};
use crate::{
    flow::Protocol,
    policy::{
        Policy, PolicyKind, PolicyRef, network_set::NetworkSet, requirement::Labels, tier::Tier,
    },
};

pub use self::service::{
    Balancer, EndpointSlice, Service, ServicePort, SliceEndpoint, SlicePort, TargetPort,
    TrafficPolicy,
};

/// An object of a kind that decisions depend on.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// `v1` Pod.
    Pod(Pod),
    /// `v1` Namespace.
    Namespace(Namespace),
    /// `v1` Node.
    Node(Node),
    /// What a network plugin's own object says of a node.
    PluginNode(PluginNode),
    /// `v1` Service.
    Service(Service),
    /// `discovery.k8s.io/v1` `EndpointSlice`.
    EndpointSlice(EndpointSlice),
    /// `v1` `ServiceAccount`.
    ServiceAccount(ServiceAccount),
    /// Calico's `IPPool`.
    AddressPool(AddressPool),
    /// A policy of any kind.
    Policy(Policy),
    /// Calico's Tier.
    Tier(Tier),
    /// Calico's `NetworkSet` or `GlobalNetworkSet`.
    NetworkSet(NetworkSet),
    /// A workload, of which only its template takes part.
    Template(Template),
    /// What makes something connect to pods.
    Caller(Caller),
}

/// The kinds of [`Object`]; [`crate::kinds`] says where each comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1` Pod.
    Pod,
    /// `v1` Namespace.
    Namespace,
    /// `v1` Node.
    Node,
    /// A network plugin's object of a node.
    PluginNode(PluginNodeKind),
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` `EndpointSlice`.
    EndpointSlice,
    /// `v1` `ServiceAccount`.
    ServiceAccount,
    /// Calico's `IPPool`.
    AddressPool,
    /// A policy kind.
    Policy(PolicyKind),
    /// Calico's Tier.
    Tier,
    /// Calico's.
    NetworkSet,
    /// Calico's.
    GlobalNetworkSet,
    /// A workload's.
    Template(WorkloadKind),
    /// What makes something connect to pods.
    Caller(CallerKind),
}

impl Kind {
    /// The kind of a network set.
    pub const fn of_network_set(set: &NetworkSet) -> Self {
        match set.namespace {
            Some(_) => Self::NetworkSet,
            None => Self::GlobalNetworkSet,
        }
    }
}

impl Kind {
    /// The kind as records and metrics spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::PluginNode(PluginNodeKind::Cilium) => "CiliumNode",
            Self::PluginNode(PluginNodeKind::Calico) => "Calico Node",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::ServiceAccount => "ServiceAccount",
            Self::AddressPool => "IPPool",
            Self::Policy(kind) => kind.name(),
            Self::Tier => "Tier",
            Self::NetworkSet => "NetworkSet",
            Self::GlobalNetworkSet => "GlobalNetworkSet",
            Self::Template(kind) => kind.name(),
            Self::Caller(kind) => kind.name(),
        }
    }
}

impl fmt::Display for Kind {
    /// For people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(kind) => kind.fmt(f),
            other => f.pad(other.name()),
        }
    }
}

/// Names one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace, for namespaced kinds.
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
}

impl Key {
    /// The policy, if it names one.
    pub fn policy(&self) -> Option<PolicyRef> {
        match self.kind {
            Kind::Policy(kind) => {
                Some(PolicyRef { kind, namespace: self.namespace.clone(), name: self.name.clone() })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

impl Object {
    /// The object's kind and name.
    pub fn key(&self) -> Key {
        let (kind, namespace, name) = match self {
            Self::Pod(o) => (Kind::Pod, Some(&o.namespace), &o.name),
            Self::Namespace(o) => (Kind::Namespace, None, &o.name),
            Self::Node(o) => (Kind::Node, None, &o.name),
            Self::PluginNode(o) => (Kind::PluginNode(o.kind), None, &o.name),
            Self::Service(o) => (Kind::Service, Some(&o.namespace), &o.name),
            Self::EndpointSlice(o) => (Kind::EndpointSlice, Some(&o.namespace), &o.name),
            Self::ServiceAccount(o) => (Kind::ServiceAccount, Some(&o.namespace), &o.name),
            Self::AddressPool(o) => (Kind::AddressPool, None, &o.name),
            Self::Tier(o) => (Kind::Tier, None, &o.name),
            Self::NetworkSet(o) => (Kind::of_network_set(o), o.namespace.as_ref(), &o.name),
            Self::Template(o) => (Kind::Template(o.kind), Some(&o.pod.namespace), &o.name),
            Self::Caller(o) => (Kind::Caller(o.kind), o.namespace.as_ref(), &o.name),
            Self::Policy(o) => {
                let PolicyRef { kind, namespace, name } = &o.reference;
                (Kind::Policy(*kind), namespace.as_ref(), name)
            }
        };
        Key { kind, namespace: namespace.cloned(), name: name.clone() }
    }
}

/// A pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name; of one that stands for those that a template makes, the workload as people name it as an
    /// end of a flow: `deploy/web`.
    pub name: Arc<str>,
    /// Whether it is no pod, but stands for those that its workload makes of its template.
    pub is_template: bool,
    /// `metadata.uid`.
    pub uid: Option<Arc<str>>,
    /// Labels.
    pub labels: Labels,
    /// `metadata.creationTimestamp`: it held no address before.
    pub created: Option<Timestamp>,
    /// `status.startTime`: when its node's kubelet took it up, which was before it had an address.
    pub started: Option<Timestamp>,
    /// `spec.serviceAccountName`; `default` where it is absent.
    pub service_account: Arc<str>,
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// `spec.hostNetwork`: its address is its node's, and no policy selects it.
    pub host_network: bool,
    /// Whether it is over: it holds no address any more, and is what it was otherwise.
    pub finished: Option<Finished>,
    /// `status.podIPs`; empty once it has finished (Succeeded, Failed) or before it has any.
    pub addresses: Vec<IpAddr>,
    /// `status.hostIPs`: addresses of its node.
    pub host_addresses: Vec<IpAddr>,
    /// The networks that it has beside the cluster's own, with its addresses there.
    pub second_networks: Vec<SecondNetwork>,
    /// Named container ports.
    pub ports: Vec<ContainerPort>,
    /// Ports that the kubelet probes over the network.
    pub probes: Vec<ProbePort>,
    /// The port at which its annotations ask Prometheus to scrape it (`prometheus.io/scrape`,
    /// `prometheus.io/port`).
    pub scraped_port: Option<u16>,
    /// Who made it.
    pub workload: Option<Workload>,
    /// Its condition `Ready`; `None`: its status does not say.
    pub ready: Option<bool>,
    /// Since when it is being deleted: when that was asked for, which is its grace period before
    /// `metadata.deletionTimestamp`.
    pub terminating: Option<Timestamp>,
    /// How often its containers were restarted: the sum of their `restartCount`.
    pub restarts: u64,
    /// Addresses that it answers DNS queries at on its node, of a node-local cache (`-localip`).
    pub dns_cache_addresses: Vec<IpAddr>,
}

impl Pod {
    /// When it began, by its own times: it held no address before.
    pub fn began(&self) -> Option<Timestamp> {
        self.started.or(self.created)
    }
}

/// A network that a pod has beside the one of its `status.podIPs`. Network policies do not govern it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecondNetwork {
    /// Its name as the pod's annotation has it: `NAMESPACE/NAME` of a `NetworkAttachmentDefinition`.
    pub name: Arc<str>,
    /// The pod's addresses there.
    pub addresses: Vec<IpAddr>,
}

/// How a pod ended (`status.phase`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display)]
pub enum Finished {
    /// All its containers ended well.
    Succeeded,
    /// At least one did not.
    Failed,
}

/// A named container port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    /// Its name.
    pub name: Arc<str>,
    /// Its number.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// A port that the kubelet connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbePort {
    /// Which probe.
    pub probe: Probe,
    /// The port.
    pub port: u16,
}

/// The kubelet's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Display)]
#[strum(serialize_all = "lowercase")]
pub enum Probe {
    /// Restarts the container.
    Liveness,
    /// Takes the pod out of its Services.
    Readiness,
    /// Holds back the other two.
    Startup,
}

/// What a pod belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Workload {
    /// `Deployment`, `StatefulSet`, …
    pub kind: Arc<str>,
    /// Its name, in the pod's namespace.
    pub name: Arc<str>,
}

/// The kinds of workloads that make pods of a template, as they spell themselves.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
pub enum WorkloadKind {
    /// `apps/v1`.
    Deployment,
    /// `apps/v1`.
    StatefulSet,
    /// `apps/v1`.
    DaemonSet,
    /// `apps/v1`.
    ReplicaSet,
    /// `batch/v1`.
    Job,
    /// `batch/v1`: it makes Jobs.
    CronJob,
    /// `v1`.
    ReplicationController,
    /// `apps.openshift.io/v1`.
    DeploymentConfig,
}

impl WorkloadKind {
    /// Every kind.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// Its name.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// What `kubectl` calls it for short.
    pub const fn short(self) -> &'static str {
        match self {
            Self::Deployment => "deploy",
            Self::StatefulSet => "sts",
            Self::DaemonSet => "ds",
            Self::ReplicaSet => "rs",
            Self::Job => "job",
            Self::CronJob => "cronjob",
            Self::ReplicationController => "rc",
            Self::DeploymentConfig => "dc",
        }
    }
}

/// A workload, by the pods that it makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: Arc<str>,
    /// Who made the workload itself: of a `ReplicaSet` a `Deployment`, of a `Job` a `CronJob`.
    pub owner: Option<Workload>,
    /// What stands for its pods.
    pub pod: Arc<Pod>,
    /// Whether it is to have no pod (`spec.replicas: 0`, `spec.suspend`).
    pub is_idle: bool,
}

/// How many pods a workload has, by its own status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// All of them: `status.replicas`, of a `DaemonSet` `status.desiredNumberScheduled`.
    pub replicas: usize,
    /// Those that are ready: `status.readyReplicas`, of a `DaemonSet` `status.numberReady`.
    pub ready: usize,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Name.
    pub name: Arc<str>,
    /// Labels, with the one that the API server adds.
    pub labels: Labels,
    /// Why what its policies deny is expected, see [`crate::mute`]; `None`: nobody says that it is.
    pub mute: Option<Arc<str>>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Name.
    pub name: Arc<str>,
    /// Labels.
    pub labels: Labels,
    /// Its addresses: first those that `status.addresses` lists, then those that it has from its
    /// network plugin. None is there twice.
    pub addresses: Vec<NodeAddress>,
    /// `spec.podCIDRs`, and what its network plugin has beside them.
    pub pod_networks: Vec<IpNet>,
    /// The subnets that it is in itself, as far as its network plugin says them.
    pub subnets: Vec<IpNet>,
}

impl Node {
    /// What is known of one of its addresses.
    pub fn address(&self, address: IpAddr) -> Option<&NodeAddress> {
        self.addresses.iter().find(|known| known.address == address)
    }

    /// Those that `status.addresses` lists: `InternalIP` and `ExternalIP`.
    pub fn listed_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().filter(|known| known.is_listed()).map(|known| known.address)
    }

    /// The addresses that are its own for certain.
    pub fn own_addresses(&self) -> impl Iterator<Item = &NodeAddress> {
        self.addresses.iter().filter(|known| known.is_certain())
    }
}

/// What a network plugin's own object says of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginNode {
    /// Of which kind the object is.
    pub kind: PluginNodeKind,
    /// The Node's name.
    pub name: Arc<str>,
    /// The addresses that the node has by it.
    pub addresses: Vec<NodeAddress>,
    /// Networks of the node's pods.
    pub pod_networks: Vec<IpNet>,
    /// The subnets that the node is in itself.
    pub subnets: Vec<IpNet>,
}

/// The kinds of network plugins' objects that say which addresses a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, VariantArray)]
pub enum PluginNodeKind {
    /// `cilium.io/v2` `CiliumNode`.
    Cilium,
    /// Calico's Node.
    Calico,
}

/// A `ServiceAccount`, by whose labels Calico's policies may select pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Labels.
    pub labels: Labels,
}
