//! Which of its addresses a node's own packets carry, those of pods in its network included.
//!
//! The node's routes decide it: what leaves by a tunnel's interface has the tunnel's address, and what
//! goes to a pod of the same node that of the bridge. No object holds the routes. What is here is how
//! each plugin sets them up, as far as the node's addresses say which one there is; where that leaves
//! several sources, all of them are given.

use std::sync::Arc;

use ipnet::IpNet;

use super::{
    Snapshot,
    address_pool::Tunnelled,
    node_address::{AddressSort, NodeAddress, Plugin},
    object::Node,
    resolve::{Endpoint, Holder},
};

/// Which addresses a plugin lets a node's packets to another node's pods have.
///
/// - Calico: `felix/dataplane/linux/vxlan_mgr.go`, `ipip_mgr.go`: routes by the tunnel's interface, as the
///   pool of the pods' addresses says: always, or between nodes of different subnets.
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

const CALICO_TUNNEL: AddressSort = AddressSort::Tunnel(Some(Plugin::Calico));

const ROUTES: &[Routes] = &[
    Routes { by: CALICO_TUNNEL, or_directly: true },
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
            Holder::Pod(_) | Holder::Hidden(_) | Holder::Unknown(_) => {
                to_other_nodes(&own, self.calicos_way(node, to))
            }
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

/// How Calico's packets get from one node to another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By the tunnel.
    Tunnelled,
    /// By the nodes' own network.
    Directly,
}

impl Snapshot {
    /// How packets of a node get to a pod's address, as its pool says; `None`: that is not known.
    fn calicos_way(&self, node: &Node, to: &Endpoint) -> Option<Way> {
        let pool = self.address_pool_of(to.address?)?;
        match pool.tunnel {
            Tunnelled::Always => Some(Way::Tunnelled),
            Tunnelled::Never => Some(Way::Directly),
            // As Felix decides it: whether the other node's own address is in the sender's subnet.
            Tunnelled::AcrossSubnets => {
                let of_family = |subnet: &&IpNet| to.may_be_of_family(subnet.addr());
                let own: Vec<&IpNet> = node.subnets.iter().filter(of_family).collect();
                let other = self.node(to.pod()?.node.as_ref()?)?;
                let is_near = other
                    .own_addresses()
                    .filter(|known| is_direct(known))
                    .any(|known| own.iter().any(|subnet| subnet.contains(&known.address)));
                (!own.is_empty()).then_some(if is_near { Way::Directly } else { Way::Tunnelled })
            }
        }
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

fn to_other_nodes<'a>(own: &[&'a NodeAddress], by_calico: Option<Way>) -> Vec<&'a NodeAddress> {
    let mut sources: Vec<&NodeAddress> = Vec::new();
    let mut may_be_direct = false;
    // A node may have annotations of a plugin as well that was there before.
    for Routes { by, or_directly } in ROUTES {
        let way = by_calico.filter(|_| *by == CALICO_TUNNEL);
        let mut found = own.iter().filter(|known| known.sort == *by).copied().peekable();
        let is_there = found.peek().is_some();
        may_be_direct |= is_there && way.map_or(*or_directly, |way| way == Way::Directly);
        sources.extend(found.filter(|_| way != Some(Way::Directly)));
    }
    if may_be_direct || sources.is_empty() {
        sources.extend(directly(own));
    }
    sources
}

/// By the nodes' own network: its `InternalIP`, and what the plugin says to be its address there; in
/// want of these, what there is.
fn directly<'a>(own: &[&'a NodeAddress]) -> Vec<&'a NodeAddress> {
    let direct: Vec<_> = own.iter().copied().filter(|known| is_direct(known)).collect();
    match direct.is_empty() {
        true => own.first().copied().into_iter().collect(),
        false => direct,
    }
}

fn is_direct(known: &NodeAddress) -> bool {
    matches!(known.sort, AddressSort::Internal | AddressSort::Underlay(_))
}
