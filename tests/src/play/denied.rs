//! The least that there is to report: a client, and a server that a policy denies to everybody. For
//! tests of what becomes of a report.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::world::{
    RECORD_WAIT, World as _,
    agent::Agent,
    manifest::{documents, key, namespace, pod},
    netns::{NAME, Node},
};

/// The server, which nobody reaches.
pub const SERVER: &str = "backend/api-0";
/// The port that is tried.
pub const PORT: u16 = 8080;

/// The manifest of a client without a workload.
pub fn client() -> Value {
    pod("frontend/web-0")
}

/// A node with a client of this manifest and its server.
pub fn node(client: &Value) -> Result<Node> {
    let mut node = Node::new(2)?;
    let own = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": NAME } });
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "default-deny", "namespace": "backend" },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress"] },
    });
    let namespaces = ["frontend", "backend"].map(namespace);
    node.apply(&documents([&own, &policy].into_iter().chain(&namespaces)))?;
    for pod in [client, &pod(SERVER)] {
        node.run(pod)?;
    }
    node.stand_in(SERVER, false)?;
    Ok(node)
}

/// Has the client of such a node try, and waits for the record of the drop.
pub fn drop_one(node: &Node, client: &Value, agent: &mut Agent) -> Result<Value> {
    let connects = node.connects(&key(client)?, node.address(SERVER, PORT)?)?;
    ensure!(!connects, "it connects");
    agent.record("drop", RECORD_WAIT, |record| record["kind"] == "drop")
}
