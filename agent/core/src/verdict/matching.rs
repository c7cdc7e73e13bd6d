//! Whether a rule's peers and ports match a flow, and if not, what was wanted and what was found.

use std::sync::Arc;

use super::{
    Subject,
    calico_peer::{is_in_set, service},
    outcome::{MatchOutcome, PeerMiss, PortMiss},
    selects::{namespace, selects},
};
use crate::{
    cluster::{
        Snapshot,
        node_address::AddressSort,
        object::Kind,
        profile::{Blocks, HostNetwork},
        resolve::{Endpoint, Hidden, Holder},
    },
    policy::{
        Block, Peer, Peers, PodPeer, PortMatch, PortRange, Rule, network_set::NetworkSet,
        selector::Selector,
    },
};

/// One end of a flow, as rules ask for it.
pub(super) struct End<'a> {
    /// The end.
    pub(super) endpoint: &'a Endpoint,
    /// The network sets that its address is in, or, where that is not known, may be in: found once for
    /// all rules.
    pub(super) sets: Vec<&'a Arc<NetworkSet>>,
}

impl<'a> End<'a> {
    /// An end, with the network sets that its address is in.
    pub(super) fn of(snapshot: &'a Snapshot, endpoint: &'a Endpoint) -> Self {
        let sets = match endpoint.address {
            Some(address) => snapshot.network_sets_of(address),
            None => snapshot.network_sets().filter(|set| !set.networks.is_empty()).collect(),
        };
        Self { endpoint, sets }
    }
}

/// Matches what a rule asks of one end.
pub(super) fn peers(peers: &Peers, end: &End<'_>, subject: Subject<'_>) -> MatchOutcome<PeerMiss> {
    match peers {
        Peers::Everyone => MatchOutcome::Match,
        Peers::AnyOf(candidates) => any_of(candidates, end, subject),
        Peers::AllOf(parts) => all_of(parts, end, subject),
    }
}

fn any_of(candidates: &[Peer], end: &End<'_>, subject: Subject<'_>) -> MatchOutcome<PeerMiss> {
    let mut unknown = None;
    let mut nearest: Option<PeerMiss> = None;
    for candidate in candidates {
        match peer(candidate, end, subject) {
            MatchOutcome::Match => return MatchOutcome::Match,
            MatchOutcome::Unknown(why) => unknown = unknown.or(Some(why)),
            MatchOutcome::Miss(miss) => {
                if nearest.as_ref().is_none_or(|best| miss.distance() < best.distance()) {
                    nearest = Some(miss);
                }
            }
        }
    }
    match (unknown, nearest) {
        (Some(why), _) => MatchOutcome::Unknown(why),
        (None, Some(miss)) => MatchOutcome::Miss(miss),
        // Addresses of both families at once, which no packet has.
        (None, None) => MatchOutcome::Miss(PeerMiss::AnotherEnd {
            wanted: "addresses of another family".to_owned(),
            found: end.endpoint.address_text(),
        }),
    }
}

/// One miss is enough, whatever else is unknown.
fn all_of(parts: &[Peers], end: &End<'_>, subject: Subject<'_>) -> MatchOutcome<PeerMiss> {
    let mut unknown = None;
    let mut misses = Vec::new();
    for part in parts {
        match peers(part, end, subject) {
            MatchOutcome::Match => {}
            MatchOutcome::Unknown(why) => unknown = unknown.or(Some(why)),
            MatchOutcome::Miss(miss) => misses.push(miss),
        }
    }
    match (misses.pop(), unknown) {
        (Some(only), _) if misses.is_empty() => MatchOutcome::Miss(only),
        (Some(last), _) => {
            misses.push(last);
            MatchOutcome::Miss(PeerMiss::Several(misses))
        }
        (None, Some(why)) => MatchOutcome::Unknown(why),
        (None, None) => MatchOutcome::Match,
    }
}

fn peer(peer: &Peer, end: &End<'_>, subject: Subject<'_>) -> MatchOutcome<PeerMiss> {
    let snapshot = subject.snapshot;
    match peer {
        Peer::Pods(pods) => match host_network(pods, end.endpoint, subject) {
            Some(outcome) => outcome,
            None => pod_peer(snapshot, pods, end.endpoint),
        },
        Peer::Members(wanted) => member(snapshot, wanted, end),
        Peer::NotMembers(unwanted) => match member(snapshot, unwanted, end) {
            MatchOutcome::Match => MatchOutcome::Miss(PeerMiss::LeftOut {
                wanted: format!("others than {unwanted}"),
                found: end.endpoint.to_string(),
            }),
            MatchOutcome::Miss(_) => MatchOutcome::Match,
            MatchOutcome::Unknown(why) => MatchOutcome::Unknown(why),
        },
        Peer::Block(block) => ip_block(block, end.endpoint, subject),
        Peer::Nodes(selector) => node(snapshot, selector, end.endpoint),
        Peer::Service(wanted) => service(wanted, end.endpoint, subject),
        Peer::Undecidable(what) => MatchOutcome::Unknown(format!("the rule names {what}").into()),
    }
}

/// A pod, or an address of a network set.
fn member(snapshot: &Snapshot, wanted: &PodPeer, end: &End<'_>) -> MatchOutcome<PeerMiss> {
    match is_in_set(snapshot, wanted, &end.sets) {
        Ok(Some(set)) => match (end.endpoint.address, pod_peer(snapshot, wanted, end.endpoint)) {
            (Some(_), _) | (None, MatchOutcome::Match) => MatchOutcome::Match,
            (None, _) => MatchOutcome::Unknown(
                format!("the address of {}, which {set} may hold, is not known", end.endpoint)
                    .into(),
            ),
        },
        Ok(None) => pod_peer(snapshot, wanted, end.endpoint),
        Err(why) => MatchOutcome::Unknown(why),
    }
}

fn pod_peer(snapshot: &Snapshot, wanted: &PodPeer, end: &Endpoint) -> MatchOutcome<PeerMiss> {
    match &end.holder {
        Holder::Pod(pod) => match selects(snapshot, wanted, pod) {
            MatchOutcome::Match => MatchOutcome::Match,
            MatchOutcome::Unknown(why) => MatchOutcome::Unknown(why),
            MatchOutcome::Miss((namespace, pod)) => {
                MatchOutcome::Miss(PeerMiss::Labels { namespace, pod })
            }
        },
        // "Selectors never match an address that is not a pod's", hostNetwork pods included.
        Holder::Node(node) => {
            let (node, address) = (&node.name, end.address_text());
            let found = match end.node_address().map(|known| known.sort) {
                None | Some(AddressSort::Internal) => format!("node {node} ({address})"),
                Some(sort) => format!("node {node} ({address}, its {sort})"),
            };
            MatchOutcome::Miss(PeerMiss::NotAPod { wanted: wanted.to_string(), found })
        }
        // An address that the engine takes for one outside: pods are known by those of the default
        // network alone.
        Holder::SecondNetwork(pod, network) => {
            let (namespace, name, address) = (&pod.namespace, &pod.name, end.address_text());
            let found = format!("{address}, pod {namespace}/{name} on network {network}");
            MatchOutcome::Miss(PeerMiss::NotAPod { wanted: wanted.to_string(), found })
        }
        Holder::Outside => {
            let what = end.known_address().map_or("an address outside the cluster", |k| k.what);
            let found = format!("{}, {what}", end.address_text());
            MatchOutcome::Miss(PeerMiss::NotAPod { wanted: wanted.to_string(), found })
        }
        Holder::Service(service) => {
            let found = format!("the address of Service {}/{}", service.namespace, service.name);
            MatchOutcome::Miss(PeerMiss::NotAPod { wanted: wanted.to_string(), found })
        }
        Holder::Hidden(hidden) => hidden_pod(snapshot, wanted, hidden),
        Holder::Unknown(why) => MatchOutcome::Unknown(why.clone()),
    }
}

/// A pod of which the namespace is known: that may be all that is asked for.
fn hidden_pod(snapshot: &Snapshot, wanted: &PodPeer, pod: &Hidden) -> MatchOutcome<PeerMiss> {
    match namespace(snapshot, &wanted.namespaces, &pod.namespace) {
        MatchOutcome::Miss(miss) => {
            MatchOutcome::Miss(PeerMiss::Labels { namespace: Some(miss), pod: None })
        }
        MatchOutcome::Unknown(why) => MatchOutcome::Unknown(why),
        MatchOutcome::Match if wanted.pods.is_everything() && wanted.accounts.is_none() => {
            MatchOutcome::Match
        }
        MatchOutcome::Match => MatchOutcome::Unknown(pod.why.clone()),
    }
}

/// What a node that connects is to a selector, where the engine counts it as one of a namespace.
fn host_network(
    wanted: &PodPeer,
    end: &Endpoint,
    subject: Subject<'_>,
) -> Option<MatchOutcome<PeerMiss>> {
    let HostNetwork::Namespace(name) = subject.snapshot.profile().host_network else {
        return None;
    };
    let is_source = matches!(end.holder, Holder::Node(_)) && !end.is_same(subject.destination);
    let asks_for_namespaces = wanted.pods.is_everything() && wanted.accounts.is_none();
    let there = subject.snapshot.namespace(name).filter(|_| is_source && asks_for_namespaces)?;
    let outcome = namespace(subject.snapshot, &wanted.namespaces, &there.name);
    outcome.is_match().then_some(MatchOutcome::Match)
}

fn ip_block(block: &Block, peer: &Endpoint, subject: Subject<'_>) -> MatchOutcome<PeerMiss> {
    let outcome = in_block(block, peer, subject);
    let is_inside = matches!(peer.holder, Holder::Pod(_) | Holder::Hidden(_) | Holder::Node(_));
    let is_miss = matches!(outcome, MatchOutcome::Miss(_));
    match (subject.snapshot.profile().blocks, &peer.holder) {
        _ if is_miss => outcome,
        (Blocks::OutsideOnly, _) if is_inside => {
            let found = format!("{peer}: this engine matches no pod and no node with ipBlock");
            MatchOutcome::Miss(PeerMiss::InsideCluster { network: block.network, found })
        }
        (Blocks::OutsideOnly, Holder::Unknown(why)) => MatchOutcome::Unknown(why.clone()),
        _ => outcome,
    }
}

fn in_block(block: &Block, peer: &Endpoint, subject: Subject<'_>) -> MatchOutcome<PeerMiss> {
    let Some(address) = peer.address else { return block_of_unknown(block, peer, subject) };
    if !block.network.contains(&address) {
        return MatchOutcome::Miss(PeerMiss::OutsideBlock { network: block.network, address });
    }
    match block.except.iter().find(|except| except.contains(&address)) {
        Some(except) => MatchOutcome::Miss(PeerMiss::Excepted {
            network: block.network,
            except: *except,
            address,
        }),
        None => MatchOutcome::Match,
    }
}

/// Of an address that is not known it is known at most that any is in the block, or none is.
fn block_of_unknown(
    block: &Block,
    peer: &Endpoint,
    subject: Subject<'_>,
) -> MatchOutcome<PeerMiss> {
    let is_v4 = block.network.addr().is_ipv4();
    let of_packet = subject.family.map(|address| address.is_ipv4());
    if of_packet.is_some_and(|of_packet| of_packet != is_v4) {
        let found = format!("{peer}, in a packet of the other family");
        let wanted = format!("an address in {block}");
        return MatchOutcome::Miss(PeerMiss::AnotherEnd { wanted, found });
    }
    let holds_all = block.network.prefix_len() == 0 && block.except.is_empty();
    if holds_all && (of_packet.is_some() || subject.snapshot.may_be_of_one_family(is_v4)) {
        return MatchOutcome::Match;
    }
    let of = subject.asking.map(|asking| format!(" of {asking}")).unwrap_or_default();
    MatchOutcome::Unknown(
        format!("ipBlock {block}{of} against the address of {peer}, which is not known yet").into(),
    )
}

fn node(snapshot: &Snapshot, selector: &Selector, peer: &Endpoint) -> MatchOutcome<PeerMiss> {
    let unreadable = snapshot.sync().unreadable_in_cluster(Kind::Node);
    match (&peer.holder, unreadable) {
        (Holder::Outside, Some(why)) => MatchOutcome::Unknown(
            format!("whether {peer} is the address of a node is unknown: {why}").into(),
        ),
        (holder, _) => node_by_labels(selector, peer, holder),
    }
}

fn node_by_labels(selector: &Selector, peer: &Endpoint, holder: &Holder) -> MatchOutcome<PeerMiss> {
    match holder {
        Holder::Node(node) if selector.matches(&node.labels) => MatchOutcome::Match,
        Holder::Unknown(why) => MatchOutcome::Unknown(why.clone()),
        _ => MatchOutcome::Miss(PeerMiss::AnotherEnd {
            wanted: format!("a node with labels {selector}"),
            found: peer.to_string(),
        }),
    }
}

/// Matches a rule's ports.
pub(super) fn ports(rule: &Rule, subject: Subject<'_>) -> MatchOutcome<PortMiss> {
    let outcome = among(&rule.ports, subject);
    if rule.except_ports.is_empty() || matches!(outcome, MatchOutcome::Miss(_)) {
        return outcome;
    }
    match among(&rule.except_ports, subject) {
        MatchOutcome::Match => {
            let listed: Vec<_> = rule.except_ports.iter().map(ToString::to_string).collect();
            MatchOutcome::Miss(PortMiss::Port {
                wanted: format!("a port other than {}", listed.join(" and ")),
                found: format!("port {}/{}", subject.port, subject.protocol),
            })
        }
        MatchOutcome::Miss(_) => outcome,
        MatchOutcome::Unknown(why) => MatchOutcome::Unknown(why),
    }
}

fn among(ports: &[PortMatch], subject: Subject<'_>) -> MatchOutcome<PortMiss> {
    if ports.is_empty() {
        return MatchOutcome::Match;
    }
    if let Holder::Hidden(hidden) = &subject.destination.holder
        && hidden.is_service
    {
        // The pods behind it may have another port.
        return MatchOutcome::Unknown(hidden.why.clone());
    }
    let mut unknown = None;
    let mut unresolved = None;
    let mut right_number = false;
    for entry in ports {
        let right_protocol = entry.protocol.is_none_or(|p| p == subject.protocol);
        match &entry.ports {
            PortRange::Any if right_protocol => return MatchOutcome::Match,
            PortRange::Any => right_number = true,
            PortRange::Numbers(first, last) => {
                let within = (*first..=*last).contains(&subject.port);
                if within && right_protocol {
                    return MatchOutcome::Match;
                }
                right_number |= within;
            }
            PortRange::Named(name) => match named_port(name, subject) {
                Named::Is if right_protocol => return MatchOutcome::Match,
                Named::Is => right_number = true,
                Named::IsAnother => {}
                Named::Missing(found) => {
                    let miss = || PortMiss::Unresolved { name: name.clone(), found };
                    unresolved = unresolved.or_else(|| right_protocol.then(miss));
                }
                Named::Unknown(why) => unknown = unknown.or(Some(why)),
            },
            PortRange::OfProtocol(_) => {}
        }
    }
    if let Some(why) = unknown {
        return MatchOutcome::Unknown(why);
    }
    let wanted = || {
        let listed: Vec<_> = ports.iter().map(ToString::to_string).collect();
        format!("port {}", listed.join(" or "))
    };
    let found = format!("port {}/{}", subject.port, subject.protocol);
    if ports.iter().all(|entry| matches!(entry.ports, PortRange::OfProtocol(_))) {
        return MatchOutcome::Miss(PortMiss::OtherProtocol { wanted: wanted(), found });
    }
    MatchOutcome::Miss(match (right_number, unresolved) {
        (true, _) => PortMiss::Protocol { wanted: wanted(), found },
        (false, Some(unresolved)) => unresolved,
        (false, None) => PortMiss::Port { wanted: wanted(), found },
    })
}

enum Named {
    Is,
    IsAnother,
    Missing(String),
    Unknown(Arc<str>),
}

/// A name stands for the container port that the destination pod declares under it, of the flow's
/// protocol.
fn named_port(name: &Arc<str>, subject: Subject<'_>) -> Named {
    match &subject.destination.holder {
        Holder::Pod(pod) => {
            let mut declared = pod.ports.iter().filter(|port| port.name == *name).peekable();
            if declared.peek().is_none() {
                let found = format!("pod {}/{} declares no such port", pod.namespace, pod.name);
                return Named::Missing(found);
            }
            let mut of_protocol =
                declared.filter(|port| port.protocol == subject.protocol).peekable();
            if of_protocol.peek().is_none() {
                let (namespace, pod) = (&pod.namespace, &pod.name);
                let protocol = subject.protocol;
                return Named::Missing(format!(
                    "pod {namespace}/{pod} declares it for another protocol than {protocol}"
                ));
            }
            match of_protocol.any(|port| port.number == subject.port) {
                true => Named::Is,
                false => Named::IsAnother,
            }
        }
        Holder::Node(_) | Holder::SecondNetwork(..) | Holder::Service(_) | Holder::Outside => {
            Named::Missing(format!("{} is not a pod", subject.destination))
        }
        Holder::Hidden(hidden) => Named::Unknown(hidden.why.clone()),
        Holder::Unknown(why) => Named::Unknown(why.clone()),
    }
}
