//! What the programs know of who sends: which interfaces packets come by, and which addresses the pods behind
//! them have.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use aya::maps::{HashMap as KernelHashMap, MapData, MapError};
use whydrop_ebpf::{Address, SENDERS_SHARES, Sender, sender_flags};

use super::{decode::from_ip, error::Error, interfaces::Interfaces};

/// What the programs are to know, all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownAddresses(BTreeMap<IpAddr, BTreeSet<u32>>);

impl KnownAddresses {
    /// Behind this interface is a pod with these addresses, and with no other.
    pub fn add(&mut self, interface: u32, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            self.0.entry(address).or_default().insert(interface);
        }
    }

    /// Those of one pod alone: of who else has one, nobody knows who sends.
    fn certain(&self) -> impl Iterator<Item = (Address, u32)> {
        let certain = self.0.iter().filter(|(_, of)| of.len() == 1);
        certain.filter_map(|(address, of)| Some((from_ip(*address), *of.first()?)))
    }

    fn interfaces(&self) -> BTreeSet<u32> {
        self.0.values().flatten().copied().collect()
    }
}

/// Writes it into the programs' maps, as it changes.
#[derive(Debug)]
pub struct Senders {
    interfaces: KernelHashMap<MapData, u32, Sender>,
    addresses: KernelHashMap<MapData, Address, u32>,
    known: HashMap<u32, Sender>,
    holders: HashMap<Address, u32>,
    /// By how many interfaces each share is taken: the first is left to all others.
    taken: Vec<u32>,
}

impl Senders {
    pub(crate) fn new(
        interfaces: KernelHashMap<MapData, u32, Sender>,
        addresses: KernelHashMap<MapData, Address, u32>,
    ) -> Self {
        let taken = vec![0; SENDERS_SHARES as usize];
        Self { interfaces, addresses, known: HashMap::new(), holders: HashMap::new(), taken }
    }

    /// From now on, packets come by these interfaces, from pods with these addresses.
    ///
    /// # Errors
    /// A map cannot be written. What is in it is right, and more may be missing: that is tried again the next
    /// time.
    pub fn set(&mut self, interfaces: &Interfaces, known: &KnownAddresses) -> Result<(), Error> {
        let failed = |error| Error::kernel("saying who sends what", error);
        // What is no longer so goes first: in between, less is known, and nothing that is wrong.
        let holders: HashMap<Address, u32> = known.certain().collect();
        let gone: Vec<Address> = self.holders.keys().copied().collect();
        for address in gone.into_iter().filter(|address| !holders.contains_key(address)) {
            removed(self.addresses.remove(&address)).map_err(failed)?;
            self.holders.remove(&address);
        }
        let with_addresses = known.interfaces();
        let pods = interfaces.attached().map(|(index, _)| {
            let known = match with_addresses.contains(&index) {
                true => sender_flags::HAS_KNOWN_ADDRESSES,
                false => 0,
            };
            (index, sender_flags::POD | known)
        });
        let outward = interfaces.topology().outward().map(|index| (index, 0));
        let now: BTreeMap<u32, u32> = outward.chain(pods).collect();
        let gone: Vec<u32> = self.known.keys().copied().collect();
        for index in gone.into_iter().filter(|index| !now.contains_key(index)) {
            removed(self.interfaces.remove(&index)).map_err(failed)?;
            if let Some(sender) = self.known.remove(&index) {
                self.taken[sender.share as usize] -= 1;
            }
        }
        for (address, holder) in holders {
            if self.holders.get(&address) != Some(&holder) {
                self.addresses.insert(&address, &holder, 0).map_err(failed)?;
                self.holders.insert(address, holder);
            }
        }
        for (index, flags) in now {
            let before = self.known.get(&index).copied();
            if before.is_some_and(|before| before.flags == flags) {
                continue;
            }
            let share = before.map_or_else(|| self.free_share(), |before| before.share);
            let sender = Sender { share, flags };
            self.interfaces.insert(&index, &sender, 0).map_err(failed)?;
            if before.is_none() {
                self.taken[share as usize] += 1;
            }
            self.known.insert(index, sender);
        }
        Ok(())
    }

    /// The share that fewest have.
    fn free_share(&self) -> u32 {
        let shares = (0..SENDERS_SHARES).zip(&self.taken).skip(1);
        shares.min_by_key(|(_, taken)| **taken).map_or(0, |(share, _)| share)
    }
}

/// What was not there need not be removed.
fn removed(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}
