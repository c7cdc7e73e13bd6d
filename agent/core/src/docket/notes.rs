//! Notes that wait for their incidents, so that they can say how bad it is: an Event cannot be
//! changed (`ValidateEventUpdate` in Kubernetes' `pkg/apis/core/validation`).

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

use super::action::Note;
use crate::incident::{GATHER, IncidentBook};

/// How long a note waits for its incident to be reported: as long as that gathers drops, and two
/// turns.
const REPORTED_WITHIN: SignedDuration = SignedDuration::from_secs(GATHER.as_secs() + 2);

/// How many notes wait: as many as wait for a slow API server after that.
const NOTES_MAX: usize = 256;

/// In the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Notes {
    waiting: VecDeque<Note>,
}

impl Notes {
    /// Lets a note wait. Where too many do, the oldest is returned, to be written at once.
    pub(super) fn push(&mut self, note: Note) -> Option<Note> {
        self.waiting.push_back(note);
        if self.waiting.len() > NOTES_MAX { self.waiting.pop_front() } else { None }
    }

    /// Those whose incidents are reported by now, or that have waited long enough.
    pub(super) fn due(&mut self, incidents: &IncidentBook, now: Timestamp) -> Vec<Note> {
        let is_due = |note: &Note| {
            incidents.severity(note.incident).is_some()
                || now.duration_since(note.at) >= REPORTED_WITHIN
        };
        let (due, waiting) = self.waiting.drain(..).partition(is_due);
        self.waiting = waiting;
        due.into()
    }

    /// All of them.
    pub(super) fn take(&mut self) -> Vec<Note> {
        self.waiting.drain(..).collect()
    }
}
