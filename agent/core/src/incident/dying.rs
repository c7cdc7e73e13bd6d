//! A flow of an incident, and the pod that suffers by it.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    cluster::{Snapshot, object::Pod},
    flow::{Flow, Worked},
    verdict::Question,
};

/// A flow of an incident.
#[derive(Clone, Debug)]
pub(super) struct Dying {
    /// With its ends as they were when it was last judged.
    pub(super) question: Question,
    /// The same as it was dialled, where that differs.
    pub(super) dialled: Option<Flow>,
    /// The last sign of its dying.
    pub(super) died: Timestamp,
    /// When it last got an answer, before or since.
    pub(super) worked: Option<Timestamp>,
    /// Which of its connections were answered, when it was last judged.
    pub(super) answered: Option<Worked>,
    /// Since when it is denied at the least, as it was last judged.
    pub(super) denied_since: Option<Timestamp>,
    /// How often the containers of the pod that suffers had been restarted when it was first seen to.
    pub(super) restarts_then: u64,
    /// It goes on, and is meant to.
    pub(super) is_muted: bool,
}

impl Dying {
    pub(super) fn passes(&self) -> bool {
        self.worked.is_some_and(|worked| worked > self.died)
    }

    /// The pod that suffers as it is now, if it is still the same.
    pub(super) fn sufferer(&self, snapshot: &Snapshot) -> Option<Sufferer> {
        let then = suffers(&self.question)?;
        let pod = snapshot.pod(&then.namespace, &then.name).filter(|now| now.uid == then.uid)?;
        // Without a status at the time nothing can be said of what has come since.
        let restarts_then = then.ready.is_some().then_some(self.restarts_then);
        Some(Sufferer { pod: pod.clone(), restarts_then })
    }
}

/// The pod that suffers: whoever connects, if it is one.
pub(super) fn suffers(question: &Question) -> Option<&Arc<Pod>> {
    question.source.pod().or(question.destination.pod())
}

/// A pod that suffers, as it is now, and how often its containers had been restarted when it was
/// first seen to.
pub(super) struct Sufferer {
    pub(super) pod: Arc<Pod>,
    pub(super) restarts_then: Option<u64>,
}
