//! Calico's tiers.
//!
//! Semantics: <https://docs.tigera.io/calico/latest/reference/resources/tier>.

use std::sync::Arc;

use super::{DEFAULT_TIER, order::Order};

/// The order of [`DEFAULT_TIER`], as Calico creates it.
const DEFAULT_TIER_ORDER: Order = Order::of(1_000_000);

/// The tiers that Calico makes by itself, some of them from a version on: their orders are fixed, so that
/// a policy in one is placed also where no object describes it. Policies of Kubernetes' admin kinds are
/// part of those named after them.
///
/// Order, and what becomes of the rest: <https://docs.tigera.io/calico/latest/network-policy/policy-tiers/tiered-policy>;
/// `calico-system`, called `allow-tigera` before 3.32: tigera/operator, `pkg/render`.
const BUILT_IN: [(&str, u32, DefaultAction); 6] = [
    ("calico-system", 100, DefaultAction::Deny),
    ("allow-tigera", 100, DefaultAction::Deny),
    ("kube-admin", 1_000, DefaultAction::Pass),
    (ADMIN_TIER, 1_000, DefaultAction::Pass),
    (BASELINE_TIER, 10_000_000, DefaultAction::Pass),
    ("kube-baseline", 10_000_000, DefaultAction::Pass),
];

/// The tier that Calico 3.29 to 3.31 puts `AdminNetworkPolicies` into.
pub const ADMIN_TIER: &str = "adminnetworkpolicy";
/// The one for `BaselineAdminNetworkPolicies`.
pub const BASELINE_TIER: &str = "baselineadminnetworkpolicy";

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
    /// The tiers that Calico makes by itself, [`DEFAULT_TIER`] left out.
    pub fn built_in() -> impl Iterator<Item = Self> {
        BUILT_IN.iter().map(|(name, order, default_action)| Self {
            name: (*name).into(),
            order: Order::of(*order),
            default_action: *default_action,
        })
    }

    /// The same with the order that one without any has, as Calico 3.29 and later take it.
    #[must_use]
    pub fn ordered(mut self) -> Self {
        if self.order == Order::LAST {
            self.order = DEFAULT_TIER_ORDER;
        }
        self
    }

    /// [`DEFAULT_TIER`] where no object describes it.
    pub fn default_tier() -> Self {
        Self {
            name: DEFAULT_TIER.into(),
            order: DEFAULT_TIER_ORDER,
            default_action: DefaultAction::Deny,
        }
    }
}
