//! The API server is gone, silent, forbids a kind, or wants another token: the agent uses its last
//! known state, says so, and is back by itself.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use whydrop_tests::{
    kube::api::Api,
    world::{
        RECORD_WAIT, World as _,
        agent::{Agent, Source, whydrop},
        netns::{NAME, Node},
    },
};

use crate::fixture::{
    apply, describe, drop_to, dropped, enforce, frontend_to_backend, kubectl, node, start_agent,
    states, to,
};

/// How long the agent may take to see that the API server is gone, or is back: a second or so, and
/// the client's pause between two tries, which grows to half a minute.
const STATE_WAIT: Duration = Duration::from_secs(60);
/// How long until another token counts: the client reads the file once in a minute.
const TOKEN_WAIT: Duration = Duration::from_secs(90);

fn wait_state(agent: &mut Agent, state: &str, count: usize, patience: Duration) {
    let so_often = agent.wait_for(patience, |heard| {
        heard.iter().filter(|heard| heard.record["state"] == state).count() >= count
    });
    so_often.unwrap_or_else(|error| panic!("{state}: {error:#}\n{}", agent.stderr()));
}

#[test]
fn an_api_server_that_goes_away_is_reported_and_the_last_known_state_used() {
    let mut node = node(3);
    frontend_to_backend(&mut node);
    describe(&mut node, 2, "backend/pod-c");
    enforce(&node, 1);
    let mut agent = start_agent(&node);
    node.server_mut().expect("a server").stop_apiserver().expect("stopped");
    // That its own connections go nowhere may be seen first.
    let cannot_follow = |record: &Value| {
        let what = record["what"].as_str().unwrap_or_default();
        record["state"] == "degraded" && what.contains("cannot follow")
    };
    let degraded = agent.record("degraded", STATE_WAIT, cannot_follow).expect("a record");
    assert!(degraded.to_string().contains("NetworkPolicy"), "{degraded}");

    dropped(&node, "frontend/pod-a", to(&node, 1));
    let record = drop_to(&mut agent, "pod-b");
    assert_eq!(record["cause"]["policy"]["name"], "default-deny", "{record}");
    let reasons = record["cause"]["reasons"].to_string();
    assert!(reasons.contains("known as they were"), "its age is said: {record}");

    node.server_mut().expect("a server").start_apiserver().expect("started again");
    wait_state(&mut agent, "ready", 2, STATE_WAIT);
    // What changes from now on is seen again.
    kubectl(&node, &["delete", "networkpolicy", "allow-web", "-n", "backend"]);
    // In place of what was enforced before.
    enforce(&node, 2);
    dropped(&node, "frontend/pod-a", to(&node, 2));
    let record = drop_to(&mut agent, "pod-c");
    assert_eq!(record["verdict"]["ingress"]["isolating"].as_array().map(Vec::len), Some(1));
    assert!(!record["cause"]["reasons"].to_string().contains("known as they were"), "{record}");
}

#[test]
fn an_api_server_that_does_not_answer_holds_nothing_up() {
    let mut node = node(2);
    frontend_to_backend(&mut node);
    enforce(&node, 1);
    let _beyond = node.uplink(&["10.7.9.9/32"]).expect("an uplink");
    let mut agent = start_agent(&node);
    let signal = |signal| {
        for pid in node.server().expect("a server").pids() {
            let pid = Pid::from_raw(i32::try_from(pid).expect("a process number"));
            kill(pid, signal).expect("the server's process");
        }
    };
    signal(Signal::SIGSTOP);
    dropped(&node, "frontend/pod-a", to(&node, 1));
    let record = drop_to(&mut agent, "pod-b");
    assert_eq!(record["cause"]["policy"]["name"], "default-deny", "{record}");

    // Who is elsewhere cannot be looked up, which is said in place of a guess.
    dropped(&node, "frontend/pod-a", "10.7.9.9:8080".parse().expect("an address"));
    let is_far = |record: &Value| record["flow"]["destination"]["ip"] == "10.7.9.9";
    let record = agent.record("drop", RECORD_WAIT, is_far).expect("a record");
    assert_eq!(record["cause"]["class"], "cannot-tell", "{record}");
    assert!(record["cause"].to_string().contains("did not answer"), "{record}");
    signal(Signal::SIGCONT);
}

#[test]
fn a_kind_that_may_not_be_read_is_named_until_it_may() {
    let mut node = node(2);
    frontend_to_backend(&mut node);
    enforce(&node, 1);
    // Nor may it read the kinds of any plugin, which this API server does not have.
    let without = "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, \
        metadata: {name: whydrop}, rules: [{apiGroups: [''], resources: ['*'], \
        verbs: [get, list, watch]}]}";
    apply(&mut node, without);
    let mut agent = start_agent(&node);
    let ready = states(&agent, "ready").next().expect("a record").to_string();
    assert!(ready.contains("NetworkPolicy objects") && ready.contains("forbidden"), "{ready}");

    dropped(&node, "frontend/pod-a", to(&node, 1));
    let record = drop_to(&mut agent, "pod-b");
    assert_eq!(record["cause"]["class"], "cannot-tell", "{record}");
    assert!(record["cause"].to_string().contains("forbidden"), "{record}");

    // As the user who may not, explain says the same.
    let flow = ["explain", "--from", "frontend/pod-a", "--to", "backend/pod-b", "--port", "8080"];
    let explained = whydrop_as(&node, &agents_kubeconfig(&node), &flow);
    let complaint = String::from_utf8_lossy(&explained.stderr).into_owned();
    assert_eq!(explained.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("networkpolicies in backend"), "{complaint}");

    apply(&mut node, &without.replace("['']", "['', networking.k8s.io]"));
    wait_state(&mut agent, "ready", 2, STATE_WAIT);
}

/// Starts the agent as the user that a kubeconfig names, and waits until it is ready.
fn agent_as(node: &Node, kubeconfig: PathBuf) -> Agent {
    let network = node.network(NAME).expect("the node");
    let command = Agent::command(&network, NAME, &Source::Kubeconfig(kubeconfig));
    let mut agent = Agent::spawn(&mut command.expect("whydrop")).expect("it starts");
    agent.wait_ready().expect("it gets ready");
    agent
}

fn agents_kubeconfig(node: &Node) -> PathBuf {
    node.server().and_then(Api::admit_agent).expect("a kubeconfig")
}

/// Runs another command of whydrop's, as the user that a kubeconfig names.
fn whydrop_as(node: &Node, kubeconfig: &Path, arguments: &[&str]) -> Output {
    let mut command = whydrop(&node.network(NAME).expect("the node")).expect("whydrop");
    command.args(arguments).arg("--kubeconfig").arg(kubeconfig);
    command.output().expect("run whydrop")
}

/// A token that counts until a Secret is deleted, as that of a pod does until the pod is.
fn bound_token(node: &Node, secret: &str) -> String {
    kubectl(node, &["create", "secret", "generic", secret, "-n", "whydrop"]);
    let token = ["create", "token", "whydrop", "-n", "whydrop", "--bound-object-kind=Secret"];
    let bound = format!("--bound-object-name={secret}");
    kubectl(node, &[&token[..], &[&bound]].concat()).trim().to_owned()
}

#[test]
fn a_token_that_is_replaced_in_its_file_is_taken_up() {
    let mut node = node(2);
    frontend_to_backend(&mut node);
    enforce(&node, 1);
    let folder = tempfile::tempdir().expect("a folder");
    let (token, kubeconfig) = (folder.path().join("token"), folder.path().join("config"));
    fs::write(&token, bound_token(&node, "first")).expect("write");
    let text = fs::read_to_string(agents_kubeconfig(&node)).expect("a kubeconfig");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config["users"][0]["user"] = json!({ "tokenFile": token });
    fs::write(&kubeconfig, config.to_string()).expect("write");
    let mut agent = agent_as(&node, kubeconfig);

    fs::write(&token, bound_token(&node, "second")).expect("write");
    kubectl(&node, &["delete", "secret", "first", "-n", "whydrop"]);
    // Watches that are under way outlive the token that they began with.
    node.server_mut().expect("a server").stop_apiserver().expect("stopped");
    wait_state(&mut agent, "degraded", 1, STATE_WAIT);
    node.server_mut().expect("a server").start_apiserver().expect("started again");
    wait_state(&mut agent, "ready", 2, TOKEN_WAIT);
    kubectl(&node, &["delete", "networkpolicy", "allow-web", "-n", "backend"]);
    dropped(&node, "frontend/pod-a", to(&node, 1));
    let record = drop_to(&mut agent, "pod-b");
    assert_eq!(record["verdict"]["ingress"]["isolating"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_token_that_counts_no_more_is_named() {
    let mut node = node(2);
    frontend_to_backend(&mut node);
    let expired = node
        .server()
        .expect("a server")
        .kubeconfig_for("expired", "of-yesterday")
        .expect("a kubeconfig");
    let flow = ["explain", "--from", "frontend/pod-a", "--to", "backend/pod-b", "--port", "8080"];
    let explained = whydrop_as(&node, &expired, &flow);
    let complaint = String::from_utf8_lossy(&explained.stderr).into_owned();
    assert_eq!(explained.status.code(), Some(2), "{complaint}");
    assert!(complaint.contains("Unauthorized"), "{complaint}");

    // The agent lives, judges nothing by what it does not know, and says why.
    enforce(&node, 1);
    let mut agent = agent_as(&node, expired);
    let ready = states(&agent, "ready").next().expect("a record").to_string();
    assert!(ready.contains("NetworkPolicy objects") && ready.contains("Unauthorized"), "{ready}");
    dropped(&node, "frontend/pod-a", to(&node, 1));
    let is_drop = |record: &Value| record["kind"] == "drop";
    let record = agent.record("drop", RECORD_WAIT, is_drop).expect("a record");
    assert_eq!(record["cause"]["class"], "cannot-tell", "{record}");
}
