//! `kind: heal`: what the healer did about an incident, or why it did nothing.

use std::fmt::Write as _;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use whydrop_core::{
    heal::{Mode, Outcome, Proposal, Refusal, Standing},
    incident::IncidentId,
    policy::PolicyRef,
};

use super::{
    ObjectRef, Record, Schema,
    convert::{policy_ref, time},
    text::{seconds, short},
    yaml,
};

/// Something that the healer did, or would do, or did not do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealRecord {
    /// `whydrop/v1`.
    pub schema: Schema,
    /// Always `heal`.
    pub kind: HealKind,
    /// When this record was written, RFC 3339 in UTC.
    pub time: String,
    /// The incident that it is about.
    pub incident: String,
    /// Who did it: the healer's pod, or the host's name.
    pub healer: String,
    /// What was done.
    pub action: HealAction,
    /// What a watch came to: `recovered` or `quiet` of policies that were kept; `still-dying`,
    /// `not-seen` or `broke` of those that were rolled back.
    pub outcome: Option<String>,
    /// The policies that it was done with.
    pub policies: Vec<ObjectRef>,
    /// YAML of what was applied, or would be.
    pub manifest: Option<String>,
    /// How many other pairs of ends that newly allows, at least.
    pub newly_allowed: Option<usize>,
    /// Until when the policies stand at most.
    pub expires: Option<String>,
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
    /// They help, and stand until they expire.
    Kept,
    /// They did not help, or something else broke: they were deleted.
    RolledBack,
    /// They expire soon.
    Expiring,
    /// They were deleted since their time was over.
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

/// Writes the records of one healer.
#[derive(Clone, Debug)]
pub struct HealReporter {
    /// Who it is.
    pub healer: String,
}

impl HealReporter {
    /// That policies were created, or would be.
    pub fn applied(
        &self,
        now: Timestamp,
        incident: IncidentId,
        proposal: &Proposal,
        mode: Mode,
        expires: Timestamp,
    ) -> HealRecord {
        let pass = match proposal.proved {
            1 => "1 flow that is denied now passes with it".to_owned(),
            flows => format!("{flows} flows that are denied now pass with it"),
        };
        HealRecord {
            policies: proposal.policies.iter().map(policy_ref).collect(),
            manifest: Some(yaml::documents(&proposal.manifests)),
            newly_allowed: Some(proposal.newly_allowed),
            expires: Some(time(expires)),
            ..self.record(
                now,
                incident,
                match mode {
                    Mode::DryRun => HealAction::Proposed,
                    Mode::Apply => HealAction::Applied,
                },
                format!("{}; {pass}", proposal.summary),
            )
        }
    }

    /// What a watch came to, and what was done about it.
    pub fn watched(
        &self,
        now: Timestamp,
        standing: &Standing,
        action: HealAction,
        outcome: &Outcome,
    ) -> HealRecord {
        let outcome_name = Some(outcome.kind().to_string());
        HealRecord {
            outcome: outcome_name,
            ..self.standing(now, standing, action, outcome.to_string())
        }
    }

    /// Something about policies that stand.
    pub fn standing(
        &self,
        now: Timestamp,
        standing: &Standing,
        action: HealAction,
        why: String,
    ) -> HealRecord {
        HealRecord {
            policies: standing.policies.iter().map(policy_ref).collect(),
            expires: Some(time(standing.expires)),
            ..self.record(now, standing.incident, action, why)
        }
    }

    /// Why nothing was done, about these policies if any.
    pub fn refused(
        &self,
        now: Timestamp,
        incident: IncidentId,
        policies: &[PolicyRef],
        why: &Refusal,
    ) -> HealRecord {
        HealRecord {
            policies: policies.iter().map(policy_ref).collect(),
            ..self.record(now, incident, HealAction::Refused, why.to_string())
        }
    }

    fn record(
        &self,
        now: Timestamp,
        incident: IncidentId,
        action: HealAction,
        why: String,
    ) -> HealRecord {
        HealRecord {
            schema: Schema::V1,
            kind: HealKind::Heal,
            time: time(now),
            incident: incident.to_string(),
            healer: self.healer.clone(),
            action,
            outcome: None,
            policies: Vec::new(),
            manifest: None,
            newly_allowed: None,
            expires: None,
            why,
        }
    }
}

impl From<HealRecord> for Record {
    fn from(record: HealRecord) -> Self {
        Self::Heal(Box::new(record))
    }
}

/// What was done with which policies, and why: `applied NetworkPolicy backend/allow-… until …: WHY`.
pub fn sentence(record: &HealRecord) -> String {
    let policies = record.policies.iter().map(|policy| {
        let namespace = policy.namespace.as_deref().map(|name| format!("{name}/"));
        format!("{} {}{}", policy.kind, namespace.unwrap_or_default(), policy.name)
    });
    let policies = policies.collect::<Vec<_>>().join(" and ");
    let HealRecord { why, .. } = record;
    let until = record.expires.as_deref().map(seconds).unwrap_or_default();
    let mut text = match record.action {
        HealAction::Proposed => format!("would apply {policies} (dry run): {why}"),
        HealAction::Applied => format!("applied {policies} until {until}: {why}"),
        HealAction::Kept => format!("kept {policies} until {until}: {why}"),
        HealAction::RolledBack => format!("rolled back {policies}: {why}"),
        HealAction::Expiring => format!("will delete {policies} at {until}: {why}"),
        HealAction::Expired => format!("deleted {policies}, whose time is over: {why}"),
        HealAction::Refused if policies.is_empty() => format!("leaves it alone: {why}"),
        HealAction::Refused => format!("leaves {policies} alone: {why}"),
    };
    match record.newly_allowed {
        None | Some(0) => {}
        Some(1) => text += "; it newly allows 1 other pair of ends",
        Some(count) => {
            let _ = write!(text, "; it newly allows {count} other pairs of ends");
        }
    }
    text
}

/// `TIME HEAL INCIDENT applied NetworkPolicy backend/allow-… until …: WHY`.
pub(super) fn line(record: &HealRecord) -> String {
    format!("{} HEAL {} {}", seconds(&record.time), short(&record.incident), sentence(record))
}
