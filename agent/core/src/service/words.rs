//! What a Service does, in sentences for people.

use std::fmt::Write as _;

use super::{Course, Doubt, Entry, Fate, PolicyField, Refusal, Remark};
use crate::cluster::object::{Balancer, Service, ServicePort, TargetPort};

/// How many names a sentence lists before it counts the rest.
const NAMES_SHOWN: usize = 5;

/// `Service backend/pod-b`.
pub fn name(service: &Service) -> String {
    format!("Service {}/{}", service.namespace, service.name)
}

/// `10.96.0.7 is Service backend/pod-b`, where it was dialled by an address.
pub fn identity(course: &Course) -> Option<String> {
    let address = course.address?;
    let service = name(&course.service);
    Some(match &course.entry {
        Entry::Cluster | Entry::Headless => format!("{address} is {service}"),
        Entry::External => format!("{address} is an external address of {service}"),
        Entry::Balancer => format!("{address} is the load balancer's address of {service}"),
        Entry::NodePort(_) => format!(
            "port {}/{} of every node is {service}{}",
            course.port,
            course.protocol,
            match own_port(course) {
                Some(port) => format!(", port {}", port.port),
                None => String::new(),
            }
        ),
    })
}

/// The Service's own port, by its number or the nodes'.
fn own_port(course: &Course) -> Option<&ServicePort> {
    let mut ports = course.service.ports.iter().filter(|port| port.protocol == course.protocol);
    match course.entry {
        Entry::NodePort(_) => ports.find(|port| port.node_port == Some(course.port)),
        _ => ports.find(|port| port.port == course.port),
    }
}

/// What kube-proxy, or the Service itself, does with the connection; `None`: it is sent on.
pub fn fate(course: &Course) -> Option<String> {
    let service = name(&course.service);
    match &course.fate {
        Fate::Sent(_) => None,
        Fate::Refused { refusal, .. } => Some(refused(course, refusal)),
        Fate::Untranslated(_) => Some(format!(
            "nodes do not translate this address of {service} (ipMode: Proxy): the packet goes to \
             the load balancer, which connects to the backends from an address of its own"
        )),
        Fate::Name(name) if name.is_empty() => {
            Some(format!("{service} is of type ExternalName, and does not say which name it is"))
        }
        Fate::Name(name) => Some(format!(
            "{service} stands for the name {name}: no policy is about names, but about the addresses \
             that it resolves to"
        )),
        Fate::Unknown(doubt) => Some(unknown(&course.service, doubt)),
    }
}

/// Of which address family a Service of both lacks something.
fn of_family(course: &Course) -> &'static str {
    let of_both = |is_v4: bool| {
        course.service.cluster_addresses.iter().any(|address| address.is_ipv4() == is_v4)
    };
    match course.address {
        Some(address) if of_both(true) && of_both(false) => {
            if address.is_ipv4() {
                " of IPv4"
            } else {
                " of IPv6"
            }
        }
        _ => "",
    }
}

/// That its source ranges do not let the client in either, where that is so.
fn kept_out(course: &Course) -> String {
    if !course.remarks.contains(&Remark::KeptOut) {
        return String::new();
    }
    let ranges = course.service.source_ranges.iter().map(ToString::to_string);
    format!(
        ", or in nftables mode drops the packets in silence, as its loadBalancerSourceRanges are {}",
        listed(ranges)
    )
}

fn refused(course: &Course, refusal: &Refusal) -> String {
    let service = name(&course.service);
    let port = own_port(course).map_or(course.port, |port| port.port);
    match refusal {
        Refusal::NoEndpoint => format!(
            "{service} has no ready endpoint{} for port {port}/{}: kube-proxy rejects the connection{}",
            of_family(course),
            course.protocol,
            kept_out(course)
        ),
        Refusal::NoPortOfName(name) => format!(
            "{service} sends to the port {name} of its pods, and none of them has a port of that name: \
             it has no endpoint, and kube-proxy rejects the connection"
        ),
        Refusal::NoLocalEndpoint { node, by } => {
            let field = match by {
                PolicyField::Internal => "internalTrafficPolicy",
                PolicyField::External => "externalTrafficPolicy",
            };
            let who = match node {
                Some(node) => format!("node {node}"),
                None => "no node".to_owned(),
            };
            let none = if node.is_some() { "no" } else { "a" };
            format!(
                "{service} keeps traffic on the node ({field}: Local), and {who} has {none} ready \
                 endpoint of it: kube-proxy drops the packets in silence"
            )
        }
        Refusal::SourceRanges => {
            let ranges = course.service.source_ranges.iter().map(ToString::to_string);
            format!(
                "{service} takes connections to its load balancer's address from {} alone \
                 (loadBalancerSourceRanges): kube-proxy drops the packets of others in silence",
                listed(ranges)
            )
        }
        Refusal::NoAddress => format!(
            "headless {service} has no ready endpoint: its name has no address until one is ready"
        ),
        Refusal::NoPort => no_port(course),
        Refusal::FormerAddress { is_deleted } => {
            let address = address_text(course);
            let what = match is_deleted {
                true => format!("{service}, whose address it was, is deleted"),
                false => format!("{service} had it until then"),
            };
            format!(
                "no Service has the address {address} any more: {what}, and nothing translates it"
            )
        }
    }
}

/// The address dialled, for a person.
fn address_text(course: &Course) -> String {
    course.address.map_or_else(|| "dialled".to_owned(), |address| address.to_string())
}

/// `Service backend/pod-b has no port 8080/TCP. It has 80/TCP, which goes to 8080 of the pods`.
pub fn no_port(course: &Course) -> String {
    let Course { service, port, protocol, .. } = course;
    let ports = service.ports.iter().map(|own| {
        let to = match &own.target {
            TargetPort::Number(number) => format!("{number} of the pods"),
            TargetPort::Named(name) => format!("the pods' port {name}"),
        };
        format!("{}/{}, which goes to {to}", own.port, own.protocol)
    });
    let has = match service.ports.is_empty() {
        true => "It has no ports".to_owned(),
        false => format!("It has {}", ports.collect::<Vec<_>>().join("; ")),
    };
    format!("{} has no port {port}/{protocol}. {has}", name(service))
}

fn unknown(service: &Service, doubt: &Doubt) -> String {
    let of = name(service);
    match doubt {
        Doubt::OtherProxy(proxy) => format!(
            "{of} is left to the proxy {proxy} (label service.kubernetes.io/service-proxy-name), and \
             what that does with it is unknown"
        ),
        Doubt::SelectsNoPod => {
            let labels = service.selector.iter().map(|(key, value)| format!("{key}={value}"));
            format!(
                "no pod among the objects has the labels that {of} selects ({}), and no EndpointSlice \
                 says what is behind it",
                labels.collect::<Vec<_>>().join(",")
            )
        }
        Doubt::TakenForLocal { node, .. } => format!(
            "{of} keeps traffic on the node (externalTrafficPolicy: Local), and node {node} has no ready \
             endpoint of it: its kube-proxy drops the packets in silence, or, where it knows pods by \
             the cluster's range of addresses (detectLocalMode: ClusterCIDR), sends them to other nodes"
        ),
        Doubt::NoSlices => format!(
            "{of} has no selector, and no EndpointSlice or Endpoints among the objects say what is \
             behind it"
        ),
    }
}

/// A remark.
pub fn remark(course: &Course, remark: &Remark) -> String {
    let service = name(&course.service);
    match remark {
        Remark::Terminating => format!(
            "no endpoint of {service} is ready: those that are being deleted and still serve are used"
        ),
        Remark::Hinted => {
            format!("hints of {service} keep traffic near the client: other endpoints are left out")
        }
        Remark::NodeUnknown => format!(
            "{service} is treated by the client's node, and which node that is, is not known"
        ),
        Remark::PortOfPods(target) => {
            let target = match target {
                TargetPort::Number(number) => format!("port {number}"),
                TargetPort::Named(name) => format!("the port {name}"),
            };
            format!(
                "{service} is headless: nothing translates port {} to {target}, and clients dial the \
                 pods themselves",
                course.port
            )
        }
        Remark::LeftOut(pods) => format!(
            "{} without the port that {service} sends to: {}",
            match pods.len() {
                1 => "1 pod is".to_owned(),
                number => format!("{number} pods are"),
            },
            listed(pods.iter().map(ToString::to_string))
        ),
        Remark::Sticky => {
            format!("a client of {service} stays with the backend that it got first (ClientIP)")
        }
        Remark::FromOutside => format!(
            "the cluster address of {service} is reached from outside only where it is routed to a node"
        ),
        Remark::PerhapsTakenForLocal(node) => format!(
            "node {node} sends it to endpoints of {service} on other nodes too where its kube-proxy knows \
             pods by the cluster's range of addresses (detectLocalMode: ClusterCIDR)"
        ),
        Remark::NotByEveryNode(nodes) => format!(
            "{service} keeps traffic on the node that it comes to: without a ready endpoint of it, and \
             dropping the packets in silence, {} {}",
            if nodes.len() == 1 { "is node" } else { "are nodes" },
            listed(nodes.iter().map(ToString::to_string))
        ),
        Remark::NotRejectedForNode => format!(
            "a kube-proxy in iptables mode rejects nothing that its own node sends to an address of \
             {service} from outside the cluster: it leaves the node as it is"
        ),
        Remark::KeptOut => format!(
            "a kube-proxy in nftables mode does not reject what the source ranges of {service} keep out: \
             it drops it in silence"
        ),
        Remark::Cut => format!(
            "only the first {} packets that may come of it are looked at",
            super::PACKETS_MAX
        ),
    }
}

/// The names of its balancers that are no addresses.
pub fn balancer_names(service: &Service) -> impl Iterator<Item = &str> {
    service.balancers.iter().filter_map(|balancer| match balancer {
        Balancer::Name(name) => Some(&**name),
        Balancer::Address(_) | Balancer::Proxy(_) => None,
    })
}

pub(super) fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<_> = names.collect();
    let mut text = names.iter().take(NAMES_SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if let Some(more) = names.len().checked_sub(NAMES_SHOWN).filter(|more| *more > 0) {
        let _ = write!(text, " and {more} more");
    }
    text
}
