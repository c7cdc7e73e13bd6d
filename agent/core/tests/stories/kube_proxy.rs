//! What kube-proxy does by itself is kube-proxy's, whatever policies say: each kind beside what only
//! looks like it.

mod changes;

use std::net::IpAddr;

use jiff::SignedDuration;
use whydrop_core::{
    cluster::{
        Cluster, Interface,
        node_address::NodeAddress,
        object::{
            Balancer, EndpointSlice, Node, Object, Pod, Service, ServicePort, SliceEndpoint,
            SlicePort, TargetPort, TrafficPolicy,
        },
    },
    correlate::{Correlated, Correlator, Drop},
    diagnosis::{Class, Diagnosis, Situation, SituationKind, diagnose},
    flow::Protocol,
    incident::{IncidentBook, JudgedDrop, Step},
    judgement::judge,
    observation::{AttemptId, DropReason, Fact, Observation, Rejection, Sender},
    policy::{Block, Peer, Peers, Policy, Rule, requirement::Labels},
    service::RefusalKind,
};

use crate::build::{address, at, case_of, dropped, equals, ingress, namespace, pod, rule};

const CLIENT: u8 = 10;
const BACKEND: u8 = 20;
const CLUSTER: u8 = 200;
const NODES: [(&str, u8); 2] = [("worker-1", 1), ("worker-2", 2)];

/// What is behind the Service.
#[derive(Clone, Copy, PartialEq)]
enum Behind {
    Nothing,
    Unready,
    Ready,
}

/// What was seen of the packets.
#[derive(Clone, Copy)]
enum Seen {
    /// A filter of this node dropped them.
    Silent,
    /// A filter of this node rejected them (port unreachable).
    Rejected,
    /// The route's next hop is not there.
    NoNeighbour,
    /// Nothing, on this node: nobody answered.
    Unanswered,
}

/// A client on worker-1, and a Service whose only pod, if any, is on worker-2.
struct Scene {
    cluster: Cluster,
}

impl Scene {
    fn of(service: Service, behind: Behind) -> Self {
        let mut cluster = Cluster::default();
        cluster.apply(namespace("mart", &[]), None);
        for (name, last) in NODES {
            let node = Node {
                name: name.into(),
                labels: Labels::new(),
                addresses: vec![NodeAddress::internal(address(last))],
                pod_networks: Vec::new(),
                subnets: Vec::new(),
            };
            cluster.apply(Object::Node(node), None);
        }
        cluster.apply(Object::Pod(pod("mart", "ask", CLIENT, &[("app", "ask")])), None);
        if behind != Behind::Nothing {
            let web = pod("mart", "web-0", BACKEND, &[("app", "web")]);
            let web =
                Pod { node: Some("worker-2".into()), ready: Some(behind == Behind::Ready), ..web };
            cluster.apply(Object::Pod(web), None);
        }
        cluster.apply(Object::Service(service), None);
        cluster.apply(Object::EndpointSlice(slice(behind)), None);
        Self { cluster }
    }

    fn with(mut self, policy: Policy) -> Self {
        self.cluster.apply(Object::Policy(policy), None);
        self
    }

    fn says(&self, from: IpAddr, to: IpAddr, port: u16, seen: Seen) -> Diagnosis {
        diagnose(&self.cluster.snapshot(), &case_of(&dial(from, to, port, seen)))
    }

    /// Of the client that dials the cluster address.
    fn of_client(&self, seen: Seen) -> Diagnosis {
        self.says(address(CLIENT), address(CLUSTER), 80, seen)
    }
}

/// A connect of this client, whose packets fared so.
fn dial(from: IpAddr, to: IpAddr, port: u16, seen: Seen) -> Drop {
    let mut drop = dropped(from, to, port, &[5, 6]);
    match seen {
        Seen::Silent => {}
        Seen::Rejected => {
            drop.evidence.rejected = Some(Rejection::Icmp { v6: false, kind: 3, code: 3 });
        }
        Seen::NoNeighbour => drop = seen_as(&drop, &no_neighbour()),
        Seen::Unanswered => drop = seen_as(&drop, &Fact::Retransmitted),
    }
    drop
}

/// What the kernel says of packets whose next hop nobody answers for.
fn no_neighbour() -> Fact {
    let reason = DropReason { number: 44, name: "NEIGH_FAILED".into() };
    Fact::KernelDrop { reason, location: None, interface: 0 }
}

/// The same packets, of which something else was seen.
fn seen_as(drop: &Drop, fact: &Fact) -> Drop {
    let mut correlator = Correlator::default();
    for second in [5, 6] {
        correlator.observe(&Observation {
            at: at(second),
            first: at(second),
            attempt: Some(AttemptId {
                protocol: Protocol::Tcp,
                source: drop.flow.source,
                source_port: 40_000,
                sequence: 7,
                foreign: None,
            }),
            packets: 1,
            flow: drop.flow,
            dialled: None,
            sender: Sender::default(),
            entered: None,
            delivered: false,
            fact: fact.clone(),
        });
    }
    let found =
        correlator.flush(at(1_000_000)).into_iter().find_map(|correlated| match correlated {
            Correlated::Drop(drop) => Some(drop),
            _ => None,
        });
    found.expect("a drop")
}

fn outside() -> IpAddr {
    "203.0.113.5".parse().expect("an address")
}

fn external() -> IpAddr {
    "198.51.100.7".parse().expect("an address")
}

fn balancer() -> IpAddr {
    "198.51.100.8".parse().expect("an address")
}

fn service() -> Service {
    Service {
        namespace: "mart".into(),
        name: "web".into(),
        cluster_addresses: vec![address(CLUSTER)],
        external_addresses: vec![external()],
        balancers: vec![Balancer::Address(balancer())],
        selector: equals_labels(),
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

fn equals_labels() -> Labels {
    [("app".into(), "web".into())].into()
}

fn slice(behind: Behind) -> EndpointSlice {
    let endpoint = SliceEndpoint {
        is_ready: behind == Behind::Ready,
        is_serving: behind == Behind::Ready,
        node: Some("worker-2".into()),
        ..SliceEndpoint::ready(address(BACKEND))
    };
    EndpointSlice {
        namespace: "mart".into(),
        name: "web-1".into(),
        service: Some("web".into()),
        endpoints: if behind == Behind::Nothing { Vec::new() } else { vec![endpoint] },
        ports: vec![SlicePort { name: "".into(), port: 8080, protocol: Protocol::Tcp }],
    }
}

fn closed() -> Policy {
    ingress("mart", "closed", equals(&[("app", "web")]), Vec::new())
}

/// A policy over the client's egress.
fn egress(name: &str, rules: Vec<Rule>) -> Policy {
    let policy = ingress("mart", name, equals(&[("app", "ask")]), Vec::new());
    Policy { ingress: None, egress: Some(rules), ..policy }
}

fn to_web() -> Rule {
    rule(None, "mart", equals(&[("app", "web")]), &[8080])
}

#[track_caller]
fn is_kube_proxys(diagnosis: &Diagnosis, refusal: RefusalKind) {
    let cause = &diagnosis.cause;
    assert_eq!(cause.class, Class::NotPolicy, "{}", cause.text);
    let kube_proxy = cause.kube_proxy.as_ref().expect("kube-proxy's");
    assert_eq!(RefusalKind::from(kube_proxy.refusal()), refusal, "{}", cause.text);
    assert_eq!((cause.situation, cause.direction), (None, None), "{}", cause.text);
    assert!(cause.policy.is_none() && diagnosis.responsible().is_empty(), "{}", cause.text);
    assert!(cause.confidence > 0.8, "{} {:?}", cause.confidence, cause.reasons);
}

#[track_caller]
fn says(diagnosis: &Diagnosis, all: &[&str]) {
    let text = &diagnosis.cause.text;
    for one in all {
        assert!(text.contains(one), "{one:?} in {text:?}");
    }
}

#[test]
fn without_an_endpoint_it_is_rejected_and_named_as_dialled() {
    for (behind, seen) in [
        (Behind::Nothing, Seen::Rejected),
        (Behind::Unready, Seen::Rejected),
        // The kernel sends few rejections a second.
        (Behind::Unready, Seen::Silent),
    ] {
        let diagnosis = Scene::of(service(), behind).of_client(seen);
        is_kube_proxys(&diagnosis, RefusalKind::NoEndpoint);
        says(&diagnosis, &["Service mart/web has no ready endpoint", "kube-proxy rejects"]);
        // No packet ever had the pod's address.
        let question = diagnosis.question.to_string();
        assert_eq!(question, "mart/ask -> Service mart/web:80/TCP");
        assert_eq!(diagnosis.question.destination.address, Some(address(CLUSTER)));
    }
    // With one, it is on its way to it.
    let ready = Scene::of(service(), Behind::Ready).of_client(Seen::Silent);
    assert_eq!(ready.question.to_string(), "mart/ask -> mart/web-0:8080/TCP");
    assert!(ready.cause.kube_proxy.is_none(), "{}", ready.cause.text);
}

/// A pod's first seconds are no reason of what kube-proxy would do a day later as well.
#[test]
fn a_new_pods_interface_has_nothing_to_do_with_it() {
    let mut scene = Scene::of(service(), Behind::Unready);
    let interface =
        Interface { name: "cali1".into(), addresses: vec![address(CLIENT)], since: Some(at(2)) };
    scene.cluster.set_interface(7, Some(interface));
    let mut drop = dial(address(CLIENT), address(CLUSTER), 80, Seen::Rejected);
    drop.evidence.entered = Some(7);
    let snapshot = scene.cluster.snapshot();
    let diagnosis = diagnose(&snapshot, &case_of(&drop));
    is_kube_proxys(&diagnosis, RefusalKind::NoEndpoint);
    assert!(!diagnosis.cause.text.contains("CNI"), "{}", diagnosis.cause.text);
    // Of what kube-proxy does not refuse it is one.
    let mut drop = dial(address(CLIENT), address(99), 80, Seen::Silent);
    drop.evidence.entered = Some(7);
    let start = diagnose(&snapshot, &case_of(&drop)).cause;
    assert_eq!(start.situation.map(Situation::kind), Some(SituationKind::Start), "{}", start.text);
}

#[test]
fn what_backends_deny_is_said_besides_what_never_comes_to_them() {
    for seen in [Seen::Rejected, Seen::Silent] {
        let diagnosis = Scene::of(service(), Behind::Unready).with(closed()).of_client(seen);
        is_kube_proxys(&diagnosis, RefusalKind::NoEndpoint);
        let besides =
            "besides, policies would deny it: ingress denied by NetworkPolicy mart/closed";
        says(&diagnosis, &["has no ready endpoint", besides]);
        assert!(diagnosis.cause.kube_proxy.expect("it").is_all_denied());
    }
    // The same denial of what is sent on leads.
    let sent = Scene::of(service(), Behind::Ready).with(closed()).of_client(Seen::Silent);
    assert!(sent.cause.class.is_denial() && sent.cause.kube_proxy.is_none(), "{}", sent.cause.text);
}

/// Who is refused is told, or dropped here. What was neither went on, to an endpoint that was ready still.
#[test]
fn what_was_not_refused_here_is_the_backends() {
    let scene = Scene::of(service(), Behind::Unready).with(closed());
    let diagnosis = scene.of_client(Seen::Unanswered);
    assert_eq!(diagnosis.cause.class, Class::DefaultDeny, "{}", diagnosis.cause.text);
    says(&diagnosis, &["mart/closed", "besides, Service mart/web has no ready endpoint"]);
    // Where no policy denies it, kube-proxy is what is known.
    let open = Scene::of(service(), Behind::Unready).of_client(Seen::Unanswered);
    assert_eq!(open.cause.class, Class::NotPolicy);
    assert!(open.cause.kube_proxy.is_some(), "{}", open.cause.text);
}

#[test]
fn what_the_client_is_denied_leads_where_nobody_was_told() {
    let closed = || egress("out", Vec::new());
    for behind in [Behind::Nothing, Behind::Unready] {
        let diagnosis = Scene::of(service(), behind).with(closed()).of_client(Seen::Rejected);
        is_kube_proxys(&diagnosis, RefusalKind::NoEndpoint);
        says(&diagnosis, &["egress denied by NetworkPolicy mart/out"]);
    }
    let scene = Scene::of(service(), Behind::Unready).with(closed());
    let silent = scene.of_client(Seen::Silent);
    assert_eq!(silent.cause.class, Class::DefaultDeny, "{}", silent.cause.text);
    says(
        &silent,
        &["egress denied by NetworkPolicy mart/out", "besides, Service mart/web has no ready"],
    );
    assert!(silent.cause.kube_proxy.is_some());
    // What was rejected while it was silent on policies is not theirs, unless their engine rejects.
    let mut rejecting = scene;
    rejecting.cluster.give_engine(
        whydrop_core::cluster::profile::Engine::read("kube-router").expect("an engine"),
    );
    let diagnosis = rejecting.of_client(Seen::Rejected);
    assert!(diagnosis.cause.class.is_denial(), "{}", diagnosis.cause.text);
}

/// Selectors match no Service's address, so that a rule for the pods behind it does not admit what nothing
/// translates: that is no reason to change the policy.
#[test]
fn a_rule_for_what_is_behind_it_is_not_to_blame_for_what_is_not_translated() {
    let scene = Scene::of(service(), Behind::Unready).with(egress("out", vec![to_web()]));
    let diagnosis = scene.of_client(Seen::Silent);
    is_kube_proxys(&diagnosis, RefusalKind::NoEndpoint);
    says(
        &diagnosis,
        &["besides, policies deny what nothing translates, 10.1.0.200: egress denied by"],
    );
    let none = Scene::of(service(), Behind::Nothing).with(egress("out", vec![to_web()]));
    is_kube_proxys(&none.of_client(Seen::Silent), RefusalKind::NoEndpoint);
}

#[test]
fn what_keeps_traffic_on_a_node_drops_in_silence() {
    let internal = Service { internal_policy: TrafficPolicy::Local, ..service() };
    let scene = Scene::of(internal.clone(), Behind::Ready);
    let diagnosis = scene.of_client(Seen::Silent);
    is_kube_proxys(&diagnosis, RefusalKind::NoLocalEndpoint);
    says(&diagnosis, &["internalTrafficPolicy: Local", "node worker-1", "no policy denies it"]);
    let besides = Scene::of(internal, Behind::Ready).with(closed()).of_client(Seen::Silent);
    is_kube_proxys(&besides, RefusalKind::NoLocalEndpoint);
    says(&besides, &["besides, policies would deny it: ingress denied"]);
    // A client beside the endpoint gets through.
    let near = scene.says(address(2), address(CLUSTER), 80, Seen::Silent);
    assert!(near.cause.kube_proxy.is_none(), "{}", near.cause.text);
}

#[test]
fn from_outside_a_nodes_port_without_an_endpoint_there_is_named_as_it_stands() {
    let external = Service { external_policy: TrafficPolicy::Local, ..service() };
    let scene = Scene::of(external, Behind::Ready).with(closed());
    let diagnosis = scene.says(outside(), address(1), 30080, Seen::Silent);
    is_kube_proxys(&diagnosis, RefusalKind::NoLocalEndpoint);
    says(
        &diagnosis,
        &["externalTrafficPolicy: Local", "node worker-1", "besides, policies would deny"],
    );
    assert_eq!(diagnosis.question.to_string(), "203.0.113.5 -> node worker-1:30080/TCP");
    let dialled = diagnosis.service.expect("it was dialled");
    assert_eq!((&*dialled.service.name, dialled.port), ("web", 30080));
    // The node that has one sends it on, and policies see it.
    let other = scene.says(outside(), address(2), 30080, Seen::Silent);
    assert!(
        other.cause.class.is_denial() && other.cause.kube_proxy.is_none(),
        "{}",
        other.cause.text
    );
}

#[test]
fn source_ranges_are_kube_proxys_own_fence() {
    let ranges = vec!["192.0.2.0/24".parse().expect("a network")];
    let fenced = Service { source_ranges: ranges, ..service() };
    // Where nothing is behind it as well, it depends on kube-proxy's mode which of the two it is.
    for (behind, refusal) in
        [(Behind::Ready, RefusalKind::SourceRanges), (Behind::Nothing, RefusalKind::NoEndpoint)]
    {
        let scene = Scene::of(fenced.clone(), behind);
        let diagnosis = scene.says(outside(), balancer(), 80, Seen::Silent);
        is_kube_proxys(&diagnosis, refusal);
        let text = &diagnosis.cause.text;
        assert!(text.contains("192.0.2.0/24") && text.contains("SourceRanges"), "{text}");
        let reasons = &diagnosis.cause.reasons;
        assert!(reasons.iter().all(|reason| !reason.contains("no rejection")), "{reasons:?}");
    }
    let scene = Scene::of(fenced, Behind::Ready);
    for other in [external(), address(CLUSTER)] {
        let passes = scene.says(address(CLIENT), other, 80, Seen::Silent);
        assert!(passes.cause.kube_proxy.is_none(), "{other}: {}", passes.cause.text);
    }
}

#[test]
fn every_way_to_a_service_without_an_endpoint_is_named() {
    let scene = Scene::of(service(), Behind::Nothing);
    for (from, to, port) in [
        (address(CLIENT), external(), 80),
        (address(CLIENT), balancer(), 80),
        (address(CLIENT), address(1), 30080),
        (outside(), external(), 80),
        (outside(), balancer(), 80),
        (outside(), address(2), 30080),
    ] {
        let diagnosis = scene.says(from, to, port, Seen::Rejected);
        is_kube_proxys(&diagnosis, RefusalKind::NoEndpoint);
        assert_eq!(diagnosis.service.map(|dialled| dialled.address), Some(to));
    }
}

/// What the kernel says by itself is why, whatever the objects say.
#[test]
fn the_kernels_own_reason_comes_first() {
    let scene = Scene::of(service(), Behind::Nothing);
    let diagnosis = scene.of_client(Seen::NoNeighbour);
    assert!(diagnosis.cause.kube_proxy.is_none(), "{}", diagnosis.cause.text);
    says(&diagnosis, &["next hop"]);
}

/// A Service whose endpoints were gone for a moment: its clients were rejected, and no policy does that.
#[test]
fn what_was_rejected_before_it_was_translated_is_no_policys() {
    let scene = Scene::of(service(), Behind::Ready).with(closed());
    let diagnosis = scene.of_client(Seen::Rejected);
    is_kube_proxys(&diagnosis, RefusalKind::NoEndpoint);
    says(
        &diagnosis,
        &["rejected before it was translated", "has one by now", "besides, policies would"],
    );
    // A backend that says no after it was translated is another matter.
    let mut drop = dial(address(CLIENT), address(BACKEND), 8080, Seen::Rejected);
    drop.dialled = Some((address(CLUSTER), 80));
    let other = diagnose(&scene.cluster.snapshot(), &case_of(&drop));
    assert!(other.cause.class.is_denial(), "{}", other.cause.text);
}

#[test]
fn a_named_port_that_no_pod_has_is_named() {
    let mut named = service();
    named.ports[0].target = TargetPort::Named("http".into());
    let mut scene = Scene::of(named, Behind::Ready);
    // So the endpoint slice controller writes it.
    let without = EndpointSlice { ports: Vec::new(), ..slice(Behind::Ready) };
    scene.cluster.apply(Object::EndpointSlice(without), None);
    let diagnosis = scene.of_client(Seen::Rejected);
    is_kube_proxys(&diagnosis, RefusalKind::NoPortOfName);
    let plan = plan_of(&scene, &refused_client());
    assert!(plan[0].contains("name a port of the pods"), "{plan:?}");
    assert!(plan[0].contains("without it are mart/web-0"), "{plan:?}");
}

/// The client that dials the cluster address, and is rejected.
fn refused_client() -> Drop {
    dial(address(CLIENT), address(CLUSTER), 80, Seen::Rejected)
}

/// The steps of the incident that a drop opens.
fn steps_of(scene: &Scene, drop: &Drop) -> Vec<Step> {
    let snapshot = scene.cluster.snapshot();
    let judgement = judge(&snapshot, scene.cluster.history(), &case_of(drop));
    let judged = JudgedDrop::new(drop.clone(), judgement, None);
    let mut book = IncidentBook::default();
    let now = drop.evidence.last() + SignedDuration::from_secs(1);
    book.add(&judged, now);
    let mut changes = book.tick(&snapshot, now + SignedDuration::from_secs(5));
    changes.remove(0).incident.plan
}

fn plan_of(scene: &Scene, drop: &Drop) -> Vec<String> {
    steps_of(scene, drop).iter().map(ToString::to_string).collect()
}

#[test]
fn the_plan_begins_with_the_endpoints_and_a_policy_comes_after() {
    let none = Scene::of(service(), Behind::Nothing);
    let plan = plan_of(&none, &refused_client());
    assert!(plan[0].contains("it selects app=web, and no pod"), "{plan:?}");

    let unready = Scene::of(service(), Behind::Unready).with(closed());
    let steps = steps_of(&unready, &refused_client());
    let plan: Vec<String> = steps.iter().map(ToString::to_string).collect();
    assert!(
        plan[0].contains("none of the 1 endpoints") && plan[0].contains("mart/web-0"),
        "{plan:?}"
    );
    assert!(
        matches!(&steps[1], Step::AwaitReady { pods, .. } if pods == &["mart/web-0"]),
        "{plan:?}"
    );
    let Step::Apply(remedy) = &steps[2] else { panic!("{plan:?}") };
    assert!(remedy.is_for_later, "{}", remedy.summary);
    assert!(
        remedy.summary.starts_with("once kube-proxy sends it, allow mart/ask to reach mart/web-0")
    );

    let local = Service { internal_policy: TrafficPolicy::Local, ..service() };
    let local = Scene::of(local, Behind::Ready);
    let drop = dial(address(CLIENT), address(CLUSTER), 80, Seen::Silent);
    let plan = plan_of(&local, &drop);
    assert!(plan[0].contains("on node worker-1, or set its internalTrafficPolicy"), "{plan:?}");
    assert!(plan[0].contains("there is one on node worker-2"), "{plan:?}");

    let ranges = vec!["192.0.2.0/24".parse().expect("a network")];
    let fenced = Scene::of(Service { source_ranges: ranges, ..service() }, Behind::Ready);
    let plan = plan_of(&fenced, &dial(outside(), balancer(), 80, Seen::Silent));
    assert!(plan[0].contains("add 203.0.113.5 to its loadBalancerSourceRanges"), "{plan:?}");
}

/// Where a policy leads, what kube-proxy does besides is a step after it.
#[test]
fn what_kube_proxy_does_besides_is_a_step_after_the_remedy() {
    let scene = Scene::of(service(), Behind::Unready).with(egress("out", Vec::new()));
    let drop = dial(address(CLIENT), address(CLUSTER), 80, Seen::Silent);
    let steps = steps_of(&scene, &drop);
    assert!(matches!(&steps[0], Step::Apply(remedy) if remedy.is_for_later), "{steps:?}");
    let Step::LookElsewhere(next) = &steps[1] else { panic!("{steps:?}") };
    assert!(next.contains("endpoints of Service mart/web"), "{next}");
}

/// `10.1.0.200/32` is what the client dials, and not what policies are asked about.
#[test]
fn a_rule_that_names_the_services_address_is_pointed_at() {
    let named = |network: &str| {
        let block = Block { network: network.parse().expect("a network"), except: Vec::new() };
        Rule::new(
            whydrop_core::policy::Action::Allow,
            Peers::AnyOf(vec![Peer::Block(block)]),
            Vec::new(),
        )
    };
    let of = |network: &str, engine: &str| {
        let mut scene =
            Scene::of(service(), Behind::Ready).with(egress("out", vec![named(network)]));
        let engine = whydrop_core::cluster::profile::Engine::read(engine).expect("an engine");
        scene.cluster.give_engine(engine);
        scene.of_client(Seen::Silent).cause
    };
    let cause = of("10.1.0.200/32", "calico");
    let hint =
        "mart/out rule 0 names 10.1.0.200, which is Service mart/web's: policies are asked after";
    assert!(cause.class.is_denial() && cause.text.contains(hint), "{}", cause.text);
    // A rule for something else, and an engine that asks before.
    assert!(!of("10.1.0.201/32", "calico").text.contains("names"));
    assert!(!of("10.1.0.200/32", "aws-vpc-cni").text.contains("names"));
}
