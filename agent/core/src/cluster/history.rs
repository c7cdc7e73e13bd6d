//! What changed lately that can change a verdict, and how to take it back.
//!
//! A change keeps the object as it was before, and nothing else of the cluster: the earlier cluster
//! is made from the present one by undoing changes, latest first. The [`Cluster`] records as it
//! takes objects in; nobody else writes.

mod difference;
mod past;
mod record;
mod rollout;

use std::{collections::VecDeque, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, IntoStaticStr};

use super::{
    Snapshot,
    object::{Key, Kind, Object, Pod},
};
pub use past::{Between, Past, SEEN_WITHIN};
use record::parts;
use rollout::{Gone, Rollout};

/// How many changes are kept: a day of a busy cluster's policy and label changes is fewer.
pub const CHANGES_MAX: usize = 512;

/// How long a change is kept. A person who is paged asks what changed today; what is older counts as
/// old whenever it came.
pub const AGE_MAX: SignedDuration = SignedDuration::from_hours(24);

/// How many labels, peers, ports and addresses the kept objects may hold together (about 100 bytes
/// each): one policy can list thousands of networks, and a controller can write it every minute.
pub const PARTS_MAX: usize = 65_536;

/// What happened to an object.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Display,
    IntoStaticStr,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[strum(serialize_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It came to be.
    Created,
    /// Its spec is another.
    Edited,
    /// Its labels are others.
    Relabelled,
    /// Its addresses are others.
    Moved,
    /// Pods of another template take the place of those before; of workloads alone.
    #[strum(serialize = "rolled out")]
    #[serde(rename = "rolled-out")]
    RolledOut,
    /// It is gone.
    Deleted,
}

impl ChangeKind {
    /// The kind for people.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// A change of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which object.
    pub object: Key,
    /// What happened to it.
    pub kind: ChangeKind,
    /// What differs, in words: `label name=frontend went`. None of what came or went whole.
    pub difference: Option<Arc<str>>,
    /// When it was seen to happen.
    pub at: Timestamp,
}

/// How the time of a change is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Learned {
    /// It was seen as it came, or soon after.
    AsItCame,
    /// It was found out: it may have come at any time since it was last found as it was before, or,
    /// without that, ever.
    Later(Option<Timestamp>),
}

impl Learned {
    /// Whether it came between a look-up from before this time and a later one.
    fn is_between(self, then: Timestamp) -> bool {
        matches!(self, Self::Later(Some(after)) if after < then)
    }

    /// Whether it was so by this time already, as far as anybody can say, though it was seen after it.
    fn was_so(self, by: Timestamp, seen: Timestamp, between: Between) -> bool {
        match (self, between) {
            (Self::AsItCame, _) | (Self::Later(Some(_)), Between::AsBefore) => false,
            (Self::Later(None), _) => true,
            (Self::Later(Some(_)), Between::AsAfter) => self.is_between(by),
            (Self::Later(Some(after)), Between::AsNearer) => {
                by.duration_since(after) >= seen.duration_since(by)
            }
        }
    }
}

/// A change with what it takes to undo it.
#[derive(Clone, Debug)]
pub struct Undoable {
    /// The change.
    pub change: Change,
    learned: Learned,
    before: Before,
}

/// What was there before a change.
#[derive(Clone, Debug)]
enum Before {
    /// No such object.
    Nothing,
    /// The object as it was.
    Object(Box<Object>),
    /// Pods of another template.
    Rollout(Rollout),
}

impl Before {
    fn of(object: Option<Object>) -> Self {
        object.map_or(Self::Nothing, |object| Self::Object(Box::new(object)))
    }

    fn parts(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Object(object) => parts(object),
            Self::Rollout(rollout) => rollout.parts(),
        }
    }
}

impl Undoable {
    /// Makes the snapshot what it was before this change, as far as this object goes.
    pub fn undo(&self, snapshot: &mut Snapshot) {
        match &self.before {
            Before::Nothing => snapshot.remove(&self.change.object, self.change.at),
            Before::Object(object) => snapshot.put_back(Object::clone(object)),
            Before::Rollout(rollout) => rollout.undo(snapshot),
        }
    }

    /// Whether it is of a kind that comes and goes with every rollout. Such changes leave half of
    /// the room to the others, which people make.
    fn is_of_passing_kind(&self) -> bool {
        let kind = self.change.object.kind;
        matches!(kind, Kind::Pod | Kind::Service | Kind::EndpointSlice | Kind::Template(_))
    }

    fn parts(&self) -> usize {
        1 + self.before.parts()
    }
}

/// The latest changes, oldest first.
#[derive(Clone, Debug, Default)]
pub struct History {
    changes: VecDeque<Undoable>,
    parts: usize,
    forgotten: u64,
    forgotten_until: Option<Timestamp>,
    watched_since: Option<Timestamp>,
    gone: Gone,
}

impl History {
    /// Changes are seen from now on: what was there at the first listing came at some time before,
    /// which only the objects' own times say.
    pub(super) fn begin(&mut self, at: Timestamp) {
        self.watched_since = self.watched_since.max(Some(at));
    }

    /// Remembers a change.
    fn record(&mut self, change: Change, learned: Learned, before: Before) {
        let now = change.at;
        let undoable = Undoable { change, learned, before };
        self.parts += undoable.parts();
        self.changes.push_back(undoable);
        while self.changes.front().is_some_and(|c| now.duration_since(c.change.at) > AGE_MAX) {
            self.forget(0);
        }
        while self.changes.len() > CHANGES_MAX || self.parts > PARTS_MAX {
            let passing = self.changes.iter().filter(|c| c.is_of_passing_kind()).count();
            let crowds = passing > self.changes.len() / 2;
            let oldest = self.changes.iter().position(|c| !crowds || c.is_of_passing_kind());
            self.forget(oldest.unwrap_or(0));
        }
    }

    fn forget(&mut self, index: usize) {
        let Some(forgotten) = self.changes.remove(index) else { return };
        self.parts -= forgotten.parts();
        self.forgotten += 1;
        self.forgotten_until = self.forgotten_until.max(Some(forgotten.change.at));
    }

    /// The changes, latest first.
    pub fn latest_first(&self) -> impl Iterator<Item = &Undoable> {
        self.changes.iter().rev()
    }

    /// Since when every change is remembered that was seen: since watching began, or since the
    /// latest that was forgotten. `None`: nobody has said when watching began.
    pub fn complete_since(&self) -> Option<Timestamp> {
        self.watched_since.max(self.forgotten_until)
    }

    /// How many changes were forgotten, because too many were kept or as too old.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// How many labels, peers, ports and addresses are kept.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// The pod that last held this one's name, with an address, and has gone since.
    fn predecessor(&self, pod: &Key) -> Option<&Pod> {
        let gone = self.latest_first().find(|undoable| {
            undoable.change.object == *pod && undoable.change.kind == ChangeKind::Deleted
        });
        match &gone?.before {
            Before::Object(object) => match &**object {
                Object::Pod(pod) => Some(pod),
                _ => None,
            },
            Before::Nothing | Before::Rollout(_) => None,
        }
    }
}
