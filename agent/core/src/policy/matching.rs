//! Whether a rule's peers and ports match a flow, and if not, what was wanted and what was found.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    Block, NAMESPACE_NAME_LABEL, Namespaces, Peer, Peers, PodPeer, PortMatch, PortRange, Rule,
    members::{account, given_to_pod, is_in_set, namespace_given, service},
    selector::{Labelled, Labels, Selector},
};
use crate::{
    cluster::{
        Snapshot,
        object::{NetworkSet, Pod},
        resolve::{Endpoint, Holder},
    },
    flow::Protocol,
};

/// Whether something matches: with a reason where it does not, and one where nobody can say.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome<Miss> {
    /// It does.
    Match,
    /// It does not.
    Miss(Miss),
    /// It cannot be told.
    Unknown(Arc<str>),
}

impl<Miss> Outcome<Miss> {
    /// Whether it matches for certain.
    pub fn is_match(&self) -> bool {
        matches!(self, Self::Match)
    }
}

/// Why no peer of a rule matches: the nearest of them.
#[derive(Clone, Debug, PartialEq)]
pub enum PeerMiss {
    /// A selector peer and a pod: at least one of the two selectors does not match.
    Labels {
        /// The namespace's labels are not those wanted.
        namespace: Option<LabelMiss>,
        /// The pod's labels are not those wanted.
        pod: Option<LabelMiss>,
    },
    /// A selector peer, and an end that is no pod.
    NotAPod {
        /// The pods wanted.
        wanted: String,
        /// Who it is.
        found: String,
    },
    /// A node, or what is behind a Service, and an end that is another.
    AnotherEnd {
        /// What is wanted.
        wanted: String,
        /// Who it is.
        found: String,
    },
    /// An end that the rule leaves out by its labels.
    LeftOut {
        /// What is wanted.
        wanted: String,
        /// Who it is.
        found: String,
    },
    /// Several things must be so, and these are not.
    Several(Vec<Self>),
    /// Not in the network of an `ipBlock`.
    OutsideBlock {
        /// The network.
        network: IpNet,
        /// The address.
        address: IpAddr,
    },
    /// In the network of an `ipBlock`, but excepted.
    Excepted {
        /// The network.
        network: IpNet,
        /// The exception that the address is in.
        except: IpNet,
        /// The address.
        address: IpAddr,
    },
}

/// Labels that were wanted and not found.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelMiss {
    /// The requirements not met: `namespace label name=frontend`.
    pub wanted: String,
    /// What there is: `namespace frontend: kubernetes.io/metadata.name=frontend`.
    pub found: String,
    /// How many requirements are not met.
    pub unmet: usize,
    /// The peer means pods of the policy's own namespace, and this one is of another.
    pub other_namespace: bool,
}

/// Why no port of a rule matches: the nearest of them.
#[derive(Clone, Debug, PartialEq)]
pub enum PortMiss {
    /// The protocol is right and the number is not.
    Port {
        /// The ports of the rule.
        wanted: String,
        /// The flow's.
        found: String,
    },
    /// The number is right and the protocol is not.
    Protocol {
        /// The ports of the rule.
        wanted: String,
        /// The flow's.
        found: String,
    },
    /// The rule is about a protocol that no flow as we see them has, such as ICMP.
    OtherProtocol {
        /// The protocols of the rule.
        wanted: String,
        /// The flow's.
        found: String,
    },
    /// A port name that the destination does not declare for this protocol.
    Unresolved {
        /// The name.
        name: Arc<str>,
        /// Who does not declare it.
        found: String,
    },
}

/// One end of a flow, as rules ask for it.
pub struct End<'a> {
    /// The end.
    pub endpoint: &'a Endpoint,
    /// The network sets that its address is in, found once for all rules.
    pub sets: Vec<&'a Arc<NetworkSet>>,
}

impl<'a> End<'a> {
    /// An end, with the network sets that its address is in.
    pub fn of(snapshot: &'a Snapshot, endpoint: &'a Endpoint) -> Self {
        Self { endpoint, sets: snapshot.network_sets_of(endpoint.address) }
    }
}

/// What a rule asks of a flow, from one direction's point of view.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The cluster.
    pub snapshot: &'a Snapshot,
    /// The destination, whose port names count.
    pub destination: &'a Endpoint,
    /// Destination port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// Matches what a rule asks of one end.
pub fn peers(peers: &Peers, end: &End<'_>, subject: Subject<'_>) -> Outcome<PeerMiss> {
    match peers {
        Peers::Everyone => Outcome::Match,
        Peers::AnyOf(candidates) => any_of(candidates, end, subject),
        Peers::AllOf(parts) => all_of(parts, end, subject),
    }
}

fn any_of(candidates: &[Peer], end: &End<'_>, subject: Subject<'_>) -> Outcome<PeerMiss> {
    let mut unknown = None;
    let mut nearest: Option<PeerMiss> = None;
    for candidate in candidates {
        match peer(candidate, end, subject) {
            Outcome::Match => return Outcome::Match,
            Outcome::Unknown(why) => unknown = unknown.or(Some(why)),
            Outcome::Miss(miss) => {
                if nearest.as_ref().is_none_or(|best| miss.distance() < best.distance()) {
                    nearest = Some(miss);
                }
            }
        }
    }
    match (unknown, nearest) {
        (Some(why), _) => Outcome::Unknown(why),
        (None, Some(miss)) => Outcome::Miss(miss),
        // Addresses of both families at once, which no packet has.
        (None, None) => Outcome::Miss(PeerMiss::AnotherEnd {
            wanted: "addresses of another family".to_owned(),
            found: end.endpoint.address.to_string(),
        }),
    }
}

/// One miss is enough, whatever else is unknown.
fn all_of(parts: &[Peers], end: &End<'_>, subject: Subject<'_>) -> Outcome<PeerMiss> {
    let mut unknown = None;
    let mut misses = Vec::new();
    for part in parts {
        match peers(part, end, subject) {
            Outcome::Match => {}
            Outcome::Unknown(why) => unknown = unknown.or(Some(why)),
            Outcome::Miss(miss) => misses.push(miss),
        }
    }
    match (misses.pop(), unknown) {
        (Some(only), _) if misses.is_empty() => Outcome::Miss(only),
        (Some(last), _) => {
            misses.push(last);
            Outcome::Miss(PeerMiss::Several(misses))
        }
        (None, Some(why)) => Outcome::Unknown(why),
        (None, None) => Outcome::Match,
    }
}

fn peer(peer: &Peer, end: &End<'_>, subject: Subject<'_>) -> Outcome<PeerMiss> {
    let snapshot = subject.snapshot;
    match peer {
        Peer::Pods(pods) => pod_peer(snapshot, pods, end.endpoint),
        Peer::Members(wanted) => member(snapshot, wanted, end),
        Peer::NotMembers(unwanted) => match member(snapshot, unwanted, end) {
            Outcome::Match => Outcome::Miss(PeerMiss::LeftOut {
                wanted: format!("others than {unwanted}"),
                found: end.endpoint.to_string(),
            }),
            Outcome::Miss(_) => Outcome::Match,
            Outcome::Unknown(why) => Outcome::Unknown(why),
        },
        Peer::Block(block) => ip_block(block, end.endpoint),
        Peer::Nodes(selector) => node(selector, end.endpoint),
        Peer::Service(wanted) => service(wanted, end.endpoint, subject),
        Peer::Undecidable(what) => Outcome::Unknown(format!("the rule names {what}").into()),
    }
}

/// A pod, or an address of a network set.
fn member(snapshot: &Snapshot, wanted: &PodPeer, end: &End<'_>) -> Outcome<PeerMiss> {
    match is_in_set(snapshot, wanted, &end.sets) {
        Ok(true) => Outcome::Match,
        Ok(false) => pod_peer(snapshot, wanted, end.endpoint),
        Err(why) => Outcome::Unknown(why),
    }
}

fn pod_peer(snapshot: &Snapshot, wanted: &PodPeer, end: &Endpoint) -> Outcome<PeerMiss> {
    match &end.holder {
        Holder::Pod(pod) => match selects(snapshot, wanted, pod) {
            Outcome::Match => Outcome::Match,
            Outcome::Unknown(why) => Outcome::Unknown(why),
            Outcome::Miss((namespace, pod)) => Outcome::Miss(PeerMiss::Labels { namespace, pod }),
        },
        // "Selectors never match an address that is not a pod's", hostNetwork pods included.
        Holder::Node(node) => {
            let found = format!("node {} ({})", node.name, end.address);
            Outcome::Miss(PeerMiss::NotAPod { wanted: wanted.to_string(), found })
        }
        Holder::Outside => {
            let found = format!("{}, an address outside the cluster", end.address);
            Outcome::Miss(PeerMiss::NotAPod { wanted: wanted.to_string(), found })
        }
        Holder::Service(service) => {
            let found = format!("the address of Service {}/{}", service.namespace, service.name);
            Outcome::Miss(PeerMiss::NotAPod { wanted: wanted.to_string(), found })
        }
        Holder::Unknown(why) => Outcome::Unknown(why.clone()),
    }
}

/// Whether the peer (or a policy's subject) selects a pod: by its namespace, its own labels and its
/// service account.
pub fn selects(
    snapshot: &Snapshot,
    wanted: &PodPeer,
    pod: &Pod,
) -> Outcome<(Option<LabelMiss>, Option<LabelMiss>)> {
    let of = Labelled { given: &given_to_pod(pod), ..Labelled::from(&pod.labels) };
    let mut unknown = None;
    let mut pod_miss = (!wanted.pods.matches(of)).then(|| {
        let found = format!("pod {}/{}: {}", pod.namespace, pod.name, label_list(&pod.labels));
        LabelMiss::of("pod", &wanted.pods, of, found)
    });
    if let Some(accounts) = &wanted.accounts {
        match account(snapshot, accounts, pod) {
            Outcome::Match => {}
            Outcome::Unknown(why) => unknown = Some(why),
            Outcome::Miss(miss) => pod_miss = pod_miss.or(Some(miss)),
        }
    }
    match namespace(snapshot, &wanted.namespaces, &pod.namespace) {
        Outcome::Miss(namespace) => Outcome::Miss((Some(namespace), pod_miss)),
        // Whatever else is not known, this does not match.
        _ if pod_miss.is_some() => Outcome::Miss((None, pod_miss)),
        Outcome::Unknown(why) => Outcome::Unknown(why),
        Outcome::Match => unknown.map_or(Outcome::Match, Outcome::Unknown),
    }
}

/// Whether a namespace is wanted.
pub(super) fn namespace(
    snapshot: &Snapshot,
    wanted: &Namespaces,
    name: &Arc<str>,
) -> Outcome<LabelMiss> {
    let selector = match wanted {
        Namespaces::Own(own) if own == name => return Outcome::Match,
        Namespaces::Own(own) => {
            return Outcome::Miss(LabelMiss {
                wanted: format!("pods of the policy's own namespace {own} (no namespaceSelector)"),
                found: format!("namespace {name}"),
                unmet: 1,
                other_namespace: true,
            });
        }
        Namespaces::Selected(selector) => selector,
    };
    let given = namespace_given(name);
    if let Some(namespace) = snapshot.namespace(name) {
        let of = Labelled { given: &given, global: false, ..Labelled::from(&namespace.labels) };
        if selector.matches(of) {
            return Outcome::Match;
        }
        let found = format!("namespace {name}: {}", label_list(&namespace.labels));
        return Outcome::Miss(LabelMiss::of("namespace", selector, of, found));
    }
    // Of a namespace that is not in the snapshot, only the labels that it is given are known.
    let labels: Labels = [(NAMESPACE_NAME_LABEL.into(), name.clone())].into();
    let known = Labelled { given: &given, global: false, ..Labelled::from(&labels) };
    let (by_name, others) = selector.split(&[NAMESPACE_NAME_LABEL, given[0].0]);
    if !by_name.matches(known) {
        let found = format!("namespace {name}: {}", label_list(&labels));
        return Outcome::Miss(LabelMiss::of("namespace", &by_name, known, found));
    }
    match others.is_everything() {
        true => Outcome::Match,
        false => Outcome::Unknown(
            format!("namespace {name} is not among the objects, so its labels are not known")
                .into(),
        ),
    }
}

fn ip_block(block: &Block, peer: &Endpoint) -> Outcome<PeerMiss> {
    let address = peer.address;
    if !block.network.contains(&address) {
        return Outcome::Miss(PeerMiss::OutsideBlock { network: block.network, address });
    }
    match block.except.iter().find(|except| except.contains(&address)) {
        Some(except) => {
            Outcome::Miss(PeerMiss::Excepted { network: block.network, except: *except, address })
        }
        None => Outcome::Match,
    }
}

fn node(selector: &Selector, peer: &Endpoint) -> Outcome<PeerMiss> {
    match &peer.holder {
        Holder::Node(node) if selector.matches(&node.labels) => Outcome::Match,
        Holder::Unknown(why) => Outcome::Unknown(why.clone()),
        _ => Outcome::Miss(PeerMiss::AnotherEnd {
            wanted: format!("a node with labels {selector}"),
            found: peer.to_string(),
        }),
    }
}

/// Matches a rule's ports.
pub fn ports(rule: &Rule, subject: Subject<'_>) -> Outcome<PortMiss> {
    let outcome = among(&rule.ports, subject);
    if rule.except_ports.is_empty() || matches!(outcome, Outcome::Miss(_)) {
        return outcome;
    }
    match among(&rule.except_ports, subject) {
        Outcome::Match => {
            let listed: Vec<_> = rule.except_ports.iter().map(ToString::to_string).collect();
            Outcome::Miss(PortMiss::Port {
                wanted: format!("a port other than {}", listed.join(" and ")),
                found: format!("port {}/{}", subject.port, subject.protocol),
            })
        }
        Outcome::Miss(_) => outcome,
        Outcome::Unknown(why) => Outcome::Unknown(why),
    }
}

fn among(ports: &[PortMatch], subject: Subject<'_>) -> Outcome<PortMiss> {
    if ports.is_empty() {
        return Outcome::Match;
    }
    let mut unknown = None;
    let mut unresolved = None;
    let mut right_number = false;
    for entry in ports {
        let right_protocol = entry.protocol.is_none_or(|p| p == subject.protocol);
        match &entry.ports {
            PortRange::Any if right_protocol => return Outcome::Match,
            PortRange::Any => right_number = true,
            PortRange::Numbers(first, last) => {
                let within = (*first..=*last).contains(&subject.port);
                if within && right_protocol {
                    return Outcome::Match;
                }
                right_number |= within;
            }
            PortRange::Named(name) => match named_port(name, subject) {
                Named::Is if right_protocol => return Outcome::Match,
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
        return Outcome::Unknown(why);
    }
    let wanted = || {
        let listed: Vec<_> = ports.iter().map(ToString::to_string).collect();
        format!("port {}", listed.join(" or "))
    };
    let found = format!("port {}/{}", subject.port, subject.protocol);
    if ports.iter().all(|entry| matches!(entry.ports, PortRange::OfProtocol(_))) {
        return Outcome::Miss(PortMiss::OtherProtocol { wanted: wanted(), found });
    }
    Outcome::Miss(match (right_number, unresolved) {
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
        Holder::Node(_) | Holder::Service(_) | Holder::Outside => {
            Named::Missing(format!("{} is not a pod", subject.destination))
        }
        Holder::Unknown(why) => Named::Unknown(why.clone()),
    }
}

impl LabelMiss {
    /// What of a selector these labels do not satisfy.
    pub(super) fn of(noun: &str, selector: &Selector, of: Labelled<'_>, found: String) -> Self {
        let unmet = selector.unmet_parts(of);
        Self {
            wanted: format!("{noun} label {}", unmet.join(",")),
            found,
            unmet: unmet.len(),
            other_namespace: false,
        }
    }
}

impl PeerMiss {
    /// How far from matching, for choosing the nearest of a rule's peers: first how many of the
    /// two selectors fail, then how many labels; other forms of peer are not close to a pod.
    pub fn distance(&self) -> (usize, usize) {
        match self {
            // In the network and taken out again: written with this very address in mind.
            Self::Excepted { .. } => (1, 0),
            Self::Labels { namespace, pod } => {
                let misses = || [namespace, pod].into_iter().flatten();
                (misses().count(), misses().map(|miss| miss.unmet).sum())
            }
            Self::OutsideBlock { .. } | Self::LeftOut { .. } => (1, usize::MAX),
            Self::NotAPod { .. } | Self::AnotherEnd { .. } => (2, usize::MAX),
            Self::Several(misses) => misses.iter().fold((0, 0), |(count, unmet), miss| {
                let (more, more_unmet) = miss.distance();
                (count + more, unmet.saturating_add(more_unmet))
            }),
        }
    }
}

impl PeerMiss {
    /// What was wanted, and what was found.
    pub fn told(&self) -> (String, String) {
        match self {
            Self::Labels { namespace, pod } => {
                let misses = || [namespace, pod].into_iter().flatten();
                let wanted: Vec<_> = misses().map(|miss| miss.wanted.as_str()).collect();
                let found: Vec<_> = misses().map(|miss| miss.found.as_str()).collect();
                (wanted.join(" and "), found.join("; "))
            }
            Self::NotAPod { wanted, found }
            | Self::AnotherEnd { wanted, found }
            | Self::LeftOut { wanted, found } => (wanted.clone(), found.clone()),
            Self::OutsideBlock { network, address } => {
                (format!("an address in {network}"), address.to_string())
            }
            Self::Excepted { network, except, address } => {
                let wanted = format!("an address in {network} except {except}");
                (wanted, format!("{address}, which is in {except}"))
            }
            Self::Several(misses) => {
                let (wanted, found): (Vec<_>, Vec<_>) = misses.iter().map(Self::told).unzip();
                (wanted.join(" and "), found.join("; "))
            }
        }
    }
}

impl PortMiss {
    /// What was wanted, and what was found.
    pub fn told(&self) -> (String, String) {
        match self {
            Self::Port { wanted, found }
            | Self::Protocol { wanted, found }
            | Self::OtherProtocol { wanted, found } => (wanted.clone(), found.clone()),
            Self::Unresolved { name, found } => (format!("port named {name}"), found.clone()),
        }
    }
}

/// `a=b,c=d`, or `no labels`.
pub fn label_list(labels: &Labels) -> String {
    if labels.is_empty() {
        return "no labels".to_owned();
    }
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

impl fmt::Display for PodPeer {
    /// `pods app=web in namespaces team=blue`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pods.is_everything() {
            true => f.write_str("pods")?,
            false => write!(f, "pods {}", self.pods)?,
        }
        if let Some(accounts) = &self.accounts {
            write!(f, " of {accounts}")?;
        }
        match &self.namespaces {
            Namespaces::Own(namespace) => write!(f, " in namespace {namespace}"),
            Namespaces::Selected(selector) if selector.is_everything() => {
                f.write_str(" in any namespace")
            }
            Namespaces::Selected(selector) => write!(f, " in namespaces {selector}"),
        }
    }
}
