//! What the agents report about themselves.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::{
    schema::{AgentRecord, AgentState},
    time::Time,
};

/// How many complaints of one agent are kept, the latest.
const DEGRADATIONS_MAX: usize = 32;

/// How many records of losses are remembered of one agent, so that doubled ones are counted once.
const LOSSES_REMEMBERED_MAX: usize = 4096;

/// The agent of a node, by its own records.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    node: String,
    last_heard: Timestamp,
    ready: Option<(Timestamp, AgentState)>,
    stopping: Option<(Timestamp, AgentState)>,
    degraded: BTreeMap<String, Degradation>,
    lost: Counted,
    folded: Counted,
    muted: Counted,
}

/// Something that does not work as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degradation {
    /// What.
    pub what: String,
    /// Since when, as the agent says.
    pub since: Timestamp,
    /// When it was last reported.
    pub reported: Timestamp,
}

/// How an agent is, by what it last reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AgentStatus {
    /// It has stopped.
    Stopped,
    /// It watches, and complained since it started.
    Degraded,
    /// Its records come, and the one that says when it started is not among them.
    Unknown,
    /// It watches.
    Ready,
}

/// Sums of records, each counted once.
#[derive(Clone, Debug, Default, PartialEq)]
struct Counted {
    counted: BTreeSet<Timestamp>,
    counts: BTreeMap<String, u64>,
}

impl Counted {
    fn add<'a>(&mut self, at: Timestamp, counts: impl Iterator<Item = (&'a str, u64)>) {
        if !self.counted.insert(at) {
            return;
        }
        if self.counted.len() > LOSSES_REMEMBERED_MAX {
            self.counted.pop_first();
        }
        for (what, count) in counts {
            *self.counts.entry(what.to_owned()).or_default() += count;
        }
    }
}

impl Agent {
    pub(super) fn new(node: &str, last_heard: Timestamp) -> Self {
        Self {
            node: node.to_owned(),
            last_heard,
            ready: None,
            stopping: None,
            degraded: BTreeMap::new(),
            lost: Counted::default(),
            folded: Counted::default(),
            muted: Counted::default(),
        }
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// When its last record was written, of whatever kind.
    pub fn last_heard(&self) -> Timestamp {
        self.last_heard
    }

    /// How it is.
    pub fn status(&self) -> AgentStatus {
        let (ready, stopping) = (self.ready_since(), self.stopped_at());
        if stopping.is_some() && stopping >= ready {
            AgentStatus::Stopped
        } else if self.degradations().next().is_some() {
            AgentStatus::Degraded
        } else if ready.is_some() {
            AgentStatus::Ready
        } else {
            AgentStatus::Unknown
        }
    }

    /// When it last started to watch.
    pub fn ready_since(&self) -> Option<Timestamp> {
        self.ready.as_ref().map(|(at, _)| *at)
    }

    /// What it said when it last started to watch: [`AgentState::Ready`].
    pub fn ready(&self) -> Option<&AgentState> {
        self.ready.as_ref().map(|(_, state)| state)
    }

    /// When it last stopped.
    pub fn stopped_at(&self) -> Option<Timestamp> {
        self.stopping.as_ref().map(|(at, _)| *at)
    }

    /// What it said when it last stopped: [`AgentState::Stopping`].
    pub fn stopping(&self) -> Option<&AgentState> {
        self.stopping.as_ref().map(|(_, state)| state)
    }

    /// What it complained of since it last started to watch. That something works again is not
    /// reported.
    pub fn degradations(&self) -> impl Iterator<Item = &Degradation> {
        let since = self.ready_since();
        self.degraded.values().filter(move |degradation| Some(degradation.reported) >= since)
    }

    /// How much of what it could not report, over all records.
    pub fn lost(&self) -> &BTreeMap<String, u64> {
        &self.lost.counts
    }

    /// Attempts and packets of sources with more flows than are kept apart.
    pub fn folded(&self) -> &BTreeMap<String, u64> {
        &self.folded.counts
    }

    /// Drops and findings that are expected, by what muted them; one that goes on counts once a
    /// minute.
    pub fn muted(&self) -> &BTreeMap<String, u64> {
        &self.muted.counts
    }

    /// When it last started or stopped: what it followed before, it follows no more.
    pub(super) fn turned(&self) -> Option<Timestamp> {
        self.ready_since().max(self.stopped_at())
    }

    pub(super) fn heard(&mut self, at: Timestamp) {
        self.last_heard = self.last_heard.max(at);
    }

    pub(super) fn add(&mut self, record: &AgentRecord) {
        let (at, state) = (record.time.timestamp(), &record.state);
        match state {
            AgentState::Ready { .. } if self.ready_since() < Some(at) => {
                self.ready = Some((at, state.clone()));
            }
            AgentState::Stopping { .. } if self.stopped_at() < Some(at) => {
                self.stopping = Some((at, state.clone()));
            }
            AgentState::Ready { .. } | AgentState::Stopping { .. } => {}
            AgentState::Degraded { what, since } => self.add_degradation(at, what, *since),
            AgentState::Lost { counts } => {
                self.lost.add(at, counts.iter().map(|(what, count)| (what.as_str(), *count)));
            }
            AgentState::Muted { muted, .. } => {
                let named: Vec<(String, u64)> = muted
                    .iter()
                    .map(|muted| (format!("{} {}", muted.by, muted.name), muted.reports))
                    .collect();
                self.muted.add(at, named.iter().map(|(by, reports)| (by.as_str(), *reports)));
            }
            AgentState::Folded { attempts, packets, .. } => {
                let counts = [("attempts", *attempts), ("packets", *packets)];
                self.folded.add(at, counts.into_iter());
            }
        }
    }

    fn add_degradation(&mut self, at: Timestamp, what: &str, since: Time) {
        let new = || Degradation { what: what.to_owned(), since: since.into(), reported: at };
        let known = self.degraded.entry(what.to_owned()).or_insert_with(new);
        if at > known.reported {
            *known = new();
        }
        if self.degraded.len() > DEGRADATIONS_MAX {
            let oldest = self.degraded.values().min_by_key(|d| (d.reported, d.what.clone()));
            if let Some(what) = oldest.map(|oldest| oldest.what.clone()) {
                self.degraded.remove(&what);
            }
        }
    }
}
