//! Incidents, as the core's book has them, to records.

use jiff::Timestamp;
use whydrop_core::{
    incident::{CutPath, Happened, Incident, IncidentChange, Party, Path, Resolution, Step, words},
    judgement::Attribution,
    remedy::mark::Mark,
};

use super::Reporter;
use crate::{
    convert::{cause_of, changed_of, policy_ref, remedy_of},
    incident::{
        AffectedEnd, AffectedPath, ChangedBy, IncidentCause, IncidentKind, IncidentRecord,
        IncidentResolution, LinkedDrops, PathEnd, PlanStep, RecoveredPath, TestFlow,
    },
    record::Record,
    schema::{Schema, Workload},
    text::fix_by_id,
};

/// How many drops are listed by id: enough to follow some back; all are counted.
const IDS_MAX: usize = 64;

/// How many pods or addresses are listed of one end of a path; all are counted.
const NAMES_MAX: usize = 32;

impl Reporter {
    /// What happened to an incident.
    pub fn incident(&self, now: Timestamp, change: &IncidentChange) -> Record {
        let IncidentChange { happened, incident } = change;
        let assessment = &incident.assessment;
        let id = incident.id.to_string();
        let mark =
            Mark { incident: Some(id.clone()), at: Some(now), command: Some(fix_by_id(&id)) };
        Record::Incident(Box::new(IncidentRecord {
            schema: Schema::V1,
            kind: IncidentKind::Incident,
            time: now.into(),
            id,
            node: self.node.clone(),
            happened: happened.into(),
            resolution: resolution_of(*happened),
            severity: assessment.severity,
            severity_reasons: assessment.severity_reasons.clone(),
            confidence: assessment.confidence,
            confidence_reasons: assessment.confidence_reasons.clone(),
            cause: incident_cause(incident),
            affected: incident.affected.iter().map(path).collect(),
            affected_untold: incident.affected_untold,
            recovered: incident.recovered.iter().map(recovered).collect(),
            services_lost: incident.services_lost.clone(),
            established: incident.established.map(|what| words::established(what).to_owned()),
            drops: LinkedDrops {
                count: incident.drop_count,
                packets: incident.packets,
                ids: incident.drops.iter().take(IDS_MAX).map(ToString::to_string).collect(),
            },
            first: incident.first.into(),
            last: incident.last.into(),
            last_success: incident.last_success.map(Into::into),
            reopened: incident.reopened,
            text: incident.text.clone(),
            plan: incident.plan.iter().map(|step| plan_step(step, &mark)).collect(),
        }))
    }
}

fn resolution_of(happened: Happened) -> Option<IncidentResolution> {
    match happened {
        Happened::Opened | Happened::Updated | Happened::Reopened => None,
        Happened::Resolved(resolution) => Some(resolution.into()),
    }
}

impl From<Resolution> for IncidentResolution {
    fn from(resolution: Resolution) -> Self {
        match resolution {
            Resolution::Passes { at } => Self::Passes { at: at.into() },
            Resolution::Allowed => Self::Allowed,
            Resolution::Gone => Self::Gone,
            Resolution::Silence => Self::Silence,
            Resolution::Muted => Self::Muted,
        }
    }
}

fn recovered((path, resolution): &(Path, Resolution)) -> RecoveredPath {
    RecoveredPath {
        source: end(&path.source),
        destination: end(&path.destination),
        port: path.port,
        protocol: path.protocol.into(),
        resolution: (*resolution).into(),
    }
}

fn incident_cause(incident: &Incident) -> IncidentCause {
    let cause = cause_of(&incident.cause, None);
    let (changed_by, known_since) = match &incident.changed {
        Attribution::Seen { .. } => (ChangedBy::Seen, None),
        Attribution::Older { known_since, own: Some(_) } => (ChangedBy::OwnTimestamp, *known_since),
        Attribution::Older { known_since, own: None } => (ChangedBy::Unknown, *known_since),
        Attribution::None => (ChangedBy::Unknown, None),
    };
    IncidentCause {
        class: cause.class,
        direction: cause.direction,
        situation: cause.situation,
        kube_proxy: cause.kube_proxy,
        policy: cause.policy,
        responsible: incident.responsible.iter().map(policy_ref).collect(),
        changed: incident.changed.changes().iter().map(changed_of).collect(),
        denied_since: incident.denied_since.map(Into::into),
        admitted_by: incident.changed.admitted_by().map(policy_ref),
        changed_by,
        known_since: known_since.map(Into::into),
    }
}

fn path(affected: &CutPath) -> AffectedPath {
    let path = &affected.path;
    let is_source = path.affected_party() == &path.source;
    AffectedPath {
        source: end(&path.source),
        destination: end(&path.destination),
        port: path.port,
        protocol: path.protocol.into(),
        sufferer: if is_source { AffectedEnd::Source } else { AffectedEnd::Destination },
        pods: affected.pods.len(),
        replicas: affected.replicas,
        knows_all: affected.knows_all,
        replicas_ready: affected.replicas_ready,
        pods_not_ready: affected.health.not_ready,
        restarts: affected.health.restarts,
        restarts_since: affected.health.restarts_since,
        pod_names: affected.pods.iter().take(NAMES_MAX).cloned().collect(),
        gone: affected.are_gone,
        others: affected.others.iter().take(NAMES_MAX).cloned().collect(),
        last_success: affected.worked.map(Into::into),
        successes: affected.connections,
    }
}

fn end(party: &Party) -> PathEnd {
    let name = party.to_string();
    let mut end = PathEnd { name, namespace: None, workload: None, pod: None, node: None };
    match party {
        Party::Workload(namespace, workload) => {
            end.namespace = Some(namespace.to_string());
            let (kind, name) = (workload.kind.to_string(), workload.name.to_string());
            end.workload = Some(Workload { kind, name });
        }
        Party::Pod(namespace, pod) => {
            end.namespace = Some(namespace.to_string());
            end.pod = Some(pod.to_string());
        }
        Party::Node(node) => end.node = Some(node.to_string()),
        Party::Outside | Party::Other(_) => {}
    }
    end
}

fn plan_step(step: &Step, mark: &Mark) -> PlanStep {
    let mut record = PlanStep::new(step.kind(), step.to_string());
    match step {
        Step::Apply(remedy) => record.remedy = Some(remedy_of(remedy, mark)),
        Step::AwaitReady { pods, condition } => {
            record.pods.clone_from(pods);
            record.condition = Some((*condition).to_owned());
        }
        Step::Test { from, to, flow } => {
            record.flow = Some(TestFlow {
                from: from.clone(),
                to: to.clone(),
                ip: flow.destination.to_string(),
                port: flow.port,
                protocol: flow.protocol.into(),
            });
        }
        Step::Instead(choice) => {
            record.newly_allowed = Some(choice.newly_allowed);
            record.command = choice.action.command().map(str::to_owned);
        }
        Step::PutBack(change) => record.changed = Some(changed_of(change)),
        Step::AskOwner(_) | Step::LookElsewhere(_) | Step::Watch => {}
    }
    record
}
