//! When pods began and ended, as far as that is known.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;

use super::{
    HeldBy, Holding, Snapshot,
    object::{Finished, Pod},
};

/// The end of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// The pod as it was known last.
    pub pod: Arc<Pod>,
    /// Since when it was being deleted, if it was.
    pub asked: Option<Timestamp>,
    /// Since when its address is not its own any more, if it is not.
    pub gone: Option<Timestamp>,
    /// How it is over, if it is and its object is still there.
    pub finished: Option<Finished>,
}

impl Ended {
    /// When it began to end.
    pub fn since(&self) -> Option<Timestamp> {
        [self.asked, self.gone].into_iter().flatten().min()
    }
}

impl Snapshot {
    /// The end of a pod that holds an address, or held it; `None`: it goes on, as far as is known.
    pub fn end_of(&self, pod: &Arc<Pod>, address: IpAddr) -> Option<Ended> {
        let ended = self.ended(pod, self.held_by_pod(address, pod).last()?.until);
        ended.since().is_some().then_some(ended)
    }

    /// The pod that had an address last before then, where nobody is known to have held it then, if it was
    /// seen to end.
    pub fn formerly_at(&self, address: IpAddr, then: Timestamp) -> Option<Ended> {
        let of_pod = |holding: &&Holding| matches!(holding.by, HeldBy::Pod(_));
        let before = self.holdings(address).iter().filter(of_pod);
        let before = before.filter(|holding| holding.until.is_some_and(|until| until < then));
        let last = before.max_by_key(|holding| holding.until)?;
        match &last.by {
            HeldBy::Pod(pod) if !last.is_end_unseen => Some(self.ended(pod, last.until)),
            _ => None,
        }
    }

    /// When a pod began to hold an address, by its own times and by when that was seen: a pod may wait
    /// long for its address, and an agent may have come later than the pod.
    pub fn held_since(&self, pod: &Arc<Pod>, address: IpAddr) -> Option<Timestamp> {
        let first = self.held_by_pod(address, pod).next()?;
        first.since.max(first.seen)
    }

    /// Whether a pod that holds an address now says itself that it did so then.
    pub fn is_held_since(&self, address: IpAddr, then: Timestamp) -> bool {
        let is_pods = |holding: &&Holding| matches!(holding.by, HeldBy::Pod(_));
        let mut now = self.holdings(address).iter().filter(is_pods).filter(|h| h.until.is_none());
        now.any(|holding| holding.since.is_some_and(|since| since <= then))
    }

    /// The pod that held an address at a time and was seen to end before another, and when it had.
    pub fn ended_between(
        &self,
        address: IpAddr,
        then: Timestamp,
        later: Timestamp,
    ) -> Option<Timestamp> {
        let holdings = self.holdings(address).iter();
        let of_pods = holdings.filter(|holding| matches!(holding.by, HeldBy::Pod(_)));
        let held_then = of_pods.filter(|h| h.since.is_none_or(|since| since <= then));
        let ends = held_then.filter(|h| !h.is_end_unseen).filter_map(|holding| holding.until);
        ends.filter(|until| (then..later).contains(until)).max()
    }

    fn ended(&self, pod: &Arc<Pod>, until: Option<Timestamp>) -> Ended {
        let now = self.pod(&pod.namespace, &pod.name).filter(|now| now.uid == pod.uid);
        let finished = now.and_then(|now| now.finished).filter(|_| until.is_some());
        Ended { pod: pod.clone(), asked: pod.terminating, gone: until, finished }
    }

    fn held_by_pod<'a>(
        &'a self,
        address: IpAddr,
        pod: &Arc<Pod>,
    ) -> impl Iterator<Item = &'a Holding> + use<'a> {
        let by = HeldBy::Pod(pod.clone());
        self.holdings(address).iter().filter(move |holding| holding.by.is_same_object(&by))
    }
}
