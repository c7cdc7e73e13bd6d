//! Situations in sentences for people.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    ApiServer, HBONE, Trap, Tunnel,
    callers::{Awaited, Monitored},
};
use crate::cluster::{
    caller::{Failure, Waiting},
    object::{Pod, Probe},
    profile::Translation,
};

/// How many names a sentence lists before it counts the rest.
const NAMES_SHOWN: usize = 4;

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApiServer(server) => f.write_str(&api_server(server)),
            Self::ApiServerCalls(awaited) => {
                let each: Vec<_> = awaited.iter().map(awaits).collect();
                write!(f, "the API server calls it: {}", listed(&each, "; "))
            }
            Self::Mesh(tunnel) => f.write_str(&mesh(*tunnel)),
            Self::MeshProbe(probe, source) => {
                let then = match probe {
                    Probe::Readiness => "the pod will not be ready",
                    Probe::Liveness | Probe::Startup => "the pod will be restarted",
                };
                write!(
                    f,
                    "the pod is in Istio's ambient mesh, where the kubelet's probes arrive from \
                     {source}: unless a rule admits {} to the probed port, the {probe} probe fails and \
                     {then}",
                    block(*source)
                )
            }
            Self::Metadata(address) => write!(
                f,
                "at {address} workloads get credentials of the cloud: to deny that is often intended, \
                 and what needs it takes a rule with an ipBlock of {}",
                block(*address)
            ),
            Self::NodeDns(address) => write!(
                f,
                "{address} is the node-local cache of the cluster's DNS, in the network of the pod's \
                 own node: no pod selector matches it, and a rule has to name {} with port 53, UDP \
                 and TCP; without DNS nothing that uses names will work",
                block(*address)
            ),
            Self::Scrape(monitored) => f.write_str(&scrape(monitored)),
            Self::NodeSource(service) => write!(
                f,
                "what comes by a node port or the load balancer of Service {}/{} has a node's address \
                 for a source (externalTrafficPolicy: Cluster), so that no rule can name the client: \
                 with externalTrafficPolicy: Local its own address is kept",
                service.namespace, service.name
            ),
            Self::Hairpin(service) => write!(
                f,
                "the pod reached itself through its Service {}/{}: on the way back the packet has its \
                 node's address for a source",
                service.namespace, service.name
            ),
        }
    }
}

fn api_server(server: &ApiServer) -> String {
    let ApiServer { service, endpoints, egress, is_beyond_blocks } = server;
    let own: Vec<_> = endpoints.iter().map(|(address, port)| at(*address, *port)).collect();
    let own = match own.is_empty() {
        true => "its endpoints (those of Service default/kubernetes)".to_owned(),
        false => listed(&own, ", "),
    };
    let who = "this is the API server, in the network of its node: no pod selector matches it, and";
    if *is_beyond_blocks {
        return format!(
            "{who} no ipBlock of this engine matches a node: it takes a CiliumNetworkPolicy with \
             toEntities: [kube-apiserver]"
        );
    }
    if let (Translation::Before, Some((address, port))) = (egress, service) {
        return format!(
            "{who} this engine judges egress before translation: a rule has to name the Service's \
             address and port, {}, and, for those who dial them, its endpoints', {own}",
            at(*address, *port)
        );
    }
    let not = match service {
        Some((address, port)) => {
            format!(
                ", where Service default/kubernetes is {} before translation",
                at(*address, *port)
            )
        }
        None => String::new(),
    };
    format!("{who} an egress rule has to name its addresses and port after translation, {own}{not}")
}

fn awaits(awaited: &Awaited) -> String {
    let Awaited { kind, name, call, port } = awaited;
    let what = match &call.waits {
        Waiting::Admission { operations, resources, failure } => {
            let all = |names: &[Arc<str>]| names.iter().any(|name| &**name == "*");
            let resources = match resources.is_empty() || all(resources) {
                true => "any object".to_owned(),
                false => listed(resources, ", "),
            };
            let operations = match operations.is_empty() || all(operations) {
                true => "every change".to_owned(),
                false => listed(operations, " and "),
            };
            let then = match failure {
                Failure::Fail => "fails without its answer (failurePolicy: Fail)",
                Failure::Ignore => {
                    "passes unchecked after its timeout without its answer (failurePolicy: Ignore)"
                }
            };
            format!("{operations} of {resources} {then}")
        }
        Waiting::Api(group) => format!("every request for {group} fails without its answer"),
        Waiting::Conversion(resource) => format!(
            "requests for {resource} in another version than the stored one fail without its answer"
        ),
    };
    format!(
        "{kind} {name} names Service {}/{} port {}, which is {port} of its pods, and {what}",
        call.namespace, call.name, call.port
    )
}

fn mesh(tunnel: Tunnel) -> String {
    let what = "both pods are in Istio's ambient mesh, whose packets between them go to port";
    match tunnel {
        Tunnel::Denied => format!(
            "{what} {HBONE} (HBONE), whichever port the application dials: a rule for the \
             application's port does not admit them, one for {HBONE} does"
        ),
        Tunnel::DeniedBeside => format!(
            "{what} {HBONE} (HBONE) instead of this one, and policies deny that: open {HBONE}/TCP"
        ),
        Tunnel::BothDenied => format!(
            "{what} {HBONE} (HBONE) instead of this one: it takes {HBONE}/TCP as well, and this port for \
             clients outside of the mesh"
        ),
        Tunnel::AllowedBeside => format!(
            "{what} {HBONE} (HBONE) instead of this one, and policies do not deny that: what the mesh \
             carries passes"
        ),
    }
}

fn scrape(monitored: &Monitored) -> String {
    let by = match monitored {
        Monitored::Annotations(pod) => {
            let Pod { namespace, name, .. } = &**pod;
            format!("annotations of {namespace}/{name} ask Prometheus to scrape")
        }
        Monitored::By(caller) => {
            let namespace = caller.namespace.as_deref().unwrap_or_default();
            format!("{} {namespace}/{} asks Prometheus to scrape", caller.kind, caller.name)
        }
    };
    format!("{by} this port: without a rule for Prometheus there are no metrics of it")
}

/// `192.0.2.51:6443`.
fn at(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

/// `169.254.20.10/32`.
fn block(address: IpAddr) -> String {
    IpNet::from(address).to_string()
}

fn listed<T: AsRef<str>>(names: &[T], between: &str) -> String {
    let first: Vec<&str> = names.iter().take(NAMES_SHOWN).map(AsRef::as_ref).collect();
    let text = first.join(between);
    match names.len().saturating_sub(NAMES_SHOWN) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}
