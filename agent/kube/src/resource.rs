//! Kinds as the client of the API server wants them, and the objects that it gives.

use kube::{
    api::{ApiResource, DynamicObject},
    core::ObjectMeta,
};
use serde_json::Value;
use whydrop_core::{
    cluster::{
        object::Object,
        profile::detect::{Sign, signs},
    },
    kinds::{self, KindRow},
    policy::unread::Unread,
    problem::Problem,
};

/// A kind as the client wants it, in its first version.
pub fn resource(row: &KindRow) -> ApiResource {
    resource_in(row, row.api_version())
}

/// A kind as the client wants it, in one of its versions.
pub fn resource_in(row: &KindRow, api_version: &str) -> ApiResource {
    let (_, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource {
        group: kinds::group_of(api_version).to_owned(),
        version: version.to_owned(),
        api_version: api_version.to_owned(),
        kind: row.kind.to_owned(),
        plural: row.plural.to_owned(),
    }
}

/// What an object that the API server gives is to us.
#[derive(Default)]
pub(crate) struct Read {
    /// It, where it can be read.
    pub(crate) object: Option<Object>,
    /// What it may do, where it is not read.
    pub(crate) unread: Option<Unread>,
    /// What is wrong with it, where its kind is read.
    pub(crate) problem: Option<Problem>,
    /// What it shows of who enforces policies.
    pub(crate) signs: Vec<Sign>,
}

/// From an object of a kind, in one of its versions, as the API server gives it.
pub(crate) fn read(row: &KindRow, api_version: &str, object: DynamicObject) -> Read {
    // Its type is not looked at: items of a list do not name it, and the row knows.
    let DynamicObject { metadata, mut data, .. } = object;
    if let Value::Object(fields) = &mut data {
        fields.insert("apiVersion".to_owned(), api_version.into());
        fields.insert("kind".to_owned(), row.kind.into());
        fields.insert("metadata".to_owned(), serde_json::to_value(metadata).unwrap_or_default());
    }
    let unread = |data: &Value| kinds::unread(api_version, row.kind, data);
    if row.reads().is_none() {
        return Read { unread: unread(&data), ..Read::default() };
    }
    // Policies show no more than that their group is served.
    let signs = if row.decides() { Vec::new() } else { signs(&data) };
    // Of one that is malformed, it is asked below whom it may be about.
    let copy = row.decides().then(|| data.clone());
    match row.decode(data, api_version) {
        Ok(object) => Read { object, signs, ..Read::default() },
        Err(problem) => Read {
            unread: copy.as_ref().and_then(unread),
            problem: Some(problem),
            ..Read::default()
        },
    }
}

/// `NAMESPACE/NAME`, or the name alone.
pub(crate) fn name_of(metadata: &ObjectMeta) -> String {
    let name = metadata.name.as_deref().unwrap_or_default();
    match &metadata.namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}
