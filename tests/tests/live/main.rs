//! The agent against a real API server: real objects, rights and watches, real packets dropped by a
//! real filter on a node of network namespaces. Needs root.

mod answers;
mod churn;
mod edges;
mod facts;
mod fixture;
mod hostile;
mod late;
mod mute;
mod own_path;
mod restart;
mod trouble;

use std::{net::SocketAddr, os::unix::fs::symlink, time::Duration};

use fixture::{
    apply, drop_to, dropped, enforce, frontend_to_backend, kubectl, node, pod, start_agent, states,
    to,
};
use serde_json::{Value, json};
use whydrop_tests::{
    kube::wait::{Look, until},
    play::{stage::Stage, story::stories},
    world::{
        RECORD_WAIT, World as _,
        agent::{Agent, binary},
        netns::{NAME, Node},
    },
};

/// How long an agent that is one too many may take to end.
const END_WAIT: Duration = Duration::from_secs(20);
/// How long an Event may take to be written.
const EVENT_WAIT: Duration = Duration::from_secs(15);

#[test]
fn a_drop_is_named_and_described_on_the_pod_that_is_affected() {
    let mut node = node(2);
    frontend_to_backend(&mut node);
    enforce(&node, 1);
    let mut agent = start_agent(&node);
    dropped(&node, "frontend/pod-a", to(&node, 1));

    let record = drop_to(&mut agent, "pod-b");
    assert_eq!(record["flow"]["source"]["pod"], "pod-a", "{record}");
    assert_eq!(record["cause"]["class"], "namespace-selector-mismatch", "{record}");
    assert_eq!(record["cause"]["policy"]["name"], "default-deny", "{record}");
    assert_eq!(record["evidence"]["level"], "kernel-drop", "{record}");
    assert_eq!(record["remedy"]["verified"], true, "{record}");

    let selector = "--field-selector=reason=NetworkPolicyDenied";
    let event = until("Event", EVENT_WAIT, || {
        let found = ["get", "events.events.k8s.io", "-n", "frontend", selector, "-o", "json"];
        let events = node.kubectl().expect("kubectl").json(found)?;
        Ok(match events["items"].as_array().and_then(|items| items.first()) {
            Some(event) => Look::Seen(event.clone()),
            None => Look::NotYet(events.to_string()),
        })
    })
    .expect("an Event");
    let pod = node
        .kubectl()
        .expect("kubectl")
        .json(["get", "pod", "pod-a", "-n", "frontend", "-o", "json"]);
    assert_eq!(event["regarding"]["uid"], pod.expect("the pod")["metadata"]["uid"], "{event}");
    assert_eq!(event["related"]["name"], "default-deny", "{event}");
    assert_eq!(event["type"], "Warning", "{event}");
    let described = kubectl(&node, &["describe", "pod", "pod-a", "-n", "frontend"]);
    assert!(described.contains("NetworkPolicyDenied"), "{described}");
    assert!(described.contains("backend/default-deny"), "{described}");
    // With how bad its incident is, which was reported by the time that it was written.
    let id: String = record["incident"].as_str().expect("an id").chars().take(8).collect();
    let note = event["note"].as_str().unwrap_or_default();
    assert!(note.starts_with(&format!("info incident {id}: frontend/pod-a -> ")), "{note}");

    // With the remedy applied to the same API server, the policies let the flow pass.
    let remedy = record["remedy"]["manifest"].as_str().expect("a manifest");
    apply(&mut node, remedy);
    let flow = ["explain", "--from", "frontend/pod-a", "--to", "backend/pod-b", "--port", "8080"];
    let explained = node.whydrop(NAME, &flow).expect("whydrop explain");
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert_eq!(explained.status.code(), Some(0), "{text}");
    agent.stop().expect("it ends");
}

#[test]
fn who_is_elsewhere_is_looked_up() {
    let mut node = node(2);
    frontend_to_backend(&mut node);
    let owner = |kind: &str, group: &str, name: &str, uid: &str| json!([{ "apiVersion": group, "kind": kind, "name": name, "uid": uid, "controller": true }]);
    // A pod of another node, behind a Service, made by a Job of a CronJob.
    let cron = owner("CronJob", "batch/v1", "nightly", "1-2-3");
    apply(
        &mut node,
        &json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": { "name": "nightly-1", "namespace": "backend", "ownerReferences": cron },
            "spec": { "template": { "spec": { "restartPolicy": "Never",
                "containers": [{ "name": "c", "image": "example.com/c" }] } } },
        })
        .to_string(),
    );
    let job = owner("Job", "batch/v1", "nightly-1", "4-5-6");
    let address = "10.7.9.9".parse().expect("an address");
    let far = pod("backend/far", "worker-2", address, &json!({ "ownerReferences": job }));
    apply(&mut node, &far.to_string());
    apply(
        &mut node,
        "{apiVersion: v1, kind: Service, metadata: {name: far, namespace: backend}, \
          spec: {clusterIP: 10.96.7.7, ports: [{port: 80, targetPort: 8080}]}}",
    );
    apply(
        &mut node,
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
          metadata: {name: far-1, namespace: backend, labels: {kubernetes.io/service-name: far}}, \
          ports: [{port: 8080, protocol: TCP, name: ''}], \
          endpoints: [{addresses: [10.7.9.9], conditions: {ready: true}}]}",
    );
    // It is dropped beyond this node: nothing is dropped here, and nobody answers.
    let _beyond = node.uplink(&["10.7.9.9/32", "10.96.0.0/16"]).expect("an uplink");
    let mut agent = start_agent(&node);

    dropped(&node, "frontend/pod-a", "10.7.9.9:8080".parse().expect("an address"));
    let record = drop_to(&mut agent, "far");
    assert_eq!(record["flow"]["destination"]["workload"]["kind"], "CronJob", "{record}");
    assert_eq!(record["flow"]["destination"]["workload"]["name"], "nightly", "{record}");
    assert_eq!(record["evidence"]["level"], "unanswered", "{record}");
    assert_eq!(record["cause"]["policy"]["name"], "default-deny", "{record}");

    dropped(&node, "frontend/pod-a", "10.96.7.7:80".parse().expect("an address"));
    let is_of_service = |record: &Value| {
        let destination = &record["flow"]["destination"];
        destination["service"]["name"] == "far" && destination["pod"] == "far"
    };
    let of_service = agent.record("drop", RECORD_WAIT, is_of_service);
    of_service.expect("the Service and its backend");
}

#[test]
fn a_reused_address_is_of_who_held_it_then() {
    let mut node = node(2);
    frontend_to_backend(&mut node);
    enforce(&node, 1);
    let mut agent = start_agent(&node);
    dropped(&node, "frontend/pod-a", to(&node, 1));
    drop_to(&mut agent, "pod-b");
    // The address goes to another pod.
    kubectl(&node, &["delete", "pod", "pod-b", "-n", "backend", "--grace-period=0", "--force"]);
    fixture::describe(&mut node, 1, "backend/heir");
    // A flow of its own: packets of both holders in one report are named by the first.
    let heirs = SocketAddr::new(to(&node, 1).ip(), fixture::PORT + 1);
    dropped(&node, "frontend/pod-a", heirs);
    let records = agent.stop_and_read().expect("records");
    for (port, pod) in [(fixture::PORT, "pod-b"), (heirs.port(), "heir")] {
        let is_its = |record: &&Value| {
            record["kind"] == "drop" && record["flow"]["destination"]["port"] == port
        };
        let last = records.iter().rev().find(is_its).expect("a drop");
        assert_eq!(last["flow"]["destination"]["pod"], pod, "{last}");
    }
}

#[test]
fn kubectl_runs_it_as_a_plugin_with_another_context_and_a_credential_program() {
    let mut node = node(2);
    frontend_to_backend(&mut node);
    let folder = tempfile::tempdir().expect("a folder");
    let program = binary().expect("whydrop");
    symlink(program, folder.path().join("kubectl-whydrop")).expect("a plugin");
    let text = std::fs::read_to_string(node.server().expect("a server").kubeconfig())
        .expect("a kubeconfig");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": { "token": node.server().expect("a server").token() },
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
        let mut command = node.kubectl().expect("kubectl").command(arguments);
        let paths = format!("{}:/usr/bin:/bin", folder.path().display());
        command.env("PATH", paths).env("KUBECONFIG", &path);
        node.namespace().enter(|| Ok(command.output()?)).expect("kubectl")
    };
    // The namespace of the context, and another one.
    let output = explain(&["--context", "second"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("frontend/pod-a -> backend/pod-b:8080/TCP: denied"), "{text}");
    let output = explain(&["--context", "second", "-n", "frontend"]);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{complaint}");
    assert!(complaint.contains("no pod pod-b in namespace frontend"), "{complaint}");
    assert_eq!(explain(&[]).status.code(), Some(2), "the first context has no such user");
}

#[test]
fn a_node_has_one_agent() {
    let node = node(1);
    let _first = start_agent(&node);
    let mut command = node.agent_command(NAME).expect("whydrop");
    let mut second = Agent::spawn(&mut command).expect("it starts");
    let status = second.wait_end(END_WAIT).expect("it ends");
    assert_eq!(status.code(), Some(2));
    assert!(second.stderr().contains("another whydrop agent"), "{}", second.stderr());
}

#[test]
fn an_agent_of_no_node_and_without_veths_says_so_and_lives() {
    let node = node(0);
    let network = node.network(NAME).expect("the node");
    let source = node.source().expect("a kubeconfig");
    let mut command = Agent::command(&network, "nowhere", &source).expect("whydrop");
    command.args(["--health-address", "127.0.0.1:9472"]);
    let mut agent = Agent::spawn(&mut command).expect("it starts");
    agent.wait_ready().expect("it gets ready");
    let ready = states(&agent, "ready").next().expect("a record").clone();
    assert!(ready["cannot"].to_string().contains("a Node object named nowhere"), "{ready}");
    assert_eq!(ready["interfaces"], json!([]), "{ready}");
    for path in ["healthz", "readyz"] {
        let mut curl = node.namespace().command("curl");
        let answer = curl.args(["-qsf", &format!("http://127.0.0.1:9472/{path}")]).output();
        assert_eq!(answer.expect("curl").stdout, b"ok\n", "{path}");
    }
    let mut curl = node.namespace().command("curl");
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
    let mut node = node(2);
    frontend_to_backend(&mut node);
    let program = binary().expect("whydrop");
    let config = node.server().expect("a server").kubeconfig();
    let explain = format!(
        "{} explain --from frontend/pod-a --to backend/pod-b --port 8080 --kubeconfig {}",
        program.display(),
        config.display()
    );
    // script(1) gives what it runs a terminal of its own, and passes on what is shown there.
    let on_terminal = |flag: &str| {
        let mut script = node.namespace().command("script");
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
    let piped = node.whydrop(NAME, &flow).expect("whydrop explain");
    assert!(piped.stderr.is_empty(), "{}", String::from_utf8_lossy(&piped.stderr));
    assert!(piped.stdout.starts_with(answer.as_bytes()));
}

/// Where rules of a test stand for the enforcer, so that it takes seconds; other worlds play the same.
#[test]
fn stories_are_played_on_the_node() {
    let mut stage = Stage::new(Node::with_server(0).expect("a node"));
    let stories = stories("stories").expect("stories");
    stage.cast().expect("pods");
    stage.serve_all(stories.values()).expect("servers");
    stage.watch().expect("an agent");
    for (name, story) in &stories {
        stage.play(name, story).unwrap_or_else(|error| panic!("{error:?}"));
    }
}
