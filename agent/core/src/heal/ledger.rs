//! What was done, so that it is not done again: the healer's only memory outside the objects that it
//! created, kept in its Lease and so written by the leader.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::incident::IncidentId;

/// How many entries are kept (about 100 bytes each, of the 256 KiB that an object's annotations may
/// take): at the most healings an hour that can be set, more than a day.
pub const ENTRIES_MAX: usize = 512;

/// What counts within the hour is that old at most.
const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// What was done about which incidents, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ledger {
    entries: Vec<LedgerEntry>,
}

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerEntry {
    /// The incident, as its name.
    pub incident: String,
    /// When, in whole seconds of the Unix epoch.
    pub at: i64,
    /// Whether something was changed, or only reported.
    pub changed: bool,
    /// The namespaces in which it was done.
    pub namespaces: Vec<String>,
}

impl Ledger {
    /// Notes something before it is done: what then fails still counts as tried.
    pub fn enter(
        &mut self,
        incident: IncidentId,
        at: Timestamp,
        changed: bool,
        namespaces: impl IntoIterator<Item = Arc<str>>,
    ) {
        if self.entries.len() >= ENTRIES_MAX {
            self.entries.remove(0);
        }
        let (incident, at) = (incident.to_string(), at.as_second());
        let namespaces = namespaces.into_iter().map(|name| name.to_string()).collect();
        self.entries.push(LedgerEntry { incident, at, changed, namespaces });
    }

    /// When something was changed for this incident.
    pub fn tried(&self, incident: IncidentId) -> Option<Timestamp> {
        let entry = self.entries_of(incident).find(|entry| entry.changed)?;
        Timestamp::from_second(entry.at).ok()
    }

    /// Whether anything was done or reported for this incident.
    pub fn knows(&self, incident: IncidentId) -> bool {
        self.entries_of(incident).next().is_some()
    }

    /// How many were done within the hour before, in this namespace, or in any.
    pub fn within_hour(&self, namespace: Option<&str>, now: Timestamp) -> usize {
        let since = (now - HOUR).as_second();
        let recent = self.entries.iter().filter(|entry| entry.at > since);
        let here = |entry: &&LedgerEntry| {
            namespace.is_none_or(|name| entry.namespaces.iter().any(|of| of == name))
        };
        recent.filter(here).count()
    }

    fn entries_of(&self, incident: IncidentId) -> impl Iterator<Item = &LedgerEntry> {
        let name = incident.to_string();
        self.entries.iter().filter(move |entry| entry.incident == name)
    }
}

impl From<Vec<LedgerEntry>> for Ledger {
    fn from(entries: Vec<LedgerEntry>) -> Self {
        Self { entries }
    }
}
