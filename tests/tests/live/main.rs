//! The agent against a real API server: real objects, rights and watches, real packets dropped by a
//! real filter on a node of network namespaces. Needs root.

mod churn;
mod facts;
mod mute;
mod own_path;
mod restart;
mod stage;
mod trouble;

use std::{net::SocketAddr, os::unix::fs::symlink, time::Duration};

use serde_json::{Value, json};
use stage::{NODE, PORT, RECORD_WAIT, Stage, drop_to};
use whydrop_tests::{
    agent::Agent,
    kube::wait::{Look, until},
};

/// How long an agent that is one too many may take to end.
const END_WAIT: Duration = Duration::from_secs(20);
/// How long an Event may take to be written.
const EVENT_WAIT: Duration = Duration::from_secs(15);

fn to(stage: &Stage, pod: usize) -> SocketAddr {
    (stage.node.pod(pod).ip, PORT).into()
}

/// The records of the agent's own state.
fn states<'a>(agent: &'a Agent, state: &'a str) -> impl Iterator<Item = &'a Value> {
    let records = agent.records().iter().map(|heard| &heard.record);
    records.filter(move |record| record["kind"] == "agent" && record["state"] == state)
}

#[test]
fn a_drop_is_named_and_described_on_the_pod_that_suffers() {
    let stage = Stage::new(2);
    stage.frontend_to_backend();
    stage.enforce(1);
    let mut agent = stage.agent();
    stage.connect(0, to(&stage, 1)).expect_err("it is dropped");

    let record = drop_to(&mut agent, "pod-b");
    assert_eq!(record["flow"]["source"]["pod"], "pod-a", "{record}");
    assert_eq!(record["cause"]["class"], "namespace-selector-mismatch", "{record}");
    assert_eq!(record["cause"]["policy"]["name"], "default-deny", "{record}");
    assert_eq!(record["evidence"]["level"], "kernel-drop", "{record}");
    assert_eq!(record["remedy"]["verified"], true, "{record}");

    let selector = "--field-selector=reason=NetworkPolicyDenied";
    let event = until("Event", EVENT_WAIT, || {
        let found = ["get", "events.events.k8s.io", "-n", "frontend", selector, "-o", "json"];
        let events = stage.kubectl.json(found)?;
        Ok(match events["items"].as_array().and_then(|items| items.first()) {
            Some(event) => Look::Seen(event.clone()),
            None => Look::NotYet(events.to_string()),
        })
    })
    .expect("an Event");
    let pod = stage.kubectl.json(["get", "pod", "pod-a", "-n", "frontend", "-o", "json"]);
    assert_eq!(event["regarding"]["uid"], pod.expect("the pod")["metadata"]["uid"], "{event}");
    assert_eq!(event["related"]["name"], "default-deny", "{event}");
    assert_eq!(event["type"], "Warning", "{event}");
    let described = stage.run(&["describe", "pod", "pod-a", "-n", "frontend"]);
    assert!(described.contains("NetworkPolicyDenied"), "{described}");
    assert!(described.contains("backend/default-deny"), "{described}");
    // With how bad its incident is, which was told by the time that it was written.
    let id: String = record["incident"].as_str().expect("an id").chars().take(8).collect();
    let note = event["note"].as_str().unwrap_or_default();
    assert!(note.starts_with(&format!("info incident {id}: frontend/pod-a -> ")), "{note}");

    // With the remedy applied to the same API server, the policies let the flow pass.
    let remedy = record["remedy"]["manifest"].as_str().expect("a manifest");
    stage.apply(remedy);
    let flow = ["explain", "--from", "frontend/pod-a", "--to", "backend/pod-b", "--port", "8080"];
    let explained = stage.whydrop(&stage.api.kubeconfig(), &flow).expect("whydrop explain");
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert_eq!(explained.status.code(), Some(0), "{text}");
    agent.stop().expect("it ends");
}

#[test]
fn who_is_elsewhere_is_looked_up() {
    let stage = Stage::new(2);
    stage.frontend_to_backend();
    let owner = |kind: &str, group: &str, name: &str, uid: &str| json!([{ "apiVersion": group, "kind": kind, "name": name, "uid": uid, "controller": true }]);
    // A pod of another node, behind a Service, made by a Job of a CronJob.
    let cron = owner("CronJob", "batch/v1", "nightly", "1-2-3");
    stage.apply(
        &json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": { "name": "nightly-1", "namespace": "backend", "ownerReferences": cron },
            "spec": { "template": { "spec": { "restartPolicy": "Never",
                "containers": [{ "name": "c", "image": "example.com/c" }] } } },
        })
        .to_string(),
    );
    let job = owner("Job", "batch/v1", "nightly-1", "4-5-6");
    stage.pod("backend", "far", "worker-2", "10.7.9.9", &json!({ "ownerReferences": job }));
    stage.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: far, namespace: backend}, \
          spec: {clusterIP: 10.96.7.7, ports: [{port: 80, targetPort: 8080}]}}",
    );
    stage.apply(
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
          metadata: {name: far-1, namespace: backend, labels: {kubernetes.io/service-name: far}}, \
          ports: [{port: 8080, protocol: TCP, name: ''}], \
          endpoints: [{addresses: [10.7.9.9], conditions: {ready: true}}]}",
    );
    // It dies beyond this node: nothing is dropped here, and nobody answers.
    let _beyond = stage.uplink(&["10.7.9.9/32", "10.96.0.0/16", "10.200.0.0/16"]);
    let mut agent = stage.agent();

    stage.connect(0, "10.7.9.9:8080".parse().expect("an address")).expect_err("nobody answers");
    let record = drop_to(&mut agent, "far");
    assert_eq!(record["flow"]["destination"]["workload"]["kind"], "CronJob", "{record}");
    assert_eq!(record["flow"]["destination"]["workload"]["name"], "nightly", "{record}");
    assert_eq!(record["evidence"]["level"], "unanswered", "{record}");
    assert_eq!(record["cause"]["policy"]["name"], "default-deny", "{record}");

    stage.connect(0, "10.96.7.7:80".parse().expect("an address")).expect_err("nobody answers");
    let of_service = agent.wait_for(RECORD_WAIT, |heard| {
        heard.iter().any(|heard| {
            let destination = &heard.record["flow"]["destination"];
            destination["service"]["name"] == "far" && destination["pod"] == "far"
        })
    });
    of_service.expect("the Service and its backend");

    // Nobody in the cluster: outside, where no policy of the destination's can be to blame.
    stage.connect(0, "10.200.0.1:8080".parse().expect("an address")).expect_err("nobody answers");
    let outside = agent.wait_for(RECORD_WAIT, |heard| {
        heard.iter().any(|heard| heard.record["flow"]["destination"]["ip"] == "10.200.0.1")
    });
    outside.expect("a record");
    let outside = agent
        .records()
        .iter()
        .find(|heard| heard.record["flow"]["destination"]["ip"] == "10.200.0.1");
    let record = &outside.expect("it").record;
    assert_eq!(record["cause"]["class"], "not-policy", "{record}");
    assert_eq!(record["cause"]["policy"], Value::Null, "{record}");
}

#[test]
fn a_reused_address_is_of_who_held_it_then() {
    let stage = Stage::new(2);
    stage.frontend_to_backend();
    stage.enforce(1);
    let mut agent = stage.agent();
    stage.connect(0, to(&stage, 1)).expect_err("it is dropped");
    drop_to(&mut agent, "pod-b");
    // The address goes to another pod.
    let address = stage.node.pod(1).ip.to_string();
    stage.run(&["delete", "pod", "pod-b", "-n", "backend", "--grace-period=0", "--force"]);
    stage.pod("backend", "heir", NODE, &address, &Value::Null);
    let later = stage.connect(0, (stage.node.pod(1).ip, PORT).into());
    later.expect_err("it is dropped");
    let records = agent.stop_and_read().expect("records");
    let last = records.iter().rev().find(|record| record["kind"] == "drop").expect("a drop");
    assert_eq!(last["flow"]["destination"]["pod"], "heir", "{last}");
}

#[test]
fn kubectl_runs_it_as_a_plugin_with_another_context_and_a_credential_program() {
    let stage = Stage::new(2);
    stage.frontend_to_backend();
    let folder = tempfile::tempdir().expect("a folder");
    let program = whydrop_tests::agent::binary().expect("whydrop");
    symlink(program, folder.path().join("kubectl-whydrop")).expect("a plugin");
    let text = std::fs::read_to_string(stage.api.kubeconfig()).expect("a kubeconfig");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": { "token": stage.api.token() },
    });
    let cluster = config["contexts"][0]["context"]["cluster"].clone();
    config["users"] = json!([{ "name": "program", "user": { "exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
        "command": "echo", "args": [credential.to_string()],
    } } }]);
    config["contexts"] = json!([
        { "name": "first", "context": { "cluster": cluster, "user": "nobody" } },
        { "name": "second", "context":
            { "cluster": cluster, "user": "program", "namespace": "backend" } },
    ]);
    config["current-context"] = "first".into();
    let path = folder.path().join("config");
    std::fs::write(&path, config.to_string()).expect("write");

    let explain = |more: &[&str]| {
        let flow = ["whydrop", "explain", "--from", "frontend/pod-a", "--to", "pod-b"];
        let arguments = flow.iter().chain(&["--port", "8080"]).chain(more).copied();
        let mut command = stage.kubectl.command(arguments);
        let paths = format!("{}:/usr/bin:/bin", folder.path().display());
        command.env("PATH", paths).env("KUBECONFIG", &path);
        stage.node.namespace().enter(|| Ok(command.output()?)).expect("kubectl")
    };
    // The namespace of the context, and another one.
    let output = explain(&["--context", "second"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("frontend/pod-a -> backend/pod-b:8080/TCP: denied"), "{text}");
    let output = explain(&["--context", "second", "-n", "frontend"]);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{complaint}");
    assert!(complaint.contains("no pod frontend/pod-b"), "{complaint}");
    assert_eq!(explain(&[]).status.code(), Some(2), "the first context has no such user");
}

#[test]
fn a_node_has_one_agent() {
    let stage = Stage::new(1);
    let _first = stage.agent();
    let mut second = stage.agent_command(&[]).expect("it starts");
    let status = second.wait_end(END_WAIT).expect("it ends");
    assert_eq!(status.code(), Some(2));
    assert!(second.stderr().contains("another whydrop agent"), "{}", second.stderr());
}

#[test]
fn an_agent_of_no_node_and_without_veths_says_so_and_lives() {
    let stage = Stage::new(0);
    let arguments = ["--node-name", "nowhere", "--health-address", "127.0.0.1:9472"];
    let mut command = stage.node.namespace().command(whydrop_tests::agent::binary().expect("it"));
    command.args(["agent", "--log-format", "json", "--kubeconfig"]);
    command.arg(stage.agents_kubeconfig()).args(arguments);
    let mut agent = Agent::spawn(&mut command).expect("it starts");
    agent.wait_ready().expect("it gets ready");
    let ready = states(&agent, "ready").next().expect("a record").clone();
    assert!(ready["cannot"].to_string().contains("a Node object named nowhere"), "{ready}");
    assert_eq!(ready["interfaces"], json!([]), "{ready}");
    for path in ["healthz", "readyz"] {
        let mut curl = stage.node.namespace().command("curl");
        let answer = curl.args(["-qsf", &format!("http://127.0.0.1:9472/{path}")]).output();
        assert_eq!(answer.expect("curl").stdout, b"ok\n", "{path}");
    }
    let mut curl = stage.node.namespace().command("curl");
    let metrics = curl.args(["-qsf", "http://127.0.0.1:9472/metrics"]).output().expect("curl");
    let metrics = String::from_utf8_lossy(&metrics.stdout).into_owned();
    for line in [
        "whydrop_ready 1",
        "whydrop_kind_followed{kind=\"NetworkPolicy\"} 1",
        "whydrop_kind_followed{kind=\"cilium.io/v2 CiliumNetworkPolicy\"} 1",
        "whydrop_queue_limit{queue=\"look-ups\"} 16",
    ] {
        assert!(metrics.lines().any(|have| have == line), "no {line} in\n{metrics}");
    }
    agent.stop().expect("it ends");
}

#[test]
fn progress_is_shown_on_a_terminal_and_nowhere_else() {
    let stage = Stage::new(2);
    stage.frontend_to_backend();
    let program = whydrop_tests::agent::binary().expect("whydrop");
    let config = stage.api.kubeconfig();
    let explain = format!(
        "{} explain --from frontend/pod-a --to backend/pod-b --port 8080 --kubeconfig {}",
        program.display(),
        config.display()
    );
    // script(1) gives what it runs a terminal of its own, and passes on what is shown there.
    let on_terminal = |flag: &str| {
        let mut script = stage.node.namespace().command("script");
        script.env("TERM", "xterm").args(["--quiet", "--return", "--command"]);
        let output = script.arg(format!("{explain} {flag}")).arg("/dev/null").output();
        let output = output.expect("run script, of bsdutils");
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let answer = "frontend/pod-a -> backend/pod-b:8080/TCP: denied";
    let shown = on_terminal("");
    let (progress, rest) = shown.split_once(answer).expect("the answer");
    assert!(progress.contains("reading NetworkPolicy objects in backend"), "{shown:?}");
    // It goes before the answer comes.
    assert!(progress.ends_with("\u{1b}[2K") && !rest.contains("reading"), "{shown:?}");
    let quiet = on_terminal("--quiet");
    assert!(quiet.starts_with(answer), "{quiet:?}");

    let flow = ["explain", "--from", "frontend/pod-a", "--to", "backend/pod-b", "--port", "8080"];
    let piped = stage.whydrop(&config, &flow).expect("whydrop explain");
    assert!(piped.stderr.is_empty(), "{}", String::from_utf8_lossy(&piped.stderr));
    assert!(piped.stdout.starts_with(answer.as_bytes()));
}
