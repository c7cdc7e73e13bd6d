//! What changed lately that can change a verdict, with the cluster as it was before.

use std::collections::VecDeque;

use jiff::Timestamp;

use super::{Snapshot, object::Key};

/// How many changes are kept. Snapshots share what did not change, so each costs what the change
/// did; a day of a busy cluster's policy and label changes is fewer.
const CHANGES_MAX: usize = 256;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It came to be.
    Created,
    /// Its spec is another.
    Edited,
    /// Its labels are others.
    Relabelled,
    /// It is gone.
    Deleted,
}

impl ChangeKind {
    /// The kind as records spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Edited => "edited",
            Self::Relabelled => "relabelled",
            Self::Deleted => "deleted",
        }
    }
}

/// A change of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which object.
    pub object: Key,
    /// What happened to it.
    pub kind: ChangeKind,
    /// When it was seen to happen.
    pub at: Timestamp,
}

/// The latest changes, oldest first.
#[derive(Clone, Debug, Default)]
pub struct History {
    changes: VecDeque<(Change, Snapshot)>,
    forgotten: u64,
}

impl History {
    /// Remembers a change, and the cluster as it was before.
    pub(super) fn push(&mut self, change: Change, before: Snapshot) {
        if self.changes.len() >= CHANGES_MAX {
            self.changes.pop_front();
            self.forgotten += 1;
        }
        self.changes.push_back((change, before));
    }

    /// The changes, latest first, each with the cluster as it was before it.
    pub fn latest_first(&self) -> impl Iterator<Item = (&Change, &Snapshot)> {
        self.changes.iter().rev().map(|(change, before)| (change, before))
    }

    /// How many changes were forgotten for want of room.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }
}
