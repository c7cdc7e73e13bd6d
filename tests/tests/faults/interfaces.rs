//! Interfaces that come and go by the thousand.

use std::{fmt::Write as _, fs};

use whydrop_tests::world::{
    World as _,
    netns::{NAME, Node},
};

use super::{node, reported};

/// How many veths are there at a time.
const AT_A_TIME: usize = 100;
/// How often all of them go and others come: ten thousand in all.
const ROUNDS: usize = 100;
/// What they are deleted by.
const GROUP: u32 = 7;
/// What an agent may grow by from the second tenth to the last: allocators keep some of what they had.
const GROWTH_MIB_MAX: f64 = 8.0;

/// So many veths come, as those of pods, and go.
fn come_and_go(node: &Node, round: usize) {
    let home = node.namespace().name();
    let mut made = String::new();
    for number in 0..AT_A_TIME {
        let _ = writeln!(
            made,
            "link add p{number} type veth peer name c{round}-{number} netns {home}\n\
             link set p{number} group {GROUP}"
        );
    }
    let pods = &node.nth(2).network;
    pods.ip(&made).expect("veths");
    // All at once: the kernel waits for each that goes by itself.
    pods.ip(&format!("link delete group {GROUP}\n")).expect("no veths");
}

#[test]
fn ten_thousand_come_and_go() {
    let node = node();
    let mut agent = node.agent(NAME).expect("it gets ready");
    let folder = format!("/proc/{}/fd", agent.pid());
    let descriptors = || fs::read_dir(&folder).expect("it runs").count();
    let (before, mut resident) = (descriptors(), Vec::new());
    for round in 0..ROUNDS {
        come_and_go(&node, round);
        if round % (ROUNDS / 10) == 0 {
            resident.push(agent.resident_mib().expect("VmRSS"));
        }
    }
    reported(&node, &mut agent, 0);
    assert!(descriptors() <= before, "{before} before, {} after", descriptors());
    let growth = resident[resident.len() - 1] - resident[1];
    assert!(growth < GROWTH_MIB_MAX, "resident memory in MiB: {resident:?}");
    agent.stop().expect("it ends");
}
