//! Which incidents are shown.

use std::collections::BTreeSet;

use whydrop_core::diagnosis::Class;
use whydrop_report::{
    Word,
    incident::Severity,
    records::board::{Board, Incident, Status},
};

use super::words;

/// Whether what is over is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shown {
    /// Everything.
    #[default]
    All,
    /// What goes on, or may.
    Open,
    /// What is over.
    Resolved,
}

/// Which incidents are shown. What is not set does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// This bad, or worse; what no agent has judged yet is shown with warnings.
    pub severity: Option<Severity>,
    /// It is at either end, or has a policy responsible.
    pub namespace: Option<String>,
    /// Its agent reports it.
    pub node: Option<String>,
    /// Of this class.
    pub class: Option<Word<Class>>,
    /// Open, or over.
    pub shown: Shown,
    /// Every word of it is somewhere in what is known of the incident.
    pub text: String,
}

impl Filter {
    /// Whether an incident is shown.
    pub fn admits(&self, incident: &Incident) -> bool {
        let summary = incident.summary();
        let severity = summary.severity.unwrap_or(Severity::Warning);
        let is_shown = match self.shown {
            Shown::All => true,
            Shown::Open => summary.status != Status::Resolved,
            Shown::Resolved => summary.status == Status::Resolved,
        };
        is_shown
            && self.severity.is_none_or(|least| severity >= least)
            && self.namespace.as_ref().is_none_or(|ns| summary.namespaces.contains(ns))
            && self.node.as_ref().is_none_or(|node| summary.nodes.iter().any(|n| n.node == *node))
            && self.class.as_ref().is_none_or(|class| summary.cause.class == *class)
            && self.has_words(incident)
    }

    fn has_words(&self, incident: &Incident) -> bool {
        if self.text.trim().is_empty() {
            return true;
        }
        let text = searched(incident).to_lowercase();
        self.text.to_lowercase().split_whitespace().all(|word| text.contains(word))
    }

    /// What is filtered by, in words; empty where nothing is.
    pub(super) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        match self.shown {
            Shown::All => {}
            Shown::Open => words.push("open".to_owned()),
            Shown::Resolved => words.push("over".to_owned()),
        }
        match self.severity {
            Some(Severity::Critical) => words.push("critical".to_owned()),
            Some(least) => words.push(format!("{least} or worse")),
            None => {}
        }
        words.extend(self.namespace.iter().map(|namespace| format!("namespace {namespace}")));
        words.extend(self.node.iter().map(|node| format!("node {node}")));
        words.extend(self.class.iter().map(|class| format!("class {class}")));
        if !self.text.trim().is_empty() {
            words.push(format!("“{}”", self.text.trim()));
        }
        words
    }

    pub(super) fn next_severity(&mut self) {
        self.severity = match self.severity {
            None => Some(Severity::Critical),
            Some(Severity::Critical) => Some(Severity::Warning),
            Some(_) => None,
        };
    }

    pub(super) fn next_shown(&mut self) {
        self.shown = match self.shown {
            Shown::All => Shown::Open,
            Shown::Open => Shown::Resolved,
            Shown::Resolved => Shown::All,
        };
    }

    pub(super) fn next_namespace(&mut self, board: &Board) {
        let all = board.incidents().flat_map(|incident| incident.summary().namespaces.clone());
        next(&mut self.namespace, all.collect());
    }

    pub(super) fn next_node(&mut self, board: &Board) {
        next(&mut self.node, board.agents().map(|agent| agent.node().to_owned()).collect());
    }

    pub(super) fn next_class(&mut self, board: &Board) {
        let all = board.incidents().map(|incident| incident.summary().cause.class.clone());
        next(&mut self.class, all.collect());
    }
}

/// The one after it, and none after the last.
fn next<T: Ord>(chosen: &mut Option<T>, all: BTreeSet<T>) {
    *chosen = all.into_iter().find(|name| chosen.as_ref().is_none_or(|chosen| name > chosen));
}

/// Everything about an incident that somebody may look for.
fn searched(incident: &Incident) -> String {
    let summary = incident.summary();
    let mut text = format!("{} {} {}", incident.id(), summary.cause.class, summary.text);
    let mut add = |word: &str| {
        text.push(' ');
        text.push_str(word);
    };
    for path in &summary.affected {
        add(&words::path_text(path));
        for name in path.pod_names.iter().chain(&path.others) {
            add(name);
        }
    }
    for policy in &summary.cause.responsible {
        add(&policy.name);
    }
    for drop in incident.drops() {
        let record = drop.record();
        let (source, destination) = (&record.flow.source, &record.flow.destination);
        add(&record.id);
        for end in [source, destination] {
            add(&end.ip);
            for name in end.pod.iter().chain(end.service.as_ref().map(|service| &service.name)) {
                add(name);
            }
        }
    }
    for node in &summary.nodes {
        add(&node.node);
    }
    text
}
