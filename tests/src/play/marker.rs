//! A flow that is always dropped and always reported, so that "nothing more is reported" can be
//! distinguished from "not reported yet" without waiting for a time that may be too short.
//!
//! The lab adds two pods, a policy that denies what goes between them, and a filter of its own that
//! drops it, whatever stands in for the CNI. The agent reports a drop within a bounded time, so
//! when two markers that were sent one after the other after some traffic have both been reported,
//! everything that was to be reported of that traffic has been.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;

use crate::world::{
    cluster::DescribedPod,
    manifest::{documents, namespace, pod, running},
};

/// The namespace of the marker's objects.
pub const NAMESPACE: &str = "whydrop-lab";
/// The pod that sends, `namespace/name`.
pub const CLIENT: &str = "whydrop-lab/marker-client";
const SERVER: &str = "whydrop-lab/marker-server";
const CLIENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(100, 64, 255, 1);
/// The pod that is never reached.
pub const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(100, 64, 255, 2);

/// Before all that a scenario may filter.
pub const FILTER: &str = "table inet marker {
  chain forward {
    type filter hook forward priority -400
    ip saddr 100.64.255.1 ip daddr 100.64.255.2 counter drop
  }
}
";

/// The marker's pods, for the lab.
pub fn pods(node: &str) -> [DescribedPod; 2] {
    [(CLIENT, CLIENT_ADDRESS), (SERVER, SERVER_ADDRESS)].map(|(key, address)| DescribedPod {
        key: key.to_owned(),
        node: node.to_owned(),
        addresses: vec![IpAddr::V4(address)],
    })
}

/// The marker's objects, for the agent.
pub fn manifest(node: &str) -> String {
    let objects = [(CLIENT, CLIENT_ADDRESS), (SERVER, SERVER_ADDRESS)]
        .map(|(key, address)| running(pod(key), node, &[address.into()]));
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "marker", "namespace": NAMESPACE },
        "spec": {
            "podSelector": { "matchLabels": { "app": "marker-server" } },
            "policyTypes": ["Ingress"],
        },
    });
    documents(objects.iter().chain([&namespace(NAMESPACE), &policy]))
}
