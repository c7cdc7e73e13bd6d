//! What is to be said beside a verdict: what the engine made of it, what others would make of it, and
//! policies that are there and decide nothing here.

use std::{fmt, sync::Arc};

use super::{
    Decision, Question, evaluate,
    evaluate::is_in_force,
    selects::selects,
    unread::{about, about_at_all, is_in_force as is_read},
};
use crate::{
    cluster::{
        Snapshot,
        profile::{
            Blocks, Enforced, Engine, EngineName, Hairpin, HostNetwork, OwnNode, Profile,
            Undeclared, Version, rows,
        },
    },
    flow::Direction,
    policy::{
        PolicyKind,
        unread::{Bearing, Family, Unread},
    },
};

/// Something to be said beside a verdict.
#[derive(Clone, Debug, PartialEq)]
pub enum Remark {
    /// The engine takes something otherwise than the API's text, and the flow fares otherwise by it.
    Decided(Arc<Engine>, Way),
    /// Which engine enforces is not known, and the flow fares otherwise with these.
    OtherEngines {
        /// Which, with versions where not all.
        engines: Vec<String>,
        /// What they take otherwise.
        way: Way,
        /// What comes of it.
        outcome: Outcome,
    },
    /// The engine enforces nothing: it has not been set up to, or never does.
    EnforcesNothing(Arc<Engine>),
    /// Whether the engine has been set up to enforce anything could not be read.
    MayEnforceNothing(Arc<Engine>),
    /// A policy is about this flow, and is of a kind that the engine does not enforce.
    NotInForce {
        /// The policy.
        policy: String,
        /// The engine.
        engine: Arc<Engine>,
        /// Whether it would, if it were set up so.
        if_switched_on: bool,
    },
    /// A policy that is not read is about this flow, and not about its first packet.
    Besides(Arc<Unread>),
}

impl Remark {
    /// Whether it says what the engine that enforces made of the flow.
    pub const fn is_of_engine(&self) -> bool {
        matches!(self, Self::Decided(..) | Self::EnforcesNothing(_) | Self::NotInForce { .. })
    }
}

/// Something that engines take differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Whom an `ipBlock` matches.
    Blocks(Blocks),
    /// A pod and its own node.
    OwnNode(OwnNode),
    /// A pod and itself, through a Service.
    Hairpin(Hairpin),
    /// A peer in a node's network.
    HostNetwork(HostNetwork),
    /// Rules of a direction that `policyTypes` leaves out.
    Undeclared(Undeclared),
    /// Admin policies.
    AdminPolicies(Enforced),
}

/// How a flow fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passes.
    Passes,
    /// It is denied.
    Denied,
    /// It is unknown.
    Unknown,
}

impl Way {
    /// The profile with this of its cells so.
    fn applied(self, profile: Profile) -> Profile {
        match self {
            Self::Blocks(blocks) => Profile { blocks, ..profile },
            Self::OwnNode(own_node) => Profile { own_node, ..profile },
            Self::Hairpin(hairpin) => Profile { hairpin, ..profile },
            Self::HostNetwork(host_network) => Profile { host_network, ..profile },
            Self::Undeclared(undeclared) => Profile { undeclared, ..profile },
            Self::AdminPolicies(admin_policies) => Profile { admin_policies, ..profile },
        }
    }

    /// What a profile says in the cells that change verdicts.
    fn of(profile: &Profile) -> [Self; 6] {
        [
            Self::Blocks(profile.blocks),
            Self::OwnNode(profile.own_node),
            Self::Hairpin(profile.hairpin),
            Self::HostNetwork(profile.host_network),
            Self::Undeclared(profile.undeclared),
            Self::AdminPolicies(profile.admin_policies),
        ]
    }
}

/// What is to be said beside the verdict of a flow.
pub fn remarks(snapshot: &Snapshot, question: &Question) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let engine = snapshot.engine();
    if !snapshot.profile().policies.is_in_force() {
        remarks.push(Remark::EnforcesNothing(engine.clone()));
        return remarks;
    }
    if engine.name != EngineName::Unknown && snapshot.profile().policies == Enforced::NotSaid {
        remarks.push(Remark::MayEnforceNothing(engine.clone()));
    }
    match engine.name {
        EngineName::Unknown => remarks.extend(other_engines(snapshot, question)),
        _ => remarks.extend(decided(snapshot, question)),
    }
    for direction in [Direction::Egress, Direction::Ingress] {
        remarks.extend(not_in_force(snapshot, question, direction));
        remarks.extend(besides(snapshot, question, direction));
    }
    let mut distinct: Vec<Remark> = Vec::new();
    for remark in remarks {
        if !distinct.contains(&remark) {
            distinct.push(remark);
        }
    }
    distinct
}

fn outcome(snapshot: &Snapshot, question: &Question) -> Outcome {
    let verdict = evaluate(snapshot, question);
    match verdict.decision() {
        _ if verdict.exempt.is_some() => Outcome::Passes,
        Decision::Denied => Outcome::Denied,
        Decision::Unknown => Outcome::Unknown,
        Decision::Allowed | Decision::NotIsolated => Outcome::Passes,
    }
}

/// The ways of the engine without each of which the flow would fare otherwise.
fn decided(snapshot: &Snapshot, question: &Question) -> Vec<Remark> {
    let (own, text) = (*snapshot.profile(), Profile::default());
    let now = outcome(snapshot, question);
    let pairs = Way::of(&own).into_iter().zip(Way::of(&text));
    let deciding = pairs.filter(|(own_way, of_text)| {
        own_way != of_text && outcome(&snapshot.with_profile(of_text.applied(own)), question) != now
    });
    deciding.map(|(way, _)| Remark::Decided(snapshot.engine().clone(), way)).collect()
}

/// The ways of other engines by which the flow would fare otherwise.
fn other_engines(snapshot: &Snapshot, question: &Question) -> Vec<Remark> {
    let text = Profile::default();
    let now = outcome(snapshot, question);
    let mut ways: Vec<Way> = Vec::new();
    for (_, _, profile) in rows() {
        let other = Way::of(profile).into_iter().zip(Way::of(&text));
        let other = other.filter(|(way, of_text)| way != of_text).map(|(way, _)| way);
        ways.extend(other.collect::<Vec<_>>());
    }
    let mut remarks: Vec<Remark> = Vec::new();
    for way in ways {
        // Of engines that enforce admin policies, the text is one.
        if matches!(way, Way::AdminPolicies(enforced) if enforced.is_in_force()) {
            continue;
        }
        let outcome = outcome(&snapshot.with_profile(way.applied(text)), question);
        let remark = Remark::OtherEngines { engines: engines_with(way), way, outcome };
        if outcome != now && !remarks.contains(&remark) {
            remarks.push(remark);
        }
    }
    remarks
}

/// The engines that take something so: `Calico 3.29 to 3.31`.
fn engines_with(way: Way) -> Vec<String> {
    let has = |profile: &Profile| Way::of(profile).contains(&way);
    let mut named = Vec::new();
    for engine in EngineName::ALL {
        let of_engine: Vec<_> = rows().filter(|(name, ..)| name == engine).collect();
        let of_version: Vec<_> = of_engine.iter().filter(|(_, since, _)| since.is_some()).collect();
        if of_version.is_empty() || of_engine.iter().all(|(.., profile)| has(profile)) {
            if of_engine.iter().any(|(.., profile)| has(profile)) {
                named.push(engine.title().to_owned());
            }
            continue;
        }
        // The latest version first.
        let mut later: Option<Version> = None;
        for (_, since, profile) in of_version {
            let since = since.unwrap_or(Version(0, 0));
            if has(profile) {
                named.push(range(*engine, since, later));
            }
            later = Some(since);
        }
    }
    named
}

fn range(engine: EngineName, since: Version, later: Option<Version>) -> String {
    let title = engine.title();
    match (since, later) {
        (Version(0, 0), Some(later)) => format!("{title} before {later}"),
        (Version(0, 0), None) => title.to_owned(),
        (since, None) => format!("{title} from {since} on"),
        (since, Some(Version(major, minor))) => {
            format!("{title} {since} to {}", Version(major, minor.saturating_sub(1)))
        }
    }
}

/// Policies over an end that the engine does not enforce.
fn not_in_force(snapshot: &Snapshot, question: &Question, direction: Direction) -> Vec<Remark> {
    if snapshot.engine().name == EngineName::Unknown {
        return Vec::new();
    }
    let target = match direction {
        Direction::Egress => &question.source,
        Direction::Ingress => &question.destination,
    };
    let profile = snapshot.profile();
    let remark = |policy: String, enforced: Enforced| Remark::NotInForce {
        policy,
        engine: snapshot.engine().clone(),
        if_switched_on: enforced == Enforced::IfSwitchedOn,
    };
    let mut remarks = Vec::new();
    if let Some(pod) = target.pod() {
        let mut policies: Vec<_> = snapshot
            .policies()
            .iter()
            .filter(|policy| {
                !is_in_force(profile, policy.reference.kind)
                    && policy.rules(direction).is_some_and(|rules| !rules.is_empty())
                    && selects(snapshot, &policy.subject, pod).is_match()
            })
            .map(|policy| (policy.reference.kind, policy.reference.to_string()))
            .collect();
        policies.sort_unstable();
        remarks.extend(policies.into_iter().map(|(kind, name)| {
            remark(format!("{} {name}", PolicyKind::name(kind)), profile.admin_policies)
        }));
    }
    let unread = about_at_all(snapshot, target, direction);
    remarks.extend(unread.filter(|unread| !is_read(snapshot, unread.family)).map(|unread| {
        let enforced = match unread.family {
            Family::ClusterNetworkPolicy => profile.cluster_policies,
            _ => Enforced::No,
        };
        remark(unread.to_string(), enforced)
    }));
    remarks
}

/// Policies that are not read and not about the first packet.
fn besides(snapshot: &Snapshot, question: &Question, direction: Direction) -> Vec<Remark> {
    let (target, peer) = match direction {
        Direction::Egress => (&question.source, &question.destination),
        Direction::Ingress => (&question.destination, &question.source),
    };
    let leaves = peer.pod().is_none();
    let about = about(snapshot, target, direction).filter(|unread| match unread.reach.bearing {
        // Kinds that could not be listed are too many to name for what decides nothing.
        _ if unread.name.is_none() => false,
        Bearing::FirstPacket => false,
        Bearing::Requests | Bearing::SecondNetworks => true,
        Bearing::WayOut => leaves,
    });
    about.cloned().map(Remark::Besides).collect()
}

impl fmt::Display for Way {
    /// What an engine does: `matches no pod and no node with ipBlock`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocks(Blocks::OutsideOnly) => {
                f.write_str("ipBlock matches no pod and no node of the cluster")
            }
            Self::Blocks(Blocks::Everyone) => f.write_str("ipBlock matches pods and nodes as well"),
            Self::OwnNode(OwnNode::ExemptToPod) => {
                f.write_str("what a pod sends to its own node is policed")
            }
            Self::OwnNode(OwnNode::Exempt) => {
                f.write_str("a pod and its own node reach each other whatever policies say")
            }
            Self::Hairpin(Hairpin::Policed) => {
                f.write_str("what a pod sends to itself through a Service is policed")
            }
            Self::Hairpin(Hairpin::Exempt) => {
                f.write_str("what a pod sends to itself through a Service passes")
            }
            Self::HostNetwork(HostNetwork::Namespace(name)) => {
                write!(f, "nodes that connect count as pods of namespace {name}")
            }
            Self::HostNetwork(HostNetwork::Node) => f.write_str("no selector matches a node"),
            Self::Undeclared(Undeclared::Applied) => {
                f.write_str("rules of a direction that policyTypes leaves out apply")
            }
            Self::Undeclared(Undeclared::Ignored) => {
                f.write_str("rules of a direction that policyTypes leaves out are ignored")
            }
            Self::AdminPolicies(Enforced::Yes | Enforced::NotSaid) => {
                f.write_str("AdminNetworkPolicy and its baseline are enforced")
            }
            Self::AdminPolicies(Enforced::No) => {
                f.write_str("AdminNetworkPolicy and its baseline are not enforced")
            }
            Self::AdminPolicies(Enforced::IfSwitchedOn) => {
                f.write_str("AdminNetworkPolicy and its baseline are not enforced by default")
            }
        }
    }
}

impl fmt::Display for Remark {
    /// A sentence without its full stop.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decided(engine, way) => {
                write!(f, "{way}, with {engine} (by {})", engine.evidence)
            }
            Self::OtherEngines { engines, way, outcome } => {
                let outcome = match outcome {
                    Outcome::Passes => "it would pass",
                    Outcome::Denied => "it would be denied",
                    Outcome::Unknown => "it would be unknown",
                };
                let engines = engines.join(", ");
                write!(
                    f,
                    "which engine enforces policies is not known; {outcome} where {way}: {engines}"
                )
            }
            Self::EnforcesNothing(engine) => write!(
                f,
                "{engine} accepts policies and {} (by {})",
                match engine.name {
                    EngineName::EksAuto | EngineName::AwsVpcCni => {
                        "enforces none of them before it is set up to"
                    }
                    _ => "enforces none of them",
                },
                engine.evidence
            ),
            Self::MayEnforceNothing(engine) => write!(
                f,
                "{engine} enforces policies only where it is set up to, and whether it is could not \
                 be read (by {})",
                engine.evidence
            ),
            Self::NotInForce { policy, engine, if_switched_on } => {
                let when = if *if_switched_on { " by default" } else { "" };
                write!(
                    f,
                    "{policy} is not in force: {engine} does not enforce it{when} (by {})",
                    engine.evidence
                )
            }
            Self::Besides(unread) => match unread.reach.bearing {
                Bearing::Requests => write!(
                    f,
                    "{unread} may refuse what is sent, once the connection is there: it is not read"
                ),
                Bearing::SecondNetworks => {
                    write!(f, "{unread} is about second networks, not about these addresses")
                }
                Bearing::WayOut => {
                    write!(f, "{unread} says by which gateway it leaves: it is not read")
                }
                Bearing::FirstPacket => write!(f, "{unread} may decide"),
            },
        }
    }
}
