//! Calico's tiers and network sets.
//!
//! Semantics: <https://docs.tigera.io/calico/latest/reference/resources/tier>,
//! <https://docs.tigera.io/calico/latest/reference/resources/networkset>.

use super::{
    entity::networks,
    wire::{CalicoNetworkSet, CalicoTier},
};
use crate::{
    policy::{
        labels,
        metadata::{name_of, namespace_of},
        network_set::NetworkSet,
        order::Order,
        tier::{DefaultAction, Tier},
    },
    problem::{FieldPath, Problem},
};

/// Translates a Tier.
///
/// # Errors
/// The first field that Calico would refuse.
pub fn tier(tier: &CalicoTier) -> Result<Tier, Problem> {
    let path = FieldPath::root("spec").field("defaultAction");
    Ok(Tier {
        name: name_of(&tier.metadata)?,
        order: Order::of_calico(tier.spec.order.as_ref().and_then(serde_json::Number::as_f64)),
        default_action: match tier.spec.default_action.as_deref() {
            None | Some("" | "Deny") => DefaultAction::Deny,
            Some("Pass") => DefaultAction::Pass,
            Some(other) => return Err(path.expected("Deny or Pass", format!("{other:?}"))),
        },
    })
}

/// Translates a `NetworkSet`, or a `GlobalNetworkSet`, which is in no namespace.
///
/// # Errors
/// The first field that Calico would refuse.
pub fn network_set(set: &CalicoNetworkSet, is_global: bool) -> Result<NetworkSet, Problem> {
    let metadata = &set.metadata;
    Ok(NetworkSet {
        namespace: (!is_global).then(|| namespace_of(metadata)),
        name: name_of(metadata)?,
        labels: labels(metadata.labels.iter().flatten()),
        networks: networks(set.spec.nets.as_deref(), &FieldPath::root("spec").field("nets"))?,
    })
}
