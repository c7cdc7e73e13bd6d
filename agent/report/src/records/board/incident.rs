//! An incident, as its nodes and its drops tell it.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
};

use jiff::Timestamp;

use super::{
    activity::Activity,
    drops::{DROPS_KEPT_MAX, ToldDrop, Tracked, keep},
    merge::Summary,
    parse_time,
};
use crate::incident::{HappenedKind, IncidentRecord, IncidentResolution, Severity};

/// How many of its turns are kept, the latest: an incident that comes back every minute for hours.
pub const MOMENTS_MAX: usize = 256;

/// One cause and all that suffers by it, as the records of all nodes tell.
#[derive(Debug)]
pub struct Incident {
    id: String,
    nodes: BTreeMap<String, NodeState>,
    drops: BTreeMap<String, ToldDrop>,
    tracked: Tracked,
    /// Opened, resolved, reopened.
    turns: BTreeSet<Moment>,
    /// When a node first told it as that severe.
    severities: BTreeMap<(String, Severity), Timestamp>,
    /// Computed when it is asked for, which is seldom beside how often records come.
    summary: OnceCell<Summary>,
}

/// Whether an incident goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// It is over.
    Resolved,
    /// It was open when its agent stopped or began anew: whether it still is, nobody says.
    Unfollowed,
    /// It goes on.
    Open,
}

/// What a node told last of an incident.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeState {
    record: Box<IncidentRecord>,
    told: Timestamp,
    seen: (Timestamp, Timestamp),
    last_success: Option<Timestamp>,
    /// When the node's agent last began or stopped.
    turned: Option<Timestamp>,
}

/// A turn that an incident took.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// When it was told.
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

impl NodeState {
    pub(super) fn new(record: Box<IncidentRecord>) -> Result<Self, String> {
        let success = record.last_success.as_deref();
        Ok(Self {
            told: parse_time("time", &record.time)?,
            seen: (parse_time("first", &record.first)?, parse_time("last", &record.last)?),
            last_success: success.map(|at| parse_time("last_success", at)).transpose()?,
            turned: None,
            record,
        })
    }

    /// The record.
    pub fn record(&self) -> &IncidentRecord {
        &self.record
    }

    /// When it was written.
    pub fn told(&self) -> Timestamp {
        self.told
    }

    /// When the first and the last packet died.
    pub fn seen(&self) -> (Timestamp, Timestamp) {
        self.seen
    }

    /// When one of the flows last got an answer.
    pub fn last_success(&self) -> Option<Timestamp> {
        self.last_success
    }

    /// Whether it goes on, by this node.
    pub fn status(&self) -> Status {
        if self.record.happened == HappenedKind::Resolved {
            Status::Resolved
        } else if self.turned > Some(self.told) {
            Status::Unfollowed
        } else {
            Status::Open
        }
    }
}

impl Incident {
    pub(super) fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            nodes: BTreeMap::new(),
            drops: BTreeMap::new(),
            tracked: Tracked::default(),
            turns: BTreeSet::new(),
            severities: BTreeMap::new(),
            summary: OnceCell::new(),
        }
    }

    /// Its name, the same on every node.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What all nodes together tell of it.
    pub fn summary(&self) -> &Summary {
        self.summary.get_or_init(|| Summary::of(self))
    }

    /// What each node told last of it, by the nodes' names. Empty as long as only drops tell of it:
    /// it is told some seconds after the first, and older logs may be cut off.
    pub fn nodes(&self) -> &BTreeMap<String, NodeState> {
        &self.nodes
    }

    /// Its drops that are kept whole, by their ids: the [`DROPS_KEPT_MAX`] told last.
    pub fn drops(&self) -> impl Iterator<Item = &ToldDrop> {
        self.drops.values()
    }

    /// A drop that is kept whole.
    pub fn drop(&self, id: &str) -> Option<&ToldDrop> {
        self.drops.get(id)
    }

    /// How many drops were told and are not kept whole, as far as they are told apart.
    pub fn drops_let_go(&self) -> u64 {
        self.tracked.len() - self.drops.len() as u64 + self.tracked.untracked()
    }

    /// How many of its flows were dying, minute by minute.
    pub fn activity(&self) -> &Activity {
        self.tracked.activity()
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

    /// When its last packet died.
    pub(super) fn last(&self) -> Timestamp {
        let told = self.nodes.values().map(|node| node.seen.1);
        told.chain(self.drops.values().map(|drop| drop.seen().1)).max().unwrap_or_default()
    }

    pub(super) fn tracked(&self) -> &Tracked {
        &self.tracked
    }

    pub(super) fn take_drop(&mut self, drop: ToldDrop) {
        self.summary.take();
        self.tracked.add(&drop);
        keep(&mut self.drops, drop, DROPS_KEPT_MAX);
    }

    pub(super) fn take_told(&mut self, told: NodeState) {
        self.summary.take();
        let IncidentRecord { node, happened, severity, resolution, .. } = &*told.record;
        let since = self.severities.entry((node.clone(), *severity)).or_insert(told.told);
        *since = told.told.min(*since);
        if *happened != HappenedKind::Updated {
            self.turns.insert(Moment {
                at: told.told,
                node: node.clone(),
                happened: *happened,
                severity: *severity,
                resolution: resolution.clone(),
            });
            if self.turns.len() > MOMENTS_MAX {
                self.turns.pop_first();
            }
        }
        match self.nodes.get_mut(node) {
            Some(known) if told.weight() > known.weight() => *known = told,
            Some(_) => {}
            None => {
                self.nodes.insert(node.clone(), told);
            }
        }
    }

    pub(super) fn agent_turned(&mut self, node: &str, at: Option<Timestamp>) {
        if let Some(state) = self.nodes.get_mut(node) {
            self.summary.take();
            state.turned = state.turned.max(at);
        }
    }
}

impl NodeState {
    /// What decides between two records of a node: the later one, and of one moment the one that
    /// says most.
    fn weight(&self) -> (Timestamp, u64, u64) {
        (self.told, self.record.drops.count, self.record.drops.packets)
    }
}
