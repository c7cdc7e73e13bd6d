//! Which ports it takes that a pod can ask the cluster's DNS.

use crate::{
    cluster::{Snapshot, dns::DNS_PORT},
    flow::Protocol,
    service::behind,
    verdict::Question,
};

/// The port of a look-up, and that of the other protocol, by which answers come that are too long;
/// behind a Service that is the port of its pods.
pub(super) fn ports(snapshot: &Snapshot, question: &Question) -> Vec<(u16, Protocol)> {
    let of = |protocol: Protocol| {
        let Some(address) = question.destination.address.filter(|_| protocol != question.protocol)
        else {
            return question.port;
        };
        let dns = snapshot.services().filter(|service| service.is_cluster_dns());
        let mut backends = dns.flat_map(|dns| behind(snapshot, dns, DNS_PORT, protocol, address));
        let behind = backends.find(|backend| backend.endpoint.address == Some(address));
        behind.map_or(question.port, |backend| backend.port)
    };
    [Protocol::Udp, Protocol::Tcp].map(|protocol| (of(protocol), protocol)).to_vec()
}
