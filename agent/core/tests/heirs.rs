//! Who held an address at a time, where one pod after the other had it.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use whydrop_core::{
    cluster::{
        Cluster, Interface,
        object::{Key, Kind, Object},
    },
    correlate::{Correlated, Correlator},
    diagnosis::{Case, Fate},
    flow::{Flow, Protocol},
    judgement::judge,
    kinds,
    observation::{DropReason, Fact, Observation, Sender},
};

const START: i64 = 1_767_323_045;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START).expect("a time") + SignedDuration::from_secs(seconds)
}

fn pod(cluster: &mut Cluster, name: &str, uid: &str, app: &str, seconds: i64) {
    cluster.apply(object(name, uid, app, seconds), Some(at(seconds)));
}

/// That has the address since then.
fn object(name: &str, uid: &str, app: &str, seconds: i64) -> Object {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "shop", "uid": uid, "labels": { "app": app },
            "creationTimestamp": at(seconds).to_string(),
        },
        "spec": { "nodeName": "worker", "containers": [] },
        "status": { "podIPs": [{ "ip": "10.244.2.8" }] },
    });
    let row = kinds::named("v1", "Pod").expect("a kind");
    row.decode(object, "v1").expect("a pod").expect("a pod")
}

fn key(name: &str) -> Key {
    Key { kind: Kind::Pod, namespace: Some("shop".into()), name: name.into() }
}

fn delete(cluster: &mut Cluster, name: &str, seconds: i64) {
    cluster.delete(&key(name), at(seconds));
}

#[test]
fn a_name_that_returns_gives_nobody_the_address_of_another() {
    let address: IpAddr = "10.244.2.8".parse().expect("an address");
    let mut cluster = Cluster::default();
    cluster.history_begins(at(0));
    pod(&mut cluster, "one", "a", "web", 10);
    delete(&mut cluster, "one", 20);
    pod(&mut cluster, "two", "b", "web", 30);
    delete(&mut cluster, "two", 40);
    pod(&mut cluster, "one", "c", "db", 50);
    delete(&mut cluster, "one", 60);
    pod(&mut cluster, "two", "d", "db", 70);
    let held = |now: i64, then: i64| {
        let past = cluster.history().past(&cluster.snapshot(), at(now)).snapshot;
        let holder = past.resolve(address, Some(at(then)));
        holder.pod().and_then(|pod| pod.uid.as_deref().map(str::to_owned))
    };
    for (then, uid) in [(15, "a"), (35, "b"), (55, "c"), (75, "d")] {
        for now in (then..=80).step_by(5) {
            assert_eq!(held(now, then).as_deref(), Some(uid), "at {then}, as known at {now}");
        }
    }
}

#[test]
fn a_pod_whose_end_was_not_seen_is_gone_where_another_has_its_name() {
    let address: IpAddr = "10.244.2.8".parse().expect("an address");
    let mut cluster = Cluster::default();
    for (name, uid, since, found) in
        [("one", "a", 10, 15), ("two", "b", 30, 35), ("one", "c", 50, 55)]
    {
        cluster.apply_found(object(name, uid, "web", since), at(found));
    }
    delete(&mut cluster, "two", 55);
    for (then, uid) in [(14, "a"), (34, "b"), (60, "c")] {
        let holder = cluster.snapshot().resolve(address, Some(at(then)));
        assert_eq!(holder.pod().and_then(|pod| pod.uid.as_deref()), Some(uid), "at {then}");
    }
}

/// Between when one was last looked up and when the next began, others may have had the address.
#[test]
fn nobody_is_known_to_have_had_an_address_when_nobody_was_looked_up() {
    let address: IpAddr = "10.244.2.8".parse().expect("an address");
    for name in ["one", "two"] {
        let mut cluster = Cluster::default();
        for (name, uid, since, found) in [("one", "a", 10, 15), (name, "b", 50, 55)] {
            cluster.apply_found(object(name, uid, "web", since), at(found));
        }
        for (then, uid) in [(12, Some("a")), (15, Some("a")), (30, None), (52, Some("b"))] {
            let holder = cluster.snapshot().resolve(address, Some(at(then)));
            assert_eq!(holder.pod().and_then(|pod| pod.uid.as_deref()), uid, "at {then}");
        }
    }
}

/// What a look-up finds otherwise than another did was as the other found it until then.
#[test]
fn a_service_that_is_found_changed_was_otherwise_when_it_was_found_before() {
    let service = |port: u16| {
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "clusterIP": "10.96.0.9", "ports": [{ "port": port }] },
        });
        let row = kinds::named("v1", "Service").expect("a kind");
        row.decode(object, "v1").expect("a Service").expect("a Service")
    };
    let mut cluster = Cluster::default();
    cluster.history_begins(at(0));
    for (found, port) in [(10, 80), (20, 80), (30, 81)] {
        cluster.apply_found(service(port), at(found));
    }
    for (then, port) in [(15, 80), (20, 80), (25, 81), (30, 81)] {
        let past = cluster.history().past(&cluster.snapshot(), at(then)).snapshot;
        let service = past.service("shop", "web").expect("a Service");
        assert_eq!(service.ports[0].port, port, "at {then}");
    }
}

/// When one went that is not followed was not seen: from when it was last found nobody is known to have had
/// its address, and that it ended then explains nothing.
#[test]
fn one_that_a_look_up_finds_no_more_may_have_gone_since_it_was_last_found() {
    let address: IpAddr = "10.244.2.8".parse().expect("an address");
    let mut cluster = Cluster::default();
    cluster.history_begins(at(0));
    cluster.apply_found(object("one", "a", "web", 10), at(15));
    cluster.delete_found(&key("one"), at(60));
    for (then, uid) in [(12, Some("a")), (15, Some("a")), (18, None), (59, None)] {
        let holder = cluster.snapshot().resolve(address, Some(at(then)));
        assert_eq!(holder.pod().and_then(|pod| pod.uid.as_deref()), uid, "at {then}");
    }
    assert_eq!(cluster.snapshot().formerly_at(address, at(30)), None);
}

/// The API server's clock may be ahead by seconds; that a pod of this node has an interface is known by the
/// node's own.
#[test]
fn a_pod_of_this_node_has_no_address_before_it_has_an_interface() {
    let address: IpAddr = "10.244.2.8".parse().expect("an address");
    let mut cluster = Cluster::default();
    pod(&mut cluster, "one", "a", "web", 10);
    let holder = |cluster: &Cluster, then| {
        let holder = cluster.snapshot().resolve(address, Some(at(then)));
        holder.pod().map(|pod| pod.name.to_string())
    };
    assert_eq!(holder(&cluster, 7).as_deref(), Some("one"));
    let addresses = vec![address];
    let interface = Interface { name: "veth1".into(), addresses, since: Some(at(9)) };
    cluster.set_interface(5, Some(interface));
    assert_eq!(holder(&cluster, 7), None);
    assert_eq!(holder(&cluster, 8).as_deref(), Some("one"));
}

/// What is behind a Service is who held the endpoints' addresses when a packet was sent there.
#[test]
fn a_backend_is_who_had_its_address_then() {
    let read = |kind: &str, version: &str, object: serde_json::Value| {
        let row = kinds::named(version, kind).expect("a kind");
        let version = version.rsplit('/').next().expect("a version");
        row.decode(object, version).expect("an object").expect("an object")
    };
    let mut cluster = Cluster::default();
    cluster.history_begins(at(0));
    let service = json!({
        "metadata": { "name": "web", "namespace": "shop" },
        "spec": { "clusterIP": "10.96.0.9", "ports": [{ "port": 80 }] },
    });
    let slice = json!({
        "metadata": {
            "name": "web-1", "namespace": "shop", "labels": { "kubernetes.io/service-name": "web" },
        },
        "addressType": "IPv4",
        "ports": [{ "port": 80 }],
        "endpoints": [{ "addresses": ["10.244.2.8"], "conditions": { "ready": true } }],
    });
    let policy = json!({
        "metadata": { "name": "db", "namespace": "shop", "creationTimestamp": at(5).to_string() },
        "spec": { "podSelector": { "matchLabels": { "app": "db" } }, "policyTypes": ["Ingress"] },
    });
    cluster.apply(read("Service", "v1", service), None);
    cluster.apply(read("EndpointSlice", "discovery.k8s.io/v1", slice), None);
    cluster.apply(read("NetworkPolicy", "networking.k8s.io/v1", policy), None);
    pod(&mut cluster, "one", "a", "web", 10);
    delete(&mut cluster, "one", 40);
    pod(&mut cluster, "two", "b", "db", 50);

    let flow = Flow {
        source: "192.0.2.1".parse().expect("an address"),
        destination: "10.96.0.9".parse().expect("an address"),
        port: 80,
        protocol: Protocol::Tcp,
    };
    for (then, is_denied) in [(30, false), (60, true)] {
        let mut correlator = Correlator::default();
        correlator.observe(&Observation {
            at: at(then),
            first: at(then),
            attempt: None,
            packets: 1,
            flow,
            dialled: None,
            sender: Sender::default(),
            entered: None,
            delivered: false,
            fact: Fact::KernelDrop {
                reason: DropReason { number: 12, name: "NETFILTER_DROP".into() },
                location: None,
                interface: 5,
            },
        });
        let mut clear = correlator.tick(at(then + 5)).into_iter();
        let Some(Correlated::Drop(drop)) = clear.next() else { panic!("no drop at {then}") };
        let fate = Fate::Dropped(&drop.evidence);
        let case = Case { flow, dialled: None, at: Some(drop.evidence.last()), fate };
        let judged = judge(&cluster.snapshot(), cluster.history(), &case);
        assert_eq!(judged.diagnosis.cause.class.is_denial(), is_denied, "at {then}");
    }
}
