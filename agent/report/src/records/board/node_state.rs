//! What one node last reported of an incident.

use jiff::Timestamp;

use crate::incident::{HappenedKind, IncidentRecord};

/// Whether an incident goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// It is over.
    Resolved,
    /// It was open when its agent stopped or restarted: whether it still is, is unknown.
    Unfollowed,
    /// It goes on.
    Open,
}

/// What a node last reported of an incident.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeState {
    record: Box<IncidentRecord>,
    /// When the node's agent last started or stopped.
    agent_turned: Option<Timestamp>,
}

impl NodeState {
    pub(super) const fn new(record: Box<IncidentRecord>) -> Self {
        Self { record, agent_turned: None }
    }

    /// The record.
    pub fn record(&self) -> &IncidentRecord {
        &self.record
    }

    /// When it was written.
    pub fn reported(&self) -> Timestamp {
        self.record.time.into()
    }

    /// When the first and the last packet were dropped.
    pub fn seen(&self) -> (Timestamp, Timestamp) {
        (self.record.first.into(), self.record.last.into())
    }

    /// When one of the flows last got an answer.
    pub fn last_success(&self) -> Option<Timestamp> {
        self.record.last_success.map(Into::into)
    }

    /// Whether it goes on, by this node.
    pub fn status(&self) -> Status {
        if self.record.happened == HappenedKind::Resolved {
            Status::Resolved
        } else if self.agent_turned > Some(self.reported()) {
            Status::Unfollowed
        } else {
            Status::Open
        }
    }

    /// Notes when the node's agent last started or stopped.
    pub(super) fn agent_turned(&mut self, at: Option<Timestamp>) {
        self.agent_turned = self.agent_turned.max(at);
    }

    /// What decides between two records of a node: the later one, and of one moment the one that
    /// says most.
    pub(super) fn weight(&self) -> (Timestamp, u64, u64) {
        (self.reported(), self.record.drops.count, self.record.drops.packets)
    }
}
