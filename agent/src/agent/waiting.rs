//! Judgements that wait a moment for the cluster's snapshot to catch up with the packets.
//!
//! A packet is seen in microseconds; the policy that stopped it, or let it through, may reach the
//! agent a second later. What would accuse the network plugin waits that long.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use whydrop_core::{cluster::Snapshot, correlate::Drop, flow::Flow};

/// How long to wait: a watch delivers within a second of the API server's own clock, a folder of
/// manifests within a fraction of it; twice that.
const CATCH_UP: SignedDuration = SignedDuration::from_secs(2);

/// How long to wait until who holds an address has been looked up: what one look-up may take, and
/// another one for a Service's backends.
const LOOK_UP: SignedDuration = SignedDuration::from_secs(4);

/// How many wait at most (about 1 kB each); beyond it they are judged at once.
pub(super) const WAITING_MAX: usize = 1024;

/// Something to be judged later.
#[derive(Debug)]
pub(super) enum Waiting {
    /// A drop that policies did not explain when it was seen.
    Drop(Drop),
    /// An answer, and the cluster as it was known when it came.
    Answer { flow: Flow, at: Timestamp, then: Box<Snapshot> },
}

/// What waits for an address to be looked up.
#[derive(Debug)]
pub(super) enum Seeking {
    /// A drop.
    Drop(Drop),
    /// An answer.
    Answer { flow: Flow, at: Timestamp },
}

/// Everything that waits for look-ups.
#[derive(Debug, Default)]
pub(super) struct Seekers {
    seeking: Vec<(Timestamp, Seeking)>,
}

impl Seekers {
    /// Lets something wait; given back where there is no room.
    pub(super) fn enter(&mut self, now: Timestamp, seeking: Seeking) -> Option<Seeking> {
        if self.seeking.len() >= WAITING_MAX {
            return Some(seeking);
        }
        self.seeking.push((now + LOOK_UP, seeking));
        None
    }

    /// Those that have found everything, or have waited long enough.
    pub(super) fn leave(
        &mut self,
        now: Timestamp,
        mut is_found: impl FnMut(&Seeking) -> bool,
    ) -> Vec<Seeking> {
        let done = self.seeking.extract_if(.., |(due, seeking)| *due <= now || is_found(seeking));
        done.map(|(_, seeking)| seeking).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seeking.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.seeking.len()
    }
}

/// What waits, in the order in which it is due.
#[derive(Debug, Default)]
pub(super) struct WaitingRoom {
    waiting: VecDeque<(Timestamp, Waiting)>,
}

impl WaitingRoom {
    /// Lets something wait; given back where there is no room.
    pub(super) fn enter(&mut self, now: Timestamp, waiting: Waiting) -> Option<Waiting> {
        if self.waiting.len() >= WAITING_MAX {
            return Some(waiting);
        }
        self.waiting.push_back((now + CATCH_UP, waiting));
        None
    }

    /// The next that has waited long enough.
    pub(super) fn leave(&mut self, now: Timestamp) -> Option<Waiting> {
        let (due, _) = self.waiting.front()?;
        if *due > now {
            return None;
        }
        self.waiting.pop_front().map(|(_, waiting)| waiting)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// When the next will have waited long enough.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.waiting.front().map(|(due, _)| *due)
    }
}
