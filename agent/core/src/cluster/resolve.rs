//! From addresses to who held them.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use super::{
    HeldBy, Holding, Snapshot,
    known_address::{KnownAddress, known_address},
    node_address::{AddressSort, NodeAddress},
    object::{Node, Pod, Service},
};

/// How far the clocks of the API server and of this node may be apart, and how late a watch may be,
/// before an address is thought to have changed hands.
const CLOCK_SLACK: SignedDuration = SignedDuration::from_secs(5);

/// How late it is seen that an interface has appeared: the kernel says so at once, and a busy agent reads
/// that a moment later.
const INTERFACE_SEEN_WITHIN: SignedDuration = SignedDuration::from_secs(1);

/// One end of a flow, resolved once.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Its address; `None`: a pod that has none, because it has not been given one yet or is over.
    /// What depends on the address is unknown then, and nothing else.
    pub address: Option<IpAddr>,
    /// Who holds it.
    pub holder: Holder,
}

/// Who holds an address.
#[derive(Clone, Debug, PartialEq)]
pub enum Holder {
    /// A pod with an address of its own.
    Pod(Arc<Pod>),
    /// A node, or a pod in its network. What the address is to the node: [`Endpoint::node_address`].
    Node(Arc<Node>),
    /// A pod, on the network of this name that it has beside the cluster's own: no network policy
    /// governs it there.
    SecondNetwork(Arc<Pod>, Arc<str>),
    /// A Service: the packet has not been translated to a backend's address.
    Service(Arc<Service>),
    /// A pod or a Service of which no object may be read.
    Hidden(Arc<Hidden>),
    /// Nobody in the cluster: an address outside of it.
    Outside,
    /// It is unknown, and why.
    Unknown(Arc<str>),
}

/// A pod or a Service that is known by its name alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name as an end of a flow: `pod-b`, `svc/pod-b`.
    pub name: Arc<str>,
    /// Whether it is a Service: which pods are behind it, and on which port, is unknown as well.
    pub is_service: bool,
    /// Why nothing more is known of it.
    pub why: Arc<str>,
}

impl Hidden {
    /// The Service's own name, if it is one.
    pub fn service_name(&self) -> Option<&str> {
        self.name.strip_prefix("svc/").filter(|_| self.is_service)
    }
}

impl fmt::Display for Endpoint {
    /// `frontend/pod-a`, `node worker-1`, `Service shop/db`, or the address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.holder {
            Holder::Pod(pod) => write!(f, "{}/{}", pod.namespace, pod.name),
            Holder::Node(node) => write!(f, "node {}", node.name),
            Holder::Service(service) => write!(f, "Service {}/{}", service.namespace, service.name),
            Holder::SecondNetwork(pod, network) => {
                write!(f, "{}/{} on network {network}", pod.namespace, pod.name)
            }
            Holder::Hidden(hidden) => write!(f, "{}/{}", hidden.namespace, hidden.name),
            Holder::Outside | Holder::Unknown(_) => f.write_str(&self.address_text()),
        }
    }
}

impl Endpoint {
    /// A pod that has no address.
    pub const fn without_address(pod: Arc<Pod>) -> Self {
        Self { address: None, holder: Holder::Pod(pod) }
    }

    /// The address for a person.
    pub fn address_text(&self) -> String {
        self.address.map_or_else(|| "an address that is not known".to_owned(), |a| a.to_string())
    }

    /// Whether packets between this end and an address of that family are possible, as far as is
    /// known.
    pub fn may_be_of_family(&self, other: IpAddr) -> bool {
        self.address.is_none_or(|own| own.is_ipv4() == other.is_ipv4())
    }

    /// Whether it is the same end: by its address, or, without one, by the pod.
    pub fn is_same(&self, other: &Self) -> bool {
        let name = |end: &Self| end.pod().map(|pod| (pod.namespace.clone(), pod.name.clone()));
        self.address == other.address && (self.address.is_some() || name(self) == name(other))
    }

    /// Who holds the address now; what has none is what it was.
    #[must_use]
    pub fn now(&self, snapshot: &Snapshot) -> Self {
        self.address.map_or_else(|| self.clone(), |address| snapshot.resolve(address, None))
    }

    /// The pod, if it is one.
    pub fn pod(&self) -> Option<&Arc<Pod>> {
        match &self.holder {
            Holder::Pod(pod) => Some(pod),
            _ => None,
        }
    }

    /// What its address is to the node that holds it.
    pub fn node_address(&self) -> Option<&NodeAddress> {
        match &self.holder {
            Holder::Node(node) => node.address(self.address?),
            _ => None,
        }
    }

    /// What its address is by itself, where nobody in the cluster holds it.
    pub fn known_address(&self) -> Option<&'static KnownAddress> {
        match &self.holder {
            Holder::Outside => known_address(self.address?),
            _ => None,
        }
    }
}

impl Snapshot {
    /// A pod's ends: one for each address family. One that has none is judged by what is known of it
    /// without; of the host network it is a node's, whichever that is.
    pub fn ends_of(&self, pod: &Arc<Pod>) -> Vec<Endpoint> {
        if !pod.addresses.is_empty() {
            return self.firsts(&pod.addresses);
        }
        if !pod.host_network {
            return vec![Endpoint::without_address(pod.clone())];
        }
        let own = pod.node.as_ref().and_then(|name| self.node(name));
        let mut nodes: Vec<&Arc<Node>> =
            own.map_or_else(|| self.nodes().collect(), |node| vec![node]);
        nodes.sort_by_key(|node| &node.name);
        if nodes.is_empty() {
            // Of which nothing is known but that it runs such a pod.
            let node =
                Node { name: format!("{}/{}", pod.namespace, pod.name).into(), ..Node::default() };
            return vec![Endpoint { address: None, holder: Holder::Node(Arc::new(node)) }];
        }
        nodes.into_iter().flat_map(|node| self.ends_of_node(node)).collect()
    }

    /// A node's ends: one for each address family.
    pub fn ends_of_node(&self, node: &Arc<Node>) -> Vec<Endpoint> {
        let listed: Vec<IpAddr> = node.listed_addresses().collect();
        if listed.is_empty() {
            return vec![Endpoint { address: None, holder: Holder::Node(node.clone()) }];
        }
        self.firsts(&listed)
    }

    /// Of several addresses of one, the first of each family: the one that is listed first is the
    /// cluster's own.
    fn firsts(&self, addresses: &[IpAddr]) -> Vec<Endpoint> {
        let mut firsts: Vec<IpAddr> = Vec::new();
        for address in addresses {
            if !firsts.iter().any(|first| first.is_ipv4() == address.is_ipv4()) {
                firsts.push(*address);
            }
        }
        firsts.into_iter().map(|address| self.resolve(address, None)).collect()
    }

    /// Who holds an address, or held it at that time; `None`: at the time that the snapshot is asked of.
    pub fn resolve(&self, address: IpAddr, at: Option<Timestamp>) -> Endpoint {
        let at = at.or(self.as_of);
        // A socket of the IPv6 family may show an IPv4 address mapped (RFC 4291, 2.5.5.2).
        let address = address.to_canonical();
        let holdings = self.holdings(address);
        let mut now: Vec<(Fit, &Holding)> =
            holdings.iter().filter_map(|h| Some((h.fit(at)?, h))).collect();
        // By this node's own clock, a pod of it has no address before it has an interface.
        let has_no_interface = |at| {
            let appeared = self.node_facts().appeared(address);
            appeared.is_some_and(|appeared| appeared > at + INTERFACE_SEEN_WITHIN)
        };
        if at.is_some_and(has_no_interface) {
            now.retain(|(fit, _)| *fit != Fit::BeginsSoon);
        }
        // Who held it at that very time comes before who is only not far off. A pod's own claim is the
        // strongest; among pods, who came last: the other one's removal has not been seen yet.
        let weight = |h: &Holding| match h.by {
            HeldBy::SecondNetwork(..) => 0,
            HeldBy::Service(_) => 1,
            HeldBy::Node(_) => 2,
            HeldBy::Pod(_) => 3,
        };
        now.sort_by_key(|(fit, h)| (*fit, weight(h), h.until.is_none(), h.since, h.until));
        let holder = match now.as_slice() {
            [] => self.nobody(address),
            [.., (_, a), (_, b)] if a.rivals(b) => {
                Holder::Unknown(format!("{address} is claimed by {} and by {}", a.by, b.by).into())
            }
            [.., (_, last)] => self.holder(&last.by, address),
        };
        Endpoint { address: Some(address), holder }
    }

    fn holder(&self, by: &HeldBy, address: IpAddr) -> Holder {
        match by {
            HeldBy::Pod(pod) => Holder::Pod(pod.clone()),
            HeldBy::Service(service) => Holder::Service(service.clone()),
            HeldBy::SecondNetwork(pod, network) => {
                Holder::SecondNetwork(pod.clone(), network.clone())
            }
            HeldBy::Node(name) => Holder::Node(match self.node(name) {
                Some(node) if node.address(address).is_some() => node.clone(),
                // By an interface of this node's.
                Some(node) => {
                    let mut node = Node::clone(node);
                    node.addresses.push(NodeAddress::stated(address, AddressSort::Interface));
                    Arc::new(node)
                }
                // A pod names a node that has no object here.
                None => Arc::new(Node {
                    name: name.clone(),
                    labels: crate::policy::requirement::Labels::new(),
                    addresses: vec![NodeAddress::internal(address)],
                    pod_networks: Vec::new(),
                    subnets: Vec::new(),
                }),
            }),
        }
    }

    /// Nobody holds it: outside the cluster, unless it may yet be found, is some node's by convention, or
    /// lies in a node's pod network.
    fn nobody(&self, address: IpAddr) -> Holder {
        if known_address(address).is_some() {
            return Holder::Outside;
        }
        if let Some(why) = self.unclear(address) {
            return Holder::Unknown(why.into());
        }
        if let Some(node) = self.nodes().find(|node| node.address(address).is_some()) {
            return Holder::Node(node.clone());
        }
        let inside = |network: &&IpNet| network.contains(&address);
        for node in self.nodes() {
            if let Some(network) = node.pod_networks.iter().find(inside) {
                return Holder::Unknown(
                    format!(
                        "no pod is known to hold {address}, which is in the pod network {network} \
                         of node {}",
                        node.name
                    )
                    .into(),
                );
            }
        }
        Holder::Outside
    }
}

/// How a holding fits a time, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// It began within [`CLOCK_SLACK`] after it, by a clock that may be ahead.
    BeginsSoon,
    /// It had ended within [`CLOCK_SLACK`] before it: what a pod sends and is sent as it ends.
    EndedJustNow,
    /// It held the address then.
    Then,
}

impl Holding {
    /// Whether it held it at that time, or does now.
    pub fn covers(&self, at: Option<Timestamp>) -> bool {
        self.fit(at).is_some()
    }

    fn fit(&self, at: Option<Timestamp>) -> Option<Fit> {
        let Some(at) = at else { return self.until.is_none().then_some(Fit::Then) };
        let begins_later = self.since.is_some_and(|since| since > at);
        let has_ended = self.until.is_some_and(|until| until < at);
        match (begins_later, has_ended) {
            (false, false) => Some(Fit::Then),
            // Whose end nobody saw has ended at some time since: that is no clock's doing.
            (false, true) => self
                .until
                .is_some_and(|until| !self.is_end_unseen && at <= until + CLOCK_SLACK)
                .then_some(Fit::EndedJustNow),
            (true, _) => {
                self.since.is_some_and(|since| since <= at + CLOCK_SLACK).then_some(Fit::BeginsSoon)
            }
        }
    }

    /// Two pods that claim one address, where nothing says who came later.
    fn rivals(&self, other: &Self) -> bool {
        let pods = matches!((&self.by, &other.by), (HeldBy::Pod(_), HeldBy::Pod(_)));
        pods && self.until == other.until && self.since == other.since
    }
}

impl fmt::Display for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) => write!(f, "pod {}/{}", pod.namespace, pod.name),
            Self::Node(name) => write!(f, "node {name}"),
            Self::SecondNetwork(pod, network) => {
                write!(f, "pod {}/{} on network {network}", pod.namespace, pod.name)
            }
            Self::Service(service) => write!(f, "Service {}/{}", service.namespace, service.name),
        }
    }
}
