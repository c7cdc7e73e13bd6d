//! Looking after the agent's own path: what it must reach, and whether something cuts it off.
//!
//! The agent is in its node's network, where the policies of most CNIs select nobody: what can cut it
//! off is a policy over the pods that it connects to, and one over the node itself (Calico's host
//! endpoints, a host firewall), which is not read. The first is judged by the policies, the second
//! shows by connections of this node's that die here.

use std::net::{IpAddr, SocketAddr};

use jiff::{SignedDuration, Timestamp};
use whydrop_core::{
    correlate::Drop,
    diagnosis::{Diagnosis, diagnose, to_look_up},
    flow::Flow,
    own_path::{case, cut_off, words},
};

use super::{Agent, judge::case_of};

/// How often the policies are asked: they change seldom, and it takes a few microseconds.
const EVERY: SignedDuration = SignedDuration::from_mins(1);

/// How soon again, where something has to be looked up first.
const LOOK_UP: SignedDuration = SignedDuration::from_secs(5);

/// Connections that go on dying are told again in this time.
const TOLD_AGAIN_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// Something that the agent must reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// What it is, for people: `API server`.
    pub what: String,
    /// Where it is dialled.
    pub address: SocketAddr,
}

/// What is watched, and what was told of it.
#[derive(Debug, Default)]
pub(super) struct OwnPath {
    destinations: Vec<Watched>,
    next: Option<Timestamp>,
}

#[derive(Debug)]
struct Watched {
    destination: Destination,
    /// What was told of policies that cut it off.
    cut: Option<String>,
    /// When it was told that connections to it die.
    dying: Option<Timestamp>,
}

impl OwnPath {
    pub(super) fn to(destinations: Vec<Destination>) -> Self {
        let destinations = destinations.into_iter();
        let watched =
            destinations.map(|destination| Watched { destination, cut: None, dying: None });
        Self { destinations: watched.collect(), next: None }
    }

    /// Policies, or what they select, changed.
    pub(super) fn changed(&mut self) {
        self.next = None;
    }

    fn is_due(&self, now: Timestamp) -> bool {
        !self.destinations.is_empty() && self.next.is_none_or(|next| next <= now)
    }

    /// The destination of a drop, if it is one of these and was not told lately.
    fn dying(&mut self, drop: &Drop, now: Timestamp) -> Option<Destination> {
        let Flow { destination, port, .. } = drop.flow;
        let dialled = drop.dialled.unwrap_or((destination, port));
        let watched = self.destinations.iter_mut().find(|watched| {
            let Destination { address, .. } = &watched.destination;
            let own = (address.ip(), address.port());
            own == (destination, port) || own == dialled
        })?;
        let is_news = |at: Timestamp| now.duration_since(at) >= TOLD_AGAIN_AFTER;
        if watched.cut.is_some() || !watched.dying.is_none_or(is_news) {
            return None;
        }
        watched.dying = Some(now);
        Some(watched.destination.clone())
    }
}

impl Agent {
    /// Asks the policies, if it is time to, and says what has changed.
    pub(super) fn check_own_path(&mut self, now: Timestamp) {
        if !self.own_path.is_due(now) {
            return;
        }
        let snapshot = self.cluster.snapshot();
        let mut next = now + EVERY;
        let (mut cut_now, mut is_free_again) = (Vec::new(), false);
        for index in 0..self.own_path.destinations.len() {
            let Destination { what, address } = &self.own_path.destinations[index].destination;
            let Some(source) = self.own_address(address.ip()) else { continue };
            let case = case(source, *address);
            let missing = to_look_up(&snapshot, &case, now);
            if !missing.is_empty() {
                next = now + LOOK_UP;
                self.source.look_up(&snapshot, &missing, now);
                continue;
            }
            let cut = cut_off(&snapshot, &case);
            let cut = cut.map(|diagnosis: Diagnosis| words(&diagnosis, what, *address));
            let watched = &mut self.own_path.destinations[index];
            if watched.cut != cut {
                is_free_again |= cut.is_none();
                cut_now.extend(cut.clone());
                watched.cut = cut;
            }
        }
        self.own_path.next = Some(next);
        for words in &cut_now {
            self.degraded(words);
        }
        if is_free_again {
            tracing::info!("policies do not cut off this agent any more");
            self.tell_ready();
        }
    }

    /// Says so where a drop is of a connection of this node's to what the agent must reach: its own,
    /// as a rule.
    pub(super) fn watch_own_path(&mut self, drop: &Drop, now: Timestamp) {
        if !self.probe.interfaces.topology().is_local(drop.flow.source) {
            return;
        }
        let Some(Destination { what, address }) = self.own_path.dying(drop, now) else { return };
        let diagnosis = diagnose(&self.cluster.snapshot(), &case_of(drop));
        let why = if diagnosis.cause.class.is_denial() {
            words(&diagnosis, &what, address)
        } else {
            let how = match drop.evidence.kernel_drop() {
                Some(drops) => format!("this kernel dropped them ({})", drops.reason.name),
                None => "nothing answers".to_owned(),
            };
            format!(
                "connections of this node to the {what} ({address}) die: {how}; no policy over pods \
                 is known to deny it, and policies over nodes, as of host endpoints, are not read"
            )
        };
        self.degraded(&why);
    }

    /// An address of this node's, of the family of another.
    fn own_address(&self, other: IpAddr) -> Option<IpAddr> {
        let snapshot = self.cluster.snapshot();
        let of_family = |address: &IpAddr| address.is_ipv4() == other.is_ipv4();
        let of_node = snapshot
            .node(&self.node)
            .and_then(|node| node.addresses.iter().copied().find(of_family));
        let local = || self.probe.interfaces.topology().local().find(of_family);
        of_node.or_else(local)
    }
}
