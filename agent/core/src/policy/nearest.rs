//! Of the rules that do not admit a denied flow: which comes nearest, and what it lacks.
//!
//! Near is a rule of which one half, peers or ports, matches: the half matches of the conformance
//! cases. Where there is none, the denial is a plain default deny.

use std::cmp::Reverse;

use super::{
    Layer, Peers, Policy, RuleRef,
    evaluate::{DirectionVerdict, PolicyTrace, RuleTrace},
    matching::{Outcome, PeerMiss, PortMiss},
};
use crate::flow::Direction;

/// A rule of an isolating policy of which one half matches the flow and the other does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HalfMatch {
    /// Which rule.
    pub rule: RuleRef,
    /// `from`/`to` matches, `ports` does not.
    pub peer: bool,
    /// `ports` matches, `from`/`to` does not.
    pub port: bool,
}

/// What the nearest rule lacks for admitting the flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearestMiss {
    /// Which rule.
    pub rule: RuleRef,
    /// What kind of thing.
    pub lack: Lack,
    /// What the rule wants: `namespace label name=frontend`.
    pub wanted: String,
    /// What there is: `namespace frontend: kubernetes.io/metadata.name=frontend`.
    pub found: String,
}

/// What a rule lacks, in the order in which they are checked by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lack {
    /// The peer's namespace has not the labels, or is not the policy's own.
    NamespaceLabels,
    /// The peer pod has not the labels.
    PodLabels,
    /// The port's number.
    Port,
    /// The port's protocol.
    Protocol,
    /// The address is in no network of an `ipBlock`.
    Block,
    /// The address is in an `ipBlock`, and excepted.
    Except,
    /// The destination declares no port of that name.
    NamedPort,
}

/// The half matches of a direction in which no rule admits the flow; none where one does.
pub fn half_matches(verdict: &DirectionVerdict) -> Vec<HalfMatch> {
    let additive = || verdict.trace.iter().filter(|t| t.policy.layer == Layer::NetworkPolicy);
    if additive().flat_map(|trace| &trace.rules).any(|rule| rule.matches() == Ok(true)) {
        return Vec::new();
    }
    let mut halves = Vec::new();
    for trace in additive() {
        for rule in &trace.rules {
            let (peer, port) = (rule.peer.is_match(), rule.port.is_match());
            if peer != port {
                halves.push(HalfMatch { rule: trace.rule_ref(rule), peer, port });
            }
        }
    }
    halves
}

/// The rule of which one half matches and the other lacks least; of several, the one that says most
/// about this flow. `None`: no rule comes near.
pub fn nearest_miss(verdict: &DirectionVerdict, direction: Direction) -> Option<NearestMiss> {
    let additive = verdict.trace.iter().filter(|t| t.policy.layer == Layer::NetworkPolicy);
    let mut best: Option<(_, NearestMiss)> = None;
    for trace in additive {
        for rule in &trace.rules {
            let Some(Lacking { lacks, unmet, miss }) = lacking(trace, rule) else { continue };
            // A half that matches because it asks for nothing says nothing about this flow.
            let explicit = says_something(&trace.policy, rule, direction);
            let rank = (Reverse(lacks), explicit, closeness(miss.lack), Reverse(unmet));
            // Not greater-or-equal: among equals the policy that leads comes first.
            if best.as_ref().is_none_or(|(best_rank, _)| rank > *best_rank) {
                best = Some((rank, miss));
            }
        }
    }
    best.map(|(_, miss)| miss)
}

/// Whether the half that matches was written with ends or ports like these in mind.
fn says_something(policy: &Policy, trace: &RuleTrace, direction: Direction) -> bool {
    let Some(rule) = policy.rules(direction).and_then(|rules| rules.get(trace.rule)) else {
        return false;
    };
    if trace.peer.is_match() { rule.peers != Peers::Everyone } else { !rule.ports.is_empty() }
}

/// Among rules that say equally much: the one that names the other end, or nearly so, was written
/// for it; one that names some network of addresses most likely was not.
fn closeness(lack: Lack) -> u8 {
    match lack {
        Lack::NamedPort | Lack::Except => 3,
        Lack::Port | Lack::Protocol => 2,
        Lack::NamespaceLabels | Lack::PodLabels => 1,
        Lack::Block => 0,
    }
}

/// What a half-matching rule lacks.
struct Lacking {
    /// How many things: a selector that could match counts one, an end that no label could make
    /// match counts two.
    lacks: usize,
    /// How many labels they are about.
    unmet: usize,
    miss: NearestMiss,
}

fn lacking(trace: &PolicyTrace, rule: &RuleTrace) -> Option<Lacking> {
    let told = |lacks, unmet, lack, wanted: String, found: String| {
        let miss = NearestMiss { rule: trace.rule_ref(rule), lack, wanted, found };
        Some(Lacking { lacks, unmet, miss })
    };
    match (&rule.peer, &rule.port) {
        (Outcome::Match, Outcome::Miss(miss)) => match miss {
            PortMiss::Port { wanted, found } => {
                told(1, 1, Lack::Port, wanted.clone(), found.clone())
            }
            PortMiss::Protocol { wanted, found } => {
                told(1, 1, Lack::Protocol, wanted.clone(), found.clone())
            }
            PortMiss::Unresolved { name, found } => {
                told(1, 1, Lack::NamedPort, format!("port named {name}"), found.clone())
            }
        },
        (Outcome::Miss(miss), Outcome::Match) => match miss {
            PeerMiss::Labels { namespace, pod } => {
                let misses = || [namespace, pod].into_iter().flatten();
                let join = |texts: Vec<&str>, with| texts.join(with);
                let wanted = join(misses().map(|miss| miss.wanted.as_str()).collect(), " and ");
                let found = join(misses().map(|miss| miss.found.as_str()).collect(), "; ");
                let unmet = misses().map(|miss| miss.unmet).sum();
                let lack =
                    if namespace.is_some() { Lack::NamespaceLabels } else { Lack::PodLabels };
                told(misses().count(), unmet, lack, wanted, found)
            }
            PeerMiss::NotAPod { wanted, found } | PeerMiss::NotThatNode { wanted, found } => {
                told(2, usize::MAX, Lack::PodLabels, wanted.clone(), found.clone())
            }
            PeerMiss::OutsideBlock { network, address } => {
                let wanted = format!("an address in {network}");
                told(1, 1, Lack::Block, wanted, address.to_string())
            }
            PeerMiss::Excepted { network, except, address } => {
                let wanted = format!("an address in {network} except {except}");
                told(1, 1, Lack::Except, wanted, format!("{address}, which is in {except}"))
            }
        },
        _ => None,
    }
}
