//! A node of Cilium's with pods that listen, and an agent that watches it.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};
use whydrop_tests::{
    agent::{Agent, Heard, binary},
    differential::{self, Outcome},
    kube::{
        kubectl::Kubectl,
        node::{
            NAME,
            cilium::{Cilium, Delivery, Pod},
        },
    },
};

/// How long a record may take: a SYN's second retransmission.
const RECORD_WAIT: Duration = Duration::from_secs(30);

/// Everything that a test plays on.
pub(crate) struct Stage {
    pub(crate) cilium: Cilium,
    kubectl: Kubectl,
    /// Of all pods there have been.
    listeners: Vec<TcpListener>,
}

impl Stage {
    /// A node without pods, and the rights of `deploy/`.
    pub(crate) fn new(delivery: Delivery) -> Self {
        let cilium = Cilium::start(delivery).expect("a node");
        let kubectl = cilium.kubectl().expect("kubectl");
        let stage = Self { cilium, kubectl, listeners: Vec::new() };
        for namespace in ["frontend", "backend", "whydrop"] {
            stage.run(&["create", "namespace", namespace]);
        }
        stage.run(&["create", "serviceaccount", "whydrop", "-n", "whydrop"]);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let rights = root.join("deploy/kustomize/base/rbac.yaml");
        stage.run(&["apply", "-f", &rights.to_string_lossy()]);
        stage
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        self.kubectl.run(arguments.iter().copied()).expect("kubectl")
    }

    /// Applies manifests, and waits until Cilium enforces them.
    pub(crate) fn apply(&mut self, manifests: &str) {
        self.kubectl.apply(manifests).expect("applied");
        self.cilium.wait_in_sync().expect("Cilium enforces them");
    }

    /// A pod that listens on every port of the differential's.
    pub(crate) fn pod(&mut self, namespace: &str, name: &str) -> Pod {
        self.pod_of(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": namespace, "labels": { "app": name } },
            "spec": { "containers": [{ "name": "c", "image": "example.com/c" }] },
        }))
    }

    /// A pod of this manifest that does so.
    pub(crate) fn pod_of(&mut self, manifest: &Value) -> Pod {
        let pod = self.cilium.pod(manifest).expect("a pod");
        self.listeners.extend(pod.enter(differential::listen).expect("it listens"));
        pod
    }

    /// Starts the agent with the rights of its service account, and waits until it is ready.
    pub(crate) fn agent(&self) -> Agent {
        let api = self.cilium.api();
        let token = api.service_account_token("whydrop", "whydrop").expect("a token");
        let kubeconfig = api.kubeconfig_for("agent", &token).expect("a kubeconfig");
        let mut command = self.cilium.in_network(binary().expect("whydrop"));
        command.args(["agent", "--log-format", "json", "--node-name", NAME, "--kubeconfig"]);
        command.arg(kubeconfig);
        let mut agent = Agent::spawn(&mut command).expect("the agent starts");
        agent.wait_ready().expect("it gets ready");
        agent
    }
}

/// Tries to connect from a pod to another for as long as three SYNs take.
pub(crate) fn connect(from: &Pod, to: &Pod, port: u16) -> Outcome {
    connect_all(from, &[(to.address, port).into()])[0]
}

/// The same to several at once.
pub(crate) fn connect_all(from: &Pod, to: &[SocketAddr]) -> Vec<Outcome> {
    from.enter(|| Ok(differential::connect(to))).expect("the pod's namespace")
}

/// Those of them that are of drops.
pub(crate) fn drops(records: &[Value]) -> impl Iterator<Item = &Value> {
    records.iter().filter(|record| record["kind"] == "drop")
}

/// Waits for the first record of a drop from this pod to that one.
pub(crate) fn drop_between(agent: &mut Agent, from: &str, to: &str) -> Value {
    let is_it = |heard: &Heard| {
        let flow = &heard.record["flow"];
        heard.record["kind"] == "drop"
            && flow["source"]["pod"] == from
            && flow["destination"]["pod"] == to
    };
    let heard = agent.wait_for(RECORD_WAIT, |heard| heard.iter().any(is_it));
    heard.unwrap_or_else(|error| panic!("no drop from {from} to {to}: {error:#}"));
    let heard = agent.records().iter().find(|heard| is_it(heard)).expect("the record");
    heard.record.clone()
}
