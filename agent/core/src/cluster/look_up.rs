//! What is looked up one by one, where the cluster is too large to be listed: of pods, an agent
//! follows only those of its node; a Service or a pod elsewhere is asked for when a drop names its
//! address, and a Service when a rule names it that may decide.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{
    Cluster, HeldBy, Name, Snapshot,
    known_address::{Purpose, known_address},
    object::{Key, Kind, Pod, Scale, Workload},
    resolve::Holder,
};

/// How long what was looked up is taken as still so: pods come and go, and a peer that is asked for
/// again within a burst is the same one.
pub const FRESH: SignedDuration = SignedDuration::from_secs(30);

/// How long before a flow's last packet its ends may have been looked up: a burst is one moment, and
/// longer ago its pods may have had other labels, which no watch shows.
const SAME_MOMENT: SignedDuration = SignedDuration::from_secs(1);

/// How long until an address is looked up again that could not be.
const AGAIN: SignedDuration = SignedDuration::from_secs(5);

/// Something to look up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Query {
    /// Who holds an address.
    Address(IpAddr),
    /// A Service, with what is behind it.
    Service(Name),
    /// The Services that select a pod, with what is behind them.
    ServicesOf(Name),
    /// The Services that are reached by other addresses than those of the cluster's own range: nothing
    /// asks an API server for them by the address.
    Exposed,
    /// How many pods a workload of a namespace has.
    Scale(Arc<str>, Workload),
    /// What has the API server call Services: webhooks, and APIs that other servers have.
    Callers,
}

impl From<IpAddr> for Query {
    fn from(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }
}

/// What came of looking something up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookUp {
    /// When.
    pub at: Timestamp,
    /// Why it could not be done; `None`: what there is of it is among the objects.
    pub failed: Option<Arc<str>>,
    /// How many pods a workload has, if that was looked up and the workload's status says.
    pub scale: Option<Scale>,
}

impl Cluster {
    /// From now on an address that no object holds is not taken to be outside of the cluster before
    /// it was looked up.
    pub fn look_up_on_demand(&mut self) {
        self.snapshot.looked_up = Some(rpds::HashTrieMapSync::default());
    }

    /// Something was looked up, and the objects found were applied.
    pub fn looked_up(&mut self, query: impl Into<Query>, look_up: LookUp) {
        if let Some(looked_up) = &mut self.snapshot.looked_up {
            looked_up.insert_mut(query.into(), look_up);
            self.snapshot.revision += 1;
        }
    }

    /// What was looked up long ago is of no use any more.
    pub fn forget_look_up(&mut self, query: &Query) {
        if let Some(looked_up) = &mut self.snapshot.looked_up {
            let is_news = looked_up.remove_mut(query);
            self.snapshot.other_changes += u64::from(is_news);
        }
    }

    /// Ends what other pods that were looked up are known to hold of a pod that was just found: when they
    /// went was not seen, and from when they were last found until this one came others may have had
    /// their addresses.
    pub(super) fn end_others(&mut self, found: &Pod) {
        let Snapshot { objects, found: found_at, .. } = &mut self.snapshot;
        let name = (found.namespace.clone(), found.name.clone());
        let before = objects.pods.get(&name).filter(|before| before.uid != found.uid).cloned();
        let of_before = before.iter().flat_map(|before| &before.addresses);
        let addresses: BTreeSet<IpAddr> =
            found.addresses.iter().chain(of_before).copied().collect();
        for address in addresses {
            let holdings = objects.holdings.get(&address).into_iter().flatten();
            let others = holdings.filter(|holding| holding.until.is_none()).filter_map(|holding| {
                let HeldBy::Pod(pod) = &holding.by else { return None };
                let last = found_at.get(&pod_key(pod)).filter(|_| pod.uid != found.uid)?;
                Some((holding.by.clone(), *last + SAME_MOMENT))
            });
            for (by, until) in others.collect::<Vec<_>>() {
                objects.end_holding_unseen(address, &by, until);
            }
        }
    }

    /// Ends what a pod that was looked up is known to hold as of when it was last found.
    pub(super) fn end_found(&mut self, key: &Key, at: Timestamp) {
        let Some(last) = self.snapshot.found.get(key) else { return };
        let until = (*last + SAME_MOMENT).min(at);
        let objects = &mut self.snapshot.objects;
        let name = (key.namespace.clone().unwrap_or_default(), key.name.clone());
        let Some(pod) = objects.pods.get(&name).cloned() else { return };
        for address in &pod.addresses {
            objects.end_holding_unseen(*address, &HeldBy::Pod(pod.clone()), until);
        }
    }
}

/// Whether what was found at a time need not be looked up again to know how it was then.
fn is_fresh_then(found: Timestamp, then: Option<Timestamp>, now: Timestamp) -> bool {
    let is_late_enough = then.is_none_or(|then| found + SAME_MOMENT >= then);
    now.duration_since(found) <= FRESH && is_late_enough
}

fn pod_key(pod: &Pod) -> Key {
    let Pod { namespace, name, .. } = pod;
    Key { kind: Kind::Pod, namespace: Some(namespace.clone()), name: name.clone() }
}

impl Snapshot {
    /// Whether all pods of the cluster are listed, rather than this node's and those asked for.
    pub fn knows_all_pods(&self) -> bool {
        self.looked_up.is_none()
    }

    /// What came of looking something up, if it was.
    pub fn look_up_of(&self, query: &Query) -> Option<&LookUp> {
        self.looked_up.as_ref()?.get(query)
    }

    /// How many pods a workload has by its own status, if that was looked up and is there.
    pub fn scale(&self, namespace: &Arc<str>, workload: &Workload) -> Option<Scale> {
        self.look_up_of(&Query::Scale(namespace.clone(), workload.clone()))?.scale
    }

    /// The Services that any policy names.
    pub fn services_named(&self) -> BTreeSet<Name> {
        let named = self.policies().iter().flat_map(|policy| policy.services());
        named.map(|service| (service.namespace.clone(), service.name.clone())).collect()
    }

    /// Whether nothing recent enough is known of who held an address, by an object or a look-up.
    pub fn is_missing(&self, address: IpAddr, at: Option<Timestamp>, now: Timestamp) -> bool {
        match self.is_fresh(&address.into(), at, now) {
            // No object of the cluster holds it. Only of loopback that is asked: an agent may reach its
            // API server there, and whose that is decides whether policies cut it off.
            _ if known_address(address).is_some_and(|k| k.purpose != Purpose::Loopback) => false,
            Some(is_fresh) => !is_fresh,
            None => match self.resolve(address, at).holder {
                // One that is followed, or was found by another look-up of late.
                Holder::Pod(pod) | Holder::SecondNetwork(pod, _) => {
                    let found = self.found.get(&pod_key(&pod));
                    found.is_some_and(|found| !is_fresh_then(*found, at, now))
                }
                Holder::Node(_) => false,
                _ => true,
            },
        }
    }

    /// Whether what was looked up need not be again to know how it was then; `None`: it never was.
    pub fn is_fresh(&self, query: &Query, then: Option<Timestamp>, now: Timestamp) -> Option<bool> {
        let LookUp { at, failed, .. } = self.looked_up.as_ref()?.get(query)?;
        let age = now.duration_since(*at);
        Some(match failed {
            Some(_) => age <= AGAIN,
            None => is_fresh_then(*at, then, now),
        })
    }

    /// Why an address that no object holds may still be held.
    pub(super) fn unclear(&self, address: IpAddr) -> Option<String> {
        match self.looked_up.as_ref()?.get(&address.into()) {
            None => Some(format!("{address} has not been looked up")),
            Some(LookUp { failed: Some(why), .. }) => {
                Some(format!("{address} could not be looked up: {why}"))
            }
            Some(_)
                if let Some(LookUp { failed: Some(why), .. }) =
                    self.look_up_of(&Query::Exposed) =>
            {
                Some(format!("whether {address} is a Service's could not be looked up: {why}"))
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
