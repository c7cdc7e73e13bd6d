//! Writes records from what the core found out: those of an agent, and of a healer.

mod heal;
mod incident;

use std::collections::BTreeMap;

use jiff::Timestamp;
use whydrop_core::{
    cluster::Snapshot,
    correlate::{self, EvidenceLevel},
    diagnosis::{Class, Diagnosis},
    flow::Worked,
    incident::{IncidentId, JudgedDrop},
    judgement::{Attribution, Judgement},
    mute::{MutedBy, MutedCount},
    observation::Rejection,
    remedy::mark::Mark,
};

use crate::{
    convert::{cause_of, end_of, flow_of, remedy_of, verdict_of},
    record::Record,
    schema::{
        AgentKind, AgentRecord, AgentState, Cause, DropKind, DropRecord, Evidence, MutedDrops,
        Schema,
    },
    text,
};

pub use heal::HealReporter;

/// Writes the records of one agent.
#[derive(Clone, Debug)]
pub struct Reporter {
    /// Its node.
    pub node: String,
}

impl Reporter {
    /// A drop, judged.
    pub fn drop(&self, now: Timestamp, snapshot: &Snapshot, judged: &JudgedDrop) -> Record {
        let JudgedDrop { drop, judgement, worked, share, incident } = judged;
        // A delivery that policies deny is no drop, whatever became of it in the pod.
        let kind = match judgement.diagnosis.cause.class {
            Class::NotEnforced => DropKind::Finding,
            _ => DropKind::Drop,
        };
        let evidence = Evidence {
            needed_again: share.map_or(0, |share| share.needed_again),
            connects: share.and_then(|share| share.connects),
            ..evidence(snapshot, &drop.evidence, *worked)
        };
        let id = drop.id.to_string();
        Record::Drop(Box::new(DropRecord {
            kind,
            ..self.judged(now, id, *incident, judgement, evidence)
        }))
    }

    /// A flow that was answered although policies deny it.
    pub fn finding(&self, now: Timestamp, at: Timestamp, diagnosis: Diagnosis) -> Record {
        let evidence = Evidence {
            level: EvidenceLevel::Answered,
            reason: None,
            location: None,
            interface: None,
            attempts: 1,
            first: at.into(),
            last: at.into(),
            first_success: Some(at.into()),
            last_success: Some(at.into()),
            successes: 1,
            needed_again: 0,
            connects: None,
            rejection: None,
        };
        let judgement = Judgement { diagnosis, changed: Attribution::None, remedy: None };
        // All answers of one cause are one finding.
        let incident = IncidentId(judgement.diagnosis.incident());
        let record = self.judged(now, incident.to_string(), incident, &judgement, evidence);
        Record::Drop(Box::new(DropRecord { kind: DropKind::Finding, ..record }))
    }

    /// The agent's own state.
    pub fn agent(&self, now: Timestamp, state: AgentState) -> Record {
        Record::Agent(Box::new(AgentRecord {
            schema: Schema::V1,
            kind: AgentKind::Agent,
            time: now.into(),
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
        let source = end_of(&snapshot.resolve(folded.source, Some(folded.last)));
        let by = folded.sender.map(|index| {
            let interface = snapshot.node_facts().interface(index);
            interface.map_or_else(|| "this node".to_owned(), |it| it.name.to_string())
        });
        self.agent(
            now,
            AgentState::Folded {
                source,
                by,
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
        tallies: BTreeMap<MutedBy, MutedCount>,
    ) -> Record {
        let muted = tallies.into_iter().map(|(by, tally)| MutedDrops {
            by: by.kind().into(),
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
        self.agent(now, AgentState::Muted { since: since.into(), muted: muted.collect() })
    }

    /// The record of a flow.
    fn judged(
        &self,
        now: Timestamp,
        id: String,
        incident: IncidentId,
        judgement: &Judgement,
        evidence: Evidence,
    ) -> DropRecord {
        let Judgement { diagnosis, changed, remedy } = judgement;
        let flow = flow_of(diagnosis);
        // Of what this kernel did not drop, the agent on the pod's node sees more.
        let elsewhere = flow.destination.pod.is_some()
            && flow.destination.node.as_deref().is_some_and(|node| node != self.node);
        let incident = incident.to_string();
        let mark = Mark {
            incident: Some(incident.clone()),
            at: Some(now),
            command: Some(text::fix_by_id(&id)),
        };
        DropRecord {
            schema: Schema::V1,
            kind: DropKind::Drop,
            time: now.into(),
            id,
            node: self.node.clone(),
            primary: evidence.reason.is_some() || !elsewhere,
            flow,
            evidence,
            verdict: verdict_of(&diagnosis.verdict),
            cause: Cause {
                denied_since: judgement.denied_since().map(Into::into),
                ..cause_of(&diagnosis.cause, changed.lead())
            },
            // What policies would do next is no remedy of what kube-proxy does; the incident's plan has it.
            remedy: remedy
                .as_ref()
                .filter(|_| diagnosis.cause.by_kube_proxy().is_none())
                .map(|remedy| remedy_of(remedy, &mark)),
            incident,
        }
    }
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
        first: evidence.first().into(),
        last: evidence.last().into(),
        first_success: worked.map(|worked| worked.first.into()),
        last_success: worked.map(|worked| worked.last).max(evidence.answered).map(Into::into),
        successes: worked.map_or(0, |worked| worked.connections),
        needed_again: 0,
        connects: None,
        rejection: evidence.rejected.map(|rejection| match rejection {
            Rejection::Reset => "reset".to_owned(),
            Rejection::Icmp { v6: false, kind, code } => format!("icmp {kind}/{code}"),
            Rejection::Icmp { v6: true, kind, code } => format!("icmpv6 {kind}/{code}"),
        }),
    }
}
