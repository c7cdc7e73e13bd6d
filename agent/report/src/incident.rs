//! `kind: incident`: one cause with many drops, opened, updated and resolved.

use std::fmt::Write as _;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use whydrop_core::{
    incident::{Affected, Happened, Incident, IncidentChange, Party, Resolution, Step},
    judgement::Attribution,
    remedy::choices::Action,
};

pub use whydrop_core::incident::{HappenedKind, Severity};

use super::{
    Changed, Direction, ObjectRef, Record, Remedy, Reporter, Schema, SituationKind, Workload,
    convert::{cause_of, changed_of, policy_ref, time},
    remedy_of,
    text::{count, seconds, short},
};

/// How many drops are listed by id: enough to follow some back; all are counted.
const IDS_TOLD_MAX: usize = 64;

/// How many pods or addresses are listed of one end of a path; all are counted.
const NAMES_TOLD_MAX: usize = 32;

/// One cause and all that suffers by it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IncidentRecord {
    /// `whydrop/v1`.
    pub schema: Schema,
    /// Always `incident`.
    pub kind: IncidentKind,
    /// When this record was written, RFC 3339 in UTC.
    pub time: String,
    /// Names the incident: one cause, one workload, the same on every node.
    pub id: String,
    /// The reporting agent's node.
    pub node: String,
    /// What happened to it.
    pub happened: HappenedKind,
    /// Why it is over; of resolved ones only.
    pub resolution: Option<IncidentResolution>,
    /// How bad it is.
    pub severity: Severity,
    /// What makes it so bad.
    pub severity_reasons: Vec<String>,
    /// How sure the cause is, from 0 to 1.
    pub confidence: f64,
    /// What speaks for and against it.
    pub confidence_reasons: Vec<String>,
    /// Why.
    pub cause: IncidentCause,
    /// Who cannot reach whom, what most pods suffer by first.
    pub affected: Vec<AffectedPath>,
    /// How many more paths are affected.
    pub affected_untold: usize,
    /// Services without a ready endpoint, as far as is known: `NAMESPACE/NAME`.
    pub services_lost: Vec<String>,
    /// What becomes of established connections by this filter; null where it is not known.
    pub established: Option<String>,
    /// Its drops.
    pub drops: LinkedDrops,
    /// When the first packet died.
    pub first: String,
    /// When the last one did.
    pub last: String,
    /// When one of the flows last got an answer before the first packet died.
    pub last_success: Option<String>,
    /// How often it came back after it was resolved.
    pub reopened: u32,
    /// The root cause, in words.
    pub text: String,
    /// What to do, in order.
    pub plan: Vec<PlanStep>,
}

/// The kind of incident records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IncidentKind {
    /// An incident.
    Incident,
}

/// Why an incident is over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "why", rename_all = "lowercase", deny_unknown_fields)]
pub enum IncidentResolution {
    /// Its traffic passes again.
    Passes {
        /// When an attempt was answered.
        at: String,
    },
    /// Policies do not deny it any more.
    Allowed,
    /// Nothing has attempted it for some time.
    Silence,
    /// It goes on, and is meant so: an annotation or a rule mutes it.
    Muted,
}

/// The cause that an incident's drops have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IncidentCause {
    /// What kind of cause: `default-deny`, `port-mismatch`, `not-policy`, …
    pub class: String,
    /// The direction that denies.
    pub direction: Option<Direction>,
    /// A situation that needs another fix: `dns` or `probe`.
    pub situation: Option<SituationKind>,
    /// The policy to look at first.
    pub policy: Option<ObjectRef>,
    /// All policies responsible, that one first.
    pub responsible: Vec<ObjectRef>,
    /// What changed so that the flows are denied: one, or several that only together did it.
    pub changed: Vec<Changed>,
    /// Since when policies deny the flow that they deny longest, at the least.
    #[serde(default)]
    pub denied_since: Option<String>,
    /// How the change is known.
    pub changed_by: ChangedBy,
    /// Since when changes are known, where none of those explains it.
    pub known_since: Option<String>,
}

/// How a change is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ChangedBy {
    /// It was seen, and the flow was judged before and after it.
    Seen,
    /// By the object's own timestamp: denied for as long as this agent knows.
    OwnTimestamp,
    /// It is not.
    Unknown,
}

/// A path that is cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AffectedPath {
    /// Who connects.
    pub source: PathEnd,
    /// Who is connected to.
    pub destination: PathEnd,
    /// Destination port.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Which end suffers.
    pub sufferer: Sufferer,
    /// For how many of the sufferer's pods it is cut.
    pub pods: usize,
    /// Of how many: all of them, or those with an address that this node knows.
    pub replicas: usize,
    /// These are all of them.
    pub knows_all: bool,
    /// How many of all are ready, by the workload's own status; null where it was not to be had.
    pub replicas_ready: Option<usize>,
    /// How many of the pods that it is cut for are not ready; null where their statuses do not tell.
    pub pods_not_ready: Option<usize>,
    /// How often their containers were restarted.
    pub restarts: Option<u64>,
    /// How often at least since this node first saw them suffer.
    pub restarts_since: Option<u64>,
    /// The first of them: `NAMESPACE/NAME`.
    pub pod_names: Vec<String>,
    /// The first pods or addresses at the other end.
    pub others: Vec<String>,
    /// When one of the flows last got an answer.
    pub last_success: Option<String>,
    /// How many connections were answered (of DNS: queries), at the least, of the flow that had the
    /// fewest.
    #[serde(default)]
    pub successes: u64,
}

/// One end of a path: what stands for all replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PathEnd {
    /// For people: `backend/backend-api`, `node worker-1`, `outside the cluster`.
    pub name: String,
    /// Namespace, of pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Of pods that a workload owns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
    /// Of a pod that nothing owns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Of a node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// Which end of a path suffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sufferer {
    /// Who connects.
    Source,
    /// Who is connected to: by a probe, or from outside.
    Destination,
}

/// The drops of an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkedDrops {
    /// How many there are.
    pub count: u64,
    /// How many packets died of them.
    pub packets: u64,
    /// The first ids of them.
    pub ids: Vec<String>,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanStep {
    /// `apply`, `ask-owner`, `look-elsewhere`, `watch`, `await-ready`, `test`; instead of the first
    /// step, if that does not suit: `instead`, `put-back`.
    pub step: String,
    /// In words.
    pub text: String,
    /// What to apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Remedy>,
    /// The pods to wait for: `NAMESPACE/NAME`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub pods: Vec<String>,
    /// The pod condition to wait for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// The flow to test, in addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow: Option<TestFlow>,
    /// The command of another choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// How many other pairs of ends another choice newly allows, at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newly_allowed: Option<usize>,
    /// What to put back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<Changed>,
}

/// A flow to test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestFlow {
    /// Who connects: `NAMESPACE/POD`, a node or an address.
    pub from: String,
    /// Who is connected to.
    pub to: String,
    /// The address to connect to.
    pub ip: String,
    /// The port.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

impl Reporter {
    /// What happened to an incident.
    pub fn incident(&self, now: Timestamp, change: &IncidentChange) -> Record {
        let IncidentChange { happened, incident } = change;
        let assessment = &incident.assessment;
        Record::Incident(Box::new(IncidentRecord {
            schema: Schema::V1,
            kind: IncidentKind::Incident,
            time: time(now),
            id: incident.id.to_string(),
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
            services_lost: incident.services_lost.clone(),
            established: incident.established.map(str::to_owned),
            drops: LinkedDrops {
                count: incident.drop_count,
                packets: incident.packets,
                ids: incident.drops.iter().take(IDS_TOLD_MAX).map(ToString::to_string).collect(),
            },
            first: time(incident.first),
            last: time(incident.last),
            last_success: incident.last_success.map(time),
            reopened: incident.reopened,
            text: incident.text.clone(),
            plan: incident.plan.iter().map(step).collect(),
        }))
    }
}

fn resolution_of(happened: Happened) -> Option<IncidentResolution> {
    match happened {
        Happened::Opened | Happened::Updated | Happened::Reopened => None,
        Happened::Resolved(resolution) => Some(match resolution {
            Resolution::Passes { at } => IncidentResolution::Passes { at: time(at) },
            Resolution::Allowed => IncidentResolution::Allowed,
            Resolution::Silence => IncidentResolution::Silence,
            Resolution::Muted => IncidentResolution::Muted,
        }),
    }
}

fn incident_cause(incident: &Incident) -> IncidentCause {
    let cause = cause_of(&incident.cause, None);
    let (changed_by, known_since) = match &incident.changed {
        Attribution::Seen(_) => (ChangedBy::Seen, None),
        Attribution::Older { known_since, own: Some(_) } => (ChangedBy::OwnTimestamp, *known_since),
        Attribution::Older { known_since, own: None } => (ChangedBy::Unknown, *known_since),
        Attribution::None => (ChangedBy::Unknown, None),
    };
    IncidentCause {
        class: cause.class,
        direction: cause.direction,
        situation: cause.situation,
        policy: cause.policy,
        responsible: incident.responsible.iter().map(policy_ref).collect(),
        changed: incident.changed.changes().iter().map(changed_of).collect(),
        denied_since: incident.denied_since.map(time),
        changed_by,
        known_since: known_since.map(time),
    }
}

fn path(affected: &Affected) -> AffectedPath {
    let path = &affected.path;
    let is_source = path.sufferer() == &path.source;
    AffectedPath {
        source: end(&path.source),
        destination: end(&path.destination),
        port: path.port,
        protocol: path.protocol.to_string(),
        sufferer: if is_source { Sufferer::Source } else { Sufferer::Destination },
        pods: affected.pods.len(),
        replicas: affected.replicas,
        knows_all: affected.knows_all,
        replicas_ready: affected.replicas_ready,
        pods_not_ready: affected.fare.not_ready,
        restarts: affected.fare.restarts,
        restarts_since: affected.fare.restarts_since,
        pod_names: affected.pods.iter().take(NAMES_TOLD_MAX).cloned().collect(),
        others: affected.others.iter().take(NAMES_TOLD_MAX).cloned().collect(),
        last_success: affected.worked.map(time),
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

fn step(step: &Step) -> PlanStep {
    let mut told = PlanStep {
        step: step.kind().to_string(),
        text: step.to_string(),
        remedy: None,
        pods: Vec::new(),
        condition: None,
        flow: None,
        command: None,
        newly_allowed: None,
        changed: None,
    };
    match step {
        Step::Apply(remedy) => told.remedy = Some(remedy_of(remedy)),
        Step::AwaitReady { pods, condition } => {
            told.pods.clone_from(pods);
            told.condition = Some((*condition).to_owned());
        }
        Step::Test { from, to, flow } => {
            told.flow = Some(TestFlow {
                from: from.clone(),
                to: to.clone(),
                ip: flow.destination.to_string(),
                port: flow.port,
                protocol: flow.protocol.to_string(),
            });
        }
        Step::Instead(choice) => {
            told.newly_allowed = Some(choice.newly_allowed);
            if let Action::LabelNamespace(command) = &choice.action {
                told.command = Some(command.clone());
            }
        }
        Step::PutBack(change) => told.changed = Some(changed_of(change)),
        Step::AskOwner(_) | Step::LookElsewhere(_) | Step::Watch => {}
    }
    told
}

/// `TIME INCIDENT ID opened critical 97%  TEXT; 22 drops, 66 packets; do: FIRST STEP (6 steps more)`.
pub(super) fn line(record: &IncidentRecord) -> String {
    let id = short(&record.id);
    let time = seconds(&record.time);
    let drops = count(record.drops.count, "drop");
    let what = match (record.happened, &record.resolution) {
        (HappenedKind::Opened, _) => "opened".to_owned(),
        (HappenedKind::Updated, _) => "updated".to_owned(),
        (HappenedKind::Reopened, _) => "reopened".to_owned(),
        (HappenedKind::Resolved, resolution) => {
            let why = match resolution {
                Some(IncidentResolution::Passes { at }) => {
                    format!("traffic passes since {}", seconds(at))
                }
                Some(IncidentResolution::Allowed) => "policies allow it now".to_owned(),
                Some(IncidentResolution::Muted) => "it is muted, and goes on".to_owned(),
                Some(IncidentResolution::Silence) | None => "nobody attempts it now".to_owned(),
            };
            let was = format!("{drops} since {}", seconds(&record.first));
            return format!("{time} INCIDENT {id} resolved: {why}; {was}; it was: {}", record.text);
        }
    };
    let severity = record.severity;
    let percent = (record.confidence * 100.0).round();
    let mut line = format!(
        "{time} INCIDENT {id} {what} {severity} {percent}%  {}; {drops}, {}",
        record.text,
        count(record.drops.packets, "packet")
    );
    if let [first, others @ ..] = record.plan.as_slice() {
        let more = count(others.len() as u64, "step");
        let _ = write!(line, "; do: {} ({more} more)", first.text);
    }
    line
}
