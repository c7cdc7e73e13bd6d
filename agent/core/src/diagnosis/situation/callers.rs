//! Who connects to a pod because an object asks for it.

use std::{net::IpAddr, sync::Arc};

use super::{Scene, Trap};
use crate::{
    cluster::{
        Snapshot,
        caller::{Call, Caller, CallerKind, Scrape, ScrapedPort, ServiceCall},
        object::{ContainerPort, Pod, Service, TargetPort},
        resolve::{Endpoint, Holder},
    },
    flow::{Direction, Protocol},
};

/// The label of pods that are an API server: kubeadm's static pods have it, and hosted ones.
const COMPONENT: (&str, &str) = ("component", "kube-apiserver");

/// An object whose requests wait for an answer.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::diagnosis) struct Awaited {
    pub(super) kind: CallerKind,
    pub(super) name: Arc<str>,
    pub(super) call: ServiceCall,
    /// The pod's port.
    pub(super) port: u16,
}

/// What asks for a scrape.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::diagnosis) enum Monitored {
    /// The pod's annotations.
    Annotations(Arc<Pod>),
    /// An object of Prometheus' operator.
    By(Arc<Caller>),
}

/// From the API server, to a pod behind a Service that an object has it call.
pub(super) fn from_api_server(scene: &Scene<'_>) -> Option<Trap> {
    let Scene { snapshot, question, .. } = scene;
    let pod = question.destination.pod()?;
    let is_tcp = question.protocol == Protocol::Tcp;
    if !is_tcp || !scene.denies(Direction::Ingress) || !is_api_server(snapshot, &question.source) {
        return None;
    }
    let mut awaited: Vec<Awaited> = Vec::new();
    for caller in snapshot.callers() {
        for call in &caller.calls {
            if let Call::Service(call) = call
                && arrives(snapshot, call, pod, question.port)
            {
                let (kind, name) = (caller.kind, caller.name.clone());
                awaited.push(Awaited { kind, name, call: call.clone(), port: question.port });
            }
        }
    }
    // Webhooks of one configuration keep their order.
    awaited.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    (!awaited.is_empty()).then_some(Trap::ApiServerCalls(awaited))
}

/// Whether an API server is there: its listed addresses, nodes of the control plane, its pods.
pub(super) fn is_api_server(snapshot: &Snapshot, end: &Endpoint) -> bool {
    let is_listed = |address: IpAddr| snapshot.is_api_server_address(address);
    let runs = |pod: &Pod| pod.labels.get(COMPONENT.0).is_some_and(|is| **is == *COMPONENT.1);
    match &end.holder {
        Holder::Pod(pod) => runs(pod),
        Holder::Node(node) => {
            node.has_api_server(&snapshot.api_server_addresses())
                || end.address.is_some_and(is_listed)
                || snapshot.pods().any(|pod| {
                    pod.host_network && pod.node.as_ref() == Some(&node.name) && runs(pod)
                })
        }
        _ => end.address.is_some_and(is_listed),
    }
}

/// A pod's port that its annotations, or a monitor, ask Prometheus to scrape.
pub(super) fn scrape(scene: &Scene<'_>) -> Option<Trap> {
    let Scene { snapshot, question, .. } = scene;
    let pod = question.destination.pod()?;
    let is_from_pod = question.source.pod().is_some();
    let is_denied = scene.verdict.denied_directions().next().is_some();
    if !is_from_pod || !is_denied || question.protocol != Protocol::Tcp {
        return None;
    }
    if pod.scraped_port == Some(question.port) {
        return Some(Trap::Scrape(Monitored::Annotations(pod.clone())));
    }
    let is_asked = |caller: &&Arc<Caller>| {
        caller.calls.iter().any(|call| match call {
            Call::Scrape(scrape) => takes(snapshot, caller.kind, scrape, pod, question.port),
            Call::Service(_) => false,
        })
    };
    let name = |caller: &Caller| (caller.kind, caller.namespace.clone(), caller.name.clone());
    let by = snapshot.callers().filter(is_asked).min_by_key(|caller| name(caller))?;
    Some(Trap::Scrape(Monitored::By(by.clone())))
}

/// Whether the API server's call arrives at this port of this pod.
fn arrives(snapshot: &Snapshot, call: &ServiceCall, pod: &Pod, port: u16) -> bool {
    let Some(service) = snapshot.service(&call.namespace, &call.name) else { return false };
    let mut ports = service.ports.iter().filter(|own| own.port == call.port);
    is_behind(service, pod) && ports.any(|own| is_target(pod, &own.target, port))
}

/// Whether a scrape is of this port of this pod.
fn takes(snapshot: &Snapshot, kind: CallerKind, scrape: &Scrape, pod: &Pod, port: u16) -> bool {
    let Scrape { namespaces, selector, ports } = scrape;
    let listed = |all: &Vec<Arc<str>>| all.contains(&pod.namespace);
    if !namespaces.as_ref().is_none_or(listed) {
        return false;
    }
    let is_of_pod = |wanted: &ScrapedPort| match wanted {
        ScrapedPort::Number(number) => *number == port,
        ScrapedPort::Named(name) => has_port(pod, name, port),
        ScrapedPort::OfService(_) => false,
    };
    if kind == CallerKind::PodMonitor {
        return selector.matches(&pod.labels) && ports.iter().any(is_of_pod);
    }
    let is_of_service = |service: &Service, wanted: &ScrapedPort| match wanted {
        ScrapedPort::OfService(name) => {
            let mut named = service.ports.iter().filter(|own| own.name == *name);
            named.any(|own| is_target(pod, &own.target, port))
        }
        _ => is_of_pod(wanted),
    };
    let mut services = snapshot
        .services()
        .filter(|service| is_behind(service, pod) && selector.matches(&service.labels));
    services.any(|service| ports.iter().any(|wanted| is_of_service(service, wanted)))
}

pub(super) fn is_behind(service: &Service, pod: &Pod) -> bool {
    service.namespace == pod.namespace && service.selects(&pod.labels)
}

/// Whether a port of this number is the one that a Service sends to.
pub(super) fn is_target(pod: &Pod, target: &TargetPort, port: u16) -> bool {
    match target {
        TargetPort::Number(number) => *number == port,
        TargetPort::Named(name) => has_port(pod, name, port),
    }
}

/// Whether the pod's port of this name has this number. It is TCP: the API server's calls and Prometheus'
/// scrapes are HTTP.
fn has_port(pod: &Pod, name: &str, port: u16) -> bool {
    let is_it = |own: &ContainerPort| {
        &*own.name == name && own.number == port && own.protocol == Protocol::Tcp
    };
    pod.ports.iter().any(is_it)
}
