//! From a drop and a snapshot to the cause, in the order in which a playbook checks.

mod attribution;
mod hindsight;
mod judgement;
pub mod reason;
mod words;

use std::{net::IpAddr, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use crate::{
    cluster::{
        Interface, Snapshot, TableFull,
        object::{Probe, Service},
        resolve::{Backend, Endpoint, Holder},
    },
    correlate::{Evidence, Level},
    flow::{Direction, Flow, Protocol},
    observation::Rejection,
    policy::{
        Policy,
        evaluate::{Decision, DirectionVerdict, Question, Verdict, evaluate},
        nearest::{Lack, NearestMiss, nearest_miss},
    },
};
pub use attribution::{Attribution, attribute};
pub use judgement::{Judgement, judge};
use reason::Died;

/// What killed a flow, or would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
    /// It cannot be told.
    CannotTell,
    /// Nothing: policies let it pass, and nothing was dropped.
    None,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 14] = [
        Self::ExplicitDeny,
        Self::NamespaceSelectorMismatch,
        Self::PodSelectorMismatch,
        Self::PortMismatch,
        Self::ProtocolMismatch,
        Self::IpBlockMismatch,
        Self::IpBlockExcept,
        Self::NamedPortUnresolved,
        Self::DefaultDeny,
        Self::NotEnforced,
        Self::OutOfSync,
        Self::NotPolicy,
        Self::CannotTell,
        Self::None,
    ];

    /// The class as records spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ExplicitDeny => "explicit-deny",
            Self::NamespaceSelectorMismatch => "namespace-selector-mismatch",
            Self::PodSelectorMismatch => "pod-selector-mismatch",
            Self::PortMismatch => "port-mismatch",
            Self::ProtocolMismatch => "protocol-mismatch",
            Self::IpBlockMismatch => "ip-block-mismatch",
            Self::IpBlockExcept => "ip-block-except",
            Self::NamedPortUnresolved => "named-port-unresolved",
            Self::DefaultDeny => "default-deny",
            Self::NotEnforced => "not-enforced",
            Self::OutOfSync => "out-of-sync",
            Self::NotPolicy => "not-policy",
            Self::CannotTell => "cannot-tell",
            Self::None => "none",
        }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Situation {
    /// A look-up at the cluster's DNS.
    Dns,
    /// The kubelet's probe of a pod of its own node.
    Probe(Probe),
    /// The first moments of a pod, which the CNI had not let in yet.
    Start,
}

/// Why.
#[derive(Clone, Debug)]
pub struct Cause {
    /// What kind of cause.
    pub class: Class,
    /// The direction that denies; the first in the packet's order where both do.
    pub direction: Option<Direction>,
    /// A situation on top of the class.
    pub situation: Option<Situation>,
    /// The policy to look at first. The others behind an implicit deny: the verdict's `isolating`.
    pub policy: Option<Arc<Policy>>,
    /// The rule that would almost admit the flow.
    pub nearest_miss: Option<NearestMiss>,
    /// How sure the class is, from 0 to 1.
    pub confidence: f64,
    /// What the confidence rests on.
    pub reasons: Vec<String>,
    /// One sentence for a person.
    pub text: String,
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
    /// Why it died, or would.
    pub cause: Cause,
}

/// A Service that a client dialled.
#[derive(Clone, Debug, PartialEq)]
pub struct Dialled {
    /// The Service.
    pub service: Arc<Service>,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// What happened to the flow in question.
#[derive(Clone, Copy, Debug)]
pub enum Fate<'a> {
    /// Nothing yet: a question of what would happen.
    Asked,
    /// It died, by this evidence.
    Died(&'a Evidence),
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
    let destination = snapshot.resolve(destination, case.at);
    let service = dialled_service(snapshot, case, &destination);
    match &service {
        // Not translated yet where it was seen.
        Some(dialled) if matches!(destination.holder, Holder::Service(_)) => {
            let backends = snapshot.backends(&dialled.service, port, protocol, dialled.address);
            diagnose_service(snapshot, case, &source, protocol, dialled, &backends)
        }
        _ => {
            let question = Question { source, destination, port, protocol };
            let verdict = evaluate(snapshot, &question);
            let cause = Inquiry { snapshot, case, question: &question, verdict: &verdict }.cause();
            Diagnosis { question, service, verdict, cause }
        }
    }
}

fn dialled_service(
    snapshot: &Snapshot,
    case: &Case<'_>,
    destination: &Endpoint,
) -> Option<Dialled> {
    let (address, port) = case.dialled.unwrap_or((case.flow.destination, case.flow.port));
    let holder = match case.dialled {
        Some((address, _)) => snapshot.resolve(address, case.at).holder,
        None => destination.holder.clone(),
    };
    match holder {
        Holder::Service(service) => Some(Dialled { service, address, port }),
        _ => None,
    }
}

/// A flow to a Service of which only the Service's address was seen: its backends decide, if they
/// agree.
fn diagnose_service(
    snapshot: &Snapshot,
    case: &Case<'_>,
    source: &Endpoint,
    protocol: Protocol,
    dialled: &Dialled,
    backends: &[Backend],
) -> Diagnosis {
    let name = format!("{}/{}", dialled.service.namespace, dialled.service.name);
    let mut judged: Vec<(Question, Verdict)> = Vec::new();
    for Backend { endpoint, port } in backends {
        let (source, destination) = (source.clone(), endpoint.clone());
        let question = Question { source, destination, port: *port, protocol };
        let verdict = evaluate(snapshot, &question);
        judged.push((question, verdict));
    }
    let denied = |verdict: &Verdict| verdict.decision() == Decision::Denied;
    let agree = judged.windows(2).all(|pair| denied(&pair[0].1) == denied(&pair[1].1));
    let unresolved = |why: String| Question {
        source: source.clone(),
        destination: Endpoint { address: dialled.address, holder: Holder::Unknown(why.into()) },
        port: dialled.port,
        protocol,
    };
    let (question, verdict) = match judged.into_iter().next() {
        Some(first) if agree => first,
        some => {
            let why = match some {
                Some(_) => format!("the backends of Service {name} do not all fare alike"),
                None => format!("Service {name} has no backend for port {}", dialled.port),
            };
            let question = unresolved(why);
            let verdict = evaluate(snapshot, &question);
            (question, verdict)
        }
    };
    let mut cause = Inquiry { snapshot, case, question: &question, verdict: &verdict }.cause();
    if backends.is_empty() && matches!(cause.class, Class::CannotTell | Class::NotPolicy) {
        // A Service proxy rejects or drops what it has nowhere to send to.
        cause.class = Class::NotPolicy;
        cause.text = format!("{name}: the Service has no ready endpoint for this port");
    }
    Diagnosis { question, service: Some(dialled.clone()), verdict, cause }
}

impl Diagnosis {
    /// Whether it is worth telling. A refused connection is not, where no policy refuses it: the
    /// port is closed, and the client knows.
    pub fn is_reportable(&self, evidence: &Evidence) -> bool {
        let reset = evidence.rejected == Some(Rejection::Reset);
        let filtered = Died::of(evidence).is_filter();
        !reset || filtered || self.cause.class.is_denial() || self.cause.class == Class::NotEnforced
    }

    /// The same question of a packet that carries a Service's address to the policies, as nobody
    /// translated it: judged as it stands.
    #[must_use]
    pub fn untranslated(self, snapshot: &Snapshot, flow: &Flow) -> Self {
        if self.service.is_none() {
            return self;
        }
        let question = Question {
            destination: snapshot.resolve(flow.destination, None),
            port: flow.port,
            ..self.question
        };
        let verdict = evaluate(snapshot, &question);
        let case = Case { flow: *flow, dialled: None, at: None, fate: Fate::Asked };
        let inquiry = Inquiry { snapshot, case: &case, question: &question, verdict: &verdict };
        let cause = inquiry.cause();
        Self { question, service: None, verdict, cause }
    }

    /// The policies responsible for a denial: of an implicit one, all that isolate the pod.
    pub fn responsible(&self) -> Vec<Arc<Policy>> {
        let Some(direction) = self.cause.direction else { return Vec::new() };
        responsible(&self.verdict, direction)
    }

    /// Names the incident that this belongs to, alike on every node: what denies which workload.
    pub fn incident(&self) -> u64 {
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
        let policies: Vec<_> = self
            .responsible()
            .iter()
            .map(|policy| format!("{} {}", policy.reference.kind, policy.reference))
            .collect();
        let direction = self.cause.direction.map(|direction| direction.to_string());
        let key = format!(
            "{} {} {} {workload}",
            self.cause.class.name(),
            direction.unwrap_or_default(),
            policies.join(",")
        );
        let hash = blake3::hash(key.as_bytes());
        hash.as_bytes()[..8].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
}

fn responsible(verdict: &Verdict, direction: Direction) -> Vec<Arc<Policy>> {
    verdict.direction(direction).responsible()
}

/// Everything that a cause is drawn from.
struct Inquiry<'a> {
    snapshot: &'a Snapshot,
    case: &'a Case<'a>,
    question: &'a Question,
    verdict: &'a Verdict,
}

impl Inquiry<'_> {
    fn cause(&self) -> Cause {
        let class = self.class();
        let mut cause = Cause {
            class,
            direction: None,
            situation: self.situation(class),
            policy: None,
            nearest_miss: None,
            confidence: 0.0,
            reasons: Vec::new(),
            text: String::new(),
        };
        if class.is_denial() || class == Class::NotEnforced {
            cause.direction = self.verdict.denied_directions().next();
        }
        if let Some(direction) = cause.direction {
            cause.policy = responsible(self.verdict, direction).into_iter().next();
            if class.is_denial() {
                cause.nearest_miss = self.nearest_miss(direction);
            }
        }
        (cause.confidence, cause.reasons) = self.confidence(class);
        cause.text = words::sentence(self, &cause);
        cause
    }

    fn class(&self) -> Class {
        let denied = self.verdict.decision() == Decision::Denied;
        match self.case.fate {
            Fate::Answered if denied && self.enforceable() => return Class::NotEnforced,
            Fate::Answered => return Class::None,
            Fate::Died(evidence) => {
                if let Some(class) = self.class_of_death(evidence, denied) {
                    return class;
                }
            }
            Fate::Asked => {}
        }
        match self.verdict.decision() {
            Decision::Denied => self.denial(),
            Decision::Unknown => Class::CannotTell,
            Decision::Allowed | Decision::NotIsolated => match self.case.fate {
                Fate::Died(evidence) => self.allowed_and_died(evidence),
                Fate::Asked | Fate::Answered => Class::None,
            },
        }
    }

    /// What the evidence alone decides, before policy is asked.
    fn class_of_death(&self, evidence: &Evidence, denied: bool) -> Option<Class> {
        if self.spoofed(evidence).is_some() {
            return Some(Class::NotPolicy);
        }
        let died = Died::of(evidence);
        if evidence.delivered && !died.is_filter() {
            // It got past every filter: what the policies deny was not enforced, and what became
            // of it in the pod is not policy.
            let not_enforced = denied && self.enforceable();
            return Some(if not_enforced { Class::NotEnforced } else { Class::NotPolicy });
        }
        matches!(died, Died::Other).then_some(Class::NotPolicy)
    }

    /// Whether the CNI should have enforced the denial by then: the traffic is not exempt, and the
    /// policies are not as young as the packet.
    fn enforceable(&self) -> bool {
        let settled = |policy: &Arc<Policy>| match (policy.created, self.case.at) {
            (Some(created), Some(at)) => at.duration_since(created) > ENFORCED_WITHIN,
            _ => true,
        };
        let mut denied = self.verdict.denied_directions();
        self.verdict.exempt.is_none()
            && denied.any(|direction| responsible(self.verdict, direction).iter().all(settled))
    }

    fn allowed_and_died(&self, evidence: &Evidence) -> Class {
        let governs = |d: &DirectionVerdict| d.layer.is_some() || !d.isolating.is_empty();
        let governed = governs(&self.verdict.egress) || governs(&self.verdict.ingress);
        match Died::of(evidence) {
            // Conntrack drops where filters do, and for the same reason as far as the kernel says.
            _ if self.table_full(evidence).is_some() || self.invalid(evidence) => Class::NotPolicy,
            Died::Filter if governed => Class::OutOfSync,
            _ => Class::NotPolicy,
        }
    }

    fn denial(&self) -> Class {
        let Some(direction) = self.verdict.denied_directions().next() else {
            return Class::CannotTell;
        };
        if self.verdict.direction(direction).denied_by.is_some() {
            return Class::ExplicitDeny;
        }
        match self.nearest_miss(direction).map(|miss| miss.lack) {
            None => Class::DefaultDeny,
            Some(Lack::NamespaceLabels) => Class::NamespaceSelectorMismatch,
            Some(Lack::PodLabels) => Class::PodSelectorMismatch,
            Some(Lack::Port) => Class::PortMismatch,
            Some(Lack::Protocol) => Class::ProtocolMismatch,
            Some(Lack::Block) => Class::IpBlockMismatch,
            Some(Lack::Except) => Class::IpBlockExcept,
            Some(Lack::NamedPort) => Class::NamedPortUnresolved,
        }
    }

    fn nearest_miss(&self, direction: Direction) -> Option<NearestMiss> {
        let verdict = self.verdict.direction(direction);
        if verdict.denied_by.is_some() { None } else { nearest_miss(verdict, direction) }
    }

    fn situation(&self, class: Class) -> Option<Situation> {
        if matches!(class, Class::OutOfSync | Class::NotPolicy) && self.starting().is_some() {
            return Some(Situation::Start);
        }
        let Question { source, destination, port, .. } = self.question;
        if let (Holder::Node(node), Holder::Pod(pod)) = (&source.holder, &destination.holder)
            && pod.node.as_ref() == Some(&node.name)
        {
            let mut probes = pod.probes.iter().filter(|probe| probe.port == *port);
            return probes.next().map(|probe| Situation::Probe(probe.probe));
        }
        let dialled = self.case.dialled.map_or(self.case.flow.port, |(_, port)| port);
        let asks_dns = *port == DNS_PORT || dialled == DNS_PORT;
        (asks_dns && self.to_cluster_dns()).then_some(Situation::Dns)
    }

    /// Whether the destination is the cluster's DNS: a Service of one of its usual names, or a pod
    /// with the label that they all select.
    fn to_cluster_dns(&self) -> bool {
        let dialled = self.case.dialled.map(|(address, _)| address);
        let address = dialled.unwrap_or(self.case.flow.destination);
        let service = match self.snapshot.resolve(address, self.case.at).holder {
            Holder::Service(service) => is_dns_service(&service),
            _ => false,
        };
        service
            || self.question.destination.pod().is_some_and(|pod| {
                &*pod.namespace == DNS_NAMESPACE
                    && (pod.labels.get("k8s-app").is_some_and(|app| &**app == "kube-dns")
                        || self.snapshot.services().any(|service| {
                            is_dns_service(service)
                                && !service.selector.is_empty()
                                && service
                                    .selector
                                    .iter()
                                    .all(|(k, v)| pod.labels.get(k) == Some(v))
                        }))
            })
    }

    /// The pod's veth by which a packet entered whose source address is not that pod's.
    fn spoofed(&self, evidence: &Evidence) -> Option<&Arc<Interface>> {
        let interface = self.snapshot.interface(evidence.entered?)?;
        let known = !interface.addresses.is_empty();
        (known && !interface.addresses.contains(&self.case.flow.source)).then_some(interface)
    }

    /// The interface by which a filter's victims entered while it was new, and how old it was then.
    fn starting(&self) -> Option<(&Interface, SignedDuration)> {
        let Fate::Died(evidence) = self.case.fate else { return None };
        let filtered = Died::of(evidence).is_filter() && self.spoofed(evidence).is_none();
        filtered.then(|| self.snapshot.new_interface(evidence, STARTS_WITHIN)).flatten()
    }

    /// When the table of connections was full while a filter's victims died.
    fn table_full(&self, evidence: &Evidence) -> Option<&TableFull> {
        let full = self.snapshot.table_full().filter(|full| full.covers(evidence));
        full.filter(|_| Died::of(evidence).is_filter())
    }

    /// Whether a filter's victims were what conntrack found invalid: as many, and hardly any other.
    fn invalid(&self, evidence: &Evidence) -> bool {
        let (died, invalid) = (evidence.kernel_packets(), self.snapshot.invalid_packets(evidence));
        Died::of(evidence).is_filter() && (died..=died + INVALID_OTHERS_MAX).contains(&invalid)
    }

    /// The kind that nothing had been heard of for longest, and for how many seconds.
    fn stalest(&self) -> Option<(crate::cluster::object::Kind, i64)> {
        let at = self.case.at?;
        let stale = self.snapshot.stale().iter();
        let ages = stale.map(|(kind, since)| (*kind, at.duration_since(*since).as_secs()));
        ages.filter(|(_, age)| *age > 0).max_by_key(|(_, age)| *age)
    }

    /// How sure the class is: what was seen, times what speaks against it.
    fn confidence(&self, class: Class) -> (f64, Vec<String>) {
        let mut reasons = Vec::new();
        let mut because = |factor: f64, reason: &str| {
            reasons.push(reason.to_owned());
            factor
        };
        if class == Class::CannotTell {
            return (0.0, self.verdict.unknowns().map(ToString::to_string).collect());
        }
        let mut confidence = match self.case.fate {
            Fate::Asked => because(1.0, "computed from the objects given"),
            Fate::Answered => because(0.95, "an answer came back"),
            Fate::Died(evidence) => match (evidence.level(), Died::of(evidence)) {
                (Level::Rejected, Died::Filter) => {
                    because(0.97, "a filter of this node rejected it")
                }
                (Level::Rejected, _) => {
                    because(0.7, "a rejection came back, from whom is not known")
                }
                (Level::KernelDrop, Died::Filter) => {
                    because(0.97, "a filter of this node dropped it")
                }
                (Level::KernelDrop, Died::Other) => {
                    because(0.97, "this kernel says why it dropped it")
                }
                (Level::KernelDrop, _) => {
                    because(0.85, "this kernel dropped it without saying why")
                }
                (Level::Unanswered, _) if class.is_denial() => {
                    because(0.75, "nothing was dropped here: it died beyond this node")
                }
                (Level::Unanswered, _) => because(0.6, "no answer came, and nothing says why"),
            },
        };
        if let Some((kind, age_secs)) = self.stalest() {
            let reason = format!("{kind} objects are known as they were {age_secs} s before");
            confidence *= because(0.8, &reason);
        }
        if class.is_denial() {
            let direction = self.verdict.denied_directions().next();
            if direction.is_some_and(|d| responsible(self.verdict, d).len() > 1) {
                confidence *= because(0.99, "several policies isolate the pod together");
            }
            if self.verdict.exempt.is_some() {
                confidence *=
                    because(0.9, "the specification exempts this traffic, and most CNIs do");
            }
            if self.verdict.unknowns().next().is_some() {
                confidence *= because(0.95, "the other direction cannot be told");
            }
        }
        ((confidence * 100.0).round() / 100.0, reasons)
    }
}

/// How long a CNI may take to enforce a new policy before a flow that still passes is a finding.
/// Measured: 0.2 to 0.5 s on an idle node; large clusters take seconds.
pub const ENFORCED_WITHIN: SignedDuration = SignedDuration::from_secs(5);

/// How old a pod's interface may be for a drop to be put down to its start. Measured: 0.1 to 2 s until
/// a CNI has programmed a pod; loaded nodes take several times that.
pub const STARTS_WITHIN: SignedDuration = SignedDuration::from_secs(10);

/// How many packets of others may be invalid in the same seconds: a straggler of a closed connection
/// or two. With more of them it cannot be said whose they were.
const INVALID_OTHERS_MAX: u64 = 2;

const DNS_PORT: u16 = 53;
const DNS_NAMESPACE: &str = "kube-system";

/// The Services by which distributions name the cluster's DNS.
fn is_dns_service(service: &Service) -> bool {
    let usual = ["kube-dns", "coredns", "rke2-coredns-rke2-coredns", "dns-default"];
    let namespaces = [DNS_NAMESPACE, "openshift-dns"];
    namespaces.contains(&&*service.namespace) && usual.contains(&&*service.name)
}
