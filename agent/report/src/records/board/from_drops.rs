//! What an incident's drops say of it, as long as no agent has reported it as an incident.

use whydrop_core::{diagnosis::Class, flow::Direction, incident::StepKind};

use crate::{
    incident::{AffectedEnd, AffectedPath, ChangedBy, IncidentCause, PlanStep},
    schema::{DropRecord, End},
};

/// What to do about one drop: apply its remedy, where there is one.
pub(super) fn plan_of(record: &DropRecord) -> Vec<PlanStep> {
    let apply = record.remedy.as_ref().map(|remedy| PlanStep {
        remedy: Some(remedy.clone()),
        ..PlanStep::new(StepKind::Apply, remedy.summary.clone())
    });
    apply.into_iter().collect()
}

/// The cause that is stated where none is known.
pub(super) fn no_cause() -> IncidentCause {
    IncidentCause {
        class: Class::CannotTell.into(),
        direction: None,
        situation: None,
        policy: None,
        responsible: Vec::new(),
        kube_proxy: None,
        changed: Vec::new(),
        denied_since: None,
        admitted_by: None,
        changed_by: ChangedBy::Unknown,
        known_since: None,
    }
}

/// The cause of one drop.
pub(super) fn cause_of(record: &DropRecord) -> IncidentCause {
    let cause = &record.cause;
    let responsible = match cause.direction {
        Some(Direction::Egress) => record.verdict.egress.isolating.clone(),
        Some(Direction::Ingress) => record.verdict.ingress.isolating.clone(),
        None => Vec::new(),
    };
    IncidentCause {
        class: cause.class.clone(),
        direction: cause.direction,
        situation: cause.situation,
        policy: cause.policy.clone(),
        responsible,
        kube_proxy: cause.kube_proxy.clone(),
        changed: cause.changed.iter().cloned().collect(),
        denied_since: cause.denied_since,
        admitted_by: None,
        changed_by: ChangedBy::Unknown,
        known_since: None,
    }
}

/// The path of one drop.
pub(super) fn path_of(record: &DropRecord) -> AffectedPath {
    let name = |end: &End| match (&end.namespace, &end.pod) {
        (Some(namespace), Some(pod)) => format!("{namespace}/{pod}"),
        _ => end.ip.clone(),
    };
    let (source, destination) = (&record.flow.source, &record.flow.destination);
    let sufferer = match source.pod.is_some() || destination.pod.is_none() {
        true => AffectedEnd::Source,
        false => AffectedEnd::Destination,
    };
    let (own, other) = match sufferer {
        AffectedEnd::Source => (name(source), name(destination)),
        AffectedEnd::Destination => (name(destination), name(source)),
    };
    AffectedPath {
        source: source.into(),
        destination: destination.into(),
        port: destination.port.unwrap_or_default(),
        protocol: record.flow.protocol.clone(),
        sufferer,
        pods: 1,
        replicas: 1,
        knows_all: false,
        replicas_ready: None,
        pods_not_ready: None,
        restarts: None,
        restarts_since: None,
        pod_names: vec![own],
        gone: false,
        others: vec![other],
        last_success: record.evidence.last_success,
        successes: record.evidence.successes,
    }
}
