//! Which engine enforces policies, and what it does otherwise than the API's text says.
//!
//! The same objects mean something else to another engine. What is known of each, by version, is one
//! table: [`table::PROFILES`], each cell with its source. Which engine it is, objects show
//! ([`detect`]), or the user says ([`Engine::read`]).

pub mod detect;
mod table;

use std::{fmt, str::FromStr, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr, VariantArray};

/// An engine that enforces policies, or is taken for one.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    IntoStaticStr,
    EnumString,
    VariantArray,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[strum(serialize_all = "kebab-case")]
#[serde(rename_all = "kebab-case")]
pub enum EngineName {
    /// It is not known: the API's text is what policies mean.
    #[default]
    Unknown,
    /// Calico, whichever of its data planes.
    Calico,
    /// Cilium.
    Cilium,
    /// Antrea.
    Antrea,
    /// OVN-Kubernetes.
    OvnKubernetes,
    /// OVN-Kubernetes as `OpenShift` installs it.
    Openshift,
    /// The network policy agent of AWS' VPC CNI.
    AwsVpcCni,
    /// The same, built into the nodes of EKS Auto Mode.
    EksAuto,
    /// GKE's, made of Cilium.
    GkeDataplaneV2,
    /// kube-router, as a plugin or as the part of it that K3s has built in.
    KubeRouter,
    /// kube-network-policies, by itself or in kindnet.
    KubeNetworkPolicies,
    /// flannel by itself.
    Flannel,
    /// Azure's Network Policy Manager.
    AzureNpm,
    /// Weave Net.
    Weave,
}

impl EngineName {
    /// Every engine that a name can be given of.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// As flags and records spell it.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// For people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Calico => "Calico",
            Self::Cilium => "Cilium",
            Self::Antrea => "Antrea",
            Self::OvnKubernetes => "OVN-Kubernetes",
            Self::Openshift => "OVN-Kubernetes of OpenShift",
            Self::AwsVpcCni => "AWS VPC CNI",
            Self::EksAuto => "EKS Auto Mode",
            Self::GkeDataplaneV2 => "GKE Dataplane V2",
            Self::KubeRouter => "kube-router",
            Self::KubeNetworkPolicies => "kube-network-policies",
            Self::Flannel => "flannel",
            Self::AzureNpm => "Azure NPM",
            Self::Weave => "Weave Net",
        }
    }
}

/// Major and minor version of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(pub u16, pub u16);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A version that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a version such as 1.18 or v3.30.2, found {0:?}")]
pub struct UnknownVersion(String);

impl FromStr for Version {
    type Err = UnknownVersion;

    /// The first two numbers of `v3.30.2`, `1.18`, `v1.36.1-gke.100`.
    fn from_str(text: &str) -> Result<Self, UnknownVersion> {
        let unknown = || UnknownVersion(text.to_owned());
        let mut numbers = text.strip_prefix('v').unwrap_or(text).split(['.', '-', '+']);
        let mut number = || numbers.next()?.parse().ok();
        match (number(), number()) {
            (Some(major), Some(minor)) => Ok(Self(major, minor)),
            _ => Err(unknown()),
        }
    }
}

/// Who enforces policies, as far as is known, and by what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Engine {
    /// Which.
    pub name: EngineName,
    /// Its version, if that is known.
    pub version: Option<Version>,
    /// Whether it has been set up to enforce policies, where it does so only then; `None`: it is not
    /// known.
    pub is_switched_on: Option<bool>,
    /// How it is known: `--engine`, `DaemonSet kube-system/cilium`. Of an unknown one, why it is not.
    pub evidence: Arc<str>,
}

/// A name of an engine that nobody has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownEngine {
    /// The name.
    #[error("expected one of {}, found {found:?}", names())]
    Name {
        /// What was given.
        found: String,
    },
    /// The version behind it.
    #[error("{0}")]
    Version(#[from] UnknownVersion),
}

fn names() -> String {
    let names: Vec<&str> = EngineName::ALL.iter().map(|engine| engine.name()).collect();
    names.join(", ")
}

/// Other names by which an engine goes.
const ALIASES: [(&str, EngineName); 5] = [
    ("kubernetes", EngineName::Unknown),
    ("kindnet", EngineName::KubeNetworkPolicies),
    ("canal", EngineName::Calico),
    ("gke", EngineName::GkeDataplaneV2),
    ("ovn", EngineName::OvnKubernetes),
];

impl Engine {
    /// Reads `NAME[@VERSION]`, as flags and the agent's configuration have it. One that enforces only
    /// when it is set up so is taken as set up, but for [`EngineName::EksAuto`]: that is its own name.
    ///
    /// # Errors
    /// A name that no engine has, with those that there are; a version that is none.
    pub fn read(text: &str) -> Result<Self, UnknownEngine> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version.parse()?)),
            None => (text, None),
        };
        let lower = name.to_ascii_lowercase();
        let alias = ALIASES.iter().find(|(alias, _)| *alias == lower).map(|(_, engine)| *engine);
        let known = alias.or_else(|| EngineName::from_str(&lower).ok());
        let name = known.ok_or_else(|| UnknownEngine::Name { found: name.to_owned() })?;
        let is_switched_on = Some(name != EngineName::EksAuto);
        Ok(Self { name, version, is_switched_on, evidence: "--engine".into() })
    }

    /// As [`Self::read`] reads it.
    pub fn written(&self) -> String {
        match self.version {
            Some(version) => format!("{}@{version}", self.name.name()),
            None => self.name.name().to_owned(),
        }
    }

    /// What it does.
    pub fn profile(&self) -> Profile {
        let profile = table::profile(self.name, self.version);
        let policies = match (profile.policies, self.is_switched_on) {
            (Enforced::IfSwitchedOn, Some(true)) => Enforced::Yes,
            (Enforced::IfSwitchedOn, Some(false)) => Enforced::No,
            // Whether it has been set up so could not be read.
            (Enforced::IfSwitchedOn, None) => Enforced::NotSaid,
            (other, _) => other,
        };
        Profile { policies, ..profile }
    }
}

impl fmt::Display for Engine {
    /// `Calico 3.30`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name.title())?;
        match self.version {
            Some(version) => write!(f, " {version}"),
            None => Ok(()),
        }
    }
}

/// What an engine does, cell by cell of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Whether it enforces `NetworkPolicy`.
    pub policies: Enforced,
    /// Whether it enforces `AdminNetworkPolicy` and `BaselineAdminNetworkPolicy`.
    pub admin_policies: Enforced,
    /// Whether it enforces `ClusterNetworkPolicy` of `policy.networking.k8s.io`.
    pub cluster_policies: Enforced,
    /// Whom an `ipBlock` matches.
    pub blocks: Blocks,
    /// Whether egress is judged by the address that was dialled.
    pub egress: Translation,
    /// What becomes of a packet that they deny.
    pub denied: Denied,
    /// What an open connection sees of a change.
    pub judged: Judged,
    /// What passes between a pod and its own node whatever the policies say.
    pub own_node: OwnNode,
    /// What a pod sends to itself through a Service.
    pub hairpin: Hairpin,
    /// What a peer in a node's network is to selectors.
    pub host_network: HostNetwork,
    /// Which of several policies of equal order comes first.
    pub equals: Equals,
    /// What becomes of rules of a direction that `policyTypes` leaves out.
    pub undeclared: Undeclared,
}

/// Whether an engine enforces a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforced {
    /// It does.
    Yes,
    /// It does not: objects of the kind are accepted, and change nothing.
    No,
    /// Only where it has been set up so, which it is not by default.
    IfSwitchedOn,
    /// It differs by engine, version or set-up, and which of them it is is not known: taken as
    /// enforced.
    NotSaid,
}

impl Enforced {
    /// Whether objects of the kind are in force, as far as is known.
    pub const fn is_in_force(self) -> bool {
        matches!(self, Self::Yes | Self::NotSaid)
    }
}

/// Whom an `ipBlock` matches, besides addresses outside the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// Any address in it, pods' and nodes' as well.
    Everyone,
    /// No pod and no node of the cluster.
    OutsideOnly,
}

/// Whether egress is judged before or after a Service's address is translated to a backend's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// By the address that the client dialled.
    Before,
    /// By the backend's address.
    After,
}

/// What becomes of a packet that policies deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It is dropped in silence.
    Dropped,
    /// Its sender hears of it at once (ICMP, port unreachable).
    Rejected,
}

/// What an open connection sees of a change of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// Nothing: its first packet was judged.
    Connections,
    /// The change: every packet is judged again.
    Packets,
    /// It is not said.
    NotSaid,
}

/// What passes between a pod and the node it runs on whatever the policies say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnNode {
    /// Both directions.
    Exempt,
    /// From the node to the pod; what the pod sends to its node is policed.
    ExemptToPod,
}

/// What becomes of what a pod sends to itself through a Service: it leaves the pod, and comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hairpin {
    /// It passes.
    Exempt,
    /// Policies are asked, as of anything else that leaves a pod.
    Policed,
}

/// What a peer in a node's network is to selectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostNetwork {
    /// No pod: none matches it.
    Node,
    /// One of this namespace, if that is there, for peers that ask for namespaces alone.
    Namespace(&'static str),
}

/// Which of several policies of equal order is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Equals {
    /// The order of policies decides nothing.
    NoOrder,
    /// It is by name.
    ByName,
    /// It is not defined.
    NotSaid,
}

/// What becomes of rules of a direction that `policyTypes` leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undeclared {
    /// They are ignored: the policy does not govern that direction.
    Ignored,
    /// They apply, and isolate the pods in that direction.
    Applied,
}

impl Default for Profile {
    /// That of the API's text.
    fn default() -> Self {
        table::profile(EngineName::Unknown, None)
    }
}

/// Every row of the table: an engine, from which version on, and what it does.
pub fn rows() -> impl Iterator<Item = (EngineName, Option<Version>, &'static Profile)> {
    table::PROFILES.iter().map(|row| (row.engine, row.since, &row.profile))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_read_by_name_and_version() {
        let read = |text: &str| Engine::read(text).map(|e| (e.name, e.version));
        assert_eq!(read("calico"), Ok((EngineName::Calico, None)));
        assert_eq!(read("calico@v3.30.2"), Ok((EngineName::Calico, Some(Version(3, 30)))));
        assert_eq!(read("Cilium@1.18"), Ok((EngineName::Cilium, Some(Version(1, 18)))));
        assert_eq!(read("kindnet"), Ok((EngineName::KubeNetworkPolicies, None)));
        let error = |text: &str| Engine::read(text).unwrap_err().to_string();
        assert!(error("romana").starts_with("expected one of unknown, calico, cilium"));
        assert_eq!(
            error("calico@new"),
            "expected a version such as 1.18 or v3.30.2, found \"new\""
        );
    }

    #[test]
    fn every_engine_has_a_row_and_the_later_ones_come_first() {
        for engine in EngineName::ALL {
            let since: Vec<_> = rows().filter(|row| row.0 == *engine).map(|row| row.1).collect();
            assert!(!since.is_empty(), "{}", engine.name());
            let versions: Vec<_> = since.iter().flatten().collect();
            assert!(versions.windows(2).all(|pair| pair[0] > pair[1]), "{}", engine.name());
            assert_eq!(since.last(), Some(&None), "{}: what is true of any version", engine.name());
        }
    }

    #[test]
    fn the_cells_that_people_ask_about() {
        let profile = |text: &str| Engine::read(text).expect("an engine").profile();
        for (text, admin, cluster) in [
            ("unknown", Enforced::NotSaid, Enforced::NotSaid),
            ("calico@3.28", Enforced::No, Enforced::No),
            ("calico@3.29", Enforced::Yes, Enforced::No),
            ("calico@3.31", Enforced::Yes, Enforced::No),
            ("calico@3.32", Enforced::No, Enforced::Yes),
            ("calico@3.33", Enforced::No, Enforced::Yes),
            ("calico", Enforced::NotSaid, Enforced::NotSaid),
            ("cilium@1.18", Enforced::No, Enforced::No),
            ("cilium@1.20", Enforced::No, Enforced::IfSwitchedOn),
            ("antrea", Enforced::IfSwitchedOn, Enforced::IfSwitchedOn),
            ("ovn-kubernetes", Enforced::Yes, Enforced::No),
            ("gke@1.36", Enforced::No, Enforced::Yes),
            ("gke@1.34", Enforced::No, Enforced::No),
            ("flannel", Enforced::No, Enforced::No),
        ] {
            let found = profile(text);
            assert_eq!((found.admin_policies, found.cluster_policies), (admin, cluster), "{text}");
        }
        for (text, enforced) in [
            ("unknown", true),
            ("calico", true),
            ("aws-vpc-cni", true),
            ("eks-auto", false),
            ("flannel", false),
        ] {
            assert_eq!(profile(text).policies.is_in_force(), enforced, "{text}");
        }
        let outside_only = |text: &str| profile(text).blocks == Blocks::OutsideOnly;
        assert!(outside_only("cilium") && outside_only("gke") && !outside_only("calico"));
    }
}
