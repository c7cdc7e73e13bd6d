//! How far what is known of the cluster can be relied on.

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::Timestamp;

use super::object::Kind;
use crate::policy::unread::{Bearing, Unread};

/// Why objects are not known to somebody who asked for them once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Whoever asked may not read them.
    Refused,
    /// It could not be asked, and why.
    Failed(Arc<str>),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("you may not read it"),
            Self::Failed(why) => write!(f, "it could not be read: {why}"),
        }
    }
}

/// The objects of a kind in a namespace, or of the whole cluster.
type Part = (Kind, Option<Arc<str>>);

/// Policies that are not read, by the namespace whose pods alone they may be about.
type UnreadOf = BTreeMap<Option<Arc<str>>, Vec<Arc<Unread>>>;

/// Which kinds of objects are known, and how well.
#[derive(Clone, Debug, Default)]
pub struct SyncState {
    unsynced: BTreeMap<Kind, Option<Arc<str>>>,
    stale: BTreeMap<Kind, Timestamp>,
    unread: Arc<UnreadOf>,
    unreadable: Arc<BTreeMap<Part, Unreadable>>,
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

    /// The policies that are not read: verdicts may depend on them.
    pub fn unread(&self) -> impl Iterator<Item = &Arc<Unread>> {
        self.unread.values().flatten()
    }

    /// Those of them that may be about pods of a namespace, or, without one, about a node.
    pub fn unread_over(&self, namespace: Option<&Arc<str>>) -> impl Iterator<Item = &Arc<Unread>> {
        let of = |namespace: Option<&Arc<str>>| self.unread.get(&namespace.cloned());
        let own = namespace.and_then(|own| of(Some(own)));
        own.into_iter().chain(of(None)).flatten()
    }

    /// How many there are that may decide the first packet of a connection, by kind.
    pub fn unread_counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        let deciding = self.unread().filter(|one| one.reach.bearing == Bearing::FirstPacket);
        for unread in deciding {
            *counts.entry(&*unread.kind).or_default() += 1;
        }
        counts
    }

    /// Why the objects of a kind in a namespace are not known to whoever asked for them once; of kind
    /// Namespace, why that namespace is not. `None`: they are known.
    pub fn unreadable(&self, kind: Kind, namespace: &str) -> Option<&Unreadable> {
        let of = |namespace: Option<&str>| self.unreadable.get(&(kind, namespace.map(Into::into)));
        of(None).or_else(|| of(Some(namespace)))
    }

    /// The same of a kind that is in no namespace.
    pub fn unreadable_in_cluster(&self, kind: Kind) -> Option<&Unreadable> {
        self.unreadable.get(&(kind, None))
    }

    /// All kinds that are not known in a namespace, or in the cluster, and why.
    pub fn all_unreadable(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = (Kind, Option<&Arc<str>>, &Unreadable)> {
        let concerns = move |of: &Option<Arc<str>>| of.as_deref().is_none_or(|of| of == namespace);
        let all = self.unreadable.iter().filter(move |((_, of), _)| concerns(of));
        all.map(|((kind, of), why)| (*kind, of.as_ref(), why))
    }

    pub(super) fn set_unreadable(&mut self, kind: Kind, namespace: Option<&str>, why: Unreadable) {
        let key = (kind, namespace.map(Into::into));
        Arc::make_mut(&mut self.unreadable).insert(key, why);
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

    /// The policies that are not read. Whether that is news.
    pub(super) fn set_unread(&mut self, all: impl IntoIterator<Item = Arc<Unread>>) -> bool {
        let mut unread: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for one in all {
            unread.entry(one.over().cloned()).or_default().push(one);
        }
        let is_news = *self.unread != unread;
        if is_news {
            self.unread = Arc::new(unread);
        }
        is_news
    }
}
