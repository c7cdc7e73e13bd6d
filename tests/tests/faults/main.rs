//! What happens to an agent and around it: killed and stopped under load, interfaces that come and go, full
//! disks, no memory. It recovers by itself, and what was dropped meanwhile is reported or counted.
//!
//! The faults of an API server are in `live`, as are clocks, descriptors and readers that do not read;
//! those of the kernel's programs in `probe` and `programs`.

mod disk;
mod interfaces;
mod load;
mod memory;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::Result;
use serde_json::Value;
use whydrop_tests::world::{
    RECORD_WAIT, World as _,
    agent::Agent,
    lab::{packet, server::raw},
    manifest,
    netns::Node,
};

/// The port that nothing passes to.
const PORT: u16 = 8080;
/// How many ports a load goes to in turn: more flows than are kept of one source.
const PORTS_OF_LOAD: u16 = 10_000;
/// The first of them.
const LOAD_PORT: u16 = 20_000;

/// A node with a client, a server to which nothing passes, and a pod that is nobody's client.
fn node() -> Node {
    let mut node = Node::new(3).expect("a node");
    for pod in ["frontend/pod-a", "backend/pod-b", "tenant/load"] {
        node.run(&manifest::pod(pod)).expect("a pod");
    }
    node.stand_in_for(1, false).expect("rules");
    node
}

/// Dials the server's port of this number, in vain, and waits until that is reported.
fn reported(node: &Node, agent: &mut Agent, number: u16) -> Value {
    let to = SocketAddr::new(node.nth(1).ip.into(), PORT + number);
    assert!(!node.connects("frontend/pod-a", to).expect("a client"), "it connects to {to}");
    let drop = agent.record("drop", RECORD_WAIT, |record| is_drop_to(record, to.port()));
    drop.unwrap_or_else(|error| panic!("{number}: {error:#}"))
}

fn is_drop_to(record: &Value, port: u16) -> bool {
    record["kind"] == "drop"
        && record["flow"]["destination"]["port"] == port
        && record["flow"]["source"]["pod"] == "pod-a"
}

/// Sends SYNs from the third pod to the server, to one port after the other, until it is over or so many
/// are sent. Returns how many.
fn load(node: &Node, is_over: &AtomicBool) -> Result<u64> {
    let (from, to): (Ipv4Addr, Ipv4Addr) = (node.nth(2).ip, node.nth(1).ip);
    node.nth(2).network.enter(|| {
        let socket = raw(packet::WHOLE)?;
        let mut sent = 0_u32;
        while !is_over.load(Ordering::Relaxed) {
            let port = LOAD_PORT + u16::try_from(sent % u32::from(PORTS_OF_LOAD))?;
            let syn = packet::syn((from, port), (to, port), sent / u32::from(PORTS_OF_LOAD));
            socket.send_to(&syn, &SocketAddr::new(to.into(), 0).into())?;
            sent += 1;
        }
        Ok(sent.into())
    })
}
