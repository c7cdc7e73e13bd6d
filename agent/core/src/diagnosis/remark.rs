//! What is worth knowing of the ends of a flow, beside who they are.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::{
    cluster::{
        known_address::KnownAddress,
        node_address::{AddressSort, Basis, NodeAddress},
        object::{Finished, Node, Pod},
        resolve::{Endpoint, Holder},
    },
    verdict::Question,
};

/// Something that is worth knowing of an end.
#[derive(Clone, Debug, PartialEq)]
pub enum Remark {
    /// Its address is one of a node's, and not one that people know the node by.
    NodeAddress {
        /// The node.
        node: Arc<str>,
        /// The address.
        address: NodeAddress,
        /// The network of the node's pods that it is in.
        network: Option<IpNet>,
    },
    /// Who was asked about is a pod in its node's network: its packets are its node's.
    HostNetwork {
        /// The pod.
        pod: Arc<Pod>,
        /// The node.
        node: Arc<str>,
    },
    /// Who was asked about is a pod that is over, and is judged by what it was.
    Over {
        /// The pod.
        pod: Arc<Pod>,
        /// How it ended.
        finished: Finished,
    },
    /// Its address is a pod's on another network than the cluster's own.
    SecondNetwork {
        /// The pod.
        pod: Arc<Pod>,
        /// The network.
        network: Arc<str>,
        /// The address.
        address: IpAddr,
    },
    /// Its address has a meaning by itself.
    Known {
        /// The address.
        address: IpAddr,
        /// What it is.
        known: &'static KnownAddress,
    },
}

impl Remark {
    /// What is worth knowing of both ends, of each once.
    pub fn on(question: &Question) -> Vec<Self> {
        let Question { source, destination, .. } = question;
        let mut remarks = Vec::new();
        for end in [source, destination] {
            remarks.extend(Self::on_end(end).filter(|remark| !remarks.contains(remark)));
        }
        remarks
    }

    fn on_end(end: &Endpoint) -> Option<Self> {
        match &end.holder {
            Holder::Node(node) => match end.node_address()?.sort {
                AddressSort::Internal => None,
                _ => Some(Self::on_node(node, *end.node_address()?)),
            },
            Holder::SecondNetwork(pod, network) => Some(Self::SecondNetwork {
                pod: pod.clone(),
                network: network.clone(),
                address: end.address?,
            }),
            Holder::Outside => {
                let address = end.address?;
                end.known_address().map(|known| Self::Known { address, known })
            }
            Holder::Pod(pod) => {
                pod.finished.map(|finished| Self::Over { pod: pod.clone(), finished })
            }
            Holder::Service(_) | Holder::Hidden(_) | Holder::Unknown(_) => None,
        }
    }

    /// What an address is that a node has from its network plugin: it is in no list of nodes that
    /// people look at.
    pub(super) fn on_address_of_plugin(end: &Endpoint) -> Option<Self> {
        let Holder::Node(node) = &end.holder else { return None };
        let address = *end.node_address()?;
        let is_of_plugin = !matches!(
            address.sort,
            AddressSort::Internal | AddressSort::External | AddressSort::Interface
        );
        is_of_plugin.then(|| Self::on_node(node, address))
    }

    fn on_node(node: &Node, address: NodeAddress) -> Self {
        let holds = |network: &&IpNet| network.contains(&address.address);
        let network = node.pod_networks.iter().find(holds).copied();
        Self::NodeAddress { node: node.name.clone(), address, network }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeAddress { node, address: NodeAddress { address, sort, basis }, network } => {
                write!(f, "{address} is node {node}'s {sort}")?;
                match (basis, network) {
                    (Basis::Convention, Some(network)) => {
                        write!(f, ", by convention of its podCIDR {network}: nothing states it")
                    }
                    _ => Ok(()),
                }
            }
            Self::HostNetwork { pod, node } => {
                let Pod { namespace, name, .. } = &**pod;
                write!(
                    f,
                    "{namespace}/{name} is in the network of node {node} (hostNetwork): for \
                     policies its packets are the node's, and no selector matches them"
                )
            }
            Self::Over { pod, finished } => {
                let Pod { namespace, name, .. } = &**pod;
                write!(
                    f,
                    "{namespace}/{name} is over ({finished}): it holds no address any more, and is \
                     judged by the labels that it had"
                )
            }
            Self::SecondNetwork { pod, network, address } => {
                let Pod { namespace, name, .. } = &**pod;
                write!(
                    f,
                    "{address} is pod {namespace}/{name}'s on network {network}: a second network, \
                     which is not governed by NetworkPolicy"
                )
            }
            Self::Known { address, known } => write!(f, "{address} is {}", known.what),
        }
    }
}
