//! Looking up who holds an address, a Service, what an incident needs to know about those it affects, or
//! what the API server calls.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use kube::{Api, Client, api::ListParams};
use tokio::time::Duration;
use whydrop_core::{
    cluster::{
        Snapshot,
        caller::CallerKind,
        look_up::Query,
        object::{Kind, Object, Scale, Workload},
    },
    kinds,
    policy::requirement::Labels,
};

use super::{list::list, owners::Owners};
use crate::api_error::{ApiError, answered};

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
            Query::Service(_) | Query::Exposed | Query::Scale(..) | Query::Callers => {
                Self::default()
            }
        }
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) objects: Vec<Object>,
    /// Of a workload whose status says it.
    pub(super) scale: Option<Scale>,
}

/// Who holds an address: pods of other nodes, or a Service with its `EndpointSlices`; a Service by its
/// name, by a pod that it selects, or all that are reached from outside; how many pods a workload has; or
/// what the API server calls.
///
/// # Errors
/// Why it could not be asked.
pub(super) async fn look_up(
    client: Client,
    sought: Query,
    about: About,
) -> Result<Found, ApiError> {
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
                Ok::<_, ApiError>(Found { scale, ..Found::default() })
            }
            Query::Exposed => exposed(&client).await.map(objects),
            Query::Callers => callers(&client).await.map(objects),
        }
    };
    answered(WAIT, asked).await
}

async fn holders(
    client: &Client,
    address: IpAddr,
    node: Option<Arc<str>>,
) -> Result<Vec<Object>, ApiError> {
    let pods = kinds::of(Kind::Pod);
    let of_address = ListParams::default().fields(&format!("status.podIP={address}"));
    let mut found = list(client, pods, None, &of_address).await?.objects;
    if found.is_empty() {
        let of_address = ListParams::default().fields(&format!("spec.clusterIP={address}"));
        found = services(client, None, &of_address).await?;
    }
    if let Some(node) = node.filter(|_| found.is_empty()) {
        let of_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
        found = list(client, pods, None, &of_node).await?.objects;
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
) -> Result<Vec<Object>, ApiError> {
    let found = list(client, kinds::of(Kind::Service), namespace, which).await?.objects;
    with_slices(client, found).await
}

/// The Services of a namespace that select pods with these labels, with their `EndpointSlices`.
async fn services_of(
    client: &Client,
    namespace: &str,
    labels: &Labels,
) -> Result<Vec<Object>, ApiError> {
    let some = ListParams::default().limit(SERVICES_MAX);
    let mut found = list(client, kinds::of(Kind::Service), Some(namespace), &some).await?.objects;
    found.retain(|object| matches!(object, Object::Service(service) if service.selects(labels)));
    found.truncate(SERVICES_OF_POD_MAX);
    with_slices(client, found).await
}

/// The Services that have external addresses, balancers or ports of nodes. They are asked for of what
/// the API server holds in memory: who asks is every agent that sees drops towards the outside.
async fn exposed(client: &Client) -> Result<Vec<Object>, ApiError> {
    let all = ListParams::default().match_any();
    let mut found = list(client, kinds::of(Kind::Service), None, &all).await?.objects;
    found.retain(|object| matches!(object, Object::Service(service) if service.is_exposed()));
    Ok(found)
}

async fn with_slices(client: &Client, mut found: Vec<Object>) -> Result<Vec<Object>, ApiError> {
    let mut slices = Vec::new();
    for object in &found {
        let Object::Service(service) = object else { continue };
        let of_service = ListParams::default().labels(&format!("{SERVICE_NAME}={}", service.name));
        let namespace = Some(&*service.namespace);
        slices.extend(
            list(client, kinds::of(Kind::EndpointSlice), namespace, &of_service).await?.objects,
        );
    }
    found.extend(slices);
    Ok(found)
}

/// What has the API server call a Service. `CustomResourceDefinition`s with a conversion do so too, and are
/// left to questions: of all kinds they are the largest, megabytes of schemas.
///
/// # Errors
/// Why none of the kinds could be listed. What one user may not list does not hide the others.
async fn callers(client: &Client) -> Result<Vec<Object>, ApiError> {
    const KINDS: [CallerKind; 3] = [
        CallerKind::ValidatingWebhookConfiguration,
        CallerKind::MutatingWebhookConfiguration,
        CallerKind::ApiService,
    ];
    let (mut found, mut failed) = (Vec::new(), None);
    for kind in KINDS {
        match list(client, kinds::of(Kind::Caller(kind)), None, &ListParams::default()).await {
            Ok(listing) => found.extend(listing.objects),
            Err(why) => failed = Some(why),
        }
    }
    // Most APIs are the API server's own.
    found.retain(|object| matches!(object, Object::Caller(caller) if !caller.calls.is_empty()));
    match failed {
        Some(why) if found.is_empty() => Err(why),
        _ => Ok(found),
    }
}

/// How many pods a workload has, by its status; nothing where it is gone, or of another kind.
async fn scale(
    client: &Client,
    namespace: &str,
    workload: &Workload,
) -> Result<Option<Scale>, ApiError> {
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
