//! How far what is known of the cluster can be relied on.

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::Timestamp;

use super::object::Kind;

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

/// Which kinds of objects are known, and how well.
#[derive(Clone, Debug, Default)]
pub struct SyncState {
    unsynced: BTreeMap<Kind, Option<Arc<str>>>,
    stale: BTreeMap<Kind, Timestamp>,
    unread: Arc<BTreeMap<String, usize>>,
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

    /// How many policies there are of kinds that cannot be read: verdicts may depend on them.
    pub fn unread(&self) -> &BTreeMap<String, usize> {
        &self.unread
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

    /// How many policies cannot be read, by kind. Whether that is news.
    pub(super) fn set_unread(&mut self, unread: BTreeMap<String, usize>) -> bool {
        let is_news = *self.unread != unread;
        if is_news {
            self.unread = Arc::new(unread);
        }
        is_news
    }
}
