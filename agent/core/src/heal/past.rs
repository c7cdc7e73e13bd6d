//! What is known of the time before a flow was denied, and whether that is ground to put it back.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{Refusal, SETTLE};
use crate::flow::{Flow, Worked};

/// A flow must have worked over this many connections: one answer may be an accident, or the first
/// that somebody has tried.
pub const CONNECTIONS_MIN: u64 = 2;

/// Agents that report one flow: those of its two ends' nodes, and as many more for a pod that has
/// moved.
const AGENTS_MAX: usize = 4;

/// What an agent knows of the time before a flow was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowPast {
    /// Which of its connections were answered.
    pub worked: Option<Worked>,
    /// Since when it is denied, at the least.
    pub denied_since: Option<Timestamp>,
}

/// What the agents know of the time before a flow was denied, by their nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past(BTreeMap<Arc<str>, FlowPast>);

impl Past {
    /// What one agent says.
    pub fn of(node: Arc<str>, past: FlowPast) -> Self {
        Self(BTreeMap::from([(node, past)]))
    }

    /// Adds what an agent says by now; whether that is something else than before.
    pub fn add(&mut self, node: Arc<str>, past: FlowPast) -> bool {
        if self.0.len() >= AGENTS_MAX && !self.0.contains_key(&node) {
            self.0.clear();
        }
        self.0.insert(node, past) != Some(past)
    }

    /// Since when it is denied, by all of them: the earliest, where all know.
    pub(super) fn denied_since(&self) -> Option<Timestamp> {
        let all: Option<Vec<_>> = self.0.values().map(|past| past.denied_since).collect();
        all?.into_iter().min()
    }

    /// Whether the flow worked before it was denied, as the agents of these nodes saw: over more than
    /// one connection and for so long, and not only since. What one agent has not seen another may
    /// have; what one says is older, is older.
    ///
    /// # Errors
    /// That it did not, or that it is not known.
    pub fn worked_before(
        &self,
        flow: Flow,
        min_worked: SignedDuration,
        is_of: impl Fn(&str) -> bool,
    ) -> Result<(), Refusal> {
        let past: Vec<&FlowPast> =
            self.0.iter().filter(|(node, _)| is_of(node)).map(|(_, past)| past).collect();
        let worked = past.iter().filter_map(|past| past.worked).reduce(Worked::or);
        let worked = worked.ok_or(Refusal::NeverWorked(flow))?;
        let connections = worked.connections;
        if connections < CONNECTIONS_MIN {
            return Err(Refusal::WorkedTooLittle { flow, connections });
        }
        // All have to know, and the earliest time counts.
        let denied_since: Option<Vec<_>> = past.iter().map(|past| past.denied_since).collect();
        let denied_since = denied_since.and_then(|all| all.into_iter().min());
        let Worked { first, last, .. } = worked;
        let denied_since =
            denied_since.ok_or(Refusal::DenialOfUnknownAge { flow, worked: last })?;
        if first >= denied_since || last > denied_since + SETTLE {
            return Err(Refusal::DenialOlder { flow, worked: last, denied_since });
        }
        let lasted = last.min(denied_since).duration_since(first);
        match lasted < min_worked {
            true => Err(Refusal::WorkedTooShort { flow, lasted, min: min_worked }),
            false => Ok(()),
        }
    }
}
