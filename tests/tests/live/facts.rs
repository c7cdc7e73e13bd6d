//! What an incident says of those who are affected beyond this node's pods.

use serde_json::{Value, json};
use whydrop_tests::world::{
    RECORD_WAIT, World as _,
    agent::Agent,
    netns::{NAME, Node},
};

use crate::fixture::{
    apply, dropped, enforce, frontend_to_backend, kubectl, node, pod, start_agent, to,
};

/// A Deployment of three, none of them ready, one of them on this node: restarted twice, behind a
/// Service that has no ready endpoint.
fn web(node: &mut Node) {
    apply(
        node,
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: frontend}, \
          spec: {replicas: 3, selector: {matchLabels: {app: web}}, template: {metadata: \
          {labels: {app: web}}, spec: {containers: [{name: c, image: example.com/c}]}}}, \
          status: {replicas: 3, readyReplicas: 0, unavailableReplicas: 3}}",
    );
    let of_web = json!({
        "labels": { "app": "web", "pod-template-hash": "5d9" },
        "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d9",
            "uid": "1-2-3", "controller": true }],
    });
    let mut web = pod("frontend/web-5d9-x", NAME, node.nth(0).ip.into(), &of_web);
    web["status"]["conditions"] = json!([{ "type": "Ready", "status": "False" }]);
    web["status"]["containerStatuses"] = json!([{
        "name": "c", "image": "example.com/c", "imageID": "", "ready": false, "restartCount": 2,
    }]);
    apply(node, &web.to_string());
    apply(
        node,
        "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: frontend}, \
          spec: {clusterIP: 10.96.7.8, selector: {app: web}, ports: [{port: 80}]}}",
    );
    apply(
        node,
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
          metadata: {name: web-1, namespace: frontend, labels: {kubernetes.io/service-name: web}}, \
          ports: [{port: 80, protocol: TCP, name: ''}], \
          endpoints: [{addresses: [10.7.0.10], conditions: {ready: false}}]}",
    );
    // Of the same namespace, and nobody's here.
    apply(
        node,
        "{apiVersion: v1, kind: Service, metadata: {name: other, namespace: frontend}, \
          spec: {clusterIP: 10.96.7.9, selector: {app: other}, ports: [{port: 80}]}}",
    );
}

/// Has the pod's connection dropped, and waits for an incident that is like this.
fn incident_like(node: &Node, agent: &mut Agent, is_it: impl Fn(&Value) -> bool) -> Value {
    dropped(node, "frontend/web-5d9-x", to(node, 1));
    let is_incident = |record: &Value| record["kind"] == "incident" && is_it(record);
    let incident = agent.record("incident", RECORD_WAIT, is_incident);
    incident.unwrap_or_else(|error| panic!("{error:#}"))
}

#[test]
fn an_incident_has_all_replicas_and_their_services_if_it_may_ask() {
    let mut node = node(2);
    frontend_to_backend(&mut node);
    kubectl(&node, &["delete", "pod", "pod-a", "-n", "frontend", "--grace-period=0", "--force"]);
    web(&mut node);
    enforce(&node, 1);
    let mut agent = start_agent(&node);
    let incident = incident_like(&node, &mut agent, |record| record["severity"] == "critical");
    let affected = &incident["affected"][0];
    for (field, expected) in [
        ("pods", json!(1)),
        ("replicas", json!(3)),
        ("knows_all", json!(true)),
        ("replicas_ready", json!(0)),
        ("pods_not_ready", json!(1)),
        ("restarts", json!(2)),
        ("restarts_since", json!(0)),
    ] {
        assert_eq!(affected[field], expected, "{field}: {affected:#}");
    }
    let reasons = incident["severity_reasons"].to_string();
    assert!(reasons.contains("none of all 3 is ready"), "{reasons}");
    assert_eq!(incident["services_lost"], json!(["frontend/web"]), "{incident:#}");
    let text = incident["text"].as_str().unwrap_or_default();
    for words in [
        "1 of 3 frontend/web (those known to this node) cannot reach backend/pod-b:8080/TCP",
        "; 3 of 3 web not ready;",
        "; without a ready endpoint: frontend/web",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    agent.stop().expect("it ends");

    // An agent that may not ask knows its own pod, and does not say that all are affected.
    let role = "clusterrole/whydrop";
    let rules = node.kubectl().expect("kubectl").json(["get", role, "-o", "json"]).expect("rights")
        ["rules"]
        .take();
    let mut rules = rules.as_array().expect("rules").clone();
    rules.retain(|rule| !rule["resources"].to_string().contains("deployments"));
    let patch = json!({ "rules": rules }).to_string();
    kubectl(&node, &["patch", role, "--type=merge", "-p", &patch]);
    let mut agent = start_agent(&node);
    let incident = incident_like(&node, &mut agent, |record| record["happened"] == "opened");
    let affected = &incident["affected"][0];
    assert_eq!((&affected["replicas"], &affected["knows_all"]), (&json!(1), &json!(false)));
    assert_eq!(affected["replicas_ready"], Value::Null, "{affected:#}");
    assert_eq!(incident["severity"], "info", "{incident:#}");
    let text = incident["text"].as_str().unwrap_or_default();
    assert!(text.contains("1 of 1 frontend/web known to this node cannot reach"), "{text}");
    agent.stop().expect("it ends");
}
