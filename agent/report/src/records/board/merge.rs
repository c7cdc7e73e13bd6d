//! What all nodes together tell of an incident: nothing counted twice, the worst told first.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use jiff::Timestamp;

use super::{
    drops::ToldDrop,
    incident::{Incident, NodeState, Status},
};
use crate::{
    Changed, Direction, DropRecord, End, Remedy,
    incident::{
        AffectedPath, ChangedBy, IncidentCause, IncidentResolution, PathEnd, PlanStep, Severity,
        Sufferer,
    },
};

/// How many pods or addresses are named of one end of a path; all are counted.
const NAMES_MAX: usize = 64;

/// A number that several nodes tell a part of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// As many there are, or more.
    pub at_least: u64,
    /// There are no more.
    pub is_exact: bool,
}

/// What one node tells of an incident.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSummary {
    /// Its name.
    pub node: String,
    /// Whether it goes on there; `None` where that node tells of drops only.
    pub status: Option<Status>,
    /// How bad it is there.
    pub severity: Option<Severity>,
    /// When it was last told.
    pub told: Timestamp,
}

/// What all nodes together tell of an incident.
///
/// Numbers and names are of all nodes on which it goes on, or of all, where it is over. Words are
/// of the one that says most: where it is worst, and of these where most pods suffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Whether it goes on: on one node is enough. Where only drops tell of it, it does.
    pub status: Status,
    /// Whether an agent has told it as an incident yet; else its drops alone speak for it.
    pub is_told: bool,
    /// How bad it is, at its worst; `None` where nobody has said.
    pub severity: Option<Severity>,
    /// What makes it so bad.
    pub severity_reasons: Vec<String>,
    /// How sure the cause is, from 0 to 1.
    pub confidence: f64,
    /// What speaks for and against it.
    pub confidence_reasons: Vec<String>,
    /// Why.
    pub cause: IncidentCause,
    /// Every change that a node or a drop tells of as its cause, the first first.
    pub changes: Vec<Changed>,
    /// Who cannot reach whom, what most pods suffer by first.
    pub affected: Vec<AffectedPath>,
    /// How many more paths are affected, at least.
    pub affected_untold: usize,
    /// Services without a ready endpoint, as far as is known: `NAMESPACE/NAME`.
    pub services_lost: Vec<String>,
    /// What becomes of established connections by this filter.
    pub established: Option<String>,
    /// Its drops, each counted once.
    pub drops: Count,
    /// The packets that died of them, each counted once.
    pub packets: Count,
    /// When the first packet died.
    pub first: Timestamp,
    /// When the last one did.
    pub last: Timestamp,
    /// When one of the flows last got an answer before the first packet died.
    pub last_success: Option<Timestamp>,
    /// How often it came back after it was resolved, on the node where it did most often.
    pub reopened: u32,
    /// Why it is over, by the node that told so last.
    pub resolution: Option<IncidentResolution>,
    /// When it was told to be over, by the node that did so last.
    pub resolved: Option<Timestamp>,
    /// The root cause, in words.
    pub text: String,
    /// What to do, in order.
    pub plan: Vec<PlanStep>,
    /// The nodes that tell of it, by name.
    pub nodes: Vec<NodeSummary>,
    /// The namespaces that take part: of the pods at both ends, and of the policies.
    pub namespaces: BTreeSet<String>,
}

impl Summary {
    /// What sorts incidents, the most urgent greatest.
    pub fn urgency(&self) -> (Status, u8, Timestamp) {
        // What nobody has judged yet may be anything: above what is known to be harmless.
        let severity = match self.severity {
            Some(Severity::Critical) => 3,
            Some(Severity::Warning) => 2,
            None => 1,
            Some(Severity::Info) => 0,
        };
        (self.status, severity, self.first)
    }

    /// The remedy to apply first.
    pub fn remedy(&self) -> Option<&Remedy> {
        self.plan.iter().find_map(|step| step.remedy.as_ref())
    }

    pub(super) fn of(incident: &Incident) -> Self {
        let states = incident.nodes();
        let status = states.values().map(NodeState::status).max();
        let mut summary = match states.values().max_by_key(|state| leads(state)) {
            Some(lead) => told(incident, lead),
            None => untold(incident),
        };
        summary.status = status.unwrap_or(Status::Open);
        for drop in incident.drops() {
            let (first, last) = drop.seen();
            summary.first = summary.first.min(first);
            summary.last = summary.last.max(last);
            summary.changes.extend(drop.record().cause.changed.clone());
        }
        summary.changes.sort_by(|a, b| (&a.at, &a.object.name).cmp(&(&b.at, &b.object.name)));
        summary.changes.dedup();
        summary.nodes = nodes(incident);
        summary.namespaces = namespaces(incident, &summary);
        (summary.drops, summary.packets) = counts(incident);
        summary
    }
}

/// What decides whose words are told.
fn leads(state: &NodeState) -> (Status, Severity, usize, Timestamp, &str) {
    let record = state.record();
    let pods = record.affected.iter().map(|path| path.pods).sum();
    (state.status(), record.severity, pods, state.told(), &record.node)
}

fn told(incident: &Incident, lead: &NodeState) -> Summary {
    let all = || incident.nodes().values();
    // Where it goes on says who suffers; where it is over everywhere, every node says who did.
    let going = || all().filter(|state| state.status() == lead.status());
    let record = lead.record();
    let services: BTreeSet<&String> = going().flat_map(|s| &s.record().services_lost).collect();
    let resolved = all().filter(|state| state.status() == Status::Resolved);
    let resolved = resolved.max_by_key(|state| (state.told(), state.record().node.clone()));
    let resolved = resolved.filter(|_| lead.status() == Status::Resolved);
    Summary {
        status: lead.status(),
        is_told: true,
        severity: Some(record.severity),
        severity_reasons: record.severity_reasons.clone(),
        confidence: record.confidence,
        confidence_reasons: record.confidence_reasons.clone(),
        cause: record.cause.clone(),
        changes: all().flat_map(|state| state.record().cause.changed.clone()).collect(),
        affected: paths(going().flat_map(|state| &state.record().affected)),
        affected_untold: going().map(|s| s.record().affected_untold).max().unwrap_or(0),
        services_lost: services.into_iter().cloned().collect(),
        established: record.established.clone(),
        drops: Count::default(),
        packets: Count::default(),
        first: all().map(|state| state.seen().0).min().unwrap_or_default(),
        last: all().map(|state| state.seen().1).max().unwrap_or_default(),
        last_success: all().filter_map(NodeState::last_success).max(),
        reopened: all().map(|state| state.record().reopened).max().unwrap_or(0),
        resolution: resolved.and_then(|state| state.record().resolution.clone()),
        resolved: resolved.map(NodeState::told),
        text: record.text.clone(),
        plan: record.plan.clone(),
        nodes: Vec::new(),
        namespaces: BTreeSet::new(),
    }
}

/// The incident of drops of which no agent has told as one.
fn untold(incident: &Incident) -> Summary {
    let weight = |drop: &&ToldDrop| {
        let record = drop.record();
        (record.primary, record.cause.confidence.to_bits(), drop.told(), record.id.clone())
    };
    let lead = incident.drops().max_by_key(weight).map(ToldDrop::record);
    let cause = lead.map(|lead| &lead.cause);
    let (first, last) = incident
        .drops()
        .map(ToldDrop::seen)
        .fold((Timestamp::MAX, Timestamp::MIN), |(first, last), seen| {
            (first.min(seen.0), last.max(seen.1))
        });
    let before = |drop: &ToldDrop| drop.last_success().filter(|success| *success <= first);
    let paths_told: Vec<AffectedPath> = incident.drops().map(|d| path(d.record())).collect();
    let apply = lead.and_then(|lead| lead.remedy.clone()).map(|remedy| PlanStep {
        step: "apply".to_owned(),
        text: remedy.summary.clone(),
        remedy: Some(remedy),
        pods: Vec::new(),
        condition: None,
        flow: None,
        command: None,
        newly_allowed: None,
        changed: None,
    });
    Summary {
        status: Status::Open,
        is_told: false,
        severity: None,
        severity_reasons: Vec::new(),
        confidence: cause.map_or(0.0, |cause| cause.confidence),
        confidence_reasons: cause.map_or_else(Vec::new, |cause| cause.reasons.clone()),
        cause: lead.map_or_else(no_cause, cause_of),
        changes: Vec::new(),
        affected: paths(paths_told.iter()),
        affected_untold: 0,
        services_lost: Vec::new(),
        established: None,
        drops: Count::default(),
        packets: Count::default(),
        first,
        last,
        last_success: incident.drops().filter_map(before).max(),
        reopened: 0,
        resolution: None,
        resolved: None,
        text: cause.map_or_else(String::new, |cause| cause.text.clone()),
        plan: apply.into_iter().collect(),
        nodes: Vec::new(),
        namespaces: BTreeSet::new(),
    }
}

fn no_cause() -> IncidentCause {
    IncidentCause {
        class: "cannot-tell".to_owned(),
        direction: None,
        situation: None,
        policy: None,
        responsible: Vec::new(),
        changed: Vec::new(),
        denied_since: None,
        changed_by: ChangedBy::Unknown,
        known_since: None,
    }
}

fn cause_of(record: &DropRecord) -> IncidentCause {
    let cause = &record.cause;
    let responsible = match cause.direction {
        Some(Direction::Egress) => record.verdict.egress.isolating.clone(),
        Some(Direction::Ingress) => record.verdict.ingress.isolating.clone(),
        None => Vec::new(),
    };
    IncidentCause {
        class: cause.class.clone(),
        direction: cause.direction,
        situation: cause.situation,
        policy: cause.policy.clone(),
        responsible,
        changed: cause.changed.iter().cloned().collect(),
        denied_since: cause.denied_since.clone(),
        changed_by: ChangedBy::Unknown,
        known_since: None,
    }
}

/// The path of one drop.
fn path(record: &DropRecord) -> AffectedPath {
    let end = |end: &End| {
        let mut told = PathEnd {
            name: end.ip.clone(),
            namespace: end.namespace.clone(),
            workload: end.workload.clone(),
            pod: None,
            node: None,
        };
        match (&end.namespace, &end.workload, &end.pod, &end.node) {
            (Some(namespace), Some(workload), _, _) => {
                told.name = format!("{namespace}/{}", workload.name);
            }
            (Some(namespace), None, Some(pod), _) => {
                told.name = format!("{namespace}/{pod}");
                told.pod = Some(pod.clone());
            }
            (None, _, _, Some(node)) => {
                told.name = format!("node {node}");
                told.node = Some(node.clone());
            }
            _ => {}
        }
        told
    };
    let name = |end: &End| match (&end.namespace, &end.pod) {
        (Some(namespace), Some(pod)) => format!("{namespace}/{pod}"),
        _ => end.ip.clone(),
    };
    let (source, destination) = (&record.flow.source, &record.flow.destination);
    let sufferer = match source.pod.is_some() || destination.pod.is_none() {
        true => Sufferer::Source,
        false => Sufferer::Destination,
    };
    let (own, other) = match sufferer {
        Sufferer::Source => (name(source), name(destination)),
        Sufferer::Destination => (name(destination), name(source)),
    };
    AffectedPath {
        source: end(source),
        destination: end(destination),
        port: destination.port.unwrap_or_default(),
        protocol: record.flow.protocol.clone(),
        sufferer,
        pods: 1,
        replicas: 1,
        knows_all: false,
        replicas_ready: None,
        pods_not_ready: None,
        restarts: None,
        restarts_since: None,
        pod_names: vec![own],
        others: vec![other],
        last_success: record.evidence.last_success.clone(),
        successes: record.evidence.successes,
    }
}

/// One path for all that are told of the same ends, with the pods of all of them.
fn paths<'a>(told: impl Iterator<Item = &'a AffectedPath>) -> Vec<AffectedPath> {
    let mut merged: BTreeMap<_, Vec<&AffectedPath>> = BTreeMap::new();
    for path in told {
        let is_source = path.sufferer == Sufferer::Source;
        let (source, destination) = (&path.source.name, &path.destination.name);
        let key = (source, destination, path.port, &path.protocol, is_source);
        merged.entry(key).or_default().push(path);
    }
    let mut paths: Vec<AffectedPath> = merged.into_values().filter_map(|of| merge(&of)).collect();
    paths.sort_by_key(|path| Reverse(path.pods));
    paths
}

fn merge(told: &[&AffectedPath]) -> Option<AffectedPath> {
    // What knows all pods of the cluster knows best how many there are.
    let best = told.iter().max_by_key(|path| (path.knows_all, path.replicas, &path.pod_names))?;
    let names: BTreeSet<&String> = told.iter().flat_map(|path| &path.pod_names).collect();
    let others: BTreeSet<&String> = told.iter().flat_map(|path| &path.others).collect();
    let unnamed = told.iter().map(|path| path.pods.saturating_sub(path.pod_names.len())).max();
    let pods = names.len() + unnamed.unwrap_or(0);
    Some(AffectedPath {
        pods,
        replicas: best.replicas.max(pods),
        knows_all: best.knows_all,
        pod_names: names.into_iter().take(NAMES_MAX).cloned().collect(),
        others: others.into_iter().take(NAMES_MAX).cloned().collect(),
        // All are in the one form that sorts by time.
        last_success: told.iter().filter_map(|path| path.last_success.clone()).max(),
        // At the least, of whoever tells it.
        successes: told.iter().map(|path| path.successes).min().unwrap_or(0),
        ..(*best).clone()
    })
}

fn nodes(incident: &Incident) -> Vec<NodeSummary> {
    let mut nodes: BTreeMap<&str, NodeSummary> = BTreeMap::new();
    for (node, state) in incident.nodes() {
        let summary = NodeSummary {
            node: node.clone(),
            status: Some(state.status()),
            severity: Some(state.record().severity),
            told: state.told(),
        };
        nodes.insert(node, summary);
    }
    for drop in incident.drops() {
        for node in drop.nodes() {
            let told = drop.told();
            let new = || NodeSummary { node: node.clone(), status: None, severity: None, told };
            let summary = nodes.entry(node).or_insert_with(new);
            if summary.status.is_none() {
                summary.told = summary.told.max(told);
            }
        }
    }
    nodes.into_values().collect()
}

fn namespaces(incident: &Incident, summary: &Summary) -> BTreeSet<String> {
    let paths = summary.affected.iter();
    let ends = paths.flat_map(|path| [&path.source.namespace, &path.destination.namespace]);
    let drops = incident.drops().map(|drop| &drop.record().flow);
    let drops = drops.flat_map(|flow| [&flow.source.namespace, &flow.destination.namespace]);
    let policies = summary.cause.responsible.iter().map(|policy| &policy.namespace);
    ends.chain(drops).chain(policies).flatten().cloned().collect()
}

/// Drops and packets, each counted once: by their ids, where these are known. Of what nodes only
/// tell the number of, two may mean the same, so the larger number counts.
fn counts(incident: &Incident) -> (Count, Count) {
    let tracked = incident.tracked();
    let mut named: BTreeSet<&str> = BTreeSet::new();
    let (mut unnamed, mut untold): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
    for (node, state) in incident.nodes() {
        let told = &state.record().drops;
        let of_node = tracked.of_node(node);
        let mut known_of_node = of_node.drops;
        for id in &told.ids {
            let (is_known, by_node) = tracked.knows(id, node);
            known_of_node += u64::from(!by_node);
            if !is_known {
                named.insert(id);
            }
        }
        unnamed.push(told.count.saturating_sub(known_of_node));
        untold.push(told.packets.saturating_sub(of_node.packets));
    }
    let count = |known: u64, unknown: &[u64]| Count {
        at_least: known + unknown.iter().max().unwrap_or(&0),
        is_exact: unknown.iter().all(|unknown| *unknown == 0) && tracked.untracked() == 0,
    };
    (count(tracked.len() + named.len() as u64, &unnamed), count(tracked.packets(), &untold))
}
