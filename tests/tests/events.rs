//! Kubernetes Events on a real API server, with the rights that the agent is deployed with: one for
//! each incident and pod, counted, rate limited, and no harm where none can be written.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{core::v1::ObjectReference, events::v1::Event};
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use whydrop::sink::{
    Note, Sink as _,
    events::{Events, QUEUE_MAX},
};
use whydrop_tests::{
    kube::api::{self, Settings},
    world::manifest::{documents, namespace},
};

/// How long 60 Events may take on a busy machine.
const WRITTEN_WAIT: Duration = Duration::from_secs(40);

/// An API server with the agent's rights, and namespaces of pods that are affected.
struct Server {
    api: api::Api,
    agent: PathBuf,
}

impl Server {
    fn start() -> Self {
        let api = api::Api::start(Settings::default()).expect("an API server");
        let agent = api.admit_agent().expect("rights");
        let namespaces = ["shop", "bank", "mill", "farm"].map(namespace);
        api.apply(&documents(&namespaces)).expect("applied");
        Self { api, agent }
    }

    /// The kubeconfig of an account without rights.
    fn nobody(&self) -> PathBuf {
        let create = ["create", "serviceaccount", "nobody", "-n", "whydrop"];
        self.api.kubectl().and_then(|kubectl| kubectl.run(create)).expect("created");
        let token = self.api.service_account_token("whydrop", "nobody").expect("a token");
        self.api.kubeconfig_for("nobody", &token).expect("a kubeconfig")
    }

    /// A node's sink, with the rights of a kubeconfig.
    async fn sink(&self, node: &str, kubeconfig: &Path) -> Events {
        let client = client(kubeconfig).await;
        Events::start(client, node.to_owned(), "NetworkPolicyDenied".to_owned())
    }

    async fn events(&self, namespace: &str) -> Vec<Event> {
        let events: Api<Event> = Api::namespaced(client(&self.api.kubeconfig()).await, namespace);
        events.list(&ListParams::default()).await.expect("a list").items
    }
}

async fn client(path: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(path).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a config");
    Client::try_from(config).expect("a client")
}

/// A pod was affected by an incident, so many seconds ago.
fn note(namespace: &str, pod: &str, incident: u64, ago_secs: i64) -> Note {
    Note {
        regarding: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(namespace.to_owned()),
            name: Some(pod.to_owned()),
            uid: Some(format!("uid-of-{namespace}-{pod}")),
            ..ObjectReference::default()
        },
        related: None,
        text: format!("{pod} cannot reach shop/db:5432/TCP"),
        incident,
        at: Timestamp::now() - SignedDuration::from_secs(ago_secs),
    }
}

#[tokio::test]
async fn two_nodes_that_see_one_incident_write_one_event_and_count_it() {
    let server = Server::start();
    let mut nodes = [
        server.sink("worker-1", &server.agent).await,
        server.sink("worker-2", &server.agent).await,
    ];
    for node in &nodes {
        for ago in [90, 80, 70] {
            node.write(&note("shop", "web-0", 1, ago).into());
        }
        // Another pod, and another incident, are another Event.
        node.write(&note("shop", "web-1", 1, 60).into());
        node.write(&note("shop", "web-0", 2, 60).into());
    }
    let [first, second] = &mut nodes;
    tokio::join!(first.finish(), second.finish());
    assert_eq!((first.shed(), second.shed()), (0, 0));

    let mut counts: Vec<(String, i32)> = server
        .events("shop")
        .await
        .into_iter()
        .map(|event| {
            let pod = event.regarding.and_then(|pod| pod.name).unwrap_or_default();
            (pod, event.series.map_or(1, |series| series.count))
        })
        .collect();
    counts.sort();
    let web = |n: u8, count: i32| (format!("web-{n}"), count);
    assert_eq!(counts, [web(0, 2), web(0, 6), web(1, 2)], "each as often as it was noted");
    let get = ["get", "events", "-n", "shop", "-o", "wide"];
    let described = server.api.kubectl().and_then(|kubectl| kubectl.run(get)).expect("events");
    assert!(described.contains("pod/web-0") && described.contains("cannot reach"), "{described}");
}

#[tokio::test]
async fn new_events_are_limited_by_namespace_and_node_and_the_rest_is_counted() {
    let server = Server::start();
    let mut node = server.sink("worker-1", &server.agent).await;
    // Of one minute, whenever this runs.
    let minute = Timestamp::from_second(Timestamp::now().as_second() / 60 * 60).expect("a time");
    let namespaces = ["shop", "bank", "mill", "farm"];
    for namespace in namespaces {
        for pod in 0..25 {
            let pod = format!("web-{pod}");
            node.write(&Note { at: minute, ..note(namespace, &pod, 1, 0) }.into());
        }
    }
    const { assert!(4 * 25 < QUEUE_MAX, "none is shed because the queue is full") };
    let deadline = Instant::now() + WRITTEN_WAIT;
    while node.queued() > 0 {
        assert!(Instant::now() < deadline, "{} notes wait", node.queued());
        tokio::task::yield_now().await;
    }
    node.finish().await;
    let mut written = Vec::new();
    for namespace in namespaces {
        written.push(server.events(namespace).await.len());
    }
    assert_eq!(written, [20, 20, 20, 0], "20 of a namespace and minute, 60 of a node");
    assert_eq!(node.shed(), 40);
}

#[tokio::test]
async fn what_cannot_be_written_is_counted_and_hurts_nobody() {
    let mut server = Server::start();
    let mut node = server.sink("worker-1", &server.nobody()).await;
    for pod in ["web-0", "web-1", "web-0"] {
        node.write(&note("shop", pod, 1, 0).into());
    }
    node.finish().await;
    assert_eq!(node.shed(), 3, "it may not");
    assert!(server.events("shop").await.is_empty());

    let mut node = server.sink("worker-1", &server.agent).await;
    server.api.stop_apiserver().expect("stopped");
    node.write(&note("shop", "web-0", 1, 0).into());
    node.finish().await;
    assert_eq!(node.shed(), 1, "nobody answers");
    // It takes no more, and says so.
    node.write(&note("shop", "web-0", 1, 0).into());
    assert_eq!((node.shed(), node.queued()), (2, 0));
}
