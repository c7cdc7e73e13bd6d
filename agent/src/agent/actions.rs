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
    sink::{Outgoing, events::Note},
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
                tracing::info!("policies do not cut off this agent any more");
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
        match asked {
            Asked::Last(flows) => {
                let last = |flow| Some(Worked::once(self.read(successes.last(flow))?));
                flows.iter().filter_map(|flow| Some((*flow, last(flow)?))).collect()
            }
            Asked::Worked(flows) => {
                let worked = |flow, since| self.read(successes.worked(flow, since));
                flows
                    .iter()
                    .filter_map(|(flow, since)| Some((*flow, worked(flow, *since)?)))
                    .collect()
            }
            Asked::Since(time) => {
                let answers = self.read(successes.since(*time).map(Some)).unwrap_or_default();
                answers.into_iter().map(once).collect()
            }
            Asked::SinceOf(flows, time) => {
                let answers = self.read(successes.since_of(flows, *time).map(Some));
                answers.unwrap_or_default().into_iter().map(once).collect()
            }
        }
    }

    /// What was read, unless that failed, which is reported.
    fn read<T>(&self, read: Result<Option<T>, probe::Error>) -> Option<T> {
        read.unwrap_or_else(|error| {
            self.degraded(&error);
            None
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
                "connections of this node to the {what} ({address}) die: {how}; no policy over pods \
                 is known to deny it, and policies over nodes, as of host endpoints, are not read"
            )
        }
    }
}
