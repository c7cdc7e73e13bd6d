//! A remedy as a `NetworkPolicy` of Kubernetes.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::networking::v1::{
        IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule,
        NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use super::{
    Opening, nodes_addresses,
    selection::{pod_labels, target_selector},
};
use crate::{
    cluster::{
        Snapshot,
        object::Pod,
        resolve::{Endpoint, Holder},
    },
    diagnosis::Situation,
    flow::Direction,
    policy::NAMESPACE_NAME_LABEL,
};

/// The policy that allows what is opening in one direction.
pub(super) fn policy(opening: &Opening<'_>, name: String) -> Option<NetworkPolicy> {
    let Opening { snapshot, pod, other, lead, situation, .. } = *opening;
    let peers = peers(snapshot, pod, other, situation)?;
    let ports: Vec<_> = opening
        .ports
        .iter()
        .map(|(port, protocol)| NetworkPolicyPort {
            end_port: None,
            port: Some(IntOrString::Int(i32::from(*port))),
            protocol: Some(protocol.to_string()),
        })
        .collect();
    let mut spec = NetworkPolicySpec {
        pod_selector: Some(target_selector(snapshot, pod, &lead.subject.pods)),
        policy_types: Some(vec![opening.policy_type().to_owned()]),
        ..NetworkPolicySpec::default()
    };
    match opening.direction {
        Direction::Egress => {
            let rule = NetworkPolicyEgressRule { ports: Some(ports), to: Some(peers) };
            spec.egress = Some(vec![rule]);
        }
        Direction::Ingress => {
            let rule = NetworkPolicyIngressRule { ports: Some(ports), from: Some(peers) };
            spec.ingress = Some(vec![rule]);
        }
    }
    Some(NetworkPolicy {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(pod.namespace.to_string()),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
    })
}

/// The other end as a rule's peers.
fn peers(
    snapshot: &Snapshot,
    target: &Pod,
    other: &Endpoint,
    situation: Option<Situation>,
) -> Option<Vec<NetworkPolicyPeer>> {
    let block = |address: std::net::IpAddr| NetworkPolicyPeer {
        ip_block: Some(IPBlock { cidr: ipnet::IpNet::from(address).to_string(), except: None }),
        ..NetworkPolicyPeer::default()
    };
    match &other.holder {
        Holder::Pod(peer) => {
            let labels = pod_labels(snapshot, peer);
            let elsewhere = (peer.namespace != target.namespace).then(|| LabelSelector {
                match_labels: Some(BTreeMap::from([(
                    NAMESPACE_NAME_LABEL.to_owned(),
                    peer.namespace.to_string(),
                )])),
                match_expressions: None,
            });
            // Without a label to go by, the namespace is as close as a rule can come.
            let pods = LabelSelector {
                match_labels: (!labels.is_empty()).then_some(labels),
                match_expressions: None,
            };
            let by_namespace_alone = elsewhere.is_some() && pods.match_labels.is_none();
            Some(vec![NetworkPolicyPeer {
                namespace_selector: elsewhere,
                pod_selector: (!by_namespace_alone).then_some(pods),
                ip_block: None,
            }])
        }
        Holder::Node(node) if matches!(situation, Some(Situation::Probe(_))) => {
            Some(nodes_addresses(node, other.address).into_iter().map(block).collect())
        }
        Holder::Node(_) | Holder::SecondNetwork(..) | Holder::Outside => {
            Some(vec![block(other.address?)])
        }
        Holder::Service(_) | Holder::Hidden(_) | Holder::Unknown(_) => None,
    }
}
