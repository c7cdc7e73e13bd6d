//! Incidents as the agents tell of them, of all nodes merged.

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
#[derive(Clone, Debug)]
pub struct Died {
    /// The incident that it belongs to.
    pub incident: IncidentId,
    /// By the agent of which node.
    pub node: Arc<str>,
    /// The flow.
    pub flow: Flow,
    /// When it last died.
    pub last: Timestamp,
    /// What there was before.
    pub past: Past,
}

/// What an agent knows of the time before a flow was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// Which of its connections were answered.
    pub worked: Option<Worked>,
    /// Since when it is denied, at the least.
    pub denied_since: Option<Timestamp>,
}

/// A flow must have worked over this many connections: one answer may be a forged packet, or the
/// first that somebody has tried.
const CONNECTIONS_MIN: u64 = 2;

/// Agents that tell of one flow: those of its two ends' nodes, and as many more for a pod that has
/// moved.
const AGENTS_MAX: usize = 4;

/// A flow that died, by all that was told of it.
#[derive(Clone, Debug)]
struct Dying {
    last: Timestamp,
    /// What each agent knows of the time before.
    past: BTreeMap<Arc<str>, Past>,
}

impl Dying {
    fn new(died: &Died) -> Self {
        Self { last: died.last, past: BTreeMap::from([(died.node.clone(), died.past)]) }
    }

    /// Takes what is told of it; whether that says something else of the time before.
    fn take(&mut self, died: &Died) -> bool {
        self.last = self.last.max(died.last);
        if self.past.len() >= AGENTS_MAX && !self.past.contains_key(&died.node) {
            self.past.clear();
        }
        self.past.insert(died.node.clone(), died.past) != Some(died.past)
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
        // All have to know, and whoever says the earliest time is believed.
        let denied_since: Option<Vec<_>> = self.past.values().map(|p| p.denied_since).collect();
        let denied_since = denied_since.and_then(|all| all.into_iter().min());
        let is_younger = denied_since
            .is_some_and(|denied| worked.first < denied && worked.last <= denied + SETTLE);
        let last = worked.last;
        is_younger.then_some(()).ok_or(Refusal::DenialOlder { flow, worked: last, denied_since })
    }
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
    flows: BTreeMap<Flow, Dying>,
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

    /// Takes that one of its flows died; whether that is more than that it died once more.
    fn died(&mut self, died: &Died) -> bool {
        self.last = self.last.max(died.last);
        if let Some(known) = self.flows.get_mut(&died.flow) {
            return known.take(died);
        }
        let has_room = self.flows.len() < FLOWS_MAX;
        if has_room {
            self.flows.insert(died.flow, Dying::new(died));
        }
        has_room
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
        self.fresh().map(|(flow, _)| *flow).collect()
    }

    fn fresh(&self) -> impl Iterator<Item = (&Flow, &Dying)> {
        let lately = self.flows.values().map(|dying| dying.last).max().map(|last| last - FRESH);
        self.flows.iter().filter(move |(_, dying)| Some(dying.last) >= lately)
    }

    /// Whether each of the flows that died lately worked before it was denied. One that did not is
    /// reason enough to leave all of them alone: a policy that lets some of an incident's flows pass
    /// could not be told from one that does not help.
    pub(super) fn worked_before(&self) -> Result<(), Refusal> {
        self.fresh().try_for_each(|(flow, dying)| dying.worked_before(*flow))
    }
}

/// All incidents that are known.
#[derive(Clone, Debug, Default)]
pub(super) struct Incidents {
    known: BTreeMap<IncidentId, Known>,
    /// How each flow last died, by whatever cause. A flow is told before its incident is.
    died: BTreeMap<Flow, Death>,
}

/// The incident by which a flow last died, and what was told of it then.
#[derive(Clone, Debug)]
struct Death {
    incident: IncidentId,
    dying: Dying,
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
        let deaths = self.died.iter().filter(|(_, death)| death.incident == id);
        let known = self.known.entry(id).or_insert_with(|| {
            let mut known = Known::new(&told);
            for (flow, death) in deaths.take(FLOWS_MAX) {
                known.last = known.last.max(death.dying.last);
                known.flows.insert(*flow, death.dying.clone());
            }
            known
        });
        known.take(told);
    }

    /// Takes that a flow died; whether that is more of its incident than that it died once more.
    pub(super) fn died(&mut self, died: &Died) -> bool {
        let known = self.known.get_mut(&died.incident);
        let is_news = known.is_some_and(|known| known.died(died));
        if !self.died.contains_key(&died.flow) && self.died.len() >= DEATHS_MAX {
            let oldest = self.died.iter().min_by_key(|(_, death)| death.dying.last);
            if let Some(flow) = oldest.map(|(flow, _)| *flow) {
                self.died.remove(&flow);
            }
        }
        let incident = died.incident;
        match self.died.get_mut(&died.flow) {
            Some(death) if death.incident == incident => {
                death.dying.take(died);
            }
            Some(death) if death.dying.last > died.last => {}
            _ => {
                self.died.insert(died.flow, Death { incident, dying: Dying::new(died) });
            }
        }
        is_news
    }

    pub(super) fn get(&self, id: IncidentId) -> Option<&Known> {
        self.known.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (IncidentId, &Known)> {
        self.known.iter().map(|(id, known)| (*id, known))
    }

    /// When one of these flows last died, by whatever cause.
    pub(super) fn last_death(&self, flows: &BTreeSet<Flow>) -> Option<Timestamp> {
        flows.iter().filter_map(|flow| self.died.get(flow)).map(|death| death.dying.last).max()
    }
}
