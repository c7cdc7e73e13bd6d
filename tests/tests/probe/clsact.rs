//! At clsact, where others have filters too: ours stay in front, come back, and leave theirs alone.

use whydrop::probe::Attach;
use whydrop_tests::{
    kube::wait::{Look, until},
    world::{namespace::checked, netns::Node},
};

use crate::watch::{DEADLINE, Watch};

/// A filter of classic BPF that lets everything pass, under the handle that most would have.
const THEIRS: &[&str] =
    &["protocol", "all", "pref", "1", "handle", "1", "bpf", "bytecode", "1,6 0 0 0"];

fn tc(node: &Node, arguments: &[&str]) -> String {
    checked(node.namespace().command("tc").args(arguments)).unwrap()
}

/// Waits until the handles of a hook's filters are these, in the order in which they run.
fn wait_order(node: &Node, hook: &str, wanted: &[&str]) {
    let in_order = until("filters in order", DEADLINE, || {
        let shown = tc(node, &["filter", "show", "dev", "veth0", hook]);
        let lines = shown.lines().filter_map(|line| line.split(" handle ").nth(1));
        let handles: Vec<&str> = lines.filter_map(|rest| rest.split(' ').next()).collect();
        Ok(if handles == wanted { Look::Seen(()) } else { Look::NotYet(shown.clone()) })
    });
    in_order.unwrap();
}

#[test]
fn filters_stay_in_front_and_come_back() {
    const OURS: &str = "0x77647270";

    let node = Node::new(1).unwrap();
    let watch = Watch::start(&node, Attach::Clsact);
    for hook in ["ingress", "egress"] {
        wait_order(&node, hook, &[OURS]);
        tc(&node, &[&["filter", "add", "dev", "veth0", hook][..], THEIRS].concat());
        wait_order(&node, hook, &[OURS, "0x1"]);
        tc(&node, &["filter", "delete", "dev", "veth0", hook]);
        wait_order(&node, hook, &[OURS]);
        tc(&node, &[&["filter", "add", "dev", "veth0", hook][..], THEIRS].concat());
        wait_order(&node, hook, &[OURS, "0x1"]);
    }
    drop(watch);
    for hook in ["ingress", "egress"] {
        wait_order(&node, hook, &["0x1"]);
    }
    let _again = Watch::start(&node, Attach::Clsact);
    // With the queueing discipline go all of its filters.
    tc(&node, &["qdisc", "delete", "dev", "veth0", "clsact"]);
    for hook in ["ingress", "egress"] {
        wait_order(&node, hook, &[OURS]);
    }
}
