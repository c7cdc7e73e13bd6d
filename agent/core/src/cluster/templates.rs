//! Workloads: the pods that they have, and those that they make.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr as _,
    sync::Arc,
};

use super::{
    Snapshot,
    object::{Pod, Template, Workload, WorkloadKind},
    translate::POD_TEMPLATE_HASH,
};

/// How often a workload's owner is asked for its own: a pod's `ReplicaSet` for the Deployment, a Job for
/// the `CronJob`. More would be a circle.
const OWNERS_MAX: usize = 4;

/// The labels that a `StatefulSet` gives each of its pods: the name, and the number in it.
///
/// <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#pod-name-label>
const STATEFUL_NAME: &str = "statefulset.kubernetes.io/pod-name";
const STATEFUL_INDEX: &str = "apps.kubernetes.io/pod-index";

impl Snapshot {
    /// A workload by kind, namespace and name.
    pub fn template(
        &self,
        kind: WorkloadKind,
        namespace: &str,
        name: &str,
    ) -> Option<&Arc<Template>> {
        self.objects.templates.get(&(kind, namespace.into(), name.into()))
    }

    /// All workloads, in no order.
    pub fn templates(&self) -> impl Iterator<Item = &Arc<Template>> {
        self.objects.templates.values()
    }

    /// The pods of a workload that are there, by name.
    pub fn pods_of(&self, kind: WorkloadKind, namespace: &str, name: &str) -> Vec<&Arc<Pod>> {
        let is_of = |pod: &&Arc<Pod>| &*pod.namespace == namespace && self.is_of(pod, kind, name);
        let mut pods: Vec<_> = self.pods().filter(is_of).collect();
        pods.sort_by_key(|pod| &pod.name);
        pods
    }

    fn is_of(&self, pod: &Pod, kind: WorkloadKind, name: &str) -> bool {
        let is_asked_for = |of: &Workload| {
            let of_replica_set = kind == WorkloadKind::ReplicaSet
                && pod.labels.get(POD_TEMPLATE_HASH).is_some_and(|hash| {
                    name.strip_prefix(&*of.name).and_then(|rest| rest.strip_prefix('-'))
                        == Some(&**hash)
                });
            of_replica_set || (*of.kind == *kind.to_string() && &*of.name == name)
        };
        self.workloads_of(pod).iter().any(is_asked_for)
    }

    /// What a pod belongs to, the nearest first: its Job, and the `CronJob` of that.
    pub fn workloads_of(&self, pod: &Pod) -> Vec<Workload> {
        let mut workloads: Vec<Workload> = pod.workload.iter().cloned().collect();
        while let Some(last) = workloads.last()
            && workloads.len() < OWNERS_MAX
            && let Ok(kind) = WorkloadKind::from_str(&last.kind)
            && let Some(template) = self.template(kind, &pod.namespace, &last.name)
            && let Some(owner) = &template.owner
        {
            workloads.push(owner.clone());
        }
        workloads
    }

    /// What a workload of a pod makes its pods of, as far as it is known: of the furthest of its owners.
    pub fn template_of(&self, pod: &Pod) -> Option<&Arc<Template>> {
        self.workloads_of(pod).iter().rev().find_map(|workload| {
            let kind = WorkloadKind::from_str(&workload.kind).ok()?;
            self.template(kind, &pod.namespace, &workload.name)
        })
    }

    /// Every pod, and of each workload that has none what stands for those that it makes: all that a
    /// policy may select, now or as soon as it is there.
    pub fn pods_and_templates(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods().chain(self.templates_without_pods())
    }

    /// What stands for the pods of each workload that has none, and is to have some.
    pub fn templates_to_run(&self) -> Vec<&Arc<Pod>> {
        let mut pods = self.templates_without_pods();
        let is_idle = |pod: &Arc<Pod>| {
            let mut of = self.templates().filter(|template| Arc::ptr_eq(&template.pod, pod));
            of.any(|template| template.is_idle)
        };
        pods.retain(|pod| !is_idle(pod));
        pods
    }

    fn templates_without_pods(&self) -> Vec<&Arc<Pod>> {
        if self.objects.templates.is_empty() {
            return Vec::new();
        }
        let mut with_pods: BTreeSet<(Arc<str>, Workload)> = BTreeSet::new();
        for pod in self.pods() {
            let workloads = self.workloads_of(pod).into_iter();
            with_pods.extend(workloads.map(|workload| (pod.namespace.clone(), workload)));
        }
        let mut without: BTreeMap<_, &Arc<Pod>> = BTreeMap::new();
        for template in self.templates() {
            let Template { kind, name, owner, pod, .. } = &**template;
            let own = Workload { kind: kind.to_string().into(), name: name.clone() };
            // Of a Deployment's ReplicaSets, the Deployment says what is to come.
            let is_made = owner.as_ref().is_some_and(|owner| {
                let kind = WorkloadKind::from_str(&owner.kind);
                kind.is_ok_and(|kind| self.template(kind, &pod.namespace, &owner.name).is_some())
            });
            if !is_made && !with_pods.contains(&(pod.namespace.clone(), own)) {
                without.insert((&pod.namespace, &pod.name), pod);
            }
        }
        without.into_values().collect()
    }

    /// The pod of this name that a `StatefulSet` will make.
    pub fn pod_to_come(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let (set, index) = name.rsplit_once('-')?;
        let is_index = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
        let template = self.template(WorkloadKind::StatefulSet, namespace, set)?;
        is_index.then(|| {
            let mut pod = Pod::clone(&template.pod);
            pod.name = name.into();
            pod.labels.insert(STATEFUL_NAME.into(), name.into());
            pod.labels.insert(STATEFUL_INDEX.into(), index.into());
            Arc::new(pod)
        })
    }
}
