//! What the kernel of this node says of itself, beside what the API server says of the cluster.

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use rpds::HashTrieMapSync;

use super::{
    Cluster, HeldBy, Holding, Snapshot,
    known_address::{KnownAddress, known_address},
};

/// An interface of this node, as the kernel's routes show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: Arc<str>,
    /// The addresses that are routed to it alone: those of the pod behind it.
    pub addresses: Vec<IpAddr>,
    /// When it appeared; `None`: it was there before the agent.
    pub since: Option<Timestamp>,
}

/// A time in which the kernel's table of connections was full, so that packets of new ones were
/// dropped (`net/netfilter/nf_conntrack_core.c`, "table full, dropping packet").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull {
    /// When it was seen to have room for the last time before.
    pub from: Timestamp,
    /// When it was seen to have dropped for the last time.
    pub to: Timestamp,
    /// How many connections it held.
    pub entries: u64,
    /// How many it may hold.
    pub entries_max: u64,
}

/// Packets that conntrack could not make sense of (`--ctstate INVALID`), which network plugins drop
/// whatever the policies say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// When the counter was read before.
    pub from: Timestamp,
    /// When it was read.
    pub to: Timestamp,
    /// By how much it had grown.
    pub packets: u64,
}

/// How many readings are kept: twice what a connect's first SYNs take until they are judged.
const INVALID_MAX: usize = 16;

/// A table that is full again after so short a time was full all the while: a drop is judged some
/// seconds after the fact, and between two attempts nothing shows.
const FULL_AGAIN_WITHIN: SignedDuration = SignedDuration::from_secs(10);

/// What the kernel of this node says of itself. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    interfaces: HashTrieMapSync<u32, Arc<Interface>>,
    addresses: Arc<Addresses>,
    table_full: Option<TableFull>,
    invalid: Arc<[Invalid]>,
}

/// The addresses that the kernel of this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Those of its own interfaces.
    pub local: BTreeSet<IpAddr>,
    /// Those that it routes, each on its own, to a veth: of pods.
    pub routed: BTreeSet<IpAddr>,
}

impl TableFull {
    /// Whether packets that were dropped from the first of these times to the last may have been
    /// while it was full.
    pub fn covers(&self, dropped: &RangeInclusive<Timestamp>) -> bool {
        *dropped.end() >= self.from && *dropped.start() <= self.to
    }
}

impl NodeFacts {
    /// An interface by its index.
    pub fn interface(&self, index: u32) -> Option<&Arc<Interface>> {
        self.interfaces.get(&index)
    }

    /// The addresses of this node's own interfaces, those of its loopback left out.
    pub fn local_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.local.iter().copied().filter(|address| !address.is_loopback())
    }

    /// Whether one of this node's own interfaces has an address.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.addresses.local.contains(&address)
    }

    /// Whether this kernel routes this very address to a pod.
    pub fn is_routed_to_pod(&self, address: IpAddr) -> bool {
        self.addresses.routed.contains(&address)
    }

    /// When the table of connections was full last.
    pub fn table_full(&self) -> Option<&TableFull> {
        self.table_full.as_ref()
    }

    /// How many packets conntrack found invalid in the readings that touch this time.
    pub fn invalid_packets(&self, during: &RangeInclusive<Timestamp>) -> u64 {
        let meanwhile = self
            .invalid
            .iter()
            .filter(|invalid| *during.end() >= invalid.from && *during.start() <= invalid.to);
        meanwhile.map(|invalid| invalid.packets).sum()
    }

    /// When the interface appeared that an address is routed to alone: nothing of a pod behind it is from
    /// before. `None`: it was there before the agent, or there is none.
    pub fn appeared(&self, address: IpAddr) -> Option<Timestamp> {
        let mut own = self.interfaces.values().filter(|own| own.addresses.contains(&address));
        own.find_map(|own| own.since)
    }

    /// The interface of this index, where it had appeared no longer than `within` before then, and
    /// how old it was.
    pub fn new_interface(
        &self,
        index: u32,
        then: Timestamp,
        within: SignedDuration,
    ) -> Option<(&Interface, SignedDuration)> {
        let interface = self.interface(index)?;
        let age = then.duration_since(interface.since?);
        (age <= within).then_some((interface, age))
    }
}

impl Snapshot {
    /// The addresses of the pod behind an interface, as far as they are known: those that the kernel routes to
    /// it alone, and, of the pod that has one of these, all that its object says. Some networks route a
    /// pod's second address by a prefix.
    pub fn addresses_behind(&self, interface: &Interface) -> BTreeSet<IpAddr> {
        let mut all: BTreeSet<IpAddr> = interface.addresses.iter().copied().collect();
        for address in &interface.addresses {
            let now = || self.holdings(*address).iter().filter(|held| held.until.is_none());
            // What its status says of a pod's address counts for more than another's annotation.
            let is_a_pods = now().any(|held| matches!(held.by, HeldBy::Pod(_)));
            for held in now() {
                let pod = match &held.by {
                    HeldBy::Pod(pod) => pod,
                    HeldBy::SecondNetwork(pod, _) if !is_a_pods => pod,
                    _ => continue,
                };
                all.extend(&pod.addresses);
                let beside = pod.second_networks.iter().flat_map(|network| &network.addresses);
                all.extend(beside.filter(|address| self.is_nobody_elses(**address)));
            }
        }
        all
    }

    /// Whether an address may be a pod's on a second network: an annotation says so, which whoever makes the
    /// pod can write, so that what the kernel or another pod's status says of the address counts for more.
    fn is_nobody_elses(&self, address: IpAddr) -> bool {
        let is_pods = |held: &Holding| held.until.is_none() && matches!(held.by, HeldBy::Pod(_));
        let facts = self.node_facts();
        !facts.is_routed_to_pod(address)
            && !facts.is_local(address)
            && !self.holdings(address).iter().any(is_pods)
    }
}

impl Cluster {
    /// What the kernel says of an interface; `None`: it is gone.
    pub fn set_interface(&mut self, index: u32, interface: Option<Interface>) {
        let interfaces = &mut self.snapshot.node_facts.interfaces;
        if interfaces.get(&index).map(|known| &**known) == interface.as_ref() {
            return;
        }
        self.snapshot.other_changes += 1;
        match interface {
            Some(interface) => interfaces.insert_mut(index, Arc::new(interface)),
            None => {
                interfaces.remove_mut(&index);
            }
        }
    }

    /// The addresses that the kernel knows. Those of its own interfaces are held by this node, beside
    /// those that the Node object lists: a kubelet's probe may come from the address of a bridge or a
    /// tunnel.
    pub fn set_addresses(&mut self, node: &Arc<str>, addresses: Addresses) {
        let snapshot = &mut self.snapshot;
        let by = HeldBy::Node(node.clone());
        if *snapshot.node_facts.addresses != addresses {
            let before = std::mem::replace(&mut snapshot.node_facts.addresses, Arc::new(addresses));
            snapshot.other_changes += 1;
            let listed = snapshot.node(node).cloned();
            let is_listed = |address: IpAddr| {
                listed.as_ref().is_some_and(|node| node.address(address).is_some())
            };
            let now = &snapshot.node_facts.addresses.local;
            let gone: Vec<IpAddr> = before.local.difference(now).copied().collect();
            for address in gone.into_iter().filter(|address| !is_listed(*address)) {
                snapshot.objects.end_holding(address, &by, None);
            }
        }
        // What every node has alike says which service answers there, and not which node.
        let is_own = |address: &&IpAddr| {
            let known = known_address(**address);
            !address.is_loopback() && !known.is_some_and(KnownAddress::is_alike_on_nodes)
        };
        for address in snapshot.node_facts.addresses.local.iter().filter(is_own) {
            let is_news = snapshot.objects.begin_holding(*address, by.clone(), None, None);
            snapshot.other_changes += u64::from(is_news);
        }
    }

    /// Conntrack has found packets invalid.
    pub fn add_invalid(&mut self, invalid: Invalid) {
        self.snapshot.other_changes += 1;
        let known = &mut self.snapshot.node_facts.invalid;
        let latest = known.iter().skip((known.len() + 1).saturating_sub(INVALID_MAX));
        *known = latest.copied().chain([invalid]).collect();
    }

    /// The table of connections was full: still, or again.
    pub fn set_table_full(&mut self, full: TableFull) {
        self.snapshot.other_changes += 1;
        let known = &mut self.snapshot.node_facts.table_full;
        let last = known.filter(|last| full.from.duration_since(last.to) <= FULL_AGAIN_WITHIN);
        let from = last.map_or(full.from, |last| last.from);
        *known = Some(TableFull { from, ..full });
    }
}
