//! What all nodes together report of an incident: nothing counted twice, the worst first.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    drops::ReportedDrop,
    from_drops::{cause_of, no_cause, path_of, plan_of},
    node_state::{NodeState, Status},
    paths::merged,
    reports::Reports,
};
use crate::{
    incident::{AffectedPath, IncidentCause, IncidentResolution, PlanStep, Severity},
    schema::{Changed, DropRecord, Remedy},
};

/// A number that several nodes report a part of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// As many there are, or more.
    pub at_least: u64,
    /// There are no more.
    pub is_exact: bool,
}

/// What one node reports of an incident.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSummary {
    /// Its name.
    pub node: String,
    /// Whether it goes on there; `None` where that node reports drops only.
    pub status: Option<Status>,
    /// How bad it is there.
    pub severity: Option<Severity>,
    /// When it was last reported.
    pub reported: Timestamp,
}

/// What all nodes together report of an incident.
///
/// Numbers and names are of all nodes on which it goes on, or of all, where it is over. Words are
/// of the one that says most: where it is worst, and of these where most pods are affected.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Whether it goes on: on one node is enough. Where only its drops are known, it does.
    pub status: Status,
    /// Whether an agent has reported it as an incident yet; else only its drops are known.
    pub is_reported: bool,
    /// How bad it is, at its worst; `None` where no agent has said.
    pub severity: Option<Severity>,
    /// What makes it so bad.
    pub severity_reasons: Vec<String>,
    /// How sure the cause is, from 0 to 1.
    pub confidence: f64,
    /// What speaks for and against it.
    pub confidence_reasons: Vec<String>,
    /// Why.
    pub cause: IncidentCause,
    /// Every change that a node or a drop names as its cause, the first first.
    pub changes: Vec<Changed>,
    /// Who cannot reach whom, the path that affects most pods first.
    pub affected: Vec<AffectedPath>,
    /// How many more paths are affected, at least.
    pub affected_not_listed: usize,
    /// Services without a ready endpoint, as far as is known: `NAMESPACE/NAME`.
    pub services_lost: Vec<String>,
    /// What becomes of established connections by this filter.
    pub established: Option<String>,
    /// Its drops, each counted once.
    pub drops: Count,
    /// Their packets that were dropped, each counted once.
    pub packets: Count,
    /// When the first packet was dropped.
    pub first: Timestamp,
    /// When the last one was.
    pub last: Timestamp,
    /// When one of the flows last got an answer before the first packet was dropped.
    pub last_success: Option<Timestamp>,
    /// How often it came back after it was resolved, on the node where it did most often.
    pub reopened: u32,
    /// Why it is over, by the node that reported so last.
    pub resolution: Option<IncidentResolution>,
    /// When it was reported to be over, by the node that did so last.
    pub resolved: Option<Timestamp>,
    /// What the agent that says most wrote: who is affected, why, since when, and more.
    pub text: String,
    /// Why its leading drop was dropped, in words; `None` where no record of a drop is kept.
    pub cause_text: Option<String>,
    /// What to do, in order.
    pub plan: Vec<PlanStep>,
    /// The nodes that report it, by name.
    pub nodes: Vec<NodeSummary>,
    /// The namespaces that take part: of the pods at both ends, and of the policies.
    pub namespaces: BTreeSet<String>,
}

impl Summary {
    /// What sorts incidents, the most urgent greatest.
    pub fn urgency(&self) -> (Status, u8, Timestamp) {
        // What no agent has judged yet may be anything: above what is known to be harmless.
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

    pub(super) fn of(reports: &Reports) -> Self {
        let mut summary = match reports.nodes.values().max_by_key(|state| precedence(state)) {
            Some(lead) => of_nodes(reports, lead),
            None => of_drops(reports),
        };
        for drop in reports.drops.values() {
            let (first, last) = drop.seen();
            summary.first = summary.first.min(first);
            summary.last = summary.last.max(last);
            summary.changes.extend(drop.record().cause.changed.clone());
        }
        summary.changes.sort_by(|a, b| (a.at, &a.object.name).cmp(&(b.at, &b.object.name)));
        summary.changes.dedup();
        summary.cause_text = leading_drop(reports).map(|record| record.cause.text.clone());
        summary.nodes = nodes(reports);
        summary.namespaces = namespaces(reports, &summary);
        (summary.drops, summary.packets) = counts(reports);
        summary
    }

    /// One of this cause, and nothing else that is known yet.
    const fn of_cause(cause: IncidentCause) -> Self {
        Self {
            status: Status::Open,
            is_reported: false,
            severity: None,
            severity_reasons: Vec::new(),
            confidence: 0.0,
            confidence_reasons: Vec::new(),
            cause,
            changes: Vec::new(),
            affected: Vec::new(),
            affected_not_listed: 0,
            services_lost: Vec::new(),
            established: None,
            drops: Count { at_least: 0, is_exact: false },
            packets: Count { at_least: 0, is_exact: false },
            first: Timestamp::MAX,
            last: Timestamp::MIN,
            last_success: None,
            reopened: 0,
            resolution: None,
            resolved: None,
            text: String::new(),
            cause_text: None,
            plan: Vec::new(),
            nodes: Vec::new(),
            namespaces: BTreeSet::new(),
        }
    }
}

/// What decides whose words are taken.
fn precedence(state: &NodeState) -> (Status, Severity, usize, Timestamp, &str) {
    let record = state.record();
    let pods = record.affected.iter().map(|path| path.pods).sum();
    (state.status(), record.severity, pods, state.reported(), &record.node)
}

/// An incident that nodes reported, in the words of one of them.
fn of_nodes(reports: &Reports, lead: &NodeState) -> Summary {
    let all = || reports.nodes.values();
    // Where it goes on says who is affected; where it is over everywhere, every node says who was.
    let going = || all().filter(|state| state.status() == lead.status());
    let record = lead.record();
    let services: BTreeSet<&String> = going().flat_map(|s| &s.record().services_lost).collect();
    let resolved = all().filter(|state| state.status() == Status::Resolved);
    let resolved = resolved.max_by_key(|state| (state.reported(), state.record().node.clone()));
    let resolved = resolved.filter(|_| lead.status() == Status::Resolved);
    Summary {
        status: lead.status(),
        is_reported: true,
        severity: Some(record.severity),
        severity_reasons: record.severity_reasons.clone(),
        confidence: record.confidence,
        confidence_reasons: record.confidence_reasons.clone(),
        changes: all().flat_map(|state| state.record().cause.changed.clone()).collect(),
        affected: merged(going().flat_map(|state| &state.record().affected)),
        affected_not_listed: going().map(|s| s.record().affected_untold).max().unwrap_or(0),
        services_lost: services.into_iter().cloned().collect(),
        established: record.established.clone(),
        first: all().map(|state| state.seen().0).min().unwrap_or_default(),
        last: all().map(|state| state.seen().1).max().unwrap_or_default(),
        last_success: all().filter_map(NodeState::last_success).max(),
        reopened: all().map(|state| state.record().reopened).max().unwrap_or(0),
        resolution: resolved.and_then(|state| state.record().resolution.clone()),
        resolved: resolved.map(NodeState::reported),
        text: record.text.clone(),
        plan: record.plan.clone(),
        ..Summary::of_cause(record.cause.clone())
    }
}

/// The drop that says most of the cause.
fn leading_drop(reports: &Reports) -> Option<&DropRecord> {
    let weight = |drop: &&ReportedDrop| {
        let record = drop.record();
        (record.primary, record.cause.confidence.to_bits(), drop.reported(), record.id.clone())
    };
    reports.drops.values().max_by_key(weight).map(ReportedDrop::record)
}

/// An incident that no agent has reported as one yet, by its drops.
fn of_drops(reports: &Reports) -> Summary {
    let Some(lead) = leading_drop(reports) else { return Summary::of_cause(no_cause()) };
    let all = || reports.drops.values();
    let first = all().map(|drop| drop.seen().0).min().unwrap_or_default();
    let before = |drop: &ReportedDrop| drop.last_success().filter(|success| *success <= first);
    let paths: Vec<AffectedPath> = all().map(|drop| path_of(drop.record())).collect();
    Summary {
        confidence: lead.cause.confidence,
        confidence_reasons: lead.cause.reasons.clone(),
        affected: merged(paths.iter()),
        last_success: all().filter_map(before).max(),
        text: lead.cause.text.clone(),
        plan: plan_of(lead),
        ..Summary::of_cause(cause_of(lead))
    }
}

fn nodes(reports: &Reports) -> Vec<NodeSummary> {
    let mut nodes: BTreeMap<&str, NodeSummary> = BTreeMap::new();
    for (node, state) in &reports.nodes {
        let summary = NodeSummary {
            node: node.clone(),
            status: Some(state.status()),
            severity: Some(state.record().severity),
            reported: state.reported(),
        };
        nodes.insert(node, summary);
    }
    for drop in reports.drops.values() {
        for node in drop.nodes() {
            let reported = drop.reported();
            let new = || NodeSummary { node: node.clone(), status: None, severity: None, reported };
            let summary = nodes.entry(node).or_insert_with(new);
            if summary.status.is_none() {
                summary.reported = summary.reported.max(reported);
            }
        }
    }
    nodes.into_values().collect()
}

fn namespaces(reports: &Reports, summary: &Summary) -> BTreeSet<String> {
    let paths = summary.affected.iter();
    let ends = paths.flat_map(|path| [&path.source.namespace, &path.destination.namespace]);
    let drops = reports.drops.values().map(|drop| &drop.record().flow);
    let drops = drops.flat_map(|flow| [&flow.source.namespace, &flow.destination.namespace]);
    let policies = summary.cause.responsible.iter().map(|policy| &policy.namespace);
    ends.chain(drops).chain(policies).flatten().cloned().collect()
}

/// Drops and packets, each counted once: by their ids, where these are known. Where nodes report only
/// numbers, two may count the same, so the larger number is taken.
fn counts(reports: &Reports) -> (Count, Count) {
    let tracked = &reports.tracked;
    let mut named: BTreeSet<&str> = BTreeSet::new();
    let (mut unnamed, mut unseen): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
    for (node, state) in &reports.nodes {
        let linked = &state.record().drops;
        let of_node = tracked.of_node(node);
        let mut known_of_node = of_node.drops;
        for id in &linked.ids {
            let (is_known, by_node) = tracked.knows(id, node);
            known_of_node += u64::from(!by_node);
            if !is_known {
                named.insert(id);
            }
        }
        unnamed.push(linked.count.saturating_sub(known_of_node));
        unseen.push(linked.packets.saturating_sub(of_node.packets));
    }
    let count = |known: u64, unknown: &[u64]| Count {
        at_least: known + unknown.iter().max().unwrap_or(&0),
        is_exact: unknown.iter().all(|unknown| *unknown == 0) && tracked.untracked() == 0,
    };
    (count(tracked.len() + named.len() as u64, &unnamed), count(tracked.packets(), &unseen))
}
