//! A living cluster on a whole node: what truly happens, counted from the clients' own connects, and what
//! is said of it. Needs root.

use whydrop_tests::{
    kube::node::{Node, Settings},
    play::living::{play_all, situations},
};

#[test]
fn what_is_said_is_what_happened() {
    let node = Node::start(&Settings::default()).expect("a node");
    let mut situations = situations().expect("situations");
    if let Ok(only) = std::env::var("WHYDROP_LIVING") {
        situations.retain(|name, _| name.starts_with(&only));
    }
    play_all(&node, &situations).unwrap_or_else(|error| panic!("{error:?}"));
}
