//! What network plugins write into a Node's annotations: which addresses it has from them.
//!
//! One table of annotations, and one of what plugins take of a node's pod network without saying so,
//! each line with its source.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::address::address_or_network;
use crate::cluster::node_address::{AddressSort, Basis, NodeAddress, Plugin};

const CALICO_TUNNEL: AddressSort = AddressSort::Tunnel(Some(Plugin::Calico));
const CALICO_UNDERLAY: AddressSort = AddressSort::Underlay(Plugin::Calico);
const CILIUM_HOST: AddressSort = AddressSort::Gateway(Some(Plugin::Cilium));
const FLANNEL_UNDERLAY: AddressSort = AddressSort::Underlay(Plugin::Flannel);
const OVN_ROUTER: AddressSort = AddressSort::Router(Plugin::OvnKubernetes);

/// Annotations that hold addresses: plain, as networks, in a list between commas, or as JSON.
const ADDRESSES: &[(&str, AddressSort)] = &[
    // calico: libcalico-go/lib/backend/k8s/resources/node.go.
    ("projectcalico.org/IPv4Address", CALICO_UNDERLAY),
    ("projectcalico.org/IPv6Address", CALICO_UNDERLAY),
    ("projectcalico.org/IPv4IPIPTunnelAddr", CALICO_TUNNEL),
    ("projectcalico.org/IPv4VXLANTunnelAddr", CALICO_TUNNEL),
    ("projectcalico.org/IPv6VXLANTunnelAddr", CALICO_TUNNEL),
    ("projectcalico.org/IPv4WireguardInterfaceAddr", CALICO_TUNNEL),
    ("projectcalico.org/IPv6WireguardInterfaceAddr", CALICO_TUNNEL),
    // flannel: pkg/subnet/kube/annotations.go.
    ("flannel.alpha.coreos.com/public-ip", FLANNEL_UNDERLAY),
    ("flannel.alpha.coreos.com/public-ipv6", FLANNEL_UNDERLAY),
    ("flannel.alpha.coreos.com/node-public-ip", FLANNEL_UNDERLAY),
    ("flannel.alpha.coreos.com/node-public-ipv6", FLANNEL_UNDERLAY),
    // cilium: pkg/annotation/k8s.go, with the names from before 1.13. The health endpoint's address is
    // none of the node's: it has a network and an identity of its own.
    ("network.cilium.io/ipv4-cilium-host", CILIUM_HOST),
    ("network.cilium.io/ipv6-cilium-host", CILIUM_HOST),
    ("io.cilium.network.ipv4-cilium-host", CILIUM_HOST),
    ("io.cilium.network.ipv6-cilium-host", CILIUM_HOST),
    // antrea: pkg/agent/types/annotations.go.
    ("node.antrea.io/transport-addresses", AddressSort::Underlay(Plugin::Antrea)),
    // ovn-kubernetes: go-controller/pkg/util/node_annotations.go; some names have an s in newer
    // versions, whose values are by network.
    ("k8s.ovn.org/node-primary-ifaddr", AddressSort::Underlay(Plugin::OvnKubernetes)),
    ("k8s.ovn.org/node-gateway-router-lrp-ifaddr", OVN_ROUTER),
    ("k8s.ovn.org/node-gateway-router-lrp-ifaddrs", OVN_ROUTER),
    ("k8s.ovn.org/node-transit-switch-port-ifaddr", OVN_ROUTER),
    ("k8s.ovn.org/node-transit-switch-port-ifaddrs", OVN_ROUTER),
    ("k8s.ovn.org/l3-gateway-config", AddressSort::Interface),
    ("k8s.ovn.org/host-cidrs", AddressSort::Interface),
    ("k8s.ovn.org/host-addresses", AddressSort::Interface),
];

/// Annotations that hold networks of the node's pods.
const POD_NETWORKS: &[&str] = &[
    "kube-router.io/pod-cidr",
    "kube-router.io/pod-cidrs",
    "network.cilium.io/ipv4-pod-cidr",
    "network.cilium.io/ipv6-pod-cidr",
    "io.cilium.network.ipv4-pod-cidr",
    "io.cilium.network.ipv6-pod-cidr",
    OVN_SUBNETS,
];

const OVN_SUBNETS: &str = "k8s.ovn.org/node-subnets";
const FLANNEL_BACKEND: &str = "flannel.alpha.coreos.com/backend-type";

/// flannel's backends that give the tunnel's interface the first address of the node's subnet
/// (flannel: pkg/backend/{vxlan,udp,ipip,wireguard}). The others have no tunnel.
const FLANNEL_TUNNELS: [&str; 4] = ["vxlan", "udp", "ipip", "wireguard"];

/// The fields of OVN-Kubernetes' `l3-gateway-config` that hold the node's own addresses; the others
/// hold its router's.
const OVN_GATEWAY_FIELDS: [&str; 4] =
    ["ip-address", "ip-addresses", "exgw-ip-address", "exgw-ip-addresses"];

/// How many addresses of one annotation are read: a node has some dozens of interfaces.
const ADDRESSES_MAX: usize = 256;

/// Which plugin a node's pods have their addresses from, and in which way it takes its own of their
/// network.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taking {
    /// flannel: the tunnel has the network's own address, `cni0` the next.
    Flannel { tunnels: bool },
    /// The bridge, or the interface to the pods, has the network's first address.
    First(Plugin),
    /// OVN-Kubernetes: its router has the first, the node's own port the second
    /// (go-controller/pkg/util/net.go, `GetNodeGatewayIfAddr`, `GetNodeManagementIfAddr`).
    Ovn,
    /// None of any meaning: the plugin gives each node addresses of its own choice.
    None,
    /// It is unknown which plugin there is.
    Unknown,
}

/// The annotations of a node.
pub(super) struct Annotations<'a>(Option<&'a BTreeMap<String, String>>);

impl<'a> Annotations<'a> {
    /// Those of an object.
    pub(super) fn of(metadata: &'a ObjectMeta) -> Self {
        Self(metadata.annotations.as_ref())
    }

    /// The addresses that are written there, each with its network as far as that is, in the order of
    /// the table.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (IpNet, AddressSort)> {
        ADDRESSES.iter().flat_map(|(name, sort)| {
            let networks = self.get(name).map(networks_in).unwrap_or_default().into_iter();
            networks.map(|network| (network, *sort))
        })
    }

    /// The networks of the node's pods that are written there.
    pub(super) fn pod_networks(&self) -> Vec<IpNet> {
        let written = POD_NETWORKS.iter().filter_map(|name| self.get(name));
        written.flat_map(networks_in).collect()
    }

    /// What a plugin takes of the node's pod network, given its `podCIDRs`.
    pub(super) fn of_pod_cidrs(&self, pod_cidrs: &[IpNet]) -> impl Iterator<Item = NodeAddress> {
        let own = |name| self.get(name).map(networks_in).unwrap_or_default();
        let taking = self.taking();
        let networks = match taking {
            Taking::Ovn => own(OVN_SUBNETS),
            Taking::First(Plugin::KubeRouter) => {
                let mut own =
                    [own("kube-router.io/pod-cidrs"), own("kube-router.io/pod-cidr")].concat();
                if own.is_empty() {
                    own.extend_from_slice(pod_cidrs);
                }
                own
            }
            _ => pod_cidrs.to_vec(),
        };
        networks.into_iter().flat_map(move |network| taking.of(network))
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0?.get(name).map(String::as_str)
    }

    fn has_any(&self, prefix: &str) -> bool {
        self.0.is_some_and(|all| all.keys().any(|name| name.starts_with(prefix)))
    }

    fn taking(&self) -> Taking {
        if self.has_any("flannel.alpha.coreos.com/") {
            // Where the backend is not named, it is the default.
            let backend = self.get(FLANNEL_BACKEND).unwrap_or(FLANNEL_TUNNELS[0]);
            Taking::Flannel { tunnels: FLANNEL_TUNNELS.contains(&backend) }
        } else if self.has_any(OVN_SUBNETS) {
            Taking::Ovn
        } else if self.has_any("kube-router.io/") {
            // kube-router: pkg/controllers/routing/network_routes_controller.go, the bridge plugin.
            Taking::First(Plugin::KubeRouter)
        } else if self.has_any("node.antrea.io/") {
            // antrea: pkg/agent/agent.go, `allocateGatewayIPs`.
            Taking::First(Plugin::Antrea)
        } else if self.has_any("projectcalico.org/")
            || self.has_any("network.cilium.io/")
            || self.has_any("io.cilium.network.")
        {
            Taking::None
        } else {
            Taking::Unknown
        }
    }
}

impl Taking {
    /// The addresses that it takes of a network of pods.
    fn of(self, network: IpNet) -> Vec<NodeAddress> {
        use AddressSort::{Gateway, Management, Tunnel};
        let nth = |n: u32, sort: AddressSort, basis: Basis| {
            nth(network, n).map(|address| NodeAddress { address, sort, basis })
        };
        let taken = match self {
            Self::Flannel { tunnels } => {
                let plugin = Some(Plugin::Flannel);
                [
                    nth(0, Tunnel(plugin), Basis::Derived).filter(|_| tunnels),
                    nth(1, Gateway(plugin), Basis::Derived),
                ]
            }
            Self::First(plugin) => [nth(1, Gateway(Some(plugin)), Basis::Derived), None],
            Self::Ovn => {
                let plugin = Plugin::OvnKubernetes;
                [
                    nth(1, Gateway(Some(plugin)), Basis::Derived),
                    nth(2, Management(plugin), Basis::Derived),
                ]
            }
            Self::None => [None, None],
            Self::Unknown => {
                [nth(0, Tunnel(None), Basis::Convention), nth(1, Gateway(None), Basis::Convention)]
            }
        };
        taken.into_iter().flatten().collect()
    }
}

/// The address of a network that comes so many after its own; `None`: it is too small to have pods.
fn nth(network: IpNet, n: u32) -> Option<IpAddr> {
    /// The pods' networks of nodes are larger than the four addresses that this leaves.
    const HOST_BITS_MIN: u8 = 2;
    if network.max_prefix_len() - network.prefix_len() < HOST_BITS_MIN {
        return None;
    }
    Some(match network {
        IpNet::V4(network) => {
            IpAddr::from((Ipv4Net::network(&network).to_bits() + n).to_be_bytes())
        }
        IpNet::V6(network) => {
            IpAddr::from((Ipv6Net::network(&network).to_bits() + u128::from(n)).to_be_bytes())
        }
    })
}

/// Addresses and networks in the value of an annotation, each with the address as written.
fn networks_in(value: &str) -> Vec<IpNet> {
    let mut texts = Vec::new();
    match serde_json::from_str(value) {
        Ok(json @ (Value::Object(_) | Value::Array(_) | Value::String(_))) => {
            strings(&json, &mut texts);
        }
        _ => texts.extend(value.split(',').map(str::to_owned)),
    }
    texts.iter().filter_map(|text| address_or_network(text)).take(ADDRESSES_MAX).collect()
}

/// The strings of a value that may be addresses: of one by network those of the default one, which is
/// the pods'; of a gateway's configuration its own.
fn strings(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, texts)),
        Value::Object(fields) => {
            if let Some(default) = fields.get("default") {
                return strings(default, texts);
            }
            let is_gateway = fields.contains_key("mode");
            let own = fields
                .iter()
                .filter(|(name, _)| !is_gateway || OVN_GATEWAY_FIELDS.contains(&name.as_str()));
            own.for_each(|(_, field)| strings(field, texts));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
