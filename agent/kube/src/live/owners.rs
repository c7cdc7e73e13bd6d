//! From the owner that a pod names to the workload that people know: of a `Job` the `CronJob`, of a
//! `ReplicaSet` the `Deployment`.

use std::collections::HashMap;

use k8s_openapi::{
    api::{apps::v1::ReplicaSet, batch::v1::Job},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client};
use tokio::time::{Duration, timeout};
use whydrop_core::cluster::object::{Object, Workload};

/// How long to wait for an answer: what is asked for only makes a name better.
const WAIT: Duration = Duration::from_secs(1);

/// How many owners are remembered: a node has some hundred pods, and each few owners in its life.
const OWNERS_MAX: usize = 1024;

/// Asks for owners' owners, once for each.
pub(super) struct Owners {
    client: Client,
    known: HashMap<(String, Workload), Workload>,
}

impl Owners {
    pub(super) fn new(client: Client) -> Self {
        Self { client, known: HashMap::new() }
    }

    /// Replaces a pod's workload by the one that made it, if there is one.
    pub(super) async fn complete(&mut self, object: &mut Object) {
        let Object::Pod(pod) = object else { return };
        let Some(workload) = &mut pod.workload else { return };
        let key = (pod.namespace.to_string(), workload.clone());
        if let Some(known) = self.known.get(&key) {
            *workload = known.clone();
            return;
        }
        let asked = timeout(WAIT, self.owner(&key.0, workload)).await;
        // A name that could not be asked for stays as the pod gave it, and is asked for again.
        let Ok(Ok(owner)) = asked else { return };
        if let Some(owner) = owner {
            *workload = owner;
        }
        if self.known.len() >= OWNERS_MAX {
            self.known.clear();
        }
        self.known.insert(key, workload.clone());
    }

    async fn owner(&self, namespace: &str, of: &Workload) -> kube::Result<Option<Workload>> {
        let metadata = match &*of.kind {
            "ReplicaSet" => self.metadata::<ReplicaSet>(namespace, of).await?,
            "Job" => self.metadata::<Job>(namespace, of).await?,
            _ => None,
        };
        let owners = metadata.and_then(|metadata| metadata.owner_references).unwrap_or_default();
        let controller = owners.into_iter().find(|owner| owner.controller == Some(true));
        Ok(controller.map(|owner| Workload { kind: owner.kind.into(), name: owner.name.into() }))
    }

    async fn metadata<K>(&self, namespace: &str, of: &Workload) -> kube::Result<Option<ObjectMeta>>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        Ok(api.get_metadata_opt(&of.name).await?.map(|object| object.metadata))
    }
}
