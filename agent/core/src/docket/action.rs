//! What the docket wants done, and what it hands out for it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;

use crate::{
    cluster::{look_up::Query, object::Pod},
    correlate::{Drop, Folded},
    diagnosis::Diagnosis,
    flow::Flow,
    incident::{IncidentChange, IncidentId, JudgedDrop, Severity},
    judgement::Diagnosed,
    mute::{MutedBy, MutedCount},
    observation::{DropReason, Observation},
    own_path::Destination,
};

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Action {
    /// Look these up. What comes of it shows in the cluster.
    LookUp(Vec<Query>),
    /// Ask the kernel's table of last answers, and report back before the next action is done: see
    /// [`super::Docket::last_answers`].
    AskLastAnswers(AnswersQuery),
    /// Report a drop.
    Drop(Arc<JudgedDrop>),
    /// Report a flow that was answered although policies deny it.
    Finding {
        /// When it was answered.
        at: Timestamp,
        /// What denies it.
        diagnosis: Box<Diagnosis>,
    },
    /// Report the attempts of one source to more flows than are kept apart.
    Folded(Folded),
    /// Count a drop or finding that is not reported, since it is expected.
    Muted(MutedBy),
    /// Report what was muted.
    MutedSoFar {
        /// Since when it was counted.
        since: Timestamp,
        /// By what muted it.
        tallies: BTreeMap<MutedBy, MutedCount>,
    },
    /// Report what became of an incident.
    Incident(Box<IncidentChange>),
    /// Say on the pod that a policy denies it something.
    Note(Note),
    /// Report that the agent is cut off from something that it must reach.
    CutOff {
        /// From what.
        destination: Destination,
        /// By what.
        by: CutBy,
    },
    /// Report that policies cut the agent off from less than before.
    Reconnected,
}

/// What an Event says of a denial.
#[derive(Clone, Debug)]
pub struct Note {
    /// The pod that is affected: the one that connects, or the one that the kubelet cannot probe.
    pub pod: Arc<Pod>,
    /// The denial.
    pub judged: Arc<JudgedDrop>,
    /// The incident that it belongs to.
    pub incident: IncidentId,
    /// How bad that is; `None`: it is not reported yet.
    pub severity: Option<Severity>,
    /// When it was judged.
    pub at: Timestamp,
}

/// What cuts the agent off.
#[derive(Debug)]
pub enum CutBy {
    /// Policies deny it.
    Policies(Box<Diagnosis>),
    /// Connections of this node to it go unanswered, though no policy over pods is known to deny it.
    Unexplained {
        /// Why this kernel dropped them, where it did.
        dropped: Option<DropReason>,
    },
}

/// Something that the kernel's table of last answers is asked, and what waits for the answer.
#[derive(Debug)]
pub struct AnswersQuery {
    /// What is asked.
    pub asked: Asked,
    pub(super) then: Then,
}

/// What the kernel's table of last answers is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// When each of these flows was last answered.
    Last(Vec<Flow>),
    /// Which connections of each of these flows were answered at this time or later; ever, where
    /// there is none.
    Worked(Vec<(Flow, Option<Timestamp>)>),
    /// Which flows were answered at this time or later, and when.
    Since(Timestamp),
    /// Which of these flows were.
    SinceOf(HashSet<Flow>, Timestamp),
}

/// What goes on with the answer.
#[derive(Debug)]
pub(super) enum Then {
    /// The next attempt of a flow that is open, which may have worked in between.
    Observe(Box<Observation>),
    /// A drop is decided.
    Decide { drop: Box<Drop>, diagnosed: Box<Diagnosed> },
    /// Flows that work are examined again after policies changed.
    Recheck,
    /// The flows of open incidents, each as dialled as well where that differs.
    FollowIncidents(Vec<(Flow, Option<Flow>)>),
}
