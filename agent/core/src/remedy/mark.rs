//! What objects carry that are created by a remedy, so that those who find one in a year know where
//! it came from.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Manifest, Remedy};
pub use crate::policy::origin::{INCIDENT, MANAGED_BY, MANAGER};

/// The annotation with the time when the remedy was found.
pub const TIME: &str = "whydrop.io/time";

/// The annotation with the command that gives the remedy again.
pub const COMMAND: &str = "whydrop.io/command";

/// Where a remedy comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The incident, where there is one.
    pub incident: Option<String>,
    /// When it was found, where that is known.
    pub at: Option<Timestamp>,
    /// The command that gives it again.
    pub command: Option<String>,
}

impl Mark {
    /// The annotations that say so.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        let time = self.at.map(|at| format!("{at:.0}"));
        let all = [(INCIDENT, &self.incident), (TIME, &time), (COMMAND, &self.command)];
        let known = all.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
        known.map(|(key, value)| (key.to_owned(), value.clone())).collect()
    }
}

impl Manifest {
    /// The same object, which says where it comes from.
    #[must_use]
    pub fn marked(&self, mark: &Mark) -> Self {
        let mut marked = self.clone();
        let metadata = match &mut marked {
            Self::Kubernetes(policy) => &mut policy.metadata,
            Self::Calico(policy, _) => &mut policy.metadata,
        };
        let label = (MANAGED_BY.to_owned(), MANAGER.to_owned());
        metadata.labels.get_or_insert_default().extend([label]);
        metadata.annotations.get_or_insert_default().extend(mark.annotations());
        marked
    }
}

impl Remedy {
    /// Its policies, which say where they come from.
    pub fn marked(&self, mark: &Mark) -> Vec<Manifest> {
        self.policies.iter().map(|policy| policy.marked(mark)).collect()
    }
}
