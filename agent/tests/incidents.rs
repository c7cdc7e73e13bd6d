//! The records of an incident as they are written: golden, read back strictly, and valid by their
//! own schema.

mod grammar;

use std::{fmt::Write as _, net::IpAddr};

use jiff::{SignedDuration, Timestamp};
use whydrop::{
    cluster::manifests::Manifests,
    report::{Record, Reporter, text},
};
use whydrop_core::{
    cluster::Cluster,
    correlate::{Correlated, Correlator, Drop},
    diagnosis::{Case, Fate},
    flow::{Flow, Protocol, Worked},
    incident::{IncidentBook, JudgedDrop},
    judgement::judge,
    observation::{AttemptId, DropReason, Fact, Observation, Sender},
};

const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: restrict-backend-ingress, namespace: backend}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: backend-api}}}], ports: [{port: 5433}]}]
";

/// Eight replicas and their database. `restarts`: of each replica; none is ready after one.
fn backend(restarts: u32) -> String {
    let mut manifests = "
apiVersion: v1
kind: Namespace
metadata: {name: backend}
---
apiVersion: v1
kind: Pod
metadata:
  name: postgres-primary-0
  namespace: backend
  labels: {app: postgres}
  ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: postgres-primary, uid: u, controller: true}]
spec: {nodeName: worker-1, containers: [{name: postgres, image: postgres}]}
status: {phase: Running, podIP: 10.1.0.100}
"
    .to_owned();
    for n in 0..8 {
        write!(
            manifests,
            "---
apiVersion: v1
kind: Pod
metadata:
  name: backend-api-6f8d9c7b-{n}
  namespace: backend
  labels: {{app: backend-api, pod-template-hash: 6f8d9c7b}}
  ownerReferences: [{{apiVersion: apps/v1, kind: ReplicaSet, name: backend-api-6f8d9c7b, uid: u, controller: true}}]
spec: {{nodeName: worker-1, containers: [{{name: api, image: api}}]}}
status:
  phase: Running
  podIP: 10.1.0.{}
  conditions: [{{type: Ready, status: \"{}\"}}]
  containerStatuses: [{{name: api, image: api, imageID: api, ready: true, restartCount: {restarts}}}]
",
            10 + n,
            if restarts == 0 { "True" } else { "False" }
        )
        .expect("writing to memory");
    }
    manifests
}

fn at(seconds: i64) -> Timestamp {
    let start: Timestamp = "2026-01-02T02:54:02Z".parse().expect("a time");
    start + SignedDuration::from_secs(seconds)
}

/// SYNs of a replica to the database at these seconds, dropped by netfilter.
fn dropped(replica: u8, seconds: &[i64]) -> Drop {
    let source = IpAddr::from([10, 1, 0, 10 + replica]);
    let flow = Flow {
        source,
        destination: IpAddr::from([10, 1, 0, 100]),
        port: 5432,
        protocol: Protocol::Tcp,
    };
    let protocol = Protocol::Tcp;
    let attempt =
        Some(AttemptId { protocol, source, source_port: 40_000, sequence: 7, foreign: None });
    let mut correlator = Correlator::default();
    for second in seconds {
        correlator.observe(&Observation {
            at: at(*second),
            first: at(*second),
            attempt,
            packets: 1,
            flow,
            dialled: None,
            sender: Sender::default(),
            entered: None,
            delivered: false,
            fact: Fact::KernelDrop {
                reason: DropReason { number: 12, name: "NETFILTER_DROP".into() },
                location: Some("nf_hook_slow".into()),
                interface: 5,
            },
        });
    }
    let correlated = correlator.flush(at(3_600));
    let mut drops = correlated.into_iter().filter_map(|correlated| match correlated {
        Correlated::Drop(drop) => Some(drop),
        _ => None,
    });
    drops.next_back().expect("a drop")
}

fn apply(cluster: &mut Cluster, manifests: &str, at: Option<Timestamp>) {
    let mut read = Manifests::default();
    read.read_text("test", manifests);
    assert!(read.errors.is_empty(), "{:?}", read.errors);
    for object in read.objects {
        cluster.apply(object, at);
    }
}

/// Opened with one replica, worse with all of them, updated after ten minutes, and over.
fn story() -> Vec<Record> {
    let mut cluster = Cluster::default();
    apply(&mut cluster, &backend(0), None);
    cluster.history_begins(at(-3_600));
    apply(&mut cluster, POLICY, Some(at(0)));
    let mut book = IncidentBook::default();
    let mut records = Vec::new();
    let reporter = Reporter { node: "worker-1".to_owned() };
    let mut turn = |cluster: &Cluster, replicas: &[u8], seen: &[i64], seconds| {
        let snapshot = cluster.snapshot();
        for replica in replicas {
            let drop = dropped(*replica, seen);
            let (at_last, fate) = (Some(drop.evidence.last()), Fate::Dropped(&drop.evidence));
            let case = Case { flow: drop.flow, dialled: None, at: at_last, fate };
            let judgement = judge(&snapshot, cluster.history(), &case);
            let worked = Some(Worked { first: at(-600), last: at(1), connections: 3 });
            let judged = JudgedDrop::new(drop, judgement, worked);
            book.add(&judged, judged.drop.evidence.last());
        }
        let changes = book.tick(&snapshot, at(seconds));
        records.extend(changes.iter().map(|change| reporter.incident(at(seconds), change)));
    };
    turn(&cluster, &[0], &[3, 4], 7);
    turn(&cluster, &[1, 2, 3, 4, 5, 6, 7], &[5, 6], 8);
    apply(&mut cluster, &backend(2), Some(at(500)));
    turn(&cluster, &[0, 1, 2, 3, 4, 5, 6, 7], &[5, 6, 570, 590], 600);
    apply(&mut cluster, &POLICY.replace("port: 5433", "port: 5432"), Some(at(700)));
    turn(&cluster, &[], &[], 701);
    turn(&cluster, &[], &[], 711);
    records
}

#[test]
fn incidents_as_json() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&story()[2]).expect("JSON"));
}

#[test]
fn incidents_as_text() {
    let lines: Vec<_> = story().iter().map(text::line).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn every_line_is_of_the_documented_grammar() {
    let lines: Vec<_> = story().iter().map(text::line).collect();
    grammar::assert_lines(lines.iter().map(String::as_str));
}

#[test]
fn incidents_are_read_back_as_they_were_written() {
    for record in story() {
        let written = serde_json::to_value(&record).expect("JSON");
        let read: Record = serde_json::from_value(written.clone()).expect("a record");
        assert_eq!(read, record);
        assert_eq!(serde_json::to_value(&read).expect("JSON"), written);
    }
}

#[test]
fn a_field_that_nobody_declared_is_refused() {
    let mut written = serde_json::to_value(&story()[0]).expect("JSON");
    written["plan"][0]["sure"] = true.into();
    assert!(serde_json::from_value::<Record>(written).is_err());
}

#[test]
fn incidents_are_valid_by_their_own_schema() {
    let schema = serde_json::to_value(schemars::schema_for!(Record)).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    for record in story() {
        let written = serde_json::to_value(&record).expect("JSON");
        let errors: Vec<_> = validator.iter_errors(&written).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}\n{written:#}");
    }
}
