//! The agent's own path to a collector, and the policies that cut it.

use std::net::SocketAddr;

use whydrop_core::{
    cluster::{
        Cluster,
        node_address::NodeAddress,
        object::{
            EndpointSlice, Node, Object, Pod, Service, ServicePort, SliceEndpoint, SlicePort,
            TargetPort,
        },
    },
    flow::Protocol,
    own_path::{case, cut_off, words},
    policy::{Action, Block, Peer, Peers, Rule, requirement::Labels, selector::Selector},
};

use crate::build::{address, ingress, labels, namespace, pod, policy_key};

/// A collector on worker-2, behind a Service, and the agent's node, worker-1.
fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.apply(namespace("monitoring", &[]), None);
    for (name, last) in [("worker-1", 1), ("worker-2", 2)] {
        let (labels, pod_networks) = (Labels::new(), Vec::new());
        let addresses = vec![NodeAddress::internal(address(last))];
        cluster.apply(
            Object::Node(Node {
                name: name.into(),
                labels,
                addresses,
                pod_networks,
                subnets: Vec::new(),
            }),
            None,
        );
    }
    let collector = pod("monitoring", "collector-0", 20, &[("app", "collector")]);
    cluster.apply(Object::Pod(Pod { node: Some("worker-2".into()), ..collector }), None);
    let (name, port, protocol) = ("".into(), 4317, Protocol::Tcp);
    cluster.apply(
        Object::Service(Service {
            namespace: "monitoring".into(),
            name: "collector".into(),
            cluster_addresses: vec![address(200)],
            ports: vec![ServicePort {
                name,
                port,
                protocol,
                target: TargetPort::Number(4317),
                node_port: None,
            }],
            selector: labels(&[("app", "collector")]),
            ..Service::default()
        }),
        None,
    );
    cluster.apply(
        Object::EndpointSlice(EndpointSlice {
            namespace: "monitoring".into(),
            name: "collector-1".into(),
            service: Some("collector".into()),
            endpoints: vec![SliceEndpoint::ready(address(20))],
            ports: vec![SlicePort { name: "".into(), port: 4317, protocol: Protocol::Tcp }],
        }),
        None,
    );
    cluster
}

/// What is said of the agent on a node with this address.
fn said(cluster: &Cluster, node: u8, to: u8) -> Option<String> {
    let to = SocketAddr::from((address(to), 4317));
    let diagnosis = cut_off(&cluster.snapshot(), &case(address(node), to))?;
    Some(words(&diagnosis, "collector", to))
}

#[test]
fn a_policy_over_the_collector_cuts_the_agents_of_other_nodes() {
    let mut cluster = cluster();
    assert_eq!(said(&cluster, 1, 200), None);
    let locked = ingress("monitoring", "locked", Selector::EVERYTHING, Vec::new());
    cluster.apply(Object::Policy(locked), None);
    for to in [20, 200] {
        let said = said(&cluster, 1, to).expect("it is cut off");
        let what = "NetworkPolicy monitoring/locked cuts this agent off from the collector";
        assert!(said.starts_with(what) && said.contains("ingress denied"), "{said}");
    }
    assert_eq!(said(&cluster, 2, 20), None, "a node reaches its own pods");

    // What deploy/ ships for the collector: from the nodes' network alone.
    let nodes = Peer::Block(Block { network: "10.1.0.0/28".parse().expect("one"), except: vec![] });
    let rule = Rule::new(Action::Allow, Peers::AnyOf(vec![nodes]), Vec::new());
    let admits = ingress("monitoring", "whydrop", Selector::EVERYTHING, vec![rule]);
    cluster.apply(Object::Policy(admits), None);
    assert_eq!(said(&cluster, 1, 200), None);
    // It is the policies that are asked, not their age.
    cluster.delete(&policy_key("monitoring", "whydrop"), crate::build::at(0));
    assert!(said(&cluster, 1, 200).is_some());
}

#[test]
fn what_nobody_governs_or_knows_is_not_said_to_be_cut() {
    let cluster = cluster();
    // An API server outside the cluster, or on a node.
    assert_eq!(said(&cluster, 1, 99), None);
    assert_eq!(said(&cluster, 1, 2), None);
}
