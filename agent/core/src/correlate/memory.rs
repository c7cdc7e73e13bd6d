//! What is remembered for a while of flows and attempts, in bounded room that is shared as
//! [`Places`](super::places::Places) are.

use std::{collections::HashMap, hash::Hash};

use jiff::{SignedDuration, Timestamp};

use super::places::{Places, Sending, Way};

/// Remembers up to so many keys, each with a value and when it was last of use.
#[derive(Debug)]
pub(super) struct Memory<K, V> {
    of: HashMap<K, (Timestamp, V)>,
    places: Places<K>,
    room: usize,
    /// How many gave way before their time, or were never remembered.
    evicted: u64,
}

impl<K: Copy + Ord + Hash, V> Memory<K, V> {
    pub(super) fn with_room(room: usize) -> Self {
        Self { of: HashMap::new(), places: Places::default(), room, evicted: 0 }
    }

    /// The value of a key, made where there is none, as of this time; `None`: there is no room for it.
    pub(super) fn entry(
        &mut self,
        key: K,
        at: Timestamp,
        party: Sending,
        make: impl FnOnce() -> V,
    ) -> Option<&mut V> {
        if !self.of.contains_key(&key) {
            if self.of.len() >= self.room {
                self.evicted += 1;
                match self.places.way(&party) {
                    Way::Gives(other) => drop(self.remove(&other)),
                    Way::None => return None,
                }
            }
            self.places.insert(key, party);
        }
        let (last, value) = self.of.entry(key).or_insert_with(|| (at, make()));
        *last = (*last).max(at);
        Some(value)
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.of.get(key).map(|(_, value)| value)
    }

    /// When the key was last of use.
    pub(super) fn last(&self, key: &K) -> Option<Timestamp> {
        self.of.get(key).map(|(last, _)| *last)
    }

    pub(super) fn contains(&self, key: &K) -> bool {
        self.of.contains_key(key)
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.places.remove(key);
        self.of.remove(key).map(|(_, value)| value)
    }

    /// Forgets what was last of use longer ago than this.
    pub(super) fn forget(&mut self, now: Timestamp, longer: SignedDuration) {
        let places = &mut self.places;
        self.of.retain(|key, (last, _)| {
            let stays = now.duration_since(*last) <= longer;
            if !stays {
                places.remove(key);
            }
            stays
        });
    }

    /// How many gave way before their time.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }
}

impl<K: Copy + Ord + Hash> Memory<K, ()> {
    /// Remembers a key as of this time.
    pub(super) fn insert(&mut self, key: K, at: Timestamp, party: Sending) {
        self.entry(key, at, party, || ());
    }
}
