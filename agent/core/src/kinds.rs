//! The kinds of objects that verdicts depend on: one row each, which is all that the rest knows of a
//! kind. By it the API server is followed and asked, manifests are decoded, remedies are written and
//! healed; tests hold the rights in `deploy/` and the README's table against it.

mod decode;
mod table;

use std::cmp::Ordering;

use serde_json::Value;

use crate::{
    cluster::{
        Engine,
        object::{Kind, Object},
    },
    policy::PolicyKind,
    problem::Problem,
};

/// A kind of the API.
#[derive(Debug)]
pub struct KindRow {
    /// The groups and versions that its objects can be read in, as `apiVersion` spells them. The API
    /// server is asked for the first; the others are taken from manifests.
    pub api_versions: &'static [&'static str],
    /// Its name in its group.
    pub kind: &'static str,
    /// The same in URLs and in RBAC.
    pub plural: &'static str,
    /// What an object of it concerns.
    pub scope: Scope,
    /// Who enforces where this kind is served.
    pub engine: Engine,
    /// What it is to a verdict.
    pub role: Role,
    /// Whether remedies are written as objects of this kind.
    pub is_remedy: bool,
    /// How its objects are read; `None`: they cannot be.
    pub decoder: Option<Decoder>,
}

/// What an object of a kind concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// It is in no namespace, and concerns all.
    Cluster,
    /// It is in a namespace, and concerns the pods of this one.
    Namespace,
    /// It is in a namespace, and policies of any may name it.
    AnyNamespace,
}

/// What a kind is to a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Who holds which address, and what policies select by.
    Object,
    /// The same, of which there may be too many to follow: looked up when a drop names one.
    LookedUp,
    /// The same, which no API server serves: it is read from manifests alone.
    Given,
    /// What pods to come are made of: read from manifests, and for a question that is about it. An agent
    /// judges pods that are there.
    Template,
    /// A policy, or what a policy rests on: one that cannot be read may have decided.
    Policy,
    /// A policy that decides nothing: it is reported what it would deny.
    Staged,
    /// A policy of a kind that cannot be read: it is only counted, because it may decide.
    Unread,
}

/// How objects of a kind are read.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// What they become.
    pub kind: Kind,
    /// From the object and its `apiVersion`; the error is the first field that the API server, or the
    /// engine, would refuse.
    decode: fn(Value, &str) -> Result<Object, Problem>,
}

impl KindRow {
    /// The `apiVersion` that the API server is asked for.
    pub const fn api_version(&self) -> &'static str {
        self.api_versions[0]
    }

    /// The API group of this `apiVersion`; empty: the core's.
    pub fn group(&self) -> &'static str {
        group_of(self.api_version())
    }

    /// Its version in this group.
    pub fn version(&self) -> &'static str {
        let api_version = self.api_version();
        api_version.split_once('/').map_or(api_version, |(_, version)| version)
    }

    /// What its objects become; `None`: they cannot be read.
    pub fn reads(&self) -> Option<Kind> {
        self.decoder.map(|decoder| decoder.kind)
    }

    /// Whether an object of it that cannot be read may have decided a verdict.
    pub fn decides(&self) -> bool {
        matches!(self.role, Role::Policy | Role::Unread)
    }

    /// Whether an agent follows all its objects, or those of its node.
    pub fn is_followed(&self) -> bool {
        !matches!(self.role, Role::LookedUp | Role::Given | Role::Template)
    }

    /// For people: `NetworkPolicy`, `cilium.io/v2 CiliumNetworkPolicy`.
    pub fn name(&self) -> String {
        match self.reads() {
            Some(kind) => kind.to_string(),
            None => format!("{} {}", self.api_version(), self.kind),
        }
    }

    /// Reads an object of this kind, written in one of its `api_versions`; `None`: none of it can be
    /// read.
    ///
    /// # Errors
    /// The first field that the API server, or the engine, would refuse.
    pub fn decode(&self, object: Value, api_version: &str) -> Result<Option<Object>, Problem> {
        self.decoder.map(|decoder| (decoder.decode)(object, api_version)).transpose()
    }

    fn key(&self) -> (&'static str, &'static str) {
        (self.api_version(), self.kind)
    }
}

impl PartialEq for KindRow {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for KindRow {}

impl PartialOrd for KindRow {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for KindRow {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// Every kind.
pub fn all() -> impl Iterator<Item = &'static KindRow> {
    table::ROWS.iter()
}

/// Every kind whose objects an agent reads.
pub fn of_agents() -> impl Iterator<Item = Kind> {
    all().filter(|row| row.role != Role::Template).filter_map(KindRow::reads)
}

/// The row of a kind whose objects are read.
///
/// # Panics
/// Never: a test of this room asks for each.
pub fn of(kind: Kind) -> &'static KindRow {
    all().find(|row| row.reads() == Some(kind)).expect("a row of each kind")
}

/// The row of a policy kind.
pub fn of_policy(kind: PolicyKind) -> &'static KindRow {
    of(Kind::Policy(kind))
}

/// The row of an object, by how it names its type.
pub fn named(api_version: &str, kind: &str) -> Option<&'static KindRow> {
    all().find(|row| row.kind == kind && row.api_versions.contains(&api_version))
}

/// Whether an object that no row is about is a policy of an engine that we know, such as one of a
/// version to come: it may decide. Staged ones enforce nothing.
pub fn may_decide(api_version: &str, kind: &str) -> bool {
    let is_named_so = kind.ends_with("NetworkPolicy") && !kind.starts_with("Staged");
    of_group(api_version).any(|row| row.decides() && (row.kind == kind || is_named_so))
}

/// Who enforces where these kinds are served.
pub fn engine<'a>(served: impl IntoIterator<Item = &'a KindRow>) -> Engine {
    let mut engines = served.into_iter().map(|row| row.engine);
    engines.find(|engine| *engine != Engine::Standard).unwrap_or_default()
}

/// Who enforces where there is an object of this group, be it of a kind that we read or not.
pub fn engine_of(api_version: &str) -> Engine {
    engine(of_group(api_version))
}

fn of_group(api_version: &str) -> impl Iterator<Item = &'static KindRow> {
    let group = group_of(api_version);
    all().filter(move |row| row.api_versions.iter().any(|known| group_of(known) == group))
}

fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cluster::object::WorkloadKind;

    #[test]
    fn every_kind_that_is_read_has_one_row() {
        let read: Vec<Kind> = all().filter_map(KindRow::reads).collect();
        let distinct: BTreeSet<Kind> = read.iter().copied().collect();
        assert_eq!(distinct.len(), read.len(), "a kind has two rows");
        let templates = WorkloadKind::ALL.iter().copied().map(Kind::Template);
        for kind in PolicyKind::ALL.iter().copied().map(Kind::Policy).chain(templates) {
            assert!(distinct.contains(&kind), "{kind} has no row");
        }
        for kind in distinct {
            assert_eq!(of(kind).reads(), Some(kind));
        }
    }

    #[test]
    fn an_object_is_of_one_row_at_most() {
        let mut names = BTreeSet::new();
        for row in all() {
            assert!(!row.api_versions.is_empty(), "{} is in no version", row.kind);
            for api_version in row.api_versions {
                assert!(names.insert((*api_version, row.kind)), "{api_version} {}", row.kind);
            }
        }
    }

    #[test]
    fn a_role_says_what_can_be_read() {
        for row in all() {
            let name = row.name();
            assert_eq!(row.role == Role::Unread, row.decoder.is_none(), "{name}");
            let is_staged = matches!(row.reads(), Some(Kind::Policy(kind)) if kind.is_staged());
            assert_eq!(row.role == Role::Staged, is_staged, "{name}");
            let is_policy = matches!(row.reads(), Some(Kind::Policy(_)));
            assert!(!row.is_remedy || (is_policy && row.scope == Scope::Namespace), "{name}");
        }
    }

    #[test]
    fn policies_of_other_kinds_and_versions_may_decide() {
        for (api_version, kind) in [
            ("networking.k8s.io/v2", "NetworkPolicy"),
            ("policy.networking.k8s.io/v1beta9", "ClusterNetworkPolicy"),
            ("projectcalico.org/v4", "Tier"),
            ("cilium.io/v3", "CiliumNetworkPolicy"),
            ("crd.antrea.io/v1alpha1", "NetworkPolicy"),
        ] {
            assert!(named(api_version, kind).is_none(), "{api_version} {kind}");
            assert!(may_decide(api_version, kind), "{api_version} {kind}");
        }
        for (api_version, kind) in [
            ("v1", "ConfigMap"),
            ("networking.k8s.io/v1", "Ingress"),
            ("projectcalico.org/v3", "IPPool"),
            ("projectcalico.org/v4", "StagedNetworkPolicy"),
            ("example.com/v1", "NetworkPolicy"),
        ] {
            assert!(!may_decide(api_version, kind), "{api_version} {kind}");
        }
    }

    #[test]
    fn any_object_of_an_engines_groups_is_there_for_it() {
        assert_eq!(engine_of("projectcalico.org/v3"), Engine::Calico);
        assert_eq!(engine_of("crd.projectcalico.org/v9"), Engine::Calico);
        assert_eq!(engine_of("networking.k8s.io/v1"), Engine::Standard);
        assert_eq!(engine_of("v1"), Engine::Standard);
    }
}
