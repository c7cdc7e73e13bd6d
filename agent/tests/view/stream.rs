//! Records as the agents of two nodes write them: dropped flows, judged by the core, written by the
//! reporter. Only the kernel is left out.

use std::{fmt::Write as _, net::IpAddr};

use jiff::{SignedDuration, Timestamp};
use whydrop::{
    cluster::manifests::Manifests,
    report::{AgentState, Record, Reporter, Time},
};
use whydrop_core::{
    cluster::Cluster,
    correlate::{Correlated, Correlator, Drop},
    diagnosis::{Case, Fate, diagnose},
    flow::{Flow, Protocol, Worked},
    incident::{IncidentBook, JudgedDrop},
    judgement::judge,
    observation::{AttemptId, DropReason, Fact, Observation, Sender},
};

/// The policies before and after the change that cuts the database off: its port is off by one.
const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: restrict-backend-ingress, namespace: backend}
spec:
  podSelector: {matchLabels: {app: postgres}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: backend-api}}}], ports: [{port: 5433}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny, namespace: payments}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-shop, namespace: payments}
spec:
  podSelector: {matchLabels: {app: gateway}}
  ingress: [{from: [{namespaceSelector: {matchLabels: {name: shop}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-egress, namespace: reports}
spec: {podSelector: {}, policyTypes: [Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: lock, namespace: monitoring}
spec: {podSelector: {matchLabels: {app: alertmanager}}, policyTypes: [Ingress]}
";

const UNLOCKED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: lock, namespace: monitoring}
spec: {podSelector: {matchLabels: {app: alertmanager}}, policyTypes: [Ingress], ingress: [{}]}
";

/// Namespace, workload, kind of it, pods, first address, label.
type Workload = (&'static str, &'static str, &'static str, u8, [u8; 4], &'static str);

/// Pods with an even last byte run on worker-1, the others on worker-2.
const WORKLOADS: [Workload; 8] = [
    ("backend", "backend-api", "ReplicaSet", 8, [10, 1, 0, 10], "backend-api"),
    ("backend", "postgres-primary", "StatefulSet", 1, [10, 1, 0, 101], "postgres"),
    ("shop", "checkout", "ReplicaSet", 2, [10, 1, 0, 30], "checkout"),
    ("payments", "gateway", "ReplicaSet", 1, [10, 1, 0, 41], "gateway"),
    ("reports", "nightly", "ReplicaSet", 1, [10, 1, 0, 50], "nightly"),
    ("kube-system", "coredns", "ReplicaSet", 1, [10, 1, 0, 61], "kube-dns"),
    ("monitoring", "prometheus", "StatefulSet", 1, [10, 1, 0, 70], "prometheus"),
    ("monitoring", "alertmanager", "StatefulSet", 1, [10, 1, 0, 72], "alertmanager"),
];

/// When the policies were applied.
pub(crate) fn at(seconds: i64) -> Timestamp {
    let start: Timestamp = "2026-01-02T02:54:02Z".parse().expect("a time");
    start + SignedDuration::from_secs(seconds)
}

fn manifests() -> String {
    let mut text = String::new();
    for namespace in ["backend", "shop", "payments", "reports", "kube-system", "monitoring"] {
        let object = "apiVersion: v1\nkind: Namespace\nmetadata:";
        writeln!(text, "{object} {{name: {namespace}}}\n---").expect("memory");
    }
    for (n, address) in [(1, "192.168.77.11"), (2, "192.168.77.12")] {
        let object = "apiVersion: v1\nkind: Node\nmetadata:";
        let status = format!("{{addresses: [{{type: InternalIP, address: {address}}}]}}");
        writeln!(text, "{object} {{name: worker-{n}}}\nstatus: {status}\n---").expect("memory");
    }
    text += "apiVersion: v1\nkind: Service\nmetadata: {name: kube-dns, namespace: kube-system, \
             labels: {k8s-app: kube-dns}}\nspec: {clusterIP: 10.96.0.10, selector: {app: \
             kube-dns}, ports: [{port: 53, protocol: UDP}]}\n---\n";
    for (namespace, workload, kind, pods, address, app) in WORKLOADS {
        for pod in 0..pods {
            let mut address = address;
            address[3] += pod;
            let (owner, hash, name) = match kind {
                "ReplicaSet" => (
                    format!("{workload}-6f8d9c7b"),
                    ", pod-template-hash: 6f8d9c7b",
                    format!("{workload}-6f8d9c7b-{pod}"),
                ),
                _ => (workload.to_owned(), "", format!("{workload}-{pod}")),
            };
            let node = 1 + address[3] % 2;
            let address = IpAddr::from(address);
            writeln!(
                text,
                "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  labels: {{app: {app}{hash}}}
  ownerReferences: [{{apiVersion: apps/v1, kind: {kind}, name: {owner}, uid: u, controller: true}}]
spec: {{nodeName: worker-{node}, containers: [{{name: main, image: main}}]}}
status: {{phase: Running, podIP: {address}}}
---"
            )
            .expect("memory");
        }
    }
    text
}

fn apply(cluster: &mut Cluster, manifests: &str, at: Option<Timestamp>) {
    let mut read = Manifests::default();
    read.read_text("test", manifests);
    assert!(read.errors.is_empty(), "{:?}", read.errors);
    for object in read.objects {
        cluster.apply(object, at);
    }
}

/// A node's agent without a kernel.
pub(crate) struct Node {
    cluster: Cluster,
    book: IncidentBook,
    reporter: Reporter,
    pub(crate) records: Vec<Record>,
}

/// A flow of the stories: from, to, port, protocol.
#[derive(Clone, Copy)]
pub(crate) struct Way(pub(crate) [u8; 4], pub(crate) [u8; 4], pub(crate) u16, pub(crate) Protocol);

impl Way {
    fn flow(self) -> Flow {
        let Self(source, destination, port, protocol) = self;
        Flow { source: source.into(), destination: destination.into(), port, protocol }
    }
}

impl Node {
    pub(crate) fn new(name: &str) -> Self {
        let mut cluster = Cluster::default();
        apply(&mut cluster, &manifests(), None);
        cluster.history_begins(at(-3_600));
        apply(&mut cluster, POLICIES, Some(at(0)));
        let reporter = Reporter { node: name.to_owned() };
        Self { cluster, book: IncidentBook::default(), reporter, records: Vec::new() }
    }

    /// Applies a manifest.
    pub(crate) fn apply(&mut self, manifests: &str, seconds: i64) {
        apply(&mut self.cluster, manifests, Some(at(seconds)));
    }

    /// Reports packets of one attempt that were dropped at these seconds, a moment after the last.
    pub(crate) fn drops(&mut self, way: Way, seconds: &[i64], fact: &Fact, worked: Option<i64>) {
        let drop = dropped(way, seconds, fact);
        let snapshot = self.cluster.snapshot();
        let last = drop.evidence.last();
        let case = Case {
            flow: drop.flow,
            dialled: None,
            at: Some(last),
            fate: Fate::Dropped(&drop.evidence),
        };
        let judgement = judge(&snapshot, self.cluster.history(), &case);
        let worked = worked.map(|second| Worked::once(at(second)));
        let judged = JudgedDrop::new(drop, judgement, worked);
        self.book.add(&judged, last);
        let now = last + SignedDuration::from_millis(400 + i64::from(way.0[3]));
        let record = self.reporter.drop(now, &snapshot, &judged);
        self.records.push(record);
    }

    /// A flow that policies deny was answered.
    pub(crate) fn passes(&mut self, way: Way, seconds: i64) {
        let (flow, when) = (way.flow(), at(seconds));
        let case = Case { flow, dialled: None, at: Some(when), fate: Fate::Answered };
        let diagnosis = diagnose(&self.cluster.snapshot(), &case);
        self.records.push(self.reporter.finding(when, when, diagnosis));
    }

    /// Reports what has become of the incidents by then.
    pub(crate) fn tick(&mut self, seconds: i64) {
        let changes = self.book.tick(&self.cluster.snapshot(), at(seconds));
        let records = changes.iter().map(|change| self.reporter.incident(at(seconds), change));
        self.records.extend(records);
    }

    /// Reports about itself.
    pub(crate) fn reports(&mut self, seconds: i64, state: AgentState) {
        self.records.push(self.reporter.agent(at(seconds), state));
    }

    pub(crate) fn ready(&mut self, seconds: i64) {
        let state = AgentState::Ready {
            version: "0.1.0".to_owned(),
            kernel: "6.18.0".to_owned(),
            interfaces: vec!["veth1".to_owned(), "veth2".to_owned()],
            objects: [("NetworkPolicy".to_owned(), 5), ("Pod".to_owned(), 16)].into(),
            cannot: vec!["use tcx: this kernel has clsact only".to_owned()],
        };
        self.reports(seconds, state);
    }
}

/// What a filter on the node says of them.
pub(crate) fn filtered() -> Fact {
    Fact::KernelDrop {
        reason: DropReason { number: 12, name: "NETFILTER_DROP".into() },
        location: Some("nf_hook_slow".into()),
        interface: 5,
    }
}

fn dropped(way: Way, seconds: &[i64], fact: &Fact) -> Drop {
    let flow = way.flow();
    let attempt = Some(AttemptId {
        protocol: flow.protocol,
        source: flow.source,
        source_port: 40_000,
        sequence: u32::from(flow.port),
        foreign: None,
    });
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
            fact: fact.clone(),
        });
    }
    let correlated = correlator.flush(at(100_000));
    let mut drops = correlated.into_iter().filter_map(|correlated| match correlated {
        Correlated::Drop(drop) => Some(drop),
        _ => None,
    });
    drops.next_back().expect("a drop")
}

const POSTGRES: [u8; 4] = [10, 1, 0, 101];

/// Half an hour of two nodes:
/// - 8 replicas lose their database, on both nodes, and worker-2 has the kernel's reason;
/// - a shop's namespace lacks a label;
/// - a job has lost its DNS;
/// - an alert manager was locked out, and is no more;
/// - a policy is not enforced;
/// - worker-1 complains and loses records.
pub(crate) fn fleet(minutes: i64) -> Vec<Record> {
    let (mut one, mut two) = (Node::new("worker-1"), Node::new("worker-2"));
    one.ready(-30);
    two.ready(-29);
    let mut dropped: Vec<i64> = vec![3, 4];
    for minute in 0..minutes {
        let second = minute * 60;
        dropped.push(second + 6);
        dropped.push(second + 40);
        for replica in 0..8 {
            let api = Way([10, 1, 0, 10 + replica], POSTGRES, 5432, Protocol::Tcp);
            let dropped: Vec<i64> =
                dropped.iter().map(|second| second + i64::from(replica)).collect();
            two.drops(api, &dropped, &filtered(), Some(1));
            if replica % 2 == 0 {
                one.drops(api, &dropped, &Fact::Retransmitted, Some(1));
            }
        }
        if minute >= 4 {
            let checkout = Way([10, 1, 0, 30], [10, 1, 0, 41], 8443, Protocol::Tcp);
            two.drops(checkout, &[second + 12, second + 13, second + 15], &filtered(), None);
        }
        if minute >= 10 {
            let dns = Way([10, 1, 0, 50], [10, 1, 0, 61], 53, Protocol::Udp);
            one.drops(dns, &[second + 22, second + 27], &filtered(), None);
        }
        if minute < 2 {
            let alerts = Way([10, 1, 0, 70], [10, 1, 0, 72], 9093, Protocol::Tcp);
            one.drops(alerts, &[second + 9, second + 10], &filtered(), None);
        }
        if minute == 3 {
            one.apply(UNLOCKED, second);
        }
        one.tick(second + 57);
        two.tick(second + 58);
    }
    one.passes(Way([10, 1, 0, 31], [10, 1, 0, 41], 8443, Protocol::Tcp), 90);
    one.reports(
        100,
        AgentState::Degraded { what: "policies.yaml: not YAML".to_owned(), since: at(98).into() },
    );
    let lost = [("records for a slow reader of the log".to_owned(), 3)];
    one.reports(110, AgentState::Lost { counts: lost.into() });
    let mut records = one.records;
    records.append(&mut two.records);
    records.sort_by_key(time_of);
    records
}

/// When a record was written.
pub(crate) fn time_of(record: &Record) -> Time {
    match record {
        Record::Drop(record) => record.time,
        Record::Incident(record) => record.time,
        Record::Heal(record) => record.time,
        Record::Agent(record) => record.time,
    }
}

/// The lines of a log.
pub(crate) fn lines(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| serde_json::to_string(record).expect("JSON")).collect()
}
