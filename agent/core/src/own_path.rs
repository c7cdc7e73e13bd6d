//! The agent's own path: whether policies deny it what it must reach.

use std::net::{IpAddr, SocketAddr};

use crate::{
    cluster::Snapshot,
    diagnosis::{Case, Diagnosis, Fate, diagnose},
    flow::{Flow, Protocol},
};

/// Something that the agent must reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// What it is, for people: `API server`.
    pub what: String,
    /// Where it is dialled.
    pub address: SocketAddr,
}

/// A connection of the agent's, asked about.
pub fn case(source: IpAddr, destination: SocketAddr) -> Case<'static> {
    let (destination, port) = (destination.ip(), destination.port());
    let flow = Flow { source, destination, port, protocol: Protocol::Tcp };
    Case { flow, dialled: None, at: None, fate: Fate::Asked }
}

/// Why policies cut off who connects from there; `None`: they do not, or it is unknown. What
/// the specification lets pass whatever they say, a node to its own pods, they do not cut.
pub fn cut_off(snapshot: &Snapshot, case: &Case<'_>) -> Option<Diagnosis> {
    let diagnosis = diagnose(snapshot, case);
    let is_cut = diagnosis.cause.class.is_denial() && diagnosis.verdict.exempt.is_none();
    is_cut.then_some(diagnosis)
}

/// In words: which policy, and from what.
pub fn words(diagnosis: &Diagnosis, what: &str, destination: SocketAddr) -> String {
    let who = match &diagnosis.cause.policy {
        Some(policy) => format!("{} {} cuts", policy.reference.kind, policy.reference),
        None => "policies cut".to_owned(),
    };
    format!("{who} this agent off from the {what} ({destination}): {}", diagnosis.cause.text)
}
