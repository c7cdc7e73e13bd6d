//! What is written in an object, as far as it can be read.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use crate::{policy::selector::Selector, problem::FieldPath};

/// The namespace of an object of a namespaced kind.
pub(super) fn namespace(object: &Value) -> Arc<str> {
    object["metadata"]["namespace"].as_str().unwrap_or("default").into()
}

/// The items of a list; none where it is absent, or no list.
pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Whether a list holds anything.
pub(super) fn has_items(value: &Value) -> bool {
    !items(value).is_empty()
}

/// A selector by labels; everything where it is absent, or cannot be read.
pub(super) fn selector(value: &Value) -> Selector {
    let written: Option<LabelSelector> = serde_json::from_value(value.clone()).ok();
    written
        .and_then(|written| Selector::lower(&written, &FieldPath::default()).ok())
        .unwrap_or_default()
}

/// Whether the object says anything of what it wants: of what was read by its metadata alone, nothing
/// is known but that.
pub(super) fn has_spec(object: &Value) -> bool {
    object["spec"].is_object()
}
