//! With rights in one namespace. `tests/tests/kube_api` asks a real API server with the role `view`; here
//! is one of a few lines for what that one does not refuse.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tower::service_fn;
use whydrop_core::{
    cluster::{object::WorkloadKind, resolve::Holder},
    policy::PolicyKind,
};

use super::*;

/// What is served, and to whom nothing is refused: a path up to its query, and the items there.
type Served = &'static [(&'static str, fn() -> Value)];

fn pods() -> Value {
    json!([{
        "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"podIP": "10.1.0.10", "hostIP": "192.0.2.1"},
    }])
}

const SHOP: Served = &[
    ("/api/v1/namespaces/shop/pods", pods),
    ("/api/v1/namespaces/shop/services", || json!([])),
    ("/api/v1/namespaces/shop/serviceaccounts", || json!([])),
    ("/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies", || json!([])),
    ("/apis/apps/v1/namespaces/shop/deployments", || json!([])),
];

fn group(name: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn status(code: u16, reason: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason,
           "message": reason})
}

/// An API server that refuses everything but this.
fn server(served: Served) -> Client {
    let service = service_fn(move |request: Request<Body>| {
        let path = request.uri().path();
        let (code, answer) = match path {
            "/apis" => {
                let groups = ["networking.k8s.io", "discovery.k8s.io", "apps", "batch"];
                let groups = groups.map(|name| group(name, "v1"));
                (200, json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
            }
            "/api/v1/namespaces/shop" => {
                let metadata = json!({"name": "shop", "labels": {"team": "red"}});
                (200, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
            }
            "/api/v1/namespaces/gone" => (404, status(404, "NotFound")),
            path => match served.iter().find(|(of, _)| *of == path) {
                Some((_, items)) => (
                    200,
                    json!({"kind": "List", "apiVersion": "v1", "metadata": {},
                                                 "items": items()}),
                ),
                None => (403, status(403, "Forbidden")),
            },
        };
        let body = Full::new(Bytes::from(answer.to_string()));
        let response = Response::builder().status(code).body(body).expect("a response");
        async move { Ok::<_, Infallible>(response) }
    });
    Client::new(service, "shop")
}

fn in_namespaces(names: &[&str]) -> Wanted {
    let namespaces = names.iter().map(ToString::to_string).collect();
    Wanted { namespaces, home: Some("shop".to_owned()), ..Wanted::default() }
}

async fn part(wanted: Wanted) -> Part {
    read(server(SHOP), wanted, &|_| {}).await.expect("it is reached")
}

#[tokio::test]
async fn what_is_refused_is_unknown_and_the_rest_is_not() {
    let part = part(in_namespaces(&["shop", "backend"])).await;
    assert_eq!(part.failed, Vec::<String>::new());
    let refused = part.refused.to_string();
    assert!(refused.starts_with("namespace backend; everything in backend; "), "{refused}");
    assert!(refused.ends_with("endpointslices in shop"), "{refused}");
    let snapshot = part.snapshot;
    assert_eq!(&*snapshot.namespace("shop").expect("it is read").labels["team"], "red");
    assert!(snapshot.pod("shop", "web").is_some());
    assert!(snapshot.sync().unsynced().is_empty());
    let policies = Kind::Policy(PolicyKind::NetworkPolicy);
    for kind in [Kind::Namespace, Kind::Pod, Kind::Service, policies] {
        assert_eq!(snapshot.sync().unreadable(kind, "shop"), None, "{kind}");
        assert_eq!(
            snapshot.sync().unreadable(kind, "backend"),
            Some(&Unreadable::Refused),
            "{kind}"
        );
    }
}

#[tokio::test]
async fn a_namespace_that_is_not_there_is_not_refused() {
    let part = part(in_namespaces(&["gone"])).await;
    assert_eq!(part.snapshot.sync().unreadable(Kind::Namespace, "gone"), None);
    assert!(part.snapshot.namespace("gone").is_none());
}

#[tokio::test]
async fn who_holds_an_address_is_looked_for_where_one_may() {
    let addresses = [[10, 1, 0, 10], [10, 1, 0, 11], [8, 8, 8, 8]].map(IpAddr::from);
    let wanted = Wanted { addresses: addresses.into(), ..in_namespaces(&[]) };
    let part = part(wanted).await;
    let [own, other, public] = addresses.map(|address| part.snapshot.resolve(address, None).holder);
    assert!(matches!(own, Holder::Pod(_)), "{own:?}");
    let Holder::Unknown(why) = other else { panic!("{other:?}") };
    assert!(why.ends_with("you may not look for it in all namespaces"), "{why}");
    assert_eq!(public, Holder::Outside);
    let assumed =
        "8.8.8.8 is taken to be outside of the cluster: you may not look for a pod that holds it";
    assert_eq!(part.assumed, [assumed]);
}

#[tokio::test]
async fn workloads_are_read_where_one_is_asked_about() {
    let mut wanted = in_namespaces(&["shop"]);
    let part = part(wanted.clone()).await;
    let deployments = Kind::Template(WorkloadKind::Deployment);
    let jobs = Kind::Template(WorkloadKind::Job);
    assert_eq!(part.snapshot.sync().unreadable(jobs, "shop"), None, "it is not asked for");
    wanted.workloads = [(WorkloadKind::Deployment, "shop".to_owned())].into();
    wanted.workloads.insert((WorkloadKind::CronJob, "shop".to_owned()));
    let part = self::part(wanted).await;
    assert_eq!(part.snapshot.sync().unreadable(deployments, "shop"), None);
    assert_eq!(part.snapshot.sync().unreadable(jobs, "shop"), Some(&Unreadable::Refused));
}
