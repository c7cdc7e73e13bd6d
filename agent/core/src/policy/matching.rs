//! Whether a rule's peers and ports match a flow, and if not, what was wanted and what was found.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    Block, NAMESPACE_NAME_LABEL, Namespaces, Peer, Peers, PodPeer, PortMatch, PortRange,
    selector::{Labels, Selector},
};
use crate::{
    cluster::{
        Snapshot,
        object::Pod,
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
    /// A node peer, and an end that is not such a node.
    NotThatNode {
        /// The nodes wanted.
        wanted: String,
        /// Who it is.
        found: String,
    },
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
    /// A port name that the destination does not declare for this protocol.
    Unresolved {
        /// The name.
        name: Arc<str>,
        /// Who does not declare it.
        found: String,
    },
}

/// What a rule asks of a flow, from one direction's point of view.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The cluster.
    pub snapshot: &'a Snapshot,
    /// The other end.
    pub peer: &'a Endpoint,
    /// The destination, whose port names count.
    pub destination: &'a Endpoint,
    /// Destination port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// Matches a rule's peers.
pub fn peers(peers: &Peers, subject: Subject<'_>) -> Outcome<PeerMiss> {
    let Peers::AnyOf(peers) = peers else { return Outcome::Match };
    let mut unknown = None;
    let mut nearest: Option<PeerMiss> = None;
    for candidate in peers {
        match peer(candidate, subject) {
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
        // Not constructed: lowering turns an empty list into `Everyone` or refuses it.
        (None, None) => Outcome::Unknown("the rule has no peers".into()),
    }
}

fn peer(peer: &Peer, subject: Subject<'_>) -> Outcome<PeerMiss> {
    match peer {
        Peer::Pods(pods) => pod_peer(pods, subject),
        Peer::Block(block) => ip_block(block, subject.peer),
        Peer::Nodes(selector) => node(selector, subject.peer),
        Peer::Undecidable(what) => Outcome::Unknown(format!("the rule names {what}").into()),
    }
}

fn pod_peer(wanted: &PodPeer, subject: Subject<'_>) -> Outcome<PeerMiss> {
    match &subject.peer.holder {
        Holder::Pod(pod) => match selects(subject.snapshot, wanted, pod) {
            Outcome::Match => Outcome::Match,
            Outcome::Unknown(why) => Outcome::Unknown(why),
            Outcome::Miss((namespace, pod)) => Outcome::Miss(PeerMiss::Labels { namespace, pod }),
        },
        // "Selectors never match an address that is not a pod's", hostNetwork pods included.
        Holder::Node(node) => {
            let found = format!("node {} ({})", node.name, subject.peer.address);
            Outcome::Miss(PeerMiss::NotAPod { wanted: wanted.to_string(), found })
        }
        Holder::Outside => {
            let found = format!("{}, an address outside the cluster", subject.peer.address);
            Outcome::Miss(PeerMiss::NotAPod { wanted: wanted.to_string(), found })
        }
        Holder::Service(service) => {
            let found = format!("the address of Service {}/{}", service.namespace, service.name);
            Outcome::Miss(PeerMiss::NotAPod { wanted: wanted.to_string(), found })
        }
        Holder::Unknown(why) => Outcome::Unknown(why.clone()),
    }
}

/// Whether the peer (or a policy's subject) selects a pod: both selectors must.
pub fn selects(
    snapshot: &Snapshot,
    wanted: &PodPeer,
    pod: &Pod,
) -> Outcome<(Option<LabelMiss>, Option<LabelMiss>)> {
    let pod_miss = (!wanted.pods.matches(&pod.labels)).then(|| {
        let found = format!("pod {}/{}: {}", pod.namespace, pod.name, label_list(&pod.labels));
        LabelMiss::of("pod", &wanted.pods, &pod.labels, found)
    });
    match namespace(snapshot, &wanted.namespaces, &pod.namespace) {
        Outcome::Miss(namespace) => Outcome::Miss((Some(namespace), pod_miss)),
        // Whatever the namespace's labels are, the pod's do not match.
        _ if pod_miss.is_some() => Outcome::Miss((None, pod_miss)),
        Outcome::Unknown(why) => Outcome::Unknown(why),
        Outcome::Match => Outcome::Match,
    }
}

fn namespace(snapshot: &Snapshot, wanted: &Namespaces, name: &Arc<str>) -> Outcome<LabelMiss> {
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
    if let Some(namespace) = snapshot.namespace(name) {
        if selector.matches(&namespace.labels) {
            return Outcome::Match;
        }
        let found = format!("namespace {name}: {}", label_list(&namespace.labels));
        return Outcome::Miss(LabelMiss::of("namespace", selector, &namespace.labels, found));
    }
    // Of a namespace that is not in the snapshot, only the label that the API server sets is known.
    let known: Labels = [(NAMESPACE_NAME_LABEL.into(), name.clone())].into();
    let (by_name, others): (Vec<_>, Vec<_>) =
        selector.requirements().iter().cloned().partition(|r| &*r.key == NAMESPACE_NAME_LABEL);
    let by_name = Selector::new(by_name);
    if !by_name.matches(&known) {
        let found = format!("namespace {name}: {}", label_list(&known));
        return Outcome::Miss(LabelMiss::of("namespace", &by_name, &known, found));
    }
    match others.is_empty() {
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
        _ => Outcome::Miss(PeerMiss::NotThatNode {
            wanted: format!("a node with labels {selector}"),
            found: peer.to_string(),
        }),
    }
}

/// Matches a rule's ports.
pub fn ports(ports: &[PortMatch], subject: Subject<'_>) -> Outcome<PortMiss> {
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
    fn of(noun: &str, selector: &Selector, labels: &Labels, found: String) -> Self {
        let unmet: Vec<_> = selector.unmet(labels).map(ToString::to_string).collect();
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
            Self::OutsideBlock { .. } => (1, usize::MAX),
            Self::NotAPod { .. } | Self::NotThatNode { .. } => (2, usize::MAX),
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
        match &self.namespaces {
            Namespaces::Own(namespace) => write!(f, " in namespace {namespace}"),
            Namespaces::Selected(selector) if selector.is_everything() => {
                f.write_str(" in any namespace")
            }
            Namespaces::Selected(selector) => write!(f, " in namespaces {selector}"),
        }
    }
}
