//! A remedy as a `NetworkPolicy` of Kubernetes.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

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
    opening::{Opening, Other},
    selection::target_selector,
};
use crate::{flow::Direction, policy::NAMESPACE_NAME_LABEL};

/// The policy that allows what is opening in one direction.
pub(super) fn policy(opening: &Opening<'_>, name: String) -> NetworkPolicy {
    let Opening { pod, lead, .. } = opening;
    let peers = opening.others.iter().flat_map(|other| peers(&pod.namespace, other)).collect();
    let ports: Vec<_> = opening
        .ports
        .iter()
        .map(|(port, protocol)| NetworkPolicyPort {
            end_port: None,
            port: Some(IntOrString::Int(i32::from(*port))),
            protocol: Some(protocol.to_string()),
        })
        .collect();
    let subject = target_selector(pod, opening.labels.clone(), &lead.subject.pods);
    let mut spec = NetworkPolicySpec {
        pod_selector: Some(subject),
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
    NetworkPolicy {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(pod.namespace.to_string()),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
    }
}

/// Other ends as a rule's peers.
fn peers(own: &Arc<str>, other: &Other) -> Vec<NetworkPolicyPeer> {
    let block = |address: &IpAddr| NetworkPolicyPeer {
        ip_block: Some(IPBlock { cidr: ipnet::IpNet::from(*address).to_string(), except: None }),
        ..NetworkPolicyPeer::default()
    };
    match other {
        Other::Addresses(addresses) => addresses.iter().map(block).collect(),
        Other::Pods { namespace, labels } => {
            let elsewhere = (namespace != own).then(|| LabelSelector {
                match_labels: Some(BTreeMap::from([(
                    NAMESPACE_NAME_LABEL.to_owned(),
                    namespace.to_string(),
                )])),
                match_expressions: None,
            });
            // Without a label to go by, the namespace is as close as a rule can come.
            let pods = LabelSelector {
                match_labels: (!labels.is_empty()).then(|| labels.clone()),
                match_expressions: None,
            };
            let by_namespace_alone = elsewhere.is_some() && pods.match_labels.is_none();
            vec![NetworkPolicyPeer {
                namespace_selector: elsewhere,
                pod_selector: (!by_namespace_alone).then_some(pods),
                ip_block: None,
            }]
        }
    }
}
