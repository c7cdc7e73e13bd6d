//! What says of an object that a remedy created it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::mute_annotation::given_to_calico;

/// The label that says what manages an object ("Recommended Labels").
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// What it says of objects that people create by a remedy.
pub const MANAGER: &str = "whydrop";

/// What it says of objects that the healer creates.
pub const HEALER: &str = "whydrop-heal";

/// The annotation with the name of the incident.
pub const INCIDENT: &str = "whydrop.io/incident";

/// Whether a remedy created it, by whoever's hand.
pub(super) fn is_remedy(metadata: &ObjectMeta) -> bool {
    let is_ours = |manager: &str| [MANAGER, HEALER].contains(&manager);
    let manager = metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY));
    let annotations = metadata.annotations.as_ref();
    manager.is_some_and(|manager| is_ours(manager))
        || annotations.is_some_and(|all| all.contains_key(INCIDENT))
        || given_to_calico(metadata).is_some_and(|given| {
            given["labels"][MANAGED_BY].as_str().is_some_and(is_ours)
                || given["annotations"][INCIDENT].is_string()
        })
}
