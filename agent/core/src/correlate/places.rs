//! Who has the places of a table, so that none is the first comer's.
//!
//! Places are shared by sender: the interface by which packets come, which nobody can forge. While a table has
//! room, anyone has a place. When it is full, whoever sends least gets one from whoever sends most; of the
//! sender that has most, the party that has most gives way, with what came last.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    net::IpAddr,
};

use crate::{flow::Flow, observation::Sender};

/// Who has a place: a part of what one sender sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Party {
    /// The interface by which packets come; 0: the node itself, or it is not known.
    pub sender: u32,
    /// Which of its packets.
    pub of: PartyOf,
    /// Those that somebody refuses: whoever sends them knows, and they are seldom news.
    pub is_refused: bool,
}

/// Which of a sender's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PartyOf {
    /// Those with this source address.
    Source(IpAddr),
    /// Those from outside of the node to this address: their source addresses are anyone's word.
    FromOutside(IpAddr),
    /// All whose source address is another's.
    Spoofed,
}

impl Party {
    /// Whose a packet is; `is_of_pod`: it came by a pod's veth.
    pub fn of(sender: &Sender, flow: &Flow, is_of_pod: bool) -> Self {
        let of = if sender.is_spoofed() {
            PartyOf::Spoofed
        } else if is_of_pod || sender.interface == 0 {
            PartyOf::Source(flow.source)
        } else {
            PartyOf::FromOutside(flow.destination)
        };
        Self { sender: sender.interface, of, is_refused: false }
    }

    /// The same, of what is refused.
    #[must_use]
    pub fn refused(self) -> Self {
        Self { is_refused: true, ..self }
    }
}

/// Which keys have places, and whose they are.
#[derive(Debug)]
pub struct Places<K> {
    /// Of each key whose it is, and as which it came; `None`: it is of no use, and goes first.
    of: HashMap<K, (Option<Party>, u64)>,
    /// The keys of each party, by how they came.
    parties: HashMap<Party, BTreeSet<(u64, K)>>,
    /// How many each has, for each sender.
    senders: HashMap<u32, (usize, BTreeSet<(usize, Party)>)>,
    /// How many each sender has.
    ranking: BTreeSet<(usize, u32)>,
    /// Those of no use.
    spare: BTreeSet<(u64, K)>,
    come: u64,
}

impl<K> Default for Places<K> {
    fn default() -> Self {
        Self {
            of: HashMap::new(),
            parties: HashMap::new(),
            senders: HashMap::new(),
            ranking: BTreeSet::new(),
            spare: BTreeSet::new(),
            come: 0,
        }
    }
}

/// What is to be done for a newcomer in a full table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way<K> {
    /// This one gives way.
    Gives(K),
    /// Nobody has more than whose the newcomer is.
    None,
}

impl<K: Copy + Ord + Hash> Places<K> {
    /// Gives a key a place; if it had one already, it is this party's now.
    pub fn insert(&mut self, key: K, party: Party) {
        self.remove(&key);
        self.come += 1;
        self.of.insert(key, (Some(party), self.come));
        self.parties.entry(party).or_default().insert((self.come, key));
        self.count(party, 1);
    }

    /// Takes a key's place.
    pub fn remove(&mut self, key: &K) {
        let Some((party, came)) = self.of.remove(key) else { return };
        match party {
            Some(party) => self.take(party, came, *key),
            None => {
                self.spare.remove(&(came, *key));
            }
        }
    }

    /// A key turns out to be of no use: it keeps its place until somebody wants it, and counts as nobody's.
    pub fn spare(&mut self, key: &K) {
        let Some((party, came)) = self.of.get_mut(key) else { return };
        let (Some(party), came) = (party.take(), *came) else { return };
        self.take(party, came, *key);
        self.spare.insert((came, *key));
    }

    /// How many places are taken.
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// How many a party has.
    pub fn of_party(&self, party: &Party) -> usize {
        self.parties.get(party).map_or(0, BTreeSet::len)
    }

    /// How many a sender has.
    pub fn of_sender(&self, sender: u32) -> usize {
        self.senders.get(&sender).map_or(0, |(all, _)| *all)
    }

    /// Who gives way to one more of a party's.
    pub fn way(&self, party: &Party) -> Way<K> {
        if let Some((_, key)) = self.spare.first() {
            return Way::Gives(*key);
        }
        let Some((most, fullest)) = self.ranking.last() else { return Way::None };
        if self.of_sender(party.sender) + 1 < *most {
            return self.latest_of(*fullest, usize::MAX);
        }
        self.latest_of(party.sender, self.of_party(party))
    }

    /// What came last of the party of a sender that has most, and more than one more than this.
    fn latest_of(&self, sender: u32, than: usize) -> Way<K> {
        let parties = self.senders.get(&sender).map(|(_, parties)| parties);
        let Some((most, party)) = parties.and_then(BTreeSet::last) else { return Way::None };
        if than != usize::MAX && than + 1 >= *most {
            return Way::None;
        }
        let latest = self.parties.get(party).and_then(BTreeSet::last);
        latest.map_or(Way::None, |(_, key)| Way::Gives(*key))
    }

    fn take(&mut self, party: Party, came: u64, key: K) {
        if let Some(keys) = self.parties.get_mut(&party) {
            keys.remove(&(came, key));
        }
        self.count(party, -1);
        if self.parties.get(&party).is_some_and(BTreeSet::is_empty) {
            self.parties.remove(&party);
        }
    }

    /// Counts one more, or one less, of a party whose keys are as they are now.
    fn count(&mut self, party: Party, change: isize) {
        let now = self.of_party(&party);
        let before = now.saturating_add_signed(-change);
        let (all, parties) = self.senders.entry(party.sender).or_default();
        parties.remove(&(before, party));
        if now > 0 {
            parties.insert((now, party));
        }
        self.ranking.remove(&(*all, party.sender));
        *all = all.saturating_add_signed(change);
        match *all {
            0 => {
                self.senders.remove(&party.sender);
            }
            all => {
                self.ranking.insert((all, party.sender));
            }
        }
    }
}
