//! How two versions of an object differ, in words.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    cluster::{
        node_address::NodeAddress,
        object::{ContainerPort, EndpointSlice, Object, Pod},
    },
    flow::Direction,
    policy::{
        Peer, Peers, Policy, Rule,
        requirement::Labels,
        tier::{DefaultAction, Tier},
    },
};

/// How many differences are listed: the first ones say what was done, the rest is in the object.
const LISTED_MAX: usize = 4;

/// Policies with more rules than this are not compared rule by rule, which takes the square of it.
const RULES_COMPARED_MAX: usize = 256;

/// What is said of a policy or a tier that was put elsewhere among the others.
const ANOTHER_ORDER: &str = "its place in the order is another";

/// `label name=frontend went`, `ingress rule 0 (from pods app=web, port 8080/TCP) went`; `None` where
/// nothing of it can be put in a few words.
pub(super) fn in_words(before: &Object, after: &Object) -> Option<String> {
    let mut differences = match (before, after) {
        (Object::Namespace(before), Object::Namespace(after)) => {
            labels(&before.labels, &after.labels)
        }
        (Object::Pod(before), Object::Pod(after)) => {
            let mut all = labels(&before.labels, &after.labels);
            all.extend(addresses(&before.addresses, &after.addresses));
            all.extend(ports(&before.ports, &after.ports));
            all.extend(service_account(before, after));
            all
        }
        (Object::Node(before), Object::Node(after)) => {
            let mut all = labels(&before.labels, &after.labels);
            all.extend(node_addresses(&before.addresses, &after.addresses));
            all
        }
        (Object::PluginNode(before), Object::PluginNode(after)) => {
            node_addresses(&before.addresses, &after.addresses).into_iter().collect()
        }
        (Object::EndpointSlice(before), Object::EndpointSlice(after)) => {
            let ready = |slice: &EndpointSlice| slice.ready().collect::<Vec<_>>();
            addresses(&ready(before), &ready(after)).into_iter().collect()
        }
        (Object::ServiceAccount(before), Object::ServiceAccount(after)) => {
            labels(&before.labels, &after.labels)
        }
        (Object::NetworkSet(before), Object::NetworkSet(after)) => {
            let mut all = labels(&before.labels, &after.labels);
            all.extend(networks(&before.networks, &after.networks));
            all
        }
        (Object::Tier(before), Object::Tier(after)) => {
            let order = (before.order != after.order).then(|| ANOTHER_ORDER.to_owned());
            let end = |tier: &Tier| match tier.default_action {
                DefaultAction::Deny => "denies",
                DefaultAction::Pass => "passes on",
            };
            let ends = (before.default_action != after.default_action)
                .then(|| format!("{} the rest, {} it before", end(after), end(before)));
            order.into_iter().chain(ends).collect()
        }
        (Object::Policy(before), Object::Policy(after)) => policy(before, after),
        _ => Vec::new(),
    };
    let more = differences.len().saturating_sub(LISTED_MAX);
    differences.truncate(LISTED_MAX);
    if more > 0 {
        differences.push(format!("{more} more"));
    }
    (!differences.is_empty()).then(|| differences.join(", "))
}

fn labels(before: &Labels, after: &Labels) -> Vec<String> {
    let gone = before.iter().filter(|(key, _)| !after.contains_key(*key));
    let gone = gone.map(|(key, value)| format!("label {key}={value} went"));
    let new = after.iter().filter(|(key, value)| before.get(*key) != Some(value));
    let new = new.map(|(key, value)| match before.get(key) {
        Some(before) => format!("label {key} is {value}, was {before}"),
        None => format!("label {key}={value} came"),
    });
    gone.chain(new).collect()
}

fn ports(before: &[ContainerPort], after: &[ContainerPort]) -> Vec<String> {
    let gone = before.iter().filter(|port| !after.contains(port));
    let gone =
        gone.map(|port| format!("port {} ({}/{}) went", port.name, port.number, port.protocol));
    let new = after.iter().filter(|port| !before.contains(port));
    let new =
        new.map(|port| format!("port {} ({}/{}) came", port.name, port.number, port.protocol));
    gone.chain(new).collect()
}

fn service_account(before: &Pod, after: &Pod) -> Option<String> {
    let (now, then) = (&after.service_account, &before.service_account);
    (now != then).then(|| format!("service account is {now}, was {then}"))
}

fn addresses(before: &[IpAddr], after: &[IpAddr]) -> Option<String> {
    let list = |addresses: &[IpAddr]| match addresses {
        [] => "none".to_owned(),
        [first] => first.to_string(),
        [first, others @ ..] => format!("{first} and {} more", others.len()),
    };
    (before != after).then(|| format!("addresses are {}, were {}", list(after), list(before)))
}

fn node_addresses(before: &[NodeAddress], after: &[NodeAddress]) -> Option<String> {
    let plain = |known: &[NodeAddress]| known.iter().map(|known| known.address).collect::<Vec<_>>();
    addresses(&plain(before), &plain(after))
}

fn networks(before: &[IpNet], after: &[IpNet]) -> Vec<String> {
    let gone = before.iter().filter(|network| !after.contains(network));
    let gone = gone.map(|network| format!("{network} went"));
    let new = after.iter().filter(|network| !before.contains(network));
    gone.chain(new.map(|network| format!("{network} came"))).take(LISTED_MAX + 1).collect()
}

fn policy(before: &Policy, after: &Policy) -> Vec<String> {
    let mut differences = Vec::new();
    if before.subject != after.subject {
        differences.push(format!("selects {}, selected {}", after.subject, before.subject));
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        match (before.rules(direction), after.rules(direction)) {
            (None, Some(_)) => differences.push(format!("governs {direction} now")),
            (Some(_), None) => differences.push(format!("governs {direction} no more")),
            (Some(before), Some(after)) if before.len().max(after.len()) > RULES_COMPARED_MAX => {
                let (now, then) = (after.len(), before.len());
                differences.push(format!("has {now} {direction} rules, had {then}"));
            }
            (Some(before), Some(after)) => {
                let only_in = |one: &[Rule], other: &[Rule], verb| -> Vec<String> {
                    let missing = one.iter().enumerate().filter(|(_, rule)| !other.contains(rule));
                    let words = missing.map(|(index, rule)| {
                        format!("{direction} rule {index} ({}) {verb}", self::rule(rule, direction))
                    });
                    words.collect()
                };
                differences.extend(only_in(before, after, "went"));
                differences.extend(only_in(after, before, "came"));
            }
            (None, None) => {}
        }
    }
    if (&before.layer, before.order) != (&after.layer, after.order) {
        differences.push(ANOTHER_ORDER.to_owned());
    }
    differences
}

/// `from pods app=web in namespace shop, port 8080/TCP`.
fn rule(rule: &Rule, direction: Direction) -> String {
    let preposition = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let ports = match rule.ports.as_slice() {
        [] => "any port".to_owned(),
        ports => format!("port {}", several(ports.iter().map(ToString::to_string))),
    };
    format!("{preposition} {}, {ports}", peers(&rule.peers))
}

fn peers(of_rule: &Peers) -> String {
    match of_rule {
        Peers::Everyone => "anyone".to_owned(),
        Peers::AnyOf(any) => several(any.iter().map(peer)),
        Peers::AllOf(all) => all.iter().map(peers).collect::<Vec<_>>().join(" and "),
    }
}

fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Pods(pods) | Peer::Members(pods) => pods.to_string(),
        Peer::NotMembers(pods) => format!("all but {pods}"),
        Peer::Service(service) => format!("Service {}/{}", service.namespace, service.name),
        Peer::Block(block) => block.network.to_string(),
        Peer::Nodes(selector) => format!("nodes {selector}"),
        Peer::Undecidable(what) => what.to_string(),
    }
}

/// The first and how many more: a rule may list thousands.
fn several(mut parts: impl Iterator<Item = String>) -> String {
    let first = parts.next().unwrap_or_default();
    match parts.count() {
        0 => first,
        more => format!("{first} or {more} more"),
    }
}
