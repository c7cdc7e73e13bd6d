//! What a client dialled, in records, lines and commands; and what kube-proxy does of it.

mod grammar;

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use whydrop::{
    cluster::manifests::Manifests,
    records::text::fixed,
    report::{
        Record, Reporter,
        text::{self, FlowQuery},
    },
};
use whydrop_core::{
    cluster::Cluster,
    correlate::{Correlated, Correlator, Drop},
    diagnosis::{Case, Fate},
    flow::{Flow, Protocol},
    incident::JudgedDrop,
    judgement::judge,
    observation::{AttemptId, DropReason, Fact, Observation, Rejection, Sender},
    service::RefusalKind,
};

const SHOP: &str = "
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: ask, namespace: shop, labels: {app: ask}}
spec: {nodeName: n1, containers: [{name: c, image: c}]}
status: {phase: Running, podIP: 10.1.1.10}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}}
spec: {nodeName: n2, containers: [{name: c, image: c}]}
status: {phase: Running, podIP: 10.1.2.20}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.7
  externalIPs: [198.51.100.7]
  externalTrafficPolicy: Local
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.8}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.1.2.20], nodeName: n2, conditions: {ready: READY, serving: READY}}]
ports: [{port: 8080, protocol: TCP}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
";

fn cluster(is_ready: bool) -> Cluster {
    let mut read = Manifests::default();
    read.read_text("test", &SHOP.replace("READY", &is_ready.to_string()));
    assert!(read.errors.is_empty(), "{:?}", read.errors);
    read.cluster()
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// SYNs that this node's netfilter dropped, or rejected.
fn dropped(from: &str, to: (&str, u16), dialled: Option<(&str, u16)>, is_rejected: bool) -> Drop {
    let at: Timestamp = "2026-01-02T03:04:05Z".parse().expect("a time");
    let drop = Fact::KernelDrop {
        reason: DropReason { number: 12, name: "NETFILTER_DROP".into() },
        location: None,
        interface: 0,
    };
    let rejected = Fact::Rejected(Rejection::Icmp { v6: false, kind: 3, code: 3 });
    let mut correlator = Correlator::default();
    for fact in [Some(drop), is_rejected.then_some(rejected)].into_iter().flatten() {
        let source = address(from);
        correlator.observe(&Observation {
            at,
            first: at,
            attempt: Some(AttemptId {
                protocol: Protocol::Tcp,
                source,
                source_port: 40_000,
                sequence: 7,
                foreign: None,
            }),
            packets: 1,
            flow: Flow { source, destination: address(to.0), port: to.1, protocol: Protocol::Tcp },
            dialled: dialled.map(|(to, port)| (address(to), port)),
            sender: Sender::default(),
            entered: None,
            delivered: false,
            fact,
        });
    }
    let correlated = correlator.flush(at + SignedDuration::from_secs(60)).into_iter();
    let mut drops = correlated.filter_map(|correlated| match correlated {
        Correlated::Drop(drop) => Some(drop),
        _ => None,
    });
    drops.next().expect("a drop")
}

fn record(is_ready: bool, drop: Drop) -> Record {
    let cluster = cluster(is_ready);
    let snapshot = cluster.snapshot();
    let now = drop.evidence.last() + SignedDuration::from_secs(2);
    let case = Case {
        flow: drop.flow,
        dialled: drop.dialled,
        at: Some(drop.evidence.last()),
        fate: Fate::Dropped(&drop.evidence),
    };
    let judgement = judge(&snapshot, cluster.history(), &case);
    let judged = JudgedDrop::new(drop, judgement, None);
    Reporter { node: "n2".to_owned() }.drop(now, &snapshot, &judged)
}

#[test]
fn each_way_to_a_service_is_named_and_asked_about_again() {
    for (from, dialled, service, says, command) in [
        (
            "10.1.1.10",
            ("10.96.0.7", 80),
            json!({"namespace": "shop", "name": "web", "ip": "10.96.0.7", "port": 80}),
            "shop/ask -> shop/web-0:8080/TCP (Service shop/web:80)  ",
            "--from shop/ask --to shop/svc/web --port 80/TCP",
        ),
        (
            "203.0.113.5",
            ("198.51.100.7", 80),
            json!({"namespace": "shop", "name": "web", "ip": "198.51.100.7", "port": 80,
                   "by": "external"}),
            "(Service shop/web:80 via external address 198.51.100.7)  ",
            "--from 203.0.113.5 --to 198.51.100.7 --port 80/TCP",
        ),
        (
            "203.0.113.5",
            ("198.51.100.8", 80),
            json!({"namespace": "shop", "name": "web", "ip": "198.51.100.8", "port": 80,
                   "by": "balancer"}),
            "(Service shop/web:80 via load balancer 198.51.100.8)  ",
            "--from 203.0.113.5 --to 198.51.100.8 --port 80/TCP",
        ),
        (
            "203.0.113.5",
            ("192.0.2.2", 30080),
            json!({"namespace": "shop", "name": "web", "ip": "192.0.2.2", "port": 30080,
                   "by": "node-port", "node": "n2"}),
            "(Service shop/web via NodePort 30080 of node/n2)  ",
            "--from 203.0.113.5 --to node/n2 --port 30080/TCP",
        ),
    ] {
        let record = record(true, dropped(from, ("10.1.2.20", 8080), Some(dialled), false));
        let written = serde_json::to_value(&record).expect("JSON");
        assert_eq!(written["flow"]["destination"]["service"], service);
        assert_eq!(written["flow"]["destination"]["pod"], "web-0");
        assert_eq!(written["cause"]["kube_proxy"], Value::Null);
        assert_eq!(serde_json::from_value::<Record>(written).expect("a record"), record);
        let line = text::line(&record);
        grammar::assert_lines([&*line]);
        assert!(line.contains(says), "{line}");
        assert!(line.contains(&format!("; fix: whydrop fix {command}  [incident")), "{line}");
        let Record::Drop(drop) = &record else { panic!("a drop") };
        let read = fixed(&line).map(|(flow, _)| flow);
        assert_eq!(read, Some(FlowQuery::of(&drop.flow)), "{line}");
    }
}

#[test]
fn what_kube_proxy_refuses_is_a_fact_of_the_record_and_has_no_remedy() {
    let record = record(false, dropped("10.1.1.10", ("10.96.0.7", 80), None, true));
    let written = serde_json::to_value(&record).expect("JSON");
    assert_eq!(written["cause"]["class"], "not-policy");
    let closed = json!({"kind": "NetworkPolicy", "namespace": "shop", "name": "closed"});
    let expected = json!({
        "service": {"kind": "Service", "namespace": "shop", "name": "web"},
        "refusal": "no-endpoint",
        "by": "cluster",
        "would_deny": [closed],
    });
    assert_eq!(written["cause"]["kube_proxy"], expected);
    assert_eq!((&written["remedy"], &written["cause"]["policy"]), (&Value::Null, &Value::Null));
    // No packet ever had the pod's address.
    let destination = &written["flow"]["destination"];
    assert_eq!((&destination["ip"], &destination["pod"]), (&json!("10.96.0.7"), &Value::Null));
    assert_eq!(destination["port"], 80);
    let schema = serde_json::to_value(schemars::schema_for!(Record)).expect("JSON");
    assert!(jsonschema::validator_for(&schema).expect("a schema").is_valid(&written));
    assert_eq!(serde_json::from_value::<Record>(written).expect("a record"), record);
    let line = text::line(&record);
    grammar::assert_lines([&*line]);
    assert!(line.contains("REJECT shop/ask -> 10.96.0.7:80/TCP (Service shop/web:80)  "), "{line}");
    assert!(!line.contains("; fix:"), "{line}");
    // The same of a node's port, which this node has no ready endpoint for.
    let drop = dropped("203.0.113.5", ("192.0.2.2", 30080), None, false);
    let line = text::line(&self::record(false, drop));
    grammar::assert_lines([&*line]);
    let says =
        "203.0.113.5 -> node/n2:30080/TCP (Service shop/web via NodePort 30080 of node/n2)  ";
    assert!(line.contains(says), "{line}");
}

#[test]
fn each_refusal_has_a_line_in_the_documents() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/records.md");
    let records = std::fs::read_to_string(path).expect("a document");
    for kind in RefusalKind::ALL {
        let name = kind.name();
        assert!(records.contains(&format!("\n| `{name}` |")), "{name}");
    }
}
