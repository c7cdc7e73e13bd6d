//! `networking.k8s.io/v1` `NetworkPolicy`, validated and defaulted as the API server does it.
//!
//! Semantics: <https://kubernetes.io/docs/reference/kubernetes-api/policy-resources/network-policy-v1/>;
//! validation: `pkg/apis/networking/validation`, defaulting: `pkg/apis/networking/v1/defaults.go`.

use std::{str::FromStr, sync::Arc};

use ipnet::IpNet;
use k8s_openapi::{
    Resource as _,
    api::networking::v1::{
        IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    Action, Block, KUBERNETES_ORDER, Layer, Namespaces, Peer, Peers, PodPeer, Policy, PolicyKind,
    PortMatch, PortRange, Rule,
    metadata::{Header, Rules, namespace_of},
    selector::Selector,
};
use crate::{
    flow::{Direction, Protocol},
    problem::{FieldPath, Problem},
};

/// Lowers a policy object.
///
/// # Errors
/// The first field that the API server would refuse.
pub fn lower(policy: &NetworkPolicy) -> Result<Policy, Problem> {
    let (metadata, kind) = (&policy.metadata, PolicyKind::NetworkPolicy);
    let header = Header::namespaced(metadata, kind, NetworkPolicy::API_VERSION)?;
    let namespace = namespace_of(metadata);
    let path = FieldPath::root("spec");
    let spec = policy.spec.clone().unwrap_or_default();
    let (governs_ingress, governs_egress) = governed(&spec, &path)?;

    // "If this field is empty then it selects all pods"; absent, the API server stores `{}`.
    let pods = match &spec.pod_selector {
        Some(selector) => Selector::lower(selector, &path.field("podSelector"))?,
        None => Selector::EVERYTHING,
    };
    // Both directions are read even where one is not governed: a mistake in it is a mistake.
    let ingress = spec.ingress.iter().flatten();
    let ingress = ingress.map(|rule| (rule.from.as_deref(), rule.ports.as_deref()));
    let ingress = rules(ingress, &path.field("ingress"), "from", &namespace)?;
    let egress = spec.egress.iter().flatten();
    let egress = egress.map(|rule| (rule.to.as_deref(), rule.ports.as_deref()));
    let egress = rules(egress, &path.field("egress"), "to", &namespace)?;
    let subject = PodPeer::new(Namespaces::Own(namespace), pods);
    let undeclared = match (governs_ingress, governs_egress) {
        (false, _) if !ingress.is_empty() => Some((Direction::Ingress, ingress.clone())),
        (_, false) if !egress.is_empty() => Some((Direction::Egress, egress.clone())),
        _ => None,
    };
    let rules = Rules {
        ingress: governs_ingress.then_some(ingress),
        egress: governs_egress.then_some(egress),
    };
    let place = (Layer::NetworkPolicy, KUBERNETES_ORDER);
    Ok(Policy { undeclared, ..header.policy(place, subject, rules) })
}

/// A rule as written: its peers and its ports.
type WrittenRule<'a> = (Option<&'a [NetworkPolicyPeer]>, Option<&'a [NetworkPolicyPort]>);

fn rules<'a>(
    written: impl Iterator<Item = WrittenRule<'a>>,
    path: &FieldPath,
    peers_field: &str,
    namespace: &Arc<str>,
) -> Result<Vec<Rule>, Problem> {
    let lower = |(index, (of_rule, ports_of_rule)): (usize, WrittenRule<'a>)| {
        let path = path.index(index);
        let peers = peers(of_rule, namespace, &path.field(peers_field))?;
        Ok(Rule::new(Action::Allow, peers, ports(ports_of_rule, &path.field("ports"))?))
    };
    written.enumerate().map(lower).collect()
}

/// Which directions the policy governs: ingress, egress.
///
/// "If this field is not specified, it will default based on the existence of ingress or egress
/// rules; policies that contain an egress section are assumed to affect egress, and all policies
/// (whether or not they contain an ingress section) are assumed to affect ingress." The API
/// server's defaulting asks for at least one egress rule.
fn governed(spec: &NetworkPolicySpec, path: &FieldPath) -> Result<(bool, bool), Problem> {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    if types.is_empty() {
        return Ok((true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())));
    }
    let (mut ingress, mut egress) = (false, false);
    for (index, policy_type) in types.iter().enumerate() {
        match policy_type.as_str() {
            "Ingress" => ingress = true,
            "Egress" => egress = true,
            other => {
                return Err(path
                    .field("policyTypes")
                    .index(index)
                    .expected("Ingress or Egress", format!("{other:?}")));
            }
        }
    }
    Ok((ingress, egress))
}

/// "If this field is empty or missing, this rule matches all sources (destinations)."
fn peers(
    peers: Option<&[NetworkPolicyPeer]>,
    namespace: &Arc<str>,
    path: &FieldPath,
) -> Result<Peers, Problem> {
    let peers = peers.unwrap_or_default();
    if peers.is_empty() {
        return Ok(Peers::Everyone);
    }
    let lowered = peers.iter().enumerate().map(|(index, p)| peer(p, namespace, &path.index(index)));
    Ok(Peers::AnyOf(lowered.collect::<Result<_, _>>()?))
}

fn peer(peer: &NetworkPolicyPeer, namespace: &Arc<str>, path: &FieldPath) -> Result<Peer, Problem> {
    let pods = peer.pod_selector.as_ref();
    let namespaces = peer.namespace_selector.as_ref();
    if let Some(block) = &peer.ip_block {
        // "If this field is set then neither of the other fields can be."
        if pods.is_some() || namespaces.is_some() {
            return Err(path.expected("ipBlock alone, or selectors", "both"));
        }
        return Ok(Peer::Block(ip_block(block, &path.field("ipBlock"))?));
    }
    if pods.is_none() && namespaces.is_none() {
        return Err(path.expected("podSelector, namespaceSelector or ipBlock", "none of them"));
    }
    // "If namespaceSelector is also set, then the rule selects the pods matching podSelector in the
    // namespaces selected by namespaceSelector. Otherwise in the policy's own namespace."
    let namespaces = match namespaces {
        Some(selector) => {
            Namespaces::Selected(Selector::lower(selector, &path.field("namespaceSelector"))?)
        }
        None => Namespaces::Own(namespace.clone()),
    };
    let pods = match pods {
        Some(selector) => Selector::lower(selector, &path.field("podSelector"))?,
        None => Selector::EVERYTHING,
    };
    Ok(Peer::Pods(PodPeer::new(namespaces, pods)))
}

fn ip_block(block: &IPBlock, path: &FieldPath) -> Result<Block, Problem> {
    let network = network(&block.cidr, &path.field("cidr"))?;
    let mut except = Vec::new();
    for (index, text) in block.except.iter().flatten().enumerate() {
        let path = path.field("except").index(index);
        let inner = self::network(text, &path)?;
        // "Except values will be rejected if they are outside the cidr range."
        if !network.contains(&inner) || inner == network {
            return Err(path.expected(format!("a strict part of {network}"), format!("{text:?}")));
        }
        except.push(inner);
    }
    Ok(Block { network, except })
}

/// Reads a CIDR. Host bits may be set, as the API server lets old objects have them.
pub(super) fn network(text: &str, path: &FieldPath) -> Result<IpNet, Problem> {
    IpNet::from_str(text)
        .map(|network| network.trunc())
        .map_err(|_| path.expected("a CIDR such as 10.0.0.0/8 or fd00::/8", format!("{text:?}")))
}

/// "If this field is empty or missing, this rule matches all ports."
fn ports(ports: Option<&[NetworkPolicyPort]>, path: &FieldPath) -> Result<Vec<PortMatch>, Problem> {
    let ports = ports.unwrap_or_default().iter().enumerate();
    ports.map(|(index, entry)| port(entry, &path.index(index))).collect()
}

fn port(entry: &NetworkPolicyPort, path: &FieldPath) -> Result<PortMatch, Problem> {
    // "If not specified, this field defaults to TCP."
    let protocol = protocol(entry.protocol.as_deref(), &path.field("protocol"))?;
    let end = entry.end_port;
    let ports = match &entry.port {
        // "If this field is not provided, this matches all port names and numbers."
        None if end.is_some() => {
            return Err(path.field("endPort").expected("port to be set as well", "none"));
        }
        None => PortRange::Any,
        Some(IntOrString::String(_)) if end.is_some() => {
            return Err(path.field("endPort").expected("a numeric port", "a named one"));
        }
        Some(IntOrString::String(name)) => PortRange::Named(port_name(name, &path.field("port"))?),
        Some(IntOrString::Int(first)) => {
            let first = port_number(*first, &path.field("port"))?;
            let last = match end {
                Some(last) => port_number(last, &path.field("endPort"))?,
                None => first,
            };
            if last < first {
                return Err(path
                    .field("endPort")
                    .expected(format!("{first} or more, as port is {first}"), last.to_string()));
            }
            PortRange::Numbers(first, last)
        }
    };
    Ok(PortMatch { protocol: Some(protocol), ports })
}

/// Reads a protocol; absent, it is TCP.
pub(crate) fn protocol(text: Option<&str>, path: &FieldPath) -> Result<Protocol, Problem> {
    match text {
        None => Ok(Protocol::Tcp),
        Some(text) => Protocol::from_str(text)
            .map_err(|_| path.expected("TCP, UDP or SCTP", format!("{text:?}"))),
    }
}

/// Reads a port number.
pub(crate) fn port_number(number: i32, path: &FieldPath) -> Result<u16, Problem> {
    match u16::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(path.expected("a port from 1 to 65535", number.to_string())),
    }
}

/// Reads a port name: an `IANA_SVC_NAME` (RFC 6335, 5.1).
fn port_name(name: &str, path: &FieldPath) -> Result<Arc<str>, Problem> {
    let fits = (1..=15).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    if fits {
        Ok(name.into())
    } else {
        Err(path.expected(
            "a port from 1 to 65535 or a port name (1-15 of a-z, 0-9 and -)",
            format!("{name:?}"),
        ))
    }
}
