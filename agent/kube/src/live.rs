//! The cluster as its API server shows it.
//!
//! Followed are the pods of this node, and of the whole cluster what is small: namespaces, nodes and
//! policies. Who holds any other address is looked up when a drop names it. Objects are stripped to
//! what decisions depend on as soon as they are read.

mod groups;
mod list;
mod look_up;
pub mod once;
mod owners;
mod refused;
pub(crate) mod switch;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use kube::Client;
use tokio::sync::{mpsc, watch as latest};
use whydrop_core::{
    cluster::{
        Cluster, Snapshot,
        look_up::{LookUp, Query},
        object::{Key, Kind, Object},
        profile::{
            Engine, EngineName,
            detect::{Sign, Weight, detect, of_served},
        },
    },
    kinds::{self, KindRow},
    policy::unread::Unread,
};

use crate::{
    api_error::ApiError,
    update::{Trouble, Update},
};
pub use groups::lists;
use look_up::{About, Found};

/// How much news waits for the agent's one task, which handles it as it comes: a burst of a rollout.
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

/// Policies that are not read, by name.
type Unreads = BTreeMap<String, Arc<Unread>>;

/// Something that was heard of the cluster.
enum News {
    /// All there is of a kind: what is read, and by name what is not.
    Listed(&'static KindRow, Vec<Object>, Unreads),
    /// The API server does not know a kind.
    NotServed(&'static KindRow),
    /// An object as it is now.
    Applied(Box<Object>),
    /// An object is gone.
    Deleted(Key),
    /// What the object of this name may do, if it is one that is not read.
    Unread(&'static KindRow, String, Option<Unread>),
    /// What the object of this name shows of who enforces policies.
    Signs(&'static KindRow, String, Vec<Sign>),
    /// The groups that the API server has.
    Groups(BTreeSet<String>),
    /// Whether AWS' engine is switched on, as far as that can be read.
    Switch(Sign),
    /// An object was ignored, and why.
    Skipped(String),
    /// A kind cannot be listed or followed, and why.
    Failing(&'static KindRow, ApiError),
    /// What was looked up.
    LookedUp(Query, Result<Found, ApiError>),
}

impl News {
    /// Whether policies may have changed, or what they select by.
    fn is_of_policies(&self) -> bool {
        let row = match self {
            Self::Listed(row, ..) | Self::NotServed(row) => *row,
            Self::Applied(object) => kinds::of(object.key().kind),
            Self::Deleted(key) => kinds::of(key.kind),
            _ => return false,
        };
        row.decides() || matches!(row.reads(), Some(Kind::Namespace | Kind::ServiceAccount))
    }
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
    /// Kinds that have been listed once, and those of them that the API server knows.
    listed: BTreeSet<&'static KindRow>,
    served: BTreeSet<&'static KindRow>,
    /// Objects that are not read: nobody reads the kind, or they are malformed.
    unread: BTreeMap<&'static KindRow, Unreads>,
    /// What objects show of who enforces policies.
    signs: BTreeMap<(&'static KindRow, String), Vec<Sign>>,
    /// Whether AWS' engine is switched on; asked once a node is one of EKS Auto Mode.
    switch: Option<Sign>,
    asks_for_switch: bool,
    failing: BTreeMap<&'static KindRow, (Timestamp, ApiError)>,
    /// What failed a turn ago, and the failures that have been reported.
    failed: BTreeSet<&'static KindRow>,
    reported: BTreeSet<&'static KindRow>,
    looking_up: BTreeSet<Query>,
    /// How many look-ups were begun in a second, and in which.
    begun: (i64, usize),
    looked_up: BTreeMap<Query, (Timestamp, Vec<Key>)>,
}

impl Live {
    /// Begins to follow the cluster.
    pub fn start(client: Client, node: Arc<str>, cluster: &mut Cluster) -> Self {
        let (sender, news) = mpsc::channel(NEWS_MAX);
        let (known, served) = latest::channel(groups::Known::NotAsked);
        for row in followed() {
            let is_pod = row.reads() == Some(Kind::Pod);
            let fields = is_pod.then(|| format!("spec.nodeName={node}"));
            let followed = watch::Followed { row, fields, served: served.clone() };
            tokio::spawn(watch::follow(client.clone(), followed, sender.clone()));
        }
        tokio::spawn(groups::follow(client.clone(), known, sender.clone()));
        *cluster = Cluster::unsynced(followed().filter_map(KindRow::reads));
        cluster.look_up_on_demand();
        Self {
            client,
            node,
            sender,
            news,
            waiting: Vec::new(),
            held: HashMap::new(),
            listed: BTreeSet::new(),
            served: BTreeSet::new(),
            unread: BTreeMap::new(),
            signs: BTreeMap::new(),
            switch: None,
            asks_for_switch: false,
            failing: BTreeMap::new(),
            failed: BTreeSet::new(),
            reported: BTreeSet::new(),
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
        followed().all(|row| self.listed.contains(row))
    }

    /// Every kind that is to be followed, and whether it is at this moment.
    pub fn followed(&self) -> impl Iterator<Item = (String, bool)> {
        let is_followed = |row| self.listed.contains(row) && !self.failing.contains_key(row);
        followed().map(move |row| (row.name(), is_followed(row)))
    }

    /// Brings the cluster up to date, and returns what is to be reported.
    pub fn update(&mut self, cluster: &mut Cluster, now: Timestamp) -> Update {
        let mut update = Update::default();
        let (mut unread_changed, mut engine_changed) = (false, false);
        for news in std::mem::take(&mut self.waiting) {
            update.policies_changed |= news.is_of_policies();
            unread_changed |=
                matches!(news, News::Unread(..) | News::Listed(..) | News::NotServed(_));
            engine_changed |= matches!(
                news,
                News::Signs(..) | News::Switch(_) | News::Listed(..) | News::NotServed(_)
            );
            match news {
                News::Listed(row, objects, unread) => {
                    self.served.insert(row);
                    self.listed(cluster, row, objects, unread, now);
                }
                News::NotServed(row) => {
                    self.served.remove(row);
                    self.listed(cluster, row, Vec::new(), Unreads::new(), now);
                }
                News::Applied(object) => {
                    let key = object.key();
                    if let Some(held) = self.held.get_mut(&key.kind) {
                        held.insert(key);
                    }
                    cluster.apply(*object, Some(now));
                }
                News::Deleted(key) => {
                    if let Some(held) = self.held.get_mut(&key.kind) {
                        held.remove(&key);
                    }
                    cluster.delete(&key, now);
                }
                News::Unread(row, name, unread) => {
                    let unreads = self.unread.entry(row).or_default();
                    match unread {
                        Some(unread) => unreads.insert(name, Arc::new(unread)),
                        None => unreads.remove(&name),
                    };
                }
                News::Signs(row, name, signs) => {
                    match signs.is_empty() {
                        true => self.signs.remove(&(row, name)),
                        false => self.signs.insert((row, name), signs),
                    };
                }
                News::Switch(sign) => self.switch = Some(sign),
                News::Groups(groups) => cluster.set_served(groups.iter().map(String::as_str)),
                News::Skipped(what) => update.troubles.push(Trouble::Skipped(what)),
                News::Failing(row, why) => {
                    if let Some(kind) = row.reads() {
                        cluster.failing(kind, now, &why.to_string());
                    }
                    let since = self.failing.get(row).map_or(now, |(since, _)| *since);
                    self.failing.insert(row, (since, why));
                }
                News::LookedUp(sought, found) => self.looked_up(cluster, sought, found, now),
            }
        }
        if engine_changed {
            cluster.set_engine(self.engine());
        }
        if unread_changed {
            cluster.set_unread(self.unread.values().flat_map(|unreads| unreads.values().cloned()));
        }
        update
    }

    /// Who enforces policies: by what is served, by nodes, and by the pods of this node, where an
    /// engine's agent is one.
    fn engine(&mut self) -> Engine {
        let served: BTreeSet<&str> = self.served.iter().flat_map(|row| row.groups()).collect();
        let served: Vec<Sign> = served.into_iter().filter_map(of_served).collect();
        let shown = || self.signs.values().flatten().chain(&served).chain(&self.switch);
        let is_auto =
            |sign: &Sign| sign.engine == EngineName::EksAuto && sign.weight == Weight::Agent;
        if shown().any(is_auto) && !self.asks_for_switch {
            self.asks_for_switch = true;
            tokio::spawn(switch::follow(self.client.clone(), self.sender.clone()));
        }
        detect(shown())
    }

    /// What of the failures has not been reported, once it has stayed the same from one turn to the
    /// next, so that an API server that goes away is reported as one.
    pub fn news_of_failures(&mut self) -> Option<Trouble> {
        let failing: BTreeSet<_> = self.failing.keys().copied().collect();
        let is_settled = std::mem::replace(&mut self.failed, failing.clone()) == failing;
        if !is_settled || failing == self.reported {
            return None;
        }
        let has_more = failing.difference(&self.reported).next().is_some();
        self.reported = failing;
        if self.reported.is_empty() {
            return Some(Trouble::Recovered);
        }
        has_more.then(|| self.failure())
    }

    /// All that fails, by reason. Kinds that are only counted are named where no other fails.
    fn failure(&self) -> Trouble {
        let mut by_reason: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let is_read = self.failing.keys().any(|row| row.reads().is_some());
        for (row, (_, why)) in &self.failing {
            if row.reads().is_some() == is_read {
                by_reason.entry(why.to_string()).or_default().push(row.name());
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
        row: &'static KindRow,
        objects: Vec<Object>,
        unread: Unreads,
        now: Timestamp,
    ) {
        // The first list says nothing of when things came to be so.
        let at = (!self.listed.insert(row)).then_some(now);
        if at.is_none() {
            cluster.history_begins(now);
        }
        self.unread.insert(row, unread);
        self.failing.remove(row);
        let Some(kind) = row.reads() else { return };
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
        found: Result<Found, ApiError>,
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
                            // A Service may have another selector or no such address now, and be there.
                            Query::ServicesOf(_) | Query::Exposed => cluster.forget(key, now),
                            _ => cluster.delete_found(key, now),
                        }
                    }
                }
                if matches!(sought, Query::Address(_) | Query::Service(_) | Query::ServicesOf(_)) {
                    self.end_slices(cluster, &objects, &keys, now);
                }
                for object in objects {
                    cluster.apply_found(object, now);
                }
                (None, scale)
            }
            Err(why) => (Some(why.to_string().into()), None),
        };
        cluster.looked_up(sought, LookUp { at: now, failed, scale });
        while self.looked_up.len() > REMEMBERED_MAX {
            let oldest = self.looked_up.iter().min_by_key(|(_, (at, _))| *at);
            let Some(sought) = oldest.map(|(sought, _)| sought.clone()) else { break };
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

    /// Takes out the `EndpointSlices` that Services which were found with all of theirs have no more,
    /// whichever look-up found them earlier.
    fn end_slices(
        &mut self,
        cluster: &mut Cluster,
        found: &[Object],
        keys: &[Key],
        now: Timestamp,
    ) {
        let snapshot = cluster.snapshot();
        for object in found {
            let Object::Service(service) = object else { continue };
            let known = snapshot.slices(service).map(|slice| Key {
                kind: Kind::EndpointSlice,
                namespace: Some(slice.namespace.clone()),
                name: slice.name.clone(),
            });
            for key in known.filter(|key| !keys.contains(key)) {
                cluster.delete(&key, now);
                self.looked_up.values_mut().for_each(|(_, held)| held.retain(|own| *own != key));
            }
        }
    }

    /// Whether another look-up has found this.
    fn is_held(&self, key: &Key) -> bool {
        self.looked_up.values().any(|(_, held)| held.contains(key))
    }
}

/// The kinds that an agent follows.
fn followed() -> impl Iterator<Item = &'static KindRow> {
    kinds::all().filter(|row| row.is_followed())
}
