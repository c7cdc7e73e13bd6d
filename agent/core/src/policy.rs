//! The one form that every policy kind is lowered to, and that one evaluator walks.
//!
//! A policy has a subject (the pods it governs), a layer, and rules per direction. The layers come
//! in order: [`Layer::Admin`] rules decide first, then the additive, isolating
//! [`Layer::NetworkPolicy`], then [`Layer::Baseline`]; where nothing decides, traffic passes.
//! Kinds differ only in how they are lowered: [`network_policy`], [`admin`].

pub mod admin;
pub mod evaluate;
pub mod index;
pub mod matching;
pub mod nearest;
pub mod network_policy;
pub mod selector;

use std::{fmt, sync::Arc};

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::flow::{Direction, Protocol};
use selector::{Labels, Selector};

/// The label that the API server gives every namespace, with its name as the value.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The API kind of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1`.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1`.
    AdminNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1`.
    BaselineAdminNetworkPolicy,
}

impl PolicyKind {
    /// Every kind.
    pub const ALL: [Self; 3] =
        [Self::NetworkPolicy, Self::AdminNetworkPolicy, Self::BaselineAdminNetworkPolicy];

    /// The kind as manifests spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::AdminNetworkPolicy => "AdminNetworkPolicy",
            Self::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
        }
    }

    /// The group and version of the kind.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::AdminNetworkPolicy | Self::BaselineAdminNetworkPolicy => {
                "policy.networking.k8s.io/v1alpha1"
            }
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Names one policy object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyRef {
    /// Its kind.
    pub kind: PolicyKind,
    /// Its namespace; none for cluster-scoped kinds.
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for PolicyRef {
    /// `NAMESPACE/NAME`, or the name alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Where a policy stands in the order of decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layer {
    /// Ordered rules of cluster administrators, before anything else.
    Admin,
    /// Additive: a policy that selects a pod isolates it, any admitting rule lets a flow in.
    NetworkPolicy,
    /// Ordered rules for what no `NetworkPolicy` isolates.
    Baseline,
}

/// A policy object, validated, defaulted and lowered.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Which object.
    pub reference: PolicyRef,
    /// `metadata.uid`.
    pub uid: Option<Arc<str>>,
    /// `metadata.creationTimestamp`, or when a running agent first saw it.
    pub created: Option<Timestamp>,
    /// When a manager last wrote to its spec, by `metadata.managedFields`.
    pub written: Option<Timestamp>,
    /// Where it stands in the order of decisions.
    pub layer: Layer,
    /// Order within an ordered layer, lowest first; 0 in the additive one.
    pub priority: i32,
    /// The pods it governs.
    pub subject: PodPeer,
    /// Rules for traffic to the subject; `None`: does not govern this direction.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for traffic from the subject; `None`: does not govern this direction.
    pub egress: Option<Vec<Rule>>,
}

impl Policy {
    /// The rules for a direction; `None`: does not govern it.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Egress => self.egress.as_deref(),
            Direction::Ingress => self.ingress.as_deref(),
        }
    }
}

/// A rule: what to do with flows whose peer and port both match.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// What to do.
    pub action: Action,
    /// Which other ends it is about.
    pub peers: Peers,
    /// Which ports it is about; empty: all.
    pub ports: Vec<PortMatch>,
}

/// What a matching rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Let the flow pass.
    Allow,
    /// Drop it.
    Deny,
    /// Leave the layer to the next one.
    Pass,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
            Self::Pass => "Pass",
        })
    }
}

/// The other ends that a rule is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Peers {
    /// Absent or empty `from`/`to`: any address, in the cluster or not.
    Everyone,
    /// Any of these.
    AnyOf(Vec<Peer>),
}

/// One other end.
#[derive(Clone, Debug, PartialEq)]
pub enum Peer {
    /// Pods, never a node or an address outside the cluster.
    Pods(PodPeer),
    /// Addresses, those of pods and nodes included.
    Block(Block),
    /// Nodes with these labels.
    Nodes(Selector),
    /// Something that the first packet of a connection cannot decide, named.
    Undecidable(Arc<str>),
}

/// Pods in namespaces: both must match.
#[derive(Clone, Debug, PartialEq)]
pub struct PodPeer {
    /// Which namespaces.
    pub namespaces: Namespaces,
    /// Which pods in them.
    pub pods: Selector,
}

/// Which namespaces pods are looked for in.
#[derive(Clone, Debug, PartialEq)]
pub enum Namespaces {
    /// The policy's own: a `podSelector` without a `namespaceSelector`.
    Own(Arc<str>),
    /// Those with these labels.
    Selected(Selector),
}

/// An `ipBlock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Addresses in this network,
    pub network: IpNet,
    /// but not in these.
    pub except: Vec<IpNet>,
}

/// A port that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMatch {
    /// `None`: any protocol (an admin policy's named port).
    pub protocol: Option<Protocol>,
    /// Which ports of it.
    pub ports: PortRange,
}

/// Which ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortRange {
    /// All of the protocol.
    Any,
    /// From the first to the last, both included.
    Numbers(u16, u16),
    /// The destination pod's container port of this name and of the flow's protocol.
    Named(Arc<str>),
}

impl fmt::Display for PortMatch {
    /// `8080/TCP`, `30000-32767/TCP`, `http/TCP`, `any/UDP`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ports {
            PortRange::Any => write!(f, "any")?,
            PortRange::Numbers(first, last) if first == last => write!(f, "{first}")?,
            PortRange::Numbers(first, last) => write!(f, "{first}-{last}")?,
            PortRange::Named(name) => write!(f, "{name}")?,
        }
        match self.protocol {
            Some(protocol) => write!(f, "/{protocol}"),
            None => Ok(()),
        }
    }
}

/// A rule of a policy, by its index in the policy as written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleRef {
    /// The policy.
    pub policy: PolicyRef,
    /// 0-based index in `ingress` or `egress`.
    pub rule: usize,
}

/// When a manager last wrote to an object's spec, by its managed fields: what a status or an
/// annotation says decides nothing.
///
/// <https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management>
pub(crate) fn spec_written(metadata: &ObjectMeta) -> Option<Timestamp> {
    let managers = metadata.managed_fields.iter().flatten();
    let of_spec = managers.filter(|manager| {
        let fields = manager.fields_v1.as_ref().map(|fields| &fields.0);
        fields.is_some_and(|fields| fields.get("f:spec").is_some())
    });
    of_spec.filter_map(|manager| manager.time.as_ref().map(|time| time.0)).max()
}

/// Copies labels into the core's form.
pub fn labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Labels {
    labels.into_iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect()
}
