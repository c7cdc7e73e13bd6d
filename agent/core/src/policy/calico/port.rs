//! What a rule says of protocols and ports.

use std::{str::FromStr, sync::Arc};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::wire::{WireEntity, WireRule};
use crate::{
    flow::Protocol,
    policy::{PortMatch, PortRange, network_policy::port_number},
    problem::{FieldPath, Problem},
};

/// The longest name of a port, as Calico's grammar has it.
const PORT_NAME_MAX: usize = 128;

/// A protocol that a rule names.
enum Named {
    /// One that flows as we see them have.
    Ours(Protocol),
    /// Another.
    Other(Arc<str>),
}

/// The ports that a rule is about, those that it is not, and whether it is about ICMP.
pub(super) fn ports(
    rule: &WireRule,
    destination: &WireEntity,
    path: &FieldPath,
) -> Result<(Vec<PortMatch>, Vec<PortMatch>, bool), Problem> {
    let named = |field: &str, text: &Option<IntOrString>| {
        text.as_ref().map(|text| protocol(text, &path.field(field))).transpose()
    };
    let mut wanted = named("protocol", &rule.protocol)?;
    if wanted.is_none() && rule.icmp.is_some() {
        wanted = Some(Named::Other("ICMP".into()));
    }
    let ports_path = path.field("destination");
    let listed = ranges(destination.ports.as_deref(), &ports_path.field("ports"))?;
    let excepted = ranges(destination.not_ports.as_deref(), &ports_path.field("notPorts"))?;
    let names_ports =
        destination.names_ports() || rule.source.as_ref().is_some_and(WireEntity::names_ports);
    let ours = match &wanted {
        Some(Named::Ours(protocol)) => Some(*protocol),
        _ if names_ports => {
            // "Ports require a protocol that has some" (validator/v3: protocolPortsMsg).
            return Err(path
                .field("protocol")
                .expected("TCP, UDP or SCTP, as ports are named", "another or none"));
        }
        _ => None,
    };
    let with_protocol = |ports: PortRange| PortMatch { protocol: ours, ports };
    let mut except_ports: Vec<_> = excepted.into_iter().map(with_protocol).collect();
    if let Some(Named::Ours(protocol)) = named("notProtocol", &rule.not_protocol)? {
        except_ports.push(PortMatch { protocol: Some(protocol), ports: PortRange::Any });
    }
    let is_about_icmp = matches!(&wanted, Some(Named::Other(name)) if name.starts_with("ICMP"));
    let ports = match wanted {
        None => Vec::new(),
        Some(Named::Other(name)) => {
            vec![PortMatch { protocol: None, ports: PortRange::OfProtocol(name) }]
        }
        Some(Named::Ours(_)) if listed.is_empty() => vec![with_protocol(PortRange::Any)],
        Some(Named::Ours(_)) => listed.into_iter().map(with_protocol).collect(),
    };
    Ok((ports, except_ports, is_about_icmp))
}

/// A protocol by its name, in any case, or by its number.
fn protocol(text: &IntOrString, path: &FieldPath) -> Result<Named, Problem> {
    let expected = "TCP, UDP, SCTP, ICMP, ICMPv6, UDPLite or a number from 1 to 255";
    let number = match text {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(text) => i32::from_str(text).ok(),
    };
    if let Some(number) = number {
        return match u8::try_from(number) {
            Ok(1) => Ok(Named::Other("ICMP".into())),
            Ok(58) => Ok(Named::Other("ICMPv6".into())),
            Ok(number) if number > 0 => Ok(Protocol::from_number(number)
                .map_or_else(|| Named::Other(number.to_string().into()), Named::Ours)),
            _ => Err(path.expected(expected, number.to_string())),
        };
    }
    let IntOrString::String(text) = text else { return Err(path.expected(expected, "a number")) };
    if let Ok(protocol) = Protocol::from_str(&text.to_ascii_uppercase()) {
        return Ok(Named::Ours(protocol));
    }
    let others = ["ICMP", "ICMPv6", "UDPLite"];
    match others.iter().find(|name| name.eq_ignore_ascii_case(text)) {
        Some(name) => Ok(Named::Other((*name).into())),
        None => Err(path.expected(expected, format!("{text:?}"))),
    }
}

fn ranges(ports: Option<&[IntOrString]>, path: &FieldPath) -> Result<Vec<PortRange>, Problem> {
    let ports = ports.unwrap_or_default().iter().enumerate();
    ports.map(|(index, port)| range(port, &path.index(index))).collect()
}

/// A number, a range `FIRST:LAST`, or a name.
fn range(port: &IntOrString, path: &FieldPath) -> Result<PortRange, Problem> {
    let single = |number: i32| port_number(number, path).map(|n| PortRange::Numbers(n, n));
    let text = match port {
        IntOrString::Int(number) => return single(*number),
        IntOrString::String(text) => text,
    };
    let expected = || {
        let expected = "a port from 1 to 65535, a range such as 8000:8080, or a port name";
        path.expected(expected, format!("{text:?}"))
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = |text: &str| i32::from_str(text).map_err(|_| expected());
    if is_number(text) {
        return single(number(text)?);
    }
    if let Some((first, last)) = text.split_once(':') {
        if !is_number(first) || !is_number(last) {
            return Err(expected());
        }
        let (first, last) = (port_number(number(first)?, path)?, port_number(number(last)?, path)?);
        return if first <= last { Ok(PortRange::Numbers(first, last)) } else { Err(expected()) };
    }
    let fits = (1..=PORT_NAME_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if fits { Ok(PortRange::Named(text.as_str().into())) } else { Err(expected()) }
}
