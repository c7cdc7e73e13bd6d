//! What an incident tells of those who suffer beyond this node's pods.

use serde_json::{Value, json};
use whydrop_tests::agent::Agent;

use crate::{
    stage::{NODE, RECORD_WAIT, Stage},
    to,
};

/// A Deployment of three, none of them ready, one of them on this node: restarted twice, behind a
/// Service that has no ready endpoint.
fn web(stage: &Stage) {
    stage.apply(
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: frontend}, \
          spec: {replicas: 3, selector: {matchLabels: {app: web}}, template: {metadata: \
          {labels: {app: web}}, spec: {containers: [{name: c, image: example.com/c}]}}}}",
    );
    let status = json!({ "replicas": 3, "readyReplicas": 0, "unavailableReplicas": 3 });
    stage.patch_status("deployment", "web", Some("frontend"), &status);
    let of_web = json!({
        "labels": { "app": "web", "pod-template-hash": "5d9" },
        "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d9",
            "uid": "1-2-3", "controller": true }],
    });
    stage.pod("frontend", "web-5d9-x", NODE, &stage.node.pod(0).ip.to_string(), &of_web);
    stage.patch_status(
        "pod",
        "web-5d9-x",
        Some("frontend"),
        &json!({
            "conditions": [{ "type": "Ready", "status": "False" }],
            "containerStatuses": [{ "name": "c", "image": "example.com/c", "imageID": "",
                "ready": false, "restartCount": 2 }],
        }),
    );
    stage.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: frontend}, \
          spec: {clusterIP: 10.96.7.8, selector: {app: web}, ports: [{port: 80}]}}",
    );
    stage.apply(
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
          metadata: {name: web-1, namespace: frontend, labels: {kubernetes.io/service-name: web}}, \
          ports: [{port: 80, protocol: TCP, name: ''}], \
          endpoints: [{addresses: [10.7.0.10], conditions: {ready: false}}]}",
    );
    // Of the same namespace, and nobody's here.
    stage.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: other, namespace: frontend}, \
          spec: {clusterIP: 10.96.7.9, selector: {app: other}, ports: [{port: 80}]}}",
    );
}

/// Has the pod's connection dropped, and waits for an incident that is like this.
fn incident(stage: &Stage, agent: &mut Agent, is_it: impl Fn(&Value) -> bool) -> Value {
    stage.connect(0, to(stage, 1)).expect_err("it is dropped");
    let is_told = |record: &Value| record["kind"] == "incident" && is_it(record);
    let told = agent.wait_for(RECORD_WAIT, |heard| heard.iter().any(|h| is_told(&h.record)));
    told.unwrap_or_else(|error| panic!("{error:#}: {:#?}", agent.records()));
    let told = agent.records().iter().find(|heard| is_told(&heard.record));
    told.expect("it").record.clone()
}

#[test]
fn an_incident_tells_all_replicas_and_their_services_if_it_may_ask() {
    let stage = Stage::new(2);
    stage.frontend_to_backend();
    stage.run(&["delete", "pod", "pod-a", "-n", "frontend", "--grace-period=0", "--force"]);
    web(&stage);
    stage.enforce(1);
    let mut agent = stage.agent();
    let told = incident(&stage, &mut agent, |record| record["severity"] == "critical");
    let affected = &told["affected"][0];
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
    let reasons = told["severity_reasons"].to_string();
    assert!(reasons.contains("none of all 3 is ready"), "{reasons}");
    assert_eq!(told["services_lost"], json!(["frontend/web"]), "{told:#}");
    let text = told["text"].as_str().unwrap_or_default();
    for words in [
        "1 of 3 frontend/web (those known to this node) cannot reach backend/pod-b:8080/TCP",
        "; 3 of 3 web not ready;",
        "; no ready endpoint is left of frontend/web",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    agent.stop().expect("it ends");

    // An agent that may not ask knows its own pod, and does not say that all suffer.
    let role = "clusterrole/whydrop";
    let rules = stage.kubectl.json(["get", role, "-o", "json"]).expect("rights")["rules"].take();
    let mut rules = rules.as_array().expect("rules").clone();
    rules.retain(|rule| !rule["resources"].to_string().contains("deployments"));
    let patch = json!({ "rules": rules }).to_string();
    stage.run(&["patch", role, "--type=merge", "-p", &patch]);
    let mut agent = stage.agent();
    let told = incident(&stage, &mut agent, |record| record["happened"] == "opened");
    let affected = &told["affected"][0];
    assert_eq!((&affected["replicas"], &affected["knows_all"]), (&json!(1), &json!(false)));
    assert_eq!(affected["replicas_ready"], Value::Null, "{affected:#}");
    assert_eq!(told["severity"], "info", "{told:#}");
    let text = told["text"].as_str().unwrap_or_default();
    assert!(text.contains("1 of 1 frontend/web known to this node cannot reach"), "{text}");
    agent.stop().expect("it ends");
}
