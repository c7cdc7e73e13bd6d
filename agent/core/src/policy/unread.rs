//! Policies that this version does not read: what they may do to a flow, as far as their objects say.
//!
//! Nothing here decides. A kind says how far its objects reach at most; an object narrows that by its
//! namespace, its selectors and the directions that it has rules for. What cannot be read of it narrows
//! nothing: it may select every pod that it could.

mod admin;
mod antrea;
mod cilium;
mod egress_firewall;
mod others;
mod written;

use std::{fmt, sync::Arc};

use ipnet::IpNet;

use super::{Namespaces, PodPeer, selector::Selector};
use crate::flow::Direction;
pub use admin::{by_subject, cluster_network_policy};
pub use antrea::antrea;
pub use cilium::{cilium, cilium_clusterwide};
pub use egress_firewall::egress_firewall;
pub use others::{
    application_network_policy, by_calico_selector, by_pod_selector, external_route, fqdn,
    host_endpoint, istio, linkerd, linkerd_server, second_network,
};

/// A policy that is not read.
#[derive(Clone, Debug, PartialEq)]
pub struct Unread {
    /// Its kind, as counts name it: `cilium.io/v2 CiliumNetworkPolicy`.
    pub kind: Arc<str>,
    /// Its kind, as people ask for it: `EgressFirewall`, `ClusterNetworkPolicy.crd.antrea.io`.
    pub label: Arc<str>,
    /// Its namespace, if it is in one.
    pub namespace: Option<Arc<str>>,
    /// Its name; `None`: objects of this kind could not be listed, so that there may be any.
    pub name: Option<Arc<str>>,
    /// Who reads it.
    pub family: Family,
    /// What it may do.
    pub reach: Reach,
}

/// Who reads policies of a kind: to other engines they are objects without effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Any engine, or something beside it, such as a mesh.
    Any,
    /// `ClusterNetworkPolicy`: engines that implement it.
    ClusterNetworkPolicy,
    /// Cilium, and what is made of it.
    Cilium,
    /// Antrea.
    Antrea,
    /// OVN-Kubernetes.
    OvnKubernetes,
    /// The plugin that `OpenShift` had before OVN-Kubernetes.
    OpenshiftSdn,
    /// AWS' agent.
    Aws,
    /// GKE's data plane.
    Gke,
    /// Calico.
    Calico,
}

impl Unread {
    /// The namespace whose pods alone it may be about; `None`: those of any, or nodes.
    pub fn over(&self) -> Option<&Arc<str>> {
        let mut namespaces = self.reach.subjects.iter().map(|subject| match subject {
            Subject::Pods(PodPeer { namespaces: Namespaces::Own(own), .. }) => Some(own),
            _ => None,
        });
        let first = namespaces.next()??;
        namespaces.all(|other| other == Some(first)).then_some(first)
    }
}

impl fmt::Display for Unread {
    /// `EgressFirewall forms/default`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, namespace, name, .. } = self;
        match (namespace, name) {
            (Some(namespace), Some(name)) => write!(f, "{label} {namespace}/{name}"),
            (None, Some(name)) => write!(f, "{label} {name}"),
            (Some(namespace), None) => {
                write!(f, "{label} objects in {namespace}, which could not be listed,")
            }
            (None, None) => write!(f, "{label} objects, which could not be listed,"),
        }
    }
}

/// How far a policy reaches at most.
#[derive(Clone, Debug, PartialEq)]
pub struct Reach {
    /// What it is about.
    pub bearing: Bearing,
    /// The ends that it may govern.
    pub subjects: Vec<Subject>,
    /// What it may do to what leaves these ends.
    pub egress: Sway,
    /// What it may do to what is sent to these ends.
    pub ingress: Sway,
    /// It is asked only where no `NetworkPolicy` isolates the pod in this direction.
    pub is_baseline: bool,
}

/// What a policy is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bearing {
    /// The first packet of a connection.
    FirstPacket,
    /// What is sent once the connection is there, as a service mesh judges it.
    Requests,
    /// Networks other than the cluster's own, to which pods are attached besides.
    SecondNetworks,
    /// By which gateway packets leave the cluster.
    WayOut,
}

/// Ends that a policy may govern.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    /// Pods.
    Pods(PodPeer),
    /// Nodes with these labels: what runs in their network.
    Nodes(Selector),
    /// The node of this name.
    Node(Arc<str>),
}

/// What a policy may do to a flow in one direction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sway {
    /// It may let pass what `NetworkPolicies` deny, of flows with these other ends.
    pub allows: Option<Ends>,
    /// It may deny what they let pass, of flows with these other ends.
    pub denies: Option<Ends>,
}

/// Other ends of flows.
#[derive(Clone, Debug, PartialEq)]
pub enum Ends {
    /// Any.
    Any,
    /// Those that are no pods of the cluster: nodes, and addresses outside of it.
    Outside,
    /// Those of them that are in these networks.
    OutsideIn(Vec<IpNet>),
}

impl Sway {
    /// None.
    pub const NONE: Self = Self { allows: None, denies: None };
    /// Of any flow.
    pub const EITHER: Self = Self { allows: Some(Ends::Any), denies: Some(Ends::Any) };
    /// It can only take away.
    pub const DENIES: Self = Self { allows: None, denies: Some(Ends::Any) };

    /// A policy that allows some, denies some, or both.
    fn of(allows: bool, denies: bool) -> Self {
        Self { allows: allows.then_some(Ends::Any), denies: denies.then_some(Ends::Any) }
    }

    fn or(self, other: Self) -> Self {
        Self { allows: self.allows.or(other.allows), denies: self.denies.or(other.denies) }
    }
}

impl Reach {
    /// Of a policy of which nothing more is known than where it is.
    pub fn widest(namespace: Option<&Arc<str>>) -> Self {
        Self {
            bearing: Bearing::FirstPacket,
            subjects: vec![Subject::Pods(all_pods(namespace))],
            egress: Sway::EITHER,
            ingress: Sway::EITHER,
            is_baseline: false,
        }
    }

    /// What it may do in a direction.
    pub fn sway(&self, direction: Direction) -> &Sway {
        match direction {
            Direction::Egress => &self.egress,
            Direction::Ingress => &self.ingress,
        }
    }
}

/// All pods of a namespace, or of the cluster.
fn all_pods(namespace: Option<&Arc<str>>) -> PodPeer {
    pods(namespace, Selector::EVERYTHING)
}

/// Pods with these labels, of a namespace or of the cluster.
fn pods(namespace: Option<&Arc<str>>, pods: Selector) -> PodPeer {
    let namespaces = match namespace {
        Some(own) => Namespaces::Own(own.clone()),
        None => Namespaces::Selected(Selector::EVERYTHING),
    };
    PodPeer::new(namespaces, pods)
}
