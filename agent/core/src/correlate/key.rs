//! What is reported as one, and how it is found by what is seen of a packet.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use crate::flow::Flow;

/// How attempts fail: different facts of one flow, with evidence of their own each, as what fails in
/// different ways has different causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Manner {
    /// Nothing comes back, and nothing was dropped here; whether it was handed to its destination here.
    Lost { has_arrived: bool },
    /// This kernel drops them, for the reason of this number.
    Dropped { reason: u32 },
    /// Somebody says no.
    Rejected,
}

impl Manner {
    pub(super) const fn is_lost(self) -> bool {
        matches!(self, Self::Lost { .. })
    }
}

/// A flow, by what was dialled for it, and how its attempts fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) flow: Flow,
    /// The destination that the client dialled, where it is known to differ.
    pub(super) dialled: Option<(IpAddr, u16)>,
    pub(super) manner: Manner,
    /// The interface by which its packets come, where their source address is not their sender's.
    pub(super) foreign: Option<u32>,
}

/// A flow, and by which interface its packets come where they are not of whoever has its source address: what
/// others send in its name is another's.
pub(super) type Of = (Flow, Option<u32>);

impl Key {
    /// Whether it is of a backend of what was dialled.
    pub(super) fn is_behind(&self, dialled: &Flow) -> bool {
        self.flow != *dialled && self.dialled.map(|to| self.flow.to(to)) == Some(*dialled)
    }

    /// The flow as it is known by.
    pub(super) fn own(&self) -> Of {
        (self.flow, self.foreign)
    }

    /// The flow, and the same as it was dialled.
    fn flows(&self) -> impl Iterator<Item = Of> + use<> {
        let Self { flow, dialled, foreign, .. } = *self;
        let flows = [Some(flow), dialled.map(|dialled| flow.to(dialled))];
        flows.into_iter().flatten().map(move |flow| (flow, foreign))
    }
}

/// Keys by their flows, as dropped and as dialled: of what was dialled there is one for each backend that
/// does not answer.
#[derive(Debug, Default)]
pub(super) struct KeysOf(HashMap<Of, BTreeSet<Key>>);

impl KeysOf {
    pub(super) fn insert(&mut self, key: &Key) {
        for flow in key.flows() {
            self.0.entry(flow).or_default().insert(*key);
        }
    }

    pub(super) fn remove(&mut self, key: &Key) {
        for flow in key.flows() {
            if let Some(keys) = self.0.get_mut(&flow) {
                keys.remove(key);
                if keys.is_empty() {
                    self.0.remove(&flow);
                }
            }
        }
    }

    /// Those of this flow, whatever was dialled for it, in any manner.
    pub(super) fn as_is<'a>(&'a self, of: &'a Of) -> impl Iterator<Item = Key> + 'a {
        self.may_be(of).filter(move |key| key.own() == *of)
    }

    /// The same, and those for which it was dialled.
    pub(super) fn may_be<'a>(&'a self, of: &'a Of) -> impl Iterator<Item = Key> + 'a {
        self.0.get(of).into_iter().flatten().copied()
    }

    /// Whether packets of it are seen to be dropped, or refused, here or at a backend that it stands for.
    pub(super) fn is_dropped(&self, of: &Of) -> bool {
        self.may_be(of).any(|key| !key.manner.is_lost())
    }
}
