//! Whose address and port it is.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;

use super::{Entry, port_of};
use crate::{
    cluster::{
        HeldBy, Holding, Snapshot,
        object::{Balancer, Service},
    },
    flow::Protocol,
};

/// A Service, by one of its addresses or a node's.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The Service.
    pub service: Arc<Service>,
    /// By what it was found.
    pub entry: Entry,
    /// Whether it has the port.
    pub has_port: bool,
}

/// The Service that an address and port is now, or was at that time: of several that share the
/// address the one that has the port. `None` where it is a pod's, where nobody holds it, and of a
/// node's address where no Service has the port.
pub fn find(
    snapshot: &Snapshot,
    address: IpAddr,
    port: u16,
    protocol: Protocol,
    at: Option<Timestamp>,
) -> Option<Found> {
    let address = address.to_canonical();
    let holdings: Vec<&Holding> =
        snapshot.holdings(address).iter().filter(|holding| holding.covers(at)).collect();
    let is_pods =
        |holding: &&Holding| matches!(holding.by, HeldBy::Pod(_) | HeldBy::SecondNetwork(..));
    if holdings.iter().any(is_pods) {
        return None;
    }
    let mut services: Vec<&Arc<Service>> = holdings
        .iter()
        .filter_map(|holding| match &holding.by {
            HeldBy::Service(service) => Some(service),
            HeldBy::Node(_) | HeldBy::Pod(_) | HeldBy::SecondNetwork(..) => None,
        })
        .collect();
    services.sort_by_key(|service| (service.namespace.clone(), service.name.clone()));
    let found = |service: &Arc<Service>, has_port| Found {
        service: service.clone(),
        entry: entry(service, address),
        has_port,
    };
    if let Some(service) = services.iter().find(|s| port_of(s, port, protocol).is_some()) {
        return Some(found(service, true));
    }
    let node = holdings.iter().find_map(|holding| match &holding.by {
        HeldBy::Node(node) => Some(node.clone()),
        HeldBy::Service(_) | HeldBy::Pod(_) | HeldBy::SecondNetwork(..) => None,
    });
    match node {
        Some(node) => {
            let service = of_node_port(snapshot, port, protocol)?;
            Some(Found { service, entry: Entry::NodePort(Some(node)), has_port: true })
        }
        None => services.first().map(|service| found(service, false)),
    }
}

/// By what of its own a Service has the address.
fn entry(service: &Service, address: IpAddr) -> Entry {
    let is_balancer = |balancer: &Balancer| match balancer {
        Balancer::Address(own) | Balancer::Proxy(own) => *own == address,
        Balancer::Name(_) => false,
    };
    if service.cluster_addresses.contains(&address) {
        Entry::Cluster
    } else if !service.external_addresses.contains(&address)
        && service.balancers.iter().any(is_balancer)
    {
        Entry::Balancer
    } else {
        Entry::External
    }
}

/// The Service that has this port on every node.
fn of_node_port(snapshot: &Snapshot, port: u16, protocol: Protocol) -> Option<Arc<Service>> {
    let has = |service: &&Arc<Service>| {
        let mut ports = service.ports.iter();
        ports.any(|entry| entry.node_port == Some(port) && entry.protocol == protocol)
    };
    let services = snapshot.services().filter(has);
    services.min_by_key(|service| (&service.namespace, &service.name)).cloned()
}
