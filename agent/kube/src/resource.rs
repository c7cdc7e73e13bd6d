//! Kinds as the client of the API server wants them, and the objects that it gives.

use kube::{
    api::{ApiResource, DynamicObject},
    core::ObjectMeta,
};
use serde_json::Value;
use whydrop_core::{cluster::object::Object, kinds::KindRow, problem::Problem};

/// A kind as the client wants it.
pub fn resource(row: &KindRow) -> ApiResource {
    ApiResource {
        group: row.group().to_owned(),
        version: row.version().to_owned(),
        api_version: row.api_version().to_owned(),
        kind: row.kind.to_owned(),
        plural: row.plural.to_owned(),
    }
}

/// From an object of a kind as the API server gives it to the core's own; `None`: none of this kind can
/// be read.
///
/// # Errors
/// The first field that cannot be read.
pub(crate) fn read(row: &KindRow, object: DynamicObject) -> Result<Option<Object>, Problem> {
    // Its type is not looked at: items of a list do not name it, and the row knows.
    let DynamicObject { metadata, mut data, .. } = object;
    if let Value::Object(fields) = &mut data {
        fields.insert("metadata".to_owned(), serde_json::to_value(metadata).unwrap_or_default());
    }
    row.decode(data, row.api_version())
}

/// `NAMESPACE/NAME`, or the name alone.
pub(crate) fn name_of(metadata: &ObjectMeta) -> String {
    let name = metadata.name.as_deref().unwrap_or_default();
    match &metadata.namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}
