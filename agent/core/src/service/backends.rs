//! What is behind a port of a Service, and which of it a node uses.

use std::{net::IpAddr, sync::Arc};

use crate::{
    cluster::{
        Snapshot,
        object::{Pod, Service, ServicePort, TargetPort},
        resolve::Endpoint,
    },
    flow::Protocol,
};

/// The label of a node by which hints name its zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// An endpoint of a Service port.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Who it is.
    pub endpoint: Endpoint,
    /// Its port.
    pub port: u16,
    /// The node it is on.
    pub(super) node: Option<Arc<str>>,
    /// It may be used.
    pub is_ready: bool,
    /// It may be used where none is ready: it is being deleted, and still answers.
    pub(super) is_fallback: bool,
    for_zones: Vec<Arc<str>>,
    for_nodes: Vec<Arc<str>>,
}

/// What is known to be behind a port.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// The endpoints, in the order of their addresses.
    pub(super) backends: Vec<Backend>,
    /// Pods that are selected and have no port of the name that the Service sends to.
    pub(super) left_out: Vec<Arc<str>>,
    /// Whether any object says what is behind it.
    pub(super) is_known: bool,
}

/// Everything behind a Service port, of the family of this address, whether it is ready or not.
pub fn behind(
    snapshot: &Snapshot,
    service: &Service,
    port: u16,
    protocol: Protocol,
    family: IpAddr,
) -> Vec<Backend> {
    let Some(entry) = super::port_of(service, port, protocol) else { return Vec::new() };
    of_port(snapshot, service, entry, family).backends
}

/// Everything behind a Service port, of the family of this address.
pub(super) fn of_port(
    snapshot: &Snapshot,
    service: &Service,
    entry: &ServicePort,
    family: IpAddr,
) -> Behind {
    let mut behind = Behind::default();
    for slice in snapshot.slices(service) {
        behind.is_known = true;
        let ports = slice.ports.iter().filter(|port| port.name == entry.name);
        for port in ports.filter(|port| port.protocol == entry.protocol) {
            behind.add_slice(snapshot, slice, port.port, family);
        }
    }
    // Manifests often have no slices: the selector says the same.
    if !behind.is_known {
        for pod in selected(snapshot, service) {
            behind.is_known = true;
            match target(pod, entry) {
                Some(port) => behind.add_pod(snapshot, service, pod, port, family),
                None => behind.left_out.push(format!("{}/{}", pod.namespace, pod.name).into()),
            }
        }
    }
    behind.in_order()
}

/// Everything that a headless Service's name stands for: a client's port is the endpoints' own.
pub(super) fn of_name(snapshot: &Snapshot, service: &Service, port: u16, family: IpAddr) -> Behind {
    let mut behind = Behind::default();
    for slice in snapshot.slices(service) {
        behind.is_known = true;
        behind.add_slice(snapshot, slice, port, family);
    }
    if !behind.is_known {
        for pod in selected(snapshot, service) {
            behind.is_known = true;
            behind.add_pod(snapshot, service, pod, port, family);
        }
    }
    behind.in_order()
}

/// The pods that a Service selects and that the endpoint slice controller would list: those that are
/// over have no address (`ShouldPodBeInEndpoints`). Where there is none, those that workloads will make.
fn selected<'a>(snapshot: &'a Snapshot, service: &'a Service) -> Vec<&'a Arc<Pod>> {
    let is_selected =
        |pod: &&Arc<Pod>| pod.namespace == service.namespace && service.selects(&pod.labels);
    let running = snapshot.pods().filter(|pod| is_selected(pod) && !pod.addresses.is_empty());
    let running: Vec<_> = running.collect();
    if !running.is_empty() {
        return running;
    }
    // A repository has no pods, but what they will be made of.
    snapshot.templates_to_run().into_iter().filter(is_selected).collect()
}

/// The port of a pod that a Service sends to.
fn target(pod: &Pod, entry: &ServicePort) -> Option<u16> {
    match &entry.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Named(name) => {
            let mut named = pod.ports.iter().filter(|port| port.protocol == entry.protocol);
            named.find(|port| port.name == *name).map(|port| port.number)
        }
    }
}

impl Behind {
    fn add_slice(
        &mut self,
        snapshot: &Snapshot,
        slice: &crate::cluster::object::EndpointSlice,
        port: u16,
        family: IpAddr,
    ) {
        let of_family =
            slice.endpoints.iter().filter(|own| own.address.is_ipv4() == family.is_ipv4());
        for own in of_family {
            let endpoint = snapshot.resolve(own.address, None);
            let of_pod = || endpoint.pod().and_then(|pod| pod.node.clone());
            self.backends.push(Backend {
                node: own.node.clone().or_else(of_pod),
                endpoint,
                port,
                is_ready: own.is_ready,
                is_fallback: !own.is_ready && own.is_serving && own.is_terminating,
                for_zones: own.for_zones.clone(),
                for_nodes: own.for_nodes.clone(),
            });
        }
    }

    /// As the endpoint slice controller lists a pod (`podToEndpoint`).
    fn add_pod(
        &mut self,
        snapshot: &Snapshot,
        service: &Service,
        pod: &Arc<Pod>,
        port: u16,
        family: IpAddr,
    ) {
        let is_serving = pod.ready != Some(false);
        let is_ready = service.publishes_not_ready || (is_serving && pod.terminating.is_none());
        let of_family = pod.addresses.iter().filter(|own| own.is_ipv4() == family.is_ipv4());
        let mut ends: Vec<Endpoint> = Vec::new();
        if pod.addresses.is_empty() {
            ends = snapshot.ends_of(pod);
        }
        // An endpoint slice of a family has one address of a pod.
        let first = of_family.map(|address| snapshot.resolve(*address, None)).take(1);
        ends.extend(first);
        for endpoint in ends {
            self.backends.push(Backend {
                endpoint,
                port,
                node: pod.node.clone(),
                is_ready,
                is_fallback: !is_ready && is_serving && pod.terminating.is_some(),
                for_zones: Vec::new(),
                for_nodes: Vec::new(),
            });
        }
    }

    /// Each endpoint once: slices may name one twice while it moves between them, and so may
    /// Endpoints beside them. What any of them says is ready is.
    fn in_order(mut self) -> Self {
        let usable = |backend: &Backend| (!backend.is_ready, !backend.is_fallback);
        let name = |b: &Backend| b.endpoint.pod().map(|pod| pod.name.clone());
        self.backends.sort_by_cached_key(|b| (b.endpoint.address, name(b), b.port, usable(b)));
        self.backends.dedup_by(|a, b| a.endpoint.is_same(&b.endpoint) && a.port == b.port);
        self.left_out.sort();
        self
    }
}

/// The endpoints that a node uses, by where their traffic may go.
pub(super) struct Usable<'a> {
    snapshot: &'a Snapshot,
    all: &'a [Backend],
}

impl<'a> Usable<'a> {
    pub(super) fn of(snapshot: &'a Snapshot, behind: &'a Behind) -> Self {
        Self { snapshot, all: &behind.backends }
    }

    /// Those that are ready, of all nodes, where hints for that node leave none out; else those that
    /// hints name. Where none is ready, those that are being deleted and still serve.
    pub(super) fn for_all(&self, node: Option<&str>) -> Vec<&'a Backend> {
        let ready = self.all.iter().filter(|backend| backend.is_ready);
        let hint = node.and_then(|node| self.hint(node));
        let usable: Vec<_> =
            ready.filter(|b| hint.as_ref().is_none_or(|hint| hint.names(b))).collect();
        match usable.is_empty() {
            true => self.all.iter().filter(|backend| backend.is_fallback).collect(),
            false => usable,
        }
    }

    /// Those of a node.
    pub(super) fn for_local(&self, node: &str) -> Vec<&'a Backend> {
        let local = || self.all.iter().filter(|backend| backend.node.as_deref() == Some(node));
        match local().any(|backend| backend.is_ready) {
            true => local().filter(|backend| backend.is_ready).collect(),
            false => local().filter(|backend| backend.is_fallback).collect(),
        }
    }

    /// Whether any may be used, wherever it is.
    pub(super) fn is_any(&self) -> bool {
        self.all.iter().any(|backend| backend.is_ready || backend.is_fallback)
    }

    /// Whether none is ready, so that what is being deleted is used.
    pub(super) fn is_fallback(&self) -> bool {
        !self.all.iter().any(|backend| backend.is_ready) && self.is_any()
    }

    /// What hints keep traffic to, for clients of a node (`topologyModeFromHints`): every ready
    /// endpoint has one, and at least one is for it.
    fn hint(&self, node: &str) -> Option<Hint> {
        let ready = || self.all.iter().filter(|backend| backend.is_ready);
        let to_node = Hint::Node(node.into());
        if ready().all(|b| !b.for_nodes.is_empty()) && ready().any(|b| to_node.names(b)) {
            return Some(to_node);
        }
        let zone = self.snapshot.node(node)?.labels.get(ZONE)?;
        let to_zone = Hint::Zone(zone.clone());
        (ready().all(|b| !b.for_zones.is_empty()) && ready().any(|b| to_zone.names(b)))
            .then_some(to_zone)
    }

    /// Whether hints leave ready endpoints out for clients of a node.
    pub(super) fn is_hinted(&self, node: &str) -> bool {
        self.hint(node).is_some_and(|hint| self.all.iter().any(|b| b.is_ready && !hint.names(b)))
    }
}

/// Whose clients are to use an endpoint.
enum Hint {
    Node(Arc<str>),
    Zone(Arc<str>),
}

impl Hint {
    fn names(&self, backend: &Backend) -> bool {
        match self {
            Self::Node(node) => backend.for_nodes.contains(node),
            Self::Zone(zone) => backend.for_zones.contains(zone),
        }
    }
}
