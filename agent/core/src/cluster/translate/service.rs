//! Services and their endpoints.

use std::{net::IpAddr, str::FromStr, sync::Arc};

use ipnet::IpNet;
use k8s_openapi::{
    api::{core::v1 as core, discovery::v1 as discovery},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    super::object::{
        Balancer, EndpointSlice, Service, ServicePort, SliceEndpoint, SlicePort, TargetPort,
        TrafficPolicy,
    },
    address,
};
use crate::{
    flow::Protocol,
    policy::{
        labels,
        metadata::{name_of, namespace_of},
        network_policy::{port_number, protocol},
    },
    problem::{FieldPath, Problem},
};

/// The label by which a slice names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The label by which a Service asks kube-proxy to leave it to another proxy
/// (`pkg/proxy/apis/well_known_labels.go`).
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";

/// The address of a Service that has none.
const HEADLESS: &str = "None";

/// The type of a Service that stands for a name.
const EXTERNAL_NAME: &str = "ExternalName";

/// Slices of names, which kube-proxy ignores.
const FQDN: &str = "FQDN";

/// Translates a Service.
///
/// # Errors
/// The first field that cannot be read.
pub fn service(service: &core::Service) -> Result<Service, Problem> {
    let metadata = &service.metadata;
    let default = core::ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&default);
    let path = FieldPath::root("spec");
    let cluster = || spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let given = cluster().filter(|text| *text != HEADLESS);
    let other_proxy = metadata.labels.as_ref().and_then(|labels| labels.get(OTHER_PROXY));
    let external_name = spec.external_name.as_deref().unwrap_or_default().trim_end_matches('.');
    let is_name = spec.type_.as_deref() == Some(EXTERNAL_NAME);
    Ok(Service {
        namespace: namespace_of(metadata),
        name: name_of(metadata)?,
        labels: labels(metadata.labels.iter().flatten()),
        cluster_addresses: addresses(given, &path.field("clusterIPs"))?,
        headless: cluster().any(|text| text == HEADLESS),
        external_name: is_name.then(|| external_name.into()),
        external_addresses: addresses(
            spec.external_ips.iter().flatten(),
            &path.field("externalIPs"),
        )?,
        balancers: balancers(service.status.as_ref())?,
        source_ranges: source_ranges(spec, &path)?,
        ports: ports(spec, &path)?,
        selector: labels(spec.selector.iter().flatten()),
        publishes_not_ready: spec.publish_not_ready_addresses == Some(true),
        internal_policy: traffic_policy(spec.internal_traffic_policy.as_deref()),
        external_policy: traffic_policy(spec.external_traffic_policy.as_deref()),
        is_sticky: spec.session_affinity.as_deref() == Some("ClientIP"),
        other_proxy: other_proxy.map(|name| name.as_str().into()),
    })
}

fn traffic_policy(text: Option<&str>) -> TrafficPolicy {
    match text {
        Some("Local") => TrafficPolicy::Local,
        _ => TrafficPolicy::Cluster,
    }
}

/// Each address once, in order.
fn addresses<'a>(
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

fn balancers(status: Option<&core::ServiceStatus>) -> Result<Vec<Balancer>, Problem> {
    let path = FieldPath::root("status").field("loadBalancer").field("ingress");
    let status = status.and_then(|status| status.load_balancer.as_ref());
    let ingress = status.iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    let mut balancers = Vec::new();
    for (index, point) in ingress.enumerate() {
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let balancer = match (filled(&point.ip), filled(&point.hostname)) {
            (Some(text), _) => {
                let address = address(&text, &path.index(index).field("ip"))?;
                // "VIP" is the default (`pkg/proxy/util/utils.go`, `IsVIPMode`).
                match point.ip_mode.as_deref() {
                    Some("Proxy") => Balancer::Proxy(address),
                    _ => Balancer::Address(address),
                }
            }
            (None, Some(name)) => Balancer::Name(name.into()),
            (None, None) => continue,
        };
        if !balancers.contains(&balancer) {
            balancers.push(balancer);
        }
    }
    Ok(balancers)
}

fn source_ranges(spec: &core::ServiceSpec, path: &FieldPath) -> Result<Vec<IpNet>, Problem> {
    let path = path.field("loadBalancerSourceRanges");
    let texts = spec.load_balancer_source_ranges.iter().flatten().enumerate();
    let ranges = texts.map(|(index, text)| {
        // The API server lets blanks around it pass, and kube-proxy trims them.
        IpNet::from_str(text.trim()).map_err(|_| {
            path.index(index).expected("a CIDR such as 192.0.2.0/24", format!("{text:?}"))
        })
    });
    ranges.collect()
}

fn ports(spec: &core::ServiceSpec, path: &FieldPath) -> Result<Vec<ServicePort>, Problem> {
    let mut ports = Vec::new();
    for (index, entry) in spec.ports.iter().flatten().enumerate() {
        let path = path.field("ports").index(index);
        let port = port_number(entry.port, &path.field("port"))?;
        let node_port = match entry.node_port {
            None | Some(0) => None,
            Some(number) => Some(port_number(number, &path.field("nodePort"))?),
        };
        ports.push(ServicePort {
            name: entry.name.as_deref().unwrap_or_default().into(),
            port,
            protocol: protocol(entry.protocol.as_deref(), &path.field("protocol"))?,
            // "If this is not specified, the value of the 'port' field is used."
            target: match &entry.target_port {
                None | Some(IntOrString::Int(0)) => TargetPort::Number(port),
                Some(IntOrString::Int(number)) => {
                    TargetPort::Number(port_number(*number, &path.field("targetPort"))?)
                }
                Some(IntOrString::String(name)) => TargetPort::Named(name.as_str().into()),
            },
            node_port,
        });
    }
    Ok(ports)
}

/// Translates an `EndpointSlice`.
///
/// # Errors
/// The first field that cannot be read.
pub fn endpoint_slice(slice: &discovery::EndpointSlice) -> Result<EndpointSlice, Problem> {
    let metadata = &slice.metadata;
    let mut endpoints = Vec::new();
    let listed = slice.endpoints.iter().flatten().enumerate();
    for (index, endpoint) in listed.filter(|_| slice.address_type != FQDN) {
        let path = FieldPath::root("endpoints").index(index).field("addresses");
        if let Some(text) = endpoint.addresses.first() {
            endpoints.push(slice_endpoint(endpoint, address(text, &path)?));
        }
    }
    let mut ports = Vec::new();
    for (index, entry) in slice.ports.iter().flatten().enumerate() {
        let path = FieldPath::root("ports").index(index);
        // "If this is not specified, ports are not restricted": nothing to translate to.
        let Some(number) = entry.port else { continue };
        ports.push(SlicePort {
            name: entry.name.as_deref().unwrap_or_default().into(),
            port: port_number(number, &path.field("port"))?,
            protocol: match entry.protocol.as_deref() {
                None => Protocol::Tcp,
                some => protocol(some, &path.field("protocol"))?,
            },
        });
    }
    let service = metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
    Ok(EndpointSlice {
        namespace: namespace_of(metadata),
        name: name_of(metadata)?,
        service: service.map(|name| name.as_str().into()),
        endpoints,
        ports,
    })
}

fn slice_endpoint(endpoint: &discovery::Endpoint, address: IpAddr) -> SliceEndpoint {
    let conditions = endpoint.conditions.as_ref();
    // "A nil value should be interpreted as 'true'", of terminating as "false".
    let is_ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let is_serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(true);
    let is_terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
    let hints = endpoint.hints.as_ref();
    let zones = hints.iter().flat_map(|hints| hints.for_zones.iter().flatten());
    let nodes = hints.iter().flat_map(|hints| hints.for_nodes.iter().flatten());
    SliceEndpoint {
        address,
        is_ready,
        is_serving,
        is_terminating,
        node: endpoint.node_name.as_deref().map(Arc::from),
        for_zones: zones.map(|zone| zone.name.as_str().into()).collect(),
        for_nodes: nodes.map(|node| node.name.as_str().into()).collect(),
    }
}
