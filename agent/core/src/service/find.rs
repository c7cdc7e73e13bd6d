//! Whose address and port it is.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;

use super::{Course, Dial, Entry, Fate, Refusal, port_of};
use crate::{
    cluster::{
        HeldBy, Holding, Snapshot,
        look_up::Query,
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
    let holdings = snapshot.holdings(address).iter();
    let holdings: Vec<&Holding> =
        holdings.filter(|holding| holding.covers(at) && !is_over(holding, at)).collect();
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

/// Whether a Service had lost the address by then: what kube-proxy does, it does as soon as it sees that,
/// and nobody sees it sooner than it happens.
fn is_over(holding: &Holding, at: Option<Timestamp>) -> bool {
    let is_services = matches!(holding.by, HeldBy::Service(_));
    is_services && holding.until.is_some_and(|until| at.is_none_or(|at| at > until))
}

/// The Service that was the last to have an address which nobody has now, as far as was looked up, or had
/// at that time.
pub fn former(snapshot: &Snapshot, address: IpAddr, at: Option<Timestamp>) -> Option<Arc<Service>> {
    let address = address.to_canonical();
    let holdings = snapshot.holdings(address);
    let is_held = |holding: &Holding| holding.covers(at) && !is_over(holding, at);
    let looked_up = |query: Query| {
        snapshot.knows_all_pods()
            || snapshot.look_up_of(&query).is_some_and(|look_up| look_up.failed.is_none())
    };
    let before =
        |holding: &&Holding| holding.until.is_some_and(|until| at.is_none_or(|at| at > until));
    let last = holdings.iter().filter(before).max_by_key(|holding| holding.until)?;
    let HeldBy::Service(service) = &last.by else { return None };
    let is_exposed = !service.cluster_addresses.contains(&address);
    let is_known = looked_up(address.into()) && (!is_exposed || looked_up(Query::Exposed));
    (is_known && !holdings.iter().any(is_held)).then(|| service.clone())
}

/// To an address that a Service had, and nobody has.
pub(super) fn to_former(
    snapshot: &Snapshot,
    dial: &Dial<'_>,
    address: IpAddr,
    service: &Arc<Service>,
) -> Course {
    let name = (service.namespace.clone(), service.name.clone());
    let is_known = snapshot.knows_all_pods()
        || snapshot
            .look_up_of(&Query::Service(name))
            .is_some_and(|look_up| look_up.failed.is_none());
    let is_there = snapshot.service(&service.namespace, &service.name).is_some();
    let refusal = Refusal::FormerAddress { is_deleted: is_known && !is_there };
    let entry = entry(service, address);
    Course::to(dial, service, entry, Some(address), Fate::nothing(refusal))
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
