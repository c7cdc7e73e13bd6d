//! Cilium enforces: its drops are reported and explained, what it lets pass is not, and our programs
//! and its own do not come in each other's way. Needs root.

mod matrix;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use whydrop_tests::{
    kube::node::cilium::{Cilium, Delivery},
    play::{stage::Stage, story::stories},
    world::{RECORD_WAIT, World as _},
};

/// The port that the policies are about.
const PORT: u16 = 8080;

/// Ports 8000 to 8100, for an engine that knows `endPort`.
const RANGE: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-range, namespace: backend}
spec:
  podSelector: {}
  ingress: [{ports: [{port: 8000, endPort: 8100}]}]
";

#[test]
fn a_drop_is_reported_and_ends_with_its_remedy() {
    play(Delivery::Redirected, "TC_INGRESS");
}

#[test]
fn a_drop_with_endpoint_routes_is_reported_and_ends_with_its_remedy() {
    play(Delivery::Routed, "TC_EGRESS");
}

#[test]
fn a_drop_where_answers_pass_by_the_veth_is_reported_and_ends_with_its_remedy() {
    play(Delivery::Peered, "TC_INGRESS");
}

/// A node with the cast of stories.
fn stage(delivery: Delivery) -> Stage<Cilium> {
    let mut stage = Stage::new(Cilium::start(delivery).expect("a node"));
    stage.cast().expect("pods");
    stage
}

/// Plays the stories; `ingress` is the kernel's reason for a denial of ingress.
fn play(delivery: Delivery, ingress: &str) {
    let mut stage = stage(delivery);
    let stories = stories("stories").expect("stories");
    stage.serve_all(stories.values()).expect("servers");
    stage.watch().expect("an agent");
    for (name, story) in &stories {
        let played = stage.play(name, story).unwrap_or_else(|error| panic!("{error:?}"));
        let is_ingress = played.drop["cause"]["direction"] == "ingress";
        let reason = if is_ingress { ingress } else { "TC_INGRESS" };
        assert_eq!(played.drop["evidence"]["reason"], reason, "{}", played.drop);
    }
    let records = stage.end().expect("records");
    let ids: BTreeSet<&str> = drops(&records).filter_map(|record| record["id"].as_str()).collect();
    assert_eq!(ids.len(), stories.len(), "one for each, and nothing else: {}", json!(records));
    assert!(!records.iter().any(|record| record["kind"] == "finding"), "{}", json!(records));
}

#[test]
fn a_range_of_ports_that_cilium_takes_for_its_first_is_out_of_sync() {
    let mut stage = stage(Delivery::Redirected);
    let server = stage.serve("backend/pod-b", PORT).expect("a server");
    stage.world.apply(RANGE).expect("applied");
    stage.watch().expect("an agent");
    let connects = stage.world.connects("frontend/pod-a", server).expect("a client");
    assert!(!connects, "Cilium 1.16 knows endPort");
    let record = stage.record("drop", RECORD_WAIT, |record| record["kind"] == "drop");
    let record = record.expect("a drop");
    assert_eq!(record["evidence"]["level"], "kernel-drop", "{record}");
    assert_eq!(record["verdict"]["ingress"]["decision"], "allowed", "{record}");
    assert_eq!(record["cause"]["class"], "out-of-sync", "{record}");
    assert!(record["cause"]["policy"].is_null(), "no policy is to blame: {record}");
}

/// Those of them that are of drops.
fn drops(records: &[Value]) -> impl Iterator<Item = &Value> {
    records.iter().filter(|record| record["kind"] == "drop")
}
