//! Of the rules that do not admit a denied flow: which comes nearest, and what it lacks.

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

/// The one thing that a rule lacks for admitting the flow.
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

/// The rule that lacks one thing only; of several, the one that says most about this flow.
pub fn nearest_miss(verdict: &DirectionVerdict, direction: Direction) -> Option<NearestMiss> {
    let additive = verdict.trace.iter().filter(|t| t.policy.layer == Layer::NetworkPolicy);
    let mut best: Option<(_, NearestMiss)> = None;
    for trace in additive {
        for rule in &trace.rules {
            let Some((miss, unmet)) = one_lack(trace, rule) else { continue };
            // A half that matches because it asks for nothing says nothing about this flow.
            let explicit = says_something(&trace.policy, rule, direction);
            let rank = (explicit, closeness(miss.lack), Reverse(unmet));
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

/// The rule's lack, where it is a single one, and how many labels it is about.
fn one_lack(trace: &PolicyTrace, rule: &RuleTrace) -> Option<(NearestMiss, usize)> {
    let (lack, wanted, found, unmet) = match (&rule.peer, &rule.port) {
        (Outcome::Match, Outcome::Miss(miss)) => match miss {
            PortMiss::Port { wanted, found } => (Lack::Port, wanted.clone(), found.clone(), 1),
            PortMiss::Protocol { wanted, found } => {
                (Lack::Protocol, wanted.clone(), found.clone(), 1)
            }
            PortMiss::Unresolved { name, found } => {
                (Lack::NamedPort, format!("port named {name}"), found.clone(), 1)
            }
        },
        (Outcome::Miss(miss), Outcome::Match) => match miss {
            PeerMiss::Labels { namespace: Some(miss), pod: None } => {
                (Lack::NamespaceLabels, miss.wanted.clone(), miss.found.clone(), miss.unmet)
            }
            PeerMiss::Labels { namespace: None, pod: Some(miss) } => {
                (Lack::PodLabels, miss.wanted.clone(), miss.found.clone(), miss.unmet)
            }
            PeerMiss::OutsideBlock { network, address } => {
                (Lack::Block, format!("an address in {network}"), address.to_string(), 1)
            }
            PeerMiss::Excepted { network, except, address } => {
                let wanted = format!("an address in {network} except {except}");
                (Lack::Except, wanted, format!("{address}, which is in {except}"), 1)
            }
            // Two lacks, or an end that no label could make match.
            PeerMiss::Labels { .. } | PeerMiss::NotAPod { .. } | PeerMiss::NotThatNode { .. } => {
                return None;
            }
        },
        _ => return None,
    };
    Some((NearestMiss { rule: trace.rule_ref(rule), lack, wanted, found }, unmet))
}
