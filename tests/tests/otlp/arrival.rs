//! What arrives at a collector, over both protocols, and who may send it.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use anyhow::Result;
use jiff::Timestamp;
use whydrop::{
    report::{AgentState, DropKind, End, Record},
    sink::{
        Sink as _,
        otlp::{Otlp, SEQUENCE},
    },
};
use whydrop_tests::{
    kube::{
        pki::{Authority, Holder},
        wait::{Look, until},
    },
    load::otlp::{
        collector::{Collector, TO_FILE},
        endpoint::Relay,
        events::Event,
        load::{Records, settings, sink},
    },
};

use crate::ARRIVAL;

/// One of each kind of record.
fn records() -> Vec<Record> {
    let records = Records::of("worker-1");
    let mut drop = records.drop(0);
    if let Record::Drop(record) = &mut drop {
        (record.evidence.needed_again, record.evidence.connects) = (2, Some(5));
    }
    let mut finding = records.drop(1);
    if let Record::Drop(record) = &mut finding {
        record.kind = DropKind::Finding;
        record.evidence.rejection = Some("reset".to_owned());
    }
    let at = |time: &str| time.parse::<Timestamp>().expect("a time").into();
    let counts = || [("records for a slow reader of the log".to_owned(), 3)].into();
    let source = End { ip: "10.1.0.10".to_owned(), ..End::default() };
    let example = "10.1.0.10 -> 10.1.0.99:80/TCP".to_owned();
    let states = [
        AgentState::Ready {
            version: "0.1.0".to_owned(),
            kernel: "6.1.0".to_owned(),
            interfaces: vec!["veth1".to_owned()],
            objects: [("Pod".to_owned(), 2)].into(),
            cannot: vec!["read 1 of kind StagedNetworkPolicy".to_owned()],
        },
        AgentState::Degraded {
            what: "a watch ended".to_owned(),
            since: at("2026-01-02T03:04:00Z"),
        },
        AgentState::Lost { counts: counts() },
        AgentState::Folded { source, by: None, attempts: 70, packets: 210, example },
        AgentState::Muted { since: at("2026-01-02T02:04:00Z"), muted: Vec::new() },
        AgentState::Stopping { why: "SIGTERM".to_owned(), counts: counts() },
    ];
    let mut all = vec![drop, finding, records.incident(0, 8)];
    all.extend(states.map(|state| records.agent(state)));
    all
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn variables(collector: &Collector, protocol: &str) -> [(&'static str, String); 3] {
    let address = if protocol == "grpc" { collector.grpc } else { collector.http };
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.to_owned()),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000".to_owned()),
    ]
}

fn open(variables: &[(&str, String)]) -> Otlp {
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let settings = settings(&variables).expect("settings");
    sink("worker-1", settings, None, None).expect("a sink")
}

#[test]
fn every_record_arrives_over_both_protocols_with_the_attributes_that_the_docs_list() {
    let mut pages = Vec::new();
    for protocol in ["grpc", "http/protobuf"] {
        let collector = Collector::start(TO_FILE).expect("a collector");
        let mut sink = open(&variables(&collector, protocol));
        for record in records() {
            sink.write(&record.into());
        }
        let count = records().len();
        let all = |events: &[Event]| (events.len() >= count).then(|| events.to_vec());
        let events = collector.wait("all records", ARRIVAL, all).expect("they arrive");
        let stats = sink.stats();
        runtime().block_on(sink.finish());
        assert_eq!(stats.retries + stats.refused + stats.full, 0, "{stats:?}");

        let read: Vec<_> = events.iter().map(|event| event.record().expect("a record")).collect();
        for (read, sent) in read.iter().zip(records()) {
            match (read, &sent) {
                // Made at this moment.
                (Record::Agent(read), Record::Agent(sent)) => assert_eq!(read.state, sent.state),
                (read, sent) => assert_eq!(read, sent),
            }
        }
        let sequences: Vec<_> =
            events.iter().map(|event| event.sequence().expect("a number")).collect();
        assert_eq!(sequences, (0..count as u64).collect::<Vec<_>>(), "in order, without a gap");
        let instance = &events[0].resource["service.instance.id"];
        for event in &events {
            assert_eq!(event.uid(), format!("{instance}-{}", event.get(SEQUENCE)));
        }
        pages.push(page(&events).replace(instance, "INSTANCE"));
    }
    assert_eq!(pages[0], pages[1], "both protocols carry the same");
    insta::assert_snapshot!("events", pages[0]);
    documented(&pages[0]);
}

/// Events for people, without what differs from run to run.
fn page(events: &[Event]) -> String {
    let mut page = String::new();
    for (name, value) in &events[0].resource {
        let _ = writeln!(page, "resource {name}: {value}");
    }
    let _ = writeln!(page, "scope {}", events[0].scope);
    for event in events {
        let json = &event.json;
        let severity = json["severityText"].as_str().unwrap_or_default();
        let _ = writeln!(page, "\n{} {} {severity}", event.name, json["severityNumber"]);
        let is_agent = event.name == "k8s.network_policy.agent";
        if !is_agent {
            let _ = writeln!(page, "time {}", json["timeUnixNano"]);
            let _ = writeln!(page, "body {}", json["body"]["stringValue"]);
        }
        for attribute in json["attributes"].as_array().expect("attributes") {
            let key = attribute["key"].as_str().expect("a key");
            if key != "whydrop.record" {
                let _ = writeln!(page, "  {key}: {}", attribute["value"]);
            }
        }
    }
    page
}

/// The tables of `docs/otlp.md` have every attribute that is sent, and none that is not.
fn documented(page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/otlp.md");
    let text = fs::read_to_string(path).expect("docs/otlp.md");
    let named: BTreeSet<&str> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .flat_map(|line| line.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2))
        .collect();
    let mut sent: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("  ").or(line.strip_prefix("resource ")))
        .filter_map(|line| line.split_once(": "))
        .map(|(name, _)| name)
        .collect();
    sent.insert("whydrop.record");
    let missing: Vec<_> = sent.difference(&named).collect();
    assert!(missing.is_empty(), "docs/otlp.md is without {missing:?}");
    // Of other workloads, or of a cluster: the golden records have none of these.
    let more = [
        "k8s.cluster.uid",
        "whydrop.verdict.exempt",
        "whydrop.verdict.egress.layer",
        "whydrop.incident.resolution",
        "destination.k8s.deployment.name",
    ];
    let other = |name: &&str| {
        let kinds =
            ["statefulset", "daemonset", "replicaset", "replicationcontroller", "job", "cronjob"];
        more.contains(name)
            || name.ends_with(".situation")
            || name.ends_with(".services_lost")
            || kinds.iter().any(|kind| name.ends_with(&format!("k8s.{kind}.name")))
    };
    let unsent: Vec<_> = named.difference(&sent).filter(|name| !other(name)).collect();
    assert!(unsent.is_empty(), "docs/otlp.md has {unsent:?}, which nothing sends");
}

/// TLS on both ports, of which each client must show a certificate, and a token.
const GUARDED: &str = "
extensions:
  bearertokenauth: {token: s3cret}
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: '{grpc}'
        auth: {authenticator: bearertokenauth}
        tls: {cert_file: '{folder}/collector.crt', key_file: '{folder}/collector.key', client_ca_file: '{folder}/ca.crt'}
      http:
        endpoint: '{http}'
        auth: {authenticator: bearertokenauth}
        tls: {cert_file: '{folder}/collector.crt', key_file: '{folder}/collector.key', client_ca_file: '{folder}/ca.crt'}
exporters:
  file: {path: '{folder}/out.json', rotation: {max_megabytes: 1000}}
service:
  extensions: [bearertokenauth]
  telemetry: {metrics: {level: none}}
  pipelines:
    logs: {receivers: [otlp], exporters: [file]}
";

#[test]
fn only_who_shows_its_certificate_and_the_token_is_served() -> Result<()> {
    let authority = Authority::new()?;
    let mut collector = Collector::new(whydrop_tests::kube::daemon::Place::Here)?;
    let folder = collector.folder().to_owned();
    fs::write(folder.join("ca.crt"), authority.certificate())?;
    fs::write(folder.join("other.crt"), Authority::new()?.certificate())?;
    authority.issue(&folder, "collector", &Holder::Server(&["127.0.0.1"]))?;
    authority.issue(&folder, "whydrop", &Holder::Client { group: "agents" })?;
    collector.run(GUARDED)?;
    let file = |name: &str| folder.join(name).display().to_string();
    for protocol in ["grpc", "http/protobuf"] {
        let mut all = variables(&collector, protocol).to_vec();
        all[0].1 = all[0].1.replace("http:", "https:");
        all.extend([
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", file("ca.crt")),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", file("whydrop.crt")),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", file("whydrop.key")),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20s3cret".to_owned()),
        ]);
        let without = |names: &[&str]| {
            let mut some = all.clone();
            some.retain(|(name, _)| !names.iter().any(|end| name.ends_with(end)));
            some
        };
        let with = |name: &'static str, value: String| {
            let mut some = without(&[name]);
            some.push((name, value));
            some
        };
        let before = collector.events()?.len();

        // A connection that fails may work later: the records wait.
        for (why, variables) in [
            ("without a certificate", without(&["CLIENT_CERTIFICATE", "CLIENT_KEY"])),
            ("of another authority", with("OTEL_EXPORTER_OTLP_CERTIFICATE", file("other.crt"))),
        ] {
            let sink = open(&variables);
            sink.write(&Records::of("worker-1").drop(0).into());
            until(why, ARRIVAL, || {
                let stats = sink.stats();
                Ok(if stats.retries > 0 {
                    Look::Seen(())
                } else {
                    Look::NotYet(format!("{stats:?}"))
                })
            })?;
            let stats = sink.stats();
            assert_eq!((stats.sent, stats.refused, stats.waiting), (0, 0, 1), "{protocol} {why}");
        }

        // A token that is refused stays refused: by the specification that is no reason to retry.
        let wrong = with("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20guess".to_owned());
        let sink = open(&wrong);
        sink.write(&Records::of("worker-1").drop(1).into());
        until("a refusal", ARRIVAL, || {
            let stats = sink.stats();
            Ok(if stats.refused == 1 { Look::Seen(()) } else { Look::NotYet(format!("{stats:?}")) })
        })?;
        assert_eq!(sink.stats().waiting, 0);
        assert_eq!(collector.events()?.len(), before, "nothing has arrived");

        let sink = open(&all);
        sink.write(&Records::of("worker-1").drop(2).into());
        let more = |events: &[Event]| (events.len() > before).then(|| events[before].clone());
        let event = collector.wait("the record", ARRIVAL, more)?;
        assert_eq!(event.get("whydrop.drop.id"), format!("{:016x}", 2));
    }
    Ok(())
}

#[test]
fn compression_makes_requests_small_and_the_same_arrives() -> Result<()> {
    for protocol in ["grpc", "http/protobuf"] {
        let collector = Collector::start(TO_FILE)?;
        let mut sizes = Vec::new();
        let mut seen = 0;
        for compression in ["none", "gzip"] {
            let address = if protocol == "grpc" { collector.grpc } else { collector.http };
            let relay = Relay::start(address)?;
            let mut variables = variables(&collector, protocol).to_vec();
            variables[0].1 = format!("http://{}", relay.address);
            variables.push(("OTEL_EXPORTER_OTLP_COMPRESSION", compression.to_owned()));
            let sink = open(&variables);
            let records = Records::of("worker-1");
            (0..50).for_each(|number| sink.write(&records.drop(number).into()));
            seen += 50;
            let all = |events: &[Event]| (events.len() >= seen).then(|| events.to_vec());
            let events = collector.wait("the records", ARRIVAL, all)?;
            for (number, event) in events[seen - 50..].iter().enumerate() {
                assert_eq!(event.record()?, records.drop(number as u64));
            }
            sizes.push(relay.bytes());
        }
        assert!(sizes[1] * 4 < sizes[0], "{protocol}: {sizes:?} bytes");
    }
    Ok(())
}
