//! The packets that may come of a connection to a Service.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Course, Dial, Doubt, Entry, Fate, Found, Hop, PACKETS_MAX, Packet, PolicyField, Refusal,
    Remark, Source,
    backends::{Backend, Behind, Usable, of_name, of_port},
    port_of,
};
use crate::cluster::{
    Snapshot,
    object::{Balancer, Service, ServicePort, TargetPort, TrafficPolicy},
    resolve::{Endpoint, Holder},
};

/// Where a client is, for kube-proxy.
enum Client {
    /// A pod with an address of its own, on this node if that is known.
    Pod(Option<Arc<str>>),
    /// A node, or a pod in its network.
    Node(Arc<str>),
    /// Somewhere else.
    Outside,
}

impl Client {
    fn of(endpoint: &Endpoint) -> Self {
        match &endpoint.holder {
            Holder::Pod(pod) | Holder::SecondNetwork(pod, _) => Self::Pod(pod.node.clone()),
            // Nobody outside has an address that is unknown.
            Holder::Hidden(_) | Holder::Unknown(_) => Self::Pod(None),
            Holder::Node(node) => Self::Node(node.name.clone()),
            Holder::Service(_) | Holder::Outside => Self::Outside,
        }
    }

    /// The node whose kube-proxy translates what it sends to a Service's address.
    const fn node(&self) -> Option<&Arc<str>> {
        match self {
            Self::Pod(node) => node.as_ref(),
            Self::Node(node) => Some(node),
            Self::Outside => None,
        }
    }
}

/// Which endpoints a node sends to.
#[derive(Clone, Copy)]
enum Scope {
    All,
    Local(PolicyField),
}

/// A connection to a port that the Service has.
struct Route<'a> {
    snapshot: &'a Snapshot,
    dial: &'a Dial<'a>,
    client: Client,
    service: &'a Service,
    entry: &'a Entry,
    address: Option<IpAddr>,
    behind: Behind,
    remarks: Vec<Remark>,
}

/// To an address of which it is known whose it is.
pub(super) fn to_found(
    snapshot: &Snapshot,
    dial: &Dial<'_>,
    address: IpAddr,
    found: Found,
) -> Course {
    let Found { service, entry, has_port } = found;
    let port = match &entry {
        _ if !has_port => None,
        Entry::NodePort(_) => {
            let mut ports = service.ports.iter().filter(|own| own.protocol == dial.protocol);
            ports.find(|own| own.node_port == Some(dial.port)).cloned()
        }
        _ => port_of(&service, dial.port, dial.protocol).cloned(),
    };
    let is_proxy =
        entry == Entry::Balancer && service.balancers.contains(&Balancer::Proxy(address));
    if is_proxy && port.is_some() {
        let arrives = Hop {
            source: dial.client.clone(),
            destination: outside(snapshot, address),
            port: dial.port,
        };
        let packet = Packet { leaves: None, arrives, source: Source::Kept };
        let fate = Fate::Untranslated(Box::new(packet));
        return Course::to(dial, &service, entry, Some(address), fate);
    }
    to_port(snapshot, dial, &service, entry, Some(address), port.as_ref())
}

/// By the Service's name.
pub(super) fn to_name(snapshot: &Snapshot, dial: &Dial<'_>, service: &Arc<Service>) -> Vec<Course> {
    if let Some(name) = &service.external_name {
        return vec![Course::to(dial, service, Entry::Cluster, None, Fate::Name(name.clone()))];
    }
    if service.headless {
        return vec![headless(snapshot, dial, service)];
    }
    let port = port_of(service, dial.port, dial.protocol);
    let of_family = |address: &IpAddr| dial.client.may_be_of_family(*address);
    if let (Client::Outside, Some(port)) = (Client::of(dial.client), port) {
        let external = service.addresses().filter(|a| !service.cluster_addresses.contains(a));
        let external: BTreeSet<IpAddr> = external.filter(of_family).collect();
        if !external.is_empty() {
            let found = external.into_iter().filter_map(|address| {
                let found = super::find(snapshot, address, dial.port, dial.protocol, None);
                // Somebody else's by now, such as a node's.
                let found = found.filter(|found| found.service == *service);
                found.map(|found| to_found(snapshot, dial, address, found))
            });
            return found.collect();
        }
        if let Some(number) = port.node_port {
            let dial = Dial { port: number, ..*dial };
            let entry = Entry::NodePort(None);
            return vec![to_port(snapshot, &dial, service, entry, None, Some(port))];
        }
    }
    let own: Vec<_> = service.cluster_addresses.iter().filter(|a| of_family(a)).collect();
    let to_cluster = |address| to_port(snapshot, dial, service, Entry::Cluster, address, port);
    match service.cluster_addresses.is_empty() {
        // As it is written in a manifest: the cluster will give it one.
        true => vec![to_cluster(None)],
        false => own.into_iter().map(|address| to_cluster(Some(*address))).collect(),
    }
}

fn to_port(
    snapshot: &Snapshot,
    dial: &Dial<'_>,
    service: &Arc<Service>,
    entry: Entry,
    address: Option<IpAddr>,
    port: Option<&ServicePort>,
) -> Course {
    let Some(port) = port else {
        return Course::to(dial, service, entry, address, Fate::nothing(Refusal::NoPort));
    };
    if let Some(other) = &service.other_proxy {
        let fate = Fate::Unknown(Doubt::OtherProxy(other.clone()));
        return Course::to(dial, service, entry, address, fate);
    }
    let behind = of_port(snapshot, service, port, dial.family(address, service));
    let mut route = Route {
        snapshot,
        dial,
        client: Client::of(dial.client),
        service,
        entry: &entry,
        address,
        behind,
        remarks: Vec::new(),
    };
    let fate = route.fate(port);
    let remarks = route.remarks;
    Course { remarks, ..Course::to(dial, service, entry, address, fate) }
}

/// Its name stands for the addresses of its endpoints that are ready; what a client dials there is
/// theirs.
fn headless(snapshot: &Snapshot, dial: &Dial<'_>, service: &Arc<Service>) -> Course {
    let behind = of_name(snapshot, service, dial.port, dial.family(None, service));
    let is_port_of_pods =
        |backend: &Backend, port: &ServicePort| match (&port.target, backend.endpoint.pod()) {
            (TargetPort::Number(number), _) => *number == dial.port,
            (TargetPort::Named(name), Some(pod)) => {
                pod.ports.iter().any(|own| own.name == *name && own.number == dial.port)
            }
            // Nothing says which it is.
            (TargetPort::Named(_), None) => true,
        };
    let mut remarks = Vec::new();
    if let Some(port) = port_of(service, dial.port, dial.protocol)
        && !behind.backends.is_empty()
        && !behind.backends.iter().any(|backend| is_port_of_pods(backend, port))
    {
        remarks.push(Remark::PortOfPods(port.target.clone()));
    }
    let packets = |is_ready: bool| {
        let backends = behind.backends.iter().filter(|backend| backend.is_ready == is_ready);
        backends.map(|backend| kept(dial, backend)).take(PACKETS_MAX).collect::<Vec<_>>()
    };
    let ready = packets(true);
    let fate = match ready.is_empty() {
        false => Fate::Sent(ready),
        true if behind.is_known || !snapshot.knows_all_pods() => {
            Fate::Refused { refusal: Refusal::NoAddress, otherwise: packets(false) }
        }
        true => Fate::Unknown(doubt(service)),
    };
    Course { remarks, ..Course::to(dial, service, Entry::Headless, None, fate) }
}

fn kept(dial: &Dial<'_>, backend: &Backend) -> Packet {
    let arrives = Hop {
        source: dial.client.clone(),
        destination: backend.endpoint.clone(),
        port: backend.port,
    };
    Packet { leaves: None, arrives, source: Source::Kept }
}

/// Why it is unknown what is behind a Service of which no object says it.
fn doubt(service: &Service) -> Doubt {
    match service.selector.is_empty() {
        true => Doubt::NoSlices,
        false => Doubt::SelectsNoPod,
    }
}

impl Route<'_> {
    fn usable(&self) -> Usable<'_> {
        Usable::of(self.snapshot, &self.behind)
    }

    fn fate(&mut self, port: &ServicePort) -> Fate {
        if !self.behind.is_known && self.snapshot.knows_all_pods() {
            return Fate::Unknown(doubt(self.service));
        }
        if !self.behind.left_out.is_empty() {
            self.remarks.push(Remark::LeftOut(self.behind.left_out.clone()));
        }
        if !self.usable().is_any() {
            let refusal = match (&port.target, self.behind.backends.is_empty()) {
                (TargetPort::Named(name), true) if !self.behind.left_out.is_empty() => {
                    Refusal::NoPortOfName(name.clone())
                }
                _ => Refusal::NoEndpoint,
            };
            if matches!(
                (self.entry, &self.client),
                (Entry::External | Entry::Balancer, Client::Node(_))
            ) {
                self.remarks.push(Remark::NotRejectedForNode);
            }
            if self.is_kept_out() {
                self.remarks.push(Remark::KeptOut);
            }
            let otherwise = self.as_if_ready();
            return Fate::Refused { refusal, otherwise };
        }
        if self.is_kept_out() {
            let (Ok(otherwise) | Err((_, otherwise))) = self.packets();
            return Fate::Refused { refusal: Refusal::SourceRanges, otherwise };
        }
        match self.packets() {
            Ok(packets) => {
                self.remark();
                Fate::Sent(packets)
            }
            Err((refusal, otherwise)) => match self.node_that_may_take_for_local() {
                Some(node) => {
                    let otherwise = self.if_taken_for_local(&node);
                    Fate::Unknown(Doubt::TakenForLocal { node, otherwise })
                }
                None => Fate::Refused { refusal, otherwise },
            },
        }
    }

    /// Another node than a pod's own, whose port the pod dials and which may take it for one of its own.
    /// "Treat all locally-originated pod -> external destination traffic as a special-case. It is subject
    /// to neither form of traffic policy": which pods those are, `detectLocalMode` says, and by
    /// `ClusterCIDR` they are those of all nodes, if nothing replaces their addresses on the way.
    fn node_that_may_take_for_local(&self) -> Option<Arc<str>> {
        let (Entry::NodePort(Some(node)), Client::Pod(own)) = (self.entry, &self.client) else {
            return None;
        };
        let is_local = self.service.external_policy == TrafficPolicy::Local;
        (is_local && own.as_ref() != Some(node)).then(|| node.clone())
    }

    /// What comes of it then: to others with its own address for a source, to itself with the node's.
    fn if_taken_for_local(&self, node: &Arc<str>) -> Vec<Packet> {
        let mut packets = self.at_other(node, false);
        let is_its_own = |packet: &Packet| packet.arrives.destination.is_same(self.dial.client);
        packets.retain(|packet| packet.source == Source::Kept || is_its_own(packet));
        packets
    }

    /// What would come of it if what is behind the Service were ready.
    fn as_if_ready(&mut self) -> Vec<Packet> {
        for backend in &mut self.behind.backends {
            backend.is_ready = true;
        }
        let (Ok(packets) | Err((_, packets))) = self.packets();
        for backend in &mut self.behind.backends {
            backend.is_ready = false;
        }
        packets
    }

    /// "Firewall filter based on each source range": what is sent to a balancer's address, by the
    /// source that it arrives with at the first node.
    fn is_kept_out(&self) -> bool {
        let Some(source) = self.dial.client.address else { return false };
        let ranges = self.service.source_ranges.iter();
        let mut ranges =
            ranges.filter(|range| range.addr().is_ipv4() == source.is_ipv4()).peekable();
        *self.entry == Entry::Balancer
            && ranges.peek().is_some()
            && !ranges.any(|range| range.contains(&source))
    }

    /// The remarks on what is sent.
    fn remark(&mut self) {
        let usable = Usable::of(self.snapshot, &self.behind);
        if usable.is_fallback() {
            self.remarks.push(Remark::Terminating);
        }
        if self.client.node().is_some_and(|node| usable.is_hinted(node)) {
            self.remarks.push(Remark::Hinted);
        }
        if self.service.is_sticky && self.behind.backends.len() > 1 {
            self.remarks.push(Remark::Sticky);
        }
        if matches!((self.entry, &self.client), (Entry::Cluster, Client::Outside)) {
            self.remarks.push(Remark::FromOutside);
        }
    }

    /// What may come of it; or why nothing does, with what would otherwise.
    fn packets(&mut self) -> Result<Vec<Packet>, (Refusal, Vec<Packet>)> {
        let keeps = |policy, field| match policy {
            TrafficPolicy::Local => Scope::Local(field),
            TrafficPolicy::Cluster => Scope::All,
        };
        let internal = keeps(self.service.internal_policy, PolicyField::Internal);
        let external = keeps(self.service.external_policy, PolicyField::External);
        // "If we are using non-local endpoints we need to masquerade, in case we cross nodes."
        let is_masqueraded = self.service.external_policy == TrafficPolicy::Cluster;
        match (self.entry, &self.client) {
            (Entry::Cluster, Client::Pod(_) | Client::Node(_)) => self.sent_inside(internal, false),
            // "This masquerades off-cluster traffic to a service VIP."
            (Entry::Cluster | Entry::Headless, _) => self.sent_anywhere(internal, true),
            // What a node's own pods and the node itself send to an external address "is subject to
            // neither form of traffic policy".
            (Entry::External | Entry::Balancer, Client::Pod(_) | Client::Node(_)) => {
                self.sent_inside(Scope::All, is_masqueraded)
            }
            (Entry::NodePort(Some(node)), client) if client.node() == Some(node) => {
                self.sent_inside(Scope::All, is_masqueraded)
            }
            (Entry::NodePort(Some(node)), _) => {
                let node = node.clone();
                let found = self.at(&node, external, is_masqueraded);
                let found = found.map_err(|why| (why, self.at_other(&node, is_masqueraded)));
                found.map(|local| self.with_taken_for_local(local))
            }
            (Entry::External | Entry::Balancer | Entry::NodePort(None), _) => {
                self.sent_anywhere(external, is_masqueraded)
            }
        }
    }

    /// The packets to a node's own endpoints, with those to others that may be.
    fn with_taken_for_local(&mut self, mut packets: Vec<Packet>) -> Vec<Packet> {
        let Some(node) = self.node_that_may_take_for_local() else { return packets };
        let mut others = self.if_taken_for_local(&node);
        others.retain(|packet| !packets.contains(packet));
        if !others.is_empty() {
            self.remarks.push(Remark::PerhapsTakenForLocal(node));
        }
        packets.extend(others);
        packets
    }

    /// Translated on the client's own node.
    fn sent_inside(
        &mut self,
        scope: Scope,
        is_masqueraded: bool,
    ) -> Result<Vec<Packet>, (Refusal, Vec<Packet>)> {
        let node = self.client.node().cloned();
        let is_pod = matches!(self.client, Client::Pod(_));
        let packet = |backend: &Backend| {
            let kept = kept(self.dial, backend);
            if is_pod && backend.endpoint.is_same(self.dial.client) {
                return vec![Packet { source: Source::Hairpin, ..kept }];
            }
            // On the client's own node policies are asked before the source is replaced, which is the
            // last that happens to a packet there.
            let other = node.as_ref().filter(|node| backend.node.as_ref() != Some(*node));
            let Some(node) = other.filter(|_| is_masqueraded && is_pod) else { return vec![kept] };
            let sources = node_ends(self.snapshot, node, &backend.endpoint);
            let replaced = sources.into_iter().map(|source| Packet {
                leaves: Some(kept.arrives.clone()),
                arrives: Hop { source, ..kept.arrives.clone() },
                source: Source::Replaced(node.clone()),
            });
            let replaced: Vec<_> = replaced.collect();
            if replaced.is_empty() { vec![kept] } else { replaced }
        };
        let usable = self.usable();
        let all = || usable.for_all(node.as_deref()).into_iter().flat_map(packet);
        let result = match (scope, &node) {
            (Scope::Local(by), Some(node)) => {
                let local = usable.for_local(node);
                match local.is_empty() {
                    true => Err((
                        Refusal::NoLocalEndpoint { node: Some(node.clone()), by },
                        all().take(PACKETS_MAX).collect(),
                    )),
                    false => Ok(local.into_iter().flat_map(packet).collect::<Vec<_>>()),
                }
            }
            _ => Ok(all().collect()),
        };
        let is_local = matches!(scope, Scope::Local(_));
        if node.is_none() && (is_local || is_masqueraded) {
            self.remarks.push(Remark::NodeUnknown);
        }
        result.map(|packets| self.cut(packets))
    }

    /// Translated on any node.
    fn sent_anywhere(
        &mut self,
        scope: Scope,
        is_masqueraded: bool,
    ) -> Result<Vec<Packet>, (Refusal, Vec<Packet>)> {
        let usable = self.usable();
        let nodes = node_names(self.snapshot);
        let all = || {
            let backends = usable.for_all(None).into_iter();
            backends.map(|backend| kept(self.dial, backend)).take(PACKETS_MAX).collect::<Vec<_>>()
        };
        if nodes.is_empty() {
            return Ok(all());
        }
        let mut refusal = None;
        let mut without = Vec::new();
        let mut packets = Vec::new();
        let mut seen = HashSet::new();
        for node in &nodes {
            match self.at(node, scope, is_masqueraded) {
                Ok(found) => packets.extend(found.into_iter().filter(|packet| {
                    let Hop { source, destination, port } = &packet.arrives;
                    seen.insert((
                        source.address,
                        destination.address,
                        destination.to_string(),
                        *port,
                    ))
                })),
                Err(why) => {
                    refusal = Some(why);
                    without.push(node.clone());
                }
            }
            if packets.len() > PACKETS_MAX {
                break;
            }
        }
        match refusal {
            Some(Refusal::NoLocalEndpoint { by, .. }) if packets.is_empty() => {
                Err((Refusal::NoLocalEndpoint { node: None, by }, all()))
            }
            _ => {
                if !without.is_empty() {
                    self.remarks.push(Remark::NotByEveryNode(without));
                }
                Ok(self.cut(packets))
            }
        }
    }

    /// Translated on a node that is not the client's.
    fn at(
        &self,
        node: &Arc<str>,
        scope: Scope,
        is_masqueraded: bool,
    ) -> Result<Vec<Packet>, Refusal> {
        let usable = self.usable();
        let backends = match scope {
            Scope::All => usable.for_all(Some(node)),
            Scope::Local(by) => {
                let local = usable.for_local(node);
                if local.is_empty() {
                    return Err(Refusal::NoLocalEndpoint { node: Some(node.clone()), by });
                }
                local
            }
        };
        let packets = backends.into_iter().flat_map(|b| self.arriving(node, b, is_masqueraded));
        Ok(packets.collect())
    }

    /// The same of all endpoints, whatever the Service keeps on the node.
    fn at_other(&self, node: &Arc<str>, is_masqueraded: bool) -> Vec<Packet> {
        self.at(node, Scope::All, is_masqueraded).unwrap_or_default()
    }

    /// To a backend, by a node that is not the client's.
    fn arriving(&self, node: &Arc<str>, backend: &Backend, is_masqueraded: bool) -> Vec<Packet> {
        let client = self.dial.client;
        let kept = kept(self.dial, backend);
        let is_pod = matches!(self.client, Client::Pod(_));
        let leaves = self.address.filter(|_| is_pod).map(|address| Hop {
            source: client.clone(),
            destination: self.snapshot.resolve(address, None),
            port: self.dial.port,
        });
        let from = |source: Endpoint, kind: Source| Packet {
            leaves: leaves.clone(),
            arrives: Hop { source, ..kept.arrives.clone() },
            source: kind,
        };
        // What stays on the node is seen by policies before its source is replaced.
        // "Handle traffic that loops back to the originator with SNAT."
        let is_itself = is_pod && backend.endpoint.is_same(client);
        if (is_masqueraded || is_itself) && backend.node.as_ref() != Some(node) {
            let sources = node_ends(self.snapshot, node, &backend.endpoint).into_iter();
            let replaced: Vec<_> =
                sources.map(|source| from(source, Source::Replaced(node.clone()))).collect();
            if !replaced.is_empty() {
                return replaced;
            }
        }
        let mut packets = vec![from(client.clone(), Source::Kept)];
        if let (Client::Pod(Some(own)), Some(leaves)) = (&self.client, &leaves) {
            let sources = node_ends(self.snapshot, own, &leaves.destination).into_iter();
            packets
                .extend(sources.map(|source| from(source, Source::PerhapsReplaced(own.clone()))));
        }
        packets
    }

    fn cut(&mut self, mut packets: Vec<Packet>) -> Vec<Packet> {
        if packets.len() > PACKETS_MAX {
            packets.truncate(PACKETS_MAX);
            self.remarks.push(Remark::Cut);
        }
        packets
    }
}

/// Where a packet goes that nobody translates: to somebody outside, if the address is a Service's.
fn outside(snapshot: &Snapshot, address: IpAddr) -> Endpoint {
    let endpoint = snapshot.resolve(address, None);
    match endpoint.holder {
        Holder::Service(_) => Endpoint { holder: Holder::Outside, ..endpoint },
        _ => endpoint,
    }
}

/// All nodes that are known, by their objects or by their pods, in order.
fn node_names(snapshot: &Snapshot) -> BTreeSet<Arc<str>> {
    let named = snapshot.pods().filter_map(|pod| pod.node.clone());
    snapshot.nodes().map(|node| node.name.clone()).chain(named).collect()
}

/// A node as a source of packets to an end: nothing where no object has an address of it.
fn node_ends(snapshot: &Snapshot, name: &Arc<str>, to: &Endpoint) -> Vec<Endpoint> {
    let by_pods = || {
        let pods = snapshot.pods().filter(|pod| pod.node.as_ref() == Some(name));
        let mut addresses = pods.flat_map(|pod| &pod.host_addresses);
        let address = addresses.find(|address| to.may_be_of_family(**address))?;
        match snapshot.resolve(*address, None).holder {
            Holder::Node(node) => Some(node),
            _ => None,
        }
    };
    let node = snapshot.node(name).cloned().or_else(by_pods);
    node.map_or_else(Vec::new, |node| snapshot.sources_of_node(&node, to))
}
