//! The records as they are written: golden, read back strictly, and valid by their own schema.

mod grammar;

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use serde_json::Value;
use whydrop::{
    cluster::manifests::Manifests,
    report::{
        AgentState, End, MutedDrops, Record, Reporter,
        hubble::{self, Pods},
        text,
    },
};
use whydrop_core::{
    cluster::{Cluster, Interface},
    correlate::{Correlated, Correlator, Drop},
    diagnosis::{Case, Fate, SituationKind, diagnose},
    flow::{Flow, Protocol, Worked},
    incident::JudgedDrop,
    judgement::judge,
    mute::MutedByKind,
    observation::{AttemptId, DropReason, Fact, Observation, Rejection, Sender},
};

const FRONTEND_TO_BACKEND: &str = "
apiVersion: v1
kind: Node
metadata: {name: worker-1}
status: {addresses: [{type: InternalIP, address: 192.168.77.2}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: frontend}
---
apiVersion: v1
kind: Namespace
metadata: {name: backend}
---
apiVersion: v1
kind: Pod
metadata:
  name: pod-a
  namespace: frontend
  labels: {app: web, pod-template-hash: 6f8d9c7b}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-6f8d9c7b, uid: u, controller: true}]
spec: {nodeName: worker-1, containers: [{name: web, image: web}]}
status: {phase: Running, podIP: 10.1.0.10}
---
apiVersion: v1
kind: Pod
metadata: {name: pod-b, namespace: backend, labels: {app: api}}
spec: {nodeName: worker-1, containers: [{name: api, image: api}]}
status: {phase: Running, podIP: 10.1.0.20}
---
apiVersion: v1
kind: Service
metadata: {name: pod-b, namespace: backend}
spec: {clusterIP: 10.96.0.7, selector: {app: api}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: default-deny
  namespace: backend
  uid: 6b1c2ad1-0d4f-4d8e-9f43-2f1f3f0f7a11
  creationTimestamp: 2026-01-02T02:54:02Z
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-web, namespace: backend, creationTimestamp: 2025-12-01T00:00:00Z}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress: [{from: [{namespaceSelector: {matchLabels: {name: frontend}}}]}]
";

fn time(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn cluster(manifests: &str) -> Cluster {
    let mut read = Manifests::default();
    read.read_text("test", manifests);
    assert!(read.errors.is_empty(), "{:?}", read.errors);
    let mut cluster = read.cluster();
    let addresses: Vec<IpAddr> = vec!["10.1.0.10".parse().expect("an address")];
    cluster.set_interface(5, Some(Interface { name: "veth1".into(), addresses, since: None }));
    cluster
}

fn reporter() -> Reporter {
    Reporter { node: "worker-1".to_owned() }
}

/// Three SYNs to the Service, dropped by netfilter.
fn dropped(fact: &Fact) -> Drop {
    let source: IpAddr = "10.1.0.10".parse().expect("an address");
    let first = time("2026-01-02T03:03:58.1Z");
    let mut correlator = Correlator::default();
    for seconds in [0, 1, 3, 7] {
        correlator.observe(&Observation {
            at: first + jiff::SignedDuration::from_secs(seconds),
            first,
            attempt: Some(AttemptId {
                protocol: Protocol::Tcp,
                source,
                source_port: 40_000,
                sequence: 7,
                foreign: None,
            }),
            packets: 1,
            flow: Flow {
                source,
                destination: "10.1.0.20".parse().expect("an address"),
                port: 8080,
                protocol: Protocol::Tcp,
            },
            dialled: Some(("10.96.0.7".parse().expect("an address"), 80)),
            sender: Sender::default(),
            entered: Some(5),
            delivered: false,
            fact: fact.clone(),
        });
    }
    let correlated = correlator.tick(time("2026-01-02T03:04:10Z"));
    correlated
        .into_iter()
        .find_map(|correlated| match correlated {
            Correlated::Drop(drop) => Some(drop),
            _ => None,
        })
        .expect("a drop")
}

fn netfilter() -> Fact {
    Fact::KernelDrop {
        reason: DropReason { number: 12, name: Arc::from("NETFILTER_DROP") },
        location: Some(Arc::from("nf_hook_slow")),
        interface: 5,
    }
}

fn drop_record(manifests: &str, fact: &Fact, worked: Option<Worked>) -> Record {
    let cluster = cluster(manifests);
    let (snapshot, drop) = (cluster.snapshot(), dropped(fact));
    let case = Case {
        flow: drop.flow,
        dialled: drop.dialled,
        at: Some(drop.evidence.last()),
        fate: Fate::Dropped(&drop.evidence),
    };
    let judgement = judge(&snapshot, cluster.history(), &case);
    let now = time("2026-01-02T03:04:05.678901Z");
    reporter().drop(now, &snapshot, &JudgedDrop::new(drop, judgement, worked))
}

fn finding() -> Record {
    let flow = Flow {
        source: "10.1.0.10".parse().expect("an address"),
        destination: "10.1.0.20".parse().expect("an address"),
        port: 8080,
        protocol: Protocol::Tcp,
    };
    let at = time("2026-01-02T03:04:05.678901Z");
    let case = Case { flow, dialled: None, at: Some(at), fate: Fate::Answered };
    let diagnosis = diagnose(&cluster(FRONTEND_TO_BACKEND).snapshot(), &case);
    reporter().finding(at, at, diagnosis)
}

fn muted(by: MutedByKind, name: &str, kind: Option<&str>, reason: Option<&str>) -> MutedDrops {
    MutedDrops {
        by: by.into(),
        name: name.to_owned(),
        kind: kind.map(str::to_owned),
        reason: reason.map(str::to_owned),
        reports: 1,
        packets: 3,
        example: "frontend/pod-a -> backend/pod-b:8080/TCP".to_owned(),
    }
}

fn agent_records() -> Vec<Record> {
    let now = time("2026-01-02T03:04:05.678901Z");
    let states = [
        AgentState::Ready {
            version: "0.1.0".to_owned(),
            kernel: "6.18.0".to_owned(),
            interfaces: vec!["veth1".to_owned()],
            objects: [("Pod".to_owned(), 2)].into(),
            cannot: vec!["use drop reasons: this kernel gives none".to_owned()],
        },
        AgentState::Degraded {
            what: "policies.yaml: not YAML".to_owned(),
            since: time("2026-01-02T03:04:05Z").into(),
        },
        AgentState::Lost {
            counts: [("records for a slow reader of the log".to_owned(), 3)].into(),
        },
        AgentState::Folded {
            source: End { ip: "10.1.0.10".to_owned(), ..End::default() },
            by: None,
            attempts: 1,
            packets: 3,
            example: "10.1.0.10 -> 10.1.0.20:8080/TCP".to_owned(),
        },
        AgentState::Muted {
            since: time("2026-01-02T02:04:05.678901Z").into(),
            muted: vec![
                muted(
                    MutedByKind::Policy,
                    "backend/default-deny",
                    Some("NetworkPolicy"),
                    Some("on purpose"),
                ),
                muted(MutedByKind::Rule, "scanners", None, None),
            ],
        },
        AgentState::Stopping {
            why: "SIGTERM".to_owned(),
            counts: [("dropped packets observed".to_owned(), 7)].into(),
        },
    ];
    states.into_iter().map(|state| reporter().agent(now, state)).collect()
}

/// Every kind of record there is.
fn all_records() -> Vec<Record> {
    let icmp = Fact::Rejected(Rejection::Icmp { v6: false, kind: 3, code: 13 });
    let worked = Worked {
        first: time("2026-01-02T02:00:05Z"),
        last: time("2026-01-02T02:54:05Z"),
        connections: 12,
    };
    let without_policies = FRONTEND_TO_BACKEND.split("---\napiVersion: networking").next();
    let mut records = vec![
        drop_record(FRONTEND_TO_BACKEND, &netfilter(), Some(worked)),
        drop_record(FRONTEND_TO_BACKEND, &icmp, None),
        drop_record(FRONTEND_TO_BACKEND, &Fact::Retransmitted, None),
        drop_record(without_policies.expect("the objects"), &netfilter(), None),
        finding(),
    ];
    records.extend(agent_records());
    records
}

#[test]
fn records_as_json() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&all_records()[0]).expect("JSON"),);
}

#[test]
fn records_as_text() {
    let lines: Vec<_> = all_records().iter().map(text::line).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn records_as_hubble_exports_flows() {
    let snapshot = cluster(FRONTEND_TO_BACKEND).snapshot();
    let pod = |namespace, name| snapshot.pod(namespace, name).cloned();
    let pods = Pods { source: pod("frontend", "pod-a"), destination: pod("backend", "pod-b") };
    assert!(pods.source.is_some() && pods.destination.is_some());
    let flow = hubble::flow(&all_records()[0], &pods).expect("a flow");
    insta::assert_snapshot!(serde_json::to_string_pretty(&flow).expect("JSON"));
    let flows = all_records()
        .iter()
        .filter(|record| hubble::flow(record, &Pods::default()).is_some())
        .count();
    assert_eq!(flows, 4, "drops, and nothing else");
}

#[test]
fn records_are_read_back_as_they_were_written() {
    for record in all_records() {
        let written = serde_json::to_value(&record).expect("JSON");
        let read: Record = serde_json::from_value(written.clone()).expect("a record");
        assert_eq!(read, record);
        assert_eq!(serde_json::to_value(&read).expect("JSON"), written);
    }
}

#[test]
fn a_field_that_nobody_declared_is_refused() {
    let mut written = serde_json::to_value(&all_records()[0]).expect("JSON");
    written["cause"]["sure"] = true.into();
    assert!(serde_json::from_value::<Record>(written).is_err());
}

#[test]
fn records_are_valid_by_their_own_schema() {
    let schema = serde_json::to_value(schemars::schema_for!(Record)).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    for record in all_records() {
        let written = serde_json::to_value(&record).expect("JSON");
        let errors: Vec<_> = validator.iter_errors(&written).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}\n{written:#}");
    }
    let no_record: Value = serde_json::json!({"schema": "whydrop/v1", "kind": "drop"});
    assert!(!validator.is_valid(&no_record));
}

#[test]
fn every_line_is_of_the_documented_grammar() {
    let lines: Vec<_> = all_records().iter().map(text::line).collect();
    grammar::assert_lines(lines.iter().map(String::as_str));
    let grammar = grammar::line();
    for wrong in [
        "",
        "2026-01-02T03:04:05Z DROP a b",
        "2026-01-02T03:04:05.6Z AGENT node/a lost: 1 x",
        "2026-01-02T03:04:05Z AGENT node/a b lost: 1 x",
    ] {
        assert!(!grammar.is_match(wrong), "{wrong}");
    }
    assert!(!grammar.is_match(&lines[0].replace("  [incident", " [incident")));
}

#[test]
fn names_that_are_none_stay_in_their_fields() {
    let nasty = [
        ("new\nline", r"new\u{a}line"),
        ("two words", r"two\u{20}words"),
        ("-> x:1/TCP  y; 1 SYN  [incident 00000000]", r"->\u{20}x:1/TCP"),
        ("wide-\u{ff21}\u{1f600}", r"wide-\u{ff21}\u{1f600}"),
        ("no\u{200b}width\u{301}", r"no\u{200b}width\u{301}"),
        ("\u{202e}dertrevni", r"\u{202e}dertrevni"),
        ("\u{1b}[31mred", r"\u{1b}[31mred"),
    ];
    for (name, shown) in nasty {
        let Record::Drop(mut record) = all_records().swap_remove(0) else { panic!("a drop") };
        record.flow.source.pod = Some(name.to_owned());
        record.flow.destination.namespace = Some(name.to_owned());
        record.cause.text = format!("ingress denied by {name}");
        record.primary = false;
        if let Some(service) = &mut record.flow.destination.service {
            service.name = name.to_owned();
        }
        let line = text::line(&Record::Drop(record));
        grammar::assert_lines([&*line]);
        let fields: Vec<_> = line.split(' ').take(5).collect();
        assert_eq!((fields[1], fields[3]), ("DROP", "->"), "{line}");
        assert!(fields[2].starts_with(&format!("frontend/{shown}")), "{line}");

        let mut tally = muted(MutedByKind::Policy, name, Some("NetworkPolicy"), Some(name));
        tally.example = name.to_owned();
        let since = time("2026-01-02T02:04:05Z").into();
        let state = AgentState::Muted { since, muted: vec![tally] };
        let line = text::line(
            &Reporter { node: name.to_owned() }.agent(time("2026-01-02T03:04:05Z"), state),
        );
        grammar::assert_lines([&*line]);
    }
}

#[test]
fn a_line_is_a_line_whatever_names_hold() {
    let now = time("2026-01-02T03:04:05Z");
    let what = "a\nb\u{1b}[31mc\u{202e}d".to_owned();
    let record = reporter().agent(now, AgentState::Degraded { what, since: now.into() });
    let line = text::line(&record);
    assert!(line.ends_with(r"a\u{a}b\u{1b}[31mc\u{202e}d"), "{line}");
}

#[test]
fn each_situation_has_a_line_in_the_documents() {
    let read = |name: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
        std::fs::read_to_string(path).expect("a document")
    };
    let (records, otlp) = (read("records.md"), read("otlp.md"));
    for kind in SituationKind::ALL {
        let name = serde_json::to_value(kind).expect("JSON");
        let name = name.as_str().expect("a word");
        assert!(records.contains(&format!("\n| `{name}` |")), "{name}");
        assert!(otlp.contains(&format!("`{name}`")), "{name}");
    }
}
