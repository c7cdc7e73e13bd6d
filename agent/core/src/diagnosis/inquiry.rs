//! What a cause is drawn from, and the checks of the playbook.

use std::{net::IpAddr, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{
    Case, Class, Fate, Situation,
    reason::{DroppedBy, dropped_by, is_in_pod},
    situation::{self, Scene, Trap},
};
use crate::{
    cluster::{
        Interface, Snapshot, TableFull,
        dns::DNS_PORT,
        history::SEEN_WITHIN,
        known_address::{Purpose, known_address},
        lifetime::Ended,
        object::{Kind, Service},
        profile::Translation,
        resolve::{Endpoint, Holder},
    },
    correlate::{Evidence, EvidenceLevel},
    flow::Direction,
    observation::Rejection,
    policy::{Action, Policy, RuleRef},
    service::{self, Entry},
    verdict::{
        Decision, DirectionVerdict, Question, RuleTrace, Verdict,
        nearest::{Lack, NearestMiss, nearest_miss},
    },
};

/// Everything that a cause is drawn from.
pub(super) struct Inquiry<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) case: &'a Case<'a>,
    pub(super) question: &'a Question,
    pub(super) verdict: &'a Verdict,
}

impl Inquiry<'_> {
    pub(super) fn class(&self) -> Class {
        let class = self.class_by_playbook();
        let unexplained = matches!(class, Class::OutOfSync | Class::NotPolicy | Class::CannotTell);
        // Whatever policies say of an address that nobody holds any more.
        let is_end = (unexplained && self.ending().is_some()) || self.is_lost_after_end();
        if is_end { Class::NotPolicy } else { class }
    }

    fn class_by_playbook(&self) -> Class {
        let denied = self.verdict.decision() == Decision::Denied;
        match self.case.fate {
            Fate::Answered if denied && self.enforceable() => return Class::NotEnforced,
            Fate::Answered => return Class::None,
            Fate::Dropped(evidence) => {
                if let Some(class) = self.class_by_evidence(evidence, denied) {
                    return class;
                }
            }
            // Nobody has seen anything police what the specification exempts.
            Fate::Asked if self.verdict.exempt.is_some() => return Class::None,
            Fate::Asked if self.enforces_nothing() => {
                return match self.verdict.decision() {
                    Decision::Denied | Decision::Unknown => Class::NotEnforced,
                    Decision::NotIsolated | Decision::Allowed => Class::None,
                };
            }
            Fate::Asked | Fate::Policed => {}
        }
        match self.verdict.decision() {
            Decision::Denied => self.denial(),
            Decision::Unknown => Class::CannotTell,
            Decision::NotIsolated | Decision::Allowed => match self.case.fate {
                Fate::Dropped(evidence) => self.allowed_and_dropped(evidence),
                Fate::Asked | Fate::Policed | Fate::Answered => Class::None,
            },
        }
    }

    /// What the evidence alone decides, before policy is asked.
    fn class_by_evidence(&self, evidence: &Evidence, denied: bool) -> Option<Class> {
        if self.spoofed(evidence).is_some() {
            return Some(Class::NotPolicy);
        }
        let by = dropped_by(evidence);
        if evidence.delivered && (by != DroppedBy::Filter || is_in_pod(evidence)) {
            // It got past every filter: what the policies deny was not enforced, and what became
            // of it in the pod is not policy.
            let not_enforced = denied && self.enforceable();
            return Some(if not_enforced { Class::NotEnforced } else { Class::NotPolicy });
        }
        (by == DroppedBy::Other).then_some(Class::NotPolicy)
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
            && denied.any(|direction| {
                self.verdict.direction(direction).responsible().iter().all(settled)
            })
    }

    /// Whether the engine is one that accepts policies and enforces none.
    pub(super) fn enforces_nothing(&self) -> bool {
        !self.snapshot.profile().policies.is_in_force()
    }

    fn allowed_and_dropped(&self, evidence: &Evidence) -> Class {
        let governs = |d: &DirectionVerdict| d.layer.is_some() || !d.isolating.is_empty();
        let governed = governs(&self.verdict.egress) || governs(&self.verdict.ingress);
        match dropped_by(evidence) {
            // Conntrack drops where filters do, and for the same reason as far as the kernel says.
            _ if self.table_full(evidence).is_some() || self.invalid(evidence) => Class::NotPolicy,
            DroppedBy::Filter if governed => Class::OutOfSync,
            _ => Class::NotPolicy,
        }
    }

    fn denial(&self) -> Class {
        let Some(direction) = self.verdict.leading_denial() else { return Class::CannotTell };
        if self.verdict.direction(direction).denied_by.is_some() {
            return Class::ExplicitDeny;
        }
        match self.nearest_miss(direction).map(|miss| miss.lack) {
            None => Class::DefaultDeny,
            Some(Lack::NamespaceLabels | Lack::OtherNamespace) => Class::NamespaceSelectorMismatch,
            Some(Lack::PodLabels) => Class::PodSelectorMismatch,
            Some(Lack::Port) => Class::PortMismatch,
            Some(Lack::Protocol) => Class::ProtocolMismatch,
            Some(Lack::Block) => Class::IpBlockMismatch,
            Some(Lack::Except) => Class::IpBlockExcept,
            Some(Lack::NamedPort) => Class::NamedPortUnresolved,
        }
    }

    pub(super) fn nearest_miss(&self, direction: Direction) -> Option<NearestMiss> {
        let verdict = self.verdict.direction(direction);
        match verdict.denied_by {
            Some(_) => None,
            None => nearest_miss(verdict, direction, self.question.protocol),
        }
    }

    /// A rule of the client that names the Service's address by which it was dialled, and not the
    /// backend's, where the engine asks for the backend's.
    pub(super) fn named_as_dialled(&self) -> Option<(RuleRef, IpAddr, Arc<Service>)> {
        let Case { flow, dialled, at, .. } = self.case;
        let (address, port) = dialled.unwrap_or((flow.destination, flow.port));
        let arrives = self.question.destination.address?;
        let egress = &self.verdict.egress;
        let is_asked_after = self.snapshot.profile().egress == Translation::After;
        if !is_asked_after || address == arrives || egress.decision != Decision::Denied {
            return None;
        }
        let found = service::find(self.snapshot, address, port, flow.protocol, *at)?;
        let rule = egress.trace.iter().find_map(|trace| {
            let names = |rule: &&RuleTrace| {
                let rules = trace.policy.written_rules(Direction::Egress);
                let peers = rules.and_then(|rules| rules.get(rule.rule)).map(|rule| &rule.peers);
                let holds = |address| peers.is_some_and(|peers| peers.has_block_of(address));
                rule.action == Action::Allow && holds(address) && !holds(arrives)
            };
            trace.rules.iter().find(names).map(|rule| trace.rule_ref(rule))
        })?;
        (!matches!(found.entry, Entry::NodePort(_))).then_some((rule, address, found.service))
    }

    pub(super) fn situation(&self, class: Class) -> Option<Situation> {
        if class == Class::NotPolicy && self.ending().is_some() {
            return Some(Situation::End);
        }
        if matches!(class, Class::OutOfSync | Class::NotPolicy) && self.starting().is_some() {
            return Some(Situation::Start);
        }
        let trap = self.trap(class);
        if let Some(Trap::MeshProbe(..)) = trap {
            return Some(Situation::MeshProbe);
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
        if asks_dns && self.to_cluster_dns() {
            return Some(Situation::Dns);
        }
        trap.map(|trap| trap.situation())
    }

    /// The trap of the trade that it is, if it is one.
    pub(super) fn trap(&self, class: Class) -> Option<Trap> {
        let Case { flow, dialled, fate, .. } = self.case;
        let scene = Scene {
            snapshot: self.snapshot,
            question: self.question,
            verdict: self.verdict,
            dialled: dialled.unwrap_or((flow.destination, flow.port)),
            is_translated: dialled.is_some(),
            is_asked: matches!(fate, Fate::Asked | Fate::Policed),
        };
        let is_open = |trap: &Trap| class.is_denial() || trap.is_beside_the_verdict();
        situation::trap(&scene).filter(is_open)
    }

    /// Whether the destination is the cluster's DNS: its Service, one of its pods, or the cache that
    /// answers for it on the node.
    fn to_cluster_dns(&self) -> bool {
        let dialled = self.case.dialled.map(|(address, _)| address);
        let address = dialled.unwrap_or(self.case.flow.destination);
        let is_service = match self.snapshot.resolve(address, self.case.at).holder {
            Holder::Service(service) => service.is_cluster_dns(),
            _ => false,
        };
        let pod = self.question.destination.pod();
        is_service
            || pod.is_some_and(|pod| self.snapshot.is_dns_pod(pod))
            || known_address(address).is_some_and(|known| known.purpose == Purpose::NodeDns)
            || self.snapshot.dns_cache().contains(&address)
    }

    /// The interface by which a packet entered whose source address is not that of whoever is behind it: a
    /// pod's of which the addresses are known, or any, where the address is that of a pod behind another.
    pub(super) fn spoofed(&self, evidence: &Evidence) -> Option<&Arc<Interface>> {
        let by = evidence.entered.or(evidence.sender.foreign())?;
        let interface = self.snapshot.node_facts().interface(by)?;
        let behind = self.snapshot.addresses_behind(interface);
        let is_foreign =
            (evidence.entered.is_some() && !behind.is_empty()) || evidence.sender.is_spoofed();
        (is_foreign && !behind.contains(&self.case.flow.source)).then_some(interface)
    }

    /// The interface by which packets that a filter dropped entered, all of them while it was new, and
    /// how old it was then. That of a pod that is older is only seen anew: it comes back as its pod
    /// ends.
    pub(super) fn starting(&self) -> Option<(&Interface, SignedDuration)> {
        let Fate::Dropped(evidence) = self.case.fate else { return None };
        let filtered = dropped_by(evidence) == DroppedBy::Filter
            && self.spoofed(evidence).is_none()
            && !is_in_pod(evidence);
        let entered = evidence.entered.filter(|_| filtered)?;
        let facts = self.snapshot.node_facts();
        facts.new_interface(entered, evidence.last(), STARTS_WITHIN)?;
        let source = &self.question.source;
        let began = source.pod().zip(source.address);
        let began = began.and_then(|(pod, address)| self.snapshot.held_since(pod, address));
        let is_young =
            began.is_none_or(|began| evidence.last().duration_since(began) <= STARTS_WITHIN);
        facts.new_interface(entered, evidence.first(), STARTS_WITHIN).filter(|_| is_young)
    }

    /// The end of a pod that explains why what it sends or is sent is lost: it is being deleted, gone or
    /// finished, and was so when the first of the packets were.
    pub(super) fn ending(&self) -> Option<Ended> {
        let Fate::Dropped(evidence) = self.case.fate else { return None };
        let is_of_packets = evidence.delivered || self.spoofed(evidence).is_some();
        if is_of_packets || evidence.rejected == Some(Rejection::Reset) {
            return None;
        }
        let first = *evidence.latest().start();
        let Question { source, destination, .. } = self.question;
        let ends = [source, destination].into_iter().filter_map(|end| self.end_of(end));
        ends.into_iter().find(|ended| {
            let has_begun = |at: Timestamp| at <= first + SEEN_WITHIN;
            // To nobody, packets are lost for whatever reason; as long as it is there, for others as
            // well.
            let since = match dropped_by(evidence) {
                DroppedBy::Other => ended.gone,
                _ => ended.since(),
            };
            since.is_some_and(has_begun)
        })
    }

    /// Whether a pod at an end was gone before the first of it was sent, so that its answers come to nobody;
    /// where it was dropped here, so long before that no filter goes by that pod any more.
    fn is_lost_after_end(&self) -> bool {
        let Fate::Dropped(evidence) = self.case.fate else { return false };
        let tail = match evidence.level() {
            EvidenceLevel::Unanswered => SignedDuration::ZERO,
            _ => SEEN_WITHIN,
        };
        let first = *evidence.latest().start();
        let gone = self.ending().and_then(|ended| ended.gone);
        gone.is_some_and(|gone| gone + tail <= first)
    }

    /// The end of the pod that holds an address, or of the one that held it last where nobody does.
    fn end_of(&self, end: &Endpoint) -> Option<Ended> {
        let address = end.address?;
        match &end.holder {
            Holder::Pod(pod) => self.snapshot.end_of(pod, address),
            Holder::Outside | Holder::Unknown(_) => {
                self.snapshot.formerly_at(address, self.case.at?)
            }
            _ => None,
        }
    }

    /// When the table of connections was full while a filter dropped packets.
    pub(super) fn table_full(&self, evidence: &Evidence) -> Option<&TableFull> {
        let full =
            self.snapshot.node_facts().table_full().filter(|full| full.covers(&evidence.span()));
        full.filter(|_| dropped_by(evidence) == DroppedBy::Filter)
    }

    /// Whether what a filter dropped is what conntrack found invalid: as many, and hardly any other.
    pub(super) fn invalid(&self, evidence: &Evidence) -> bool {
        let dropped = evidence.kernel_packets();
        let invalid = self.snapshot.node_facts().invalid_packets(&evidence.span());
        (dropped_by(evidence) == DroppedBy::Filter)
            && (dropped..=dropped + INVALID_OTHERS_MAX).contains(&invalid)
    }

    /// The kind that nothing had been heard of for longest, and for how many seconds.
    fn stalest(&self) -> Option<(Kind, i64)> {
        let at = self.case.at?;
        let stale = self.snapshot.sync().stale().iter();
        let ages = stale.map(|(kind, since)| (*kind, at.duration_since(*since).as_secs()));
        ages.filter(|(_, age)| *age > 0).max_by_key(|(_, age)| *age)
    }

    /// How sure the class is: what was seen, times what speaks against it.
    pub(super) fn confidence(&self, class: Class) -> (f64, Vec<String>) {
        let mut reasons = Vec::new();
        let mut because = |factor: f64, reason: &str| {
            reasons.push(reason.to_owned());
            factor
        };
        if class == Class::CannotTell {
            return (0.0, self.verdict.unknowns().map(ToString::to_string).collect());
        }
        let mut confidence = match self.case.fate {
            Fate::Asked | Fate::Policed => because(1.0, "computed from the objects given"),
            Fate::Answered => because(0.95, "an answer came back"),
            Fate::Dropped(evidence) => match (evidence.level(), dropped_by(evidence)) {
                (EvidenceLevel::Rejected, DroppedBy::Filter) => {
                    because(0.97, "a filter of this node rejected it")
                }
                (EvidenceLevel::Rejected, _) => {
                    because(0.7, "a rejection came back, and who sent it is unknown")
                }
                (EvidenceLevel::KernelDrop, DroppedBy::Filter) => {
                    because(0.97, "a filter of this node dropped it")
                }
                (EvidenceLevel::KernelDrop, DroppedBy::Other) => {
                    because(0.97, "this kernel says why it dropped it")
                }
                (EvidenceLevel::KernelDrop, _) => {
                    because(0.85, "this kernel dropped it without saying why")
                }
                (EvidenceLevel::Unanswered, _) if class.is_denial() => {
                    because(0.75, "nothing was dropped here: it was lost beyond this node")
                }
                // Of drops there is no other level.
                (_, _) => because(0.6, "no answer came, and nothing says why"),
            },
        };
        if let Some((kind, age_secs)) = self.stalest() {
            let reason = format!("{kind} objects are known as they were {age_secs} s before");
            confidence *= because(0.8, &reason);
        }
        if class.is_denial() {
            let direction = self.verdict.leading_denial();
            if direction.is_some_and(|d| self.verdict.direction(d).responsible().len() > 1) {
                confidence *= because(0.99, "several policies isolate the pod together");
            }
            if self.verdict.exempt.is_some() {
                confidence *=
                    because(0.9, "the specification exempts this traffic, and most CNIs do");
            }
            if self.verdict.unknowns().next().is_some() {
                confidence *= because(0.95, "the other direction is unknown");
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
