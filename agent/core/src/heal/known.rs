//! Incidents as the agents tell of them, of all nodes merged.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    correlate::REPORT_INTERVAL,
    diagnosis::Class,
    flow::Flow,
    incident::{IncidentId, Severity},
    policy::PolicyRef,
};

/// How many incidents are known at once. A cluster with more has one cause that no policy is.
pub const INCIDENTS_MAX: usize = 512;

/// How many flows of one incident are known: some replicas times some destinations.
pub const FLOWS_MAX: usize = 64;

/// How many nodes' words on one incident are kept apart.
const NODES_MAX: usize = 256;

/// Flows that died this long before the last one may be those of pods that are gone: one that goes
/// on dying is told every [`REPORT_INTERVAL`].
const FRESH: SignedDuration = SignedDuration::from_secs(2 * REPORT_INTERVAL.as_secs());

/// What an agent's record says of an incident.
#[derive(Clone, Debug)]
pub struct Told {
    /// Which.
    pub id: IncidentId,
    /// By the agent of which node.
    pub node: Arc<str>,
    /// Whether it goes on.
    pub state: State,
    /// When the first packet died.
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
pub enum State {
    /// It does.
    Open,
    /// Its traffic was seen to pass, at this time.
    Passes(Timestamp),
    /// Policies do not deny it any more.
    Allowed,
    /// Nothing attempts it.
    Silent,
}

/// What an agent's record says of a flow that died.
#[derive(Clone, Copy, Debug)]
pub struct Died {
    /// The incident that it belongs to.
    pub incident: IncidentId,
    /// The flow.
    pub flow: Flow,
    /// When it last died.
    pub last: Timestamp,
}

/// One incident, by all that was told of it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    pub(super) namespaces: BTreeSet<Arc<str>>,
    /// The last word of each node; there is one at least.
    nodes: BTreeMap<Arc<str>, Told>,
    /// The last word of all.
    latest: Told,
    flows: BTreeMap<Flow, Timestamp>,
}

impl Known {
    fn new(told: &Told) -> Self {
        Self {
            first: told.first,
            last: told.last,
            namespaces: BTreeSet::new(),
            nodes: BTreeMap::new(),
            latest: told.clone(),
            flows: BTreeMap::new(),
        }
    }

    fn take(&mut self, told: Told) {
        self.first = self.first.min(told.first);
        self.last = self.last.max(told.last);
        self.namespaces.extend(told.namespaces.iter().cloned());
        if self.nodes.len() < NODES_MAX || self.nodes.contains_key(&told.node) {
            self.nodes.insert(told.node.clone(), told.clone());
        }
        self.latest = told;
    }

    fn open(&self) -> impl Iterator<Item = &Told> {
        self.nodes.values().filter(|told| told.state == State::Open)
    }

    /// What the node says that is the most certain of those where it goes on: the one on which the
    /// packets die knows more than the one from which they leave.
    pub(super) fn surest(&self) -> &Told {
        let surest = self.open().max_by(|a, b| a.confidence.total_cmp(&b.confidence));
        surest.unwrap_or(&self.latest)
    }

    /// How bad it is where it is worst.
    pub(super) fn severity(&self) -> Severity {
        self.open().map(|told| told.severity).max().unwrap_or(self.latest.severity)
    }

    fn died(&mut self, flow: Flow, last: Timestamp) {
        self.last = self.last.max(last);
        if let Some(known) = self.flows.get_mut(&flow) {
            *known = last.max(*known);
        } else if self.flows.len() < FLOWS_MAX {
            self.flows.insert(flow, last);
        }
    }

    /// Whether it goes on at any node.
    pub(super) fn is_open(&self) -> bool {
        self.open().next().is_some()
    }

    /// When its traffic was last seen to pass, of one that goes on nowhere.
    pub(super) fn passes(&self) -> Option<Timestamp> {
        let times = self.nodes.values().filter_map(|told| match told.state {
            State::Passes(at) => Some(at),
            _ => None,
        });
        times.max().filter(|_| !self.is_open())
    }

    /// Whether policies allow it now at every node, as far as is told.
    pub(super) fn is_allowed(&self) -> bool {
        let over = |told: &Told| matches!(told.state, State::Allowed | State::Passes(_));
        !self.nodes.is_empty() && self.nodes.values().all(over)
    }

    /// The flows that died lately.
    pub(super) fn flows(&self) -> BTreeSet<Flow> {
        let lately = self.flows.values().max().map(|last| *last - FRESH);
        let fresh = self.flows.iter().filter(|(_, last)| Some(**last) >= lately);
        fresh.map(|(flow, _)| *flow).collect()
    }
}

/// All incidents that are known.
#[derive(Clone, Debug, Default)]
pub(super) struct Incidents {
    known: BTreeMap<IncidentId, Known>,
    /// How each flow last died, by whatever cause. A flow is told before its incident is.
    died: BTreeMap<Flow, Died>,
}

/// How many flows' last deaths are known, whatever their incidents.
const DEATHS_MAX: usize = 8192;

impl Incidents {
    pub(super) fn take(&mut self, told: Told) {
        let id = told.id;
        if !self.known.contains_key(&id) && self.known.len() >= INCIDENTS_MAX {
            // What is over first, then what is longest ago.
            let eldest = self.known.iter().min_by_key(|(_, known)| (known.is_open(), known.last));
            if let Some(id) = eldest.map(|(id, _)| *id) {
                self.known.remove(&id);
            }
        }
        let deaths = self.died.values().filter(|died| died.incident == id);
        let known = self.known.entry(id).or_insert_with(|| {
            let mut known = Known::new(&told);
            deaths.for_each(|died| known.died(died.flow, died.last));
            known
        });
        known.take(told);
    }

    pub(super) fn died(&mut self, died: &Died) {
        if let Some(known) = self.known.get_mut(&died.incident) {
            known.died(died.flow, died.last);
        }
        if !self.died.contains_key(&died.flow) && self.died.len() >= DEATHS_MAX {
            let eldest = self.died.iter().min_by_key(|(_, died)| died.last).map(|(flow, _)| *flow);
            if let Some(flow) = eldest {
                self.died.remove(&flow);
            }
        }
        let known = self.died.entry(died.flow).or_insert(*died);
        if died.last >= known.last {
            *known = *died;
        }
    }

    pub(super) fn get(&self, id: IncidentId) -> Option<&Known> {
        self.known.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (IncidentId, &Known)> {
        self.known.iter().map(|(id, known)| (*id, known))
    }

    /// When one of these flows last died, by whatever cause.
    pub(super) fn last_death(&self, flows: &BTreeSet<Flow>) -> Option<Timestamp> {
        flows.iter().filter_map(|flow| self.died.get(flow)).map(|died| died.last).max()
    }
}
