//! What the metadata of objects says.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{
    Layer, PodPeer, Policy, PolicyKind, PolicyRef, Rule, mute_annotation::annotated, order::Order,
    origin,
};
use crate::problem::{FieldPath, Problem};

/// The name of an object.
pub(crate) fn name_of(metadata: &ObjectMeta) -> Result<Arc<str>, Problem> {
    match metadata.name.as_deref() {
        Some(name) if !name.is_empty() => Ok(name.into()),
        _ => Err(FieldPath::root("metadata").field("name").expected("a name", "none")),
    }
}

/// The namespace of an object of a namespaced kind.
pub(crate) fn namespace_of(metadata: &ObjectMeta) -> Arc<str> {
    metadata.namespace.as_deref().unwrap_or("default").into()
}

/// When a manager last wrote to an object's spec, by its managed fields: what a status or an
/// annotation says decides nothing.
///
/// <https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management>
fn spec_written(metadata: &ObjectMeta) -> Option<Timestamp> {
    let managers = metadata.managed_fields.iter().flatten();
    let of_spec = managers.filter(|manager| {
        let fields = manager.fields_v1.as_ref().map(|fields| &fields.0);
        fields.is_some_and(|fields| fields.get("f:spec").is_some())
    });
    of_spec.filter_map(|manager| manager.time.as_ref().map(|time| time.0)).max()
}

/// What a policy is without its spec.
pub(super) struct Header<'a> {
    metadata: &'a ObjectMeta,
    reference: PolicyRef,
    api_version: &'a str,
}

impl<'a> Header<'a> {
    /// That of a policy of a namespace.
    pub(super) fn namespaced(
        metadata: &'a ObjectMeta,
        kind: PolicyKind,
        api_version: &'a str,
    ) -> Result<Self, Problem> {
        let namespace = Some(namespace_of(metadata));
        let reference = PolicyRef { kind, namespace, name: name_of(metadata)? };
        Ok(Self { metadata, reference, api_version })
    }

    /// That of a policy of the cluster.
    pub(super) fn cluster_wide(
        metadata: &'a ObjectMeta,
        kind: PolicyKind,
        api_version: &'a str,
    ) -> Result<Self, Problem> {
        let reference = PolicyRef { kind, namespace: None, name: name_of(metadata)? };
        Ok(Self { metadata, reference, api_version })
    }

    /// Its namespace, if it has one.
    pub(super) fn namespace(&self) -> Option<&Arc<str>> {
        self.reference.namespace.as_ref()
    }

    /// The policy with its spec: where it stands, what it selects, and its rules.
    pub(super) fn policy(
        self,
        (layer, order): (Layer, Order),
        subject: PodPeer,
        rules: Rules,
    ) -> Policy {
        let Self { metadata, reference, api_version } = self;
        Policy {
            reference,
            api_version: api_version.into(),
            stored_as: None,
            uid: metadata.uid.as_deref().map(Into::into),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
            written: spec_written(metadata),
            mute: annotated(metadata),
            is_remedy: origin::is_remedy(metadata),
            layer,
            order,
            subject,
            ingress: rules.ingress,
            egress: rules.egress,
            undeclared: None,
        }
    }
}

/// The rules of a policy; `None`: it does not govern that direction.
pub(super) struct Rules {
    pub(super) ingress: Option<Vec<Rule>>,
    pub(super) egress: Option<Vec<Rule>>,
}
