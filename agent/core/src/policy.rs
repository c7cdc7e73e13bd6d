//! The one form that every policy kind is lowered to, and that one evaluator walks.
//!
//! A policy has a subject (the pods it governs), a layer, and rules per direction. The layers come
//! in order: [`Layer::Admin`] rules decide first, then the tiers, then [`Layer::Baseline`]; where
//! nothing decides, traffic passes. In a tier the policies that select the pod are asked in their
//! order, and what none of their rules decides meets the tier's default, which is to deny.
//!
//! Kubernetes' additive, isolating policies ([`Layer::NetworkPolicy`]) are such a tier: their rules
//! all allow, so their order decides nothing. It is Calico's tier [`DEFAULT_TIER`], in which Calico
//! gives them the order [`KUBERNETES_ORDER`]; without Calico's kinds it is the only one.
//!
//! Kinds differ only in how they are lowered: [`network_policy`], [`admin`], [`calico`].

pub mod admin;
pub mod calico;
pub mod expression;
pub mod given_label;
pub mod index;
pub(crate) mod metadata;
pub mod mute_annotation;
pub mod network_policy;
pub mod network_set;
pub mod order;
pub mod origin;
pub mod requirement;
pub mod selector;
pub mod tier;
pub mod unread;

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumDiscriminants, IntoStaticStr, VariantArray};

use crate::flow::{Direction, Protocol};
use order::Order;
use requirement::Labels;
use selector::Selector;

/// The label that the API server gives every namespace, with its name as the value.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The tier that is there in any cluster.
pub const DEFAULT_TIER: &str = "default";

/// The order that Calico gives Kubernetes' policies in [`DEFAULT_TIER`].
pub const KUBERNETES_ORDER: Order = Order::of(1000);

/// The API kind of a policy. Calico's `NetworkPolicy` has another name than Kubernetes' in records; in
/// text it has that by which `kubectl get` finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, IntoStaticStr, VariantArray)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1`.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1`.
    AdminNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1`.
    BaselineAdminNetworkPolicy,
    /// Calico's `NetworkPolicy`.
    CalicoNetworkPolicy,
    /// Calico's.
    GlobalNetworkPolicy,
    /// Calico's: what a `NetworkPolicy` of its own would do.
    StagedNetworkPolicy,
    /// Calico's: what a `GlobalNetworkPolicy` would do.
    StagedGlobalNetworkPolicy,
    /// Calico's: what a `NetworkPolicy` of Kubernetes would do.
    StagedKubernetesNetworkPolicy,
}

impl PolicyKind {
    /// Every kind.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// The kind as records spell it.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The kind for people: as `kubectl get` finds it.
    pub fn title(self) -> &'static str {
        match self {
            Self::CalicoNetworkPolicy => "NetworkPolicy.projectcalico.org",
            other => other.name(),
        }
    }

    /// Whether it is one of Calico's own kinds, whose names Calico stores otherwise than users write
    /// them.
    pub const fn is_calico(self) -> bool {
        matches!(
            self,
            Self::CalicoNetworkPolicy
                | Self::GlobalNetworkPolicy
                | Self::StagedNetworkPolicy
                | Self::StagedGlobalNetworkPolicy
        )
    }

    /// Whether its policies are only looked at by people: they decide nothing.
    pub const fn is_staged(self) -> bool {
        matches!(
            self,
            Self::StagedNetworkPolicy
                | Self::StagedGlobalNetworkPolicy
                | Self::StagedKubernetesNetworkPolicy
        )
    }
}

impl fmt::Display for PolicyKind {
    /// For people: [`PolicyKind::title`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.title())
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
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EnumDiscriminants)]
#[strum_discriminants(
    name(LayerKind),
    doc = "Where a policy stands in the order of decisions, whichever tier it is in.",
    derive(Serialize, Deserialize, JsonSchema),
    serde(rename_all = "kebab-case"),
    schemars(rename = "Layer")
)]
pub enum Layer {
    /// Ordered rules of cluster administrators, before anything else.
    Admin,
    /// Additive: a policy that selects a pod isolates it, any admitting rule lets a flow in. It is
    /// part of [`DEFAULT_TIER`].
    NetworkPolicy,
    /// Ordered rules of a Calico tier of this name, and what it does with the rest.
    Tier(Arc<str>),
    /// Ordered rules for what no tier decides.
    Baseline,
}

impl Layer {
    /// Which sort of layer.
    pub fn kind(&self) -> LayerKind {
        self.into()
    }

    /// The tier's name, of layers that are one.
    pub fn tier(&self) -> Option<&str> {
        match self {
            Self::NetworkPolicy => Some(DEFAULT_TIER),
            Self::Tier(name) => Some(name),
            Self::Admin | Self::Baseline => None,
        }
    }
}

/// A policy object, validated, defaulted and lowered.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Which object.
    pub reference: PolicyRef,
    /// Group and version that it was written in.
    pub api_version: Arc<str>,
    /// Its name in that group, where users know it by another one; only of what Calico stores.
    pub stored_as: Option<Arc<str>>,
    /// `metadata.uid`.
    pub uid: Option<Arc<str>>,
    /// `metadata.creationTimestamp`, or when a running agent first saw it.
    pub created: Option<Timestamp>,
    /// When a manager last wrote to its spec, by `metadata.managedFields`.
    pub written: Option<Timestamp>,
    /// Why what it denies is expected, see [`mute_annotation`]; `None`: nobody says that it is.
    pub mute: Option<Arc<str>>,
    /// It was created by a remedy, see [`origin`]: what it lets pass is what it was made for.
    pub is_remedy: bool,
    /// Where it stands in the order of decisions.
    pub layer: Layer,
    /// Its place within the layer.
    pub order: Order,
    /// The pods it governs.
    pub subject: PodPeer,
    /// Rules for traffic to the subject; `None`: does not govern this direction.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for traffic from the subject; `None`: does not govern this direction.
    pub egress: Option<Vec<Rule>>,
    /// Rules that are written for a direction that the policy does not say it governs: some engines
    /// apply them.
    pub undeclared: Option<(Direction, Vec<Rule>)>,
}

impl Policy {
    /// When it came to be as it is, by its own timestamps.
    pub fn last_written(&self) -> Option<Timestamp> {
        self.written.max(self.created)
    }

    /// The rules for a direction; `None`: does not govern it.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Egress => self.egress.as_deref(),
            Direction::Ingress => self.ingress.as_deref(),
        }
    }

    /// The rules that are written for a direction, also where the policy does not say that it governs
    /// it; `None`: there are none, and it does not govern it.
    pub fn written_rules(&self, direction: Direction) -> Option<&[Rule]> {
        let undeclared = self.undeclared.as_ref().filter(|(of, _)| *of == direction);
        self.rules(direction).or_else(|| undeclared.map(|(_, rules)| rules.as_slice()))
    }
}

impl Policy {
    /// The Services that its rules name.
    pub fn services(&self) -> Vec<&ServicePeer> {
        let undeclared = self.undeclared.as_ref().map(|(_, rules)| rules);
        let rules = self.ingress.iter().chain(&self.egress).chain(undeclared).flatten();
        rules.flat_map(|rule| [&rule.own, &rule.peers]).flat_map(Peers::services).collect()
    }
}

/// A rule: what to do with flows whose ends and port all match.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What its author calls it, of kinds whose rules have names.
    pub name: Option<Arc<str>>,
    /// What to do.
    pub action: Action,
    /// What it asks of the pod that the policy selects, beside being selected; only Calico's rules
    /// ask anything.
    pub own: Peers,
    /// Which other ends it is about.
    pub peers: Peers,
    /// Which ports it is about; empty: all.
    pub ports: Vec<PortMatch>,
    /// Ports that it is not about.
    pub except_ports: Vec<PortMatch>,
}

impl Rule {
    /// A rule that asks only for the other end and the port.
    pub fn new(action: Action, peers: Peers, ports: Vec<PortMatch>) -> Self {
        let (own, except_ports) = (Peers::Everyone, Vec::new());
        Self { name: None, action, own, peers, ports, except_ports }
    }

    /// The same with a name; an empty one is none.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: (!name.is_empty()).then(|| name.into()), ..self }
    }
}

impl PartialEq for Rule {
    /// Whether it does the same: what it is called changes nothing.
    fn eq(&self, other: &Self) -> bool {
        let Self { name: _, action, own, peers, ports, except_ports } = self;
        *action == other.action
            && *own == other.own
            && *peers == other.peers
            && *ports == other.ports
            && *except_ports == other.except_ports
    }
}

/// What a matching rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Display, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    /// Let the flow pass.
    Allow,
    /// Drop it.
    Deny,
    /// Leave the layer, or the tier, to the next one.
    Pass,
    /// Write it down, and go on to the next rule.
    Log,
}

/// The ends that a rule is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Peers {
    /// Absent or empty `from`/`to`: any address, in the cluster or not.
    Everyone,
    /// Any of these.
    AnyOf(Vec<Peer>),
    /// Those that are each of these.
    AllOf(Vec<Self>),
}

impl Peers {
    /// Whether an address is in one of the networks that it names.
    pub fn has_block_of(&self, address: IpAddr) -> bool {
        match self {
            Self::Everyone => false,
            Self::AllOf(all) => all.iter().any(|peers| peers.has_block_of(address)),
            Self::AnyOf(any) => any.iter().any(|peer| match peer {
                Peer::Block(block) => block.contains(address),
                _ => false,
            }),
        }
    }

    fn services(&self) -> Vec<&ServicePeer> {
        match self {
            Self::Everyone => Vec::new(),
            Self::AllOf(all) => all.iter().flat_map(Self::services).collect(),
            Self::AnyOf(any) => any
                .iter()
                .filter_map(|peer| match peer {
                    Peer::Service(service) => Some(service),
                    _ => None,
                })
                .collect(),
        }
    }
}

/// One end.
#[derive(Clone, Debug, PartialEq)]
pub enum Peer {
    /// Pods, never a node or an address outside the cluster.
    Pods(PodPeer),
    /// Pods, and addresses of network sets, with these labels.
    Members(PodPeer),
    /// Whatever is not that.
    NotMembers(PodPeer),
    /// Addresses, those of pods and nodes included.
    Block(Block),
    /// Nodes with these labels.
    Nodes(Selector),
    /// What is behind a Service; of a destination, on the Service's port.
    Service(ServicePeer),
    /// Something that the first packet of a connection cannot decide, named.
    Undecidable(Arc<str>),
}

/// Pods in namespaces: all must match.
#[derive(Clone, Debug, PartialEq)]
pub struct PodPeer {
    /// Which namespaces.
    pub namespaces: Namespaces,
    /// Which pods in them.
    pub pods: Selector,
    /// Which service accounts they run as; `None`: any.
    pub accounts: Option<Accounts>,
}

impl PodPeer {
    /// Pods of any service account.
    pub const fn new(namespaces: Namespaces, pods: Selector) -> Self {
        Self { namespaces, pods, accounts: None }
    }
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

/// Which namespaces pods are looked for in.
#[derive(Clone, Debug, PartialEq)]
pub enum Namespaces {
    /// The policy's own: a `podSelector` without a `namespaceSelector`.
    Own(Arc<str>),
    /// Those with these labels.
    Selected(Selector),
}

/// Service accounts: both must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accounts {
    /// Of these names; empty: any.
    pub names: Vec<Arc<str>>,
    /// With these labels.
    pub selector: Selector,
}

impl fmt::Display for Accounts {
    /// `service accounts a or b with labels role == 'ci'`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("service accounts")?;
        if !self.names.is_empty() {
            write!(f, " {}", self.names.join(" or "))?;
        }
        match self.selector.is_everything() {
            true => Ok(()),
            false => write!(f, " with labels {}", self.selector),
        }
    }
}

/// A Service as a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePeer {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// An `ipBlock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Addresses in this network,
    pub network: IpNet,
    /// but not in these.
    pub except: Vec<IpNet>,
}

impl Block {
    /// Whether an address is in the network, and in no exception.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.network.contains(&address)
            && !self.except.iter().any(|except| except.contains(&address))
    }
}

impl fmt::Display for Block {
    /// `10.0.0.0/8 except 10.1.0.0/16`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.network)?;
        for (index, except) in self.except.iter().enumerate() {
            let before = if index == 0 { " except " } else { ", " };
            write!(f, "{before}{except}")?;
        }
        Ok(())
    }
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
    /// None of a flow as we see them: the rule is about this other protocol, such as ICMP.
    OfProtocol(Arc<str>),
}

impl fmt::Display for PortMatch {
    /// `8080/TCP`, `30000-32767/TCP`, `http/TCP`, `any/UDP`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ports {
            PortRange::Any => write!(f, "any")?,
            PortRange::Numbers(first, last) if first == last => write!(f, "{first}")?,
            PortRange::Numbers(first, last) => write!(f, "{first}-{last}")?,
            PortRange::Named(name) => write!(f, "{name}")?,
            PortRange::OfProtocol(name) => write!(f, "any/{name}")?,
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

/// Copies labels into the core's form.
pub fn labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Labels {
    labels.into_iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect()
}
