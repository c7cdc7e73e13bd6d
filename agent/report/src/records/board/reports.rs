//! Everything that nodes reported of one incident.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    drops::{DROPS_KEPT_MAX, ReportedDrop, Tracked, keep},
    node_state::NodeState,
};

/// What nodes reported of one incident: as an incident, and as its drops.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// By the nodes' names.
    pub(super) nodes: BTreeMap<String, NodeState>,
    /// By their ids, as far as they are kept whole.
    pub(super) drops: BTreeMap<String, ReportedDrop>,
    pub(super) tracked: Tracked,
}

impl Reports {
    pub(super) fn add_drop(&mut self, drop: ReportedDrop) {
        self.tracked.add(&drop);
        keep(&mut self.drops, drop, DROPS_KEPT_MAX);
    }

    /// Keeps what a node reports, unless it is older than what is known.
    pub(super) fn add_state(&mut self, state: NodeState) {
        match self.nodes.get_mut(&state.record().node) {
            Some(known) if state.weight() > known.weight() => *known = state,
            Some(_) => {}
            None => {
                self.nodes.insert(state.record().node.clone(), state);
            }
        }
    }

    /// When the last packet was dropped.
    pub(super) fn last(&self) -> Timestamp {
        let reported = self.nodes.values().map(|node| node.seen().1);
        reported.chain(self.drops.values().map(|drop| drop.seen().1)).max().unwrap_or_default()
    }
}
