//! Incidents as the agents report them, of all nodes merged.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::{Refusal, SETTLE};
use crate::{
    correlate::REPORT_INTERVAL,
    diagnosis::Class,
    flow::{Flow, Worked},
    incident::{IncidentId, Severity},
    policy::PolicyRef,
};

/// How many incidents are known at once. A cluster with more has one cause that no policy is.
pub const INCIDENTS_MAX: usize = 512;

/// How many flows of one incident are known: some replicas times some destinations.
pub const FLOWS_MAX: usize = 64;

/// How many nodes' reports of one incident are kept apart.
const NODES_MAX: usize = 256;

/// Flows that were dropped this long before the last one may be those of pods that are gone: one that
/// keeps being dropped is reported every [`REPORT_INTERVAL`].
const RECENT: SignedDuration = SignedDuration::from_secs(2 * REPORT_INTERVAL.as_secs());

/// What an agent's record says of an incident.
#[derive(Clone, Debug)]
pub struct IncidentReport {
    /// Which.
    pub id: IncidentId,
    /// The node of the agent that reports it.
    pub node: Arc<str>,
    /// Whether it goes on.
    pub state: IncidentState,
    /// When the first packet was dropped.
    pub first: Timestamp,
    /// When the last one did.
    pub last: Timestamp,
    /// How bad it is.
    pub severity: Severity,
    /// How sure the cause is, from 0 to 1.
    pub confidence: f64,
    /// What kind of cause it is.
    pub class: Class,
    /// The policies responsible, those of kinds that are known.
    pub responsible: Vec<PolicyRef>,
    /// The namespaces of its pods and policies.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Whether its plan has a verified remedy.
    pub has_remedy: bool,
}

/// Whether an incident goes on, as one node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncidentState {
    /// It does.
    Open,
    /// Its traffic was seen to pass, at this time.
    Passes(Timestamp),
    /// Policies do not deny it any more.
    Allowed,
    /// Nothing attempts it.
    Silent,
}

/// What an agent's record says of a flow that was dropped.
#[derive(Clone, Debug)]
pub struct DropReport {
    /// The incident that it belongs to.
    pub incident: IncidentId,
    /// The node of the agent that reports it.
    pub node: Arc<str>,
    /// The flow.
    pub flow: Flow,
    /// When it was last dropped.
    pub last: Timestamp,
    /// What there was before.
    pub past: FlowPast,
}

/// What an agent knows of the time before a flow was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowPast {
    /// Which of its connections were answered.
    pub worked: Option<Worked>,
    /// Since when it is denied, at the least.
    pub denied_since: Option<Timestamp>,
}

/// A flow must have worked over this many connections: one answer may be a forged packet, or the
/// first that somebody has tried.
const CONNECTIONS_MIN: u64 = 2;

/// Agents that report one flow: those of its two ends' nodes, and as many more for a pod that has
/// moved.
const AGENTS_MAX: usize = 4;

/// A flow that was dropped, by all that was reported of it.
#[derive(Clone, Debug)]
struct KnownFlow {
    last: Timestamp,
    /// What each agent knows of the time before.
    past: BTreeMap<Arc<str>, FlowPast>,
}

impl KnownFlow {
    fn new(drop: &DropReport) -> Self {
        Self { last: drop.last, past: BTreeMap::from([(drop.node.clone(), drop.past)]) }
    }

    /// Adds a report of it; whether that says something else of the time before.
    fn add(&mut self, drop: &DropReport) -> bool {
        self.last = self.last.max(drop.last);
        if self.past.len() >= AGENTS_MAX && !self.past.contains_key(&drop.node) {
            self.past.clear();
        }
        self.past.insert(drop.node.clone(), drop.past) != Some(drop.past)
    }

    /// Whether it worked before it was denied, as the agents saw: over more than one connection, and
    /// not only since. What one agent has not seen another may have.
    fn worked_before(&self, flow: Flow) -> Result<(), Refusal> {
        let worked = self.past.values().filter_map(|past| past.worked).reduce(Worked::or);
        let worked = worked.ok_or(Refusal::NeverWorked(flow))?;
        let connections = worked.connections;
        if connections < CONNECTIONS_MIN {
            return Err(Refusal::WorkedTooLittle { flow, connections });
        }
        // All have to know, and the earliest time counts.
        let denied_since: Option<Vec<_>> = self.past.values().map(|p| p.denied_since).collect();
        let denied_since = denied_since.and_then(|all| all.into_iter().min());
        let (first, last) = (worked.first, worked.last);
        match denied_since {
            Some(denied) if first < denied && last <= denied + SETTLE => Ok(()),
            Some(denied_since) => Err(Refusal::DenialOlder { flow, worked: last, denied_since }),
            None => Err(Refusal::DenialOfUnknownAge { flow, worked: last }),
        }
    }
}

/// One incident, by all that was reported of it.
#[derive(Clone, Debug)]
pub(super) struct KnownIncident {
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    pub(super) namespaces: BTreeSet<Arc<str>>,
    /// The last report of each node; there is one at least.
    nodes: BTreeMap<Arc<str>, IncidentReport>,
    /// The last report of all.
    latest: IncidentReport,
    flows: BTreeMap<Flow, KnownFlow>,
}

impl KnownIncident {
    fn new(report: &IncidentReport) -> Self {
        Self {
            first: report.first,
            last: report.last,
            namespaces: BTreeSet::new(),
            nodes: BTreeMap::new(),
            latest: report.clone(),
            flows: BTreeMap::new(),
        }
    }

    fn add_report(&mut self, report: IncidentReport) {
        self.first = self.first.min(report.first);
        self.last = self.last.max(report.last);
        self.namespaces.extend(report.namespaces.iter().cloned());
        if self.nodes.len() < NODES_MAX || self.nodes.contains_key(&report.node) {
            self.nodes.insert(report.node.clone(), report.clone());
        }
        self.latest = report;
    }

    fn open(&self) -> impl Iterator<Item = &IncidentReport> {
        self.nodes.values().filter(|report| report.state == IncidentState::Open)
    }

    /// What the node says that is the most certain of those where it goes on: the one on which the
    /// packets are dropped knows more than the one from which they leave.
    pub(super) fn surest(&self) -> &IncidentReport {
        let surest = self.open().max_by(|a, b| a.confidence.total_cmp(&b.confidence));
        surest.unwrap_or(&self.latest)
    }

    /// How bad it is where it is worst.
    pub(super) fn severity(&self) -> Severity {
        self.open().map(|report| report.severity).max().unwrap_or(self.latest.severity)
    }

    /// Adds a drop of one of its flows; whether that is more than that it was dropped once more.
    fn add_drop(&mut self, drop: &DropReport) -> bool {
        self.last = self.last.max(drop.last);
        if let Some(known) = self.flows.get_mut(&drop.flow) {
            return known.add(drop);
        }
        let has_room = self.flows.len() < FLOWS_MAX;
        if has_room {
            self.flows.insert(drop.flow, KnownFlow::new(drop));
        }
        has_room
    }

    /// Whether it goes on at any node.
    pub(super) fn is_open(&self) -> bool {
        self.open().next().is_some()
    }

    /// When its traffic was last seen to pass, of one that goes on nowhere.
    pub(super) fn passes(&self) -> Option<Timestamp> {
        let times = self.nodes.values().filter_map(|report| match report.state {
            IncidentState::Passes(at) => Some(at),
            _ => None,
        });
        times.max().filter(|_| !self.is_open())
    }

    /// Whether policies allow it now at every node, as far as is reported.
    pub(super) fn is_allowed(&self) -> bool {
        let over = |report: &IncidentReport| {
            matches!(report.state, IncidentState::Allowed | IncidentState::Passes(_))
        };
        !self.nodes.is_empty() && self.nodes.values().all(over)
    }

    /// The flows that were dropped lately.
    pub(super) fn flows(&self) -> BTreeSet<Flow> {
        self.recent().map(|(flow, _)| *flow).collect()
    }

    fn recent(&self) -> impl Iterator<Item = (&Flow, &KnownFlow)> {
        let lately = self.flows.values().map(|known| known.last).max().map(|last| last - RECENT);
        self.flows.iter().filter(move |(_, known)| Some(known.last) >= lately)
    }

    /// Whether each of the flows that were dropped lately worked before it was denied. One that did
    /// not is reason enough to leave all of them alone: a policy that lets some of an incident's flows
    /// pass could not be distinguished from one that does not help.
    pub(super) fn worked_before(&self) -> Result<(), Refusal> {
        self.recent().try_for_each(|(flow, known)| known.worked_before(*flow))
    }
}

/// All incidents that are known.
#[derive(Clone, Debug, Default)]
pub(super) struct Incidents {
    known: BTreeMap<IncidentId, KnownIncident>,
    /// How each flow was last dropped, by whatever cause. A flow is reported before its incident is.
    last_drops: BTreeMap<Flow, LastDrop>,
}

/// The incident of which a flow's last drop was part, and what was reported of it then.
#[derive(Clone, Debug)]
struct LastDrop {
    incident: IncidentId,
    state: KnownFlow,
}

/// How many flows' last drops are known, whatever their incidents.
const LAST_DROPS_MAX: usize = 8192;

impl Incidents {
    pub(super) fn add_report(&mut self, report: IncidentReport) {
        let id = report.id;
        if !self.known.contains_key(&id) && self.known.len() >= INCIDENTS_MAX {
            // What is over first, then what is longest ago.
            let oldest = self.known.iter().min_by_key(|(_, known)| (known.is_open(), known.last));
            if let Some(id) = oldest.map(|(id, _)| *id) {
                self.known.remove(&id);
            }
        }
        let own_drops = self.last_drops.iter().filter(|(_, last_drop)| last_drop.incident == id);
        let known = self.known.entry(id).or_insert_with(|| {
            let mut known = KnownIncident::new(&report);
            for (flow, last_drop) in own_drops.take(FLOWS_MAX) {
                known.last = known.last.max(last_drop.state.last);
                known.flows.insert(*flow, last_drop.state.clone());
            }
            known
        });
        known.add_report(report);
    }

    /// Adds a drop of a flow; whether that says more of its incident than that it was dropped once
    /// more.
    pub(super) fn add_drop(&mut self, drop: &DropReport) -> bool {
        let known = self.known.get_mut(&drop.incident);
        let is_news = known.is_some_and(|known| known.add_drop(drop));
        if !self.last_drops.contains_key(&drop.flow) && self.last_drops.len() >= LAST_DROPS_MAX {
            let oldest = self.last_drops.iter().min_by_key(|(_, last_drop)| last_drop.state.last);
            if let Some(flow) = oldest.map(|(flow, _)| *flow) {
                self.last_drops.remove(&flow);
            }
        }
        let incident = drop.incident;
        match self.last_drops.get_mut(&drop.flow) {
            Some(last_drop) if last_drop.incident == incident => {
                last_drop.state.add(drop);
            }
            Some(last_drop) if last_drop.state.last > drop.last => {}
            _ => {
                self.last_drops
                    .insert(drop.flow, LastDrop { incident, state: KnownFlow::new(drop) });
            }
        }
        is_news
    }

    pub(super) fn get(&self, id: IncidentId) -> Option<&KnownIncident> {
        self.known.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (IncidentId, &KnownIncident)> {
        self.known.iter().map(|(id, known)| (*id, known))
    }

    /// When one of these flows was last dropped, by whatever cause.
    pub(super) fn last_drop(&self, flows: &BTreeSet<Flow>) -> Option<Timestamp> {
        flows
            .iter()
            .filter_map(|flow| self.last_drops.get(flow))
            .map(|last_drop| last_drop.state.last)
            .max()
    }
}
