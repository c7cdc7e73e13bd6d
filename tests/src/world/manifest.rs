//! Manifests that tests make themselves.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A pod `namespace/name` of one container that nobody starts, labelled `app` by its own name.
pub fn pod(key: &str) -> Value {
    let (namespace, name) = key.split_once('/').unwrap_or(("default", key));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "labels": { "app": name } },
        "spec": { "containers": [{ "name": "c", "image": "example.com/c" }] },
    })
}

/// The same pod as it runs on a node, with these addresses.
pub fn running(mut pod: Value, node: &str, addresses: &[IpAddr]) -> Value {
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    pod["spec"]["nodeName"] = node.into();
    pod["status"] = json!({ "phase": "Running", "podIP": addresses.first(), "podIPs": ips });
    pod
}

/// A node with one address.
pub fn node(name: &str, pods: &str, address: IpAddr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
        "spec": { "podCIDR": pods, "podCIDRs": [pods] },
        "status": { "addresses": [{ "type": "InternalIP", "address": address }] },
    })
}

/// A namespace.
pub fn namespace(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })
}

/// Objects as a file of manifests: JSON is YAML.
pub fn documents<'a>(objects: impl IntoIterator<Item = &'a Value>) -> String {
    let texts: Vec<String> = objects.into_iter().map(Value::to_string).collect();
    texts.join("\n---\n")
}

/// An object's `namespace/name`.
pub fn key(object: &Value) -> Result<String> {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().with_context(|| format!("no name: {object}"))?;
    Ok(format!("{}/{name}", metadata["namespace"].as_str().unwrap_or("default")))
}

/// The parts of a pod's `namespace/name`.
pub fn parts(key: &str) -> Result<(&str, &str)> {
    key.split_once('/').with_context(|| format!("{key} is not NAMESPACE/NAME"))
}

/// An object's status alone, to be applied to the subresource; `None` where it has none.
pub fn status(object: &Value) -> Option<Value> {
    if !object["status"].is_object() {
        return None;
    }
    let metadata = &object["metadata"];
    let mut name = json!({ "name": metadata["name"] });
    if metadata["namespace"].is_string() {
        name["namespace"] = metadata["namespace"].clone();
    }
    Some(json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"],
        "metadata": name, "status": object["status"],
    }))
}

/// Writes a manifest into a folder that is watched: whole at once.
pub fn put(folder: &Path, name: &str, text: &str) -> Result<()> {
    let hidden = folder.join(format!(".{name}.part"));
    fs::write(&hidden, text).with_context(|| hidden.display().to_string())?;
    Ok(fs::rename(hidden, folder.join(name))?)
}
