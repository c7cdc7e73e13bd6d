//! Calico's tiers.
//!
//! Semantics: <https://docs.tigera.io/calico/latest/reference/resources/tier>.

use std::sync::Arc;

use super::{DEFAULT_TIER, order::Order};

/// The order of [`DEFAULT_TIER`], as Calico creates it.
const DEFAULT_TIER_ORDER: Order = Order::of(1_000_000);

/// A tier: policies that are asked together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// Its name.
    pub name: Arc<str>,
    /// Its place among the tiers; of equal ones the name decides.
    pub order: Order,
    /// What becomes of a flow whose pod one of its policies selects, and that no rule decides.
    pub default_action: DefaultAction,
}

/// What becomes of a flow that a stage's policies govern and that none of their rules decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DefaultAction {
    /// Drop it.
    Deny,
    /// Leave it to the next stage.
    Pass,
}

impl Tier {
    /// [`DEFAULT_TIER`] where no object describes it.
    pub fn default_tier() -> Self {
        Self {
            name: DEFAULT_TIER.into(),
            order: DEFAULT_TIER_ORDER,
            default_action: DefaultAction::Deny,
        }
    }
}
