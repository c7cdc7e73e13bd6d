//! Incidents as the agents report them, of all nodes merged.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::{
    Between, CaseId, PathName, Refusal,
    past::{FlowPast, Past},
    share::{Owner, give_way},
};
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
    /// When the last packet was dropped.
    pub last: Timestamp,
    /// How bad it is.
    pub severity: Severity,
    /// How sure the cause is, from 0 to 1.
    pub confidence: f64,
    /// The namespace of the clients that it names first.
    pub client: Option<Arc<str>>,
    /// Its paths that pass by now, or that policies allow.
    pub recovered: BTreeMap<PathName, Recovery>,
}

/// How it is known that a path is not cut any more, what says more last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Recovery {
    /// Policies do not deny it any more.
    Allowed,
    /// It was seen to pass, at this time.
    Passes(Timestamp),
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
    /// The namespaces of its ends.
    pub between: Between,
    /// The path that it is of.
    pub path: PathName,
    /// When it was last dropped.
    pub last: Timestamp,
    /// What there was before.
    pub past: FlowPast,
    /// Why.
    pub cause: DropCause,
}

/// Why a flow was dropped, as an agent judged it.
#[derive(Clone, Debug, PartialEq)]
pub struct DropCause {
    /// What kind of cause it is.
    pub class: Class,
    /// How sure that is, from 0 to 1.
    pub confidence: f64,
    /// The policy to look at first.
    pub policy: Option<PolicyRef>,
    /// The policy whose change made it so, where one did.
    pub changed: Option<PolicyRef>,
    /// Whether there is a verified remedy for it.
    pub has_remedy: bool,
}

/// A flow that was dropped, by all that was reported of it.
#[derive(Clone, Debug)]
pub(super) struct KnownFlow {
    pub(super) last: Timestamp,
    pub(super) between: Between,
    pub(super) path: PathName,
    /// The most certain of what the agents say last, and whether any has a remedy.
    pub(super) cause: DropCause,
    pub(super) past: Past,
}

impl KnownFlow {
    fn new(drop: &DropReport) -> Self {
        Self {
            last: drop.last,
            between: drop.between.clone(),
            path: drop.path.clone(),
            cause: drop.cause.clone(),
            past: Past::of(drop.node.clone(), drop.past),
        }
    }

    /// Adds a report of it; whether that says something else than that it was dropped once more.
    fn add(&mut self, drop: &DropReport) -> bool {
        // Its addresses are others' by now: nothing that was known is of them.
        if self.between != drop.between {
            *self = Self::new(drop);
            return true;
        }
        self.last = self.last.max(drop.last);
        self.path = drop.path.clone();
        let before = self.cause.clone();
        let is_less_sure =
            drop.cause.class == before.class && drop.cause.confidence < before.confidence;
        if !is_less_sure {
            self.cause = drop.cause.clone();
        }
        self.cause.has_remedy |= before.has_remedy;
        self.cause.changed = drop.cause.changed.clone().or(before.changed.clone());
        let is_news = self.cause != before;
        // What is dropped though policies allow it, and what works since, says nothing of the time before
        // it was denied.
        let works_since = drop.past.worked.is_some_and(|worked| worked.last > drop.last);
        let is_of_before = drop.cause.class.is_denial() && !works_since;
        is_of_before && self.past.add(drop.node.clone(), drop.past) || is_news
    }
}

/// One incident, by all that was reported of it.
#[derive(Clone, Debug)]
pub(super) struct KnownIncident {
    last: Timestamp,
    client: Owner,
    /// The last report of each node; there is one at least.
    nodes: BTreeMap<Arc<str>, IncidentReport>,
    /// The last report of all.
    latest: IncidentReport,
    flows: BTreeMap<Flow, KnownFlow>,
}

impl KnownIncident {
    fn new(report: &IncidentReport) -> Self {
        Self {
            last: report.last,
            client: report.client.clone(),
            nodes: BTreeMap::new(),
            latest: report.clone(),
            flows: BTreeMap::new(),
        }
    }

    fn add_report(&mut self, report: IncidentReport) {
        self.last = self.last.max(report.last);
        if self.nodes.len() < NODES_MAX || self.nodes.contains_key(&report.node) {
            self.nodes.insert(report.node.clone(), report.clone());
        }
        self.latest = report;
    }

    fn open(&self) -> impl Iterator<Item = &IncidentReport> {
        self.nodes.values().filter(|report| report.state == IncidentState::Open)
    }

    /// How sure its cause is by the node that is the most certain of those where it goes on: the one
    /// on which packets are dropped knows more than the one from which they leave.
    pub(super) fn confidence(&self) -> f64 {
        let surest = self.open().map(|report| report.confidence).max_by(f64::total_cmp);
        surest.unwrap_or(self.latest.confidence)
    }

    /// How bad it is where it is worst.
    pub(super) fn severity(&self) -> Severity {
        self.open().map(|report| report.severity).max().unwrap_or(self.latest.severity)
    }

    /// Whether it goes on at any node.
    pub(super) fn is_open(&self) -> bool {
        self.open().next().is_some()
    }

    /// Adds a drop of one of its flows; whether that is more than that it was dropped once more.
    fn add_drop(&mut self, drop: &DropReport) -> bool {
        self.last = self.last.max(drop.last);
        if let Some(known) = self.flows.get_mut(&drop.flow) {
            return known.add(drop);
        }
        if self.flows.len() >= FLOWS_MAX && !make_room(&mut self.flows, &drop.between.client) {
            return false;
        }
        self.flows.insert(drop.flow, KnownFlow::new(drop));
        true
    }

    /// Between whom it is.
    fn betweens(&self) -> BTreeSet<&Between> {
        self.flows.values().map(|known| &known.between).collect()
    }

    /// The flows between these that were dropped lately.
    pub(super) fn recent(&self, between: &Between) -> impl Iterator<Item = (&Flow, &KnownFlow)> {
        let own = self.flows.iter().filter(move |(_, known)| known.between == *between);
        let lately = own.clone().map(|(_, known)| known.last).max().map(|last| last - RECENT);
        own.filter(move |(_, known)| Some(known.last) >= lately)
    }

    /// What became of one of these paths, as far as agents have seen that it goes on no more.
    pub(super) fn recovered(&self, paths: &BTreeSet<PathName>) -> Option<Recovery> {
        let seen = self.nodes.values().flat_map(|report| {
            let of_paths = report.recovered.iter().filter(|(path, _)| paths.contains(path));
            let of_paths = of_paths.map(|(_, at)| *at);
            // An agent that does not say which, says it of all of them.
            let of_all = match report.state {
                IncidentState::Passes(at) => Some(Recovery::Passes(at)),
                IncidentState::Allowed => Some(Recovery::Allowed),
                IncidentState::Open | IncidentState::Silent => None,
            };
            of_paths.chain(of_all.filter(|_| report.recovered.is_empty()))
        });
        seen.max()
    }
}

/// Makes room in a full table of flows for one of this owner's; whether there is any.
fn make_room(flows: &mut BTreeMap<Flow, KnownFlow>, newcomer: &Owner) -> bool {
    let entries = flows.iter().map(|(flow, known)| (*flow, &known.between.client, known.last));
    let gone = give_way(entries, newcomer, 1);
    gone.into_iter().any(|flow| flows.remove(&flow).is_some())
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
pub(super) struct LastDrop {
    pub(super) incident: IncidentId,
    pub(super) state: KnownFlow,
}

/// How many flows' last drops are known, whatever their incidents.
const LAST_DROPS_MAX: usize = 8192;

/// How many of them give way at once at most.
const LAST_DROPS_GONE: usize = LAST_DROPS_MAX / 16;

impl Incidents {
    /// Adds a report of an incident; between whom it is, as far as its flows are known.
    pub(super) fn add_report(&mut self, report: IncidentReport) -> Vec<CaseId> {
        let id = report.id;
        if !self.known.contains_key(&id) && self.known.len() >= INCIDENTS_MAX {
            self.make_room(&report.client);
        }
        if !self.known.contains_key(&id) && self.known.len() >= INCIDENTS_MAX {
            return Vec::new();
        }
        let own_drops = self.last_drops.iter().filter(|(_, last_drop)| last_drop.incident == id);
        let known = self.known.entry(id).or_insert_with(|| {
            let mut known = KnownIncident::new(&report);
            for (flow, last_drop) in own_drops {
                known.last = known.last.max(last_drop.state.last);
                let client = &last_drop.state.between.client;
                if known.flows.len() < FLOWS_MAX || make_room(&mut known.flows, client) {
                    known.flows.insert(*flow, last_drop.state.clone());
                }
            }
            known
        });
        known.add_report(report);
        let betweens = known.betweens().into_iter().cloned();
        betweens.map(|between| CaseId { incident: id, between }).collect()
    }

    /// Evicts what is over first, of that the oldest; then of whoever has the most.
    fn make_room(&mut self, newcomer: &Owner) {
        let over = self.known.iter().filter(|(_, known)| !known.is_open());
        let over = over.min_by_key(|(_, known)| known.last).map(|(id, _)| *id);
        let entries = self.known.iter().map(|(id, known)| (*id, &known.client, known.last));
        let gone = over.map_or_else(|| give_way(entries, newcomer, 1), |id| vec![id]);
        self.known.retain(|id, _| !gone.contains(id));
    }

    /// Adds a drop of a flow; whether that says more of its incident than that it was dropped once
    /// more.
    pub(super) fn add_drop(&mut self, drop: &DropReport) -> bool {
        let known = self.known.get_mut(&drop.incident);
        let is_news = known.is_some_and(|known| known.add_drop(drop));
        if !self.last_drops.contains_key(&drop.flow) && self.last_drops.len() >= LAST_DROPS_MAX {
            let entries = self
                .last_drops
                .iter()
                .map(|(flow, LastDrop { state, .. })| (*flow, &state.between.client, state.last));
            let gone = give_way(entries, &drop.between.client, LAST_DROPS_GONE);
            if gone.is_empty() {
                return is_news;
            }
            for flow in gone {
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

    /// The flows of a case that were dropped lately, and qualify: those that agents saw work before
    /// they were denied. Of none, why.
    ///
    /// # Errors
    /// Why the first of them does not, where none does.
    pub(super) fn qualified(
        &self,
        case: &CaseId,
        min_worked: SignedDuration,
    ) -> Result<BTreeMap<Flow, &KnownFlow>, Refusal> {
        let (mut qualified, mut first) = (BTreeMap::new(), None);
        let recent = self.get(case.incident).map(|known| known.recent(&case.between));
        for (flow, known) in recent.into_iter().flatten() {
            let is_denial = match known.cause.class {
                Class::ExplicitDeny => Err(match known.cause.policy.clone() {
                    Some(policy) => Refusal::ExplicitDeny(policy),
                    None => Refusal::ExplicitDenyByUnknown,
                }),
                class if !class.is_denial() => Err(Refusal::NotADenial(class)),
                _ => Ok(()),
            };
            match is_denial.and_then(|()| known.past.worked_before(*flow, min_worked, |_| true)) {
                Ok(()) => {
                    qualified.insert(*flow, known);
                }
                Err(why) => first = first.or(Some(why)),
            }
        }
        match first {
            Some(why) if qualified.is_empty() => Err(why),
            _ => Ok(qualified),
        }
    }

    /// The flows of a case that worked before they were denied, whatever is dropped of them by now.
    pub(super) fn had(
        &self,
        case: &CaseId,
        min_worked: SignedDuration,
    ) -> impl Iterator<Item = (&Flow, &KnownFlow)> {
        let own = self.get(case.incident).map(|known| known.recent(&case.between));
        let had = move |(flow, known): &(&Flow, &KnownFlow)| {
            known.past.worked_before(**flow, min_worked, |_| true).is_ok()
        };
        own.into_iter().flatten().filter(had)
    }

    /// How flows were last dropped.
    pub(super) fn last_drops(&self) -> impl Iterator<Item = (&Flow, &LastDrop)> {
        self.last_drops.iter()
    }
}
