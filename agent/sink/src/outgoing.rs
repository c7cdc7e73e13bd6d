//! What the agent hands to its sinks.

use std::sync::Arc;

use whydrop_core::mute::MutedBy;

use super::{note::Note, reading::Reading};
use whydrop_report::{Record, hubble::Pods};

/// Something that the agent hands to every sink; each takes what concerns it.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// A record.
    Record {
        /// The record.
        record: Arc<Record>,
        /// The pods at the flow's ends, of a record with a flow: for forms that show more of them
        /// than the record holds.
        pods: Pods,
    },
    /// What a Kubernetes Event says about a denial that was reported.
    Note(Box<Note>),
    /// A drop or a finding was not reported, because this mutes it.
    Muted(MutedBy),
    /// All metrics of the agent and of its sinks, except those that count what else goes out.
    Readings(Arc<[Reading]>),
}

/// A record that there is nothing more to say about.
impl From<Record> for Outgoing {
    fn from(record: Record) -> Self {
        Self::Record { record: Arc::new(record), pods: Pods::default() }
    }
}

impl From<Note> for Outgoing {
    fn from(note: Note) -> Self {
        Self::Note(Box::new(note))
    }
}
