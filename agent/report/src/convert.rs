//! From the core's values to records.

use std::collections::BTreeMap;

use jiff::Timestamp;
use whydrop_core::{
    cluster::{
        Snapshot,
        history::Change,
        resolve::{Endpoint, Holder},
    },
    correlate::{self, EvidenceLevel},
    diagnosis::{self, Class, Diagnosis, Dialled},
    flow::Worked,
    incident::JudgedDrop,
    judgement::{Attribution, Judgement},
    mute::{MutedBy, Tally},
    observation::Rejection,
    policy::{self, Policy},
    remedy, verdict,
};

use super::{
    AgentKind, AgentRecord, AgentState, Cause, Changed, DirectionVerdict, DropKind, DropRecord,
    End, Evidence, Flow, MutedDrops, NearestMiss, ObjectRef, Record, Remedy, RuleRef, Schema,
    Service, Verdict, Workload, yaml,
};

/// Writes the records of one agent.
#[derive(Clone, Debug)]
pub struct Reporter {
    /// Its node.
    pub node: String,
}

impl Reporter {
    /// A drop, judged.
    pub fn drop(&self, now: Timestamp, snapshot: &Snapshot, judged: &JudgedDrop) -> Record {
        let JudgedDrop { drop, judgement, worked } = judged;
        // A delivery that policies deny is no drop, whatever became of it in the pod.
        let kind = match judgement.diagnosis.cause.class {
            Class::NotEnforced => DropKind::Finding,
            _ => DropKind::Drop,
        };
        let evidence = evidence(snapshot, &drop.evidence, *worked);
        self.record(now, kind, drop.id.to_string(), judgement, evidence)
    }

    /// A flow that was answered although policies deny it.
    pub fn finding(&self, now: Timestamp, at: Timestamp, diagnosis: Diagnosis) -> Record {
        let evidence = Evidence {
            level: EvidenceLevel::Answered,
            reason: None,
            location: None,
            interface: None,
            attempts: 1,
            first: time(at),
            last: time(at),
            first_success: Some(time(at)),
            last_success: Some(time(at)),
            successes: 1,
            rejection: None,
        };
        let id = format!("{:016x}", diagnosis.incident());
        let judgement = Judgement { diagnosis, changed: Attribution::None, remedy: None };
        self.record(now, DropKind::Finding, id, &judgement, evidence)
    }

    /// The agent's own state.
    pub fn agent(&self, now: Timestamp, state: AgentState) -> Record {
        Record::Agent(Box::new(AgentRecord {
            schema: Schema::V1,
            kind: AgentKind::Agent,
            time: time(now),
            node: self.node.clone(),
            state,
        }))
    }

    /// Many flows of one source.
    pub fn folded(
        &self,
        now: Timestamp,
        snapshot: &Snapshot,
        folded: &correlate::Folded,
    ) -> Record {
        let source = end(&snapshot.resolve(folded.source, Some(folded.last)));
        self.agent(
            now,
            AgentState::Folded {
                source,
                attempts: folded.attempts,
                packets: folded.packets,
                example: folded.example.to_string(),
            },
        )
    }

    /// What was muted.
    pub fn muted(
        &self,
        now: Timestamp,
        since: Timestamp,
        tallies: BTreeMap<MutedBy, Tally>,
    ) -> Record {
        let muted = tallies.into_iter().map(|(by, tally)| MutedDrops {
            by: by.kind().to_string(),
            name: by.name(),
            kind: match &by {
                MutedBy::Policy(policy) => Some(policy.kind.name().to_owned()),
                MutedBy::Namespace(_) | MutedBy::Rule(_) => None,
            },
            reason: (!tally.reason.is_empty()).then(|| tally.reason.to_string()),
            reports: tally.reports,
            packets: tally.packets,
            example: tally.example,
        });
        self.agent(now, AgentState::Muted { since: time(since), muted: muted.collect() })
    }

    fn record(
        &self,
        now: Timestamp,
        kind: DropKind,
        id: String,
        judgement: &Judgement,
        evidence: Evidence,
    ) -> Record {
        let Judgement { diagnosis, changed, remedy } = judgement;
        let flow = flow_of(diagnosis);
        // Of what this kernel did not drop, the agent of the pod's node sees more.
        let elsewhere = flow.destination.pod.is_some()
            && flow.destination.node.as_deref().is_some_and(|node| node != self.node);
        Record::Drop(Box::new(DropRecord {
            schema: Schema::V1,
            kind,
            time: time(now),
            id,
            node: self.node.clone(),
            primary: evidence.reason.is_some() || !elsewhere,
            flow,
            evidence,
            verdict: verdict_of(&diagnosis.verdict),
            cause: Cause {
                denied_since: judgement.denied_since().map(time),
                ..cause_of(&diagnosis.cause, changed.lead())
            },
            remedy: remedy.as_ref().map(remedy_of),
            incident: format!("{:016x}", diagnosis.incident()),
        }))
    }
}

/// RFC 3339 in UTC, with microseconds.
pub(super) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// The flow of a diagnosis.
pub fn flow_of(diagnosis: &Diagnosis) -> Flow {
    let question = &diagnosis.question;
    let mut destination = end(&question.destination);
    destination.port = Some(question.port);
    destination.service = diagnosis.service.as_ref().map(|dialled| {
        let Dialled { service, address, port } = dialled;
        Service {
            namespace: service.namespace.to_string(),
            name: service.name.to_string(),
            ip: address.to_string(),
            port: *port,
        }
    });
    Flow { protocol: question.protocol.to_string(), source: end(&question.source), destination }
}

fn end(endpoint: &Endpoint) -> End {
    let mut end = End { ip: endpoint.address.to_string(), ..End::default() };
    match &endpoint.holder {
        Holder::Pod(pod) => {
            end.namespace = Some(pod.namespace.to_string());
            end.pod = Some(pod.name.to_string());
            end.node = pod.node.as_deref().map(str::to_owned);
            end.workload = pod.workload.as_ref().map(|workload| Workload {
                kind: workload.kind.to_string(),
                name: workload.name.to_string(),
            });
        }
        Holder::Node(node) => end.node = Some(node.name.to_string()),
        Holder::Service(_) | Holder::Outside | Holder::Unknown(_) => {}
    }
    end
}

fn evidence(
    snapshot: &Snapshot,
    evidence: &correlate::Evidence,
    worked: Option<Worked>,
) -> Evidence {
    let drops = evidence.kernel_drop();
    let interface = drops.and_then(|drops| snapshot.node_facts().interface(drops.interface));
    Evidence {
        level: evidence.level(),
        reason: drops.map(|drops| drops.reason.name.to_string()),
        location: drops.and_then(|drops| drops.location.as_deref()).map(str::to_owned),
        interface: interface.map(|interface| interface.name.to_string()),
        attempts: evidence.packets(),
        first: time(evidence.first()),
        last: time(evidence.last()),
        first_success: worked.map(|worked| time(worked.first)),
        last_success: worked.map(|worked| worked.last).max(evidence.answered).map(time),
        successes: worked.map_or(0, |worked| worked.connections),
        rejection: evidence.rejected.map(|rejection| match rejection {
            Rejection::Reset => "reset".to_owned(),
            Rejection::Icmp { v6: false, kind, code } => format!("icmp {kind}/{code}"),
            Rejection::Icmp { v6: true, kind, code } => format!("icmpv6 {kind}/{code}"),
        }),
    }
}

/// A verdict.
pub fn verdict_of(verdict: &verdict::Verdict) -> Verdict {
    Verdict {
        revision: verdict.revision,
        exempt: verdict.exempt,
        egress: direction_verdict(&verdict.egress),
        ingress: direction_verdict(&verdict.ingress),
    }
}

fn direction_verdict(verdict: &verdict::DirectionVerdict) -> DirectionVerdict {
    DirectionVerdict {
        decision: verdict.decision,
        layer: verdict.layer.as_ref().map(policy::Layer::kind),
        tier: match &verdict.layer {
            Some(policy::Layer::Tier(name)) => Some(name.to_string()),
            _ => None,
        },
        isolating: verdict.isolating.iter().map(|policy| policy_ref(&policy.reference)).collect(),
        allowed_by: verdict.allowed_by.iter().map(rule_ref).collect(),
        denied_by: verdict.denied_by.as_ref().map(rule_ref),
        would_deny: verdict.would_deny.iter().map(|policy| policy_ref(&policy.reference)).collect(),
    }
}

pub(super) fn policy_ref(reference: &policy::PolicyRef) -> ObjectRef {
    ObjectRef {
        kind: reference.kind.to_string(),
        namespace: reference.namespace.as_deref().map(str::to_owned),
        name: reference.name.to_string(),
        uid: None,
    }
}

fn policy_in_full(policy: &Policy) -> ObjectRef {
    let uid = policy.uid.as_deref().map(str::to_owned);
    ObjectRef { uid, ..policy_ref(&policy.reference) }
}

fn rule_ref(rule: &policy::RuleRef) -> RuleRef {
    RuleRef { policy: policy_ref(&rule.policy), rule: rule.rule }
}

/// A cause, and the change that made it so.
pub fn cause_of(cause: &diagnosis::Cause, changed: Option<&Change>) -> Cause {
    Cause {
        class: cause.class.name().to_owned(),
        direction: cause.direction,
        situation: cause.situation.map(diagnosis::Situation::kind),
        policy: cause.policy.as_deref().map(policy_in_full),
        nearest_miss: cause.nearest_miss.as_ref().map(|miss| NearestMiss {
            policy: policy_ref(&miss.rule.policy),
            rule: miss.rule.rule,
            wanted: miss.wanted.clone(),
            found: miss.found.clone(),
        }),
        changed: changed.map(changed_of),
        denied_since: None,
        confidence: cause.confidence,
        reasons: cause.reasons.clone(),
        text: cause.text.clone(),
    }
}

/// A change.
pub(super) fn changed_of(change: &Change) -> Changed {
    Changed {
        object: ObjectRef {
            kind: change.object.kind.to_string(),
            namespace: change.object.namespace.as_deref().map(str::to_owned),
            name: change.object.name.to_string(),
            uid: None,
        },
        change: change.kind.name().to_owned(),
        difference: change.difference.as_deref().map(str::to_owned),
        at: time(change.at),
    }
}

/// A remedy.
pub fn remedy_of(remedy: &remedy::Remedy) -> Remedy {
    Remedy {
        summary: remedy.summary.clone(),
        manifest: yaml::documents(&remedy.policies),
        verified: remedy.verified,
        newly_allowed: remedy.newly_allowed,
    }
}
