//! The real agent: a real drop reaches the collector, though neither was there all the time.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Result;
use whydrop::{
    cluster::connect::{KubeArgs, Target, target},
    report::{AgentState, Record},
    sink::Sink as _,
};
use whydrop_tests::{
    kube::{
        api::{Api, Settings},
        daemon::Place,
        wait::{Look, until},
    },
    load::otlp::{
        collector::{Collector, TO_FILE},
        events::{Event, distinct},
        load::{Records, settings, sink},
    },
    play::denied,
    world::{
        World as _,
        agent::Agent,
        namespace::{Network, checked},
        netns::{NAME, Node},
    },
};

use crate::ARRIVAL;

/// Where the agent answers, on its node.
const HEALTH: &str = "127.0.0.1:9472";
/// How long a record may take; readings of the metrics are renewed every 10 s.
const RECORD_WAIT: Duration = Duration::from_secs(30);

fn agent(node: &Node, collector: &Collector, state: &Path) -> Result<Agent> {
    let mut command = node.agent_command(NAME)?;
    command.args(["--health-address", HEALTH, "--otlp-protocol", "grpc", "--otlp-endpoint"]);
    command.arg(format!("http://{}", collector.grpc)).arg("--state-directory").arg(state);
    let mut agent = Agent::spawn(&mut command)?;
    agent.wait_ready()?;
    Ok(agent)
}

/// Waits until a metric of the agent's has a value like this.
fn metric(node: &Network, name: &str, is_so: impl Fn(usize) -> bool) -> Result<()> {
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
    let client = denied::client();
    let node = denied::node(&client)?;
    let state = tempfile::tempdir()?;
    let mut collector = Collector::new(Place::Network(node.namespace().name().to_owned()))?;

    let mut first = agent(&node, &collector, state.path())?;
    denied::drop_one(&node, &client, &mut first)?;
    first.wait_for(RECORD_WAIT, |heard| {
        let kind = |kind| heard.iter().any(|heard| heard.record["kind"] == kind);
        kind("drop") && kind("incident")
    })?;
    let reported: Vec<_> = first.records().iter().map(|heard| heard.record.clone()).collect();
    // What is in the outbox is there when the readings say so.
    metric(node.namespace(), "whydrop_outbox_records", |records| records >= reported.len())?;
    metric(node.namespace(), "whydrop_otlp_sent_total", |records| records == 0)?;
    // SIGKILL.
    drop(first);

    collector.run(TO_FILE)?;
    let mut second = agent(&node, &collector, state.path())?;
    let there = |events: &[Event]| {
        let ready = |event: &&Event| event.get("whydrop.agent.state") == "ready";
        (events.iter().filter(ready).count() == 2).then(|| events.to_vec())
    };
    let events = collector.wait("both agents' records", ARRIVAL, there)?;
    let received: Vec<Record> =
        distinct(&events).iter().map(|event| event.record()).collect::<Result<_>>()?;
    let reported: Vec<Record> = reported
        .into_iter()
        .map(|record| Ok(serde_json::from_value(record)?))
        .collect::<Result<_>>()?;
    assert_eq!(received[..reported.len()], reported, "as they were reported, in order");

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
            learning.learn_cluster(target(&args).await.and_then(Target::client).expect("a client"));
            std::future::pending::<()>().await;
        });
    });
    // It is not waited for: what is sent before it is known goes without.
    until("the cluster's uid", ARRIVAL, || {
        sink.write(&Records::of("worker-1").drop(0).into());
        let events = collector.events()?;
        let last = events.last().map(|event| event.resource.get("k8s.cluster.uid").cloned());
        Ok(match last.flatten() {
            Some(sent) if sent == uid => Look::Seen(()),
            sent => Look::NotYet(format!("{sent:?}, not {uid}")),
        })
    })
}

#[test]
fn without_a_folder_the_agent_says_what_that_costs_and_a_wrong_setting_by_its_name() -> Result<()> {
    let node = denied::node(&denied::client())?;
    let command = |variable: (&str, &str)| -> Result<_> {
        let mut command = node.agent_command(NAME)?;
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
    assert!(cannot.contains("across a restart: set --state-directory"), "{cannot}");
    // Nobody listens there: the agent's end is not put off for long.
    agent.stop()
}
