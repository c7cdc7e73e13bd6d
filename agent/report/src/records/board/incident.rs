//! An incident, as its nodes and its drops report it.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
};

use jiff::Timestamp;

use super::{
    activity::Activity, drops::ReportedDrop, node_state::NodeState, reports::Reports,
    summary::Summary,
};
use crate::incident::{HappenedKind, IncidentRecord, IncidentResolution, Severity};

/// How many of its turns are kept, the latest: an incident that comes back every minute for hours.
pub const MOMENTS_MAX: usize = 256;

/// One cause and all that is affected by it, by the records of all nodes.
#[derive(Debug)]
pub struct Incident {
    id: String,
    reports: Reports,
    /// Opened, resolved, reopened.
    turns: BTreeSet<Moment>,
    /// When a node first reported it as that severe.
    severities: BTreeMap<(String, Severity), Timestamp>,
    /// Computed when it is asked for, which is seldom beside how often records come.
    summary: OnceCell<Summary>,
}

/// A turn that an incident took.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// When it was reported.
    pub at: Timestamp,
    /// By which node's agent.
    pub node: String,
    /// What happened; `updated` where it became this severe for the first time on this node.
    pub happened: HappenedKind,
    /// How severe it was.
    pub severity: Severity,
    /// Why it was over.
    pub resolution: Option<IncidentResolution>,
}

impl Incident {
    pub(super) fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            reports: Reports::default(),
            turns: BTreeSet::new(),
            severities: BTreeMap::new(),
            summary: OnceCell::new(),
        }
    }

    /// Its name, the same on every node.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the reports of all nodes come to.
    pub fn summary(&self) -> &Summary {
        self.summary.get_or_init(|| Summary::of(&self.reports))
    }

    /// What each node last reported of it, by the nodes' names. Empty as long as there are only
    /// drops of it: it is reported some seconds after the first, and older logs may be cut off.
    pub fn nodes(&self) -> &BTreeMap<String, NodeState> {
        &self.reports.nodes
    }

    /// Its drops that are kept whole, by their ids: the
    /// [`DROPS_KEPT_MAX`](super::DROPS_KEPT_MAX) reported last.
    pub fn drops(&self) -> impl Iterator<Item = &ReportedDrop> {
        self.reports.drops.values()
    }

    /// A drop that is kept whole.
    pub fn drop(&self, id: &str) -> Option<&ReportedDrop> {
        self.reports.drops.get(id)
    }

    /// How many drops were reported and are not kept whole, as far as they are counted apart.
    pub fn drops_not_kept(&self) -> u64 {
        let Reports { drops, tracked, .. } = &self.reports;
        tracked.len() - drops.len() as u64 + tracked.untracked()
    }

    /// How many of its flows were dropped, minute by minute.
    pub fn activity(&self) -> &Activity {
        self.reports.tracked.activity()
    }

    /// The turns it took, in the order of time.
    pub fn moments(&self) -> Vec<Moment> {
        let worse = self.severities.iter().map(|((node, severity), at)| Moment {
            at: *at,
            node: node.clone(),
            happened: HappenedKind::Updated,
            severity: *severity,
            resolution: None,
        });
        // A turn says how severe it is itself.
        let is_turn = |moment: &Moment| {
            self.turns.iter().any(|turn| (turn.at, &turn.node) == (moment.at, &moment.node))
        };
        let mut moments: Vec<Moment> = worse.filter(|moment| !is_turn(moment)).collect();
        moments.extend(self.turns.iter().cloned());
        moments.sort();
        moments
    }

    /// When its last packet was dropped.
    pub(super) fn last(&self) -> Timestamp {
        self.reports.last()
    }

    pub(super) fn add_drop(&mut self, drop: ReportedDrop) {
        self.summary.take();
        self.reports.add_drop(drop);
    }

    pub(super) fn add_state(&mut self, state: NodeState) {
        self.summary.take();
        let IncidentRecord { node, happened, severity, resolution, .. } = state.record();
        let at = state.reported();
        let since = self.severities.entry((node.clone(), *severity)).or_insert(at);
        *since = at.min(*since);
        if *happened != HappenedKind::Updated {
            self.turns.insert(Moment {
                at,
                node: node.clone(),
                happened: *happened,
                severity: *severity,
                resolution: resolution.clone(),
            });
            if self.turns.len() > MOMENTS_MAX {
                self.turns.pop_first();
            }
        }
        self.reports.add_state(state);
    }

    /// Notes when the agent of a node last started or stopped.
    pub(super) fn agent_turned(&mut self, node: &str, at: Option<Timestamp>) {
        if let Some(state) = self.reports.nodes.get_mut(node) {
            self.summary.take();
            state.agent_turned(at);
        }
    }
}
