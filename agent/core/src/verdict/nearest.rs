//! Of the rules that do not admit a denied flow: which comes nearest, and what it lacks.
//!
//! A rule is near if one half of it, peers or ports, matches: the half matches of the conformance
//! cases. Where there is none, the denial is a plain default deny.

use std::cmp::Reverse;

use super::{
    DirectionVerdict, PolicyTrace, RuleTrace,
    outcome::{MatchOutcome, PeerMiss, PortMiss},
};
use crate::{
    flow::{Direction, Protocol},
    policy::{Action, Layer, Peers, Policy, PolicyKind, PortMatch, PortRange, RuleRef},
};

/// A rule of an isolating policy with one half that matches the flow and one that does not.
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
    /// The peer's namespace has not the labels.
    NamespaceLabels,
    /// The peer's namespace is not the policy's own, which the rule asks for.
    OtherNamespace,
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
    let kind = PolicyKind::NetworkPolicy;
    let additive = || verdict.trace.iter().filter(|t| t.policy.reference.kind == kind);
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

/// The rule with one half that matches and another that lacks least; of several, the one that says
/// most about this flow. Asked are the rules that allow anything, of the tier that denies the flow by its
/// end. `None`: no rule comes near.
///
/// A rule of other protocols alone comes last: it was written for other traffic. Rules of remedies
/// count where there are no others.
pub fn nearest_miss(
    verdict: &DirectionVerdict,
    direction: Direction,
    protocol: Protocol,
) -> Option<NearestMiss> {
    let tier = verdict.layer.as_ref().and_then(Layer::tier);
    let of_tier = |t: &&PolicyTrace| t.layer().tier() == tier && !t.is_staged();
    let of_tier = || verdict.trace.iter().filter(of_tier);
    // What a remedy admits is what it was made for, and no sign of what is meant to pass.
    let has_others = of_tier().any(|trace| !trace.policy.is_remedy);
    let mut best: Option<(_, NearestMiss)> = None;
    for trace in of_tier().filter(|trace| !has_others || !trace.policy.is_remedy) {
        for rule in trace.rules.iter().filter(|rule| rule.action == Action::Allow) {
            let Some(Lacking { lacks, unmet, miss }) = lacking(trace, rule) else { continue };
            // A half that matches because it asks for nothing says nothing about this flow.
            let explicit = says_something(&trace.policy, rule, direction);
            let own = is_of_protocol(&trace.policy, rule, direction, protocol);
            let rank = (own, Reverse(lacks), explicit, closeness(miss.lack), Reverse(unmet));
            // Not greater-or-equal: among equals the policy that leads comes first.
            if best.as_ref().is_none_or(|(best_rank, _)| rank > *best_rank) {
                best = Some((rank, miss));
            }
        }
    }
    best.map(|(_, miss)| miss)
}

/// Whether it is about this protocol: any of its ports is, or it names none.
fn is_of_protocol(
    policy: &Policy,
    trace: &RuleTrace,
    direction: Direction,
    protocol: Protocol,
) -> bool {
    let rule = policy.rules(direction).and_then(|rules| rules.get(trace.rule));
    let is_own = |port: &PortMatch| {
        port.protocol.is_none_or(|own| own == protocol)
            && !matches!(port.ports, PortRange::OfProtocol(_))
    };
    rule.is_some_and(|rule| rule.ports.is_empty() || rule.ports.iter().any(is_own))
}

/// Whether the half that matches was written with ends or ports like these in mind.
fn says_something(policy: &Policy, trace: &RuleTrace, direction: Direction) -> bool {
    let Some(rule) = policy.written_rules(direction).and_then(|rules| rules.get(trace.rule)) else {
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
        Lack::NamespaceLabels | Lack::OtherNamespace | Lack::PodLabels => 1,
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
    // A rule for another of the pods that the policy selects was not written for this flow.
    if !rule.own.is_match() {
        return None;
    }
    let lacking = |lacks, unmet, lack, wanted: String, found: String| {
        let miss = NearestMiss { rule: trace.rule_ref(rule), lack, wanted, found };
        Some(Lacking { lacks, unmet, miss })
    };
    match (&rule.peer, &rule.port) {
        (MatchOutcome::Match, MatchOutcome::Miss(miss)) => {
            let lack = port_lack(miss)?;
            let (wanted, found) = miss.wanted_and_found();
            lacking(1, 1, lack, wanted, found)
        }
        (MatchOutcome::Miss(miss), MatchOutcome::Match) => {
            let (wanted, found) = miss.wanted_and_found();
            let (lacks, unmet) = peer_lacks(miss);
            lacking(lacks, unmet, peer_lack(miss), wanted, found)
        }
        _ => None,
    }
}

fn port_lack(miss: &PortMiss) -> Option<Lack> {
    match miss {
        PortMiss::Port { .. } => Some(Lack::Port),
        PortMiss::Protocol { .. } => Some(Lack::Protocol),
        PortMiss::Unresolved { .. } => Some(Lack::NamedPort),
        // No flow as we see them comes near to a rule about ICMP.
        PortMiss::OtherProtocol { .. } => None,
    }
}

fn peer_lack(miss: &PeerMiss) -> Lack {
    match miss {
        PeerMiss::Labels { namespace: Some(miss), .. } if miss.is_other_namespace => {
            Lack::OtherNamespace
        }
        PeerMiss::Labels { namespace: Some(_), .. } => Lack::NamespaceLabels,
        PeerMiss::Labels { .. }
        | PeerMiss::NotAPod { .. }
        | PeerMiss::AnotherEnd { .. }
        | PeerMiss::LeftOut { .. } => Lack::PodLabels,
        PeerMiss::OutsideBlock { .. } | PeerMiss::InsideCluster { .. } => Lack::Block,
        PeerMiss::Excepted { .. } => Lack::Except,
        PeerMiss::Several(misses) => misses.first().map_or(Lack::PodLabels, peer_lack),
    }
}

/// How many things a peer lacks, and how many labels they are about.
fn peer_lacks(miss: &PeerMiss) -> (usize, usize) {
    match miss {
        PeerMiss::Labels { namespace, pod } => {
            let misses = || [namespace, pod].into_iter().flatten();
            (misses().count(), misses().map(|miss| miss.unmet).sum())
        }
        PeerMiss::NotAPod { .. } | PeerMiss::AnotherEnd { .. } => (2, usize::MAX),
        PeerMiss::LeftOut { .. }
        | PeerMiss::OutsideBlock { .. }
        | PeerMiss::InsideCluster { .. }
        | PeerMiss::Excepted { .. } => (1, 1),
        PeerMiss::Several(misses) => misses.iter().fold((0, 0), |(count, unmet), miss| {
            let (more, more_unmet) = peer_lacks(miss);
            (count + more, unmet.saturating_add(more_unmet))
        }),
    }
}
