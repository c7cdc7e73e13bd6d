//! Looking up who holds an address, or a Service, and saying why something could not be asked.

use std::{net::IpAddr, sync::Arc};

use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
    runtime::watcher,
};
use tokio::time::{Duration, timeout};
use whydrop_core::cluster::{look_up::Sought, object::Object};

use super::{
    kinds::{ENDPOINT_SLICE, Followed, POD, SERVICE},
    owners::Owners,
    watch::read,
};

/// How long the API server may take: a drop waits for the answer.
const WAIT: Duration = Duration::from_secs(2);

/// The label by which an `EndpointSlice` names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Who holds an address: pods of other nodes, or a Service with its `EndpointSlices`; or a Service by
/// its name. `node`: whose pods to go through if nobody holds the address as their first one, which is
/// all that can be asked for.
///
/// # Errors
/// Why it could not be asked.
pub(super) async fn look_up(
    client: Client,
    sought: Sought,
    node: Option<Arc<str>>,
) -> Result<Vec<Object>, String> {
    let asked = async {
        match sought {
            Sought::Address(address) => holders(&client, address, node).await,
            Sought::Service((namespace, name)) => {
                let named = ListParams::default().fields(&format!("metadata.name={name}"));
                services(&client, Some(&namespace), &named).await
            }
        }
    };
    match timeout(WAIT, asked).await {
        Ok(found) => found.map_err(|error| chain(&error)),
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
    let mut found = list(client, &SERVICE, namespace, which).await?.objects;
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
        | watcher::Error::WatchFailed(error) => chain(error),
        watcher::Error::WatchError(status) => format!("{} ({})", status.message, status.code),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
}

/// An error of the client's with what is behind it, in one line.
pub(crate) fn chain(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        let said = if status.message.is_empty() { &status.reason } else { &status.message };
        return format!("{said} ({})", status.code);
    }
    crate::chain::chain(error)
}
