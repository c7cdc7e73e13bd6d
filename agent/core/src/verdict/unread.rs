//! Where a policy that is not read may turn a verdict, and where it cannot.

use std::sync::Arc;

use super::{Decision, DirectionVerdict, outcome::MatchOutcome, selects::selects};
use crate::{
    cluster::{
        Snapshot,
        object::Pod,
        profile::EngineName,
        resolve::{Endpoint, Holder},
    },
    flow::Direction,
    policy::unread::{Bearing, Ends, Family, Reach, Subject, Unread},
};

/// How many policies one sentence names: people read it, and the rest are a number.
const NAMED_MAX: usize = 4;

/// The policies that are not read and are about this direction of the flow, whatever they may do.
pub(super) fn about<'a>(
    snapshot: &'a Snapshot,
    target: &'a Endpoint,
    direction: Direction,
) -> impl Iterator<Item = &'a Arc<Unread>> {
    let in_force = |unread: &&Arc<Unread>| is_in_force(snapshot, unread.family);
    about_at_all(snapshot, target, direction).filter(in_force)
}

/// The same, be they in force or of a kind that the engine does not read.
pub(super) fn about_at_all<'a>(
    snapshot: &'a Snapshot,
    target: &'a Endpoint,
    direction: Direction,
) -> impl Iterator<Item = &'a Arc<Unread>> {
    let namespace = target.pod().map(|pod| &pod.namespace);
    snapshot.sync().unread_over(namespace).filter(move |unread| {
        let Reach { subjects, .. } = &unread.reach;
        let sway = unread.reach.sway(direction);
        (sway.allows.is_some() || sway.denies.is_some())
            && subjects.iter().any(|subject| may_govern(snapshot, subject, target))
    })
}

/// Why a verdict is unknown: policies that are not read may turn it. A denial that they cannot lift
/// stays, and so does what they cannot deny.
pub(super) fn may_turn(
    snapshot: &Snapshot,
    verdict: &DirectionVerdict,
    target: &Endpoint,
    peer: &Endpoint,
    direction: Direction,
) -> Option<Arc<str>> {
    let turning = about(snapshot, target, direction).filter(|unread| {
        let Reach { bearing, is_baseline, .. } = &unread.reach;
        let sway = unread.reach.sway(direction);
        let allows = sway.allows.as_ref().is_some_and(|ends| includes(ends, peer));
        let denies = sway.denies.as_ref().is_some_and(|ends| includes(ends, peer));
        let turns = match verdict.decision {
            Decision::Denied => allows,
            Decision::Allowed | Decision::NotIsolated => denies,
            Decision::Unknown => allows || denies,
        };
        *bearing == Bearing::FirstPacket && turns && !(*is_baseline && is_isolated(verdict))
    });
    sentence(turning)
}

/// Why it is unknown how a pod fares on its second networks.
pub(super) fn on_second_networks(
    snapshot: &Snapshot,
    pod: &Pod,
    direction: Direction,
) -> Option<Arc<str>> {
    let governs = |subject: &Subject| {
        let Subject::Pods(wanted) = subject else { return false };
        !matches!(selects(snapshot, wanted, pod), MatchOutcome::Miss(_))
    };
    sentence(snapshot.sync().unread_over(Some(&pod.namespace)).filter(|unread| {
        let Reach { bearing, subjects, .. } = &unread.reach;
        let sway = unread.reach.sway(direction);
        *bearing == Bearing::SecondNetworks
            && (sway.allows.is_some() || sway.denies.is_some())
            && subjects.iter().any(governs)
    }))
}

/// Whether the engine reads policies of a family. One that is not known may be any.
pub(super) fn is_in_force(snapshot: &Snapshot, family: Family) -> bool {
    let read_by: &[EngineName] = match family {
        Family::Any => return true,
        Family::ClusterNetworkPolicy => return snapshot.profile().cluster_policies.is_in_force(),
        Family::Cilium => &[EngineName::Cilium, EngineName::GkeDataplaneV2],
        Family::Antrea => &[EngineName::Antrea],
        Family::OvnKubernetes => &[EngineName::OvnKubernetes, EngineName::Openshift],
        Family::OpenshiftSdn => &[],
        Family::Aws => &[EngineName::AwsVpcCni, EngineName::EksAuto],
        Family::Gke => &[EngineName::GkeDataplaneV2],
        Family::Calico => &[EngineName::Calico],
    };
    let name = snapshot.engine().name;
    name == EngineName::Unknown || read_by.contains(&name)
}

/// `EgressFirewall forms/default may decide`.
fn sentence<'a>(turning: impl Iterator<Item = &'a Arc<Unread>>) -> Option<Arc<str>> {
    let mut names: Vec<String> = turning.map(ToString::to_string).collect();
    names.sort_unstable();
    names.dedup();
    let others = names.len().saturating_sub(NAMED_MAX);
    names.truncate(NAMED_MAX);
    if others > 0 {
        names.push(format!("{others} more"));
    }
    let (last, first) = names.split_last()?;
    Some(match first {
        [] => format!("{last} may decide").into(),
        first => format!("{} and {last} may decide", first.join(", ")).into(),
    })
}

/// Whether a policy that is asked before baselines isolates the pod.
fn is_isolated(verdict: &DirectionVerdict) -> bool {
    !verdict.isolating.is_empty()
}

fn includes(ends: &Ends, peer: &Endpoint) -> bool {
    let is_outside = !matches!(peer.holder, Holder::Pod(_) | Holder::Hidden(_));
    match ends {
        Ends::Any => true,
        Ends::Outside => is_outside,
        Ends::OutsideIn(networks) => {
            let is_in = |address| networks.iter().any(|network| network.contains(&address));
            is_outside && peer.address.is_none_or(is_in)
        }
    }
}

fn may_govern(snapshot: &Snapshot, subject: &Subject, target: &Endpoint) -> bool {
    match (subject, &target.holder) {
        (Subject::Pods(wanted), Holder::Pod(pod)) => {
            !matches!(selects(snapshot, wanted, pod), MatchOutcome::Miss(_))
        }
        (Subject::Nodes(selector), Holder::Node(node)) => selector.matches(&node.labels),
        (Subject::Node(name), Holder::Node(node)) => *name == node.name,
        _ => false,
    }
}
