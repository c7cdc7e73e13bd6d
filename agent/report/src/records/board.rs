//! The records of many nodes, folded into one board: what a page or a view is drawn from.
//!
//! Lines may come in any order, late or twice: a reader that connects again repeats some, and two
//! nodes report one drop under one id. The board is the same in the end, as long as nothing had to be
//! evicted. Time is what the records say; there is no clock in here.

mod activity;
mod agents;
mod drops;
mod from_drops;
mod incident;
mod node_state;
mod paths;
mod reports;
mod summary;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use jiff::Timestamp;

use super::{Line, Unreadable};
use crate::{
    heal::HealRecord,
    incident::IncidentRecord,
    record::Record,
    schema::{AgentRecord, AgentState, DropKind, DropRecord},
    text::heal_sentence,
};

pub use activity::{ACTIVITY_MINUTES_MAX, Activity};
pub use agents::{Agent, AgentStatus, Degradation};
pub use drops::{DROPS_KEPT_MAX, DROPS_TRACKED_MAX, ReportedDrop};
pub use incident::{Incident, MOMENTS_MAX, Moment};
pub use node_state::{NodeState, Status};
pub use summary::{Count, NodeSummary, Summary};

/// How many incidents are kept (up to 500 kB each, with their drops). A cluster with more of them
/// at once has one cause that is no policy. The one that was quiet for longest is evicted.
pub const INCIDENTS_MAX: usize = 1024;

/// How many findings are kept (about 3 kB each), the latest.
pub const FINDINGS_MAX: usize = 1024;

/// How many nodes' agents are kept apart: above what Kubernetes supports in one cluster (5,000).
pub const AGENTS_MAX: usize = 8192;

/// How much of what a healer did about one incident is kept, the latest.
const HEALS_MAX: usize = 32;

/// How many examples are kept of what could not be read, the latest.
const EXAMPLES_MAX: usize = 8;

/// What has become of the lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineCounts {
    /// Records, repeated ones included.
    pub records: u64,
    /// Lines that do not begin as records: messages, text.
    pub others: u64,
    /// Lines that begin as records and could not be read.
    pub unreadable: u64,
    /// Why not, of the last of them, the latest last.
    pub examples: VecDeque<Unreadable>,
    /// Incidents that were evicted for others.
    pub incidents_evicted: u64,
    /// Findings that were evicted for others.
    pub findings_evicted: u64,
    /// Records of agents beyond [`AGENTS_MAX`], which are not kept.
    pub agents_not_kept: u64,
}

/// Everything that the records come to.
#[derive(Debug, Default)]
pub struct Board {
    incidents: BTreeMap<String, Incident>,
    /// By the drops' ids.
    findings: BTreeMap<String, ReportedDrop>,
    agents: BTreeMap<String, Agent>,
    /// By the incidents' ids.
    heals: BTreeMap<String, BTreeSet<(Timestamp, String)>>,
    lines: LineCounts,
    span: Option<(Timestamp, Timestamp)>,
}

impl Board {
    /// Adds a line of a log.
    pub fn add(&mut self, line: Line) {
        match line {
            Line::Other => self.lines.others += 1,
            Line::Unreadable(why) => {
                self.lines.unreadable += 1;
                self.lines.examples.push_back(why);
                if self.lines.examples.len() > EXAMPLES_MAX {
                    self.lines.examples.pop_front();
                }
            }
            Line::Record(record) => {
                self.lines.records += 1;
                match *record {
                    Record::Drop(drop) => self.add_drop(drop),
                    Record::Incident(incident) => self.add_incident(incident),
                    Record::Heal(record) => self.add_heal(&record),
                    Record::Agent(agent) => self.add_agent(&agent),
                }
            }
        }
    }

    /// The incidents, by their ids.
    pub fn incidents(&self) -> impl Iterator<Item = &Incident> {
        self.incidents.values()
    }

    /// An incident.
    pub fn incident(&self, id: &str) -> Option<&Incident> {
        self.incidents.get(id)
    }

    /// The incidents, what is most urgent first: open before resolved, severe before mild, and the
    /// one that began last first.
    pub fn by_urgency(&self) -> Vec<&Incident> {
        let mut incidents: Vec<&Incident> = self.incidents.values().collect();
        incidents.sort_by_key(|incident| Reverse(incident.summary().urgency()));
        incidents
    }

    /// Flows that were answered although policies deny them, by their ids.
    pub fn findings(&self) -> impl Iterator<Item = &ReportedDrop> {
        self.findings.values()
    }

    /// The agents, by their nodes' names.
    pub fn agents(&self) -> impl Iterator<Item = &Agent> {
        self.agents.values()
    }

    /// What a healer did about an incident, and when, in its words.
    pub fn heals(&self, incident: &str) -> impl Iterator<Item = &(Timestamp, String)> {
        self.heals.get(incident).into_iter().flatten()
    }

    /// What has become of the lines.
    pub fn lines(&self) -> &LineCounts {
        &self.lines
    }

    /// When the first and the last record were written, by their own times.
    pub fn span(&self) -> Option<(Timestamp, Timestamp)> {
        self.span
    }

    fn add_drop(&mut self, record: Box<DropRecord>) {
        let drop = ReportedDrop::new(record);
        self.heard(&drop.record().node, drop.reported());
        if drop.record().kind == DropKind::Finding {
            let is_one_evicted = drops::keep(&mut self.findings, drop, FINDINGS_MAX);
            self.lines.findings_evicted += u64::from(is_one_evicted);
            return;
        }
        let id = drop.record().incident.clone();
        let (_, last) = drop.seen();
        if let Some(incident) = self.incident_of(&id, last) {
            incident.add_drop(drop);
        }
    }

    fn add_incident(&mut self, record: Box<IncidentRecord>) {
        let (id, node) = (record.id.clone(), record.node.clone());
        let state = NodeState::new(record);
        let (_, last) = state.seen();
        self.heard(&node, state.reported());
        let agent_turned = self.agents.get(&node).and_then(Agent::turned);
        if let Some(incident) = self.incident_of(&id, last) {
            incident.add_state(state);
            incident.agent_turned(&node, agent_turned);
        }
    }

    fn add_heal(&mut self, record: &HealRecord) {
        if !self.heals.contains_key(&record.incident) && self.heals.len() >= INCIDENTS_MAX {
            return;
        }
        let heals = self.heals.entry(record.incident.clone()).or_default();
        heals.insert((record.time.into(), heal_sentence(record)));
        if heals.len() > HEALS_MAX {
            heals.pop_first();
        }
    }

    fn add_agent(&mut self, record: &AgentRecord) {
        self.heard(&record.node, record.time.into());
        let Some(agent) = self.agents.get_mut(&record.node) else { return };
        agent.add(record);
        if matches!(record.state, AgentState::Ready { .. } | AgentState::Stopping { .. }) {
            let turned = agent.turned();
            for incident in self.incidents.values_mut() {
                incident.agent_turned(&record.node, turned);
            }
        }
    }

    fn heard(&mut self, node: &str, at: Timestamp) {
        let (first, last) = self.span.unwrap_or((at, at));
        self.span = Some((first.min(at), last.max(at)));
        if let Some(agent) = self.agents.get_mut(node) {
            agent.heard(at);
        } else if self.agents.len() < AGENTS_MAX {
            self.agents.insert(node.to_owned(), Agent::new(node, at));
        } else {
            self.lines.agents_not_kept += 1;
        }
    }

    /// The incident of that name, unless the board is full of what is more recent.
    fn incident_of(&mut self, id: &str, last: Timestamp) -> Option<&mut Incident> {
        if !self.incidents.contains_key(id) && self.incidents.len() >= INCIDENTS_MAX {
            self.lines.incidents_evicted += 1;
            let quietest = self.incidents.values().map(|i| (i.last(), i.id())).min()?;
            if (last, id) <= quietest {
                return None;
            }
            let quietest = quietest.1.to_owned();
            self.incidents.remove(&quietest);
        }
        Some(self.incidents.entry(id.to_owned()).or_insert_with(|| Incident::new(id)))
    }
}
