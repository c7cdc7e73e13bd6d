//! `EgressFirewall` of OVN-Kubernetes and `EgressNetworkPolicy` of `OpenShift`'s own plugin: which
//! addresses outside the cluster the pods of a namespace reach. They can only deny what policies allow.
//!
//! Semantics: <https://ovn-kubernetes.io/features/network-security-controls/egress-firewall/>. "Outside"
//! includes the nodes' addresses: what is in no pod network.

use std::str::FromStr as _;

use ipnet::IpNet;
use serde_json::Value;

use super::{
    Ends, Reach, Sway,
    written::{has_spec, items, namespace},
};

/// An `EgressFirewall` or an `EgressNetworkPolicy`.
pub fn egress_firewall(object: &Value) -> Reach {
    let widest = Reach::widest(Some(&namespace(object)));
    let denies = match has_spec(object) {
        true => denied(&object["spec"]["egress"]),
        false => Some(Ends::Outside),
    };
    Reach { egress: Sway { allows: None, denies }, ingress: Sway::NONE, ..widest }
}

/// What the rules may deny; a name or a node may stand for any address.
fn denied(rules: &Value) -> Option<Ends> {
    let deny = items(rules).iter().filter(|rule| rule["type"] != "Allow");
    let networks: Option<Vec<IpNet>> =
        deny.map(|rule| IpNet::from_str(rule["to"]["cidrSelector"].as_str()?).ok()).collect();
    match networks {
        Some(networks) if networks.is_empty() => None,
        Some(networks) => Some(Ends::OutsideIn(networks)),
        None => Some(Ends::Outside),
    }
}
