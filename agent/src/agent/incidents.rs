//! Incidents: what the drops of one cause come to, followed until it is over.

use std::collections::{HashSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use whydrop_core::{
    flow::Flow,
    incident::{GATHER, IncidentId},
};

use super::Agent;
use crate::{report::text::short, sink::events::Note};

/// How much further back than the last turn answers are looked for: a turn may be late, and a drop
/// that opens an incident is judged some seconds after the fact.
const LOOK_BACK: SignedDuration = SignedDuration::from_secs(30);

/// How long a note waits for its incident to be told, so that it can say how bad it is: an Event
/// cannot be changed (`ValidateEventUpdate` in Kubernetes' `pkg/apis/core/validation`).
const TOLD_WITHIN: SignedDuration = SignedDuration::from_secs(GATHER.as_secs() + 2);

/// How many notes wait at most (about 1 kB each): as many as wait for the API server after that.
const NOTES_MAX: usize = 256;

/// Notes that wait for their incidents, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Notes {
    waiting: VecDeque<Note>,
}

impl Agent {
    /// Asks the kernel which flows of open incidents work again, and tells what has become of each.
    pub(super) fn follow_incidents(&mut self, now: Timestamp) {
        let unanswered: Vec<(Flow, Option<Flow>)> =
            self.incidents.unanswered().map(|(flow, dialled)| (*flow, dialled.copied())).collect();
        let asked: HashSet<Flow> = unanswered
            .iter()
            .flat_map(|(flow, dialled)| [Some(*flow), *dialled])
            .flatten()
            .collect();
        match self.probe.successes.since_of(&asked, now - LOOK_BACK) {
            Ok(answered) => {
                for (flow, dialled) in &unanswered {
                    for asked in [Some(flow), dialled.as_ref()].into_iter().flatten() {
                        if let Some(at) = answered.get(asked) {
                            self.incidents.answered(flow, *at);
                        }
                    }
                }
            }
            Err(error) => self.degraded(&error),
        }
        let snapshot = self.cluster.snapshot();
        let wanted = self.incidents.to_look_up(&snapshot, now);
        self.source.look_up(&snapshot, &wanted, now);
        for change in self.incidents.tick(&snapshot, now) {
            self.write(self.reporter.incident(now, &change));
        }
        self.hand_on_notes(now);
    }

    /// Takes a note, if there is one: it is handed on once its incident is reported. Where there is no
    /// room, the oldest goes at once.
    pub(super) fn note(&mut self, note: Option<Note>) {
        self.notes.waiting.extend(note);
        if self.notes.waiting.len() > NOTES_MAX
            && let Some(oldest) = self.notes.waiting.pop_front()
        {
            self.hand_on(oldest);
        }
    }

    /// Hands on the notes whose incidents are told by now, or that have waited long enough.
    pub(super) fn hand_on_notes(&mut self, now: Timestamp) {
        let is_due = |note: &Note| {
            self.incidents.severity(IncidentId(note.incident)).is_some()
                || now.duration_since(note.at) >= TOLD_WITHIN
        };
        let (due, waiting): (VecDeque<Note>, _) = self.notes.waiting.drain(..).partition(is_due);
        self.notes.waiting = waiting;
        for note in due {
            self.hand_on(note);
        }
    }

    fn hand_on(&self, mut note: Note) {
        let id = IncidentId(note.incident);
        let name = short(&id.to_string());
        note.text = match self.incidents.severity(id) {
            Some(severity) => format!("{severity} incident {name}: {}", note.text),
            None => format!("incident {name}: {}", note.text),
        };
        self.write(note);
    }
}
