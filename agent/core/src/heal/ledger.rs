//! What was done, so that it is not done again: the healer's only memory outside the objects that it
//! created, kept in its Lease and so written by the leader.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Between, CaseId, Mode, Standing};

/// How many entries are kept (about 120 bytes each, of the 256 KiB that an object's annotations may
/// take): at the most healings an hour that can be set, more than a day.
pub const ENTRIES_MAX: usize = 512;

/// What counts within the hour is that old at most.
const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// How long after its entry a policy may be created: the API server is given 4 s for each of the few
/// requests in between. The clocks of the two may differ by some seconds.
const CREATED_WITHIN: SignedDuration = SignedDuration::from_secs(60);

/// What comes before the name of the clients' or the servers' namespace in [`LedgerEntry::namespaces`].
const CLIENT: &str = "client/";
const SERVER: &str = "server/";

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
    /// The namespaces in which it was done, and, as `client/NAME` and `server/NAME`, between which:
    /// a version that does not know these counts no namespace by such a name. An entry without them
    /// was written by such a version, and is of the whole incident.
    pub namespaces: Vec<String>,
}

/// Of what to count what was done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Within<'a> {
    All,
    /// What was written into this namespace.
    Namespace(&'a str),
    /// What was for clients of this namespace.
    Clients(&'a str),
}

impl LedgerEntry {
    fn is_of(&self, case: &CaseId) -> bool {
        let between = [
            format!("{CLIENT}{}", case.between.client.as_deref().unwrap_or_default()),
            format!("{SERVER}{}", case.between.server.as_deref().unwrap_or_default()),
        ];
        let is_whole = !self.namespaces.iter().any(|name| name.starts_with(CLIENT));
        let is_between = || between.iter().all(|name| self.namespaces.contains(name));
        self.incident == case.incident.to_string() && (is_whole || is_between())
    }

    fn is_within(&self, within: Within<'_>) -> bool {
        match within {
            Within::All => true,
            Within::Namespace(name) => self.namespaces.iter().any(|of| of == name),
            Within::Clients(name) => {
                self.namespaces.iter().any(|of| of.strip_prefix(CLIENT) == Some(name))
            }
        }
    }
}

impl Ledger {
    /// Notes something before it is done: what then fails still counts as tried.
    pub fn enter(
        &mut self,
        case: &CaseId,
        at: Timestamp,
        mode: Mode,
        namespaces: impl IntoIterator<Item = Arc<str>>,
    ) {
        if self.entries.len() >= ENTRIES_MAX {
            self.entries.remove(0);
        }
        let CaseId { incident, between: Between { client, server } } = case;
        let between = [
            format!("{CLIENT}{}", client.as_deref().unwrap_or_default()),
            format!("{SERVER}{}", server.as_deref().unwrap_or_default()),
        ];
        let namespaces = namespaces.into_iter().map(|name| name.to_string()).chain(between);
        self.entries.push(LedgerEntry {
            incident: incident.to_string(),
            at: at.as_second(),
            changed: mode == Mode::Apply,
            namespaces: namespaces.collect(),
        });
    }

    /// When something was changed for this.
    pub fn tried(&self, case: &CaseId) -> Option<Timestamp> {
        let entry = self.entries_of(case).find(|entry| entry.changed)?;
        Timestamp::from_second(entry.at).ok()
    }

    /// Whether anything was done or reported for this.
    pub fn knows(&self, case: &CaseId) -> bool {
        self.entries_of(case).next().is_some()
    }

    /// Whether these policies were made as it says: for this, in these namespaces, and then. What the
    /// policies say of themselves anyone may have written who may write policies.
    pub(super) fn has_made(&self, standing: &Standing) -> bool {
        let created = standing.applied.as_second();
        let is_then = |at: i64| (created - at).abs() <= CREATED_WITHIN.as_secs();
        self.entries_of(&standing.case).filter(|entry| entry.changed && is_then(entry.at)).any(
            |entry| {
                standing.policies.iter().all(|policy| {
                    policy
                        .namespace
                        .as_deref()
                        .is_some_and(|n| entry.namespaces.contains(&n.into()))
                })
            },
        )
    }

    /// How many were done, or only reported, within the hour before.
    pub(super) fn within_hour(&self, within: Within<'_>, mode: Mode, now: Timestamp) -> usize {
        let since = (now - HOUR).as_second();
        let alike = self.entries.iter().filter(|entry| entry.changed == (mode == Mode::Apply));
        alike.filter(|entry| entry.at > since && entry.is_within(within)).count()
    }

    fn entries_of(&self, case: &CaseId) -> impl Iterator<Item = &LedgerEntry> {
        self.entries.iter().filter(move |entry| entry.is_of(case))
    }
}

impl From<Vec<LedgerEntry>> for Ledger {
    fn from(entries: Vec<LedgerEntry>) -> Self {
        Self { entries }
    }
}
