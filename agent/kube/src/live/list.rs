//! Objects of a kind, listed once.

use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
};
use whydrop_core::{cluster::object::Object, kinds::KindRow, policy::unread::Unread};

use super::groups::lists;
use crate::{
    api_error::ApiError,
    resource::{Read, name_of, read, resource, resource_in},
};

/// What was listed of a kind.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) objects: Vec<Object>,
    /// Those that are not read and may decide, malformed ones among them.
    pub(super) unread: Vec<Unread>,
}

/// Lists objects of a kind in the first of its versions that the API server knows; what is malformed is
/// left out, and logged. None where it knows no such kind.
pub(super) async fn list(
    client: &Client,
    row: &KindRow,
    namespace: Option<&str>,
    parameters: &ListParams,
) -> Result<Listing, ApiError> {
    let mut listing = Listing::default();
    for api_version in row.api_versions {
        let resource = resource_in(row, api_version);
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        let items = match api.list(parameters).await.map_err(ApiError::from) {
            // The API server may have the group and not this version, or not this kind; who has no right
            // to a kind is refused whether there is one or not.
            Err(error) if error.is_not_found() => continue,
            Err(error)
                if error.is_refused() && !Box::pin(lists(client, row, api_version)).await =>
            {
                continue;
            }
            listed => listed?.items,
        };
        for item in items {
            let name = name_of(&item.metadata);
            let Read { object, unread, problem, .. } = read(row, api_version, item);
            if let Some(problem) = problem {
                tracing::warn!("{} {name}: {problem}", row.name());
            }
            listing.objects.extend(object);
            listing.unread.extend(unread);
        }
        break;
    }
    Ok(listing)
}

/// The object of this name, of a kind that is in no namespace; `None`: there is none, or it is malformed,
/// which is logged.
pub(super) async fn get(
    client: &Client,
    row: &KindRow,
    name: &str,
) -> Result<Option<Object>, ApiError> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(row));
    let Some(object) = api.get_opt(name).await? else { return Ok(None) };
    let Read { object, problem, .. } = read(row, row.api_version(), object);
    if let Some(problem) = problem {
        tracing::warn!("{} {name}: {problem}", row.name());
    }
    Ok(object)
}
