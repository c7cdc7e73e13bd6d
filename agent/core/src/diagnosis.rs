//! From a drop and a snapshot to the cause, in the order in which a playbook checks.

mod inquiry;
mod kube_proxy;
mod needs;
pub mod reason;
pub mod remark;
mod situation;
mod through_service;
mod words;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumDiscriminants, IntoStaticStr, VariantArray};

use crate::{
    cluster::{
        Snapshot,
        history::Change,
        object::{Probe, Service},
        resolve::Endpoint,
    },
    correlate::Evidence,
    flow::{Direction, Flow},
    hash::hash64,
    policy::{Policy, PolicyRef},
    service::{self, Dial, Entry, RefusalKind},
    verdict::{Question, Verdict, evaluate, nearest::NearestMiss},
};
use inquiry::Inquiry;
pub use inquiry::{ENFORCED_WITHIN, STARTS_WITHIN};
pub use kube_proxy::KubeProxy;
pub(crate) use kube_proxy::dialled;
pub use needs::to_look_up;
use reason::{DroppedBy, dropped_by, is_in_pod, is_of_closed_port};

/// The kind of cause by which a flow is dropped, or would be.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Display,
    IntoStaticStr,
    VariantArray,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[strum(serialize_all = "kebab-case")]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// A Deny rule matched.
    ExplicitDeny,
    /// A rule would admit it but for the other end's namespace labels.
    NamespaceSelectorMismatch,
    /// … its pod labels.
    PodSelectorMismatch,
    /// … the port.
    PortMismatch,
    /// … the protocol.
    ProtocolMismatch,
    /// … the address.
    IpBlockMismatch,
    /// … an exception of an `ipBlock`.
    IpBlockExcept,
    /// … a port name that the destination does not declare.
    NamedPortUnresolved,
    /// Policies isolate the pod, and nothing comes near to admitting it.
    DefaultDeny,
    /// Policies deny it, and it arrived.
    NotEnforced,
    /// Policies allow it, and the kernel's filter dropped it.
    OutOfSync,
    /// Something else than policy.
    NotPolicy,
    /// It cannot be determined.
    CannotTell,
    /// Nothing: policies let it pass, and nothing was dropped.
    None,
}

impl Class {
    /// Every class.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// The class as records spell it.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether it says that a policy denies the flow.
    pub const fn is_denial(self) -> bool {
        !matches!(
            self,
            Self::NotEnforced | Self::OutOfSync | Self::NotPolicy | Self::CannotTell | Self::None
        )
    }
}

/// A situation that needs another fix than its class suggests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EnumDiscriminants)]
#[strum_discriminants(
    name(SituationKind),
    doc = "A situation that needs another fix than its class suggests.",
    derive(Serialize, Deserialize, JsonSchema, VariantArray),
    serde(rename_all = "kebab-case"),
    schemars(rename = "Situation")
)]
pub enum Situation {
    /// A look-up at the cluster's DNS.
    Dns,
    /// The kubelet's probe of a pod of its own node.
    Probe(Probe),
    /// The first moments of a pod, which the CNI had not let in yet.
    Start,
    /// The end of a pod, which the CNI lets in no more.
    End,
    /// A pod asks the API server.
    ApiServer,
    /// The API server calls a webhook, an aggregated API or a conversion.
    ApiServerCalls,
    /// Between pods of an ambient mesh, whose packets go to a port of its own.
    Mesh,
    /// The kubelet's probe of a pod of an ambient mesh, which gives it another source.
    MeshProbe,
    /// A pod asks the cloud's metadata service.
    Metadata,
    /// To a port that is to be scraped by Prometheus.
    Scrape,
    /// To a pod behind a Service for which nodes replace the client's address by their own.
    NodeSource,
    /// A pod that reaches itself through its Service.
    Hairpin,
}

impl SituationKind {
    /// Every situation.
    pub const ALL: &[Self] = Self::VARIANTS;
}

impl Situation {
    /// Which situation, whichever probe it is of.
    pub fn kind(self) -> SituationKind {
        self.into()
    }
}

/// Why.
#[derive(Clone, Debug)]
pub struct Cause {
    /// What kind of cause.
    pub class: Class,
    /// The direction that denies; where both do, one that denies by a rule, else the first in the
    /// packet's order.
    pub direction: Option<Direction>,
    /// A situation on top of the class.
    pub situation: Option<Situation>,
    /// The policy to look at first. The others behind an implicit deny: the verdict's `isolating`.
    pub policy: Option<Arc<Policy>>,
    /// The rule that would almost admit the flow.
    pub nearest_miss: Option<NearestMiss>,
    /// What became of the denial around the time when the packets were dropped; of drops alone.
    pub hindsight: Option<Hindsight>,
    /// What kube-proxy does of it by itself: why nothing comes of it where the class is
    /// [`Class::NotPolicy`], and otherwise what is so besides.
    pub kube_proxy: Option<Arc<KubeProxy>>,
    /// How sure the class is, from 0 to 1.
    pub confidence: f64,
    /// What the confidence rests on.
    pub reasons: Vec<String>,
    /// One sentence for a person.
    pub text: String,
}

impl Cause {
    /// Whether it is of a moment: a pod's beginning, or its end.
    pub(crate) const fn passes_by_itself(&self) -> bool {
        matches!(self.situation, Some(Situation::Start | Situation::End))
    }

    /// Leaves out all that names a policy: something else is the cause.
    pub(crate) fn leave_policies_out(&mut self) {
        (self.direction, self.situation) = (None, None);
        (self.policy, self.nearest_miss) = (None, None);
    }

    /// What kube-proxy does by itself, where that is why nothing comes of it.
    pub fn by_kube_proxy(&self) -> Option<&Arc<KubeProxy>> {
        self.kube_proxy.as_ref().filter(|_| self.class == Class::NotPolicy)
    }
}

/// A change that lifted a denial around the time when packets were dropped.
#[derive(Clone, Debug, PartialEq)]
pub enum Hindsight {
    /// The denial was in force then; this has lifted it since.
    LiftedSince(Change),
    /// This had lifted it already, and the filter went on by it.
    LiftedBefore {
        /// The change.
        change: Change,
        /// How long before.
        by: SignedDuration,
    },
}

/// A flow, judged.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    /// The flow with its ends resolved, as policies see it.
    pub question: Question,
    /// The Service that was dialled, and the port.
    pub service: Option<Dialled>,
    /// What the policies say.
    pub verdict: Verdict,
    /// Why it was dropped, or would be.
    pub cause: Cause,
}

/// A Service that a client dialled.
#[derive(Clone, Debug, PartialEq)]
pub struct Dialled {
    /// The Service.
    pub service: Arc<Service>,
    /// By what.
    pub entry: Entry,
    /// The address: one of the Service's, or of a node.
    pub address: IpAddr,
    /// The port: the Service's, or the one that it has on nodes.
    pub port: u16,
}

/// What happened to the flow in question.
#[derive(Clone, Copy, Debug)]
pub enum Fate<'a> {
    /// Nothing yet: a question of what would happen. What the specification exempts passes.
    Asked,
    /// Nothing that was seen here, but somebody says that it does not pass: what policies say of it
    /// counts, and no exemption does.
    Policed,
    /// It was dropped, by this evidence.
    Dropped(&'a Evidence),
    /// It was answered.
    Answered,
}

/// A flow to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// As observed: after DNAT, where that is known.
    pub flow: Flow,
    /// What the client dialled, where it differs.
    pub dialled: Option<(IpAddr, u16)>,
    /// When; `None`: now.
    pub at: Option<Timestamp>,
    /// What happened to it.
    pub fate: Fate<'a>,
}

/// Judges a flow.
pub fn diagnose(snapshot: &Snapshot, case: &Case<'_>) -> Diagnosis {
    let Flow { source, destination, port, protocol } = case.flow;
    let source = snapshot.resolve(source, case.at);
    if case.dialled.is_none() {
        // Not translated yet where it was seen.
        let dial = Dial { client: &source, port, protocol };
        let at = translated_as_of(snapshot, case);
        if let Some(course) = service::to_address(snapshot, &dial, destination, at) {
            return through_service::diagnose(snapshot, case, &course);
        }
    }
    let destination = snapshot.resolve(destination, case.at);
    let question = Question::new(source, destination, port, protocol);
    judged(snapshot, case, question, dialled_then(snapshot, case))
}

/// As of when it is asked whose the address is that was dialled; `None`: now. A filter of this node sees
/// a packet to a Service translated: where it dropped one that was not, and the Service was found to be
/// gone when it was looked up again, it was gone then.
fn translated_as_of(snapshot: &Snapshot, case: &Case<'_>) -> Option<Timestamp> {
    let Flow { destination, port, protocol, .. } = case.flow;
    let Fate::Dropped(evidence) = case.fate else { return case.at };
    let is_untranslated = dropped_by(evidence) == DroppedBy::Filter && !evidence.delivered;
    if snapshot.knows_all_pods() || !is_untranslated {
        return case.at;
    }
    let found = service::find(snapshot, destination, port, protocol, case.at);
    let is_gone = found.is_some_and(|found| {
        snapshot.service(&found.service.namespace, &found.service.name).is_none()
    });
    case.at.filter(|_| !is_gone)
}

/// Judges a packet that may come of a question, with the Service that was dialled.
pub fn diagnose_packet(
    snapshot: &Snapshot,
    question: Question,
    dialled: Option<Dialled>,
) -> Diagnosis {
    packet(snapshot, question, dialled, Fate::Asked)
}

fn packet(
    snapshot: &Snapshot,
    question: Question,
    dialled: Option<Dialled>,
    fate: Fate<'_>,
) -> Diagnosis {
    let Question { source, destination, port, protocol, .. } = &question;
    // What is seen of packets is no part of a question: its flow only names the addresses.
    let address = |end: &Endpoint| end.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let (source, destination) = (address(source), address(destination));
    let case = Case {
        flow: Flow { source, destination, port: *port, protocol: *protocol },
        dialled: dialled.as_ref().map(|dialled| (dialled.address, dialled.port)),
        at: None,
        fate,
    };
    judged(snapshot, &case, question, dialled)
}

fn judged(
    snapshot: &Snapshot,
    case: &Case<'_>,
    question: Question,
    service: Option<Dialled>,
) -> Diagnosis {
    let verdict = evaluate(snapshot, &question);
    explained(snapshot, case, (question, verdict), service)
}

fn explained(
    snapshot: &Snapshot,
    case: &Case<'_>,
    (question, verdict): (Question, Verdict),
    service: Option<Dialled>,
) -> Diagnosis {
    let cause = cause_of(&Inquiry { snapshot, case, question: &question, verdict: &verdict });
    Diagnosis { question, service, verdict, cause }
}

/// The Service that a client is known to have dialled.
fn dialled_then(snapshot: &Snapshot, case: &Case<'_>) -> Option<Dialled> {
    let (address, port) = case.dialled?;
    let found = service::find(snapshot, address, port, case.flow.protocol, case.at)?;
    Some(Dialled { service: found.service, entry: found.entry, address, port })
}

impl Diagnosis {
    /// Whether it is worth reporting. A refused connection is not, where no policy refuses it: the
    /// port is closed, and the client knows.
    pub fn is_reportable(&self, evidence: &Evidence) -> bool {
        !is_of_closed_port(evidence)
            || self.cause.class.is_denial()
            || self.cause.class == Class::NotEnforced
    }

    /// The packet that a mesh sends instead of this one, where it is recognised as a mesh's; `None`: it is
    /// that packet, or no mesh takes part.
    pub fn carried(&self, snapshot: &Snapshot) -> Option<Question> {
        situation::carried(snapshot, self.cause.situation?, &self.question)
    }

    /// The same of the packet that a mesh sends instead, where policies let this one pass.
    #[must_use]
    pub(crate) fn as_carried(&self, snapshot: &Snapshot) -> Option<Self> {
        let carried = self.carried(snapshot).filter(|_| self.cause.class == Class::None)?;
        Some(packet(snapshot, carried, None, Fate::Asked))
    }

    /// The same where somebody says that it does not pass, though the specification exempts it or the
    /// engine is thought to enforce nothing.
    #[must_use]
    pub fn policed(&self, snapshot: &Snapshot) -> Self {
        packet(snapshot, self.question.clone(), self.service.clone(), Fate::Policed)
    }

    /// The same with what the changes around it say, which its sentence says as well.
    #[must_use]
    pub(crate) fn with_hindsight(
        mut self,
        snapshot: &Snapshot,
        case: &Case<'_>,
        hindsight: Hindsight,
    ) -> Self {
        self.cause.hindsight = Some(hindsight);
        let (question, verdict) = (&self.question, &self.verdict);
        let inquiry = Inquiry { snapshot, case, question, verdict };
        self.cause.text = words::sentence(&inquiry, &self.cause);
        self
    }

    /// Of what kube-proxy refuses: that it does, with what policies say of the packets that would come of
    /// it.
    pub(crate) fn of_kube_proxy(
        snapshot: &Snapshot,
        case: &Case<'_>,
        kube_proxy: Arc<KubeProxy>,
        verdict: Verdict,
    ) -> Self {
        let question = kube_proxy.question(snapshot);
        let inquiry = Inquiry { snapshot, case, question: &question, verdict: &verdict };
        let class = Class::NotPolicy;
        let (mut confidence, mut reasons) = inquiry.confidence(class);
        if let Some((reason, factor)) = kube_proxy.doubt(case.fate) {
            reasons.push(reason.to_owned());
            confidence = (confidence * factor * 100.0).round() / 100.0;
        }
        let service = dialled(&kube_proxy.course);
        let mut cause = Cause {
            class,
            direction: None,
            situation: None,
            policy: None,
            nearest_miss: None,
            hindsight: None,
            kube_proxy: Some(kube_proxy),
            confidence,
            reasons,
            text: String::new(),
        };
        cause.text = words::sentence(&inquiry, &cause);
        Self { question, service, verdict, cause }
    }

    /// The same with what kube-proxy does besides, which its sentence says as well.
    #[must_use]
    pub(crate) fn besides(
        mut self,
        snapshot: &Snapshot,
        case: &Case<'_>,
        kube_proxy: Arc<KubeProxy>,
    ) -> Self {
        self.cause.kube_proxy = Some(kube_proxy);
        let (question, verdict) = (&self.question, &self.verdict);
        let inquiry = Inquiry { snapshot, case, question, verdict };
        self.cause.text = words::sentence(&inquiry, &self.cause);
        self
    }

    /// The same with another of the policies that isolate the pod as the one to look at first, if it
    /// is one.
    #[must_use]
    pub(crate) fn led_by(mut self, snapshot: &Snapshot, case: &Case<'_>, lead: &PolicyRef) -> Self {
        let found = self.isolating().into_iter().find(|policy| policy.reference == *lead);
        if found.is_some() {
            self.cause.policy = found;
            let (question, verdict) = (&self.question, &self.verdict);
            let inquiry = Inquiry { snapshot, case, question, verdict };
            self.cause.text = words::sentence(&inquiry, &self.cause);
        }
        self
    }

    /// The policies responsible for a denial, the one to look at first before the others: of an
    /// implicit one, all that isolate the pod; where both directions deny, those of both, each of which
    /// has to let it pass.
    pub fn responsible(&self) -> Vec<Arc<Policy>> {
        let Some(lead) = self.cause.direction else { return Vec::new() };
        let mut policies = self.isolating();
        let first = self.cause.policy.as_ref().map(|policy| &policy.reference);
        policies.sort_by_key(|policy| Some(&policy.reference) != first);
        for direction in self.verdict.denied_directions().filter(|direction| *direction != lead) {
            for policy in self.verdict.direction(direction).responsible() {
                if !policies.iter().any(|known| known.reference == policy.reference) {
                    policies.push(policy);
                }
            }
        }
        policies
    }

    /// The policies responsible in the direction that leads.
    fn isolating(&self) -> Vec<Arc<Policy>> {
        let Some(direction) = self.cause.direction else { return Vec::new() };
        self.verdict.direction(direction).responsible()
    }

    /// Whether something else than policies is known to have dropped the packets: kube-proxy, or, as
    /// this node's kernel says by itself, a check of sources, a full table of connections, or a filter
    /// of the destination pod's own.
    pub(crate) fn is_explained_otherwise(
        &self,
        snapshot: &Snapshot,
        case: &Case<'_>,
        evidence: &Evidence,
    ) -> bool {
        let (question, verdict) = (&self.question, &self.verdict);
        let inquiry = Inquiry { snapshot, case, question, verdict };
        self.cause.by_kube_proxy().is_some()
            || inquiry.spoofed(evidence).is_some()
            || inquiry.table_full(evidence).is_some()
            || is_in_pod(evidence)
    }

    /// Whether kube-proxy refuses it, and nothing of what was seen speaks against that.
    pub(crate) fn is_explained_by_kube_proxy(&self, fate: Fate<'_>) -> bool {
        self.cause.by_kube_proxy().is_some_and(|kube_proxy| kube_proxy.doubt(fate).is_none())
    }

    /// Names the incident that this belongs to, alike on every node: what denies which workload. Of
    /// policies that isolate a pod together it is the oldest that counts, and a remedy where there is
    /// nothing else: what is added, and does not admit the flow, makes no other incident of it.
    pub fn incident(&self) -> u64 {
        if let Some(kube_proxy) = self.cause.by_kube_proxy() {
            let name = service::words::name(&kube_proxy.course.service);
            let refusal = RefusalKind::from(kube_proxy.refusal()).name();
            return hash64(&format!("kube-proxy {name} {refusal}"));
        }
        let oldest =
            |policy: &Arc<Policy>| (policy.is_remedy, policy.created, policy.reference.clone());
        let policy = self.isolating().into_iter().min_by_key(oldest);
        let policy = policy
            .map(|policy| format!("{} {}", policy.reference.kind.name(), policy.reference))
            .unwrap_or_default();
        let (direction, workload) = self.denied_end();
        let direction = direction.map(|direction| direction.to_string()).unwrap_or_default();
        hash64(&format!("{} {direction} {policy} {workload}", self.cause.class.name()))
    }

    /// The direction that leads, and whose policies it is about: `Deployment backend/backend-api`.
    pub(crate) fn denied_end(&self) -> (Option<Direction>, String) {
        let end = match self.cause.direction {
            Some(Direction::Egress) => &self.question.source,
            _ => &self.question.destination,
        };
        let workload = end.pod().map_or_else(
            || end.to_string(),
            |pod| match &pod.workload {
                Some(workload) => format!("{} {}/{}", workload.kind, pod.namespace, workload.name),
                None => end.to_string(),
            },
        );
        (self.cause.direction, workload)
    }
}

/// The cause, check by check, with its sentence.
fn cause_of(inquiry: &Inquiry<'_>) -> Cause {
    let class = inquiry.class();
    let mut cause = Cause {
        class,
        direction: None,
        situation: inquiry.situation(class),
        policy: None,
        nearest_miss: None,
        hindsight: None,
        kube_proxy: None,
        confidence: 0.0,
        reasons: Vec::new(),
        text: String::new(),
    };
    if class.is_denial() || class == Class::NotEnforced {
        cause.direction = inquiry.verdict.leading_denial();
    }
    if let Some(direction) = cause.direction {
        cause.policy = inquiry.verdict.direction(direction).responsible().into_iter().next();
        if class.is_denial() {
            cause.nearest_miss = inquiry.nearest_miss(direction);
        }
    }
    (cause.confidence, cause.reasons) = inquiry.confidence(class);
    cause.text = words::sentence(inquiry, &cause);
    cause
}
