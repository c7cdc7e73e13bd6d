//! The records of many nodes, folded into one board: what a page or a view is drawn from.
//!
//! Lines may come in any order, late or doubled: a reader that connects anew tells some again, and
//! two nodes tell of one drop under one id. The board is the same in the end, as long as nothing
//! had to make way. Time is what the records say; there is no clock in here.

mod activity;
mod agents;
mod drops;
mod incident;
mod merge;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use jiff::Timestamp;

use super::Line;
use crate::{
    AgentRecord, AgentState, DropKind, DropRecord, Record,
    heal::{self, HealRecord},
    incident::IncidentRecord,
};

pub use activity::{ACTIVITY_MINUTES_MAX, Activity};
pub use agents::{Agent, AgentStatus, Degradation};
pub use drops::{DROPS_KEPT_MAX, DROPS_TRACKED_MAX, ToldDrop};
pub use incident::{Incident, MOMENTS_MAX, Moment, NodeState, Status};
pub use merge::{Count, NodeSummary, Summary};

/// How many incidents are kept (up to 500 kB each, with their drops). A cluster with more of them
/// at once has one cause that no policy is. The one that was quiet for longest makes way.
pub const INCIDENTS_MAX: usize = 1024;

/// How many findings are kept (about 3 kB each), the latest told.
pub const FINDINGS_MAX: usize = 1024;

/// How many nodes' agents are kept apart: above what Kubernetes supports in one cluster (5,000).
pub const AGENTS_MAX: usize = 8192;

/// How much of what a healer did about one incident is kept, the latest.
const HEALS_MAX: usize = 32;

/// How many examples are kept of what could not be read, the latest.
const EXAMPLES_MAX: usize = 8;

/// What has become of the lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records, doubled ones included.
    pub records: u64,
    /// Lines that are no records and were not meant as such: messages, text.
    pub others: u64,
    /// Lines that were meant as records and could not be read.
    pub unreadable: u64,
    /// Why not, of the last of them, the latest last.
    pub examples: VecDeque<String>,
    /// Incidents that made way for others.
    pub incidents_let_go: u64,
    /// Findings that made way for others.
    pub findings_let_go: u64,
    /// Records of agents beyond [`AGENTS_MAX`], which are not kept.
    pub agents_untold: u64,
}

/// Everything that the records come to.
#[derive(Debug, Default)]
pub struct Board {
    incidents: BTreeMap<String, Incident>,
    /// By the drops' ids.
    findings: BTreeMap<String, ToldDrop>,
    agents: BTreeMap<String, Agent>,
    /// By the incidents' ids.
    heals: BTreeMap<String, BTreeSet<(Timestamp, String)>>,
    tally: Tally,
    span: Option<(Timestamp, Timestamp)>,
}

impl Board {
    /// Takes a line of a log.
    pub fn take(&mut self, line: Line) {
        let taken = match line {
            Line::Other => return self.tally.others += 1,
            Line::Unreadable { why } => Err(why),
            Line::Record(record) => match *record {
                Record::Drop(drop) => self.drop(drop),
                Record::Incident(incident) => self.incident_told(incident),
                Record::Heal(record) => self.healed(&record),
                Record::Agent(agent) => self.agent_told(&agent),
            },
        };
        match taken {
            Ok(()) => self.tally.records += 1,
            Err(why) => {
                self.tally.unreadable += 1;
                self.tally.examples.push_back(why);
                if self.tally.examples.len() > EXAMPLES_MAX {
                    self.tally.examples.pop_front();
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
    pub fn findings(&self) -> impl Iterator<Item = &ToldDrop> {
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
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// When the first and the last record were written, by their own times.
    pub fn span(&self) -> Option<(Timestamp, Timestamp)> {
        self.span
    }

    fn drop(&mut self, record: Box<DropRecord>) -> Result<(), String> {
        let drop = ToldDrop::new(record)?;
        self.heard(&drop.record().node, drop.told());
        if drop.record().kind == DropKind::Finding {
            drops::keep(&mut self.findings, drop, FINDINGS_MAX);
            return Ok(());
        }
        let id = drop.record().incident.clone();
        let (_, last) = drop.seen();
        if let Some(incident) = self.incident_of(&id, last) {
            incident.take_drop(drop);
        }
        Ok(())
    }

    fn incident_told(&mut self, record: Box<IncidentRecord>) -> Result<(), String> {
        let told = NodeState::new(record)?;
        let (id, node) = (told.record().id.clone(), told.record().node.clone());
        let (_, last) = told.seen();
        self.heard(&node, told.told());
        let restarted = self.agents.get(&node).and_then(Agent::turned);
        if let Some(incident) = self.incident_of(&id, last) {
            incident.take_told(told);
            incident.agent_turned(&node, restarted);
        }
        Ok(())
    }

    fn healed(&mut self, record: &HealRecord) -> Result<(), String> {
        let at = parse_time("time", &record.time)?;
        if !self.heals.contains_key(&record.incident) && self.heals.len() >= INCIDENTS_MAX {
            return Ok(());
        }
        let heals = self.heals.entry(record.incident.clone()).or_default();
        heals.insert((at, heal::sentence(record)));
        if heals.len() > HEALS_MAX {
            heals.pop_first();
        }
        Ok(())
    }

    fn agent_told(&mut self, record: &AgentRecord) -> Result<(), String> {
        let at = parse_time("time", &record.time)?;
        self.heard(&record.node, at);
        let Some(agent) = self.agents.get_mut(&record.node) else { return Ok(()) };
        agent.take(at, record);
        if matches!(record.state, AgentState::Ready { .. } | AgentState::Stopping { .. }) {
            let turned = agent.turned();
            for incident in self.incidents.values_mut() {
                incident.agent_turned(&record.node, turned);
            }
        }
        Ok(())
    }

    fn heard(&mut self, node: &str, at: Timestamp) {
        let (first, last) = self.span.unwrap_or((at, at));
        self.span = Some((first.min(at), last.max(at)));
        if let Some(agent) = self.agents.get_mut(node) {
            agent.heard(at);
        } else if self.agents.len() < AGENTS_MAX {
            self.agents.insert(node.to_owned(), Agent::new(node, at));
        } else {
            self.tally.agents_untold += 1;
        }
    }

    /// The incident of that name, unless the board is full of what is more recent.
    fn incident_of(&mut self, id: &str, last: Timestamp) -> Option<&mut Incident> {
        if !self.incidents.contains_key(id) && self.incidents.len() >= INCIDENTS_MAX {
            self.tally.incidents_let_go += 1;
            let quietest = self.incidents.values().min_by_key(|i| (i.last(), i.id().to_owned()));
            let quietest = quietest.map(|incident| (incident.last(), incident.id().to_owned()));
            let (quiet_since, quietest) = quietest?;
            if (last, id) <= (quiet_since, quietest.as_str()) {
                return None;
            }
            self.incidents.remove(&quietest);
        }
        Some(self.incidents.entry(id.to_owned()).or_insert_with(|| Incident::new(id)))
    }
}

/// A time as records write it; the error names the field.
fn parse_time(field: &str, text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| format!("{field}: expected a time in RFC 3339, found {text}"))
}
