//! Addresses that are looked up one by one, where the cluster is too large to be listed: of pods, an
//! agent follows only those of its node; a Service or a pod elsewhere is asked for when a drop names
//! its address.

use std::{net::IpAddr, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{Cluster, Snapshot, resolve::Holder};
use crate::diagnosis::Case;

/// How long what was looked up is taken as still so: pods come and go, and a peer that is asked for
/// again within a burst is the same one.
pub const FRESH: SignedDuration = SignedDuration::from_secs(30);

/// How long until an address is looked up again that could not be.
const AGAIN: SignedDuration = SignedDuration::from_secs(5);

/// What came of looking an address up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookUp {
    /// When.
    pub at: Timestamp,
    /// Why it could not be done; `None`: whoever holds the address is among the objects.
    pub failed: Option<Arc<str>>,
}

impl Cluster {
    /// From now on an address that no object holds is not taken to be outside of the cluster before
    /// it was looked up.
    pub fn look_up_on_demand(&mut self) {
        self.snapshot.looked_up = Some(rpds::HashTrieMapSync::default());
    }

    /// An address was looked up, and the objects found were applied.
    pub fn looked_up(&mut self, address: IpAddr, look_up: LookUp) {
        if let Some(looked_up) = &mut self.snapshot.looked_up {
            looked_up.insert_mut(address.to_canonical(), look_up);
            self.snapshot.revision += 1;
        }
    }

    /// What was looked up long ago is of no use any more.
    pub fn forget_look_up(&mut self, address: IpAddr) {
        if let Some(looked_up) = &mut self.snapshot.looked_up {
            looked_up.remove_mut(&address.to_canonical());
        }
    }
}

impl Snapshot {
    /// Whether all pods of the cluster are listed, rather than this node's and those asked for.
    pub fn knows_all_pods(&self) -> bool {
        self.looked_up.is_none()
    }

    /// The addresses to look up before a case can be judged: none where everything is listed. Of a
    /// Service that nobody translated, its backends'.
    pub fn to_look_up(&self, case: &Case<'_>, now: Timestamp) -> Vec<IpAddr> {
        let dialled = case.dialled.map(|(address, _)| address);
        let mut missing: Vec<IpAddr> =
            [Some(case.flow.source), Some(case.flow.destination), dialled]
                .into_iter()
                .flatten()
                .filter(|address| self.is_missing(*address, case.at, now))
                .collect();
        if let Holder::Service(service) = self.resolve(case.flow.destination, case.at).holder {
            let backends = self.slices(&service).flat_map(|slice| &slice.addresses);
            missing.extend(backends.filter(|address| self.is_missing(**address, None, now)));
        }
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    fn is_missing(&self, address: IpAddr, at: Option<Timestamp>, now: Timestamp) -> bool {
        let Some(looked_up) = &self.looked_up else { return false };
        match looked_up.get(&address.to_canonical()) {
            Some(LookUp { at, failed }) => {
                let valid = if failed.is_some() { AGAIN } else { FRESH };
                now.duration_since(*at) > valid
            }
            // Held by a pod or a node that is followed.
            None => !matches!(self.resolve(address, at).holder, Holder::Pod(_) | Holder::Node(_)),
        }
    }

    /// Why an address that no object holds may be held all the same.
    pub(super) fn unclear(&self, address: IpAddr) -> Option<String> {
        match self.looked_up.as_ref()?.get(&address) {
            None => Some(format!("{address} has not been looked up")),
            Some(LookUp { failed: Some(why), .. }) => {
                Some(format!("{address} could not be looked up: {why}"))
            }
            Some(_) => self.holdings(address).last().map(|other| {
                format!(
                    "nobody is known to have held {address} then, only {} at another time",
                    other.by
                )
            }),
        }
    }
}
