//! What the kernel of this node says of itself, beside what the API server says of the cluster.

use std::{net::IpAddr, ops::RangeInclusive, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use rpds::HashTrieMapSync;

use super::Cluster;

/// An interface of this node, as the kernel's routes tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: Arc<str>,
    /// The addresses that are routed to it alone: those of the pod behind it.
    pub addresses: Vec<IpAddr>,
    /// When it appeared; `None`: it was there before the agent.
    pub since: Option<Timestamp>,
}

/// A time in which the kernel's table of connections had no room, and packets of new ones died for
/// it (`net/netfilter/nf_conntrack_core.c`, "table full, dropping packet").
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

/// A table that is full again after so short a time was full all the while: what died is judged some
/// seconds after the fact, and between two attempts nothing shows.
const FULL_AGAIN_WITHIN: SignedDuration = SignedDuration::from_secs(10);

/// What the kernel of this node says of itself. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    interfaces: HashTrieMapSync<u32, Arc<Interface>>,
    table_full: Option<TableFull>,
    invalid: Arc<[Invalid]>,
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

impl Cluster {
    /// What the kernel says of an interface; `None`: it is gone.
    pub fn set_interface(&mut self, index: u32, interface: Option<Interface>) {
        let interfaces = &mut self.snapshot.node_facts.interfaces;
        match interface {
            Some(interface) => interfaces.insert_mut(index, Arc::new(interface)),
            None => {
                interfaces.remove_mut(&index);
            }
        }
    }

    /// Conntrack has found packets invalid.
    pub fn add_invalid(&mut self, invalid: Invalid) {
        let known = &mut self.snapshot.node_facts.invalid;
        let latest = known.iter().skip((known.len() + 1).saturating_sub(INVALID_MAX));
        *known = latest.copied().chain([invalid]).collect();
    }

    /// The table of connections was full: still, or again.
    pub fn set_table_full(&mut self, full: TableFull) {
        let known = &mut self.snapshot.node_facts.table_full;
        let last = known.filter(|last| full.from.duration_since(last.to) <= FULL_AGAIN_WITHIN);
        let from = last.map_or(full.from, |last| last.from);
        *known = Some(TableFull { from, ..full });
    }
}
