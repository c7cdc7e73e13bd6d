//! Cilium enforces: its drops are told and explained, what it lets pass is not, and our programs and
//! its own do not come in each other's way. Needs root.

mod matrix;
mod stage;

use std::collections::BTreeSet;

use serde_json::json;
use stage::{Stage, connect, drop_between, drops};
use whydrop_tests::{differential::Outcome, kube::node::cilium::Delivery};

/// The port that the policies are about.
const PORT: u16 = 8080;

/// The one that is to lead comes last: of several, the latest does.
const DEFAULT_DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-web, namespace: backend}
spec:
  podSelector: {matchLabels: {app: pod-b}}
  ingress:
    - from: [{namespaceSelector: {matchLabels: {name: frontend}}}]
      ports: [{port: 8080}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny, namespace: backend}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

const DENY_EGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-egress, namespace: backend}
spec: {podSelector: {}, policyTypes: [Egress]}
";

/// Ports 8000 to 8100, to whoever knows `endPort`.
const RANGE: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-range, namespace: backend}
spec:
  podSelector: {}
  ingress: [{ports: [{port: 8000, endPort: 8100}]}]
";

#[test]
fn a_drop_is_told_and_ends_with_its_remedy() {
    frontend_to_backend(Delivery::Redirected, "TC_INGRESS");
}

#[test]
fn a_drop_with_endpoint_routes_is_told_and_ends_with_its_remedy() {
    frontend_to_backend(Delivery::Routed, "TC_EGRESS");
}

#[test]
fn a_drop_where_answers_pass_by_the_veth_is_told_and_ends_with_its_remedy() {
    frontend_to_backend(Delivery::Peered, "TC_INGRESS");
}

/// The story; `reason` is that of the kernel for a denial of ingress.
fn frontend_to_backend(delivery: Delivery, reason: &str) {
    let mut stage = Stage::new(delivery);
    let a = stage.pod("frontend", "pod-a");
    let b = stage.pod("backend", "pod-b");
    let mut agent = stage.agent();
    assert_eq!([connect(&a, &b, PORT), connect(&b, &a, PORT)], [Outcome::Connected; 2]);

    stage.apply(DEFAULT_DENY);
    assert_eq!(connect(&a, &b, PORT), Outcome::TimedOut);
    assert_eq!(connect(&b, &a, PORT), Outcome::Connected, "the other way is open");
    let record = drop_between(&mut agent, "pod-a", "pod-b");
    assert_eq!(record["evidence"]["level"], "kernel-drop", "{record}");
    assert_eq!(record["evidence"]["reason"], reason, "{record}");
    assert_eq!(record["cause"]["class"], "namespace-selector-mismatch", "{record}");
    assert_eq!(record["cause"]["direction"], "ingress", "{record}");
    assert_eq!(record["cause"]["policy"]["name"], "default-deny", "{record}");
    assert!(record["evidence"]["last_success"].is_string(), "it worked before: {record}");
    stage.apply(record["remedy"]["manifest"].as_str().expect("a manifest"));
    assert_eq!(connect(&a, &b, PORT), Outcome::Connected);

    stage.apply(DENY_EGRESS);
    assert_eq!(connect(&b, &a, PORT), Outcome::TimedOut);
    assert_eq!(connect(&a, &b, PORT), Outcome::Connected, "answers are no egress");
    let record = drop_between(&mut agent, "pod-b", "pod-a");
    assert_eq!(record["evidence"]["reason"], "TC_INGRESS", "{record}");
    assert_eq!(record["cause"]["class"], "default-deny", "{record}");
    assert_eq!(record["cause"]["direction"], "egress", "{record}");
    assert_eq!(record["cause"]["policy"]["name"], "deny-egress", "{record}");
    stage.apply(record["remedy"]["manifest"].as_str().expect("a manifest"));
    assert_eq!(connect(&b, &a, PORT), Outcome::Connected);

    let records = agent.stop_and_read().expect("records");
    let told: BTreeSet<&str> = drops(&records).filter_map(|r| r["id"].as_str()).collect();
    assert_eq!(told.len(), 2, "each of the two, and nothing else: {}", json!(records));
    assert!(!records.iter().any(|record| record["kind"] == "finding"), "{}", json!(records));
}

#[test]
fn a_range_of_ports_that_cilium_takes_for_its_first_is_out_of_sync() {
    let mut stage = Stage::new(Delivery::Redirected);
    let a = stage.pod("frontend", "pod-a");
    let b = stage.pod("backend", "pod-b");
    stage.apply(RANGE);
    let mut agent = stage.agent();
    assert_eq!(connect(&a, &b, PORT), Outcome::TimedOut, "Cilium 1.16 knows endPort");
    let record = drop_between(&mut agent, "pod-a", "pod-b");
    assert_eq!(record["evidence"]["level"], "kernel-drop", "{record}");
    assert_eq!(record["verdict"]["ingress"]["decision"], "allowed", "{record}");
    assert_eq!(record["cause"]["class"], "out-of-sync", "{record}");
    assert!(record["cause"]["policy"].is_null(), "no policy is to blame: {record}");
}
