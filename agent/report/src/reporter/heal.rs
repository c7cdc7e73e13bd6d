//! What the healer did, to records.

use jiff::Timestamp;
use whydrop_core::{
    heal::{Proposal, Refusal, Standing, WatchOutcome},
    incident::IncidentId,
    policy::PolicyRef,
};

use crate::{
    convert::policy_ref,
    heal::{HealAction, HealKind, HealRecord},
    schema::Schema,
    yaml,
};

/// Writes the records of one healer.
#[derive(Clone, Debug)]
pub struct HealReporter {
    /// Who it is.
    pub healer: String,
}

impl HealReporter {
    /// That policies would be created: a dry run.
    pub fn proposed(
        &self,
        now: Timestamp,
        incident: IncidentId,
        proposal: &Proposal,
        expires: Timestamp,
    ) -> HealRecord {
        let record = self.record(now, incident, HealAction::Proposed, why(proposal));
        with(proposal, expires, record)
    }

    /// That policies were created.
    pub fn applied(
        &self,
        now: Timestamp,
        incident: IncidentId,
        proposal: &Proposal,
        expires: Timestamp,
    ) -> HealRecord {
        let record = self.record(now, incident, HealAction::Applied, why(proposal));
        with(proposal, expires, record)
    }

    /// What watching policies showed, and what was done about it.
    pub fn watched(
        &self,
        now: Timestamp,
        standing: &Standing,
        action: HealAction,
        outcome: &WatchOutcome,
    ) -> HealRecord {
        HealRecord {
            outcome: Some(outcome.kind().into()),
            ..self.standing(now, standing, action, outcome.to_string())
        }
    }

    /// Something about active policies.
    pub fn standing(
        &self,
        now: Timestamp,
        standing: &Standing,
        action: HealAction,
        why: String,
    ) -> HealRecord {
        HealRecord {
            policies: standing.policies.iter().map(policy_ref).collect(),
            expires: Some(standing.expires.into()),
            ..self.record(now, standing.case.incident, action, why)
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
            time: now.into(),
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

/// What the policies of a proposal do.
fn why(proposal: &Proposal) -> String {
    let pass = match proposal.proved {
        1 => "1 flow that is denied now passes with it".to_owned(),
        flows => format!("{flows} flows that are denied now pass with it"),
    };
    format!("{}; {pass}", proposal.summary)
}

/// A record of these policies.
fn with(proposal: &Proposal, expires: Timestamp, record: HealRecord) -> HealRecord {
    HealRecord {
        policies: proposal.policies.iter().map(policy_ref).collect(),
        manifest: Some(yaml::documents(&proposal.manifests)),
        newly_allowed: Some(proposal.newly_allowed),
        expires: Some(expires.into()),
        ..record
    }
}
