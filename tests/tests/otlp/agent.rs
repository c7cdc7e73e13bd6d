//! The real agent: a real drop reaches the collector, though neither was there all the time.

use std::{fs, net::TcpStream, path::Path, sync::Arc, time::Duration};

use anyhow::Result;
use whydrop::{
    cluster::connect::{KubeArgs, connect},
    report::{AgentState, Record},
    sink::Sink as _,
};
use whydrop_tests::{
    agent::{Agent, binary},
    kube::{
        api::{Api, Settings},
        daemon::Place,
        wait::{Look, until},
    },
    lab::namespace::{Namespace, checked, sweep},
    netns::Node,
    otlp::{
        collector::{Collector, TO_FILE},
        events::{Event, distinct},
        load::{Records, settings, sink},
    },
};

use crate::ARRIVAL;

/// Where the agent answers, on its node.
const HEALTH: &str = "127.0.0.1:9472";
/// How long a client tries: three SYNs.
const CONNECT_WAIT: Duration = Duration::from_secs(4);
/// How long a record may take; readings of the metrics are renewed every 10 s.
const RECORD_WAIT: Duration = Duration::from_secs(30);

/// Two pods, and a policy that cuts off one of them.
const MANIFESTS: &str = "
{apiVersion: v1, kind: Node, metadata: {name: worker-1}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: frontend}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: backend}}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: frontend}
spec: {nodeName: worker-1, containers: [{name: c, image: c}]}
status: {phase: Running, podIP: 10.7.0.10, podIPs: [{ip: 10.7.0.10}]}
---
apiVersion: v1
kind: Pod
metadata: {name: api-0, namespace: backend}
spec: {nodeName: worker-1, containers: [{name: c, image: c}]}
status: {phase: Running, podIP: 10.7.0.11, podIPs: [{ip: 10.7.0.11}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny, namespace: backend}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

/// What enforces it.
const FILTER: &str = "table inet cni {
  chain forward {
    type filter hook forward priority filter; policy accept
    ip daddr 10.7.0.11 counter drop
  }
}
";

fn agent(node: &Namespace, collector: &Collector, manifests: &Path, state: &Path) -> Result<Agent> {
    let mut command = node.command("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(binary()?);
    command.args(["agent", "--log-format", "json", "--node-name", "worker-1"]);
    command.args(["--health-address", HEALTH, "--otlp-protocol", "grpc", "--otlp-endpoint"]);
    command.arg(format!("http://{}", collector.grpc)).arg("--state-directory").arg(state);
    command.arg("--manifests").arg(manifests);
    let mut agent = Agent::spawn(&mut command)?;
    agent.wait_ready()?;
    Ok(agent)
}

/// Waits until a metric of the agent's has a value like this.
fn metric(node: &Namespace, name: &str, is_so: impl Fn(usize) -> bool) -> Result<()> {
    until(name, RECORD_WAIT, || {
        let mut curl = node.command("curl");
        let text = checked(curl.args(["--silent", "--fail", &format!("http://{HEALTH}/metrics")]))?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Ok(if value.is_some_and(&is_so) {
            Look::Seen(())
        } else {
            Look::NotYet(format!("{value:?}"))
        })
    })
}

#[test]
fn a_drop_reaches_the_collector_though_the_agent_was_killed_before_it_was_there() -> Result<()> {
    sweep();
    let node = Node::new(2)?;
    node.nft(FILTER)?;
    let manifests = tempfile::tempdir()?;
    fs::write(manifests.path().join("cluster.yaml"), MANIFESTS)?;
    let state = tempfile::tempdir()?;
    let mut collector = Collector::new(Place::Network(node.namespace().name().to_owned()))?;

    let mut first = agent(node.namespace(), &collector, manifests.path(), state.path())?;
    let to = (node.pod(1).ip, 8080).into();
    let connect = move || Ok(TcpStream::connect_timeout(&to, CONNECT_WAIT).is_err());
    assert!(node.pod(0).namespace.enter(connect)?, "it is dropped");
    first.wait_for(RECORD_WAIT, |heard| {
        let kind = |kind| heard.iter().any(|heard| heard.record["kind"] == kind);
        kind("drop") && kind("incident")
    })?;
    let told: Vec<_> = first.records().iter().map(|heard| heard.record.clone()).collect();
    // What is in the outbox is there when the readings say so.
    metric(node.namespace(), "whydrop_outbox_records", |records| records >= told.len())?;
    metric(node.namespace(), "whydrop_otlp_sent_total", |records| records == 0)?;
    // SIGKILL.
    drop(first);

    collector.run(TO_FILE)?;
    let mut second = agent(node.namespace(), &collector, manifests.path(), state.path())?;
    let there = |events: &[Event]| {
        let ready = |event: &&Event| event.get("whydrop.agent.state") == "ready";
        (events.iter().filter(ready).count() == 2).then(|| events.to_vec())
    };
    let events = collector.wait("both agents' records", ARRIVAL, there)?;
    let received: Vec<Record> =
        distinct(&events).iter().map(|event| event.record()).collect::<Result<_>>()?;
    let told: Vec<Record> = told
        .into_iter()
        .map(|record| Ok(serde_json::from_value(record)?))
        .collect::<Result<_>>()?;
    assert_eq!(received[..told.len()], told, "as they were told, in order");

    let drop = events.iter().find(|event| event.name == "k8s.network_policy.drop");
    let drop = drop.expect("the drop");
    for (name, value) in [
        ("network.transport", "tcp"),
        ("source.address", "10.7.0.10"),
        ("source.k8s.pod.name", "web-0"),
        ("destination.k8s.namespace.name", "backend"),
        ("destination.port", "8080"),
        ("whydrop.cause.class", "default-deny"),
        ("whydrop.policy.name", "default-deny"),
        ("whydrop.evidence.level", "kernel-drop"),
        ("whydrop.evidence.reason", "NETFILTER_DROP"),
    ] {
        assert_eq!(drop.get(name), value, "{name}");
    }
    assert_eq!(drop.resource["k8s.node.name"], "worker-1");
    let incident = events.iter().find(|event| event.name == "k8s.network_policy.incident");
    let incident = incident.expect("the incident");
    assert_eq!(incident.get("whydrop.incident.id"), drop.get("whydrop.incident.id"));

    // Its last words arrive as well.
    second.wait_for(RECORD_WAIT, |heard| !heard.is_empty())?;
    second.stop()?;
    let stopping = |events: &[Event]| {
        events.iter().find(|event| event.get("whydrop.agent.state") == "stopping").cloned()
    };
    let last = collector.wait("the end", ARRIVAL, stopping)?.record()?;
    assert!(
        matches!(&last, Record::Agent(agent) if matches!(agent.state, AgentState::Stopping { .. }))
    );
    Ok(())
}

#[test]
fn the_resource_names_the_cluster_by_the_uid_of_its_kube_system() -> Result<()> {
    let api = Api::start(Settings::default())?;
    let kubectl = api.kubectl()?;
    let uid = until("the namespace kube-system", ARRIVAL, || {
        let get = ["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"];
        Ok(match kubectl.run(get) {
            Ok(uid) if !uid.is_empty() => Look::Seen(uid),
            other => Look::NotYet(format!("{other:?}")),
        })
    })?;
    let collector = Collector::start(TO_FILE)?;
    let endpoint = format!("http://{}", collector.http);
    let settings = settings(&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())])?;
    let sink = Arc::new(sink("worker-1", settings, None, None)?);
    let args = KubeArgs { kubeconfig: Some(api.kubeconfig()), context: None };
    let learning = sink.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // It ends with the process.
    std::thread::spawn(move || {
        runtime.block_on(async {
            learning.learn_cluster(connect(&args).await.expect("a client"));
            std::future::pending::<()>().await;
        });
    });
    // It is not waited for: what is sent before it is known goes without.
    until("the cluster's uid", ARRIVAL, || {
        sink.write(&Records::of("worker-1").drop(0).into());
        let events = collector.events()?;
        let last = events.last().map(|event| event.resource.get("k8s.cluster.uid").cloned());
        Ok(match last.flatten() {
            Some(told) if told == uid => Look::Seen(()),
            told => Look::NotYet(format!("{told:?}, not {uid}")),
        })
    })
}

#[test]
fn without_a_folder_the_agent_says_what_that_costs_and_a_wrong_setting_by_its_name() -> Result<()> {
    sweep();
    let node = Node::new(1)?;
    let manifests = tempfile::tempdir()?;
    fs::write(manifests.path().join("cluster.yaml"), MANIFESTS)?;
    let command = |variable: (&str, &str)| -> Result<_> {
        let mut command = node.namespace().command("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(binary()?);
        command.args(["agent", "--log-format", "json", "--node-name", "worker-1", "--manifests"]);
        command.arg(manifests.path());
        command
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
            .env(variable.0, variable.1);
        Ok(command)
    };
    let output = command(("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli"))?.output()?;
    assert!(!output.status.success());
    let words = String::from_utf8_lossy(&output.stderr);
    let expected = "OTEL_EXPORTER_OTLP_COMPRESSION: expected gzip or none, found \"brotli\"";
    assert!(words.contains(expected), "{words}");

    let mut agent = Agent::spawn(&mut command(("OTEL_SERVICE_NAME", "whydrop"))?)?;
    agent.wait_ready()?;
    let cannot = agent.records()[0].record["cannot"].to_string();
    assert!(cannot.contains("across a restart: see --state-directory"), "{cannot}");
    // Nobody listens there: the agent's end is not put off for long.
    agent.stop()
}
