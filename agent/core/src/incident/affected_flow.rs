//! A flow of an incident, and the pod that is affected by it.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    cluster::{Snapshot, object::Pod},
    flow::{Flow, Worked},
    verdict::Question,
};

/// A flow of an incident.
#[derive(Clone, Debug)]
pub(super) struct AffectedFlow {
    /// With its ends as they were when it was last judged.
    pub(super) question: Question,
    /// The same as it was dialled, where that differs.
    pub(super) dialled: Option<Flow>,
    /// The last sign that it was dropped.
    pub(super) dropped: Timestamp,
    /// When it last got an answer, before or since.
    pub(super) worked: Option<Timestamp>,
    /// Which of its connections were answered, when it was last judged.
    pub(super) answered: Option<Worked>,
    /// Since when it is denied at the least, as it was last judged.
    pub(super) denied_since: Option<Timestamp>,
    /// How often the containers of the affected pod had been restarted when it was first seen affected.
    pub(super) restarts_then: u64,
    /// It goes on, and is expected.
    pub(super) is_muted: bool,
}

impl AffectedFlow {
    pub(super) fn passes(&self) -> bool {
        self.worked.is_some_and(|worked| worked > self.dropped)
    }

    /// The affected pod as it is now, if it is still the same.
    pub(super) fn pod_now(&self, snapshot: &Snapshot) -> Option<AffectedPod> {
        let then = affected_pod(&self.question)?;
        let pod = snapshot.pod(&then.namespace, &then.name).filter(|now| now.uid == then.uid)?;
        // Without a status at the time nothing can be said of what has come since.
        let restarts_then = then.ready.is_some().then_some(self.restarts_then);
        Some(AffectedPod { pod: pod.clone(), restarts_then })
    }
}

/// The affected pod: the source, if it is one.
pub(super) fn affected_pod(question: &Question) -> Option<&Arc<Pod>> {
    question.source.pod().or(question.destination.pod())
}

/// An affected pod as it is now, and how often its containers had been restarted when it was first
/// seen affected.
pub(super) struct AffectedPod {
    pub(super) pod: Arc<Pod>,
    pub(super) restarts_then: Option<u64>,
}
