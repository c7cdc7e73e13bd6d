//! Who held an address when, what a namespace that nobody listed says, and how few policies an
//! explanation looks at.

use jiff::Timestamp;
use serde_json::json;
use whydrop_core::{
    cluster::{
        Cluster, Snapshot,
        look_up::{LookUp, Query},
        object::{EndpointSlice, Key, Kind, Object, Pod, Service, SliceEndpoint},
        resolve::Holder,
    },
    diagnosis::{Case, diagnose, to_look_up},
    flow::Protocol,
    kinds,
    policy::{
        Action, NAMESPACE_NAME_LABEL, Namespaces, Peer, Peers, PodPeer, Policy, PolicyKind, Rule,
        selector::Selector,
    },
    verdict::{Decision, Question, evaluate},
};

use crate::build::{self, address, at, equals, ingress, labels, namespace, pod, pod_key};

fn key(pod: &Pod) -> Key {
    pod_key(&pod.namespace, &pod.name)
}

fn holder(snapshot: &Snapshot, last: u8, time: Option<Timestamp>) -> String {
    snapshot.resolve(address(last), time).to_string()
}

#[test]
fn a_pod_that_has_gone_still_holds_what_it_held_then() {
    let mut cluster = Cluster::default();
    let gone = pod("shop", "api-1", 20, &[]);
    cluster.apply(Object::Pod(gone.clone()), None);
    cluster.delete(&key(&gone), at(100));
    let snapshot = cluster.snapshot();
    assert_eq!(holder(&snapshot, 20, Some(at(90))), "shop/api-1");
    assert_eq!(holder(&snapshot, 20, Some(at(103))), "shop/api-1", "the watch may be late");
    assert_eq!(snapshot.resolve(address(20), Some(at(200))).holder, Holder::Outside);
    assert_eq!(snapshot.resolve(address(20), None).holder, Holder::Outside);
}

#[test]
fn a_reused_address_is_whose_it_was_then() {
    let mut cluster = Cluster::default();
    let first = pod("shop", "api-1", 20, &[]);
    cluster.apply(Object::Pod(first.clone()), None);
    cluster.delete(&key(&first), at(100));
    cluster.apply(Object::Pod(pod("ci", "job-7", 20, &[])), Some(at(160)));
    let snapshot = cluster.snapshot();
    assert_eq!(holder(&snapshot, 20, Some(at(50))), "shop/api-1");
    assert_eq!(holder(&snapshot, 20, Some(at(170))), "ci/job-7");
    assert_eq!(holder(&snapshot, 20, None), "ci/job-7");
}

#[test]
fn the_newer_of_two_pods_that_claim_an_address_holds_it() {
    let mut cluster = Cluster::default();
    cluster.apply(Object::Pod(pod("shop", "api-1", 20, &[])), None);
    cluster.apply(Object::Pod(pod("ci", "job-7", 20, &[])), Some(at(160)));
    assert_eq!(holder(&cluster.snapshot(), 20, Some(at(170))), "ci/job-7");
}

#[test]
fn two_pods_that_claim_an_address_alike_are_reported_and_not_guessed() {
    let mut cluster = Cluster::default();
    cluster.apply(Object::Pod(pod("shop", "api-1", 20, &[])), None);
    cluster.apply(Object::Pod(pod("ci", "job-7", 20, &[])), None);
    let Holder::Unknown(why) = cluster.snapshot().resolve(address(20), None).holder else {
        panic!("one of them was taken");
    };
    assert!(why.contains("shop/api-1") && why.contains("ci/job-7"), "{why}");
}

#[test]
fn a_pod_of_the_host_network_is_its_node() {
    let mut cluster = Cluster::default();
    let host = Pod { host_network: true, ..pod("kube-system", "proxy", 1, &[]) };
    cluster.apply(Object::Pod(host), None);
    let resolved = cluster.snapshot().resolve(address(1), None);
    assert!(matches!(&resolved.holder, Holder::Node(node) if &*node.name == "worker-1"));
}

#[test]
fn former_holders_of_an_address_are_bounded() {
    let mut cluster = Cluster::default();
    for n in 0..100 {
        let each = pod("ci", &format!("job-{n}"), 20, &[]);
        cluster.apply(Object::Pod(each.clone()), Some(at(n)));
        cluster.delete(&key(&each), at(n));
    }
    assert!(cluster.snapshot().holdings(address(20)).len() <= 4);
}

/// A policy that lets these peers in, on every port.
fn policy(namespace: &str, name: &str, selects: Selector, peers: Peers) -> Policy {
    ingress(namespace, name, selects, vec![Rule::new(Action::Allow, peers, Vec::new())])
}

fn ask(snapshot: &Snapshot, from: u8, to: u8) -> Question {
    let (source, destination) =
        (snapshot.resolve(address(from), None), snapshot.resolve(address(to), None));
    Question::new(source, destination, 8080, Protocol::Tcp)
}

/// A backend that admits the namespaces with a label, and a client in a namespace of which there
/// is no object.
fn unlisted_namespace(label: &str, value: &str) -> Snapshot {
    let mut cluster = Cluster::default();
    cluster.apply(namespace("backend", &[]), None);
    cluster.apply(Object::Pod(pod("frontend", "pod-a", 10, &[])), None);
    cluster.apply(Object::Pod(pod("backend", "pod-b", 20, &[])), None);
    let namespaces = Namespaces::Selected(equals(&[(label, value)]));
    let peers = Peers::AnyOf(vec![Peer::Pods(PodPeer::new(namespaces, Selector::EVERYTHING))]);
    let policy = policy("backend", "allow-web", Selector::EVERYTHING, peers);
    cluster.apply(Object::Policy(policy), None);
    cluster.snapshot()
}

#[test]
fn labels_of_a_namespace_that_is_not_listed_are_not_known() {
    let snapshot = unlisted_namespace("name", "frontend");
    let verdict = evaluate(&snapshot, &ask(&snapshot, 10, 20));
    assert_eq!(verdict.ingress.decision, Decision::Unknown);
    assert!(verdict.ingress.unknown[0].contains("namespace frontend"), "{verdict:?}");
}

#[test]
fn the_name_of_a_namespace_that_is_not_listed_is_known() {
    let admits = unlisted_namespace(NAMESPACE_NAME_LABEL, "frontend");
    let verdict = evaluate(&admits, &ask(&admits, 10, 20));
    assert_eq!(verdict.ingress.decision, Decision::Allowed);
    let denies = unlisted_namespace(NAMESPACE_NAME_LABEL, "monitoring");
    let verdict = evaluate(&denies, &ask(&denies, 10, 20));
    assert_eq!(verdict.ingress.decision, Decision::Denied);
}

#[test]
fn nothing_is_judged_before_a_kind_is_synced() {
    let mut cluster = Cluster::unsynced([Kind::Policy(PolicyKind::NetworkPolicy)]);
    cluster.apply(Object::Pod(pod("frontend", "pod-a", 10, &[])), None);
    cluster.apply(Object::Pod(pod("backend", "pod-b", 20, &[])), None);
    let before = cluster.snapshot();
    assert_eq!(evaluate(&before, &ask(&before, 10, 20)).decision(), Decision::Unknown);
    cluster.synced(Kind::Policy(PolicyKind::NetworkPolicy));
    let after = cluster.snapshot();
    assert_eq!(evaluate(&after, &ask(&after, 10, 20)).decision(), Decision::NotIsolated);
}

fn case(source: u8, destination: u8) -> Case<'static> {
    let case = build::case(address(source), address(destination), 8080);
    Case { at: Some(at(0)), ..case }
}

#[test]
fn an_address_is_outside_only_once_it_was_looked_up() {
    let mut cluster = Cluster::default();
    cluster.look_up_on_demand();
    cluster.apply(Object::Pod(pod("frontend", "pod-a", 10, &[])), None);
    let holds = |cluster: &Cluster| cluster.snapshot().resolve(address(20), Some(at(0))).holder;
    let missing = |cluster: &Cluster, now| to_look_up(&cluster.snapshot(), &case(10, 20), now);

    assert!(matches!(holds(&cluster), Holder::Unknown(_)), "nobody has looked");
    assert_eq!(
        missing(&cluster, at(0)),
        [Query::from(address(20))],
        "who is followed is not looked up"
    );
    let failed = Some("forbidden".into());
    cluster.looked_up(address(20), LookUp { at: at(0), failed, scale: None });
    assert!(matches!(holds(&cluster), Holder::Unknown(why) if why.contains("forbidden")));
    assert!(missing(&cluster, at(1)).is_empty(), "it is not asked for again at once");
    assert_eq!(missing(&cluster, at(6)), [Query::from(address(20))]);
    cluster.looked_up(address(20), LookUp { at: at(6), failed: None, scale: None });
    assert_eq!(holds(&cluster), Holder::Outside);
    assert!(missing(&cluster, at(30)).is_empty());
    assert_eq!(
        missing(&cluster, at(60)),
        [Query::from(address(20))],
        "what was so need not be so any more"
    );
}

#[test]
fn an_end_is_looked_up_as_it_was_when_the_flow_was_dropped() {
    let mut cluster = Cluster::default();
    cluster.look_up_on_demand();
    cluster.apply(Object::Pod(pod("frontend", "pod-a", 10, &[])), None);
    cluster.looked_up(address(20), LookUp { at: at(10), failed: None, scale: None });
    let missing = |second| {
        let case = Case { at: Some(at(second)), ..case(10, 20) };
        to_look_up(&cluster.snapshot(), &case, at(14))
    };
    assert!(missing(9).is_empty());
    assert!(missing(11).is_empty(), "a burst is one moment");
    assert_eq!(missing(13), [Query::from(address(20))], "its labels may be others since");
}

#[test]
fn an_address_that_somebody_got_later_was_nobodys_that_is_known() {
    let mut cluster = Cluster::default();
    cluster.look_up_on_demand();
    let created = Some(at(100));
    let heir = Pod { created, ..pod("backend", "heir", 20, &[]) };
    cluster.apply(Object::Pod(heir), None);
    cluster.looked_up(address(20), LookUp { at: at(101), failed: None, scale: None });
    let snapshot = cluster.snapshot();
    assert_eq!(holder(&snapshot, 20, Some(at(110))), "backend/heir");
    let then = snapshot.resolve(address(20), Some(at(0))).holder;
    assert!(matches!(then, Holder::Unknown(why) if why.contains("backend/heir")));
}

/// Of an address that changes hands: who held it at that very time comes before who is near it, and of
/// those who had it just before.
#[test]
fn an_address_is_resolved_to_who_held_it_then() {
    let mut cluster = Cluster::default();
    let one = |name: &str, uid: &str, created| Pod {
        uid: Some(uid.into()),
        created: Some(at(created)),
        ..pod("backend", name, 20, &[])
    };
    cluster.apply(Object::Pod(one("old", "a", -600)), None);
    cluster.delete(&pod_key("backend", "old"), at(100));
    cluster.apply(Object::Pod(one("new", "b", 102)), Some(at(104)));
    let snapshot = cluster.snapshot();
    let held: Vec<_> = [90, 100, 101, 102, 103, 110, 1_000]
        .map(|then| holder(&snapshot, 20, Some(at(then))))
        .into_iter()
        .collect();
    // A pod that was made in a second may have been made at its end.
    let (old, new) = ("backend/old", "backend/new");
    assert_eq!(held, [old, old, old, old, new, new, new]);
    // Where nobody had it before, a clock may be behind.
    let mut cluster = Cluster::default();
    cluster.apply(Object::Pod(one("new", "b", 102)), Some(at(104)));
    let snapshot = cluster.snapshot();
    assert_eq!(holder(&snapshot, 20, Some(at(99))), new);
    // It is there no later than it is seen, whatever the API server's clock says.
    let mut cluster = Cluster::default();
    cluster.apply(Object::Pod(one("old", "a", -600)), None);
    cluster.delete(&pod_key("backend", "old"), at(100));
    cluster.apply(Object::Pod(one("new", "b", 120)), Some(at(101)));
    assert_eq!(holder(&cluster.snapshot(), 20, Some(at(101))), new);
}

#[test]
fn what_is_forgotten_is_not_said_to_be_gone() {
    let key = pod_key("backend", "db");
    for (is_forgotten, ended) in [(false, Some(Some(at(50)))), (true, None)] {
        let mut cluster = Cluster::default();
        cluster.apply(Object::Pod(pod("backend", "db", 20, &[])), None);
        match is_forgotten {
            true => cluster.forget(&key, at(50)),
            false => cluster.delete(&key, at(50)),
        }
        let snapshot = cluster.snapshot();
        assert_eq!(snapshot.formerly_at(address(20), at(60)).map(|ended| ended.gone), ended);
    }
}

#[test]
fn the_backends_of_a_service_are_looked_up_as_well() {
    let mut cluster = Cluster::default();
    cluster.look_up_on_demand();
    cluster.apply(Object::Pod(pod("frontend", "pod-a", 10, &[])), None);
    cluster.apply(
        Object::Service(Service {
            namespace: "backend".into(),
            name: "api".into(),
            cluster_addresses: vec![address(96)],
            ..Service::default()
        }),
        None,
    );
    cluster.apply(
        Object::EndpointSlice(EndpointSlice {
            namespace: "backend".into(),
            name: "api-1".into(),
            service: Some("api".into()),
            endpoints: vec![SliceEndpoint::ready(address(20))],
            ports: Vec::new(),
        }),
        None,
    );
    cluster.looked_up(address(96), LookUp { at: at(0), failed: None, scale: None });
    assert_eq!(to_look_up(&cluster.snapshot(), &case(10, 96), at(1)), [Query::from(address(20))]);
}

#[test]
fn what_is_known_of_old_weighs_less_and_says_how_old_it_is() {
    let mut cluster = Cluster::default();
    cluster.apply(Object::Pod(pod("frontend", "pod-a", 10, &[])), None);
    cluster.apply(Object::Pod(pod("backend", "pod-b", 20, &[])), None);
    let of = |cluster: &Cluster, time| {
        let case = Case { at: Some(time), ..case(10, 20) };
        diagnose(&cluster.snapshot(), &case).cause
    };
    let fresh = of(&cluster, at(60));
    cluster.failing(Kind::Policy(PolicyKind::NetworkPolicy), at(0), "connection refused");
    let stale = of(&cluster, at(60));
    assert!(stale.confidence < fresh.confidence);
    assert!(stale.reasons.iter().any(|reason| reason.contains("60 s before")), "{stale:?}");
    cluster.synced(Kind::Policy(PolicyKind::NetworkPolicy));
    assert_eq!(of(&cluster, at(60)).reasons, fresh.reasons);
}

#[test]
fn a_policy_of_a_kind_that_cannot_be_read_leaves_the_verdict_open() {
    let mut cluster = Cluster::default();
    cluster.apply(Object::Pod(pod("frontend", "pod-a", 10, &[])), None);
    cluster.apply(Object::Pod(pod("backend", "pod-b", 20, &[])), None);
    let object = json!({ "metadata": { "namespace": "backend", "name": "l7" } });
    let unread = kinds::unread("cilium.io/v2", "CiliumNetworkPolicy", &object).expect("unread");
    cluster.set_unread([unread.into()]);
    let snapshot = cluster.snapshot();
    let verdict = evaluate(&snapshot, &ask(&snapshot, 10, 20));
    assert_eq!(verdict.decision(), Decision::Unknown);
    assert_eq!(*verdict.ingress.unknown, ["CiliumNetworkPolicy backend/l7 may decide".into()]);
    assert_eq!(verdict.egress.decision, Decision::NotIsolated);
}

/// A thousand namespaces of ten policies each, and ten thousand more in the pod's own that select
/// other pods.
#[test]
fn explaining_a_flow_does_not_look_at_all_policies_of_the_cluster() {
    let mut cluster = Cluster::default();
    let app = |name: &str| equals(&[("app", name)]);
    for n in 0..1_000 {
        for m in 0..10 {
            let elsewhere =
                policy(&format!("ns-{n}"), &format!("p-{m}"), app("api"), Peers::Everyone);
            cluster.apply(Object::Policy(elsewhere), None);
        }
    }
    for n in 0..10_000 {
        let other =
            policy("backend", &format!("other-{n}"), app(&format!("app-{n}")), Peers::Everyone);
        cluster.apply(Object::Policy(other), None);
    }
    let own = policy("backend", "api", app("api"), Peers::Everyone);
    cluster.apply(Object::Policy(own), None);
    let deny = policy("backend", "default-deny", Selector::EVERYTHING, Peers::Everyone);
    cluster.apply(Object::Policy(deny), None);
    let snapshot = cluster.snapshot();
    assert_eq!(snapshot.policies().len(), 20_002);
    let labels = labels(&[("app", "api"), ("tier", "back")]);
    let candidates = snapshot.policies().candidates(&"backend".into(), &labels, Some(&labels));
    assert_eq!(candidates.len(), 2, "{candidates:?}");
}
