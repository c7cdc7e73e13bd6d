//! Builders of small clusters, for the tests that play stories.

use std::{net::IpAddr, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use whydrop_core::{
    cluster::{
        Snapshot,
        object::{Key, Kind, Namespace, Object, Pod, Workload},
    },
    correlate::{Correlated, Correlator, Drop},
    diagnosis::{Case, Fate},
    flow::{Flow, Protocol},
    observation::{AttemptId, DropReason, Fact, Observation, Sender},
    policy::{
        Action, KUBERNETES_ORDER, Layer, NAMESPACE_NAME_LABEL, Namespaces, Peer, Peers, PodPeer,
        Policy, PolicyKind, PolicyRef, PortMatch, PortRange, Rule,
        requirement::{Labels, Requirement},
        selector::Selector,
    },
};

/// Seconds into the story.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_323_045).expect("a time") + SignedDuration::from_secs(seconds)
}

pub(crate) fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, last])
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

/// A pod without a workload, on worker-1.
pub(crate) fn pod(namespace: &str, name: &str, last: u8, pod_labels: &[(&str, &str)]) -> Pod {
    Pod {
        namespace: namespace.into(),
        name: name.into(),
        is_template: false,
        uid: None,
        labels: labels(pod_labels),
        created: None,
        started: None,
        service_account: "default".into(),
        node: Some("worker-1".into()),
        host_network: false,
        addresses: vec![address(last)],
        finished: None,
        host_addresses: Vec::new(),
        second_networks: Vec::new(),
        ports: Vec::new(),
        probes: Vec::new(),
        scraped_port: None,
        workload: None,
        ready: None,
        terminating: None,
        restarts: 0,
        dns_cache_addresses: Vec::new(),
    }
}

pub(crate) fn workload(kind: &str, name: &str) -> Workload {
    Workload { kind: kind.into(), name: name.into() }
}

pub(crate) fn namespace(name: &str, own: &[(&str, &str)]) -> Object {
    let mut labels = labels(own);
    labels.insert(NAMESPACE_NAME_LABEL.into(), name.into());
    Object::Namespace(Namespace { name: name.into(), labels, mute: None })
}

pub(crate) fn equals(pairs: &[(&str, &str)]) -> Selector {
    Selector::new(pairs.iter().map(|(key, value)| Requirement::equals(*key, *value)).collect())
}

/// A rule that admits pods with these labels of namespaces with those, on these TCP ports.
pub(crate) fn rule(
    namespaces: Option<&[(&str, &str)]>,
    own: &str,
    pods: Selector,
    ports: &[u16],
) -> Rule {
    let namespaces = match namespaces {
        Some(labels) => Namespaces::Selected(equals(labels)),
        None => Namespaces::Own(own.into()),
    };
    let port = |port: &u16| PortMatch {
        protocol: Some(Protocol::Tcp),
        ports: PortRange::Numbers(*port, *port),
    };
    let peers = Peers::AnyOf(vec![Peer::Pods(PodPeer::new(namespaces, pods))]);
    Rule::new(Action::Allow, peers, ports.iter().map(port).collect())
}

/// A `NetworkPolicy` over the pods of a namespace that match, for ingress.
pub(crate) fn ingress(namespace: &str, name: &str, selects: Selector, rules: Vec<Rule>) -> Policy {
    let namespace: Arc<str> = namespace.into();
    Policy {
        reference: PolicyRef {
            kind: PolicyKind::NetworkPolicy,
            namespace: Some(namespace.clone()),
            name: name.into(),
        },
        api_version: "networking.k8s.io/v1".into(),
        stored_as: None,
        uid: None,
        created: None,
        written: None,
        mute: None,
        is_remedy: false,
        layer: Layer::NetworkPolicy,
        order: KUBERNETES_ORDER,
        subject: PodPeer::new(Namespaces::Own(namespace), selects),
        ingress: Some(rules),
        egress: None,
        undeclared: None,
    }
}

pub(crate) fn policy_key(namespace: &str, name: &str) -> Key {
    Key {
        kind: Kind::Policy(PolicyKind::NetworkPolicy),
        namespace: Some(namespace.into()),
        name: name.into(),
    }
}

pub(crate) fn pod_key(namespace: &str, name: &str) -> Key {
    Key { kind: Kind::Pod, namespace: Some(namespace.into()), name: name.into() }
}

/// A question about TCP from one address to another.
pub(crate) fn case(source: IpAddr, destination: IpAddr, port: u16) -> Case<'static> {
    let flow = Flow { source, destination, port, protocol: Protocol::Tcp };
    Case { flow, dialled: None, at: None, fate: Fate::Asked }
}

/// A question about two pods as they are now.
pub(crate) fn between(
    snapshot: &Snapshot,
    from: (&str, &str),
    to: (&str, &str),
    port: u16,
) -> Case<'static> {
    let address = |(namespace, name)| snapshot.pod(namespace, name).expect("a pod").addresses[0];
    case(address(from), address(to), port)
}

/// A connect from one address to another, whose SYNs at these seconds were dropped by
/// netfilter.
pub(crate) fn dropped(source: IpAddr, destination: IpAddr, port: u16, seconds: &[i64]) -> Drop {
    dropped_at(5, false, source, destination, port, seconds)
}

/// The same at this device of the node, 0 for none, and after the packets reached the pod's veth or
/// before.
pub(crate) fn dropped_at(
    interface: u32,
    delivered: bool,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
    seconds: &[i64],
) -> Drop {
    let IpAddr::V4(to) = destination else { panic!("the pods have IPv4 addresses") };
    let mut correlator = Correlator::default();
    for second in seconds {
        correlator.observe(&Observation {
            at: at(*second),
            first: at(*second),
            attempt: Some(AttemptId {
                protocol: Protocol::Tcp,
                source,
                source_port: port,
                sequence: to.to_bits(),
                foreign: None,
            }),
            packets: 1,
            flow: Flow { source, destination, port, protocol: Protocol::Tcp },
            dialled: None,
            sender: Sender::default(),
            entered: None,
            delivered,
            fact: Fact::KernelDrop {
                reason: DropReason { number: 12, name: "NETFILTER_DROP".into() },
                location: Some("nf_hook_slow".into()),
                interface,
            },
        });
    }
    let correlated = correlator.flush(at(1_000_000));
    let mut drops = correlated.into_iter().filter_map(|correlated| match correlated {
        Correlated::Drop(drop) => Some(drop),
        _ => None,
    });
    drops.next_back().expect("a drop")
}

/// The case of a drop.
pub(crate) fn case_of(drop: &Drop) -> Case<'_> {
    Case {
        flow: drop.flow,
        dialled: drop.dialled,
        at: Some(drop.evidence.last()),
        fate: Fate::Dropped(&drop.evidence),
    }
}
