//! What the policies of a snapshot say of a flow, and how each rule took it.
//!
//! One evaluator walks the one form that every policy kind is lowered to ([`crate::policy`]):
//! which policies select the pod, which of their rules match, and which stage of the walk decides.

mod calico_peer;
mod evaluate;
mod matching;
pub mod nearest;
pub mod outcome;
pub mod remarks;
pub mod selects;
mod unread;
mod walk;

use std::{fmt, net::IpAddr, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    cluster::{
        Snapshot,
        resolve::{Endpoint, Holder},
    },
    flow::{Direction, Protocol},
    policy::{Action, Layer, Policy, PolicyRef, RuleRef, tier::Tier},
    service::{Hop, Packet, Source},
};
pub use evaluate::evaluate;
pub(crate) use evaluate::rules_of;
use outcome::{MatchOutcome, PeerMiss, PortMiss};

/// A flow whose ends are resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Who connects.
    pub source: Endpoint,
    /// Who is connected to.
    pub destination: Endpoint,
    /// Destination port, as it arrives there.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Whose policies see it so.
    pub seen_by: SeenBy,
}

/// Whose policies see a packet as a [`Question`] has it. A packet whose addresses are replaced on its
/// way makes two questions: one for the policies of its source, one for those of its destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SeenBy {
    /// Those of both ends.
    #[default]
    Both,
    /// Those of its source alone: it arrives otherwise.
    Source,
    /// Those of its destination alone: it left otherwise.
    Destination,
    /// Those of a pod that reaches itself through a Service: the packet leaves the pod and comes back.
    Hairpin,
}

impl Question {
    /// The questions that a packet which may come of a connection to a Service makes: one, or, where
    /// its addresses are replaced on the way, how it leaves and how it arrives.
    pub fn of_packet(packet: &Packet, protocol: Protocol) -> impl Iterator<Item = Self> {
        let of = |hop: &Hop, seen_by: SeenBy| {
            let Hop { source, destination, port } = hop.clone();
            Self { source, destination, port, protocol, seen_by }
        };
        let leaves = packet.leaves.as_ref().map(|hop| of(hop, SeenBy::Source));
        let arrives = match &leaves {
            Some(_) => of(&packet.arrives, SeenBy::Destination),
            None if packet.source == Source::Hairpin => of(&packet.arrives, SeenBy::Hairpin),
            None => of(&packet.arrives, SeenBy::Both),
        };
        leaves.into_iter().chain([arrives])
    }

    /// Whether it is of the same addresses as another one, and of one of them it is not known whose it is.
    pub(crate) fn is_same_of_unknown(&self, other: &Self) -> bool {
        let ends = [(&self.source, &other.source), (&self.destination, &other.destination)];
        ends.iter().all(|(own, others)| own.address == others.address)
            && ends.iter().any(|(own, _)| matches!(own.holder, Holder::Unknown(_)))
    }

    /// A question of a packet that both ends see alike.
    pub const fn new(
        source: Endpoint,
        destination: Endpoint,
        port: u16,
        protocol: Protocol,
    ) -> Self {
        Self { source, destination, port, protocol, seen_by: SeenBy::Both }
    }
}

impl SeenBy {
    /// Whether the policies of this direction see it.
    pub const fn includes(self, direction: Direction) -> bool {
        match direction {
            Direction::Egress => !matches!(self, Self::Destination),
            Direction::Ingress => !matches!(self, Self::Source),
        }
    }
}

impl fmt::Display for Question {
    /// `frontend/pod-a -> backend/pod-b:8080/TCP`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, destination, port, protocol, .. } = self;
        write!(f, "{source} -> {destination}:{port}/{protocol}")
    }
}

/// What a rule asks of a flow, from one direction's point of view.
#[derive(Clone, Copy)]
struct Subject<'a> {
    /// The cluster.
    snapshot: &'a Snapshot,
    /// The destination, whose port names count.
    destination: &'a Endpoint,
    /// Destination port.
    port: u16,
    /// Protocol.
    protocol: Protocol,
    /// An address of the packet; none where that of neither end is known. The other is of its family.
    family: Option<IpAddr>,
    /// The rule that asks.
    asking: Option<Asking<'a>>,
}

/// A rule, for a person.
#[derive(Clone, Copy)]
struct Asking<'a> {
    policy: &'a PolicyRef,
    direction: Direction,
    rule: usize,
}

impl fmt::Display for Asking<'_> {
    /// `backend/allow-web ingress[0]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}[{}]", self.policy, self.direction, self.rule)
    }
}

/// What the policies say of a flow.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Revision of the snapshot it was computed from.
    pub revision: u64,
    /// Traffic that the specification lets pass whatever the policies say.
    pub exempt: Option<Exemption>,
    /// At the source.
    pub egress: DirectionVerdict,
    /// At the destination.
    pub ingress: DirectionVerdict,
}

/// Traffic that policies do not govern by the specification.
///
/// "A Pod cannot block access to itself; traffic to and from the node where a Pod is running is
/// always allowed" (<https://kubernetes.io/docs/concepts/services-networking/network-policies/>).
/// Calico lets a node reach its pods, and polices what a pod sends to its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Exemption {
    /// A pod to itself.
    SamePod,
    /// A pod from or to an address of the node it runs on; where Calico enforces, only from it.
    LocalNode,
}

/// What a direction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// No policy governs this end in this direction: the flow passes.
    NotIsolated,
    /// A rule admits the flow.
    Allowed,
    /// A rule denies it, or policies isolate the pod and no rule admits it.
    Denied,
    /// It cannot be determined.
    Unknown,
}

impl Decision {
    /// Whether policies let the flow pass: none governs it, or a rule admits it.
    pub const fn lets_pass(self) -> bool {
        matches!(self, Self::NotIsolated | Self::Allowed)
    }
}

/// The verdict of one direction.
#[derive(Clone, Debug)]
pub struct DirectionVerdict {
    /// What it came to, exemptions not applied.
    pub decision: Decision,
    /// Which layer decided: by a rule, or a tier by its end. None did where the flow passes for
    /// want of anything that decides.
    pub layer: Option<Layer>,
    /// Every policy of a tier that selects the pod in this direction, up to the tier that decided,
    /// or of all tiers where none did; first those of the tier that decided, and of those the one
    /// that leads: what is no remedy first, then the latest, then the one with the fewest rules, then
    /// by name.
    pub isolating: Vec<Arc<Policy>>,
    /// The rule that allowed it, and every rule of Kubernetes' policies that admits it.
    pub allowed_by: Vec<RuleRef>,
    /// The ordered rule that denied it; none where a tier's end did.
    pub denied_by: Option<RuleRef>,
    /// The tiers that passed the flow on.
    pub passed: Vec<Passed>,
    /// Staged policies that would deny the flow, which passes as it is, were they in force.
    pub would_deny: Vec<Arc<Policy>>,
    /// Why it is unknown; not empty only then.
    pub unknown: Vec<Arc<str>>,
    /// Policy by policy, rule by rule, of those that select the pod.
    pub trace: Vec<PolicyTrace>,
}

/// A tier that passed a flow on to the next.
#[derive(Clone, Debug, PartialEq)]
pub struct Passed {
    /// The tier.
    pub tier: Arc<Tier>,
    /// The rule that did; `None`: the tier's end.
    pub rule: Option<RuleRef>,
}

/// How one policy's rules took the flow.
#[derive(Clone, Debug)]
pub struct PolicyTrace {
    /// The policy.
    pub policy: Arc<Policy>,
    /// Its rules in order.
    pub rules: Vec<RuleTrace>,
}

/// How one rule took the flow.
#[derive(Clone, Debug)]
pub struct RuleTrace {
    /// Index in the policy as written.
    pub rule: usize,
    /// What its author calls it.
    pub name: Option<Arc<str>>,
    /// What it does when all of it matches.
    pub action: Action,
    /// Whether what it asks of the pod itself matches.
    pub own: MatchOutcome<PeerMiss>,
    /// Whether `from`/`to` matches.
    pub peer: MatchOutcome<PeerMiss>,
    /// Whether `ports` matches.
    pub port: MatchOutcome<PortMiss>,
}

impl RuleTrace {
    /// Whether all of it matches; `Err` names what is unknown.
    pub fn matches(&self) -> Result<bool, Arc<str>> {
        match (&self.own, &self.peer, &self.port) {
            (MatchOutcome::Miss(_), ..)
            | (_, MatchOutcome::Miss(_), _)
            | (.., MatchOutcome::Miss(_)) => Ok(false),
            (MatchOutcome::Match, MatchOutcome::Match, MatchOutcome::Match) => Ok(true),
            (MatchOutcome::Unknown(why), ..)
            | (_, MatchOutcome::Unknown(why), _)
            | (.., MatchOutcome::Unknown(why)) => Err(why.clone()),
        }
    }
}

impl Verdict {
    /// The verdict of a direction.
    pub fn direction(&self, direction: Direction) -> &DirectionVerdict {
        match direction {
            Direction::Egress => &self.egress,
            Direction::Ingress => &self.ingress,
        }
    }

    /// What both directions come to, exemptions not applied: denied if either denies.
    pub fn decision(&self) -> Decision {
        match (self.egress.decision, self.ingress.decision) {
            (Decision::Denied, _) | (_, Decision::Denied) => Decision::Denied,
            (Decision::Unknown, _) | (_, Decision::Unknown) => Decision::Unknown,
            (Decision::NotIsolated, Decision::NotIsolated) => Decision::NotIsolated,
            _ => Decision::Allowed,
        }
    }

    /// The directions that deny, in the packet's order.
    pub fn denied_directions(&self) -> impl Iterator<Item = Direction> {
        [Direction::Egress, Direction::Ingress]
            .into_iter()
            .filter(|direction| self.direction(*direction).decision == Decision::Denied)
    }

    /// The direction of a denial to look at first: one that a rule denies, which no other rule can
    /// outweigh, before one that no rule admits; of equals the first in the packet's order.
    pub fn leading_denial(&self) -> Option<Direction> {
        let by_rule = |direction: &Direction| self.direction(*direction).denied_by.is_some();
        self.denied_directions().find(by_rule).or_else(|| self.denied_directions().next())
    }

    /// The same of a packet that may be any of several: in a direction in which not all of them fare
    /// alike, it is unknown, and why.
    #[must_use]
    pub(crate) fn where_others_differ(&self, all: &[&Self], why: &str) -> Self {
        let of = |direction: Direction| {
            let own = self.direction(direction);
            let fares = |verdict: &DirectionVerdict| {
                (verdict.decision == Decision::Denied, verdict.decision.lets_pass())
            };
            match all.iter().all(|other| fares(other.direction(direction)) == fares(own)) {
                true => own.clone(),
                false => DirectionVerdict::unknown(why.into()),
            }
        };
        let (egress, ingress) = (of(Direction::Egress), of(Direction::Ingress));
        let exempt = self.exempt.filter(|_| all.iter().all(|other| other.exempt == self.exempt));
        Self { exempt, egress, ingress, ..*self }
    }

    /// Why the verdict is unknown, direction by direction; each reason once.
    pub fn unknowns(&self) -> impl Iterator<Item = &Arc<str>> {
        let of_egress = &self.egress.unknown;
        let more = self.ingress.unknown.iter().filter(|why| !of_egress.contains(why));
        of_egress.iter().chain(more)
    }
}

impl PolicyTrace {
    /// Where the policy stands.
    pub fn layer(&self) -> &Layer {
        &self.policy.layer
    }

    /// Whether the policy is only looked at.
    pub fn is_staged(&self) -> bool {
        self.policy.reference.kind.is_staged()
    }

    /// Names a rule of this policy.
    pub fn rule_ref(&self, rule: &RuleTrace) -> RuleRef {
        RuleRef { policy: self.policy.reference.clone(), rule: rule.rule }
    }
}

impl DirectionVerdict {
    /// What the author of a rule calls it, of a policy that selects the pod.
    pub fn rule_name(&self, rule: &RuleRef) -> Option<&Arc<str>> {
        let trace = self.trace.iter().find(|trace| trace.policy.reference == rule.policy)?;
        let is_it = |own: &&RuleTrace| own.rule == rule.rule;
        trace.rules.iter().find(is_it)?.name.as_ref()
    }

    /// The policies behind a denial: that of the rule, or all that isolate the pod in the tier
    /// whose end it is.
    pub fn responsible(&self) -> Vec<Arc<Policy>> {
        if self.decision != Decision::Denied {
            return Vec::new();
        }
        let tier = self.layer.as_ref().and_then(Layer::tier);
        if let Some(rule) = &self.denied_by {
            let named = self.trace.iter().filter(|t| t.policy.reference == rule.policy);
            return named.map(|trace| trace.policy.clone()).collect();
        }
        let of_tier = self.isolating.iter().filter(|policy| policy.layer.tier() == tier);
        of_tier.cloned().collect()
    }
}
