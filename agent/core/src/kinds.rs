//! The kinds of objects that verdicts depend on: one row each, which is all that the rest knows of a
//! kind. By it the API server is followed and asked, manifests are decoded, remedies are written and
//! healed; tests hold the rights in `deploy/` and the README's table against it.

mod decode;
pub mod served;
mod table;

use std::{cmp::Ordering, collections::BTreeSet, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use crate::{
    cluster::object::{Kind, Object},
    policy::{
        PolicyKind, calico,
        unread::{Family, Reach, Unread},
    },
    problem::Problem,
};

/// A kind of the API.
#[derive(Debug)]
pub struct KindRow {
    /// The groups and versions that its objects can be read in, as `apiVersion` spells them. The API
    /// server is asked for the first of them that it serves.
    pub api_versions: &'static [&'static str],
    /// Its name in its group.
    pub kind: &'static str,
    /// The same in URLs and in RBAC.
    pub plural: &'static str,
    /// What an object of it concerns.
    pub scope: Scope,
    /// What it is to a verdict.
    pub role: Role,
    /// Whether remedies are written as objects of this kind.
    pub is_remedy: bool,
    /// How its objects are read; `None`: they cannot be.
    pub decoder: Option<Decoder>,
    /// How far an object that is not read may reach; `None`: as far as a policy can from where it is.
    pub reach: Option<fn(&Value) -> Reach>,
    /// Which engines read what of this kind is not read here.
    pub family: Family,
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
    /// What makes something connect to pods, by which a flow is known for what it is: read from
    /// manifests, and for a question; the API server's own also when a drop cuts it off. It decides
    /// nothing, and no agent follows it.
    Caller,
    /// A policy, or what a policy rests on: one that cannot be read may have decided.
    Policy,
    /// A policy that decides nothing: it is reported what it would deny.
    Staged,
    /// A policy of a kind that is not read: where it may decide, the verdict is unknown.
    Unread,
    /// What decides nothing of a connection's first packet and is not read: it is remarked on.
    Remarked,
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
    /// The `apiVersion` that the API server is asked for first.
    pub const fn api_version(&self) -> &'static str {
        self.api_versions[0]
    }

    /// The API group of this `apiVersion`; empty: the core's.
    pub fn group(&self) -> &'static str {
        group_of(self.api_version())
    }

    /// The API groups of all its versions.
    pub fn groups(&self) -> BTreeSet<&'static str> {
        self.api_versions.iter().copied().map(group_of).collect()
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
        let is_not = matches!(
            self.role,
            Role::LookedUp | Role::Given | Role::Template | Role::Remarked | Role::Caller
        );
        !is_not
    }

    /// For people: `NetworkPolicy`, `cilium.io/v2 CiliumNetworkPolicy`.
    pub fn name(&self) -> String {
        match self.reads() {
            Some(kind) => kind.name().to_owned(),
            None => format!("{} {}", self.api_version(), self.kind),
        }
    }

    /// As people ask for it, and `kubectl get` knows it: `EgressFirewall`, and with its group where
    /// another group has a kind of this name: `ClusterNetworkPolicy.crd.antrea.io`.
    pub fn label(&self) -> String {
        let is_kubernetes = KUBERNETES_GROUPS.contains(&self.group());
        let mut others = all().filter(|other| other.kind == self.kind && *other != self);
        match self.reads() {
            Some(kind) => kind.to_string(),
            None if is_kubernetes || others.next().is_none() => self.kind.to_owned(),
            None => format!("{}.{}", self.kind, self.group()),
        }
    }

    /// Objects of this kind that could not be listed, in a namespace or at all.
    pub fn unlisted(&self, namespace: Option<&str>) -> Unread {
        let namespace: Option<Arc<str>> = namespace.map(Into::into);
        let object =
            json!({ "kind": self.kind, "metadata": { "namespace": namespace.as_deref() } });
        let widest = Reach::widest(namespace.as_ref());
        let mut reach = self.reach.map_or_else(|| widest.clone(), |reach| reach(&object));
        if namespace.is_none() && self.scope != Scope::Cluster {
            // There may be some in any namespace.
            reach.subjects = widest.subjects;
        }
        let (kind, label) = (self.name().into(), self.label().into());
        Unread { kind, label, namespace, name: None, family: self.family, reach }
    }

    /// Reads an object of this kind, written in one of its `api_versions`; `None`: none of it can be
    /// read.
    ///
    /// # Errors
    /// The first field that the API server, or the engine, would refuse.
    pub fn decode(&self, object: Value, api_version: &str) -> Result<Option<Object>, Problem> {
        self.decoder.map(|decoder| (decoder.decode)(object, api_version)).transpose()
    }

    /// The name by which an object of it is known here, of its metadata.
    pub fn name_in_key(&self, metadata: &ObjectMeta) -> Option<Arc<str>> {
        let is_calico = matches!(
            self.reads(),
            Some(Kind::Policy(kind)) if kind.is_calico()
        );
        match is_calico {
            true => calico::name_of(metadata),
            false => metadata.name.as_deref().map(Into::into),
        }
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
    let is_of_agents = |row: &&KindRow| !matches!(row.role, Role::Template | Role::Caller);
    all().filter(is_of_agents).filter_map(KindRow::reads)
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

/// What an object that is not read may do: one of a kind that no decoder reads, one that its decoder
/// refuses, and policies of versions to come. `None`: it takes no part. Staged ones enforce nothing.
pub fn unread(api_version: &str, kind: &str, object: &Value) -> Option<Unread> {
    let is_named_so = kind.ends_with("NetworkPolicy") && !kind.starts_with("Staged");
    let may_say = |row: &&KindRow| row.decides() || row.role == Role::Remarked;
    let rows = || of_group(api_version).filter(may_say);
    let row = rows().find(|row| row.kind == kind);
    if row.is_none() && !(is_named_so && rows().any(KindRow::decides)) {
        return None;
    }
    let text = |field: &str| object["metadata"][field].as_str().filter(|text| !text.is_empty());
    let mut namespace: Option<Arc<str>> = text("namespace").map(Into::into);
    if row.is_some_and(|row| row.scope == Scope::Cluster) {
        namespace = None;
    } else if row.is_some() {
        namespace = namespace.or_else(|| Some("default".into()));
    }
    let reach = match row.and_then(|row| row.reach) {
        Some(reach) => reach(object),
        None => Reach::widest(namespace.as_ref().filter(|_| is_of_namespace(row))),
    };
    let named = |row: &KindRow| row.api_versions.contains(&api_version);
    Some(Unread {
        kind: match row.filter(|row| named(row)) {
            Some(row) => row.name().into(),
            None => format!("{api_version} {kind}").into(),
        },
        label: row
            .map_or_else(|| format!("{kind}.{}", group_of(api_version)), KindRow::label)
            .into(),
        namespace,
        name: Some(text("name").unwrap_or("(no name)").into()),
        family: row.or_else(|| rows().next()).map_or(Family::Any, |row| row.family),
        reach,
    })
}

/// Whether what an object of a kind does is limited to its namespace; of a kind that no row is about,
/// that is how policies in a namespace are.
fn is_of_namespace(row: Option<&KindRow>) -> bool {
    row.is_none_or(|row| row.scope == Scope::Namespace)
}

/// The groups of Kubernetes' own kinds, whose names need no group.
const KUBERNETES_GROUPS: [&str; 2] = ["networking.k8s.io", "policy.networking.k8s.io"];

fn of_group(api_version: &str) -> impl Iterator<Item = &'static KindRow> {
    let group = group_of(api_version);
    all().filter(move |row| row.groups().contains(group))
}

/// The group of an `apiVersion`; empty: the core's.
pub fn group_of(api_version: &str) -> &str {
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
            let is_unread = matches!(row.role, Role::Unread | Role::Remarked);
            assert_eq!(is_unread, row.decoder.is_none(), "{name}");
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
            assert!(unread(api_version, kind, &json!({})).is_some(), "{api_version} {kind}");
        }
        for (api_version, kind) in [
            ("v1", "ConfigMap"),
            ("networking.k8s.io/v1", "Ingress"),
            ("projectcalico.org/v3", "IPPool"),
            ("projectcalico.org/v4", "StagedNetworkPolicy"),
            ("example.com/v1", "NetworkPolicy"),
        ] {
            assert!(unread(api_version, kind, &json!({})).is_none(), "{api_version} {kind}");
        }
    }
}
