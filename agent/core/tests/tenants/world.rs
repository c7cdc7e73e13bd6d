//! The cluster of a run: who owns which namespace, what pods there are, and what their policies say.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use whydrop_core::{
    cluster::{
        node_address::NodeAddress,
        object::{Namespace, Node, Object, Pod, Workload},
    },
    flow::{Flow, Protocol},
    policy::{
        Action, KUBERNETES_ORDER, Layer, NAMESPACE_NAME_LABEL, Namespaces, Peer, Peers, PodPeer,
        Policy, PolicyKind, PolicyRef, PortMatch, PortRange, Rule, requirement::Requirement,
        selector::Selector,
    },
};

use crate::time::{Ms, whole_second};

pub(crate) const NODE: &str = "worker-1";

/// Whose the servers are, whose the clients that had them, and the two who try.
pub(crate) const BOOKS: &str = "books";
pub(crate) const SHOP: &str = "shop";
pub(crate) const TENANTS: [&str; 2] = ["tenant-0", "tenant-1"];

pub(crate) const NAMESPACES: [&str; 4] = [BOOKS, SHOP, TENANTS[0], TENANTS[1]];

/// Half a year ago.
pub(crate) const LONG_AGO: Ms = -180 * 86_400_000;

/// A server, by its workload and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) last: u8,
    pub(crate) port: u16,
}

pub(crate) const DB: Server = Server { name: "db", last: 20, port: 5432 };
pub(crate) const API: Server = Server { name: "api", last: 21, port: 8080 };
pub(crate) const SERVERS: [Server; 2] = [DB, API];

impl Server {
    pub(crate) fn address(self) -> IpAddr {
        IpAddr::from([10, 1, 0, self.last])
    }
}

/// A pod that connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) namespace: &'static str,
    /// Its workload, of which it is a replica; `None`: nothing owns it.
    pub(crate) workload: Option<&'static str>,
    pub(crate) name: String,
    pub(crate) app: &'static str,
    pub(crate) address: IpAddr,
    pub(crate) created: Ms,
}

impl Client {
    pub(crate) fn flow(&self, server: Server) -> Flow {
        Flow {
            source: self.address,
            destination: server.address(),
            port: server.port,
            protocol: Protocol::Tcp,
        }
    }

    /// Who it is, whichever replica.
    pub(crate) fn party(&self) -> String {
        format!("{}/{}", self.namespace, self.workload.unwrap_or(&self.name))
    }

    pub(crate) fn object(&self) -> Object {
        let workload = self.workload.map(|name| ("Deployment", name));
        pod(self.namespace, &self.name, self.app, self.address, workload, self.created)
    }
}

pub(crate) fn node() -> Object {
    Object::Node(Node {
        name: NODE.into(),
        labels: BTreeMap::new(),
        addresses: vec![NodeAddress::internal([192, 0, 2, 1].into())],
        pod_networks: vec!["10.1.0.0/16".parse().expect("a network")],
        subnets: Vec::new(),
    })
}

pub(crate) fn namespace(name: &'static str) -> Object {
    let labels = BTreeMap::from([(NAMESPACE_NAME_LABEL.into(), name.into())]);
    Object::Namespace(Namespace { name: name.into(), labels, mute: None })
}

pub(crate) fn server(of: Server) -> Object {
    let workload = Some(("StatefulSet", of.name));
    pod(BOOKS, &format!("{}-0", of.name), of.name, of.address(), workload, LONG_AGO)
}

fn pod(
    namespace: &str,
    name: &str,
    app: &str,
    address: IpAddr,
    workload: Option<(&str, &str)>,
    created: Ms,
) -> Object {
    Object::Pod(Pod {
        namespace: namespace.into(),
        name: name.into(),
        is_template: false,
        uid: Some(format!("{namespace}-{name}-{created}").into()),
        labels: BTreeMap::from([("app".into(), app.into())]),
        created: Some(whole_second(created)),
        started: Some(whole_second(created)),
        service_account: "default".into(),
        node: Some(NODE.into()),
        host_network: false,
        addresses: vec![address],
        finished: None,
        host_addresses: Vec::new(),
        second_networks: Vec::new(),
        ports: Vec::new(),
        probes: Vec::new(),
        scraped_port: None,
        workload: workload.map(|(kind, name)| Workload { kind: kind.into(), name: name.into() }),
        ready: Some(true),
        terminating: None,
        restarts: 0,
        dns_cache_addresses: Vec::new(),
    })
}

/// A `NetworkPolicy` of one direction.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Net {
    pub(crate) namespace: &'static str,
    pub(crate) name: String,
    pub(crate) created: Ms,
    /// When its spec was last written.
    pub(crate) written: Ms,
    /// It is over what this namespace's pods send, and not over what they get.
    pub(crate) is_egress: bool,
    /// Which pods it selects, by `app`; `None`: all.
    pub(crate) app: Option<&'static str>,
    /// The namespaces that it admits, on any port.
    pub(crate) admits: Vec<&'static str>,
}

impl Net {
    pub(crate) fn reference(&self) -> PolicyRef {
        PolicyRef {
            kind: PolicyKind::NetworkPolicy,
            namespace: Some(self.namespace.into()),
            name: self.name.as_str().into(),
        }
    }

    pub(crate) fn object(&self) -> Policy {
        let namespace: Arc<str> = self.namespace.into();
        let rules = Some(self.admits.iter().map(|of| rule(of)).collect());
        let (ingress, egress) = if self.is_egress { (None, rules) } else { (rules, None) };
        let app = self.app.map(|app| Requirement::equals("app", app));
        let selector = Selector::new(app.into_iter().collect());
        Policy {
            reference: self.reference(),
            api_version: "networking.k8s.io/v1".into(),
            stored_as: None,
            uid: None,
            created: Some(whole_second(self.created)),
            written: Some(whole_second(self.written)),
            mute: None,
            is_remedy: false,
            layer: Layer::NetworkPolicy,
            order: KUBERNETES_ORDER,
            subject: PodPeer::new(Namespaces::Own(namespace), selector),
            ingress,
            egress,
            undeclared: None,
        }
    }
}

/// Admits all pods of a namespace.
fn rule(namespace: &str) -> Rule {
    let of = Selector::new(vec![Requirement::equals(NAMESPACE_NAME_LABEL, namespace)]);
    let peer = PodPeer::new(Namespaces::Selected(of), Selector::new(Vec::new()));
    let any = PortMatch { protocol: Some(Protocol::Tcp), ports: PortRange::Numbers(1, u16::MAX) };
    Rule::new(Action::Allow, Peers::AnyOf(vec![Peer::Pods(peer)]), vec![any])
}
