//! What is looked up so that a drop's situation shows, and what a remedy opens in an ambient mesh.

use std::net::IpAddr;

use whydrop_core::{
    cluster::{
        Cluster, Snapshot,
        caller::{Call, Caller, CallerKind, Failure, ServiceCall, Waiting},
        look_up::{LookUp, Query},
        object::{
            EndpointSlice, Object, Pod, Service, ServicePort, SliceEndpoint, SlicePort, TargetPort,
        },
    },
    correlate::Drop,
    diagnosis::{Case, Diagnosis, Fate, SituationKind, diagnose, to_look_up},
    flow::Protocol,
    policy::{Policy, selector::Selector},
    remedy::{Remedy, remedy},
    verdict::{Decision, Question, evaluate},
};

use crate::build::{
    address, at, between, case_of, dropped, equals, ingress, labels, namespace, pod, rule,
};

const API_SERVER: u8 = 1;
const OTHER: u8 = 2;
const WEBHOOK: u8 = 20;
const HOOKS: u16 = 9443;

fn service(namespace: &str, name: &str, port: u16, target: u16) -> Service {
    Service {
        namespace: namespace.into(),
        name: name.into(),
        ports: vec![ServicePort {
            name: "".into(),
            port,
            protocol: Protocol::Tcp,
            target: TargetPort::Number(target),
            node_port: None,
        }],
        ..Service::default()
    }
}

fn looked_up(cluster: &mut Cluster, query: impl Into<Query>) {
    cluster.looked_up(query, LookUp { at: at(3), failed: None, scale: None });
}

fn of(namespace: &str, name: &str) -> (std::sync::Arc<str>, std::sync::Arc<str>) {
    (namespace.into(), name.into())
}

/// A pod of this node's behind a policy that admits nobody; two addresses outside of the cluster.
fn gate() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.look_up_on_demand();
    cluster.apply(namespace("gate", &[]), None);
    cluster.apply(Object::Pod(pod("gate", "op", WEBHOOK, &[("app", "op")])), None);
    let closed = ingress("gate", "closed", Selector::EVERYTHING, Vec::new());
    cluster.apply(Object::Policy(closed), None);
    for outside in [API_SERVER, OTHER] {
        looked_up(&mut cluster, address(outside));
    }
    cluster
}

/// Where the API server is, and what the pod is behind, as they are found.
fn find_services(cluster: &mut Cluster) {
    let mut hooks = service("gate", "op-hooks", 443, HOOKS);
    hooks.selector = labels(&[("app", "op")]);
    cluster.apply(Object::Service(hooks), None);
    looked_up(cluster, Query::ServicesOf(of("gate", "op")));
    cluster.apply(Object::Service(service("default", "kubernetes", 443, 6443)), None);
    cluster.apply(
        Object::EndpointSlice(EndpointSlice {
            namespace: "default".into(),
            name: "kubernetes".into(),
            service: Some("kubernetes".into()),
            endpoints: vec![SliceEndpoint::ready(address(API_SERVER))],
            ports: vec![SlicePort { name: "".into(), port: 6443, protocol: Protocol::Tcp }],
        }),
        None,
    );
    looked_up(cluster, Query::Service(of("default", "kubernetes")));
}

fn webhook() -> Caller {
    let waits = Waiting::Admission {
        operations: vec!["CREATE".into()],
        resources: vec!["configmaps".into()],
        failure: Failure::Fail,
    };
    let call = ServiceCall { namespace: "gate".into(), name: "op-hooks".into(), port: 443, waits };
    Caller {
        kind: CallerKind::ValidatingWebhookConfiguration,
        namespace: None,
        name: "gate-checks".into(),
        calls: vec![Call::Service(call)],
    }
}

fn drop_from(source: u8) -> Drop {
    dropped(address(source), address(WEBHOOK), HOOKS, &[1, 2, 4])
}

fn missing(cluster: &Cluster, drop: &Drop) -> Vec<Query> {
    to_look_up(&cluster.snapshot(), &case_of(drop), at(4))
}

fn situation(diagnosis: &Diagnosis) -> Option<SituationKind> {
    diagnosis.cause.situation.map(whydrop_core::diagnosis::Situation::kind)
}

#[test]
fn what_an_api_server_calls_is_looked_up_where_it_is_cut_off() {
    let mut cluster = gate();
    let drop = drop_from(API_SERVER);
    let services =
        [Query::Service(of("default", "kubernetes")), Query::ServicesOf(of("gate", "op"))];
    assert_eq!(missing(&cluster, &drop), services);
    find_services(&mut cluster);
    assert_eq!(missing(&cluster, &drop), [Query::Callers]);
    cluster.apply(Object::Caller(webhook()), None);
    looked_up(&mut cluster, Query::Callers);
    assert_eq!(missing(&cluster, &drop), []);
    let diagnosis = diagnose(&cluster.snapshot(), &case_of(&drop));
    assert_eq!(situation(&diagnosis), Some(SituationKind::ApiServerCalls));
    let text = &diagnosis.cause.text;
    for part in ["ValidatingWebhookConfiguration gate-checks", "failurePolicy: Fail"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn who_is_no_api_server_calls_nothing() {
    let mut cluster = gate();
    find_services(&mut cluster);
    cluster.apply(Object::Caller(webhook()), None);
    let drop = drop_from(OTHER);
    assert_eq!(missing(&cluster, &drop), []);
    assert_eq!(situation(&diagnose(&cluster.snapshot(), &case_of(&drop))), None);
}

#[test]
fn what_no_policy_governs_and_what_passes_cost_no_more_look_ups() {
    let mut cluster = gate();
    let drop = drop_from(API_SERVER);
    let answered = Case { fate: Fate::Answered, ..case_of(&drop) };
    assert_eq!(to_look_up(&cluster.snapshot(), &answered, at(4)), []);
    cluster.delete(&crate::build::policy_key("gate", "closed"), at(3));
    assert_eq!(missing(&cluster, &drop), []);
}

/// Two pods of a namespace that is in the mesh or is not, and policies over the second.
fn plaza(own: &[(&str, &str)], policies: Vec<Policy>) -> Snapshot {
    let mut cluster = Cluster::default();
    cluster.apply(namespace("plaza", own), None);
    for (name, last) in [("shop", 10), ("till", 11)] {
        let pod: Pod = pod("plaza", name, last, &[("app", name)]);
        cluster.apply(Object::Pod(pod), None);
    }
    for policy in policies {
        cluster.apply(Object::Policy(policy), None);
    }
    cluster.snapshot()
}

fn closed() -> Policy {
    ingress("plaza", "closed", Selector::EVERYTHING, Vec::new())
}

/// On which of these ports the first pod reaches the second with a remedy.
fn opens(snapshot: &Snapshot, remedy: &Remedy) -> Vec<u16> {
    let after = remedy.applied(snapshot);
    let [from, to]: [IpAddr; 2] = [address(10), address(11)];
    let passes = |port: &u16| {
        let ends = [from, to].map(|address| after.resolve(address, None));
        let [source, destination] = ends;
        let question = Question::new(source, destination, *port, Protocol::Tcp);
        evaluate(&after, &question).decision() != Decision::Denied
    };
    [5432, 15008, 80].into_iter().filter(passes).collect()
}

#[test]
fn a_remedy_in_a_mesh_opens_the_port_that_its_packets_go_to_as_well() {
    let in_mesh = [("istio.io/dataplane-mode", "ambient")];
    for (own, ports) in [(&in_mesh[..], vec![5432, 15008]), (&[], vec![5432])] {
        let snapshot = plaza(own, vec![closed()]);
        let asked = between(&snapshot, ("plaza", "shop"), ("plaza", "till"), 5432);
        let diagnosis = diagnose(&snapshot, &asked);
        let remedy = remedy(&snapshot, &diagnosis).expect("a remedy");
        assert_eq!(opens(&snapshot, &remedy), ports, "{}", diagnosis.cause.text);
        assert_eq!(remedy.policies.len(), 1, "{}", remedy.summary);
        let says = remedy.summary.contains("5432/TCP and 15008/TCP");
        assert_eq!(says, ports.len() == 2, "{}", remedy.summary);
    }
}

#[test]
fn a_port_that_is_open_to_the_mesh_already_is_not_opened_again() {
    let admits = vec![rule(None, "plaza", equals(&[("app", "shop")]), &[15008])];
    let mesh = ingress("plaza", "mesh", equals(&[("app", "till")]), admits);
    let snapshot = plaza(&[("istio.io/dataplane-mode", "ambient")], vec![closed(), mesh]);
    let asked = between(&snapshot, ("plaza", "shop"), ("plaza", "till"), 5432);
    let remedy = remedy(&snapshot, &diagnose(&snapshot, &asked)).expect("a remedy");
    assert!(!remedy.summary.contains("15008"), "{}", remedy.summary);
}
