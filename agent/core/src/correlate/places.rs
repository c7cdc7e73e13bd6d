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

use super::{drop::Drop, evidence::Evidence};
use crate::{
    flow::Flow,
    observation::{Fact, Observation, Sender},
};

/// Who has a place: a part of what one sender sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sending {
    /// The interface by which packets come; 0: the node itself, or it is not known.
    pub sender: u32,
    /// Which of its packets.
    pub of: SentOf,
    /// Those that somebody refuses: whoever sends them knows, and they are seldom news.
    pub is_refused: bool,
}

/// Which of a sender's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SentOf {
    /// Those with this source address.
    Source(IpAddr),
    /// Those from outside of the node to this address: their source addresses are anyone's word.
    FromOutside(IpAddr),
    /// All whose source address is another's.
    Spoofed,
}

impl Sending {
    /// Whose a packet is; `is_of_pod`: it came by a pod's veth.
    pub fn of(sender: &Sender, flow: &Flow, is_of_pod: bool) -> Self {
        let of = if sender.is_spoofed() {
            SentOf::Spoofed
        } else if is_of_pod || sender.interface == 0 {
            SentOf::Source(flow.source)
        } else {
            SentOf::FromOutside(flow.destination)
        };
        Self { sender: sender.interface, of, is_refused: false }
    }

    /// Whose an observation is.
    pub fn of_observation(observation: &Observation) -> Self {
        let Observation { sender, flow, entered, .. } = observation;
        let party = Self::of(sender, flow, entered.is_some());
        match observation.fact {
            Fact::Rejected(_) => party.refused(),
            _ => party,
        }
    }

    /// Whose a drop is.
    pub fn of_drop(drop: &Drop) -> Self {
        let Evidence { sender, entered, .. } = &drop.evidence;
        Self::of(sender, &drop.flow, entered.is_some())
    }

    /// Whose an answer is: that of who connects.
    pub fn of_answer(flow: &Flow) -> Self {
        Self::of(&Sender::default(), flow, false)
    }

    /// The same, of what is refused.
    #[must_use]
    pub fn refused(self) -> Self {
        Self { is_refused: true, ..self }
    }
}

/// What is of each, the first of anyone's before anyone's second, in their order.
pub fn in_turn<W: Eq + Hash, T>(all: impl IntoIterator<Item = (W, T)>) -> impl Iterator<Item = T> {
    let mut turns: HashMap<W, usize> = HashMap::new();
    let turn = |(whose, one)| {
        let turn = turns.entry(whose).or_default();
        *turn += 1;
        (*turn, one)
    };
    let mut all: Vec<(usize, T)> = all.into_iter().map(turn).collect();
    all.sort_by_key(|(turn, _)| *turn);
    all.into_iter().map(|(_, one)| one)
}

/// Which keys have places, and whose they are.
#[derive(Clone, Debug)]
pub struct Places<K> {
    /// Of each key whose it is, and as which it came; `None`: it is of no use, and goes first.
    of: HashMap<K, (Option<Sending>, u64)>,
    /// The keys of each party, by how they came.
    parties: HashMap<Sending, BTreeSet<(u64, K)>>,
    /// How many each has, for each sender.
    senders: HashMap<u32, (usize, BTreeSet<(usize, Sending)>)>,
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
    pub fn insert(&mut self, key: K, party: Sending) {
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
    pub fn of_party(&self, party: &Sending) -> usize {
        self.parties.get(party).map_or(0, BTreeSet::len)
    }

    /// How many a sender has.
    pub fn of_sender(&self, sender: u32) -> usize {
        self.senders.get(&sender).map_or(0, |(all, _)| *all)
    }

    /// Who gives way to one more of a party's.
    pub fn way(&self, party: &Sending) -> Way<K> {
        if let Some((_, key)) = self.spare.first() {
            return Way::Gives(*key);
        }
        let Some((most, fullest)) = self.ranking.last() else { return Way::None };
        if self.of_sender(party.sender) + 1 < *most {
            return self.latest_of(*fullest, usize::MAX);
        }
        self.latest_of(party.sender, self.of_party(party))
    }

    /// The same, but that somebody always does: where nobody has more, what came last of the party itself, or of
    /// whoever has most.
    pub fn way_for_all(&self, party: &Sending) -> Option<K> {
        if let Way::Gives(key) = self.way(party) {
            return Some(key);
        }
        let own = self.parties.get(party).and_then(BTreeSet::last).map(|(_, key)| *key);
        own.or_else(|| {
            let (_, fullest) = self.ranking.last()?;
            match self.latest_of(*fullest, usize::MAX) {
                Way::Gives(key) => Some(key),
                Way::None => None,
            }
        })
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

    fn take(&mut self, party: Sending, came: u64, key: K) {
        if let Some(keys) = self.parties.get_mut(&party) {
            keys.remove(&(came, key));
        }
        self.count(party, -1);
        if self.parties.get(&party).is_some_and(BTreeSet::is_empty) {
            self.parties.remove(&party);
        }
    }

    /// Counts one more, or one less, of a party whose keys are as they are now.
    fn count(&mut self, party: Sending, change: isize) {
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
