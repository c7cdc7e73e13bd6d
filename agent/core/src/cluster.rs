//! What is known of the cluster: one writer, immutable snapshots.

pub mod address_pool;
pub mod api_server;
pub mod caller;
pub mod dns;
pub mod history;
pub mod known_address;
pub(crate) mod lasting;
pub mod lifetime;
pub mod look_up;
pub mod node_address;
mod node_facts;
mod node_sources;
pub mod object;
mod objects;
pub mod profile;
pub mod resolve;
mod sync;
mod templates;
pub mod translate;

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use rpds::HashTrieMapSync;

use crate::policy::{
    DEFAULT_TIER, Policy, calico::Group, index::PolicyIndex, network_set::NetworkSet, tier::Tier,
    unread::Unread,
};
use address_pool::AddressPool;
use caller::Caller;
use history::{History, Learned};
use look_up::{LookUp, Query};
pub use node_facts::{Addresses, Interface, Invalid, NodeFacts, TableFull};
use object::{EndpointSlice, Key, Kind, Namespace, Node, Object, Pod, Service, ServiceAccount};
use objects::Objects;
pub use objects::{HELD_AFTER_END, HeldBy, Holding};
use profile::{Engine, Profile};
pub use sync::{SyncState, Unreadable};

/// Namespace and name of a namespaced object.
pub type Name = (Arc<str>, Arc<str>);

/// The cluster at one moment. Cheap to clone: clones share what did not change.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    revision: u64,
    other_changes: u64,
    objects: Objects,
    engine: Arc<Engine>,
    /// What the engine does; another one only for asking "what if".
    profile: Profile,
    /// Those of Calico's groups that are served, the one that users write first.
    calico_groups: &'static [Group],
    node_facts: NodeFacts,
    /// Of which time it is asked who holds addresses, where nothing else is said; `None`: now.
    as_of: Option<Timestamp>,
    looked_up: Option<HashTrieMapSync<Query, LookUp>>,
    /// When what is looked up, rather than followed, was last found.
    found: HashTrieMapSync<Key, Timestamp>,
    sync: SyncState,
}

impl Snapshot {
    /// Counts changes of the objects and of what was looked up.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Counts all changes, those of what this node's kernel says and of how far the objects can be
    /// relied on included: snapshots of one cluster with equal counts are equal.
    pub fn generation(&self) -> u64 {
        self.revision + self.other_changes
    }

    /// How far what is known of the cluster can be relied on.
    pub fn sync(&self) -> &SyncState {
        &self.sync
    }

    /// What the kernel of this node says.
    pub fn node_facts(&self) -> &NodeFacts {
        &self.node_facts
    }

    /// A namespace by name.
    pub fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.objects.namespaces.get(name)
    }

    /// All namespaces that have an object, in no order.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        self.objects.namespaces.values()
    }

    /// A pod by namespace and name.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Arc<Pod>> {
        self.objects.pods.get(&(namespace.into(), name.into()))
    }

    /// All pods, in no order.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.objects.pods.values()
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.objects.nodes.get(name)
    }

    /// All nodes, in no order.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.objects.nodes.values()
    }

    /// The node in whose pod network an address lies.
    pub fn node_of_pod_network(&self, address: IpAddr) -> Option<&Arc<Node>> {
        let holds = |node: &&Arc<Node>| node.pod_networks.iter().any(|n| n.contains(&address));
        self.nodes().find(holds)
    }

    /// A Service by namespace and name.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Arc<Service>> {
        self.objects.services.get(&(namespace.into(), name.into()))
    }

    /// All Services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.objects.services.values()
    }

    /// The `EndpointSlices` of a Service.
    pub fn slices<'a>(
        &'a self,
        service: &'a Service,
    ) -> impl Iterator<Item = &'a Arc<EndpointSlice>> {
        self.objects.endpoint_slices.values().filter(move |slice| {
            slice.namespace == service.namespace && slice.service.as_deref() == Some(&*service.name)
        })
    }

    /// A service account by namespace and name.
    pub fn service_account(&self, namespace: &str, name: &str) -> Option<&Arc<ServiceAccount>> {
        self.objects.service_accounts.get(&(namespace.into(), name.into()))
    }

    /// All objects that make something connect to pods, in no order.
    pub fn callers(&self) -> impl Iterator<Item = &Arc<Caller>> {
        self.objects.callers.values()
    }

    /// A tier by name. The default one is there in any cluster.
    pub fn tier(&self, name: &str) -> Option<Arc<Tier>> {
        let default = || (name == DEFAULT_TIER).then(|| Arc::new(Tier::default_tier()));
        self.objects.tiers.get(name).cloned().or_else(default)
    }

    /// All tiers, the default one included, in no order.
    pub fn tiers(&self) -> Vec<Arc<Tier>> {
        let default = (!self.objects.tiers.contains_key(DEFAULT_TIER))
            .then(|| Arc::new(Tier::default_tier()));
        self.objects.tiers.values().cloned().chain(default).collect()
    }

    /// All network sets, in no order.
    pub fn network_sets(&self) -> impl Iterator<Item = &Arc<NetworkSet>> {
        self.objects.network_sets.values()
    }

    /// The pool that an address is from: the smallest network of those that hold it.
    pub fn address_pool_of(&self, address: IpAddr) -> Option<&Arc<AddressPool>> {
        let pools = self.objects.address_pools.values();
        let holding = pools.filter(|pool| pool.network.contains(&address));
        holding.max_by_key(|pool| pool.network.prefix_len())
    }

    /// The network sets that an address is in.
    pub fn network_sets_of(&self, address: IpAddr) -> Vec<&Arc<NetworkSet>> {
        let holds = |set: &&Arc<NetworkSet>| set.networks.iter().any(|n| n.contains(&address));
        self.network_sets().filter(holds).collect()
    }

    /// Who enforces the policies.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The group in which users write Calico's objects, if it is known which are served.
    pub fn calico_group(&self) -> Option<Group> {
        self.calico_groups.first().copied()
    }

    /// The snapshot for one who writes Calico's objects as they are stored, where they are.
    #[must_use]
    pub fn as_stored(&self) -> Self {
        let stored = self.calico_groups.contains(&Group::Stored);
        let calico_groups = if stored { &[Group::Stored] } else { self.calico_groups };
        Self { calico_groups, ..self.clone() }
    }

    /// What policies mean to who enforces them.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The policies, by what they select.
    pub fn policies(&self) -> &PolicyIndex {
        &self.objects.policies
    }

    /// Who holds or held an address.
    pub fn holdings(&self, address: IpAddr) -> &[Holding] {
        self.objects.holdings.get(&address).map_or(&[], Vec::as_slice)
    }

    /// Whether all addresses of the cluster may be of this family, IPv4 or else IPv6, by those that are
    /// known. Where none is, it is a cluster like most.
    pub fn may_be_of_one_family(&self, is_v4: bool) -> bool {
        let mut known = self.objects.holdings.keys();
        match is_v4 {
            true => known.all(IpAddr::is_ipv4),
            false => !self.objects.holdings.is_empty() && known.all(IpAddr::is_ipv6),
        }
    }

    /// How many objects of a kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        self.objects.count(kind)
    }

    /// An object by kind and name.
    pub fn object(&self, key: &Key) -> Option<Object> {
        self.objects.get(key)
    }

    /// The snapshot with one more policy, for asking "what if".
    #[must_use]
    pub fn with_policy(&self, policy: Policy) -> Self {
        let mut changed = self.clone();
        changed.objects.policies.insert(Arc::new(policy));
        changed
    }

    /// The snapshot with a pod as given, for asking "what if".
    #[must_use]
    pub fn with_pod(&self, pod: Pod) -> Self {
        let mut changed = self.clone();
        changed.objects.put(Object::Pod(pod), None);
        changed
    }

    /// The snapshot with a namespace as given, for asking "what if".
    #[must_use]
    pub fn with_namespace(&self, namespace: Namespace) -> Self {
        let mut changed = self.clone();
        changed.objects.namespaces.insert_mut(namespace.name.clone(), Arc::new(namespace));
        changed
    }
}

impl Snapshot {
    /// The snapshot for asking of a time: who was behind a Service then, as well as who is at an end.
    #[must_use]
    pub(crate) fn as_of(&self, at: Option<Timestamp>) -> Self {
        Self { as_of: at, ..self.clone() }
    }

    /// The snapshot as another engine takes it, for asking "what if".
    #[must_use]
    pub fn with_profile(&self, profile: Profile) -> Self {
        Self { profile, ..self.clone() }
    }

    fn put(&mut self, object: Object, at: Option<Timestamp>) {
        self.revision += 1;
        self.objects.put(object, at);
    }

    /// Puts an object back as it was before a change.
    fn put_back(&mut self, object: Object) {
        self.revision += 1;
        match object {
            Object::Pod(pod) => self.objects.put_pod_back(Arc::new(pod)),
            object => self.objects.put(object, None),
        }
    }

    fn remove(&mut self, key: &Key, at: Timestamp) {
        self.revision += 1;
        self.objects.remove(key, at);
    }
}

/// The only writer of a [`Snapshot`].
#[derive(Debug, Default)]
pub struct Cluster {
    snapshot: Snapshot,
    history: History,
    is_engine_given: bool,
}

impl Cluster {
    /// A cluster where these kinds have not been listed yet.
    pub fn unsynced(kinds: impl IntoIterator<Item = Kind>) -> Self {
        let sync = SyncState::unsynced_kinds(kinds);
        Self { snapshot: Snapshot { sync, ..Snapshot::default() }, ..Self::default() }
    }

    /// The cluster as it is now.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    /// What changed lately.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// A kind has been listed once.
    pub fn synced(&mut self, kind: Kind) {
        let was_stale = self.snapshot.sync.stale().contains_key(&kind);
        self.snapshot.revision += u64::from(self.snapshot.sync.synced(kind));
        self.snapshot.other_changes += u64::from(was_stale);
    }

    /// A kind cannot be listed or followed, since then. What is known of it stays in force.
    pub fn failing(&mut self, kind: Kind, since: Timestamp, why: &str) {
        let is_news = self.snapshot.sync.failing(kind, since, why);
        self.snapshot.other_changes += u64::from(is_news);
    }

    /// The objects of a kind in a namespace (`None`: of the cluster) will not be known, and why: whoever
    /// asks may not read them.
    pub fn unreadable(&mut self, kind: Kind, namespace: Option<&str>, why: Unreadable) {
        self.snapshot.sync.set_unreadable(kind, namespace, why);
        self.snapshot.revision += 1;
    }

    /// The policies that are not read.
    pub fn set_unread(&mut self, unread: impl IntoIterator<Item = Arc<Unread>>) {
        self.snapshot.revision += u64::from(self.snapshot.sync.set_unread(unread));
    }

    /// Who enforces the policies, as the objects show; what the user said stays so.
    pub fn set_engine(&mut self, engine: Engine) {
        if !self.is_engine_given && *self.snapshot.engine != engine {
            self.snapshot.profile = engine.profile();
            self.snapshot.engine = Arc::new(engine);
            self.snapshot.revision += 1;
        }
    }

    /// The groups that the API server has. Users write Calico's objects in the group of its own API
    /// where that is served, be it by Calico's API server or by nothing but definitions; what is stored
    /// is not theirs to write.
    pub fn set_served<'a>(&mut self, groups: impl IntoIterator<Item = &'a str>) {
        let groups: Vec<&str> = groups.into_iter().collect();
        let is_served = |group: Group| groups.contains(&group.name());
        self.snapshot.calico_groups = match (is_served(Group::Api), is_served(Group::Stored)) {
            (true, true) => &[Group::Api, Group::Stored],
            (true, false) => &[Group::Api],
            (false, true) => &[Group::Stored],
            (false, false) => &[],
        };
    }

    /// Who enforces the policies, as the user says.
    pub fn give_engine(&mut self, engine: Engine) {
        self.is_engine_given = false;
        self.set_engine(engine);
        self.is_engine_given = true;
    }

    /// Stores an object as it is now. `at`: when it came to be so; `None` at the first listing, which
    /// says nothing of when.
    pub fn apply(&mut self, object: Object, at: Option<Timestamp>) {
        if let Some(at) = at {
            self.record_apply(&object, at, Learned::AsItCame);
        }
        self.snapshot.put(object, at);
    }

    /// Stores an object as a look-up found it. Of what was known before, it is seen when it differs;
    /// when it came to be so is not, only that it was otherwise when it was last found.
    pub fn apply_found(&mut self, object: Object, at: Timestamp) {
        if let Object::Pod(pod) = &object {
            self.end_others(pod);
        }
        let key = object.key();
        let known = self.snapshot.object(&key).is_some();
        let last = self.snapshot.found.get(&key).copied();
        self.snapshot.found.insert_mut(key, at);
        if known {
            self.record_apply(&object, at, Learned::Later(last));
        }
        self.snapshot.put(object, known.then_some(at));
    }

    /// An object is gone.
    pub fn delete(&mut self, key: &Key, at: Timestamp) {
        self.snapshot.found.remove_mut(key);
        self.record_delete(key, at);
        self.snapshot.remove(key, at);
    }

    /// A look-up finds an object no more. When a pod went was not seen: from when it was last found others
    /// may have had its addresses.
    pub fn delete_found(&mut self, key: &Key, at: Timestamp) {
        if key.kind == Kind::Pod {
            self.end_found(key, at);
        }
        self.delete(key, at);
    }

    /// An object that is not followed is of no use any more. Whether it is gone is not known.
    pub fn forget(&mut self, key: &Key, at: Timestamp) {
        self.snapshot.found.remove_mut(key);
        self.snapshot.revision += 1;
        self.snapshot.objects.forget(key, at);
    }
}
