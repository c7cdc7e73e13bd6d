//! Objects of a kind, listed once.

use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
};
use whydrop_core::{cluster::object::Object, kinds::KindRow};

use crate::{
    api_error::ApiError,
    resource::{name_of, read, resource},
};

/// What was listed of a kind.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) objects: Vec<Object>,
    /// How many objects are malformed.
    pub(super) malformed: usize,
}

/// Lists objects of a kind; what is malformed is left out, counted, and logged.
pub(super) async fn list(
    client: &Client,
    row: &KindRow,
    namespace: Option<&str>,
    parameters: &ListParams,
) -> Result<Listing, ApiError> {
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource(row)),
        None => Api::all_with(client.clone(), &resource(row)),
    };
    let mut listing = Listing::default();
    for item in or_none(api.list(parameters).await.map(|list| list.items))? {
        let name = name_of(&item.metadata);
        match read(row, item) {
            Ok(object) => listing.objects.extend(object),
            Err(problem) => {
                tracing::warn!("{} {name}: {problem}", row.name());
                listing.malformed += 1;
            }
        }
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
    Ok(read(row, object).unwrap_or_else(|problem| {
        tracing::warn!("{} {name}: {problem}", row.name());
        None
    }))
}

/// How many objects of a kind there are.
pub(super) async fn count(client: &Client, row: &KindRow) -> Result<usize, ApiError> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(row));
    let listed = api.list_metadata(&ListParams::default()).await;
    Ok(or_none(listed.map(|list| list.items))?.len())
}

/// None where the API server has the group and not this version, or not this kind.
fn or_none<T>(listed: kube::Result<Vec<T>>) -> Result<Vec<T>, ApiError> {
    match listed.map_err(ApiError::from) {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        listed => listed,
    }
}
