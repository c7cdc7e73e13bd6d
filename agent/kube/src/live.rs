//! The cluster as its API server tells it.
//!
//! Followed are the pods of this node, and of the whole cluster what is small: namespaces, nodes and
//! policies. Who holds any other address is looked up when a drop names it. Objects are stripped to
//! what decisions depend on as soon as they are read.

mod kinds;
mod look_up;
pub mod once;
mod owners;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use kube::Client;
use tokio::sync::mpsc;
use whydrop_core::cluster::{
    Cluster, Engine, Snapshot,
    look_up::{LookUp, Query},
    object::{Key, Kind, Object},
};

use kinds::Followed;
use look_up::{About, Found};

/// How much news waits for the agent's one task, which takes it as it comes: a burst of a rollout.
const NEWS_MAX: usize = 1024;

/// How many addresses are looked up at a time, so that a scan of the cluster's addresses does not
/// become a load for the API server.
pub const LOOK_UPS_MAX: usize = 16;

/// How many look-ups are begun in a second: a thousandth of what an API server answers, so that a
/// hundred nodes may have a bad moment together.
const LOOK_UPS_PER_SECOND: usize = 20;

/// How many looked-up addresses are remembered, and for how long: a burst's last report comes a
/// minute after its first, and asking again costs little.
const REMEMBERED_MAX: usize = 4096;
const REMEMBERED: SignedDuration = SignedDuration::from_mins(10);

/// Something that was heard of the cluster.
enum News {
    /// All there is of a kind, and the names of those that cannot be read.
    Listed(Followed, Vec<Object>, BTreeSet<String>),
    /// The API server does not know a kind.
    NotServed(Followed),
    /// An object as it is now.
    Applied(Box<Object>),
    /// An object is gone.
    Deleted(Key),
    /// Whether the object of this name is one that cannot be read.
    Unread(Followed, String, bool),
    /// An object was passed over, and why.
    Skipped(String),
    /// A kind cannot be listed or followed, and why.
    Failing(Followed, String),
    /// What was looked up.
    LookedUp(Query, Result<Found, String>),
}

impl News {
    /// Whether policies may have changed, or what they select by.
    fn is_of_policies(&self) -> bool {
        let decides =
            |kind: Kind| kind.decides() || matches!(kind, Kind::Namespace | Kind::ServiceAccount);
        match self {
            Self::Listed(followed, ..) | Self::NotServed(followed) => {
                followed.is.is_none_or(decides)
            }
            Self::Applied(object) => decides(object.key().kind),
            Self::Deleted(key) => decides(key.kind),
            _ => false,
        }
    }
}

/// What came of taking news over.
#[derive(Debug, Default)]
pub struct Taken {
    /// What is to be reported.
    pub troubles: Vec<Trouble>,
    /// Policies changed, or what they select by.
    pub policies_changed: bool,
}

/// Something to tell of the source itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// An object was passed over, and why.
    Skipped(String),
    /// Kinds cannot be followed.
    Failing {
        /// Which, and why.
        what: String,
        /// Since when.
        since: Timestamp,
    },
    /// All kinds are followed again.
    Recovered,
}

/// A connection to the API server, and what was heard by it.
pub struct Live {
    client: Client,
    node: Arc<str>,
    sender: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
    waiting: Vec<News>,
    /// What was listed, by kind.
    held: HashMap<Kind, BTreeSet<Key>>,
    /// Kinds that have been listed once.
    listed: BTreeSet<Followed>,
    /// Names of objects that cannot be read: nobody can read the kind, or they are malformed.
    unread: BTreeMap<Followed, BTreeSet<String>>,
    failing: BTreeMap<Followed, (Timestamp, String)>,
    /// What failed a turn ago, and the failures that have been told.
    failed: BTreeSet<Followed>,
    told: BTreeSet<Followed>,
    looking_up: BTreeSet<Query>,
    /// How many look-ups were begun in a second, and in which.
    begun: (i64, usize),
    looked_up: BTreeMap<Query, (Timestamp, Vec<Key>)>,
}

impl Live {
    /// Begins to follow the cluster.
    pub fn start(client: Client, node: Arc<str>, cluster: &mut Cluster) -> Self {
        let (sender, news) = mpsc::channel(NEWS_MAX);
        for followed in kinds::followed() {
            let fields = (followed == kinds::POD).then(|| format!("spec.nodeName={node}"));
            tokio::spawn(watch::follow(client.clone(), followed, fields, sender.clone()));
        }
        *cluster = Cluster::unsynced(kinds::followed().filter_map(|followed| followed.is));
        cluster.look_up_on_demand();
        Self {
            client,
            node,
            sender,
            news,
            waiting: Vec::new(),
            held: HashMap::new(),
            listed: BTreeSet::new(),
            unread: BTreeMap::new(),
            failing: BTreeMap::new(),
            failed: BTreeSet::new(),
            told: BTreeSet::new(),
            looking_up: BTreeSet::new(),
            begun: (0, 0),
            looked_up: BTreeMap::new(),
        }
    }

    /// Waits until there is news. Losing the future loses none.
    pub async fn changed(&mut self) {
        if self.waiting.is_empty() {
            // Never zero: this holds a sender itself.
            self.news.recv_many(&mut self.waiting, NEWS_MAX).await;
        }
    }

    /// Whether every kind has been listed once.
    pub fn is_synced(&self) -> bool {
        kinds::followed().all(|followed| self.listed.contains(&followed))
    }

    /// Every kind that is to be followed, and whether it is at this moment.
    pub fn followed(&self) -> impl Iterator<Item = (String, bool)> {
        let is_followed = |followed: &Followed| {
            self.listed.contains(followed) && !self.failing.contains_key(followed)
        };
        kinds::followed().map(move |followed| (followed.name(), is_followed(&followed)))
    }

    /// Takes the news over into the cluster, and returns what is to be told of it.
    pub fn take(&mut self, cluster: &mut Cluster, now: Timestamp) -> Taken {
        let mut taken = Taken::default();
        for news in std::mem::take(&mut self.waiting) {
            taken.policies_changed |= news.is_of_policies();
            match news {
                News::Listed(followed, objects, unread) => {
                    if followed == kinds::CALICO_NETWORK_POLICY {
                        cluster.set_engine(Engine::Calico);
                    }
                    self.listed(cluster, followed, objects, unread, now);
                }
                News::NotServed(followed) => {
                    if followed == kinds::CALICO_NETWORK_POLICY {
                        cluster.set_engine(Engine::Standard);
                    }
                    self.listed(cluster, followed, Vec::new(), BTreeSet::new(), now);
                }
                News::Applied(object) => {
                    if let Some(held) = self.held.get_mut(&object.key().kind) {
                        held.insert(object.key());
                    }
                    cluster.apply(*object, Some(now));
                }
                News::Deleted(key) => {
                    if let Some(held) = self.held.get_mut(&key.kind) {
                        held.remove(&key);
                    }
                    cluster.delete(&key, now);
                }
                News::Unread(followed, name, is_unread) => {
                    let names = self.unread.entry(followed).or_default();
                    if is_unread {
                        names.insert(name)
                    } else {
                        names.remove(&name)
                    };
                }
                News::Skipped(what) => taken.troubles.push(Trouble::Skipped(what)),
                News::Failing(followed, why) => {
                    if let Some(kind) = followed.is {
                        cluster.failing(kind, now, &why);
                    }
                    let since = self.failing.get(&followed).map_or(now, |(since, _)| *since);
                    self.failing.insert(followed, (since, why));
                }
                News::LookedUp(sought, found) => self.looked_up(cluster, sought, found, now),
            }
        }
        let policies = self
            .unread
            .iter()
            .filter(|(followed, names)| followed.is.is_none_or(Kind::decides) && !names.is_empty());
        cluster.set_unread(policies.map(|(kind, names)| (kind.name(), names.len())).collect());
        taken
    }

    /// What of the failures has not been told, once it has stayed the same from one turn to the
    /// next, so that an API server that goes away is told as one.
    pub fn news_of_failures(&mut self) -> Option<Trouble> {
        let failing: BTreeSet<_> = self.failing.keys().copied().collect();
        let is_settled = std::mem::replace(&mut self.failed, failing.clone()) == failing;
        if !is_settled || failing == self.told {
            return None;
        }
        let has_more = failing.difference(&self.told).next().is_some();
        self.told = failing;
        if self.told.is_empty() {
            return Some(Trouble::Recovered);
        }
        has_more.then(|| self.failure())
    }

    /// All that fails, by reason. Kinds that are only counted are named where no other fails.
    fn failure(&self) -> Trouble {
        let mut by_reason: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let is_read = self.failing.keys().any(|followed| followed.is.is_some());
        for (followed, (_, why)) in &self.failing {
            if followed.is.is_some() == is_read {
                by_reason.entry(why).or_default().push(followed.name());
            }
        }
        let parts = by_reason.iter().map(|(why, kinds)| format!("{}: {why}", kinds.join(", ")));
        let what = format!("cannot follow {}", parts.collect::<Vec<_>>().join("; "));
        let since = self.failing.values().map(|(since, _)| *since).min();
        Trouble::Failing { what, since: since.unwrap_or_default() }
    }

    /// Asks for these; what comes of it is news.
    pub fn look_up(&mut self, snapshot: &Snapshot, all: &[Query], now: Timestamp) {
        for sought in all {
            if self.looking_up.contains(sought) || !self.may_look_up(now) {
                continue;
            }
            self.looking_up.insert(sought.clone());
            let about = About::of(sought, snapshot);
            let (client, sender, sought) =
                (self.client.clone(), self.sender.clone(), sought.clone());
            tokio::spawn(async move {
                let found = look_up::look_up(client, sought.clone(), about).await;
                // Nobody listens once the agent stops.
                let _ = sender.send(News::LookedUp(sought, found)).await;
            });
        }
    }

    /// How many look-ups are under way.
    pub fn looking_up(&self) -> usize {
        self.looking_up.len()
    }

    fn may_look_up(&mut self, now: Timestamp) -> bool {
        let (second, begun) = &mut self.begun;
        if *second != now.as_second() {
            (*second, *begun) = (now.as_second(), 0);
        }
        *begun += 1;
        *begun <= LOOK_UPS_PER_SECOND && self.looking_up.len() < LOOK_UPS_MAX
    }

    /// Forgets what was looked up long ago.
    pub fn expire(&mut self, cluster: &mut Cluster, now: Timestamp) {
        let old: Vec<Query> = self
            .looked_up
            .iter()
            .filter(|(_, (at, _))| now.duration_since(*at) > REMEMBERED)
            .map(|(sought, _)| sought.clone())
            .collect();
        for sought in old {
            self.forget(cluster, &sought, now);
        }
    }

    fn listed(
        &mut self,
        cluster: &mut Cluster,
        followed: Followed,
        objects: Vec<Object>,
        unread: BTreeSet<String>,
        now: Timestamp,
    ) {
        // The first list says nothing of when things came to be so.
        let at = (!self.listed.insert(followed)).then_some(now);
        if at.is_none() {
            cluster.history_begins(now);
        }
        self.unread.insert(followed, unread);
        self.failing.remove(&followed);
        let Some(kind) = followed.is else { return };
        let held: BTreeSet<Key> = objects.iter().map(Object::key).collect();
        let before = self.held.insert(kind, held).unwrap_or_default();
        for key in before.difference(&self.held[&kind]) {
            cluster.delete(key, now);
        }
        for object in objects {
            cluster.apply(object, at);
        }
        cluster.synced(kind);
    }

    fn looked_up(
        &mut self,
        cluster: &mut Cluster,
        sought: Query,
        found: Result<Found, String>,
        now: Timestamp,
    ) {
        self.looking_up.remove(&sought);
        let (failed, scale) = match found {
            Ok(Found { objects, scale }) => {
                // Pods of this node are followed; what was asked a moment ago may be older.
                let is_followed = |object: &Object| matches!(object, Object::Pod(pod) if pod.node.as_ref() == Some(&self.node));
                let objects: Vec<_> = objects.into_iter().filter(|o| !is_followed(o)).collect();
                let keys: Vec<Key> = objects.iter().map(Object::key).collect();
                let before = self.looked_up.insert(sought.clone(), (now, keys.clone()));
                if let Some((_, before)) = before {
                    let gone = before.iter().filter(|key| !keys.contains(key));
                    for key in gone.filter(|key| !self.is_held(key)) {
                        match sought {
                            // A Service may have another selector now, and be there.
                            Query::ServicesOf(_) => cluster.forget(key, now),
                            _ => cluster.delete(key, now),
                        }
                    }
                }
                let snapshot = cluster.snapshot();
                for object in objects {
                    // Of what was known, it is seen when it changed; of what is new, it is not.
                    let known = snapshot.object(&object.key()).is_some();
                    cluster.apply(object, known.then_some(now));
                }
                (None, scale)
            }
            Err(why) => (Some(why.into()), None),
        };
        cluster.looked_up(sought, LookUp { at: now, failed, scale });
        while self.looked_up.len() > REMEMBERED_MAX {
            let eldest = self.looked_up.iter().min_by_key(|(_, (at, _))| *at);
            let Some(sought) = eldest.map(|(sought, _)| sought.clone()) else { break };
            self.forget(cluster, &sought, now);
        }
    }

    fn forget(&mut self, cluster: &mut Cluster, sought: &Query, now: Timestamp) {
        cluster.forget_look_up(sought);
        let Some((_, keys)) = self.looked_up.remove(sought) else { return };
        for key in keys {
            if !self.is_held(&key) {
                cluster.forget(&key, now);
            }
        }
    }

    /// Whether another look-up has found this.
    fn is_held(&self, key: &Key) -> bool {
        self.looked_up.values().any(|(_, held)| held.contains(key))
    }
}
