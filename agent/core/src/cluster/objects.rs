//! The objects of a snapshot, and who holds which address by them.

use std::{net::IpAddr, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use rpds::HashTrieMapSync;
use strum::VariantArray as _;

use super::{
    Name,
    address_pool::AddressPool,
    caller::{Caller, CallerKind},
    node_address::NodeAddress,
    object::{
        EndpointSlice, Key, Kind, Namespace, Node, Object, PluginNode, PluginNodeKind, Pod,
        Service, ServiceAccount, Template, WorkloadKind,
    },
};
use crate::policy::{Policy, PolicyRef, index::PolicyIndex, network_set::NetworkSet, tier::Tier};

/// How long an address stays resolvable to a pod that has gone: a drop is judged some seconds
/// after the fact, and a burst's last report a minute later.
pub const HELD_AFTER_END: SignedDuration = SignedDuration::from_secs(300);

/// How many former holders of one address are kept: more within [`HELD_AFTER_END`] would be a
/// pod in a crash loop of its network, and only the latest can be what a report is about.
const FORMER_HOLDERS_MAX: usize = 4;

/// Namespace, of those that are in one, and name of a network set.
type SetName = (Option<Arc<str>>, Arc<str>);

/// Kind, namespace and name of a workload.
type TemplateName = (WorkloadKind, Arc<str>, Arc<str>);

/// Kind, namespace of those that are in one, and name of what makes something connect.
type CallerName = (CallerKind, Option<Arc<str>>, Arc<str>);

/// How much later than an object's own time it may truly have happened: the API server writes whole
/// seconds.
const WHOLE_SECOND: SignedDuration = SignedDuration::from_secs(1);

/// Who holds, or held, an address.
#[derive(Clone, Debug, PartialEq)]
pub struct Holding {
    /// Who.
    pub by: HeldBy,
    /// Since when, at the earliest; `None`: for as long as is known.
    pub since: Option<Timestamp>,
    /// When it was seen to come; `None`: it was there when it was first heard of.
    pub seen: Option<Timestamp>,
    /// Until when; `None`: still.
    pub until: Option<Timestamp>,
    /// Nobody saw it end: until then it was found, and not when it was looked up next.
    pub is_end_unseen: bool,
}

/// What can hold an address. Pods of the host network hold none: the address is their node's.
#[derive(Clone, Debug, PartialEq)]
pub enum HeldBy {
    /// A pod.
    Pod(Arc<Pod>),
    /// The node of this name.
    Node(Arc<str>),
    /// A pod, on the network of this name that it has beside the cluster's own.
    SecondNetwork(Arc<Pod>, Arc<str>),
    /// A Service, before translation to a backend.
    Service(Arc<Service>),
}

/// What is known of the API's objects. Cheap to clone: clones share what did not change.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    pub(super) namespaces: HashTrieMapSync<Arc<str>, Arc<Namespace>>,
    pub(super) pods: HashTrieMapSync<Name, Arc<Pod>>,
    /// Nodes with all that their objects and those of their network plugins say of them.
    pub(super) nodes: HashTrieMapSync<Arc<str>, Arc<Node>>,
    /// Nodes as their own objects have them.
    listed_nodes: HashTrieMapSync<Arc<str>, Arc<Node>>,
    plugin_nodes: HashTrieMapSync<(PluginNodeKind, Arc<str>), Arc<PluginNode>>,
    pub(super) services: HashTrieMapSync<Name, Arc<Service>>,
    pub(super) endpoint_slices: HashTrieMapSync<Name, Arc<EndpointSlice>>,
    pub(super) service_accounts: HashTrieMapSync<Name, Arc<ServiceAccount>>,
    pub(super) policies: PolicyIndex,
    pub(super) address_pools: HashTrieMapSync<Arc<str>, Arc<AddressPool>>,
    pub(super) tiers: HashTrieMapSync<Arc<str>, Arc<Tier>>,
    pub(super) network_sets: HashTrieMapSync<SetName, Arc<NetworkSet>>,
    pub(super) templates: HashTrieMapSync<TemplateName, Arc<Template>>,
    pub(super) callers: HashTrieMapSync<CallerName, Arc<Caller>>,
    pub(super) holdings: HashTrieMapSync<IpAddr, Vec<Holding>>,
}

impl Objects {
    /// Adds an object, in place of what it was before.
    pub(super) fn put(&mut self, object: Object, at: Option<Timestamp>) {
        match object {
            Object::Namespace(namespace) => {
                self.namespaces.insert_mut(namespace.name.clone(), Arc::new(namespace));
            }
            Object::Pod(pod) => self.put_pod(Arc::new(pod), at),
            Object::Node(node) => {
                let name = node.name.clone();
                self.listed_nodes.insert_mut(name.clone(), Arc::new(node));
                self.renew_node(&name, at);
            }
            Object::PluginNode(node) => {
                let name = node.name.clone();
                self.plugin_nodes.insert_mut((node.kind, name.clone()), Arc::new(node));
                self.renew_node(&name, at);
            }
            Object::Service(service) => self.put_service(Arc::new(service), at),
            Object::EndpointSlice(slice) => {
                let name = (slice.namespace.clone(), slice.name.clone());
                self.endpoint_slices.insert_mut(name, Arc::new(slice));
            }
            Object::ServiceAccount(account) => {
                let name = (account.namespace.clone(), account.name.clone());
                self.service_accounts.insert_mut(name, Arc::new(account));
            }
            Object::AddressPool(pool) => {
                self.address_pools.insert_mut(pool.name.clone(), Arc::new(pool));
            }
            Object::Tier(tier) => {
                self.tiers.insert_mut(tier.name.clone(), Arc::new(tier));
            }
            Object::NetworkSet(set) => {
                let name = (set.namespace.clone(), set.name.clone());
                self.network_sets.insert_mut(name, Arc::new(set));
            }
            Object::Template(template) => {
                let namespace = template.pod.namespace.clone();
                let name = (template.kind, namespace, template.name.clone());
                self.templates.insert_mut(name, Arc::new(template));
            }
            Object::Caller(caller) => {
                let name = (caller.kind, caller.namespace.clone(), caller.name.clone());
                self.callers.insert_mut(name, Arc::new(caller));
            }
            Object::Policy(mut policy) => {
                // Without a timestamp of its own (a manifest), a policy that a running agent sees
                // come is as old as that.
                let before = self.policies.get(&policy.reference);
                policy.created = policy.created.or(before.map_or(at, |before| before.created));
                self.policies.insert(Arc::new(policy));
            }
        }
    }

    fn put_pod(&mut self, pod: Arc<Pod>, at: Option<Timestamp>) {
        let name = (pod.namespace.clone(), pod.name.clone());
        if let Some(before) = self.pods.get(&name).cloned() {
            // Another pod of its name was gone before this one began, whether that was seen or not.
            let is_other = before.uid != pod.uid;
            let until = pod.began().filter(|_| is_other).or(at);
            for address in &before.addresses {
                if is_other || !pod.addresses.contains(address) {
                    self.end_holding(*address, &HeldBy::Pod(before.clone()), until);
                }
            }
            for (address, by) in second_holdings(&before) {
                if is_other || !second_holdings(&pod).any(|held| held == (address, by.clone())) {
                    self.end_holding(address, &by, until);
                }
            }
        }
        self.hold_as_pod(&pod, at);
        self.pods.insert_mut(name, pod);
    }

    /// Puts a pod back as it was before a change. It held its addresses when it did: what was known of
    /// that stays, also of one that another pod of its name has followed.
    pub(super) fn put_pod_back(&mut self, pod: Arc<Pod>) {
        let by = HeldBy::Pod(pod.clone());
        for address in &pod.addresses {
            let Some(holdings) = self.holdings.get(address) else { continue };
            let mut holdings = holdings.clone();
            let own = holdings.iter_mut().filter(|holding| holding.by.is_same_object(&by));
            own.for_each(|holding| holding.by = by.clone());
            self.holdings.insert_mut(*address, holdings);
        }
        self.pods.insert_mut((pod.namespace.clone(), pod.name.clone()), pod);
    }

    /// Makes a node of what its own object and those of its network plugins say now. Without an object
    /// of its own there is none.
    fn renew_node(&mut self, name: &Arc<str>, at: Option<Timestamp>) {
        let before = self.nodes.get(name).cloned();
        let own = self.listed_nodes.get(name);
        let by_plugins = PluginNodeKind::VARIANTS
            .iter()
            .filter_map(|kind| self.plugin_nodes.get(&(*kind, name.clone())));
        let node = own.map(|own| by_plugins.fold(own.clone(), |node, by| with(&node, by)));
        let held = |node: &Option<Arc<Node>>| -> Vec<IpAddr> {
            let own = node.iter().flat_map(|node| node.own_addresses());
            own.map(|known| known.address).collect()
        };
        let (held_before, held) = (held(&before), held(&node));
        let by = HeldBy::Node(name.clone());
        for address in held_before.iter().filter(|address| !held.contains(address)) {
            self.end_holding(*address, &by, at);
        }
        for address in held {
            self.begin_holding(address, by.clone(), None, at);
        }
        match node {
            Some(node) => self.nodes.insert_mut(name.clone(), node),
            None => {
                self.nodes.remove_mut(name);
            }
        }
    }

    fn put_service(&mut self, service: Arc<Service>, at: Option<Timestamp>) {
        let name = (service.namespace.clone(), service.name.clone());
        if let Some(before) = self.services.get(&name).cloned() {
            let own: Vec<IpAddr> = service.addresses().collect();
            for address in before.addresses().filter(|address| !own.contains(address)) {
                self.end_holding(address, &HeldBy::Service(before.clone()), at);
            }
        }
        for address in service.addresses() {
            self.begin_holding(address, HeldBy::Service(service.clone()), at, at);
        }
        self.services.insert_mut(name, service);
    }

    /// Removes an object.
    pub(super) fn remove(&mut self, key: &Key, at: Timestamp) {
        let name = || (key.namespace.clone().unwrap_or_default(), key.name.clone());
        match key.kind {
            Kind::Namespace => {
                self.namespaces.remove_mut(&key.name);
            }
            Kind::Pod => self.remove_pod(&name(), Some(at)),
            Kind::Node => {
                self.listed_nodes.remove_mut(&key.name);
                self.renew_node(&key.name, Some(at));
            }
            Kind::PluginNode(kind) => {
                self.plugin_nodes.remove_mut(&(kind, key.name.clone()));
                self.renew_node(&key.name, Some(at));
            }
            Kind::Service => self.remove_service(&name(), at),
            Kind::EndpointSlice => {
                self.endpoint_slices.remove_mut(&name());
            }
            Kind::ServiceAccount => {
                self.service_accounts.remove_mut(&name());
            }
            Kind::AddressPool => {
                self.address_pools.remove_mut(&key.name);
            }
            Kind::Tier => {
                self.tiers.remove_mut(&key.name);
            }
            Kind::NetworkSet | Kind::GlobalNetworkSet => {
                self.network_sets.remove_mut(&(key.namespace.clone(), key.name.clone()));
            }
            Kind::Template(kind) => {
                let (namespace, name) = name();
                self.templates.remove_mut(&(kind, namespace, name));
            }
            Kind::Caller(kind) => {
                self.callers.remove_mut(&(kind, key.namespace.clone(), key.name.clone()));
            }
            Kind::Policy(kind) => {
                let reference =
                    PolicyRef { kind, namespace: key.namespace.clone(), name: key.name.clone() };
                self.policies.remove(&reference);
            }
        }
    }

    /// Removes an object that may be there. That a pod held its addresses is forgotten with it, since
    /// nobody says that it does not.
    pub(super) fn forget(&mut self, key: &Key, at: Timestamp) {
        match (key.kind, &key.namespace) {
            (Kind::Pod, Some(namespace)) => {
                self.remove_pod(&(namespace.clone(), key.name.clone()), None);
            }
            _ => self.remove(key, at),
        }
    }

    fn remove_pod(&mut self, name: &Name, at: Option<Timestamp>) {
        let Some(pod) = self.pods.get(name).cloned() else { return };
        for address in &pod.addresses {
            self.end_holding(*address, &HeldBy::Pod(pod.clone()), at);
        }
        for (address, by) in second_holdings(&pod) {
            self.end_holding(address, &by, at);
        }
        self.pods.remove_mut(name);
    }

    fn remove_service(&mut self, name: &Name, at: Timestamp) {
        let Some(service) = self.services.get(name).cloned() else { return };
        for address in service.addresses() {
            self.end_holding(address, &HeldBy::Service(service.clone()), Some(at));
        }
        self.services.remove_mut(name);
    }

    /// How many objects of a kind there are.
    pub(super) fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Pod => self.pods.size(),
            Kind::Namespace => self.namespaces.size(),
            Kind::Node => self.listed_nodes.size(),
            Kind::PluginNode(kind) => {
                self.plugin_nodes.keys().filter(|(of, _)| *of == kind).count()
            }
            Kind::Service => self.services.size(),
            Kind::EndpointSlice => self.endpoint_slices.size(),
            Kind::ServiceAccount => self.service_accounts.size(),
            Kind::Policy(kind) => self.policies.iter().filter(|p| p.reference.kind == kind).count(),
            Kind::AddressPool => self.address_pools.size(),
            Kind::Tier => self.tiers.size(),
            Kind::NetworkSet | Kind::GlobalNetworkSet => {
                self.network_sets.values().filter(|set| Kind::of_network_set(set) == kind).count()
            }
            Kind::Template(kind) => self.templates.values().filter(|t| t.kind == kind).count(),
            Kind::Caller(kind) => self.callers.values().filter(|c| c.kind == kind).count(),
        }
    }

    /// An object by kind and name.
    pub(super) fn get(&self, key: &Key) -> Option<Object> {
        let name = || (key.namespace.clone().unwrap_or_default(), key.name.clone());
        Some(match key.kind {
            Kind::Pod => Object::Pod(Pod::clone(self.pods.get(&name())?)),
            Kind::Namespace => Object::Namespace(Namespace::clone(self.namespaces.get(&key.name)?)),
            Kind::Node => Object::Node(Node::clone(self.listed_nodes.get(&key.name)?)),
            Kind::PluginNode(kind) => {
                let node = self.plugin_nodes.get(&(kind, key.name.clone()))?;
                Object::PluginNode(PluginNode::clone(node))
            }
            Kind::Service => Object::Service(Service::clone(self.services.get(&name())?)),
            Kind::EndpointSlice => {
                Object::EndpointSlice(EndpointSlice::clone(self.endpoint_slices.get(&name())?))
            }
            Kind::ServiceAccount => {
                Object::ServiceAccount(ServiceAccount::clone(self.service_accounts.get(&name())?))
            }
            Kind::Policy(kind) => {
                let (namespace, name) = (key.namespace.clone(), key.name.clone());
                let policy = self.policies.get(&PolicyRef { kind, namespace, name })?;
                Object::Policy(Policy::clone(policy))
            }
            Kind::AddressPool => {
                Object::AddressPool(AddressPool::clone(self.address_pools.get(&key.name)?))
            }
            Kind::Tier => Object::Tier(Tier::clone(self.tiers.get(&key.name)?)),
            Kind::NetworkSet | Kind::GlobalNetworkSet => {
                let name = (key.namespace.clone(), key.name.clone());
                Object::NetworkSet(NetworkSet::clone(self.network_sets.get(&name)?))
            }
            Kind::Template(kind) => {
                let (namespace, name) = name();
                Object::Template(Template::clone(self.templates.get(&(kind, namespace, name))?))
            }
            Kind::Caller(kind) => {
                let name = (kind, key.namespace.clone(), key.name.clone());
                Object::Caller(Caller::clone(self.callers.get(&name)?))
            }
        })
    }

    fn hold_as_pod(&mut self, pod: &Arc<Pod>, at: Option<Timestamp>) {
        if let Some(node) = &pod.node {
            let of_node = if pod.host_network { &pod.addresses[..] } else { &[] };
            for address in pod.host_addresses.iter().chain(of_node) {
                // Weaker than a pod's own claim, see `resolve`.
                self.begin_holding(*address, HeldBy::Node(node.clone()), None, at);
            }
        }
        if !pod.host_network {
            // It is there no later than it is seen, whatever the API server's clock says.
            let own = pod.began().map(|began| began.checked_add(WHOLE_SECOND).unwrap_or(began));
            let since = [own, at].into_iter().flatten().min();
            for address in &pod.addresses {
                self.begin_holding(*address, HeldBy::Pod(pod.clone()), since, at);
            }
            for (address, by) in second_holdings(pod) {
                self.begin_holding(address, by, since, at);
            }
        }
    }

    /// From then on, an address is held, as was seen at some time. Whether that is news.
    pub(super) fn begin_holding(
        &mut self,
        address: IpAddr,
        by: HeldBy,
        since: Option<Timestamp>,
        seen: Option<Timestamp>,
    ) -> bool {
        let mut holdings = self.holdings.get(&address).cloned().unwrap_or_default();
        let known = holdings.iter_mut().find(|h| h.until.is_none() && h.by.is_same_object(&by));
        let is_news = known.is_none();
        match known {
            Some(holding) => holding.by = by,
            None => holdings.push(Holding { by, since, seen, until: None, is_end_unseen: false }),
        }
        self.holdings.insert_mut(address, holdings);
        is_news
    }

    /// It is known that an address was held by this until then, and not until when beyond.
    pub(super) fn end_holding_unseen(&mut self, address: IpAddr, by: &HeldBy, until: Timestamp) {
        let Some(holdings) = self.holdings.get(&address) else { return };
        let mut holdings = holdings.clone();
        let own = |holding: &&mut Holding| holding.until.is_none() && holding.by.is_same_object(by);
        holdings.iter_mut().filter(own).for_each(|holding| holding.is_end_unseen = true);
        self.holdings.insert_mut(address, holdings);
        self.end_holding(address, by, Some(until));
    }

    /// From then on, or, without a time, as if it never had been, an address is not held by this.
    pub(super) fn end_holding(&mut self, address: IpAddr, by: &HeldBy, at: Option<Timestamp>) {
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

/// The addresses that a pod holds on networks beside the cluster's own.
fn second_holdings(pod: &Arc<Pod>) -> impl Iterator<Item = (IpAddr, HeldBy)> {
    pod.second_networks.iter().flat_map(|network| {
        let by = HeldBy::SecondNetwork(pod.clone(), network.name.clone());
        network.addresses.iter().map(move |address| (*address, by.clone()))
    })
}

/// A node with what a plugin's object says of it. What was only convention gives way to what is known of
/// the plugin.
fn with(node: &Node, by_plugin: &PluginNode) -> Arc<Node> {
    let own = &node.subnets;
    let mut node = node.clone();
    node.addresses.retain(NodeAddress::is_certain);
    for found in &by_plugin.addresses {
        if node.address(found.address).is_none() {
            node.addresses.push(*found);
        }
    }
    for network in &by_plugin.pod_networks {
        if !node.pod_networks.contains(network) {
            node.pod_networks.push(*network);
        }
    }
    node.subnets.extend(by_plugin.subnets.iter().filter(|subnet| !own.contains(subnet)));
    Arc::new(node)
}

impl HeldBy {
    /// Whether it is the same, though perhaps another version of it.
    pub(super) fn is_same_object(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pod(a), Self::Pod(b)) => {
                (&a.namespace, &a.name, &a.uid) == (&b.namespace, &b.name, &b.uid)
            }
            (Self::Node(a), Self::Node(b)) => a == b,
            (Self::SecondNetwork(a, one), Self::SecondNetwork(b, other)) => {
                (&a.namespace, &a.name, &a.uid, one) == (&b.namespace, &b.name, &b.uid, other)
            }
            (Self::Service(a), Self::Service(b)) => {
                (&a.namespace, &a.name) == (&b.namespace, &b.name)
            }
            _ => false,
        }
    }
}
