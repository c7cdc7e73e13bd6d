//! Which nodes a rule is for that is for one: selectors of pods match none of them.

use std::{net::IpAddr, sync::Arc};

use crate::cluster::{
    Snapshot,
    node_address::{AddressSort, NodeAddress},
    object::Node,
};

/// How many addresses a rule lists. Of larger clusters only a network says who their nodes are, and
/// which one that is is not known.
const ADDRESSES_MAX: usize = 64;

/// The nodes that stand where one stands as a client.
pub(super) struct Clients {
    /// Which these are.
    pub(super) which: Which,
    /// Their names, sorted.
    pub(super) names: Vec<Arc<str>>,
    /// Their addresses of the sort that it connects from, its own first.
    pub(super) addresses: Vec<IpAddr>,
}

/// Which nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// All with an API server: of several, any may be the one that calls.
    ControlPlane,
    /// All there are: a kubelet, or a pod in its node's network, calls from the node that it is on.
    All,
    /// This one alone, as there are too many to list.
    One,
}

/// The nodes that a rule is to be for where this one connects.
///
/// What a node sends carries the same sort of address on each, such as that of its tunnel.
pub(super) fn clients(snapshot: &Snapshot, node: &Arc<Node>, seen: Option<IpAddr>) -> Clients {
    let api_servers = snapshot.api_server_addresses();
    let is_listed = seen.is_some_and(|seen| api_servers.contains(&seen));
    let which = match is_listed || node.has_api_server(&api_servers) {
        true => Which::ControlPlane,
        false => Which::All,
    };
    let sort = seen.and_then(|seen| node.address(seen)).map(|known| known.sort);
    let mut others: Vec<&Arc<Node>> = snapshot
        .nodes()
        .filter(|other| other.name != node.name)
        .filter(|other| which == Which::All || other.has_api_server(&api_servers))
        .collect();
    others.sort_by(|a, b| a.name.cmp(&b.name));
    let own: Vec<IpAddr> = seen.into_iter().chain(addresses(node, sort)).collect();
    let of_others = others.iter().flat_map(|other| addresses(other, sort));
    // Those of a managed control plane have no node.
    let unlisted = match which {
        Which::ControlPlane => api_servers,
        Which::All | Which::One => Vec::new(),
    };
    let all = distinct(own.iter().copied().chain(of_others).chain(unlisted));
    if all.len() > ADDRESSES_MAX {
        let (names, addresses) = (vec![node.name.clone()], distinct(own.into_iter()));
        return Clients { which: Which::One, names, addresses };
    }
    let mut names: Vec<_> = others.iter().map(|other| other.name.clone()).collect();
    names.push(node.name.clone());
    names.sort();
    Clients { which, names, addresses: all }
}

/// A node's addresses of this sort, which packets of its own carry; where it has none, or where the sort is
/// not known, its `InternalIP`s.
fn addresses(node: &Node, sort: Option<AddressSort>) -> Vec<IpAddr> {
    let of = |sort: AddressSort| {
        let known = node.addresses.iter().filter(move |known: &&NodeAddress| known.sort == sort);
        known.filter(|known| known.is_certain()).map(|known| known.address).collect()
    };
    let own: Vec<IpAddr> = sort.map(of).unwrap_or_default();
    if own.is_empty() { of(AddressSort::Internal) } else { own }
}

fn distinct(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut distinct = Vec::new();
    for address in addresses {
        if !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    distinct
}
