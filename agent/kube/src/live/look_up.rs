//! Looking up who holds an address, a Service, or what an incident needs to know about those it
//! affects; and saying why something could not be asked.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
    runtime::watcher,
};
use tokio::time::{Duration, timeout};
use whydrop_core::{
    cluster::{
        Snapshot,
        look_up::Query,
        object::{Object, Scale, Workload},
    },
    policy::requirement::Labels,
};

use super::{
    kinds::{ENDPOINT_SLICE, Followed, POD, SERVICE},
    owners::Owners,
    watch::read,
};
use crate::chain::kube_chain;

/// How long the API server may take: a drop waits for the answer.
const WAIT: Duration = Duration::from_secs(2);

/// The label by which an `EndpointSlice` names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// How many Services of a namespace are looked at for those that select a pod, and how many of those
/// are asked for what is behind them.
const SERVICES_MAX: u32 = 500;
const SERVICES_OF_POD_MAX: usize = 8;

/// What is known beforehand of something that is sought.
#[derive(Debug, Default)]
pub(super) struct About {
    /// Of an address: whose pods to go through if nobody holds it as their first one, which is all
    /// that can be asked for.
    node: Option<Arc<str>>,
    /// Of a pod: what Services select it by.
    labels: Labels,
}

impl About {
    pub(super) fn of(sought: &Query, snapshot: &Snapshot) -> Self {
        match sought {
            Query::Address(address) => {
                let node = snapshot.node_of_pod_network(*address);
                Self { node: node.map(|node| node.name.clone()), ..Self::default() }
            }
            Query::ServicesOf((namespace, name)) => {
                let labels = snapshot.pod(namespace, name).map(|pod| pod.labels.clone());
                Self { labels: labels.unwrap_or_default(), ..Self::default() }
            }
            Query::Service(_) | Query::Scale(..) => Self::default(),
        }
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) objects: Vec<Object>,
    /// Of a workload that tells.
    pub(super) scale: Option<Scale>,
}

/// Who holds an address: pods of other nodes, or a Service with its `EndpointSlices`; a Service by its
/// name, or by a pod that it selects; or how many pods a workload has.
///
/// # Errors
/// Why it could not be asked.
pub(super) async fn look_up(client: Client, sought: Query, about: About) -> Result<Found, String> {
    let objects = |objects| Found { objects, scale: None };
    let asked = async {
        match sought {
            Query::Address(address) => holders(&client, address, about.node).await.map(objects),
            Query::Service((namespace, name)) => {
                let named = ListParams::default().fields(&format!("metadata.name={name}"));
                services(&client, Some(&namespace), &named).await.map(objects)
            }
            Query::ServicesOf((namespace, _)) => {
                services_of(&client, &namespace, &about.labels).await.map(objects)
            }
            Query::Scale(namespace, workload) => {
                let scale = scale(&client, &namespace, &workload).await?;
                Ok(Found { scale, ..Found::default() })
            }
        }
    };
    match timeout(WAIT, asked).await {
        Ok(found) => found.map_err(|error| kube_chain(&error)),
        Err(_) => Err(format!("the API server did not answer within {} s", WAIT.as_secs())),
    }
}

async fn holders(
    client: &Client,
    address: IpAddr,
    node: Option<Arc<str>>,
) -> kube::Result<Vec<Object>> {
    let pods = ListParams::default().fields(&format!("status.podIP={address}"));
    let mut found = list(client, &POD, None, &pods).await?.objects;
    if found.is_empty() {
        let of_address = ListParams::default().fields(&format!("spec.clusterIP={address}"));
        found = services(client, None, &of_address).await?;
    }
    if let Some(node) = node.filter(|_| found.is_empty()) {
        let of_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
        found = list(client, &POD, None, &of_node).await?.objects;
    }
    let mut owners = Owners::new(client.clone());
    for object in &mut found {
        owners.complete(object).await;
    }
    Ok(found)
}

/// Services, with their `EndpointSlices`.
async fn services(
    client: &Client,
    namespace: Option<&str>,
    which: &ListParams,
) -> kube::Result<Vec<Object>> {
    let found = list(client, &SERVICE, namespace, which).await?.objects;
    with_slices(client, found).await
}

/// The Services of a namespace that select pods with these labels, with their `EndpointSlices`.
async fn services_of(
    client: &Client,
    namespace: &str,
    labels: &Labels,
) -> kube::Result<Vec<Object>> {
    let some = ListParams::default().limit(SERVICES_MAX);
    let mut found = list(client, &SERVICE, Some(namespace), &some).await?.objects;
    found.retain(|object| matches!(object, Object::Service(service) if service.selects(labels)));
    found.truncate(SERVICES_OF_POD_MAX);
    with_slices(client, found).await
}

async fn with_slices(client: &Client, mut found: Vec<Object>) -> kube::Result<Vec<Object>> {
    let mut slices = Vec::new();
    for object in &found {
        let Object::Service(service) = object else { continue };
        let of_service = ListParams::default().labels(&format!("{SERVICE_NAME}={}", service.name));
        let namespace = Some(&*service.namespace);
        slices.extend(list(client, &ENDPOINT_SLICE, namespace, &of_service).await?.objects);
    }
    found.extend(slices);
    Ok(found)
}

/// How many pods a workload has, by its status; nothing where it is gone, or of another kind.
async fn scale(
    client: &Client,
    namespace: &str,
    workload: &Workload,
) -> kube::Result<Option<Scale>> {
    /// Numbers of the API are signed, and an absent one stands for none.
    fn scale(replicas: Option<i32>, ready: Option<i32>) -> Scale {
        let count = |number: Option<i32>| usize::try_from(number.unwrap_or(0)).unwrap_or(0);
        Scale { replicas: count(replicas), ready: count(ready) }
    }
    let name = &workload.name;
    Ok(match &*workload.kind {
        "Deployment" => {
            let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
            let status = api.get_opt(name).await?.and_then(|found| found.status);
            status.map(|status| scale(status.replicas, status.ready_replicas))
        }
        "ReplicaSet" => {
            let api: Api<ReplicaSet> = Api::namespaced(client.clone(), namespace);
            let status = api.get_opt(name).await?.and_then(|found| found.status);
            status.map(|status| scale(Some(status.replicas), status.ready_replicas))
        }
        "StatefulSet" => {
            let api: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
            let status = api.get_opt(name).await?.and_then(|found| found.status);
            status.map(|status| scale(Some(status.replicas), status.ready_replicas))
        }
        "DaemonSet" => {
            let api: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
            let status = api.get_opt(name).await?.and_then(|found| found.status);
            status.map(|status| {
                scale(Some(status.desired_number_scheduled), Some(status.number_ready))
            })
        }
        _ => None,
    })
}

/// What was listed of a kind.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) objects: Vec<Object>,
    /// How many objects are malformed.
    pub(super) malformed: usize,
}

/// Lists objects of a kind; what is malformed is left out, counted, and said on standard error.
pub(super) async fn list(
    client: &Client,
    followed: &Followed,
    namespace: Option<&str>,
    parameters: &ListParams,
) -> kube::Result<Listing> {
    let resource = followed.resource();
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let mut listing = Listing::default();
    let items = match api.list(parameters).await {
        Ok(list) => list.items,
        // A version of a group that the API server does not have.
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(error),
    };
    for item in items {
        let name = item.metadata.name.clone().unwrap_or_default();
        match read(followed, item) {
            Ok(object) => listing.objects.extend(object),
            Err(problem) => {
                tracing::warn!("{} {name}: {problem}", followed.name());
                listing.malformed += 1;
            }
        }
    }
    Ok(listing)
}

/// How many objects of a kind there are; none where the API server does not know the kind.
pub(super) async fn count(client: &Client, followed: &Followed) -> kube::Result<usize> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &followed.resource());
    match api.list_metadata(&ListParams::default()).await {
        Ok(list) => Ok(list.items.len()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(0),
        Err(error) => Err(error),
    }
}

/// Why a watch fails, in one line.
pub(super) fn reason(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => kube_chain(error),
        watcher::Error::WatchError(status) => format!("{} ({})", status.message, status.code),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
}
