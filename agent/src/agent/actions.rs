//! Carrying out what the docket decides.

use std::sync::Arc;

use jiff::Timestamp;
use whydrop_core::{
    docket::{Action, Asked, CutBy},
    flow::{Flow, Worked},
    own_path::{self, Destination},
};

use super::Agent;
use crate::{
    probe,
    report::{Record, hubble::Pods},
    sink::{Note, Outgoing},
};

impl Agent {
    /// Carries actions out in their order, each with all that follows from it.
    pub(super) fn carry_out(&mut self, actions: impl IntoIterator<Item = Action>, now: Timestamp) {
        for action in actions {
            self.carry_out_one(action, now);
        }
    }

    fn carry_out_one(&mut self, action: Action, now: Timestamp) {
        match action {
            Action::LookUp(all) => self.source.look_up(&self.cluster.snapshot(), &all, now),
            Action::AskLastAnswers(query) => {
                let answers = self.last_answers(&query.asked);
                let actions = self.docket.last_answers(query, &answers, &self.cluster, now);
                self.carry_out(actions, now);
            }
            Action::Drop(judged) => {
                let pods = Pods::of(&judged.judgement.diagnosis.question);
                let record = self.reporter.drop(now, &self.cluster.snapshot(), &judged);
                self.write_record(record, pods);
            }
            Action::Finding { at, diagnosis } => {
                let pods = Pods::of(&diagnosis.question);
                self.write_record(self.reporter.finding(now, at, *diagnosis), pods);
            }
            Action::Folded(folded) => {
                self.write(self.reporter.folded(now, &self.cluster.snapshot(), &folded));
            }
            Action::Muted(by) => self.write(Outgoing::Muted(by)),
            Action::MutedSoFar { since, tallies } => {
                self.write(self.reporter.muted(now, since, tallies));
            }
            Action::Incident(change) => self.write(self.reporter.incident(now, &change)),
            Action::Note(note) => self.write(Note::of(&note)),
            Action::CutOff { destination, by } => self.degraded(&cut_off(&destination, &by)),
            Action::Reconnected => {
                tracing::info!("policies no longer cut off this agent");
                self.report_ready();
            }
        }
    }

    fn write_record(&self, record: Record, pods: Pods) {
        self.write(Outgoing::Record { record: Arc::new(record), pods });
    }

    /// What the kernel's table has, and the agent before this one knew; nothing, where that cannot be
    /// read.
    fn last_answers(&self, asked: &Asked) -> Vec<(Flow, Worked)> {
        let successes = &self.probe.successes;
        let once = |(flow, at)| (flow, Worked::once(at));
        let answers: Result<Vec<_>, probe::Error> = match asked {
            Asked::Last(flows) => {
                successes.last_of(flows).map(|last| last.into_iter().map(once).collect())
            }
            Asked::Worked(flows) => successes.worked_of(flows.iter().copied()),
            Asked::Since(time) => {
                successes.since(*time).map(|answers| answers.into_iter().map(once).collect())
            }
            Asked::SinceOf(flows, time) => {
                let answers = successes.since_of(flows, *time);
                answers.map(|answers| answers.into_iter().map(once).collect())
            }
        };
        answers.unwrap_or_else(|error| {
            self.failed(&error);
            Vec::new()
        })
    }
}

/// What cuts the agent off, and from what.
fn cut_off(destination: &Destination, by: &CutBy) -> String {
    let Destination { what, address } = destination;
    match by {
        CutBy::Policies(diagnosis) => own_path::words(diagnosis, what, *address),
        CutBy::Unexplained { dropped } => {
            let how = match dropped {
                Some(reason) => format!("this kernel dropped them ({})", reason.name),
                None => "nothing answers".to_owned(),
            };
            format!(
                "connections of this node to the {what} ({address}) are dropped: {how}; no known \
                 policy for pods denies them, and policies for nodes, such as those of host \
                 endpoints, are not read"
            )
        }
    }
}
