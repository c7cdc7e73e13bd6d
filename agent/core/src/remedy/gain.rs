//! What a change of the cluster newly lets pass.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    cluster::{
        Snapshot,
        resolve::{Endpoint, Holder},
    },
    flow::Protocol,
    verdict::{Decision, Question, Verdict, evaluate},
};

/// How many paths are kept by name, those with most pairs first; all are counted.
const PATHS_MAX: usize = 8;

/// The cluster before and after a change that somebody thinks about.
#[derive(Clone, Copy)]
pub(super) struct WhatIf<'a> {
    pub(super) before: &'a Snapshot,
    pub(super) after: &'a Snapshot,
}

/// What a change newly lets pass, beside the flow in question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gain {
    /// How many pairs of ends.
    pub pairs: usize,
    /// Between whom: the paths with most pairs.
    pub paths: Vec<GainedPath>,
    /// Not all pairs of pods were judged: there may be more.
    pub is_cut: bool,
    /// Some of it was denied by a rule, which the change gets round.
    pub(super) overrules_a_rule: bool,
}

/// Pairs of ends that newly may talk, of one workload at either side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GainedPath {
    /// Who connects: `7 pods of backend/backend-api`, `backend/probe`, `3 nodes`.
    pub source: String,
    /// Who is connected to.
    pub destination: String,
}

impl fmt::Display for GainedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.source, self.destination)
    }
}

/// Who an end belongs to, for those that stand where it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Party {
    /// Pods of a workload, by namespace and name.
    Workload(String),
    Nodes,
    /// Anyone else, by name.
    One(String),
}

impl Party {
    fn of(end: &Endpoint) -> Self {
        match &end.holder {
            Holder::Pod(pod) => match &pod.workload {
                Some(workload) => Self::Workload(format!("{}/{}", pod.namespace, workload.name)),
                None => Self::One(end.to_string()),
            },
            Holder::Node(_) => Self::Nodes,
            Holder::SecondNetwork(..)
            | Holder::Service(_)
            | Holder::Hidden(_)
            | Holder::Outside
            | Holder::Unknown(_) => Self::One(end.to_string()),
        }
    }

    /// `7 pods of backend/backend-api`; of one its own name.
    fn in_words(&self, ends: &BTreeSet<String>) -> String {
        match (self, ends.len(), ends.first()) {
            (_, 1, Some(only)) => only.clone(),
            (Self::Workload(name), number, _) => format!("{number} pods of {name}"),
            (Self::Nodes, number, _) => format!("{number} nodes"),
            (Self::One(name), ..) => name.clone(),
        }
    }
}

/// The pairs between two parties, by name: each once, whatever its addresses.
type Pairs = BTreeSet<(String, String)>;

impl WhatIf<'_> {
    /// What it newly lets pass between these sources and destinations, on any of these ports, beside
    /// what was asked: what policies denied before and do not deny after. At most `pairs_max` pairs
    /// are judged.
    pub(super) fn gain(
        self,
        asked: &[&Question],
        (sources, destinations): (&[Endpoint], &[Endpoint]),
        ports: &[(u16, Protocol)],
        pairs_max: usize,
    ) -> Gain {
        let pair = |source: &Endpoint, destination: &Endpoint| {
            (source.to_string(), destination.to_string())
        };
        // Ends that were asked about by one family are no others by the other.
        let asked: BTreeSet<_> =
            asked.iter().map(|asked| pair(&asked.source, &asked.destination)).collect();
        let all = sources.iter().flat_map(|s| destinations.iter().map(move |d| (s, d)));
        let possible = all.filter(|(s, d)| d.address.is_none_or(|d| s.may_be_of_family(d)));
        let mut gain = Gain::default();
        let mut paths: BTreeMap<(Party, Party), Pairs> = BTreeMap::new();
        for (number, (source, destination)) in possible.enumerate() {
            if number == pairs_max {
                gain.is_cut = true;
                break;
            }
            if !self.is_gained(source, destination, ports, &mut gain.overrules_a_rule) {
                continue;
            }
            let pair = pair(source, destination);
            if !asked.contains(&pair) {
                let key = (Party::of(source), Party::of(destination));
                paths.entry(key).or_default().insert(pair);
            }
        }
        gain.pairs = paths.values().map(Pairs::len).sum();
        let mut paths: Vec<_> = paths.into_iter().collect();
        paths.sort_by_key(|(_, pairs)| std::cmp::Reverse(pairs.len()));
        let in_words = |((from, to), pairs): ((Party, Party), Pairs)| {
            let (sources, destinations): (BTreeSet<_>, BTreeSet<_>) = pairs.into_iter().unzip();
            GainedPath { source: from.in_words(&sources), destination: to.in_words(&destinations) }
        };
        gain.paths = paths.into_iter().take(PATHS_MAX).map(in_words).collect();
        gain
    }

    fn is_gained(
        self,
        source: &Endpoint,
        destination: &Endpoint,
        ports: &[(u16, Protocol)],
        overrules_a_rule: &mut bool,
    ) -> bool {
        let is_denied = |verdict: &Verdict| verdict.decision() == Decision::Denied;
        let mut is_gained = false;
        for (port, protocol) in ports {
            let (source, destination) = (source.clone(), destination.clone());
            let question = Question::new(source, destination, *port, *protocol);
            let was = evaluate(self.before, &question);
            if is_denied(&was) && !is_denied(&evaluate(self.after, &question)) {
                is_gained = true;
                *overrules_a_rule |=
                    was.egress.denied_by.is_some() || was.ingress.denied_by.is_some();
            }
        }
        is_gained
    }
}
