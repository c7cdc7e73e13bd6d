//! A fleet: agents, the gateway of deploy/collector, and a real Kafka, whichever of them fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use whydrop::sink::{Sink as _, otlp::Otlp};
use whydrop_tests::{
    kube::daemon::Place,
    load::otlp::{
        collector::Collector,
        events::{distinct, read},
        fleet::Fleet,
        kafka::Kafka,
        load::{INCIDENTS, Records, drain, incident_id, settings, sink},
    },
    repository,
};

use crate::ARRIVAL;

/// `cargo xtask fleet-load` plays it for a thousand.
#[test]
fn a_small_fleet_loses_nothing_through_one_collector() -> Result<()> {
    let fleet = Fleet { agents: 40, records: 10, seconds: 1, http: false };
    let report = fleet.play()?;
    assert_eq!((report.received, report.lost, report.handed), (400, 0, 400), "{report}");
    Ok(())
}

/// How long the gateway may take to bring all to Kafka, which has just come back.
const STORED: Duration = Duration::from_secs(60);

const AGENTS: u64 = 3;
const DROPS: u64 = 100;

/// The incidents that the query makes of messages.
fn incidents(messages: &str) -> Result<Vec<Value>> {
    let mut jq = Command::new("jq");
    jq.args(["--null-input", "--compact-output", "--from-file"]);
    jq.arg(repository("deploy/collector/incidents.jq"));
    jq.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = jq.spawn().context("run jq, of Debian's package")?;
    let mut stdin = child.stdin.take().context("its standard input")?;
    let text = messages.to_owned();
    let feed = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output()?;
    feed.join().expect("the thread")?;
    ensure!(output.status.success(), "jq: {}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout)?;
    lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[test]
fn incidents_of_a_fleet_are_merged_from_kafka_whichever_of_all_was_killed() -> Result<()> {
    let mut kafka = Kafka::start()?;
    let mut gateway = Collector::new(Place::Here)?;
    let config = fs::read_to_string(repository("deploy/collector/collector.yaml"))?;
    let queue = gateway.folder().join("queue").display().to_string();
    for (name, value) in [
        ("OTLP_GRPC_ADDRESS", gateway.grpc.to_string()),
        ("OTLP_HTTP_ADDRESS", gateway.http.to_string()),
        ("QUEUE_FOLDER", queue),
        ("KAFKA_BROKERS", kafka.address.to_string()),
    ] {
        gateway.set(name, &value);
    }
    gateway.run(&config)?;

    let open = |agent: u64| -> Result<(Otlp, Records)> {
        // Every other agent speaks gRPC.
        let is_grpc = agent.is_multiple_of(2);
        let endpoint = format!("http://{}", if is_grpc { gateway.grpc } else { gateway.http });
        let settings = settings(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", if is_grpc { "grpc" } else { "http/protobuf" }),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"),
        ])?;
        let node = format!("worker-{agent}");
        Ok((sink(&node, settings, None, None)?, Records::of(&node)))
    };
    let agents = (0..AGENTS).map(open).collect::<Result<Vec<_>>>()?;
    // The agents report the same incidents, each of its own drops, and each more than once.
    let report = |drops: std::ops::Range<u64>| {
        for (agent, (sink, records)) in (1..).zip(&agents) {
            drops.clone().for_each(|number| sink.write(&records.drop(agent << 32 | number).into()));
            (0..INCIDENTS).for_each(|incident| {
                sink.write(&records.incident(incident, agent * drops.end).into());
            });
        }
    };
    let drained = |handed| -> Result<()> {
        for (sink, _) in &agents {
            let said = drain(sink, handed, ARRIVAL, |_| {})?;
            ensure!(said.full == 0 && said.refused == 0, "{said:?}");
        }
        Ok(())
    };
    let half = DROPS / 2;
    report(0..half);
    drained(half + INCIDENTS)?;

    // Without Kafka the gateway keeps what it has acknowledged, and goes on after its own end.
    kafka.kill()?;
    report(half..DROPS);
    drained(DROPS + 2 * INCIDENTS)?;
    gateway.kill()?;
    kafka.run()?;
    gateway.run(&config)?;

    let expected: BTreeSet<(String, String)> = (1..=AGENTS)
        .flat_map(|agent| {
            let name = move |number| format!("{:016x}", agent << 32 | number);
            (0..DROPS).map(move |number| (format!("worker-{}", agent - 1), name(number)))
        })
        .collect();
    let deadline = std::time::Instant::now() + STORED;
    let (messages, stored) = loop {
        let messages = kafka.consume("whydrop")?;
        let events = read(&messages)?;
        let stored: BTreeSet<(String, String)> = events
            .iter()
            .filter(|event| event.name == "k8s.network_policy.drop")
            .map(|event| {
                (event.resource["k8s.node.name"].clone(), event.get("whydrop.drop.id").to_owned())
            })
            .collect();
        let count = distinct(&events).len() as u64;
        if count == AGENTS * (DROPS + 2 * INCIDENTS) {
            break (messages, stored);
        }
        ensure!(
            std::time::Instant::now() < deadline,
            "{count} records are stored\n{}",
            gateway.tail()
        );
    };
    assert_eq!(stored, expected);

    let merged = incidents(&messages)?;
    let by_id: BTreeMap<_, _> =
        merged.iter().map(|incident| (incident["incident"].as_str(), incident)).collect();
    assert_eq!(merged.len() as u64, INCIDENTS, "each once: {merged:#?}");
    for incident in 0..INCIDENTS {
        let id = incident_id(incident);
        let incident = by_id[&Some(id.as_str())];
        // What each said last: 1 · 100 + 2 · 100 + 3 · 100.
        assert_eq!(incident["drops"], 6 * DROPS, "{incident:#}");
        assert_eq!(incident["nodes"], serde_json::json!(["worker-0", "worker-1", "worker-2"]));
        assert_eq!(
            (&incident["state"], &incident["severity"]),
            (&"open".into(), &"critical".into())
        );
        assert!(incident["cause"].as_str().is_some_and(|text| text.contains("ingress denied")));
    }
    Ok(())
}
