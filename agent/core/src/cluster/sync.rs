//! How far what is known of the cluster can be relied on.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::object::Kind;

/// Which kinds of objects are known, and how well.
#[derive(Clone, Debug, Default)]
pub struct SyncState {
    unsynced: BTreeMap<Kind, Option<Arc<str>>>,
    stale: BTreeMap<Kind, Timestamp>,
    unread: Arc<BTreeMap<String, usize>>,
}

impl SyncState {
    /// None of these kinds has been listed yet.
    pub(super) fn unsynced_kinds(kinds: impl IntoIterator<Item = Kind>) -> Self {
        let unsynced = kinds.into_iter().map(|kind| (kind, None)).collect();
        Self { unsynced, ..Self::default() }
    }

    /// Kinds that have not been listed once, and why not if that is known: what depends on them
    /// is unknown.
    pub fn unsynced(&self) -> &BTreeMap<Kind, Option<Arc<str>>> {
        &self.unsynced
    }

    /// Kinds whose watch has been silent since some time: what is known of them is that old.
    pub fn stale(&self) -> &BTreeMap<Kind, Timestamp> {
        &self.stale
    }

    /// How many policies there are of kinds that cannot be read: verdicts may depend on them.
    pub fn unread(&self) -> &BTreeMap<String, usize> {
        &self.unread
    }

    /// A kind has been listed once. Whether that is news.
    pub(super) fn synced(&mut self, kind: Kind) -> bool {
        self.stale.remove(&kind);
        self.unsynced.remove(&kind).is_some()
    }

    /// A kind cannot be listed or followed, since then. Whether that is news.
    pub(super) fn failing(&mut self, kind: Kind, since: Timestamp, why: &str) -> bool {
        match self.unsynced.get_mut(&kind) {
            Some(reason) => reason.replace(why.into()).as_deref() != Some(why),
            None if self.stale.contains_key(&kind) => false,
            None => self.stale.insert(kind, since).is_none(),
        }
    }

    /// How many policies cannot be read, by kind. Whether that is news.
    pub(super) fn set_unread(&mut self, unread: BTreeMap<String, usize>) -> bool {
        let is_news = *self.unread != unread;
        if is_news {
            self.unread = Arc::new(unread);
        }
        is_news
    }
}
