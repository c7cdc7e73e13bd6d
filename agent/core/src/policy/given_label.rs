//! The labels that Calico gives objects, whatever their own say; only its selectors see them.
//!
//! Semantics: Calico 3.28, `libcalico-go/lib/backend/syncersv1/updateprocessors`.

/// What the keys of the labels that Calico gives begin with.
pub const PREFIX: &str = "projectcalico.org/";

/// By which selectors name a namespace, or a service account.
pub const NAME: &str = "projectcalico.org/name";

/// The namespace of a pod or a network set.
pub const NAMESPACE: &str = "projectcalico.org/namespace";

/// The service account that a pod runs as.
pub const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";

/// What made a pod: `k8s`.
pub const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";
