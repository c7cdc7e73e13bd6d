//! What an API server serves, by its own account, and what of it a kind can be had in.

use std::collections::BTreeSet;

use super::{KindRow, group_of};

/// The groups of an API server, each in its versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// As `apiVersion` spells them.
    versions: BTreeSet<String>,
}

impl Served {
    /// What it says at `/apis`: the `apiVersion`s of all groups but the core's, which every server has.
    pub fn new(versions: impl IntoIterator<Item = String>) -> Self {
        Self { versions: versions.into_iter().collect() }
    }

    /// The groups, but the core's.
    pub fn groups(&self) -> BTreeSet<&str> {
        self.versions.iter().map(|version| group_of(version)).collect()
    }

    /// In which versions a kind may be had, the one to be asked for first at the front: those that the
    /// server has, whether or not it has the kind in them. Where there is none, the kind is not served,
    /// and what the server answers to whoever asks for it says nothing: it asks for rights first, and
    /// refuses who has none to what it does not have.
    pub fn versions_of(&self, row: &KindRow) -> Vec<&'static str> {
        let is_served = |version: &&&str| group_of(version).is_empty() || self.has(version);
        row.api_versions.iter().filter(is_served).copied().collect()
    }

    fn has(&self, version: &str) -> bool {
        self.versions.contains(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::object::Kind,
        kinds::{all, named, of, of_policy},
        policy::PolicyKind,
    };

    fn served(versions: &[&str]) -> Served {
        Served::new(versions.iter().map(|version| (*version).to_owned()))
    }

    #[test]
    fn a_kind_is_asked_for_in_the_versions_that_are_served() {
        let calico = of_policy(PolicyKind::CalicoNetworkPolicy);
        let kubernetes = of_policy(PolicyKind::NetworkPolicy);
        let (stored, api) = ("crd.projectcalico.org/v1", "projectcalico.org/v3");
        for (versions, row, expected) in [
            (&[][..], kubernetes, &[][..]),
            (&["networking.k8s.io/v1"], kubernetes, &["networking.k8s.io/v1"]),
            (&["networking.k8s.io/v1", "apps/v1"], calico, &[]),
            (&[api], calico, &[api]),
            (&[stored], calico, &[stored]),
            (&[api, stored], calico, &[stored, api]),
            // A version to come is none that is read.
            (&["projectcalico.org/v4"], calico, &[]),
            // The core's group is no line of /apis.
            (&[], of(Kind::Pod), &["v1"]),
        ] {
            assert_eq!(served(versions).versions_of(row), expected, "{} of {versions:?}", row.kind);
        }
    }

    #[test]
    fn a_server_without_plugins_serves_no_kind_of_theirs() {
        let plain = served(&["apps/v1", "networking.k8s.io/v1", "discovery.k8s.io/v1"]);
        let of_plugins =
            all().filter(|row| row.group().contains("cilium") || row.group().contains("antrea"));
        for row in of_plugins {
            assert_eq!(plain.versions_of(row), Vec::<&str>::new(), "{}", row.name());
        }
        assert!(named("v1", "Namespace").is_some_and(|row| !plain.versions_of(row).is_empty()));
        assert!(plain.groups().contains("networking.k8s.io"));
    }
}
