//! The types of a record, `whydrop/v1`: of drops, findings and agents, and what is part of them.
//!
//! They hold facts as the core names them, whose enums are spelt where they are defined; incidents
//! and the healer's actions are in files of their own. Fields that are always there are null where
//! there is nothing to say; those marked optional are left out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use whydrop_core::{
    cluster::history::ChangeKind,
    correlate::EvidenceLevel,
    diagnosis::{Class, SituationKind},
    flow::{Direction, Protocol},
    mute::MutedByKind,
    policy::LayerKind,
    service::{EntryKind, RefusalKind},
    verdict::{Decision, Exemption},
};

use crate::{
    time::{self, Time},
    word::Word,
};

/// The version of the records.
pub const SCHEMA: &str = "whydrop/v1";

/// A flow that is dropped (`drop`), or that passes although policies deny it (`finding`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DropRecord {
    /// `whydrop/v1`.
    pub schema: Schema,
    /// What happened.
    pub kind: DropKind,
    /// When this record was written.
    pub time: Time,
    /// Names the drop while it goes on: a hash of what every node that sees the attempt can see.
    pub id: String,
    /// The reporting agent's node.
    pub node: String,
    /// Whether this is the record to count where two nodes report one `id`: that of the node where
    /// the attempts were dropped, as far as this is known.
    pub primary: bool,
    /// The flow, with both ends mapped to workloads.
    pub flow: Flow,
    /// What was seen.
    pub evidence: Evidence,
    /// What the policies say.
    pub verdict: Verdict,
    /// Why.
    pub cause: Cause,
    /// The smallest additive rule that lets the flow pass; null where there is none to give.
    pub remedy: Option<Remedy>,
    /// Names the incident: one cause, one workload, the same on every node.
    pub incident: String,
}

/// The schema's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Schema {
    /// Version 1.
    #[serde(rename = "whydrop/v1")]
    V1,
}

/// What a drop record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DropKind {
    /// Attempts were dropped.
    Drop,
    /// Attempts passed that policies deny.
    Finding,
}

/// A flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Word<Protocol>,
    /// Who connects.
    pub source: End,
    /// Who is connected to, as policies see it: after translation, where that is known.
    pub destination: End,
}

/// One end of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// Address; left out in answers to questions about pods that have none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ip: String,
    /// Port; of destinations only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The pod's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// What the pod belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
    /// The node: that the pod runs on, or whose address this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The Service that was dialled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
}

/// A workload in the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// `Deployment`, `StatefulSet`, …
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// A Service as it was dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The address dialled; left out in answers to questions where it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ip: String,
    /// The port dialled.
    pub port: u16,
    /// By what it was dialled; left out where that is its cluster address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Word<EntryKind>>,
    /// The node whose port was dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// What was seen of the attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// How sure it is that they were dropped, and where.
    pub level: EvidenceLevel,
    /// The kernel's drop reason, by the running kernel's own name.
    pub reason: Option<String>,
    /// The kernel function that dropped them.
    pub location: Option<String>,
    /// The packets' device at the drop.
    pub interface: Option<String>,
    /// Packets without an answer so far: SYNs, SCTP INITs or DNS queries.
    pub attempts: u64,
    /// When the first was seen.
    pub first: Time,
    /// When the last was seen.
    pub last: Time,
    /// When this source first got an answer from this destination and port, as far as is known.
    #[serde(default)]
    pub first_success: Option<Time>,
    /// When it last did.
    pub last_success: Option<Time>,
    /// How many of its connections were answered (of DNS: queries), at the least.
    #[serde(default)]
    pub successes: u64,
    /// Connects whose packets were dropped so and that another backend of the Service answered, once they
    /// were sent again.
    #[serde(default, skip_serializing_if = "is_none")]
    pub needed_again: u64,
    /// How many connects this source made through the Service in that time, answered or not; of a drop
    /// that goes on, since it was reported first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connects: Option<u64>,
    /// How they were refused: `reset`, or `icmp TYPE/CODE`, `icmpv6 TYPE/CODE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejection: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_none(count: &u64) -> bool {
    *count == 0
}

/// What the policies say of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Revision of the cluster's snapshot that it was computed from.
    pub revision: u64,
    /// Why the specification lets the flow pass whatever the policies say.
    pub exempt: Option<Exemption>,
    /// At the source.
    pub egress: DirectionVerdict,
    /// At the destination.
    pub ingress: DirectionVerdict,
}

/// The verdict of one direction, exemptions not applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectionVerdict {
    /// What it came to.
    pub decision: Decision,
    /// Which layer decided.
    pub layer: Option<LayerKind>,
    /// The tier's name, where the layer is `tier`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Every policy of a tier that selects the pod in this direction, up to the tier that decided;
    /// the one that leads first. All `NetworkPolicy`s of Kubernetes are in one tier.
    pub isolating: Vec<ObjectRef>,
    /// The rule that allows the flow, and every rule of a `NetworkPolicy` that admits it.
    pub allowed_by: Vec<RuleRef>,
    /// The rule of an explicit deny; null where policies isolate the pod, or a tier's end denies.
    pub denied_by: Option<RuleRef>,
    /// Staged policies that would deny the flow if they were in force. They decide nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub would_deny: Vec<ObjectRef>,
}

/// Names an object: a policy, or what changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObjectRef {
    /// Kind. Calico's `NetworkPolicy` is `CalicoNetworkPolicy`, so that it differs from Kubernetes'
    /// own.
    pub kind: String,
    /// Namespace, of namespaced kinds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// `metadata.uid`, where it is known and one policy is given in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// Names a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleRef {
    /// The policy.
    pub policy: ObjectRef,
    /// 0-based index in the policy as written.
    pub rule: usize,
}

/// Why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cause {
    /// What kind of cause: `default-deny`, `port-mismatch`, `not-policy`, …
    pub class: Word<Class>,
    /// The direction that denies.
    pub direction: Option<Direction>,
    /// A situation that needs another fix: `dns`, `probe`, `api-server`, …
    pub situation: Option<SituationKind>,
    /// The policy to look at first; the others behind an implicit deny are in `isolating`.
    pub policy: Option<ObjectRef>,
    /// The rule that would almost admit the flow.
    pub nearest_miss: Option<NearestMiss>,
    /// What kube-proxy does of it by itself: the cause, where the class is `not-policy`, and otherwise
    /// what is so besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kube_proxy: Option<KubeProxy>,
    /// What changed, and when.
    pub changed: Option<Changed>,
    /// Since when policies deny it, at the least: the change that was seen to deny it, or else what the
    /// policies responsible say of themselves, the oldest of them. Null in answers to questions.
    #[serde(default)]
    pub denied_since: Option<Time>,
    /// How sure the class is, from 0 to 1.
    pub confidence: f64,
    /// What the confidence rests on.
    pub reasons: Vec<String>,
    /// One sentence for a person.
    pub text: String,
}

/// What kube-proxy does of a connection to a Service, whatever policies say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KubeProxy {
    /// The Service.
    pub service: ObjectRef,
    /// Why nothing comes of the connection.
    pub refusal: Word<RefusalKind>,
    /// By what it was dialled.
    pub by: Word<EntryKind>,
    /// Policies that would deny what came of it if it were sent on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub would_deny: Vec<ObjectRef>,
    /// It was so when packets were dropped, and is over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub over: bool,
}

/// A rule that would admit the flow but for one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NearestMiss {
    /// The rule's policy.
    pub policy: ObjectRef,
    /// 0-based index of the rule.
    pub rule: usize,
    /// What the rule wants.
    pub wanted: String,
    /// What there is.
    pub found: String,
}

/// A change of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Changed {
    /// The object.
    pub object: ObjectRef,
    /// What happened to it: `created`, `edited`, `relabelled`, `moved`, `rolled-out` or `deleted`.
    pub change: Word<ChangeKind>,
    /// What differs, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<String>,
    /// When.
    pub at: Time,
}

/// What lets the flow pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Remedy {
    /// What it does, and the other choices.
    pub summary: String,
    /// YAML for `kubectl apply -f -`.
    pub manifest: String,
    /// Every packet that the question stands for passes with it, by the same evaluator.
    pub verified: bool,
    /// How many other pairs of ends it newly allows, at least.
    pub newly_allowed: usize,
    /// Between whom these are, the paths with most pairs: `7 pods of shop/cart to books/ledger-0`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub newly_allowed_paths: Vec<String>,
}

/// What the agent reports about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentRecord {
    /// `whydrop/v1`.
    pub schema: Schema,
    /// Always `agent`.
    pub kind: AgentKind,
    /// When.
    pub time: Time,
    /// The agent's node.
    pub node: String,
    /// What it reports.
    #[serde(flatten)]
    pub state: AgentState,
}

/// What one annotation or rule muted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MutedDrops {
    /// What muted: the annotation of a `policy` or a `namespace`, or a `rule` of the agent's.
    pub by: Word<MutedByKind>,
    /// Its name.
    pub name: String,
    /// A policy's kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The reason that it gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Drops and findings that were not reported; a flow that goes on counts once a minute.
    pub reports: u64,
    /// Packets that this kernel dropped.
    pub packets: u64,
    /// The latest of the flows.
    pub example: String,
}

/// The kind of agent records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AgentKind {
    /// Of the agent itself.
    Agent,
}

/// What the agent reports about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "lowercase")]
#[expect(clippy::large_enum_variant, reason = "they are few, and none is kept")]
pub enum AgentState {
    /// It watches from now on; nothing is judged before that.
    Ready {
        /// The agent's version.
        version: String,
        /// The running kernel.
        kernel: String,
        /// The interfaces it is attached to.
        interfaces: Vec<String>,
        /// How many objects of each kind it knows.
        objects: std::collections::BTreeMap<String, usize>,
        /// What it cannot do here, and why.
        cannot: Vec<String>,
    },
    /// Something does not work as it should, and since when.
    Degraded {
        /// What.
        what: String,
        /// Since when, in whole seconds.
        #[serde(serialize_with = "time::in_seconds")]
        since: Time,
    },
    /// What was not reported since the last such record.
    Lost {
        /// How much of what.
        counts: std::collections::BTreeMap<String, u64>,
    },
    /// Attempts of one source to more flows than are kept apart.
    Folded {
        /// The source; where `by` is there, one of those whose addresses the packets had.
        source: End,
        /// The interface by which all of them came, where they had many source addresses, or a flood of one
        /// sender had to leave room for others: its name, or `this node`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// Attempts that would each have been a drop of its own.
        attempts: u64,
        /// Packets that this kernel dropped.
        packets: u64,
        /// One of the flows, as an example.
        example: String,
    },
    /// What was not reported because it is expected, by what muted it.
    Muted {
        /// Since when it was counted.
        since: Time,
        /// What was muted.
        muted: Vec<MutedDrops>,
    },
    /// It stops.
    Stopping {
        /// Why.
        why: String,
        /// Where the dropped packets that it saw have gone, and what its programs cost.
        counts: std::collections::BTreeMap<String, u64>,
    },
}
