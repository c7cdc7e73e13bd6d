//! An API server that answers anything, or has lost what it answers from: the last known state is used,
//! nothing false is said, and what changed is seen once it answers again.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use whydrop_tests::{
    kube::{
        api::Api,
        faulty::{Answers, Faulty},
    },
    world::{
        RECORD_WAIT, World as _,
        agent::{Agent, Source},
        netns::{NAME, Node},
    },
};

use crate::fixture::{
    PORT, apply, describe, enforce, frontend_to_backend, kubectl, node, start_agent, states,
};

/// Two SYNs, the second of which shows that the first was dropped.
const DIAL: Duration = Duration::from_millis(1500);
/// How long the agent may take to see what its API server serves, which it asks twice a minute, and what
/// becomes of its watches, whose pauses grow to half a minute.
const SEEN_WAIT: Duration = Duration::from_secs(75);

/// The record of a connect from `frontend/pod-a` to the pod of a number, at a port of its own.
fn drop_of(node: &Node, agent: &mut Agent, pod: usize, number: u16) -> Value {
    let to = (node.nth(pod).ip, PORT + number).into();
    assert!(node.connect("frontend/pod-a", to, DIAL).expect("a client").is_err(), "{to}");
    let is_it = |record: &Value| {
        record["kind"] == "drop" && record["flow"]["destination"]["port"] == PORT + number
    };
    let drop = agent.record("drop", RECORD_WAIT, is_it);
    drop.unwrap_or_else(|error| panic!("{number}: {error:#}"))
}

/// Dials again and again, until what is reported is like this.
fn until_drop(
    (node, agent): (&Node, &mut Agent),
    (pod, first): (usize, u16),
    like: impl Fn(&Value) -> bool,
) -> Value {
    let begun = Instant::now();
    for number in first.. {
        let record = drop_of(node, agent, pod, number);
        if like(&record) {
            return record;
        }
        assert!(begun.elapsed() < SEEN_WAIT, "{record}\n{}", agent.said());
    }
    unreachable!("ports are many")
}

fn isolating(record: &Value) -> usize {
    record["verdict"]["ingress"]["isolating"].as_array().map_or(0, Vec::len)
}

#[test]
fn whatever_it_answers_the_last_known_state_is_used_until_it_answers_again() {
    let mut node = node(3);
    frontend_to_backend(&mut node);
    describe(&mut node, 2, "backend/pod-c");
    enforce(&node, 1);
    let folder = tempfile::tempdir().expect("a folder");
    let own = node.server().and_then(Api::admit_agent).expect("a kubeconfig");
    let faulty = Faulty::start(node.namespace(), &own, folder.path()).expect("a server");
    let source = Source::Kubeconfig(faulty.kubeconfig().to_owned());
    let network = node.network(NAME).expect("the node");
    let mut command = Agent::command(&network, NAME, &source).expect("whydrop");
    let mut agent = Agent::spawn(&mut command).expect("it starts");
    agent.wait_ready().expect("it gets ready");

    let gone = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "reason": "Expired", "message": "too old resource version", "code": 410 });
    let no_list = json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": "none" });
    let begun = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
        Transfer-Encoding: chunked\r\n\r\n8\r\n{\"kind\":";
    let answers = [
        Answers::status("500 Internal Server Error", "text/plain", "etcdserver: request timed out"),
        Answers::status("429 Too Many Requests", "text/plain", "wait a moment"),
        Answers::status("410 Gone", "application/json", &gone.to_string()),
        Answers::status("200 OK", "text/html", "<html>log in first</html>"),
        Answers::status("200 OK", "application/json", &no_list.to_string()),
        Answers::Bytes((0..=u8::MAX).cycle().take(5000).collect()),
        Answers::AndNoMore(Vec::new()),
        Answers::AndNoMore(begun.into()),
    ];
    for (number, answers) in (1_u16..).zip(answers) {
        faulty.answer(answers);
        let is_said = |record: &Value| {
            record["state"] == "degraded" && record["what"].to_string().contains("cannot follow")
        };
        agent.record("that it cannot follow", SEEN_WAIT, is_said).expect("it is reported");
        let record = drop_of(&node, &mut agent, 1, number);
        assert_eq!(record["cause"]["policy"]["name"], "default-deny", "{record}");
        assert!(record["cause"]["reasons"].to_string().contains("known as they were"), "{record}");
    }

    // Each watch is told that it is too late, and lists anew: what has changed is seen all the same.
    kubectl(&node, &["delete", "networkpolicy", "allow-web", "-n", "backend"]);
    enforce(&node, 2);
    faulty.answer(Answers::ToWatches(json!({ "type": "ERROR", "object": gone }).to_string()));
    until_drop((&node, &mut agent), (2, 20), |record| isolating(record) == 1);
    let before = states(&agent, "ready").count();
    faulty.answer(Answers::AsItIs);
    let ready = agent.wait_for(SEEN_WAIT, |heard| {
        heard.iter().filter(|heard| heard.record["state"] == "ready").count() > before
    });
    ready.unwrap_or_else(|error| panic!("{error:#}\n{}", agent.said()));
    agent.stop().expect("it ends");
}

#[test]
fn an_api_server_without_etcd_changes_nothing_and_what_comes_later_is_seen() {
    let mut node = node(3);
    frontend_to_backend(&mut node);
    describe(&mut node, 2, "backend/pod-c");
    enforce(&node, 1);
    let mut agent = start_agent(&node);
    node.server_mut().expect("a server").stop_etcd().expect("stopped");
    let record = drop_of(&node, &mut agent, 1, 1);
    assert_eq!(record["cause"]["policy"]["name"], "default-deny", "{record}");
    node.server_mut().expect("a server").start_etcd().expect("started again");
    kubectl(&node, &["delete", "networkpolicy", "allow-web", "-n", "backend"]);
    enforce(&node, 2);
    until_drop((&node, &mut agent), (2, 20), |record| isolating(record) == 1);
    agent.stop().expect("it ends");
}

/// That an admin denies all, and what has the API server know such a thing.
fn admins() -> [Value; 2] {
    let anything = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let names = json!({ "kind": "AdminNetworkPolicy", "plural": "adminnetworkpolicies",
        "singular": "adminnetworkpolicy", "listKind": "AdminNetworkPolicyList" });
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "adminnetworkpolicies.policy.networking.k8s.io",
            "annotations": { "api-approved.kubernetes.io": "unapproved, in a test" },
        },
        "spec": {
            "group": "policy.networking.k8s.io", "scope": "Cluster", "names": names,
            "versions": [{ "name": "v1alpha1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": anything } }],
        },
    });
    let everywhere = json!({ "namespaces": {} });
    let policy = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "AdminNetworkPolicy",
        "metadata": { "name": "closed" },
        "spec": { "priority": 1, "subject": everywhere,
            "ingress": [{ "name": "all", "action": "Deny", "from": [everywhere] }] },
    });
    [definition, policy]
}

#[test]
fn a_kind_that_vanishes_decides_nothing_more_and_is_followed_when_it_is_back() {
    let mut node = node(2);
    frontend_to_backend(&mut node);
    enforce(&node, 1);
    let [definition, policy] = admins();
    let install = |node: &mut Node| {
        apply(node, &definition.to_string());
        let crd = "crd/adminnetworkpolicies.policy.networking.k8s.io";
        kubectl(node, &["wait", "--for=condition=established", "--timeout=30s", crd]);
        apply(node, &policy.to_string());
    };
    install(&mut node);
    let mut agent = start_agent(&node);
    let is_admins = |record: &Value| record["cause"]["policy"]["name"] == "closed";
    assert!(is_admins(&drop_of(&node, &mut agent, 1, 1)), "{}", agent.said());

    let definitions = ["delete", "crd", "adminnetworkpolicies.policy.networking.k8s.io"];
    kubectl(&node, &definitions);
    let is_namespaces = |record: &Value| record["cause"]["policy"]["name"] == "default-deny";
    let last = until_drop((&node, &mut agent), (1, 10), is_namespaces);
    // What is not served is not missed.
    assert!(!last["cause"].to_string().contains("AdminNetworkPolicy"), "{last}");
    install(&mut node);
    until_drop((&node, &mut agent), (1, 100), is_admins);
    agent.stop().expect("it ends");
}
