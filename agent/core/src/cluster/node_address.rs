//! The addresses of a node: what each is to it, and how far that is certain.

use std::{fmt, net::IpAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumIter};

/// A network plugin, as far as it gives addresses to nodes.
///
/// It need not be the one that enforces policies: with Canal, flannel connects the nodes and Calico
/// enforces.
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
    EnumIter,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Plugin {
    /// Calico.
    Calico,
    /// flannel, of which k3s brings a copy.
    #[strum(serialize = "flannel")]
    Flannel,
    /// Cilium.
    Cilium,
    /// Antrea.
    Antrea,
    /// kube-router.
    #[strum(serialize = "kube-router")]
    KubeRouter,
    /// OVN-Kubernetes, the plugin of `OpenShift`.
    #[strum(serialize = "OVN-Kubernetes")]
    OvnKubernetes,
}

/// What an address is to its node. Nodes have theirs of the same sort for the same reason, so that a
/// rule that admits one node's by its address has to admit the others' of this sort.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum AddressSort {
    /// `status.addresses` of type `InternalIP`.
    Internal,
    /// `status.addresses` of type `ExternalIP`: seldom on an interface of the node, so that no packet
    /// to a pod comes from it.
    External,
    /// By which the plugin of another node reaches it.
    Underlay(Plugin),
    /// Of the tunnel to the other nodes' pods: what the node itself sends to one of them carries it.
    Tunnel(Option<Plugin>),
    /// Of the bridge or interface by which the node reaches its own pods: their gateway.
    Gateway(Option<Plugin>),
    /// Of the port by which the node itself takes part in the pods' network.
    Management(Plugin),
    /// Of a router that the plugin has on the node, in a network between the nodes.
    Router(Plugin),
    /// Of some interface of its own.
    Interface,
}

/// How far it is certain that an address is its node's.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// An object says it, or the node's kernel.
    Stated,
    /// The plugin that the node's annotations name always takes this address of the node's pod network.
    Derived,
    /// Plugins in general take this address of a node's `podCIDR`; which one there is, is unknown. A pod
    /// may hold it.
    Convention,
}

/// An address of a node.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub struct NodeAddress {
    /// The address.
    pub address: IpAddr,
    /// What it is to the node.
    pub sort: AddressSort,
    /// How far that is certain.
    pub basis: Basis,
}

impl NodeAddress {
    /// One that an object states.
    pub const fn stated(address: IpAddr, sort: AddressSort) -> Self {
        Self { address, sort, basis: Basis::Stated }
    }

    /// An `InternalIP`.
    pub const fn internal(address: IpAddr) -> Self {
        Self::stated(address, AddressSort::Internal)
    }

    /// Whether the Node object lists it among its own: `InternalIP` and `ExternalIP`.
    pub const fn is_listed(&self) -> bool {
        matches!(self.sort, AddressSort::Internal | AddressSort::External)
    }

    /// Whether it is known to be the node's, rather than by convention.
    pub fn is_certain(&self) -> bool {
        self.basis != Basis::Convention
    }
}

impl fmt::Display for AddressSort {
    /// To be read after a node's name: `tunnel address (flannel)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Internal => f.write_str("InternalIP"),
            Self::External => f.write_str("ExternalIP"),
            Self::Underlay(plugin) => write!(f, "address towards other nodes ({plugin})"),
            Self::Tunnel(Some(plugin)) => write!(f, "tunnel address ({plugin})"),
            Self::Tunnel(None) => f.write_str("tunnel address"),
            Self::Gateway(Some(plugin)) => match plugin.gateway_interface() {
                Some(interface) => write!(f, "address on {interface} ({plugin})"),
                None => write!(f, "gateway of its pods ({plugin})"),
            },
            Self::Gateway(None) => f.write_str("gateway of its pods"),
            Self::Management(plugin) => write!(f, "management port ({plugin})"),
            Self::Router(plugin) => write!(f, "router between nodes ({plugin})"),
            Self::Interface => f.write_str("address on one of its interfaces"),
        }
    }
}

impl Plugin {
    /// The interface of the node that has the address of its pods' gateway.
    const fn gateway_interface(self) -> Option<&'static str> {
        match self {
            // The bridge plugin's name in flannel's own configuration, and in that of k3s.
            Self::Flannel => Some("cni0"),
            Self::Cilium => Some("cilium_host"),
            Self::Antrea => Some("antrea-gw0"),
            Self::KubeRouter => Some("kube-bridge"),
            // Calico has no such address, OVN-Kubernetes has it on a router and on no interface.
            Self::Calico | Self::OvnKubernetes => None,
        }
    }
}
