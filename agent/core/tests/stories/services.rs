//! What is said of drops that were seen with a Service's address, because nobody had translated it by
//! then.

use whydrop_core::{
    cluster::{
        Cluster, Snapshot,
        look_up::{LookUp, Query},
        node_address::NodeAddress,
        object::{
            Balancer, EndpointSlice, Node, Object, Service, ServicePort, SliceEndpoint, SlicePort,
            TargetPort, TrafficPolicy,
        },
        resolve::Holder,
    },
    diagnosis::{Class, Diagnosis, diagnose, to_look_up},
    flow::Protocol,
    policy::{requirement::Labels, selector::Selector},
};

use crate::build::{address, at, case, case_of, dropped, equals, ingress, namespace, pod, rule};

const CLIENT: u8 = 10;
const OLD: u8 = 20;
const NEW: u8 = 21;
const CLUSTER: u8 = 200;
const BALANCER: u8 = 201;
const NODE: u8 = 1;

/// A client and two backends on worker-1; policies admit it to the first of them.
fn cluster(service: Service, backends: &[u8]) -> Cluster {
    let mut cluster = Cluster::default();
    cluster.apply(namespace("mart", &[]), None);
    cluster.apply(
        Object::Node(Node {
            name: "worker-1".into(),
            labels: Labels::new(),
            addresses: vec![NodeAddress::internal(address(NODE))],
            pod_networks: Vec::new(),
            subnets: Vec::new(),
        }),
        None,
    );
    for (name, last, app) in [("ask", CLIENT, "ask"), ("old", OLD, "old"), ("new", NEW, "new")] {
        cluster.apply(Object::Pod(pod("mart", name, last, &[("app", app)])), None);
    }
    let closed = ingress("mart", "closed", Selector::EVERYTHING, Vec::new());
    cluster.apply(Object::Policy(closed), None);
    let admits = vec![rule(None, "mart", equals(&[("app", "ask")]), &[8080])];
    let old = ingress("mart", "old", equals(&[("app", "old")]), admits);
    cluster.apply(Object::Policy(old), None);
    cluster.apply(Object::Service(service), None);
    cluster.apply(Object::EndpointSlice(slice(backends)), None);
    cluster
}

fn service() -> Service {
    Service {
        namespace: "mart".into(),
        name: "web".into(),
        cluster_addresses: vec![address(CLUSTER)],
        balancers: vec![Balancer::Address(address(BALANCER))],
        ports: vec![ServicePort {
            name: "".into(),
            port: 80,
            protocol: Protocol::Tcp,
            target: TargetPort::Number(8080),
            node_port: Some(30080),
        }],
        ..Service::default()
    }
}

fn slice(backends: &[u8]) -> EndpointSlice {
    let endpoint = |last: &u8| SliceEndpoint::ready(address(*last));
    EndpointSlice {
        namespace: "mart".into(),
        name: "web-1".into(),
        service: Some("web".into()),
        endpoints: backends.iter().map(endpoint).collect(),
        ports: vec![SlicePort { name: "".into(), port: 8080, protocol: Protocol::Tcp }],
    }
}

fn of_drop(snapshot: &Snapshot, to: u8, port: u16) -> Diagnosis {
    let drop = dropped(address(CLIENT), address(to), port, &[5, 6]);
    diagnose(snapshot, &case_of(&drop))
}

#[test]
fn an_address_of_a_service_is_translated_whichever_it_is() {
    let snapshot = cluster(service(), &[NEW]).snapshot();
    for (to, port) in [(CLUSTER, 80), (BALANCER, 80), (NODE, 30080)] {
        let diagnosis = of_drop(&snapshot, to, port);
        assert!(diagnosis.cause.class.is_denial(), "{to}: {}", diagnosis.cause.text);
        assert_eq!(diagnosis.question.to_string(), "mart/ask -> mart/new:8080/TCP", "{to}");
        // What is asked for again by `fix` is what was dialled.
        let dialled = diagnosis.service.expect("the Service");
        assert_eq!((dialled.address, dialled.port), (address(to), port), "{to}");
    }
}

#[test]
fn a_policy_over_one_of_several_backends_is_not_blamed() {
    let snapshot = cluster(service(), &[OLD, NEW]).snapshot();
    let diagnosis = of_drop(&snapshot, CLUSTER, 80);
    assert_eq!(diagnosis.cause.class, Class::CannotTell);
    let text =
        "policies deny some backends of Service mart/web (mart/new) and not others (mart/old)";
    assert!(diagnosis.cause.text.contains(text), "{}", diagnosis.cause.text);
    let denied = cluster(service(), &[NEW]).snapshot();
    assert!(of_drop(&denied, CLUSTER, 80).cause.class.is_denial());
}

#[test]
fn what_kube_proxy_does_is_no_policys_doing() {
    let says = |service: Service, backends: &[u8], port: u16| {
        let snapshot = cluster(service, backends).snapshot();
        let cause = of_drop(&snapshot, CLUSTER, port).cause;
        assert_eq!(cause.class, Class::NotPolicy, "{}", cause.text);
        // What is behind the Service being nothing, the only doubt is that no rejection was seen.
        assert!(cause.confidence >= 0.85, "{} of {:?}", cause.confidence, cause.reasons);
        cause.text
    };
    let text = says(service(), &[], 80);
    assert!(text.contains("no ready endpoint") && text.contains("rejects"), "{text}");
    let local = Service { internal_policy: TrafficPolicy::Local, ..service() };
    let text = says(local, &[100], 80);
    assert!(text.contains("node worker-1 has no ready endpoint"), "{text}");
    let text = says(service(), &[OLD], 8080);
    assert!(text.contains("has no port 8080/TCP. It has 80/TCP"), "{text}");
}

/// A node reaches its own pods whatever policies say: where none of them is ready kube-proxy is why.
#[test]
fn a_policy_is_not_blamed_for_what_is_exempt_and_kube_proxy_refuses() {
    let mut cluster = cluster(service(), &[]);
    let mut unready = slice(&[NEW]);
    unready.endpoints[0].is_ready = false;
    unready.endpoints[0].is_serving = false;
    cluster.apply(Object::EndpointSlice(unready), None);
    let drop = dropped(address(NODE), address(CLUSTER), 80, &[5, 6]);
    let cause = diagnose(&cluster.snapshot(), &case_of(&drop)).cause;
    assert_eq!((cause.class, &cause.policy), (Class::NotPolicy, &None), "{}", cause.text);
    assert!(cause.text.contains("kube-proxy rejects"), "{}", cause.text);
    // Nobody could have seen it rejected.
    assert!(cause.reasons.iter().all(|reason| !reason.contains("no rejection")), "{cause:?}");
}

#[test]
fn the_backends_behind_a_balancers_address_are_looked_up() {
    let mut cluster = Cluster::default();
    cluster.look_up_on_demand();
    cluster.apply(Object::Pod(pod("mart", "ask", CLIENT, &[])), None);
    cluster.apply(Object::Service(service()), None);
    cluster.apply(Object::EndpointSlice(slice(&[NEW])), None);
    let failed = None;
    cluster.looked_up(address(BALANCER), LookUp { at: at(0), failed, scale: None });
    let asked = case(address(CLIENT), address(BALANCER), 80);
    let missing = to_look_up(&cluster.snapshot(), &asked, at(1));
    assert_eq!(missing, [Query::from(address(NEW))]);
    // And what is outside costs its own look-up, no more.
    let outside = case(address(CLIENT), address(77), 80);
    assert_eq!(to_look_up(&cluster.snapshot(), &outside, at(1)), [Query::from(address(77))]);
}

/// No API server can be asked who has an external address: of a drop to nobody, all Services that have
/// such ones are looked up, and it is no policy's before that is known.
#[test]
fn of_a_drop_to_nobody_it_is_looked_up_whether_that_is_a_services() {
    let mut cluster = Cluster::default();
    cluster.look_up_on_demand();
    cluster.apply(namespace("mart", &[]), None);
    cluster.apply(Object::Pod(pod("mart", "ask", CLIENT, &[("app", "ask")])), None);
    let drop = dropped(address(CLIENT), address(BALANCER), 80, &[1, 2, 4]);
    let missing = |cluster: &Cluster| to_look_up(&cluster.snapshot(), &case_of(&drop), at(4));
    let ended = |query: Query, failed: Option<&str>, cluster: &mut Cluster| {
        let failed = failed.map(Into::into);
        cluster.looked_up(query, LookUp { at: at(4), failed, scale: None });
    };
    ended(address(BALANCER).into(), None, &mut cluster);
    assert_eq!(missing(&cluster), [Query::Exposed]);

    ended(Query::Exposed, Some("refused"), &mut cluster);
    assert_eq!(missing(&cluster), [], "not again at once");
    let held = cluster.snapshot().resolve(address(BALANCER), None).holder;
    let Holder::Unknown(why) = held else { panic!("{held:?}") };
    assert!(why.contains("is a Service's could not be looked up: refused"), "{why}");

    ended(Query::Exposed, None, &mut cluster);
    let held = cluster.snapshot().resolve(address(BALANCER), None).holder;
    assert!(matches!(held, Holder::Outside), "{held:?}");

    cluster.apply(Object::Service(service()), None);
    let web = Query::Service(("mart".into(), "web".into()));
    assert_eq!(missing(&cluster), std::slice::from_ref(&web), "what is behind it");
    cluster.apply(Object::EndpointSlice(slice(&[NEW])), None);
    ended(web.clone(), None, &mut cluster);
    assert_eq!(missing(&cluster), [address(NEW).into()]);

    // A later one is judged by the Service, and who is behind it, of its own time.
    ended(address(NEW).into(), None, &mut cluster);
    let later = dropped(address(CLIENT), address(BALANCER), 80, &[8, 9, 11]);
    let missing = to_look_up(&cluster.snapshot(), &case_of(&later), at(11));
    assert_eq!(missing, [address(NEW).into(), address(BALANCER).into(), web]);
}
