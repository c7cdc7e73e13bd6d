//! Services and their endpoints.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::{flow::Protocol, policy::requirement::Labels};

/// A Service.
///
/// <https://kubernetes.io/docs/reference/kubernetes-api/service-resources/service-v1/>
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Labels.
    pub labels: Labels,
    /// `spec.clusterIPs`, one for each family; empty: it is headless, stands for a name, or has not
    /// been given any (a manifest).
    pub cluster_addresses: Vec<IpAddr>,
    /// `spec.clusterIP` is `None`: its name stands for the addresses of its endpoints.
    pub headless: bool,
    /// `spec.externalName`, of one of type `ExternalName`: its name stands for another one.
    pub external_name: Option<Arc<str>>,
    /// `spec.externalIPs`.
    pub external_addresses: Vec<IpAddr>,
    /// `status.loadBalancer.ingress`.
    pub balancers: Vec<Balancer>,
    /// `spec.loadBalancerSourceRanges`: who may use the addresses of its balancers; empty: everybody.
    pub source_ranges: Vec<IpNet>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// `spec.selector`; empty: its endpoints are somebody else's to name.
    pub selector: Labels,
    /// `spec.publishNotReadyAddresses`: its pods count as ready whatever their probes say.
    pub publishes_not_ready: bool,
    /// `spec.internalTrafficPolicy`: of what goes to its cluster addresses.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`: of what goes to its other addresses and to node ports.
    pub external_policy: TrafficPolicy,
    /// Whether a client stays with the backend that it got first (`spec.sessionAffinity`).
    pub is_sticky: bool,
    /// Who serves it instead of kube-proxy (label `service.kubernetes.io/service-proxy-name`).
    pub other_proxy: Option<Arc<str>>,
}

/// Which endpoints of a Service a node sends to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TrafficPolicy {
    /// Those of all nodes.
    #[default]
    Cluster,
    /// Those of the node itself; what finds none there is silently dropped.
    Local,
}

/// An ingress point of a load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balancer {
    /// An address that nodes take for the Service's own (`ipMode: VIP`, or none).
    Address(IpAddr),
    /// An address that is the balancer's own (`ipMode: Proxy`): nodes do not translate it.
    Proxy(IpAddr),
    /// A name that is not in the cluster.
    Name(Arc<str>),
}

impl Service {
    /// Whether it selects pods of its namespace with these labels.
    pub fn selects(&self, labels: &Labels) -> bool {
        !self.selector.is_empty()
            && self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Whether it is reached by more than its cluster addresses: external ones, balancers, nodes' ports.
    pub fn is_exposed(&self) -> bool {
        !self.external_addresses.is_empty()
            || !self.balancers.is_empty()
            || self.ports.iter().any(|port| port.node_port.is_some())
    }

    /// All addresses that are its: cluster addresses, external ones, those of balancers.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let balancers = self.balancers.iter().filter_map(|balancer| match balancer {
            Balancer::Address(address) | Balancer::Proxy(address) => Some(*address),
            Balancer::Name(_) => None,
        });
        let own = self.cluster_addresses.iter().chain(&self.external_addresses);
        own.copied().chain(balancers)
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; empty where there is only one.
    pub name: Arc<str>,
    /// Port that clients dial.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the backends.
    pub target: TargetPort,
    /// Port on every node's addresses.
    pub node_port: Option<u16>,
}

/// `targetPort` of a Service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The container port of this name.
    Named(Arc<str>),
}

/// An `EndpointSlice`.
///
/// <https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/>
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// The Service it belongs to (label `kubernetes.io/service-name`).
    pub service: Option<Arc<str>>,
    /// Its endpoints.
    pub endpoints: Vec<SliceEndpoint>,
    /// Ports by the Service port's name.
    pub ports: Vec<SlicePort>,
}

impl EndpointSlice {
    /// Addresses of endpoints that are ready.
    pub fn ready(&self) -> impl Iterator<Item = IpAddr> {
        self.endpoints.iter().filter(|endpoint| endpoint.is_ready).map(|endpoint| endpoint.address)
    }
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its address: the first, as "no semantics are defined for additional addresses".
    pub address: IpAddr,
    /// `conditions.ready`: true where it is absent.
    pub is_ready: bool,
    /// `conditions.serving`: it answers, even if it is being deleted; true where it is absent.
    pub is_serving: bool,
    /// `conditions.terminating`: it is being deleted; false where it is absent.
    pub is_terminating: bool,
    /// The node it is on.
    pub node: Option<Arc<str>>,
    /// `hints.forZones`: zones whose clients are to use it; empty: no hint.
    pub for_zones: Vec<Arc<str>>,
    /// `hints.forNodes`: nodes whose clients are to use it; empty: no hint.
    pub for_nodes: Vec<Arc<str>>,
}

impl SliceEndpoint {
    /// One that is ready, of which nothing else is known.
    pub const fn ready(address: IpAddr) -> Self {
        Self {
            address,
            is_ready: true,
            is_serving: true,
            is_terminating: false,
            node: None,
            for_zones: Vec::new(),
            for_nodes: Vec::new(),
        }
    }
}

/// A port of an `EndpointSlice`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The Service port's name; empty where there is only one.
    pub name: Arc<str>,
    /// Port of the backends.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}
