//! `kind: heal`: what the healer did about an incident, or why it did nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use whydrop_core::heal::WatchOutcomeKind;

use crate::{
    schema::{ObjectRef, Schema},
    time::Time,
    word::Word,
};

/// Something that the healer did, or would do, or did not do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealRecord {
    /// `whydrop/v1`.
    pub schema: Schema,
    /// Always `heal`.
    pub kind: HealKind,
    /// When this record was written.
    pub time: Time,
    /// The incident that it is about.
    pub incident: String,
    /// Who did it: the healer's pod, or the host's name.
    pub healer: String,
    /// What was done.
    pub action: HealAction,
    /// What watching them showed: `recovered` or `quiet` of policies that were kept; `still-dying`,
    /// `not-seen` or `broke` of those that were rolled back.
    pub outcome: Option<Word<WatchOutcomeKind>>,
    /// The policies that it was done with.
    pub policies: Vec<ObjectRef>,
    /// YAML of what was applied, or would be.
    pub manifest: Option<String>,
    /// How many other pairs of ends that newly allows, at least.
    pub newly_allowed: Option<usize>,
    /// Until when the policies stay at most.
    pub expires: Option<Time>,
    /// Why, in words.
    pub why: String,
}

/// The kind of the healer's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealKind {
    /// Of healing.
    Heal,
}

/// What the healer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HealAction {
    /// A dry run: the API server would take this.
    Proposed,
    /// Policies were created, and are watched.
    Applied,
    /// They help, and stay until they expire.
    Kept,
    /// They did not help, or something else broke: they were deleted.
    RolledBack,
    /// They expire soon.
    Expiring,
    /// They were deleted because their time was over.
    Expired,
    /// Nothing was done.
    Refused,
}

impl HealAction {
    /// The reason of its Events.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Proposed => "WhydropHealProposed",
            Self::Applied => "WhydropHealApplied",
            Self::Kept => "WhydropHealKept",
            Self::RolledBack => "WhydropHealRolledBack",
            Self::Expiring => "WhydropHealExpiring",
            Self::Expired => "WhydropHealExpired",
            Self::Refused => "WhydropHealRefused",
        }
    }
}
