//! A living cluster on a whole node: what truly happens, counted from the clients' own connects, and what
//! is said of it. Needs root.

use std::time::Duration;

use whydrop_tests::{
    kube::{
        node::{self, Node},
        proxy::Mode,
    },
    play::{
        churn,
        living::{play_all, situations},
    },
};

/// `WHYDROP_PROXY=iptables` or `nftables`: by which rules kube-proxy leads packets, where it is not to be
/// the mode of the test.
fn node(otherwise: Mode) -> Node {
    let proxy = match std::env::var("WHYDROP_PROXY").as_deref() {
        Ok("iptables") => Mode::Iptables,
        Ok("nftables") => Mode::Nftables,
        Ok(other) => panic!("WHYDROP_PROXY={other}: iptables or nftables"),
        Err(_) => otherwise,
    };
    Node::start(&node::Settings { proxy, ..node::Settings::default() }).expect("a node")
}

#[test]
fn what_is_said_is_what_happened() {
    let node = node(Mode::Iptables);
    let mut situations = situations().expect("situations");
    if let Ok(only) = std::env::var("WHYDROP_LIVING") {
        situations.retain(|name, _| name.starts_with(&only));
    }
    play_all(&node, &situations).unwrap_or_else(|error| panic!("{error:?}"));
}

/// A minute of what `cargo xtask churn --minutes N` does for longer.
#[test]
#[expect(clippy::print_stdout, reason = "what happened, for those who ask to see it")]
fn churn_is_reported_as_the_clients_saw_it() {
    let number = |name: &str, otherwise: u64| {
        let given = std::env::var(name).ok();
        given.map_or(otherwise, |given| given.parse().expect("a number"))
    };
    let time = Duration::from_secs(60 * number("WHYDROP_CHURN_MINUTES", 1));
    let seed = number("WHYDROP_CHURN_SEED", 1);
    let node = node(Mode::Nftables);
    let churned = churn::play(&node, churn::Settings { time, seed }).expect("churn");
    let differences = churned.differences();
    println!("{churned}; {differences}");
    if let Ok(file) = std::env::var("WHYDROP_CHURN_RECORDS") {
        let lines: Vec<String> = churned.records.iter().map(ToString::to_string).collect();
        std::fs::write(file, lines.join("\n")).expect("written");
    }
    assert!(differences.is_empty(), "{churned}\n{differences}");
}
