//! A workload whose new pods are others than those that they take the place of.
//!
//! Such pods have names that never come again, and one that comes changes no verdict of a flow that was
//! there. What its template gives them and gave those before is remembered instead.

use std::{collections::VecDeque, sync::Arc};

use jiff::Timestamp;

use super::{Before, Change, ChangeKind, Learned, difference, record::name_returns};
use crate::{
    cluster::{
        Cluster, Snapshot,
        lasting::passing,
        object::{ContainerPort, Key, Kind, Object, Pod, Workload, WorkloadKind},
    },
    policy::requirement::Labels,
};

/// Of how many workloads without a pod the last pod is remembered (about 1 kB each): of those that are
/// rolled out by ending all pods first, which takes a minute or so, and of those that are scaled to 0.
const GONE_MAX: usize = 256;

/// What a template gives its pods, as far as verdicts depend on it.
#[derive(Clone, Debug, PartialEq)]
struct Given {
    labels: Labels,
    ports: Vec<ContainerPort>,
    service_account: Arc<str>,
}

impl Given {
    /// Of a pod. What is its own or its revision's is left out.
    fn to(pod: &Pod) -> Self {
        let lasts =
            |(key, value): &(&Arc<str>, &Arc<str>)| passing(pod, key, value, false).is_none();
        let labels = pod.labels.iter().filter(lasts);
        Self {
            labels: labels.map(|(key, value)| (key.clone(), value.clone())).collect(),
            ports: pod.ports.clone(),
            service_account: pod.service_account.clone(),
        }
    }

    /// The same pod with this.
    fn given_to(&self, pod: &Pod) -> Pod {
        let own =
            pod.labels.iter().filter(|(key, value)| passing(pod, key, value, false).is_some());
        let labels = own.chain(&self.labels).map(|(key, value)| (key.clone(), value.clone()));
        Pod {
            labels: labels.collect(),
            ports: self.ports.clone(),
            service_account: self.service_account.clone(),
            ..pod.clone()
        }
    }
}

/// What it takes to undo a rollout.
#[derive(Clone, Debug)]
pub(super) struct Rollout {
    namespace: Arc<str>,
    workload: Workload,
    before: Given,
    after: Given,
}

impl Rollout {
    /// Gives the pods that came with it what those before had.
    pub(super) fn undo(&self, snapshot: &mut Snapshot) {
        let of_it = snapshot.pods().filter(|pod| self.made(pod) && Given::to(pod) == self.after);
        let before: Vec<Pod> = of_it.map(|pod| self.before.given_to(pod)).collect();
        for pod in before {
            snapshot.put(Object::Pod(pod), None);
        }
    }

    pub(super) fn parts(&self) -> usize {
        let parts = |given: &Given| given.labels.len() + given.ports.len();
        parts(&self.before) + parts(&self.after)
    }

    fn made(&self, pod: &Pod) -> bool {
        pod.namespace == self.namespace && pod.workload.as_ref() == Some(&self.workload)
    }
}

/// The last pod of workloads that have none, the latest last.
#[derive(Clone, Debug, Default)]
pub(super) struct Gone(VecDeque<Pod>);

impl Gone {
    fn keep(&mut self, pod: Pod) {
        self.0.retain(|other| !is_of_same(other, &pod));
        if self.0.len() >= GONE_MAX {
            self.0.pop_front();
        }
        self.0.push_back(pod);
    }

    fn of_workload(&self, pod: &Pod) -> Option<&Pod> {
        self.0.iter().find(|other| is_of_same(other, pod))
    }
}

impl Cluster {
    /// Remembers that a pod that comes was given something else than those of its workload before it.
    pub(super) fn record_rollout(&mut self, pod: &Pod, at: Timestamp) {
        let Some(workload) = pod.workload.as_ref().filter(|_| !name_returns(pod)) else { return };
        let Ok(kind) = workload.kind.parse::<WorkloadKind>() else { return };
        if self.snapshot.pod(&pod.namespace, &pod.name).is_some() {
            return;
        }
        let after = Given::to(pod);
        let others: Vec<_> = self.snapshot.pods().filter(|other| is_of_same(other, pod)).collect();
        // Pods of one revision follow each other, and those of an older one are made again meanwhile.
        if others.iter().any(|other| Given::to(other) == after) {
            return;
        }
        let latest = others.into_iter().max_by_key(|other| other.created).map(|pod| &**pod);
        let Some(latest) = latest.or_else(|| self.history.gone.of_workload(pod)) else { return };
        let before = Given::to(latest);
        if before == after {
            return;
        }
        let words = |pod: &Pod, given: &Given| {
            Object::Pod(Pod { labels: given.labels.clone(), addresses: Vec::new(), ..pod.clone() })
        };
        let difference = difference::in_words(&words(latest, &before), &words(pod, &after));
        let object = Key {
            kind: Kind::Template(kind),
            namespace: Some(pod.namespace.clone()),
            name: workload.name.clone(),
        };
        let difference = difference.map(Into::into);
        let change = Change { object, kind: ChangeKind::RolledOut, difference, at };
        let (namespace, workload) = (pod.namespace.clone(), workload.clone());
        let rollout = Rollout { namespace, workload, before, after };
        self.history.record(change, Learned::AsItCame, Before::Rollout(rollout));
    }

    /// Remembers a pod whose workload may have none after it.
    pub(super) fn keep_gone(&mut self, pod: &Pod) {
        let is_last = !self.snapshot.pods().any(|o| is_of_same(o, pod) && o.name != pod.name);
        if pod.workload.is_some() && is_last {
            self.history.gone.keep(pod.clone());
        }
    }
}

fn is_of_same(one: &Pod, other: &Pod) -> bool {
    one.namespace == other.namespace && one.workload == other.workload
}
