//! What to do about a connection to a Service that is refused, in sentences for people.

use super::{Backend, Course, PolicyField, Refusal, Remark, words};
use crate::cluster::object::{Service, TargetPort};

/// What to do first. `behind`: what is behind the port, ready or not.
pub fn to_do(course: &Course, behind: &[Backend]) -> String {
    let service = words::name(&course.service);
    match course.refusal() {
        None => format!("see what becomes of connections to {service}"),
        Some(Refusal::NoEndpoint | Refusal::NoAddress) => {
            let endpoints = endpoints(&course.service, behind);
            match course.remarks.contains(&Remark::KeptOut) {
                true => format!("{endpoints}; then {}", let_in(course)),
                false => endpoints,
            }
        }
        Some(Refusal::NoPortOfName(name)) => format!(
            "name a port of the pods behind {service} {name}, or send to another with its targetPort{}",
            without_port(course)
        ),
        Some(Refusal::NoLocalEndpoint { node, by }) => {
            let (field, other) = match by {
                PolicyField::Internal => ("internalTrafficPolicy", ""),
                PolicyField::External => ("externalTrafficPolicy", ", or dial a node that has one"),
            };
            let where_to =
                node.as_ref().map_or_else(String::new, |node| format!(" on node {node}"));
            format!(
                "run a ready endpoint of {service}{where_to}, or set its {field} to Cluster{other}: {}",
                places(behind)
            )
        }
        Some(Refusal::SourceRanges) => let_in(course),
        Some(Refusal::NoPort) => {
            format!("dial a port that there is. {}", words::no_port(course))
        }
        Some(Refusal::FormerAddress { is_deleted: true }) => format!(
            "have the client use another Service, or create {service} again: it is deleted, and without a \
             clusterIP in its spec another one gets another address"
        ),
        Some(Refusal::FormerAddress { is_deleted: false }) => format!(
            "have the client look up the name of {service} again, or use another Service: nobody has the \
             address"
        ),
    }
}

/// How a client gets past the source ranges of a Service.
fn let_in(course: &Course) -> String {
    let ranges = course.service.source_ranges.iter().map(ToString::to_string);
    format!(
        "dial {} by its cluster address, or add {} to its loadBalancerSourceRanges, which are {}",
        words::name(&course.service),
        course.client.address_text(),
        words::listed(ranges)
    )
}

/// What a Service without a ready endpoint lacks.
fn endpoints(service: &Service, behind: &[Backend]) -> String {
    let name = words::name(service);
    let labels = service.selector.iter().map(|(key, value)| format!("{key}={value}"));
    let labels = labels.collect::<Vec<_>>().join(",");
    match (behind.len(), service.selector.is_empty()) {
        (0, true) => format!(
            "see who names the endpoints of {name}: it has no selector, and no EndpointSlice has any"
        ),
        (0, false) => format!(
            "see which pods {name} is for: it selects {labels}, and no pod that could be an endpoint has \
             these labels"
        ),
        (number, _) => {
            let ends = behind.iter().map(|backend| backend.endpoint.to_string());
            format!(
                "see why none of the {number} endpoints of {name} is ready: {}",
                words::listed(ends)
            )
        }
    }
}

fn without_port(course: &Course) -> String {
    let pods = course.remarks.iter().find_map(|remark| match remark {
        Remark::LeftOut(pods) => Some(pods),
        _ => None,
    });
    let own = course.service.ports.iter().find(|port| matches!(port.target, TargetPort::Named(_)));
    match (pods, own) {
        (Some(pods), Some(_)) => {
            let pods = pods.iter().map(ToString::to_string);
            format!(": without it are {}", words::listed(pods))
        }
        _ => String::new(),
    }
}

/// On which nodes there are ready endpoints.
fn places(behind: &[Backend]) -> String {
    let ready = behind.iter().filter(|backend| backend.is_ready);
    let mut nodes: Vec<String> =
        ready.filter_map(|backend| backend.node.as_ref()).map(ToString::to_string).collect();
    nodes.sort();
    nodes.dedup();
    match nodes.len() {
        0 => "on which nodes there is one is not known".to_owned(),
        1 => format!("there is one on node {}", nodes[0]),
        _ => format!("there are some on nodes {}", words::listed(nodes.into_iter())),
    }
}
