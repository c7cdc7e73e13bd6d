//! What is known of the cluster: one writer, immutable snapshots.

pub mod history;
mod local;
pub mod look_up;
pub mod object;
pub mod resolve;
pub mod translate;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use rpds::HashTrieMapSync;

use crate::policy::{DEFAULT_TIER, Policy, PolicyRef, index::PolicyIndex, tier::Tier};
use history::History;
pub use local::{Interface, Invalid, TableFull};
use look_up::{LookUp, Sought};
use object::{
    EndpointSlice, Key, Kind, Namespace, NetworkSet, Node, Object, Pod, Service, ServiceAccount,
};

/// How long an address stays resolvable to a pod that has gone: a drop is judged some seconds
/// after the fact, and a burst's last report a minute later.
pub const HELD_AFTER_END: SignedDuration = SignedDuration::from_secs(300);

/// How many former holders of one address are kept: more within [`HELD_AFTER_END`] would be a
/// pod in a crash loop of its network, and only the latest can be what a report is about.
const FORMER_HOLDERS_MAX: usize = 4;

/// Namespace and name of a namespaced object.
pub type Name = (Arc<str>, Arc<str>);

/// Namespace, of those that are in one, and name of a network set.
type SetName = (Option<Arc<str>>, Arc<str>);

/// Who holds, or held, an address.
#[derive(Clone, Debug, PartialEq)]
pub struct Holding {
    /// Who.
    pub by: HeldBy,
    /// Since when; `None`: for as long as is known.
    pub since: Option<Timestamp>,
    /// Until when; `None`: still.
    pub until: Option<Timestamp>,
}

/// What can hold an address. Pods of the host network hold none: the address is their node's.
#[derive(Clone, Debug, PartialEq)]
pub enum HeldBy {
    /// A pod.
    Pod(Arc<Pod>),
    /// The node of this name.
    Node(Arc<str>),
    /// A Service, before translation to a backend.
    Service(Arc<Service>),
}

/// Who enforces the policies, where the same objects mean something else.
///
/// It is a property of the cluster and no guess from its policies: Calico polices what the
/// specification exempts in a cluster of Kubernetes' policies alone as well. Whoever reads the
/// objects tells it, by whether the API server serves Calico's kinds, or manifests hold any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Engine {
    /// Nothing is known that would differ from the specification.
    #[default]
    Standard,
    /// Calico: a pod may not always reach its own node. (The node may reach the pod.)
    Calico,
}

/// The cluster at one moment. Cheap to clone: clones share what did not change.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    revision: u64,
    namespaces: HashTrieMapSync<Arc<str>, Arc<Namespace>>,
    pods: HashTrieMapSync<Name, Arc<Pod>>,
    nodes: HashTrieMapSync<Arc<str>, Arc<Node>>,
    services: HashTrieMapSync<Name, Arc<Service>>,
    endpoint_slices: HashTrieMapSync<Name, Arc<EndpointSlice>>,
    service_accounts: HashTrieMapSync<Name, Arc<ServiceAccount>>,
    policies: PolicyIndex,
    tiers: HashTrieMapSync<Arc<str>, Arc<Tier>>,
    network_sets: HashTrieMapSync<SetName, Arc<NetworkSet>>,
    engine: Engine,
    holdings: HashTrieMapSync<IpAddr, Vec<Holding>>,
    interfaces: HashTrieMapSync<u32, Arc<Interface>>,
    table_full: Option<TableFull>,
    invalid: Arc<[Invalid]>,
    looked_up: Option<HashTrieMapSync<Sought, LookUp>>,
    unsynced: BTreeMap<Kind, Option<Arc<str>>>,
    stale: BTreeMap<Kind, Timestamp>,
    unread: Arc<BTreeMap<String, usize>>,
}

impl Snapshot {
    /// Counts changes: equal revisions of one agent are equal snapshots.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Kinds that have not been listed once, and why not if that is known: what depends on them
    /// cannot be told.
    pub fn unsynced(&self) -> &BTreeMap<Kind, Option<Arc<str>>> {
        &self.unsynced
    }

    /// Kinds of which nothing has been heard since some time: what is known of them is that old.
    pub fn stale(&self) -> &BTreeMap<Kind, Timestamp> {
        &self.stale
    }

    /// How many policies there are of kinds that cannot be read: verdicts may depend on them.
    pub fn unread(&self) -> &BTreeMap<String, usize> {
        &self.unread
    }

    /// A namespace by name.
    pub fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.get(name)
    }

    /// A pod by namespace and name.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Arc<Pod>> {
        self.pods.get(&(namespace.into(), name.into()))
    }

    /// All pods, in no order.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.values()
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    /// All nodes, in no order.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// The node in whose pod network an address lies.
    pub fn node_of_pod_network(&self, address: IpAddr) -> Option<&Arc<Node>> {
        let holds = |node: &&Arc<Node>| node.pod_networks.iter().any(|n| n.contains(&address));
        self.nodes().find(holds)
    }

    /// A Service by namespace and name.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Arc<Service>> {
        self.services.get(&(namespace.into(), name.into()))
    }

    /// All Services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The `EndpointSlices` of a Service.
    pub fn slices<'a>(
        &'a self,
        service: &'a Service,
    ) -> impl Iterator<Item = &'a Arc<EndpointSlice>> {
        self.endpoint_slices.values().filter(move |slice| {
            slice.namespace == service.namespace && slice.service.as_deref() == Some(&*service.name)
        })
    }

    /// A service account by namespace and name.
    pub fn service_account(&self, namespace: &str, name: &str) -> Option<&Arc<ServiceAccount>> {
        self.service_accounts.get(&(namespace.into(), name.into()))
    }

    /// A tier by name. The default one is there in any cluster.
    pub fn tier(&self, name: &str) -> Option<Arc<Tier>> {
        let default = || (name == DEFAULT_TIER).then(|| Arc::new(Tier::default_tier()));
        self.tiers.get(name).cloned().or_else(default)
    }

    /// The network sets that an address is in.
    pub fn network_sets_of(&self, address: IpAddr) -> Vec<&Arc<NetworkSet>> {
        let holds = |set: &&Arc<NetworkSet>| set.networks.iter().any(|n| n.contains(&address));
        self.network_sets.values().filter(holds).collect()
    }

    /// Who enforces the policies.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// The policies, by what they select.
    pub fn policies(&self) -> &PolicyIndex {
        &self.policies
    }

    /// Who holds or held an address.
    pub fn holdings(&self, address: IpAddr) -> &[Holding] {
        self.holdings.get(&address).map_or(&[], Vec::as_slice)
    }

    /// How many objects of a kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Pod => self.pods.size(),
            Kind::Namespace => self.namespaces.size(),
            Kind::Node => self.nodes.size(),
            Kind::Service => self.services.size(),
            Kind::EndpointSlice => self.endpoint_slices.size(),
            Kind::ServiceAccount => self.service_accounts.size(),
            Kind::Policy(kind) => self.policies.iter().filter(|p| p.reference.kind == kind).count(),
            Kind::Tier => self.tiers.size(),
            Kind::NetworkSet | Kind::GlobalNetworkSet => {
                self.network_sets.values().filter(|set| set.kind() == kind).count()
            }
        }
    }

    /// The snapshot with one more policy, for asking "what if".
    #[must_use]
    pub fn with_policy(&self, policy: Policy) -> Self {
        let mut changed = self.clone();
        changed.policies.insert(Arc::new(policy));
        changed
    }

    /// The snapshot with a namespace as given, for asking "what if".
    #[must_use]
    pub fn with_namespace(&self, namespace: Namespace) -> Self {
        let mut changed = self.clone();
        changed.namespaces.insert_mut(namespace.name.clone(), Arc::new(namespace));
        changed
    }
}

/// The only writer of a [`Snapshot`].
#[derive(Debug, Default)]
pub struct Cluster {
    snapshot: Snapshot,
    history: History,
}

impl Cluster {
    /// A cluster of which these kinds have not been listed yet.
    pub fn unsynced(kinds: impl IntoIterator<Item = Kind>) -> Self {
        let unsynced = kinds.into_iter().map(|kind| (kind, None)).collect();
        Self { snapshot: Snapshot { unsynced, ..Snapshot::default() }, history: History::default() }
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
        if self.snapshot.unsynced.remove(&kind).is_some() {
            self.snapshot.revision += 1;
        }
        self.snapshot.stale.remove(&kind);
    }

    /// A kind cannot be listed or followed, since then. What is known of it stays in force.
    pub fn failing(&mut self, kind: Kind, since: Timestamp, why: &str) {
        match self.snapshot.unsynced.get_mut(&kind) {
            Some(reason) => *reason = Some(why.into()),
            None => {
                self.snapshot.stale.entry(kind).or_insert(since);
            }
        }
    }

    /// How many policies of which kinds cannot be read.
    pub fn set_unread(&mut self, unread: BTreeMap<String, usize>) {
        if *self.snapshot.unread != unread {
            self.snapshot.unread = Arc::new(unread);
            self.snapshot.revision += 1;
        }
    }

    /// Who enforces the policies.
    pub fn set_engine(&mut self, engine: Engine) {
        if self.snapshot.engine != engine {
            self.snapshot.engine = engine;
            self.snapshot.revision += 1;
        }
    }

    /// Takes an object as it is now. `at`: when it came to be so; `None` at the first listing,
    /// which says nothing of when.
    pub fn apply(&mut self, object: Object, at: Option<Timestamp>) {
        if let Some(at) = at {
            self.record_apply(&object, at);
        }
        Self::put(&mut self.snapshot, object, at);
    }

    /// Makes an object part of a snapshot, in place of what it was before.
    fn put(snapshot: &mut Snapshot, object: Object, at: Option<Timestamp>) {
        snapshot.revision += 1;
        match object {
            Object::Namespace(namespace) => {
                snapshot.namespaces.insert_mut(namespace.name.clone(), Arc::new(namespace));
            }
            Object::Pod(pod) => {
                let pod = Arc::new(pod);
                let name = (pod.namespace.clone(), pod.name.clone());
                if let Some(before) = snapshot.pods.get(&name).cloned() {
                    let gone = before.addresses.iter().filter(|a| !pod.addresses.contains(a));
                    for address in gone {
                        snapshot.end_holding(*address, &HeldBy::Pod(before.clone()), at);
                    }
                }
                snapshot.hold_as_pod(&pod, at);
                snapshot.pods.insert_mut(name, pod);
            }
            Object::Node(node) => {
                let before = snapshot.nodes.get(&node.name).cloned();
                let held_by = HeldBy::Node(node.name.clone());
                for address in before.iter().flat_map(|before| &before.addresses) {
                    if !node.addresses.contains(address) {
                        snapshot.end_holding(*address, &held_by, at);
                    }
                }
                for address in &node.addresses {
                    snapshot.begin_holding(*address, held_by.clone(), None);
                }
                snapshot.nodes.insert_mut(node.name.clone(), Arc::new(node));
            }
            Object::Service(service) => {
                let service = Arc::new(service);
                let name = (service.namespace.clone(), service.name.clone());
                if let Some(before) = snapshot.services.get(&name).cloned() {
                    let gone = before.addresses.iter().filter(|a| !service.addresses.contains(a));
                    for address in gone {
                        snapshot.end_holding(*address, &HeldBy::Service(before.clone()), at);
                    }
                }
                for address in &service.addresses {
                    snapshot.begin_holding(*address, HeldBy::Service(service.clone()), at);
                }
                snapshot.services.insert_mut(name, service);
            }
            Object::EndpointSlice(slice) => {
                let name = (slice.namespace.clone(), slice.name.clone());
                snapshot.endpoint_slices.insert_mut(name, Arc::new(slice));
            }
            Object::ServiceAccount(account) => {
                let name = (account.namespace.clone(), account.name.clone());
                snapshot.service_accounts.insert_mut(name, Arc::new(account));
            }
            Object::Tier(tier) => {
                snapshot.tiers.insert_mut(tier.name.clone(), Arc::new(tier));
            }
            Object::NetworkSet(set) => {
                let name = (set.namespace.clone(), set.name.clone());
                snapshot.network_sets.insert_mut(name, Arc::new(set));
            }
            Object::Policy(mut policy) => {
                // Without a timestamp of its own (a manifest), a policy that a running agent sees
                // come is as old as that.
                let before = snapshot.policies.get(&policy.reference);
                policy.created = policy.created.or(before.map_or(at, |before| before.created));
                snapshot.policies.insert(Arc::new(policy));
            }
        }
    }

    /// An object is gone.
    pub fn delete(&mut self, key: &Key, at: Timestamp) {
        self.record_delete(key, at);
        Self::take_out(&mut self.snapshot, key, at);
    }

    /// An object that is not followed is of no use any more. Whether it is gone is not known.
    pub fn forget(&mut self, key: &Key, at: Timestamp) {
        Self::take_out(&mut self.snapshot, key, at);
    }

    /// Takes an object out of a snapshot.
    fn take_out(snapshot: &mut Snapshot, key: &Key, at: Timestamp) {
        snapshot.revision += 1;
        let name = || (key.namespace.clone().unwrap_or_default(), key.name.clone());
        match key.kind {
            Kind::Namespace => {
                snapshot.namespaces.remove_mut(&key.name);
            }
            Kind::Pod => {
                if let Some(pod) = snapshot.pods.get(&name()).cloned() {
                    for address in &pod.addresses {
                        snapshot.end_holding(*address, &HeldBy::Pod(pod.clone()), Some(at));
                    }
                    snapshot.pods.remove_mut(&name());
                }
            }
            Kind::Node => {
                if let Some(node) = snapshot.nodes.get(&key.name).cloned() {
                    for address in &node.addresses {
                        let held_by = HeldBy::Node(node.name.clone());
                        snapshot.end_holding(*address, &held_by, Some(at));
                    }
                    snapshot.nodes.remove_mut(&key.name);
                }
            }
            Kind::Service => {
                if let Some(service) = snapshot.services.get(&name()).cloned() {
                    for address in &service.addresses {
                        let held_by = HeldBy::Service(service.clone());
                        snapshot.end_holding(*address, &held_by, Some(at));
                    }
                    snapshot.services.remove_mut(&name());
                }
            }
            Kind::EndpointSlice => {
                snapshot.endpoint_slices.remove_mut(&name());
            }
            Kind::ServiceAccount => {
                snapshot.service_accounts.remove_mut(&name());
            }
            Kind::Tier => {
                snapshot.tiers.remove_mut(&key.name);
            }
            Kind::NetworkSet | Kind::GlobalNetworkSet => {
                snapshot.network_sets.remove_mut(&(key.namespace.clone(), key.name.clone()));
            }
            Kind::Policy(kind) => {
                let reference =
                    PolicyRef { kind, namespace: key.namespace.clone(), name: key.name.clone() };
                snapshot.policies.remove(&reference);
            }
        }
    }

    /// Addresses that the kernel of this node has, beside those that the Node object lists: a
    /// kubelet's probe may come from the address of a bridge or a tunnel.
    pub fn set_local_addresses(&mut self, node: &Arc<str>, addresses: &[IpAddr]) {
        for address in addresses {
            self.snapshot.begin_holding(*address, HeldBy::Node(node.clone()), None);
        }
    }
}

impl Snapshot {
    fn hold_as_pod(&mut self, pod: &Arc<Pod>, at: Option<Timestamp>) {
        if let Some(node) = &pod.node {
            let of_node = if pod.host_network { &pod.addresses[..] } else { &[] };
            for address in pod.host_addresses.iter().chain(of_node) {
                // Weaker than a pod's own claim, see `resolve`.
                self.begin_holding(*address, HeldBy::Node(node.clone()), None);
            }
        }
        if !pod.host_network {
            for address in &pod.addresses {
                let since = pod.created.or(at);
                self.begin_holding(*address, HeldBy::Pod(pod.clone()), since);
            }
        }
    }

    fn begin_holding(&mut self, address: IpAddr, by: HeldBy, since: Option<Timestamp>) {
        let mut holdings = self.holdings.get(&address).cloned().unwrap_or_default();
        match holdings.iter_mut().find(|h| h.until.is_none() && h.by.is_same_object(&by)) {
            Some(holding) => holding.by = by,
            None => holdings.push(Holding { by, since, until: None }),
        }
        self.holdings.insert_mut(address, holdings);
    }

    fn end_holding(&mut self, address: IpAddr, by: &HeldBy, at: Option<Timestamp>) {
        let Some(holdings) = self.holdings.get(&address) else { return };
        let mut holdings = holdings.clone();
        for holding in &mut holdings {
            if holding.until.is_none() && holding.by.is_same_object(by) {
                holding.until = at;
            }
        }
        let oldest = at.map(|at| at - HELD_AFTER_END);
        holdings.retain(|h| match (h.until, oldest) {
            (Some(until), Some(oldest)) => until >= oldest,
            // Ended without a time: nothing can be asked of it.
            (None, None) => !h.by.is_same_object(by),
            _ => true,
        });
        let former = holdings.iter().filter(|h| h.until.is_some()).count();
        let mut surplus = former.saturating_sub(FORMER_HOLDERS_MAX);
        holdings.retain(|h| {
            let drop = surplus > 0 && h.until.is_some();
            surplus -= usize::from(drop);
            !drop
        });
        if holdings.is_empty() {
            self.holdings.remove_mut(&address);
        } else {
            self.holdings.insert_mut(address, holdings);
        }
    }
}

impl HeldBy {
    fn is_same_object(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pod(a), Self::Pod(b)) => {
                (&a.namespace, &a.name, &a.uid) == (&b.namespace, &b.name, &b.uid)
            }
            (Self::Node(a), Self::Node(b)) => a == b,
            (Self::Service(a), Self::Service(b)) => {
                (&a.namespace, &a.name) == (&b.namespace, &b.name)
            }
            _ => false,
        }
    }
}
