//! Drops as nodes report them: the latest kept whole, all of them counted once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use jiff::Timestamp;

use super::activity::{ACTIVITY_MINUTES_MAX, Activity, minute_of};
use crate::{schema::DropRecord, time::Time};

/// How many drops of an incident are kept whole (about 4 kB each), the latest: more than anyone
/// reads of one cause. Others are counted.
pub const DROPS_KEPT_MAX: usize = 128;

/// How many drops of an incident are remembered, to be counted once (about 200 bytes each).
pub const DROPS_TRACKED_MAX: usize = 16_384;

/// A drop, by the record that says most.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportedDrop {
    record: Box<DropRecord>,
    /// When the last record of it was written.
    reported: Timestamp,
    seen: (Timestamp, Timestamp),
    last_success: Option<Timestamp>,
    nodes: BTreeSet<String>,
}

impl ReportedDrop {
    pub(super) fn new(record: Box<DropRecord>) -> Self {
        let evidence = &record.evidence;
        Self {
            reported: record.time.into(),
            seen: (evidence.first.into(), evidence.last.into()),
            last_success: evidence.last_success.map(Into::into),
            nodes: [record.node.clone()].into(),
            record,
        }
    }

    /// The record that says most: that of the node where it was dropped, if there is one, and of
    /// its records the last.
    pub fn record(&self) -> &DropRecord {
        &self.record
    }

    /// When it was last reported.
    pub fn reported(&self) -> Timestamp {
        self.reported
    }

    /// When the first and the last packet were dropped, over all nodes.
    pub fn seen(&self) -> (Timestamp, Timestamp) {
        self.seen
    }

    /// When the flow last got an answer, by what any node knows.
    pub fn last_success(&self) -> Option<Timestamp> {
        self.last_success
    }

    /// The nodes whose agents report it.
    pub fn nodes(&self) -> &BTreeSet<String> {
        &self.nodes
    }

    fn merge(&mut self, other: Self) {
        self.reported = self.reported.max(other.reported);
        self.seen = (self.seen.0.min(other.seen.0), self.seen.1.max(other.seen.1));
        self.last_success = self.last_success.max(other.last_success);
        let is_better = other.weight() > self.weight();
        self.nodes.extend(other.nodes);
        if is_better {
            self.record = other.record;
        }
    }

    /// What decides between two records of a drop.
    fn weight(&self) -> (bool, Time, u64, &str) {
        let DropRecord { primary, time, evidence, node, .. } = &*self.record;
        (*primary, *time, evidence.attempts, node)
    }
}

/// Keeps a drop among others, so many at most: the one reported longest ago is evicted. Returns
/// whether one was.
pub(super) fn keep(
    drops: &mut BTreeMap<String, ReportedDrop>,
    drop: ReportedDrop,
    max: usize,
) -> bool {
    if let Some(known) = drops.get_mut(&drop.record.id) {
        known.merge(drop);
        return false;
    }
    drops.insert(drop.record.id.clone(), drop);
    if drops.len() <= max {
        return false;
    }
    let oldest =
        drops.iter().min_by_key(|(id, drop)| (drop.reported, *id)).map(|(id, _)| id.clone());
    oldest.is_some_and(|oldest| drops.remove(&oldest).is_some())
}

/// Every drop of an incident, as numbers: each is counted once, however many nodes report it.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    drops: HashMap<u64, TrackedDrop>,
    nodes: HashMap<u64, NodeDrops>,
    activity: Activity,
    packets: u64,
    untracked: u64,
}

#[derive(Debug, Default)]
struct TrackedDrop {
    nodes: Vec<(u64, NodeReport)>,
    /// Minutes in which it was dropped; by records to count, or by others as long as there is none.
    minutes: BTreeSet<i64>,
    has_primary: bool,
}

#[derive(Clone, Copy, Debug)]
struct NodeReport {
    is_primary: bool,
    packets: u64,
}

/// How many drops and packets one node reported.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NodeDrops {
    pub(super) drops: u64,
    pub(super) packets: u64,
}

impl Tracked {
    pub(super) fn add(&mut self, drop: &ReportedDrop) {
        let record = &drop.record;
        let (id, node) = (key(&record.id), key(&record.node));
        if !self.drops.contains_key(&id) && self.drops.len() >= DROPS_TRACKED_MAX {
            self.untracked += 1;
            return;
        }
        let tracks = self.drops.entry(id).or_default();
        let before = tracks.packets();
        let of_node = self.nodes.entry(node).or_default();
        let packets = record.evidence.attempts;
        if let Some((_, report)) = tracks.nodes.iter_mut().find(|(known, _)| *known == node) {
            of_node.packets += packets.saturating_sub(report.packets);
            report.packets = report.packets.max(packets);
            report.is_primary |= record.primary;
        } else {
            of_node.drops += 1;
            of_node.packets += packets;
            tracks.nodes.push((node, NodeReport { is_primary: record.primary, packets }));
        }
        if record.primary && !tracks.has_primary {
            tracks.has_primary = true;
            for minute in std::mem::take(&mut tracks.minutes) {
                self.activity.remove(minute);
            }
        }
        self.packets = self.packets - before + tracks.packets();
        if record.primary == tracks.has_primary {
            for minute in [minute_of(drop.seen.0), minute_of(drop.seen.1)] {
                if tracks.minutes.insert(minute) {
                    self.activity.add(minute);
                }
            }
            let latest = tracks.minutes.last().copied().unwrap_or_default();
            tracks.minutes.retain(|minute| *minute > latest - ACTIVITY_MINUTES_MAX);
        }
    }

    /// How many drops are remembered.
    pub(super) fn len(&self) -> u64 {
        self.drops.len() as u64
    }

    /// Records of drops beyond those that are remembered.
    pub(super) fn untracked(&self) -> u64 {
        self.untracked
    }

    /// Their packets.
    pub(super) fn packets(&self) -> u64 {
        self.packets
    }

    pub(super) fn activity(&self) -> &Activity {
        &self.activity
    }

    /// What a node reported.
    pub(super) fn of_node(&self, node: &str) -> NodeDrops {
        self.nodes.get(&key(node)).copied().unwrap_or_default()
    }

    /// Whether a drop is known, and whether that node reported it.
    pub(super) fn knows(&self, id: &str, node: &str) -> (bool, bool) {
        let (tracks, node) = (self.drops.get(&key(id)), key(node));
        let by_node =
            tracks.is_some_and(|tracks| tracks.nodes.iter().any(|(known, _)| *known == node));
        (tracks.is_some(), by_node)
    }
}

impl TrackedDrop {
    /// What the records to count say, or the others where there is none.
    fn packets(&self) -> u64 {
        let most = |primary| {
            let of = self.nodes.iter().filter(move |(_, report)| report.is_primary == primary);
            of.map(|(_, report)| report.packets).max()
        };
        most(true).or_else(|| most(false)).unwrap_or(0)
    }
}

/// A name as a number: 8 bytes instead of a string for each of thousands.
fn key(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}
