//! Ends of which not everything is known: without an address, or of a namespace that may not be read.

use std::sync::Arc;

use serde_json::{Value, json};
use whydrop_core::{
    cluster::{
        Cluster, Snapshot, Unreadable,
        object::{Kind, Object, Pod, WorkloadKind},
        resolve::{Endpoint, Hidden, Holder},
    },
    flow::Protocol,
    kinds,
    policy::{Block, Peer, Peers, Policy, PolicyKind, Rule, selector::Selector},
    verdict::{Decision, Question, Verdict, evaluate},
};

use crate::build::{equals, ingress, namespace, pod, rule};

fn decoded(object: Value) -> Object {
    let text = |field: &str| object[field].as_str().expect("text").to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let row = kinds::named(&api_version, &kind).expect("a kind that is read");
    row.decode(object, &api_version).expect("well formed").expect("read")
}

/// A workload whose pods have these labels.
fn workload(api_version: &str, kind: &str, name: &str, labels: &Value) -> Object {
    let containers = json!([{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]);
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": containers}});
    let spec = match kind {
        "CronJob" => json!({"jobTemplate": {"spec": {"template": template}}}),
        _ => json!({"template": template}),
    };
    let metadata = json!({"name": name, "namespace": "bistro"});
    decoded(json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}))
}

fn cluster(objects: impl IntoIterator<Item = Object>) -> Cluster {
    let mut cluster = Cluster::default();
    for object in objects {
        cluster.apply(object, None);
    }
    cluster
}

fn template(snapshot: &Snapshot, kind: WorkloadKind, name: &str) -> Endpoint {
    let template = snapshot.template(kind, "bistro", name).expect("a template");
    Endpoint::without_address(template.pod.clone())
}

fn ask(snapshot: &Snapshot, source: &Endpoint, destination: &Endpoint, port: u16) -> Verdict {
    let (source, destination) = (source.clone(), destination.clone());
    evaluate(snapshot, &Question::new(source, destination, port, Protocol::Tcp))
}

fn block(network: &str) -> Rule {
    let network = network.parse().expect("a network");
    let peers = Peers::AnyOf(vec![Peer::Block(Block { network, except: Vec::new() })]);
    Rule::new(whydrop_core::policy::Action::Allow, peers, Vec::new())
}

#[test]
fn templates_are_judged_by_their_labels_and_ports() {
    let menu = workload("apps/v1", "Deployment", "menu", &json!({"app": "menu"}));
    let refill = workload("batch/v1", "CronJob", "refill", &json!({"app": "refill"}));
    let other = workload("batch/v1", "Job", "other", &json!({}));
    let only_refill = ingress(
        "bistro",
        "menu",
        equals(&[("app", "menu")]),
        vec![rule(None, "bistro", equals(&[("app", "refill")]), &[8080])],
    );
    let snapshot = cluster([menu, refill, other, Object::Policy(only_refill)]).snapshot();
    let menu = template(&snapshot, WorkloadKind::Deployment, "menu");
    assert_eq!(menu.to_string(), "bistro/deploy/menu");
    let refill = template(&snapshot, WorkloadKind::CronJob, "refill");
    assert_eq!(ask(&snapshot, &refill, &menu, 8080).ingress.decision, Decision::Allowed);
    assert_eq!(ask(&snapshot, &refill, &menu, 8081).ingress.decision, Decision::Denied);
    let other = template(&snapshot, WorkloadKind::Job, "other");
    assert_eq!(ask(&snapshot, &other, &menu, 8080).ingress.decision, Decision::Denied);
    // The labels that the API server sets on it.
    let labels = &other.pod().expect("a pod").labels;
    assert_eq!(labels.get("batch.kubernetes.io/job-name").map(|name| &**name), Some("other"));
    // Two pods of one template are not one pod.
    assert_eq!(ask(&snapshot, &menu, &menu, 8080).exempt, None);
}

#[test]
fn what_hangs_on_an_address_that_is_not_known_is_unknown_and_nothing_else() {
    let menu = workload("apps/v1", "Deployment", "menu", &json!({"app": "menu"}));
    let guest = workload("apps/v1", "StatefulSet", "guest", &json!({"app": "guest"}));
    let of_guests = rule(None, "bistro", equals(&[("app", "guest")]), &[80]);
    let policy =
        ingress("bistro", "menu", equals(&[("app", "menu")]), vec![block("10.0.0.0/8"), of_guests]);
    let snapshot = cluster([menu, guest, Object::Policy(policy)]).snapshot();
    let menu = template(&snapshot, WorkloadKind::Deployment, "menu");
    let guest = template(&snapshot, WorkloadKind::StatefulSet, "guest");
    // Its labels admit it, whatever its address is.
    assert_eq!(ask(&snapshot, &guest, &menu, 80).ingress.decision, Decision::Allowed);
    let verdict = ask(&snapshot, &guest, &menu, 81).ingress;
    assert_eq!(verdict.decision, Decision::Unknown);
    let why = verdict.unknown.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        why,
        [
            "ipBlock 10.0.0.0/8 of bistro/menu ingress[0] against the address of bistro/sts/guest, which \
          is not known yet"
        ]
    );
}

#[test]
fn a_block_of_all_addresses_holds_any() {
    let menu = workload("apps/v1", "Deployment", "menu", &json!({"app": "menu"}));
    let all = ingress("bistro", "menu", Selector::EVERYTHING, vec![block("0.0.0.0/0")]);
    let mut cluster = cluster([menu, Object::Policy(all)]);
    let snapshot = cluster.snapshot();
    let menu = template(&snapshot, WorkloadKind::Deployment, "menu");
    assert_eq!(ask(&snapshot, &menu, &menu, 80).ingress.decision, Decision::Allowed);
    // Unless there are addresses of another family.
    let mut six = pod("bistro", "six", 1, &[]);
    six.addresses = vec!["fd00::1".parse().expect("an address")];
    cluster.apply(Object::Pod(six), None);
    let snapshot = cluster.snapshot();
    assert_eq!(ask(&snapshot, &menu, &menu, 80).ingress.decision, Decision::Unknown);
    // A packet has addresses of one family.
    let four = snapshot.resolve([192, 0, 2, 1].into(), None);
    assert_eq!(ask(&snapshot, &four, &menu, 80).ingress.decision, Decision::Allowed);
}

#[test]
fn a_workload_with_pods_is_those_pods() {
    let owned = |name: &str, kind: &str, of: &str| {
        let workload = Some(crate::build::workload(kind, of));
        Object::Pod(Pod { workload, ..pod("bistro", name, 1, &[("pod-template-hash", "5d4f")]) })
    };
    let job = decoded(json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "refill-1", "namespace": "bistro", "ownerReferences": [
            {"apiVersion": "batch/v1", "kind": "CronJob", "name": "refill", "controller": true, "uid": "u"}
        ]},
    }));
    let snapshot = cluster([
        workload("apps/v1", "Deployment", "menu", &json!({"app": "menu"})),
        workload("apps/v1", "Deployment", "idle", &json!({"app": "idle"})),
        workload("apps/v1", "StatefulSet", "db", &json!({"app": "db"})),
        workload("batch/v1", "CronJob", "refill", &json!({"app": "refill"})),
        job,
        owned("menu-5d4f-x", "Deployment", "menu"),
        owned("refill-1-y", "Job", "refill-1"),
    ])
    .snapshot();
    let names = |kind, name: &str| -> Vec<String> {
        snapshot.pods_of(kind, "bistro", name).iter().map(|pod| pod.name.to_string()).collect()
    };
    assert_eq!(names(WorkloadKind::Deployment, "menu"), ["menu-5d4f-x"]);
    assert_eq!(names(WorkloadKind::ReplicaSet, "menu-5d4f"), ["menu-5d4f-x"]);
    assert_eq!(names(WorkloadKind::ReplicaSet, "menu-6000"), Vec::<String>::new());
    assert_eq!(names(WorkloadKind::CronJob, "refill"), ["refill-1-y"]);
    let mut all: Vec<_> = snapshot.pods_and_templates().map(|pod| pod.name.to_string()).collect();
    all.sort();
    // Neither the template of what has pods nor that of a Job whose CronJob is there.
    assert_eq!(all, ["deploy/idle", "menu-5d4f-x", "refill-1-y", "sts/db"]);
    let second = snapshot.pod_to_come("bistro", "db-1").expect("a pod to come");
    assert_eq!(&*second.labels["statefulset.kubernetes.io/pod-name"], "db-1");
    assert!(snapshot.pod_to_come("bistro", "menu-1").is_none());
    assert!(snapshot.pod_to_come("bistro", "db-x").is_none());
}

fn hidden(namespace: &str, name: &str, is_service: bool) -> Endpoint {
    let why = format!("you may not read namespace {namespace}; ask its owner").into();
    let hidden = Hidden { namespace: namespace.into(), name: name.into(), is_service, why };
    Endpoint { address: None, holder: Holder::Hidden(Arc::new(hidden)) }
}

#[test]
fn one_half_is_judged_where_the_other_may_not_be_read() {
    let own = pod("shop", "web", 10, &[("app", "web")]);
    let by_name = [("kubernetes.io/metadata.name", "backend")];
    let by_label = [("team", "blue")];
    let egress = |rules: Vec<Rule>| {
        let policy = ingress("shop", "out", Selector::EVERYTHING, Vec::new());
        let policy = Policy { ingress: None, egress: Some(rules), ..policy };
        let mut cluster =
            cluster([namespace("shop", &[]), Object::Pod(own.clone()), Object::Policy(policy)]);
        cluster.unreadable(Kind::Namespace, Some("backend"), Unreadable::Refused);
        cluster.snapshot()
    };
    let verdict = |rules: Vec<Rule>, to: &Endpoint| {
        let snapshot = egress(rules);
        let from = snapshot.resolve(own.addresses[0], None);
        ask(&snapshot, &from, to, 80)
    };
    let (db, svc) = (hidden("backend", "db", false), hidden("backend", "svc/db", true));
    let of = |labels: &[(&str, &str)], pods: Selector, ports: &[u16]| {
        vec![rule(Some(labels), "shop", pods, ports)]
    };
    let everything = Selector::EVERYTHING;
    let allowed = verdict(of(&by_name, everything.clone(), &[80]), &db);
    assert_eq!(allowed.egress.decision, Decision::Allowed);
    assert_eq!(allowed.ingress.decision, Decision::Unknown);
    assert_eq!(&*allowed.ingress.unknown[0], "you may not read namespace backend; ask its owner");
    // The Service's port may be another at its pods.
    let unknown = verdict(of(&by_name, everything.clone(), &[80]), &svc);
    assert_eq!(unknown.egress.decision, Decision::Unknown);
    let any_port = verdict(of(&by_name, everything.clone(), &[]), &svc);
    assert_eq!(any_port.egress.decision, Decision::Allowed);
    let pods = verdict(of(&by_name, equals(&[("app", "db")]), &[80]), &db);
    assert_eq!(pods.egress.decision, Decision::Unknown);
    let elsewhere = [("kubernetes.io/metadata.name", "other")];
    let denied = verdict(of(&elsewhere, everything.clone(), &[80]), &db);
    assert_eq!(denied.egress.decision, Decision::Denied);
    let asks = verdict(of(&by_label, everything, &[80]), &db);
    assert_eq!(
        &*asks.egress.unknown[0],
        "does namespace backend have label team=blue? That is unknown: you may not read it"
    );
}

#[test]
fn policies_that_may_not_be_read_may_decide() {
    let own = pod("shop", "web", 10, &[("app", "web")]);
    let mut cluster = cluster([namespace("shop", &[]), Object::Pod(own.clone())]);
    let end = cluster.snapshot().resolve(own.addresses[0], None);
    let decision = |cluster: &Cluster| {
        let to = hidden("backend", "db", false);
        ask(&cluster.snapshot(), &end, &to, 80).egress.decision
    };
    let policies = Kind::Policy(PolicyKind::NetworkPolicy);
    cluster.unreadable(policies, Some("other"), Unreadable::Refused);
    cluster.unreadable(Kind::Service, Some("shop"), Unreadable::Refused);
    assert_eq!(decision(&cluster), Decision::NotIsolated);
    cluster.unreadable(policies, Some("shop"), Unreadable::Refused);
    assert_eq!(decision(&cluster), Decision::Unknown);
}
