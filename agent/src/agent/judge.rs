//! From what was observed to what is told: when a flow can be judged, and what waits for what.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use whydrop_core::{
    cluster::{
        Snapshot,
        resolve::{Endpoint, Holder},
    },
    correlate::{Correlated, Drop},
    diagnosis::{Case, Class, Diagnosis, Fate, diagnose, to_look_up},
    flow::Flow,
    incident::JudgedDrop,
    judgement::Judgement,
    mute::{MutedBy, muted, muted_source},
    verdict::Question,
};

use crate::{
    report::{Record, hubble::Pods},
    sink::{Outgoing, events::Note},
};

use super::{
    Agent,
    waiting::{Seeking, Waiting},
};

impl Agent {
    /// Judges what has become clear by now, and tells it.
    pub(super) fn judge(&mut self, now: Timestamp) {
        for correlated in self.correlator.tick(now) {
            self.take(correlated, now);
        }
        if let Some(since) = self.recheck.due(now) {
            match self.probe.successes.since(since) {
                Ok(answered) => {
                    for (flow, at) in answered {
                        self.judge_answer(flow, at, now);
                    }
                }
                Err(error) => self.degraded(&error),
            }
        }
        if !self.seekers.is_empty() {
            self.judge_found(now);
        }
        while let Some(waited) = self.waiting.leave(now) {
            self.judge_again(waited, now);
        }
    }

    /// Judges what waited for look-ups that have come back, or will not.
    fn judge_found(&mut self, now: Timestamp) {
        let snapshot = self.cluster.snapshot();
        let mut missing = Vec::new();
        let found = self.seekers.leave(now, |seeking| {
            let wanted = match seeking {
                Seeking::Drop(drop) => to_look_up(&snapshot, &case_of(drop), now),
                Seeking::Answer { flow, at } => {
                    to_look_up(&snapshot, &case_of_answer(*flow, *at), now)
                }
            };
            missing.extend_from_slice(&wanted);
            wanted.is_empty()
        });
        self.source.look_up(&snapshot, &missing, now);
        for seeking in found {
            match seeking {
                Seeking::Drop(drop) => self.judge_known_drop(drop, now),
                Seeking::Answer { flow, at } => self.judge_known_answer(flow, at, now),
            }
        }
    }

    pub(super) fn take(&mut self, correlated: Correlated, now: Timestamp) {
        match correlated {
            Correlated::Drop(drop) => self.judge_drop(drop, now),
            Correlated::Answered { flow, at } => self.judge_answer(flow, at, now),
            Correlated::Folded(folded) => {
                let snapshot = self.cluster.snapshot();
                // None of its flows was judged, so that only what is said of the source itself counts.
                if let Some(by) = muted_source(&snapshot, &self.mute, folded.source) {
                    self.write(Outgoing::Muted(by.0.clone()));
                    let example = folded.example.to_string();
                    return self.muted.add_folded(now, by, folded.packets, example);
                }
                self.write(self.reporter.folded(now, &snapshot, &folded));
            }
        }
    }

    /// Judges a drop once it is known who is at its ends.
    fn judge_drop(&mut self, drop: Drop, now: Timestamp) {
        self.watch_own_path(&drop, now);
        let diagnosis = diagnose(&self.cluster.snapshot(), &case_of(&drop));
        if !self.concerns_pods(&diagnosis, &drop) {
            return self.losses.of_no_pod(drop.untold_packets());
        }
        let unsought = if self.is_known(&case_of(&drop), now) {
            Some(drop)
        } else {
            match self.seekers.enter(now, Seeking::Drop(drop)) {
                Some(Seeking::Drop(drop)) => Some(drop),
                _ => None,
            }
        };
        if let Some(drop) = unsought {
            self.judge_known_drop(drop, now);
        }
    }

    /// Whether it is known who is at a flow's ends. If not, it is looked up.
    fn is_known(&mut self, case: &Case<'_>, now: Timestamp) -> bool {
        let snapshot = self.cluster.snapshot();
        let missing = to_look_up(&snapshot, case, now);
        self.source.look_up(&snapshot, &missing, now);
        missing.is_empty()
    }

    /// Tells a drop; one that policies do not explain waits, for they may be on their way.
    pub(super) fn judge_known_drop(&mut self, drop: Drop, now: Timestamp) {
        let diagnosis = diagnose(&self.cluster.snapshot(), &case_of(&drop));
        if matches!(diagnosis.cause.class, Class::OutOfSync | Class::NotPolicy | Class::CannotTell)
        {
            if let Some(unwaited) = self.waiting.enter(now, Waiting::Drop(drop)) {
                self.judge_again(unwaited, now);
            }
        } else {
            self.tell_drop(&drop, diagnosis, now);
        }
    }

    /// A flow was answered: if policies deny it, then the CNI does not enforce them, unless they
    /// are about to say otherwise.
    fn judge_answer(&mut self, flow: Flow, at: Timestamp, now: Timestamp) {
        let snapshot = self.cluster.snapshot();
        let case = case_of_answer(flow, at);
        // Without a policy over a pod of this node there is nothing to enforce here.
        let verdict = diagnose(&snapshot, &case).verdict;
        if verdict.egress.trace.is_empty() && verdict.ingress.trace.is_empty() {
            return;
        }
        if self.is_known(&case, now)
            || self.seekers.enter(now, Seeking::Answer { flow, at }).is_some()
        {
            self.judge_known_answer(flow, at, now);
        }
    }

    fn judge_known_answer(&mut self, flow: Flow, at: Timestamp, now: Timestamp) {
        let then = self.cluster.snapshot();
        if not_enforced(&then, flow, at).is_some() {
            let waiting = Waiting::Answer { flow, at, then: Box::new(then) };
            if let Some(unwaited) = self.waiting.enter(now, waiting) {
                self.judge_again(unwaited, now);
            }
        }
    }

    pub(super) fn judge_again(&mut self, waited: Waiting, now: Timestamp) {
        let snapshot = self.cluster.snapshot();
        match waited {
            Waiting::Drop(drop) => {
                let diagnosis = diagnose(&snapshot, &case_of(&drop));
                self.tell_drop(&drop, diagnosis, now);
            }
            Waiting::Answer { flow, at, then } => {
                let still = not_enforced(&snapshot, flow, at);
                let both = still.filter(|_| not_enforced(&then, flow, at).is_some());
                if let Some(diagnosis) = both.filter(|_| self.recheck.is_news(flow, now)) {
                    if let Some(by) = muted(&snapshot, &self.mute, &diagnosis) {
                        return self.mute(by, 0, diagnosis.question.to_string(), now);
                    }
                    let pods = Pods::of(&diagnosis.question);
                    let record = Arc::new(self.reporter.finding(now, at, diagnosis));
                    self.write(Outgoing::Record { record, pods });
                }
            }
        }
    }

    fn tell_drop(&mut self, drop: &Drop, diagnosis: Diagnosis, now: Timestamp) {
        if !diagnosis.is_reportable(&drop.evidence) {
            return self.losses.refused(drop.untold_packets());
        }
        let snapshot = self.cluster.snapshot();
        let last = self.last_success(drop, &diagnosis.question);
        let (history, case) = (self.cluster.history(), case_of(drop));
        let judgement = Judgement::in_hindsight(&snapshot, history, &case, diagnosis, last);
        if !judgement.diagnosis.is_reportable(&drop.evidence) {
            return self.losses.refused(drop.untold_packets());
        }
        if let Some(by) = muted(&snapshot, &self.mute, &judgement.diagnosis) {
            return self.mute_drop(by, drop, &judgement.diagnosis, now);
        }
        let judged = JudgedDrop { drop, judgement: &judgement, last_success: last };
        self.incidents.take(&judged, now);
        let record = self.reporter.drop(now, &snapshot, drop, &judgement, last);
        if let Record::Drop(record) = &record {
            self.note(Note::of(&judgement.diagnosis, record, now));
        }
        let pods = Pods::of(&judgement.diagnosis.question);
        self.write(Outgoing::Record { record: Arc::new(record), pods });
    }

    /// Counts a drop that is meant. What is to be told once it is not meant any more is another.
    fn mute_drop(
        &mut self,
        by: (MutedBy, Arc<str>),
        drop: &Drop,
        diagnosis: &Diagnosis,
        now: Timestamp,
    ) {
        self.incidents.mute(diagnosis, &drop.flow);
        self.correlator.conclude(&drop.flow);
        self.mute(by, drop.untold_packets(), diagnosis.question.to_string(), now);
    }

    fn mute(&mut self, by: (MutedBy, Arc<str>), packets: u64, flow: String, now: Timestamp) {
        self.write(Outgoing::Muted(by.0.clone()));
        self.muted.add(now, by, packets, flow);
    }

    /// Whether a pod is at either end: the kernel drops much else on a node that is none of ours.
    fn concerns_pods(&self, diagnosis: &Diagnosis, drop: &Drop) -> bool {
        let question = &diagnosis.question;
        let may_be_pod = |end: &Endpoint| match end.holder {
            Holder::Pod(_) => true,
            // Who is followed completely is known; who is not is a pod of this node only where the
            // kernel routes the address to a pod's interface.
            Holder::Unknown(_) => {
                self.source.is_complete()
                    || self.probe.interfaces.topology().interfaces(end.address).next().is_some()
                    || self.is_of_node(end.address)
            }
            _ => false,
        };
        drop.evidence.entered.is_some()
            || drop.evidence.delivered
            || may_be_pod(&question.source)
            || may_be_pod(&question.destination)
    }

    /// Whether an address lies in the pod network of this node.
    fn is_of_node(&self, address: IpAddr) -> bool {
        let snapshot = self.cluster.snapshot();
        let node = snapshot.node(&self.node);
        node.is_some_and(|node| node.pod_networks.iter().any(|network| network.contains(&address)))
    }

    /// When the flow, as dialled or as translated, last got an answer.
    ///
    /// One that is older than a pod was not this pod's: its address was another's then. What is
    /// behind a Service may change, and the Service was reached all the same.
    fn last_success(&self, drop: &Drop, question: &Question) -> Option<Timestamp> {
        let made = |end: &Endpoint| end.pod().and_then(|pod| pod.created);
        let (source, destination) = (made(&question.source), made(&question.destination));
        let dialled =
            drop.dialled.map(|(destination, port)| Flow { destination, port, ..drop.flow });
        let asked = [(Some(drop.flow), source.max(destination)), (dialled, source)];
        let mut last = None;
        for (flow, made) in asked.into_iter().filter_map(|(flow, made)| Some((flow?, made))) {
            match self.probe.successes.last(&flow) {
                Ok(success) => last = last.max(success.filter(|at| Some(*at) >= made)),
                Err(error) => self.degraded(&error),
            }
        }
        last
    }
}

/// An answered flow's diagnosis, if policies deny it.
fn not_enforced(snapshot: &Snapshot, flow: Flow, at: Timestamp) -> Option<Diagnosis> {
    let diagnosis = diagnose(snapshot, &case_of_answer(flow, at));
    (diagnosis.cause.class == Class::NotEnforced).then_some(diagnosis)
}

fn case_of_answer(flow: Flow, at: Timestamp) -> Case<'static> {
    Case { flow, dialled: None, at: Some(at), fate: Fate::Answered }
}

pub(super) fn case_of(drop: &Drop) -> Case<'_> {
    Case {
        flow: drop.flow,
        dialled: drop.dialled,
        at: Some(drop.evidence.last()),
        fate: Fate::Died(&drop.evidence),
    }
}
