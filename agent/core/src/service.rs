//! What becomes of a packet that is sent to a Service, as kube-proxy makes Services.
//!
//! A client dials an address and a port, from a node. Either nobody translates that, or one of some
//! packets comes of it, each to a backend and with the client's source or a node's; or kube-proxy
//! rejects it, or drops it in silence. Policies have no part in this room: they are asked of the
//! packets that come of it.
//!
//! Semantics: `pkg/proxy/topology.go` (`CategorizeEndpoints`), `pkg/proxy/serviceport.go` and
//! `pkg/proxy/iptables/proxier.go` (`syncProxyRules`) of Kubernetes; the nftables mode has the same.
//! Which endpoints are ready is the endpoint slice controller's (`staging/src/k8s.io/endpointslice`).

mod backends;
mod find;
mod route;
mod to_do;
pub mod words;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumDiscriminants, IntoStaticStr, VariantArray};

use crate::{
    cluster::{
        Snapshot,
        object::{Service, ServicePort, TargetPort},
        resolve::{Endpoint, Holder},
    },
    flow::Protocol,
};
pub use backends::{Backend, behind};
pub use find::{Found, find, former};
pub use to_do::to_do;

/// How many packets are made of one question at the most: those of a Service with hundreds of
/// backends, asked from outside through hundreds of nodes, are alike by then. Each is judged in some
/// ten microseconds.
pub const PACKETS_MAX: usize = 1_000;

/// What a client asks for: a connection from it to a port.
#[derive(Clone, Copy, Debug)]
pub struct Dial<'a> {
    /// Who connects.
    pub client: &'a Endpoint,
    /// The port that it dials.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// What becomes of a connection to a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Course {
    /// Who connects.
    pub client: Endpoint,
    /// The Service.
    pub service: Arc<Service>,
    /// By what it is dialled.
    pub entry: Entry,
    /// The address dialled; `None`: the Service has none, or it is not known.
    pub address: Option<IpAddr>,
    /// The port dialled.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// What becomes of it.
    pub fate: Fate,
    /// What is worth knowing besides.
    pub remarks: Vec<Remark>,
}

impl Course {
    /// Of a connection of which nothing more is to be said.
    fn to(
        dial: &Dial<'_>,
        service: &Arc<Service>,
        entry: Entry,
        address: Option<IpAddr>,
        fate: Fate,
    ) -> Self {
        Self {
            client: dial.client.clone(),
            service: service.clone(),
            entry,
            address,
            port: dial.port,
            protocol: dial.protocol,
            fate,
            remarks: Vec::new(),
        }
    }

    /// The same of a client that is a node, of which only that is known: its packets carry whichever of
    /// its addresses the route to the backend has.
    #[must_use]
    pub fn of_any_address(mut self, snapshot: &Snapshot) -> Self {
        let packets = match &mut self.fate {
            Fate::Sent(packets) | Fate::Refused { otherwise: packets, .. } => packets,
            Fate::Untranslated(_) | Fate::Name(_) | Fate::Unknown(_) => return self,
        };
        let all = packets.drain(..).flat_map(|packet| -> Vec<Packet> {
            let Hop { source, destination, .. } = &packet.arrives;
            match (&packet.source, &source.holder) {
                (Source::Kept, Holder::Node(node)) => {
                    let sources = snapshot.sources_of_node(node, destination).into_iter();
                    let with = |source| Packet {
                        arrives: Hop { source, ..packet.arrives.clone() },
                        ..packet.clone()
                    };
                    sources.map(with).collect()
                }
                _ => vec![packet],
            }
        });
        let all: Vec<Packet> = all.take(PACKETS_MAX).collect();
        *packets = all;
        self
    }

    /// The packets that may come of it, or, of one that is refused, would.
    pub fn packets(&self) -> &[Packet] {
        match &self.fate {
            Fate::Sent(packets) | Fate::Refused { otherwise: packets, .. } => packets,
            Fate::Untranslated(packet) => std::slice::from_ref(&**packet),
            Fate::Name(_) | Fate::Unknown(_) => &[],
        }
    }

    /// Why nothing comes of it, where that is known.
    pub const fn refusal(&self) -> Option<&Refusal> {
        match &self.fate {
            Fate::Refused { refusal, .. } => Some(refusal),
            Fate::Sent(_) | Fate::Untranslated(_) | Fate::Name(_) | Fate::Unknown(_) => None,
        }
    }

    /// Whether every kube-proxy rejects it, so that the client hears of it at once.
    pub fn is_rejected(&self) -> bool {
        let is_rejection = self.refusal().is_some_and(Refusal::is_rejection);
        is_rejection && !self.remarks.contains(&Remark::KeptOut)
    }
}

/// By what a Service is dialled.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EnumDiscriminants)]
#[strum_discriminants(
    name(EntryKind),
    doc = "By what a Service is dialled.",
    derive(Serialize, Deserialize, JsonSchema),
    serde(rename_all = "kebab-case")
)]
pub enum Entry {
    /// Its cluster address, or its name.
    Cluster,
    /// One of its `externalIPs`.
    External,
    /// An address of a load balancer.
    Balancer,
    /// A port of a node's addresses: of the node of this name, or of any.
    NodePort(Option<Arc<str>>),
    /// Its name, which stands for its endpoints' own addresses.
    Headless,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, EnumDiscriminants)]
#[strum_discriminants(
    name(FateKind),
    doc = "What becomes of a connection to a Service.",
    derive(Serialize),
    serde(rename_all = "kebab-case")
)]
pub enum Fate {
    /// One of these packets, at least one, comes of it.
    Sent(Vec<Packet>),
    /// None does.
    Refused {
        /// Why.
        refusal: Refusal,
        /// Those that would come of it if it were not refused; of endpoints that are not ready.
        otherwise: Vec<Packet>,
    },
    /// No node translates it: it is the balancer's own address, and the balancer connects by itself.
    Untranslated(Box<Packet>),
    /// The Service's name stands for this one, which is outside the cluster.
    Name(Arc<str>),
    /// It is unknown.
    Unknown(Doubt),
}

impl Fate {
    /// Nothing comes of it, and nothing would.
    const fn nothing(refusal: Refusal) -> Self {
        Self::Refused { refusal, otherwise: Vec::new() }
    }
}

/// Why nothing comes of it.
#[derive(Clone, Debug, PartialEq, Eq, EnumDiscriminants)]
#[strum_discriminants(
    name(RefusalKind),
    doc = "Why nothing comes of a connection to a Service.",
    derive(IntoStaticStr, VariantArray, Serialize, Deserialize, JsonSchema),
    strum(serialize_all = "kebab-case"),
    serde(rename_all = "kebab-case")
)]
pub enum Refusal {
    /// No endpoint may be used: rejected (ICMP, port unreachable).
    NoEndpoint,
    /// The pods have no port of the name that the Service sends to, and so there is no endpoint:
    /// rejected.
    NoPortOfName(Arc<str>),
    /// Only endpoints of this node may be used, and it has none: silently dropped.
    NoLocalEndpoint {
        /// The node that translates; `None`: any of them.
        node: Option<Arc<str>>,
        /// Which field of the Service says so.
        by: PolicyField,
    },
    /// The client is in none of the Service's `loadBalancerSourceRanges`: silently dropped.
    SourceRanges,
    /// A headless Service without a ready endpoint: its name has no address.
    NoAddress,
    /// The Service has no such port: nothing translates it, and it goes on as it is, or is rejected by
    /// newer kube-proxies.
    NoPort,
    /// No Service has the address any more. This one had it last; nothing translates it, and it goes on
    /// as it is.
    FormerAddress {
        /// Whether the Service is gone, rather than known to have other addresses or not known at all.
        is_deleted: bool,
    },
}

impl RefusalKind {
    /// Every one.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// As records spell it.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl Refusal {
    /// Whether the client hears of it at once; otherwise it waits in vain. See [`Course::is_rejected`].
    pub const fn is_rejection(&self) -> bool {
        matches!(self, Self::NoEndpoint | Self::NoPortOfName(_))
    }
}

/// The fields of a Service that keep traffic on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyField {
    /// `spec.internalTrafficPolicy`.
    Internal,
    /// `spec.externalTrafficPolicy`.
    External,
}

/// Why it is unknown what becomes of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Doubt {
    /// Another proxy serves it.
    OtherProxy(Arc<str>),
    /// No pod among the objects has the labels that the Service selects by, and no slice is there.
    SelectsNoPod,
    /// It has no selector, and no object says what is behind it.
    NoSlices,
    /// It keeps what comes from outside to a node's own endpoints, and the node that is dialled has none.
    /// But what a pod sends from another node is not "from outside" to a kube-proxy that knows pods by
    /// the cluster's range of addresses: it is sent to any endpoint.
    TakenForLocal {
        /// The node.
        node: Arc<str>,
        /// What comes of it there, where it does.
        otherwise: Vec<Packet>,
    },
}

/// What is worth knowing besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remark {
    /// No endpoint is ready: what is being deleted still serves.
    Terminating,
    /// Some endpoints are left out, as hints keep traffic in the client's zone or node.
    Hinted,
    /// Only endpoints of the client's own node may be used, and which node that is, is not known.
    NodeUnknown,
    /// A headless Service's port is no more than a name: what is dialled is the pods' own, and not
    /// this one, which the Service has for it.
    PortOfPods(TargetPort),
    /// Pods that it selects have no port of this name, and are no endpoints of it.
    LeftOut(Vec<Arc<str>>),
    /// A client stays with the backend that it got first.
    Sticky,
    /// The address is of the cluster's inside, and the client is outside.
    FromOutside,
    /// This node may send it to endpoints of other nodes as well, as of [`Doubt::TakenForLocal`].
    PerhapsTakenForLocal(Arc<str>),
    /// These nodes have no endpoint of their own, and would drop it.
    NotByEveryNode(Vec<Arc<str>>),
    /// The client is a node, and a kube-proxy in iptables mode rejects nothing of what its own node sends
    /// to addresses from outside: the chain `KUBE-EXTERNAL-SERVICES` is not in the way of `OUTPUT`.
    NotRejectedForNode,
    /// Its source ranges do not let the client in either. A kube-proxy in iptables mode rejects it for want of
    /// an endpoint, one in nftables mode drops it before that (both seen in the differential).
    KeptOut,
    /// There are more packets than are looked at.
    Cut,
}

/// A packet that may come of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Packet {
    /// As it leaves the client, where that differs from how it arrives: what the policies of the
    /// client see.
    pub leaves: Option<Hop>,
    /// As it arrives at the backend, and, where it does not leave otherwise, as it leaves.
    pub arrives: Hop,
    /// Whose address it has for a source when it arrives.
    pub source: Source,
}

/// The addresses of a packet on one part of its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Hop {
    /// Source.
    pub source: Endpoint,
    /// Destination.
    pub destination: Endpoint,
    /// Destination port.
    pub port: u16,
}

/// Whose address a packet has for a source when it arrives.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EnumDiscriminants)]
#[strum_discriminants(
    name(SourceKind),
    doc = "Whose address a packet has for a source when it arrives.",
    derive(Serialize),
    serde(rename_all = "kebab-case")
)]
pub enum Source {
    /// The client's.
    Kept,
    /// A backend that connects to itself through its Service: its node's, once policies were asked.
    Hairpin,
    /// That of this node, whose kube-proxy has translated it.
    Replaced(Arc<str>),
    /// That of the client's node, if its network plugin replaces pods' addresses on the way to other
    /// nodes; otherwise the pod's.
    PerhapsReplaced(Arc<str>),
}

impl Dial<'_> {
    /// The address family that it is of: the client's, or, where that has no address, that of what it
    /// dials.
    fn family(&self, address: Option<IpAddr>, service: &Service) -> IpAddr {
        let own = self.client.address.or(address).or(service.cluster_addresses.first().copied());
        own.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

/// What becomes of a connection to an address; `None`: it is no Service's, or was not then, and nobody's
/// any more that was one's.
pub fn to_address(
    snapshot: &Snapshot,
    dial: &Dial<'_>,
    address: IpAddr,
    at: Option<Timestamp>,
) -> Option<Course> {
    match find(snapshot, address, dial.port, dial.protocol, at) {
        Some(found) => Some(route::to_found(snapshot, dial, address, found)),
        None => former(snapshot, address, at)
            .map(|former| find::to_former(snapshot, dial, address, &former)),
    }
}

/// What becomes of a connection to a Service by its name, of the client's address family: to its
/// cluster address, or, from outside of the cluster, to those of its addresses that are there for
/// that. Nothing where it has none of that family.
pub fn to_service(snapshot: &Snapshot, dial: &Dial<'_>, service: &Arc<Service>) -> Vec<Course> {
    route::to_name(snapshot, dial, service)
}

/// The port of a Service.
fn port_of(service: &Service, port: u16, protocol: Protocol) -> Option<&ServicePort> {
    service.ports.iter().find(|entry| entry.port == port && entry.protocol == protocol)
}
