//! Kubernetes API objects to the core's own, defaulted as the API server does it.

mod address;
pub mod caller;
mod dns_cache;
mod network_status;
mod node;
mod node_annotations;
mod service;
mod template;

use std::{collections::BTreeMap, net::IpAddr};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1 as core,
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};

use super::object::{
    ContainerPort, Finished, Namespace, Pod, Probe, ProbePort, ServiceAccount, Workload,
};
use crate::{
    policy::{
        NAMESPACE_NAME_LABEL, labels,
        metadata::{name_of, namespace_of},
        mute_annotation::annotated,
        network_policy::{port_number, protocol},
        requirement::Labels,
    },
    problem::{FieldPath, Problem},
};
use address::address;
pub use node::{CalicoNode, CiliumNode, calico_node, cilium_node, node};
pub use service::{endpoint_slice, service};
pub use template::{WithTemplate, template};

/// The label by which a Deployment distinguishes the pods of its `ReplicaSets`.
pub(super) const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// The account of pods that name none (the admission plugin `ServiceAccount`).
const DEFAULT_SERVICE_ACCOUNT: &str = "default";

fn labels_of(metadata: &ObjectMeta) -> Labels {
    labels(metadata.labels.iter().flatten())
}

/// Translates a pod.
///
/// # Errors
/// The first field that cannot be read.
pub fn pod(pod: &core::Pod) -> Result<Pod, Problem> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let finished = match status.and_then(|status| status.phase.as_deref()) {
        Some("Succeeded") => Some(Finished::Succeeded),
        Some("Failed") => Some(Finished::Failed),
        _ => None,
    };

    let (mut addresses, host_addresses) = status.map(addresses_of).transpose()?.unwrap_or_default();
    if finished.is_some() {
        // "A pod that has finished holds no address": its status may still show one.
        addresses.clear();
    }
    let second_networks = network_status::read(metadata, &mut addresses);
    let labels = labels_of(metadata);
    let ports = spec.map(container_ports).transpose()?.unwrap_or_default();
    let probes = spec.map(|spec| probe_ports(spec, &ports)).unwrap_or_default();
    let annotations = metadata.annotations.as_ref();
    Ok(Pod {
        namespace: namespace_of(metadata),
        name: name_of(metadata)?,
        is_template: false,
        uid: metadata.uid.as_deref().map(Into::into),
        created: metadata.creation_timestamp.as_ref().map(|time| time.0),
        started: status.and_then(|status| Some(status.start_time.as_ref()?.0)),
        service_account: spec
            .and_then(|spec| {
                spec.service_account_name.as_deref().or(spec.service_account.as_deref())
            })
            .filter(|name| !name.is_empty())
            .unwrap_or(DEFAULT_SERVICE_ACCOUNT)
            .into(),
        node: spec.and_then(|spec| spec.node_name.as_deref()).map(Into::into),
        host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
        finished,
        addresses,
        host_addresses,
        second_networks,
        ports,
        probes,
        scraped_port: annotations.and_then(scraped_port),
        workload: workload(metadata.owner_references.as_deref().unwrap_or_default(), &labels),
        ready: status.and_then(is_ready),
        terminating: terminating(metadata),
        restarts: status.map(restarts).unwrap_or_default(),
        dns_cache_addresses: spec.map(dns_cache::addresses).unwrap_or_default(),
        labels,
    })
}

/// Since when an object is being deleted: "the time when the object is expected to be deleted" less
/// "the number of seconds allowed for it to gracefully terminate".
fn terminating(metadata: &ObjectMeta) -> Option<Timestamp> {
    let expected = metadata.deletion_timestamp.as_ref()?.0;
    let grace = metadata.deletion_grace_period_seconds.unwrap_or_default();
    Some(expected.checked_sub(SignedDuration::from_secs(grace)).unwrap_or(expected))
}

/// The addresses of a pod, and those of its node, each once.
fn addresses_of(status: &core::PodStatus) -> Result<(Vec<IpAddr>, Vec<IpAddr>), Problem> {
    let path = FieldPath::root("status");
    let own = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.pod_ip);
    let host = status.host_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.host_ip);
    Ok((distinct(own, &path.field("podIPs"))?, distinct(host, &path.field("hostIPs"))?))
}

/// The addresses of a field that are not empty, each once.
fn distinct<'a>(
    texts: impl Iterator<Item = &'a String>,
    path: &FieldPath,
) -> Result<Vec<IpAddr>, Problem> {
    let mut addresses = Vec::new();
    for text in texts.filter(|text| !text.is_empty()) {
        let address = address(text, path)?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// The port at which annotations ask for scrapes: no API defines them, but the scrape configuration that
/// Prometheus' own charts and most others come with. Without a port it is any of the pod's.
fn scraped_port(annotations: &BTreeMap<String, String>) -> Option<u16> {
    let is_asked = annotations.get("prometheus.io/scrape").is_some_and(|text| text == "true");
    annotations.get("prometheus.io/port").filter(|_| is_asked)?.trim().parse().ok()
}

fn is_ready(status: &core::PodStatus) -> Option<bool> {
    let mut conditions = status.conditions.iter().flatten();
    Some(conditions.find(|condition| condition.type_ == "Ready")?.status == "True")
}

fn restarts(status: &core::PodStatus) -> u64 {
    let containers = status.container_statuses.iter().flatten();
    containers.filter_map(|container| u64::try_from(container.restart_count).ok()).sum()
}

/// The containers that run as long as the pod does, with their paths: those of its spec, then its native
/// sidecars, which are init containers that are always restarted. In this order a port's name is looked
/// for (`FindPort` in pkg/api/v1/pod/util.go).
fn containers(spec: &core::PodSpec) -> impl Iterator<Item = (FieldPath, &core::Container)> {
    let path = FieldPath::root("spec");
    let sidecars = spec.init_containers.iter().flatten().enumerate();
    let sidecars = sidecars.filter(|(_, init)| init.restart_policy.as_deref() == Some("Always"));
    let of = |list: &str| {
        let path = path.field(list);
        move |(index, container)| (path.index(index), container)
    };
    let own = spec.containers.iter().enumerate().map(of("containers"));
    own.chain(sidecars.map(of("initContainers")))
}

fn container_ports(spec: &core::PodSpec) -> Result<Vec<ContainerPort>, Problem> {
    let mut ports = Vec::new();
    for (path, container) in containers(spec) {
        for (index, port) in container.ports.iter().flatten().enumerate() {
            let path = path.field("ports").index(index);
            let number = port_number(port.container_port, &path.field("containerPort"))?;
            let protocol = protocol(port.protocol.as_deref(), &path.field("protocol"))?;
            if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                ports.push(ContainerPort { name: name.into(), number, protocol });
            }
        }
    }
    Ok(ports)
}

/// The ports that `httpGet`, `tcpSocket` and `grpc` probes connect to.
fn probe_ports(spec: &core::PodSpec, named: &[ContainerPort]) -> Vec<ProbePort> {
    let number = |port: &IntOrString| match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(text) => {
            named.iter().find(|port| *port.name == **text).map(|port| port.number)
        }
    };
    let mut ports = Vec::new();
    for (_, container) in containers(spec) {
        for (probe, handler) in [
            (Probe::Liveness, &container.liveness_probe),
            (Probe::Readiness, &container.readiness_probe),
            (Probe::Startup, &container.startup_probe),
        ] {
            let Some(handler) = handler else { continue };
            let http = handler.http_get.as_ref().and_then(|get| number(&get.port));
            let tcp = handler.tcp_socket.as_ref().and_then(|socket| number(&socket.port));
            let grpc = handler.grpc.as_ref().and_then(|grpc| u16::try_from(grpc.port).ok());
            ports.extend(http.or(tcp).or(grpc).map(|port| ProbePort { probe, port }));
        }
    }
    ports
}

/// The controller; of a `ReplicaSet` that a Deployment made, the Deployment.
fn workload(owners: &[OwnerReference], labels: &Labels) -> Option<Workload> {
    let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
    let hash = labels.get(POD_TEMPLATE_HASH).map(|hash| format!("-{hash}"));
    // A Deployment names its ReplicaSets after itself and the hash (deployment controller, sync.go).
    let deployment = hash.as_deref().and_then(|suffix| owner.name.strip_suffix(suffix));
    Some(match (owner.kind.as_str(), deployment) {
        ("ReplicaSet", Some(name)) => Workload { kind: "Deployment".into(), name: name.into() },
        (kind, _) => Workload { kind: kind.into(), name: owner.name.as_str().into() },
    })
}

/// Translates a namespace.
///
/// # Errors
/// The first field that cannot be read.
pub fn namespace(namespace: &core::Namespace) -> Result<Namespace, Problem> {
    let name = name_of(&namespace.metadata)?;
    let mut labels = labels_of(&namespace.metadata);
    // The API server sets it on every namespace, whatever the manifest says.
    labels.insert(NAMESPACE_NAME_LABEL.into(), name.clone());
    Ok(Namespace { name, labels, mute: annotated(&namespace.metadata) })
}

/// Translates a service account.
///
/// # Errors
/// The first field that cannot be read.
pub fn service_account(account: &core::ServiceAccount) -> Result<ServiceAccount, Problem> {
    let metadata = &account.metadata;
    Ok(ServiceAccount {
        namespace: namespace_of(metadata),
        name: name_of(metadata)?,
        labels: labels_of(metadata),
    })
}
