//! The cluster as it was.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};

use super::{Before, ChangeKind, History, Undoable};
use crate::cluster::{
    Snapshot,
    object::{Kind, Object},
};

/// How much later than it happens a change may be seen: a watch delivers within a second of the API
/// server's own clock, a folder of manifests within a fraction of it; twice that.
pub const SEEN_WITHIN: SignedDuration = SignedDuration::from_secs(2);

/// The cluster as it was at a time, by all that is known of it now.
///
/// What has changed since is taken back. What was only learned since stays: it was so then, as far as
/// anybody can say. That is what look-ups found nearer to then than they had found it otherwise, and which
/// pods and nodes hold which addresses: they had them before their status said so, and each holding has
/// times of its own.
#[derive(Clone, Debug)]
pub struct Past<'a> {
    history: &'a History,
    /// The cluster then.
    pub snapshot: Snapshot,
    until: Timestamp,
    between: Between,
}

/// How a thing was between two look-ups that found it otherwise, as nobody saw when it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// As the nearer one found it.
    AsNearer,
    /// As the earlier one found it.
    AsBefore,
    /// As the later one found it.
    AsAfter,
}

impl History {
    /// The cluster as it was then.
    pub fn past(&self, now: &Snapshot, until: Timestamp) -> Past<'_> {
        self.past_between(now, until, Between::AsNearer)
    }

    /// The same, what changed between two look-ups being as it is said to be.
    pub fn past_between(&self, now: &Snapshot, until: Timestamp, between: Between) -> Past<'_> {
        let mut snapshot = now.clone();
        let mut was_so = HashSet::new();
        for later in self.latest_first().take_while(|later| later.change.at > until) {
            if later.was_so(until, between) {
                was_so.insert(&later.change.object);
            } else if later.is_dated(now) && !was_so.contains(&later.change.object) {
                // Behind what stays nothing is taken back.
                later.undo(&mut snapshot);
            }
        }
        Past { history: self, snapshot, until, between }
    }

    /// Whether a look-up from before a time and one from after it found anything otherwise.
    pub fn is_found_otherwise(&self, then: Timestamp) -> bool {
        let is_it = |known: &Undoable| known.learned.is_between(then);
        self.latest_first().take_while(|known| known.change.at > then).any(is_it)
    }

    /// The cluster as it is now.
    pub fn now(&self, now: &Snapshot) -> Past<'_> {
        let (until, between) = (Timestamp::MAX, Between::AsNearer);
        Past { history: self, snapshot: now.clone(), until, between }
    }

    /// The changes that were seen after a time and no later than another, oldest first.
    pub fn between(
        &self,
        after: Timestamp,
        until: Timestamp,
    ) -> impl Iterator<Item = &Undoable> + use<'_> {
        let from = self.changes.partition_point(|known| known.change.at <= after);
        self.changes.range(from..).take_while(move |known| known.change.at <= until)
    }
}

impl<'a> Past<'a> {
    /// The changes until then, and those that were only learned since, latest first.
    pub fn latest_first(&self) -> impl Iterator<Item = &'a Undoable> + use<'a> {
        let (until, between) = (self.until, self.between);
        let stays =
            move |known: &&Undoable| known.change.at <= until || known.was_so(until, between);
        self.history.latest_first().filter(stays)
    }

    /// Since when every change is remembered that was seen, see [`History::complete_since`].
    pub fn complete_since(&self) -> Option<Timestamp> {
        self.history.complete_since()
    }
}

impl Undoable {
    /// Whether it is only learned since then, and was so.
    fn was_so(&self, then: Timestamp, between: Between) -> bool {
        self.learned.was_so(then, self.change.at, between)
    }

    /// Whether it happened when it was seen to, and not before, with nothing else to say when.
    fn is_dated(&self, now: &Snapshot) -> bool {
        let is_relabelled = self.change.kind == ChangeKind::Relabelled;
        let before = match &self.before {
            Before::Object(object) => Some(&**object),
            Before::Nothing | Before::Rollout(_) => None,
        };
        match (self.change.object.kind, before) {
            (Kind::Pod, Some(Object::Pod(before))) => {
                // Another pod of that name has other addresses.
                let now = now.pod(&before.namespace, &before.name);
                is_relabelled && now.is_none_or(|now| now.uid == before.uid)
            }
            (Kind::Pod, _) => false,
            (Kind::Node | Kind::PluginNode(_), _) => is_relabelled,
            _ => true,
        }
    }
}
