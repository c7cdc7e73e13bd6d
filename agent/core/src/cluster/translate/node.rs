//! Nodes, and what network plugins' own objects say of them.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::Deserialize;

use super::{
    address::{address, address_or_network, network},
    node_annotations::Annotations,
};
use crate::{
    cluster::{
        node_address::{AddressSort, NodeAddress, Plugin},
        object::{Node, PluginNode, PluginNodeKind},
    },
    policy::{labels, metadata::name_of},
    problem::{FieldPath, Problem},
};

/// Translates a node.
///
/// Annotations are the plugins' own: what cannot be read of them is passed over.
///
/// # Errors
/// The first field that cannot be read.
pub fn node(node: &core::Node) -> Result<Node, Problem> {
    let mut found = Found::default();
    let path = FieldPath::root("status").field("addresses");
    let listed = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    for (index, entry) in listed.enumerate() {
        let sort = match entry.type_.as_str() {
            "InternalIP" => AddressSort::Internal,
            "ExternalIP" => AddressSort::External,
            // Names, of which some are written as addresses.
            _ => continue,
        };
        let address = address(&entry.address, &path.index(index).field("address"))?;
        found.address(NodeAddress::stated(address, sort));
    }
    let path = FieldPath::root("spec").field("podCIDRs");
    let spec = node.spec.as_ref();
    let several = spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten());
    for text in several.chain(spec.and_then(|spec| spec.pod_cidr.as_ref())) {
        found.pod_network(network(text, &path)?);
    }
    let annotations = Annotations::of(&node.metadata);
    for (network, sort) in annotations.addresses() {
        found.plugins_network(network, sort);
    }
    let pod_cidrs = found.pod_networks.clone();
    annotations.pod_networks().into_iter().for_each(|network| found.pod_network(network));
    annotations.of_pod_cidrs(&pod_cidrs).for_each(|address| found.plugins_address(address));
    Ok(Node {
        name: name_of(&node.metadata)?,
        labels: labels(node.metadata.labels.iter().flatten()),
        addresses: found.addresses,
        pod_networks: found.pod_networks,
        subnets: found.subnets,
    })
}

/// A `CiliumNode`, as far as it is read.
///
/// <https://github.com/cilium/cilium/blob/v1.18.0/pkg/k8s/apis/cilium.io/v2/types.go>
#[derive(Debug, Deserialize)]
pub struct CiliumNode {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: CiliumNodeSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CiliumNodeSpec {
    addresses: Vec<TypedAddress>,
    ipam: CiliumIpam,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TypedAddress {
    #[serde(rename = "type")]
    kind: String,
    #[serde(alias = "address")]
    ip: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CiliumIpam {
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

/// Translates a `CiliumNode`: the address of `cilium_host` is in no other object, unless Cilium is told
/// to annotate nodes.
///
/// # Errors
/// It has no name.
pub fn cilium_node(node: &CiliumNode) -> Result<PluginNode, Problem> {
    let mut found = Found::default();
    for TypedAddress { kind, ip } in &node.spec.addresses {
        let sort = match kind.as_str() {
            "InternalIP" => AddressSort::Internal,
            "ExternalIP" => AddressSort::External,
            "CiliumInternalIP" => AddressSort::Gateway(Some(Plugin::Cilium)),
            _ => continue,
        };
        if let Some(address) = address_or_network(ip) {
            found.plugins_address(NodeAddress::stated(address.addr(), sort));
        }
    }
    for network in &node.spec.ipam.pod_cidrs {
        if let Some(network) = address_or_network(network) {
            found.pod_network(network);
        }
    }
    Ok(found.plugin_node(PluginNodeKind::Cilium, name_of(&node.metadata)?))
}

/// A Node of Calico's own, as far as it is read: `calicoctl get nodes` prints them, from the Node's
/// annotations or, where Calico keeps its data in etcd, from there.
///
/// <https://docs.tigera.io/calico/latest/reference/resources/node>
#[derive(Debug, Deserialize)]
pub struct CalicoNode {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: CalicoNodeSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct CalicoNodeSpec {
    addresses: Vec<TypedAddress>,
    bgp: CalicoBgp,
    #[serde(rename = "ipv4VXLANTunnelAddr")]
    vxlan_v4: Option<String>,
    #[serde(rename = "ipv6VXLANTunnelAddr")]
    vxlan_v6: Option<String>,
    wireguard: CalicoWireguard,
    orch_refs: Vec<CalicoReference>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CalicoBgp {
    #[serde(rename = "ipv4Address")]
    v4: Option<String>,
    #[serde(rename = "ipv6Address")]
    v6: Option<String>,
    #[serde(rename = "ipv4IPIPTunnelAddr")]
    ipip: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CalicoWireguard {
    #[serde(rename = "interfaceIPv4Address")]
    v4: Option<String>,
    #[serde(rename = "interfaceIPv6Address")]
    v6: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct CalicoReference {
    node_name: String,
    orchestrator: String,
}

/// Translates a Node of Calico's own.
///
/// # Errors
/// It has no name.
pub fn calico_node(node: &CalicoNode) -> Result<PluginNode, Problem> {
    let mut found = Found::default();
    let CalicoNodeSpec { addresses, bgp, vxlan_v4, vxlan_v6, wireguard, orch_refs } = &node.spec;
    let tunnel = AddressSort::Tunnel(Some(Plugin::Calico));
    let tunnels = [&bgp.ipip, vxlan_v4, vxlan_v6, &wireguard.v4, &wireguard.v6];
    let tunnels = tunnels.into_iter().flatten().map(|text| (text, tunnel));
    let underlay = AddressSort::Underlay(Plugin::Calico);
    let own = [&bgp.v4, &bgp.v6].into_iter().flatten().map(|text| (text, underlay));
    let typed = addresses.iter().filter_map(|TypedAddress { kind, ip }| {
        Some(match kind.as_str() {
            "InternalIP" => (ip, AddressSort::Internal),
            "ExternalIP" => (ip, AddressSort::External),
            "CalicoNodeIP" => (ip, underlay),
            _ => return None,
        })
    });
    for (text, sort) in typed.chain(own).chain(tunnels) {
        if let Some(address) = address_or_network(text) {
            found.plugins_network(address, sort);
        }
    }
    // Its own name is the Node's, unless it was set up otherwise.
    let of_kubernetes = orch_refs.iter().find(|reference| reference.orchestrator == "k8s");
    let name = match of_kubernetes.map(|reference| reference.node_name.as_str()) {
        Some(name) if !name.is_empty() => name.into(),
        _ => name_of(&node.metadata)?,
    };
    Ok(found.plugin_node(PluginNodeKind::Calico, name))
}

/// What was found of a node so far.
#[derive(Default)]
struct Found {
    addresses: Vec<NodeAddress>,
    pod_networks: Vec<IpNet>,
    subnets: Vec<IpNet>,
}

impl Found {
    /// One more address, unless it is known: what the Node object lists itself comes first.
    fn address(&mut self, found: NodeAddress) {
        if !self.addresses.iter().any(|known| known.address == found.address) {
            self.addresses.push(found);
        }
    }

    /// One more of what a plugin says. Every node has the same link-local addresses and loopback.
    fn plugins_address(&mut self, found: NodeAddress) {
        let is_of_one_node = match found.address {
            IpAddr::V4(address) => !address.is_link_local() && !address.is_broadcast(),
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        };
        let address = found.address;
        if is_of_one_node
            && !address.is_loopback()
            && !address.is_unspecified()
            && !address.is_multicast()
        {
            self.address(found);
        }
    }

    /// One more of what a plugin says, with the subnet that it is in.
    fn plugins_network(&mut self, found: IpNet, sort: AddressSort) {
        let subnet = found.trunc();
        let is_one = found.prefix_len() == found.max_prefix_len();
        if matches!(sort, AddressSort::Underlay(_)) && !is_one && !self.subnets.contains(&subnet) {
            self.subnets.push(subnet);
        }
        self.plugins_address(NodeAddress::stated(found.addr(), sort));
    }

    fn pod_network(&mut self, network: IpNet) {
        let network = network.trunc();
        if !self.pod_networks.contains(&network) {
            self.pod_networks.push(network);
        }
    }

    fn plugin_node(self, kind: PluginNodeKind, name: Arc<str>) -> PluginNode {
        let Self { addresses, pod_networks, subnets } = self;
        PluginNode { kind, name, addresses, pod_networks, subnets }
    }
}
