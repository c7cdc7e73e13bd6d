//! The API server is gone, silent, forbids a kind, or wants another token: the agent goes on with
//! what it knows, says so, and is back by itself.

use std::{fs, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use whydrop_tests::agent::{Agent, Heard};

use crate::{
    stage::{NODE, RECORD_WAIT, Stage, drop_to},
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
fn an_api_server_that_goes_away_is_told_and_does_without() {
    let mut stage = Stage::new(3);
    stage.frontend_to_backend();
    let third = stage.node.pod(2).ip.to_string();
    stage.pod("backend", "pod-c", NODE, &third, &Value::Null);
    stage.enforce(1);
    let mut agent = stage.agent();
    stage.api.stop_apiserver().expect("stopped");
    wait_state(&mut agent, "degraded", 1, STATE_WAIT);
    let degraded = states(&agent, "degraded").next().expect("a record").to_string();
    assert!(degraded.contains("NetworkPolicy") && degraded.contains("cannot follow"), "{degraded}");

    stage.connect(0, to(&stage, 1)).expect_err("it is dropped");
    let record = drop_to(&mut agent, "pod-b");
    assert_eq!(record["cause"]["policy"]["name"], "default-deny", "{record}");
    let reasons = record["cause"]["reasons"].to_string();
    assert!(reasons.contains("known as they were"), "its age is said: {record}");

    stage.api.start_apiserver().expect("started again");
    wait_state(&mut agent, "ready", 2, STATE_WAIT);
    // What changes from now on is seen again.
    stage.run(&["delete", "networkpolicy", "allow-web", "-n", "backend"]);
    stage.stop_enforcing();
    stage.enforce(2);
    stage.connect(0, to(&stage, 2)).expect_err("it is dropped");
    let record = drop_to(&mut agent, "pod-c");
    assert_eq!(record["verdict"]["ingress"]["isolating"].as_array().map(Vec::len), Some(1));
    assert!(!record["cause"]["reasons"].to_string().contains("known as they were"), "{record}");
}

#[test]
fn an_api_server_that_does_not_answer_holds_nothing_up() {
    let stage = Stage::new(2);
    stage.frontend_to_backend();
    stage.enforce(1);
    let _beyond = stage.uplink(&["10.7.9.9/32"]);
    let mut agent = stage.agent();
    let signal = |signal| {
        for pid in stage.api.pids() {
            let pid = Pid::from_raw(i32::try_from(pid).expect("a process number"));
            kill(pid, signal).expect("the server's process");
        }
    };
    signal(Signal::SIGSTOP);
    stage.connect(0, to(&stage, 1)).expect_err("it is dropped");
    let record = drop_to(&mut agent, "pod-b");
    assert_eq!(record["cause"]["policy"]["name"], "default-deny", "{record}");

    // Who is elsewhere cannot be looked up, which is said in place of a guess.
    stage.connect(0, "10.7.9.9:8080".parse().expect("an address")).expect_err("nobody answers");
    let is_far = |heard: &Heard| heard.record["flow"]["destination"]["ip"] == "10.7.9.9";
    let told = agent.wait_for(RECORD_WAIT, |heard| heard.iter().any(is_far));
    told.expect("a record");
    let record = &agent.records().iter().find(|heard| is_far(heard)).expect("it").record;
    assert_eq!(record["cause"]["class"], "cannot-tell", "{record}");
    assert!(record["cause"].to_string().contains("did not answer"), "{record}");
    signal(Signal::SIGCONT);
}

#[test]
fn a_kind_that_may_not_be_read_is_named_until_it_may() {
    let stage = Stage::new(2);
    stage.frontend_to_backend();
    stage.enforce(1);
    let without = "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, \
        metadata: {name: whydrop}, rules: [{apiGroups: ['', policy.networking.k8s.io, \
        crd.projectcalico.org, cilium.io, crd.antrea.io], resources: ['*'], verbs: [get, list, watch]}]}";
    stage.apply(without);
    let mut agent = stage.agent();
    let ready = states(&agent, "ready").next().expect("a record").to_string();
    assert!(ready.contains("NetworkPolicy objects") && ready.contains("forbidden"), "{ready}");

    stage.connect(0, to(&stage, 1)).expect_err("it is dropped");
    let record = drop_to(&mut agent, "pod-b");
    assert_eq!(record["cause"]["class"], "cannot-tell", "{record}");
    assert!(record["cause"].to_string().contains("forbidden"), "{record}");

    // As the user who may not, explain says the same.
    let flow = ["explain", "--from", "frontend/pod-a", "--to", "backend/pod-b", "--port", "8080"];
    let explained = stage.whydrop(&stage.agents_kubeconfig(), &flow).expect("whydrop explain");
    let complaint = String::from_utf8_lossy(&explained.stderr).into_owned();
    assert_eq!(explained.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("cannot read NetworkPolicy objects in backend"), "{complaint}");

    stage.apply(&without.replace("['', ", "['', networking.k8s.io, "));
    wait_state(&mut agent, "ready", 2, STATE_WAIT);
}

/// A token that counts until a Secret is deleted, as that of a pod does until the pod is.
fn bound_token(stage: &Stage, secret: &str) -> String {
    stage.run(&["create", "secret", "generic", secret, "-n", "whydrop"]);
    let token = ["create", "token", "whydrop", "-n", "whydrop", "--bound-object-kind=Secret"];
    let bound = format!("--bound-object-name={secret}");
    stage.run(&[&token[..], &[&bound]].concat()).trim().to_owned()
}

#[test]
fn a_token_that_is_replaced_in_its_file_is_taken_up() {
    let mut stage = Stage::new(2);
    stage.frontend_to_backend();
    stage.enforce(1);
    let folder = tempfile::tempdir().expect("a folder");
    let (token, kubeconfig) = (folder.path().join("token"), folder.path().join("config"));
    fs::write(&token, bound_token(&stage, "first")).expect("write");
    let text = fs::read_to_string(stage.agents_kubeconfig()).expect("a kubeconfig");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config["users"][0]["user"] = json!({ "tokenFile": token });
    fs::write(&kubeconfig, config.to_string()).expect("write");
    let mut agent = stage.agent_as(&kubeconfig, &[]).expect("it starts");
    agent.wait_ready().expect("it gets ready");

    fs::write(&token, bound_token(&stage, "second")).expect("write");
    stage.run(&["delete", "secret", "first", "-n", "whydrop"]);
    // Watches that are under way outlive the token that they began with.
    stage.api.stop_apiserver().expect("stopped");
    wait_state(&mut agent, "degraded", 1, STATE_WAIT);
    stage.api.start_apiserver().expect("started again");
    wait_state(&mut agent, "ready", 2, TOKEN_WAIT);
    stage.run(&["delete", "networkpolicy", "allow-web", "-n", "backend"]);
    stage.connect(0, to(&stage, 1)).expect_err("it is dropped");
    let record = drop_to(&mut agent, "pod-b");
    assert_eq!(record["verdict"]["ingress"]["isolating"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_token_that_counts_no_more_is_named() {
    let stage = Stage::new(2);
    stage.frontend_to_backend();
    let expired = stage.api.kubeconfig_for("expired", "of-yesterday").expect("a kubeconfig");
    let flow = ["explain", "--from", "frontend/pod-a", "--to", "backend/pod-b", "--port", "8080"];
    let explained = stage.whydrop(&expired, &flow).expect("whydrop explain");
    let complaint = String::from_utf8_lossy(&explained.stderr).into_owned();
    assert_eq!(explained.status.code(), Some(2), "{complaint}");
    assert!(complaint.contains("Unauthorized"), "{complaint}");

    // The agent lives, judges nothing by what it does not know, and says why.
    stage.enforce(1);
    let mut agent = stage.agent_as(&expired, &[]).expect("it starts");
    agent.wait_ready().expect("it gets ready");
    let ready = states(&agent, "ready").next().expect("a record").to_string();
    assert!(ready.contains("NetworkPolicy objects") && ready.contains("Unauthorized"), "{ready}");
    stage.connect(0, to(&stage, 1)).expect_err("it is dropped");
    let is_drop = |heard: &Heard| heard.record["kind"] == "drop";
    agent.wait_for(RECORD_WAIT, |heard| heard.iter().any(is_drop)).expect("a record");
    let record = &agent.records().iter().find(|heard| is_drop(heard)).expect("it").record;
    assert_eq!(record["cause"]["class"], "cannot-tell", "{record}");
}
