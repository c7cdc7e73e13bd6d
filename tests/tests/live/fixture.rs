//! What the tests of the live cluster start from, and look at.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use whydrop_tests::{
    play::story::{Story, stories},
    world::{
        RECORD_WAIT, World as _,
        agent::Agent,
        manifest::{self, documents, namespace},
        netns::{NAME, Node},
    },
};

/// The port that policies are about.
pub(crate) const PORT: u16 = 8080;

/// A node with pods and an API server that describes it, and the namespaces of the story.
pub(crate) fn node(pods: u8) -> Node {
    let mut node = Node::with_server(pods).expect("a node");
    apply(&mut node, &documents(&["frontend", "backend"].map(namespace)));
    node
}

pub(crate) fn apply(node: &mut Node, manifests: &str) {
    node.apply(manifests).expect("applied");
}

/// Runs kubectl as the administrator.
pub(crate) fn kubectl(node: &Node, arguments: &[&str]) -> String {
    node.kubectl_run(arguments).expect("kubectl")
}

/// A pod that runs on a node with an address, with more among its metadata.
pub(crate) fn pod(key: &str, node: &str, address: IpAddr, more: &Value) -> Value {
    let mut pod = manifest::running(manifest::pod(key), node, &[address]);
    for (field, value) in more.as_object().into_iter().flatten() {
        pod["metadata"][field] = value.clone();
    }
    pod
}

/// Describes the pod of this number.
pub(crate) fn describe(node: &mut Node, number: usize, key: &str) {
    let pod = pod(key, NAME, node.nth(number).ip.into(), &Value::Null);
    apply(node, &pod.to_string());
}

/// The story's objects: `frontend/pod-a` and `backend/pod-b`, and policies between them.
pub(crate) fn frontend_to_backend(node: &mut Node) {
    describe(node, 0, "frontend/pod-a");
    describe(node, 1, "backend/pod-b");
    apply(node, &policies());
}

/// The policies of the story `default-deny`, for the pods as they are called here.
pub(crate) fn policies() -> String {
    let mut stories = stories("stories").expect("stories");
    let Story { change, .. } = stories.remove("default-deny").expect("the story");
    let mut policies = change.apply;
    policies[0]["spec"]["podSelector"] = json!({ "matchLabels": { "app": "pod-b" } });
    documents(&policies)
}

/// Drops what goes to the pod of this number, as a network plugin would; or no more.
pub(crate) fn enforce(node: &Node, number: usize) {
    node.stand_in_for(number, false).expect("rules");
}

/// The address and port of the pod of this number.
pub(crate) fn to(node: &Node, number: usize) -> SocketAddr {
    (node.nth(number).ip, PORT).into()
}

/// Tries to connect from a pod for as long as three SYNs take, in vain.
pub(crate) fn dropped(node: &Node, from: &str, to: SocketAddr) {
    assert!(!node.connects(from, to).expect("a client"), "{from} connects to {to}");
}

/// Starts the agent with the rights of its service account, and waits until it is ready.
pub(crate) fn start_agent(node: &Node) -> Agent {
    node.agent(NAME).expect("it gets ready")
}

/// The records of the agent's own state.
pub(crate) fn states<'a>(agent: &'a Agent, state: &'a str) -> impl Iterator<Item = &'a Value> {
    let records = agent.records().iter().map(|heard| &heard.record);
    records.filter(move |record| record["kind"] == "agent" && record["state"] == state)
}

/// Whether a record is of a drop towards this pod.
pub(crate) fn is_drop_to(record: &Value, pod: &str) -> bool {
    record["kind"] == "drop" && record["flow"]["destination"]["pod"] == pod
}

/// The first record of a drop towards this pod.
pub(crate) fn drop_to(agent: &mut Agent, pod: &str) -> Value {
    let record = agent.record("drop", RECORD_WAIT, |record| is_drop_to(record, pod));
    record.unwrap_or_else(|error| panic!("{pod}: {error:#}"))
}
