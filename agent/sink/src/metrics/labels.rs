//! What distinguishes one series from another. Names of objects are bounded by who keeps the series.

use prometheus_client::encoding::EncodeLabelSet;

use whydrop_report::{
    Direction, DropKind, DropRecord, End, EvidenceLevel, ObjectRef,
    incident::{AffectedEnd, IncidentRecord, Severity},
};

/// Replaces the names beyond [`super::SERIES_MAX`].
pub(super) const OTHER: &str = "other";

/// What distinguishes one series of records from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
pub(super) struct Labels {
    namespace: String,
    workload: String,
    policy: String,
    direction: &'static str,
    cause: String,
    evidence: &'static str,
}

impl Labels {
    pub(super) fn of(record: &DropRecord) -> Self {
        let cause = &record.cause;
        let end = concerned(record);
        Self {
            namespace: escaped(end.namespace.as_deref().unwrap_or_default()),
            workload: escaped(end.workload.as_ref().map_or("", |workload| &workload.name)),
            policy: policy_name(cause.policy.as_ref()),
            direction: match cause.direction {
                Some(Direction::Egress) => "egress",
                Some(Direction::Ingress) => "ingress",
                None => "",
            },
            cause: cause.class.to_string(),
            evidence: match record.evidence.level {
                EvidenceLevel::KernelDrop => "kernel-drop",
                EvidenceLevel::Unanswered => "unanswered",
                EvidenceLevel::Rejected => "rejected",
                EvidenceLevel::Answered => "answered",
                EvidenceLevel::None => "",
            },
        }
    }

    /// The same without names: what is left takes its values from small sets.
    pub(super) fn without_names(self) -> Self {
        let other = || OTHER.to_owned();
        Self { namespace: other(), workload: other(), policy: other(), ..self }
    }
}

/// `NAMESPACE/NAME`, or empty where none is to blame.
fn policy_name(policy: Option<&ObjectRef>) -> String {
    let name = policy.map(|policy| match &policy.namespace {
        Some(namespace) => format!("{namespace}/{}", policy.name),
        None => policy.name.clone(),
    });
    escaped(&name.unwrap_or_default())
}

/// The labels of an open incident: what is affected most, and by what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
pub(super) struct IncidentLabels {
    severity: &'static str,
    namespace: String,
    workload: String,
    policy: String,
    cause: String,
}

impl IncidentLabels {
    pub(super) fn of(record: &IncidentRecord) -> Self {
        let worst = record.affected.first().map(|path| match path.sufferer {
            AffectedEnd::Source => &path.source,
            AffectedEnd::Destination => &path.destination,
        });
        let namespace = worst.and_then(|end| end.namespace.as_deref());
        let workload = worst.and_then(|end| end.workload.as_ref());
        Self {
            severity: severity(record.severity),
            namespace: escaped(namespace.unwrap_or_default()),
            workload: escaped(workload.map_or("", |workload| &workload.name)),
            policy: policy_name(record.cause.policy.as_ref()),
            cause: record.cause.class.to_string(),
        }
    }
}

/// What became of incidents.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
pub(super) struct ChangeLabels {
    pub(super) happened: &'static str,
    pub(super) severity: &'static str,
}

pub(super) fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    }
}

/// The pod that a record is about: the one that a drop affects, which is the one that connects
/// where that is a pod; the one that a policy leaves unprotected, of a finding.
fn concerned(record: &DropRecord) -> &End {
    let (source, destination) = (&record.flow.source, &record.flow.destination);
    match (record.kind, record.cause.direction) {
        (DropKind::Finding, Some(Direction::Ingress)) => destination,
        _ if source.pod.is_some() => source,
        _ => destination,
    }
}

/// A label's value as the format wants it, which the encoder leaves to its caller.
pub(super) fn escaped(name: &str) -> String {
    name.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}
