//! `kind: incident`: one cause with many drops, opened, updated and resolved.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use whydrop_core::incident::{HappenedKind, Severity};
use whydrop_core::{
    diagnosis::{Class, SituationKind},
    flow::{Direction, Protocol},
    incident::StepKind,
};

use crate::{
    schema::{Changed, End, KubeProxy, ObjectRef, Remedy, Schema, Workload},
    time::Time,
    word::Word,
};

/// One cause and all that is affected by it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IncidentRecord {
    /// `whydrop/v1`.
    pub schema: Schema,
    /// Always `incident`.
    pub kind: IncidentKind,
    /// When this record was written.
    pub time: Time,
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
    /// Who cannot reach whom, the path that affects most pods first.
    pub affected: Vec<AffectedPath>,
    /// How many more paths are affected.
    pub affected_untold: usize,
    /// The paths of it that pass by now, or that policies allow, also while others go on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recovered: Vec<RecoveredPath>,
    /// Services without a ready endpoint, as far as is known: `NAMESPACE/NAME`.
    pub services_lost: Vec<String>,
    /// What becomes of established connections by this filter; null where it is not known.
    pub established: Option<String>,
    /// Its drops.
    pub drops: LinkedDrops,
    /// When the first packet was dropped.
    pub first: Time,
    /// When the last one was.
    pub last: Time,
    /// When the first path last got an answer before its first packet was dropped.
    pub last_success: Option<Time>,
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
        at: Time,
    },
    /// Policies do not deny it any more.
    Allowed,
    /// Nobody attempts it any more: its pods are gone.
    Gone,
    /// Nothing has attempted it for some time.
    Silence,
    /// It goes on, and is expected: an annotation or a rule mutes it.
    Muted,
}

/// The cause that an incident's drops have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IncidentCause {
    /// What kind of cause: `default-deny`, `port-mismatch`, `not-policy`, …
    pub class: Word<Class>,
    /// The direction that denies.
    pub direction: Option<Direction>,
    /// A situation that needs another fix: `dns`, `probe`, `api-server`, …
    pub situation: Option<SituationKind>,
    /// The policy to look at first.
    pub policy: Option<ObjectRef>,
    /// All policies responsible, that one first.
    pub responsible: Vec<ObjectRef>,
    /// What kube-proxy does of it by itself, as of a drop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kube_proxy: Option<KubeProxy>,
    /// What changed so that the flows are denied: one, or several that only together did it.
    pub changed: Vec<Changed>,
    /// Since when policies deny the flow that they deny longest, at the least.
    #[serde(default)]
    pub denied_since: Option<Time>,
    /// The policy by which they passed until then, where one admitted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admitted_by: Option<ObjectRef>,
    /// How the change is known.
    pub changed_by: ChangedBy,
    /// Since when changes are known, where none of those explains it.
    pub known_since: Option<Time>,
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
    pub protocol: Word<Protocol>,
    /// Which end is affected.
    pub sufferer: AffectedEnd,
    /// For how many pods of the affected end it is cut.
    pub pods: usize,
    /// Of how many: all of them, or those with an address that this node knows.
    pub replicas: usize,
    /// These are all of them.
    pub knows_all: bool,
    /// How many of all are ready, by the workload's own status; null where it was not to be had.
    pub replicas_ready: Option<usize>,
    /// How many of the pods that it is cut for are not ready; null where their statuses do not say.
    pub pods_not_ready: Option<usize>,
    /// How often their containers were restarted.
    pub restarts: Option<u64>,
    /// How often at least since this node first saw them affected.
    pub restarts_since: Option<u64>,
    /// The first of them: `NAMESPACE/NAME`.
    pub pod_names: Vec<String>,
    /// They are gone by now: none that is there is affected.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
    /// The first pods or addresses at the other end.
    pub others: Vec<String>,
    /// When one of the flows last got an answer.
    pub last_success: Option<Time>,
    /// How many connections were answered (of DNS: queries), at the least, of the flow that had the
    /// fewest.
    #[serde(default)]
    pub successes: u64,
}

/// A path that is not cut any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoveredPath {
    /// Who connects.
    pub source: PathEnd,
    /// Who is connected to.
    pub destination: PathEnd,
    /// Destination port.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Word<Protocol>,
    /// How that is known: `passes` or `allowed`.
    pub resolution: IncidentResolution,
}

/// One end of a path, for all replicas.
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

impl From<&End> for PathEnd {
    /// The end of a path that a drop's end is of, with the name that an incident gives it.
    fn from(end: &End) -> Self {
        let mut path_end = Self {
            name: end.ip.clone(),
            namespace: end.namespace.clone(),
            workload: end.workload.clone(),
            pod: None,
            node: None,
        };
        match (&end.namespace, &end.workload, &end.pod, &end.node) {
            (Some(namespace), Some(workload), _, _) => {
                path_end.name = format!("{namespace}/{}", workload.name);
            }
            (Some(namespace), None, Some(pod), _) => {
                path_end.name = format!("{namespace}/{pod}");
                path_end.pod = Some(pod.clone());
            }
            (None, _, _, Some(node)) => {
                path_end.name = format!("node {node}");
                path_end.node = Some(node.clone());
            }
            _ => {}
        }
        path_end
    }
}

/// Which end of a path is affected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AffectedEnd {
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
    /// How many of their packets were dropped.
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
    pub step: Word<StepKind>,
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

impl PlanStep {
    /// A step in words, with nothing that goes with it.
    pub(crate) fn new(step: StepKind, text: String) -> Self {
        Self {
            step: step.into(),
            text,
            remedy: None,
            pods: Vec::new(),
            condition: None,
            flow: None,
            command: None,
            newly_allowed: None,
            changed: None,
        }
    }
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
    pub protocol: Word<Protocol>,
}
