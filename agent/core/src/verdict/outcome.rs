//! Whether a rule's half matches, and if not, what was wanted and what was found.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::policy::{
    requirement::{Labelled, Labels},
    selector::Selector,
};

/// Whether something matches: with a reason where it does not, and one where nobody can say.
#[derive(Clone, Debug, PartialEq)]
pub enum MatchOutcome<Miss> {
    /// It does.
    Match,
    /// It does not.
    Miss(Miss),
    /// It is unknown, and why.
    Unknown(Arc<str>),
}

impl<Miss> MatchOutcome<Miss> {
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
    /// In the network of an `ipBlock`, and a pod or a node, which this engine matches with none.
    InsideCluster {
        /// The network.
        network: IpNet,
        /// Who it is.
        found: String,
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
    pub is_other_namespace: bool,
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

impl LabelMiss {
    /// What of a selector these labels do not satisfy.
    pub(super) fn of(noun: &str, selector: &Selector, of: Labelled<'_>, found: String) -> Self {
        let unmet = selector.unmet_parts(of);
        Self {
            wanted: format!("{noun} label {}", unmet.join(",")),
            found,
            unmet: unmet.len(),
            is_other_namespace: false,
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
            Self::OutsideBlock { .. } | Self::InsideCluster { .. } | Self::LeftOut { .. } => {
                (1, usize::MAX)
            }
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
    pub fn wanted_and_found(&self) -> (String, String) {
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
            Self::InsideCluster { network, found } => {
                (format!("an address in {network} outside the cluster"), found.clone())
            }
            Self::Excepted { network, except, address } => {
                let wanted = format!("an address in {network} except {except}");
                (wanted, format!("{address}, which is in {except}"))
            }
            Self::Several(misses) => {
                let (wanted, found): (Vec<_>, Vec<_>) =
                    misses.iter().map(Self::wanted_and_found).unzip();
                (wanted.join(" and "), found.join("; "))
            }
        }
    }
}

impl PortMiss {
    /// What was wanted, and what was found.
    pub fn wanted_and_found(&self) -> (String, String) {
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
