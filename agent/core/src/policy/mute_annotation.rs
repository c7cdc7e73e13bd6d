//! The annotation of a policy, or of a namespace, that says that the denials of it are expected.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// On a policy: the denials that it leads are expected. On a namespace: those of its policies are.
/// The value is `true`, or the reason; `false` and nothing at all mute nothing.
pub const ANNOTATION: &str = "whydrop.io/mute";

/// How many bytes of a reason are kept: a sentence or a link. Every policy may carry one.
pub const REASON_BYTES_MAX: usize = 200;

/// Why an object says that denials are expected; empty where it gives no reason. `None`: it does not.
pub fn annotated(metadata: &ObjectMeta) -> Option<Arc<str>> {
    let annotations = metadata.annotations.as_ref()?;
    match annotations.get(ANNOTATION) {
        Some(value) => reason(value),
        None => reason(given_to_calico(metadata)?["annotations"][ANNOTATION].as_str()?),
    }
}

/// Where Calico's own API server and its command keep the metadata that they were given
/// (`libcalico-go/lib/backend/k8s/resources/resources.go`).
const CALICO_METADATA: &str = "projectcalico.org/metadata";

/// The metadata that Calico was given, where it keeps them.
pub(super) fn given_to_calico(metadata: &ObjectMeta) -> Option<serde_json::Value> {
    serde_json::from_str(metadata.annotations.as_ref()?.get(CALICO_METADATA)?).ok()
}

fn reason(value: &str) -> Option<Arc<str>> {
    match value.trim() {
        "" | "false" => None,
        "true" => Some("".into()),
        reason => {
            let mut end = reason.len().min(REASON_BYTES_MAX);
            while !reason.is_char_boundary(end) {
                end -= 1;
            }
            Some(reason[..end].into())
        }
    }
}
