//! What changed of a Service, and of what is behind it.

use whydrop_core::{
    cluster::{
        Cluster,
        history::ChangeKind,
        look_up::{LookUp, Query},
        object::{EndpointSlice, Key, Kind, Object, Pod, Service},
    },
    diagnosis::{diagnose, to_look_up},
    judgement::judge,
    service::{Refusal, RefusalKind},
};

use super::{
    Behind, CLIENT, CLUSTER, Scene, Seen, dial, egress, is_kube_proxys, refused_client, says,
    service, slice,
};
use crate::build::{address, at, case_of, dropped, namespace, pod, pod_key, policy_key};

#[test]
fn a_service_that_is_deleted_under_traffic_is_named_with_when() {
    let mut scene = Scene::of(service(), Behind::Ready);
    scene.cluster.history_begins(at(-60));
    let gone = |kind, name: &str| Key { kind, namespace: Some("mart".into()), name: name.into() };
    // Before that it was there: what was dropped then had another reason.
    scene.cluster.delete(&gone(Kind::Service, "web"), at(4));
    scene.cluster.delete(&gone(Kind::EndpointSlice, "web-1"), at(4));
    let drop = dial(address(CLIENT), address(CLUSTER), 80, Seen::Silent);
    let snapshot = scene.cluster.snapshot();
    let judgement = judge(&snapshot, scene.cluster.history(), &case_of(&drop));
    let diagnosis = &judgement.diagnosis;
    is_kube_proxys(diagnosis, RefusalKind::FormerAddress);
    says(diagnosis, &["no Service has the address 10.1.0.200 any more", "mart/web", "is deleted"]);
    let change = judgement.changed.lead().expect("what changed");
    assert_eq!((change.kind, &*change.object.name, change.at), (ChangeKind::Deleted, "web", at(4)));
    assert_eq!(judgement.denied_since(), None);

    let early = dropped(address(CLIENT), address(CLUSTER), 80, &[1, 2]);
    let early = diagnose(&snapshot, &case_of(&early));
    let former = |kube_proxy: &Refusal| matches!(kube_proxy, Refusal::FormerAddress { .. });
    assert!(
        !early.cause.kube_proxy.is_some_and(|own| former(own.refusal())),
        "{}",
        early.cause.text
    );
    // An address that was never a Service's is nobody's.
    let other = scene.says(address(CLIENT), address(201), 80, Seen::Silent);
    assert!(other.cause.kube_proxy.is_none(), "{}", other.cause.text);
}

#[test]
fn endpoints_that_went_are_what_changed() {
    let mut scene = Scene::of(service(), Behind::Ready);
    scene.cluster.history_begins(at(-60));
    scene.cluster.apply(Object::EndpointSlice(slice(Behind::Unready)), Some(at(3)));
    // A change of another Service is none of it.
    let other =
        EndpointSlice { service: Some("db".into()), name: "db-1".into(), ..slice(Behind::Ready) };
    scene.cluster.apply(Object::EndpointSlice(other.clone()), Some(at(4)));
    let empty = EndpointSlice { endpoints: Vec::new(), ..other };
    scene.cluster.apply(Object::EndpointSlice(empty), Some(at(4)));
    let drop = refused_client();
    let judgement = judge(&scene.cluster.snapshot(), scene.cluster.history(), &case_of(&drop));
    is_kube_proxys(&judgement.diagnosis, RefusalKind::NoEndpoint);
    let change = judgement.changed.lead().expect("what changed");
    assert_eq!((&*change.object.name, change.at), ("web-1", at(3)));
    assert!(change.difference.as_deref().is_some_and(|d| d.contains("none")), "{change:?}");
}

/// A drop that policies denied before is still kube-proxy's now, and no lag of the network plugin.
#[test]
fn a_policy_that_went_does_not_explain_what_kube_proxy_refuses() {
    let mut scene = Scene::of(service(), Behind::Unready).with(egress("out", Vec::new()));
    scene.cluster.history_begins(at(-60));
    scene.cluster.delete(&policy_key("mart", "out"), at(3));
    let drop = refused_client();
    let judgement = judge(&scene.cluster.snapshot(), scene.cluster.history(), &case_of(&drop));
    is_kube_proxys(&judgement.diagnosis, RefusalKind::NoEndpoint);
}

/// Who follows no Services knows that one is gone once it was looked up in vain.
#[test]
fn an_agent_looks_up_whether_the_service_that_had_an_address_is_gone() {
    let mut cluster = Cluster::default();
    cluster.look_up_on_demand();
    cluster.apply(namespace("mart", &[]), None);
    cluster.apply(Object::Pod(pod("mart", "ask", CLIENT, &[("app", "ask")])), None);
    cluster.apply(Object::Service(service()), None);
    let ended = |query: Query, cluster: &mut Cluster| {
        cluster.looked_up(query, LookUp { at: at(7), failed: None, scale: None });
    };
    let key = Key { kind: Kind::Service, namespace: Some("mart".into()), name: "web".into() };
    cluster.forget(&key, at(4));
    let drop = dropped(address(CLIENT), address(CLUSTER), 80, &[5, 6]);
    let of = |cluster: &Cluster| diagnose(&cluster.snapshot(), &case_of(&drop));
    // Nobody has asked who holds the address now.
    assert!(of(&cluster).cause.kube_proxy.is_none());
    ended(address(CLUSTER).into(), &mut cluster);
    let web = Query::Service(("mart".into(), "web".into()));
    let missing = to_look_up(&cluster.snapshot(), &case_of(&drop), at(7));
    assert!(missing.contains(&web), "{missing:?}");
    let text = of(&cluster).cause.text;
    assert!(text.contains("Service mart/web had it until then"), "{text}");
    ended(web, &mut cluster);
    let text = of(&cluster).cause.text;
    assert!(text.contains("is deleted"), "{text}");
    // It may be there, with another address.
    let moved = Service { cluster_addresses: vec![address(210)], ..service() };
    cluster.apply(Object::Service(moved), None);
    let text = of(&cluster).cause.text;
    assert!(!text.contains("deleted") && text.contains("mart/web"), "{text}");
}

/// Who is gone is not who answers: the pod that had the address last is no Service.
#[test]
fn an_address_that_was_a_pods_last_is_no_services() {
    let mut scene = Scene::of(service(), Behind::Nothing);
    let old = Pod { addresses: vec![address(150)], ..pod("mart", "old", 150, &[]) };
    scene.cluster.apply(Object::Pod(old), None);
    scene.cluster.delete(&pod_key("mart", "old"), at(-100));
    let diagnosis = scene.says(address(CLIENT), address(150), 80, Seen::Silent);
    assert!(diagnosis.cause.kube_proxy.is_none(), "{}", diagnosis.cause.text);
}
