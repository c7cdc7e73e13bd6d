//! Addresses and networks as objects write them.

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;

use crate::problem::{FieldPath, Problem};

/// An address. An IPv4 address that is written as one of IPv6 (RFC 4291, 2.5.5.2) is what it stands
/// for.
pub(super) fn address(text: &str, path: &FieldPath) -> Result<IpAddr, Problem> {
    let address = IpAddr::from_str(text);
    address
        .map(|address| address.to_canonical())
        .map_err(|_| path.expected("an IP address", format!("{text:?}")))
}

/// A network.
pub(super) fn network(text: &str, path: &FieldPath) -> Result<IpNet, Problem> {
    IpNet::from_str(text)
        .map_err(|_| path.expected("a CIDR such as 10.244.0.0/24", format!("{text:?}")))
}

/// An address or a network, with the address that it was written with; `None`: neither.
pub(super) fn address_or_network(text: &str) -> Option<IpNet> {
    let text = text.trim();
    match text.parse::<IpAddr>() {
        Ok(address) => Some(IpNet::from(address.to_canonical())),
        Err(_) => text.parse().ok(),
    }
}
