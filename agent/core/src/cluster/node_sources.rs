//! Which of its addresses a node's own packets carry, those of pods in its network included.
//!
//! The node's routes decide it: what leaves by a tunnel's interface has the tunnel's address, and what
//! goes to a pod of the same node that of the bridge. No object holds the routes. What is here is how
//! each plugin sets them up, as far as the node's addresses say which one there is; where that leaves
//! several sources, all of them are given.

use std::sync::Arc;

use super::{
    Snapshot,
    node_address::{AddressSort, NodeAddress, Plugin},
    object::Node,
    resolve::{Endpoint, Holder},
};

/// Which addresses a plugin lets a node's packets to another node's pods have.
///
/// - Calico: `felix/dataplane/linux/vxlan_mgr.go`, `ipip_mgr.go`: routes by the tunnel's interface; none
///   between nodes of one subnet, where the pool's mode is `CrossSubnet`.
/// - flannel: `pkg/backend/vxlan/vxlan_network.go`: routes by `flannel.1`, unless `DirectRouting` is on,
///   which is not the default.
/// - Cilium: `pkg/datapath/linux/node.go`: with a tunnel, routes that name the address of
///   `cilium_host` as their source; without one, those of the network.
/// - Antrea: `pkg/agent/route/route_linux.go`: with encapsulation, routes by `antrea-gw0`.
/// - OVN-Kubernetes: `go-controller/pkg/node/managementport`: routes by `ovn-k8s-mp0`.
/// - kube-router: `pkg/controllers/routing`: routes by the network or by tunnels without an address.
struct Routes {
    /// The sort of the addresses that it gives nodes for it.
    by: AddressSort,
    /// Whether packets may go by the nodes' own network as well.
    or_directly: bool,
}

const ROUTES: &[Routes] = &[
    Routes { by: AddressSort::Tunnel(Some(Plugin::Calico)), or_directly: true },
    Routes { by: AddressSort::Tunnel(Some(Plugin::Flannel)), or_directly: false },
    Routes { by: AddressSort::Gateway(Some(Plugin::Cilium)), or_directly: true },
    Routes { by: AddressSort::Gateway(Some(Plugin::Antrea)), or_directly: true },
    Routes { by: AddressSort::Management(Plugin::OvnKubernetes), or_directly: false },
];

impl Snapshot {
    /// The sources that packets of a node may have to another end: of one that they do not differ in,
    /// the first. Nothing where the node has no address of the other's family.
    pub fn sources_of_node(&self, node: &Arc<Node>, to: &Endpoint) -> Vec<Endpoint> {
        let of_family = |known: &&NodeAddress| to.may_be_of_family(known.address);
        let own: Vec<&NodeAddress> = node.own_addresses().filter(of_family).collect();
        let sources = match &to.holder {
            Holder::Pod(pod) if pod.node.as_ref() == Some(&node.name) => to_own_pod(&own),
            Holder::Pod(_) | Holder::Hidden(_) | Holder::Unknown(_) => to_other_nodes(&own),
            Holder::Node(_) | Holder::SecondNetwork(..) | Holder::Service(_) | Holder::Outside => {
                directly(&own).into_iter().take(1).collect()
            }
        };
        let end = |known: &NodeAddress| Endpoint {
            address: Some(known.address),
            holder: Holder::Node(node.clone()),
        };
        sources.into_iter().map(end).collect()
    }
}

/// By the bridge or the interface to its pods, if one has an address.
fn to_own_pod<'a>(own: &[&'a NodeAddress]) -> Vec<&'a NodeAddress> {
    let is_gateway = |known: &&&NodeAddress| match known.sort {
        // That of OVN-Kubernetes is a router's, and no source.
        AddressSort::Gateway(plugin) => plugin != Some(Plugin::OvnKubernetes),
        AddressSort::Management(_) => true,
        _ => false,
    };
    let gateway = own.iter().find(is_gateway).copied();
    gateway.map_or_else(|| directly(own).into_iter().take(1).collect(), |gateway| vec![gateway])
}

fn to_other_nodes<'a>(own: &[&'a NodeAddress]) -> Vec<&'a NodeAddress> {
    let mut sources: Vec<&NodeAddress> = Vec::new();
    let mut may_be_direct = false;
    // A node may have annotations of a plugin as well that was there before.
    for routes in ROUTES {
        let by: Vec<_> = own.iter().filter(|known| known.sort == routes.by).copied().collect();
        may_be_direct |= routes.or_directly && !by.is_empty();
        sources.extend(by);
    }
    if may_be_direct || sources.is_empty() {
        sources.extend(directly(own));
    }
    sources
}

/// By the nodes' own network: its `InternalIP`, and what the plugin says to be its address there; in
/// want of these, what there is.
fn directly<'a>(own: &[&'a NodeAddress]) -> Vec<&'a NodeAddress> {
    let is_direct = |known: &&&NodeAddress| {
        matches!(known.sort, AddressSort::Internal | AddressSort::Underlay(_))
    };
    let direct: Vec<_> = own.iter().filter(is_direct).copied().collect();
    match direct.is_empty() {
        true => own.first().copied().into_iter().collect(),
        false => direct,
    }
}
