//! The arguments of a node-local DNS cache.

use std::{net::IpAddr, str::FromStr};

use k8s_openapi::api::core::v1 as core;

/// The flag of the node-local DNS cache (`kubernetes/dns`, `cmd/node-cache/main.go`): a list of
/// addresses with commas between them.
const LOCAL_IP: &str = "localip";

/// What a container's arguments say that it answers DNS queries at.
pub(super) fn addresses(spec: &core::PodSpec) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for container in &spec.containers {
        let mut words = container.command.iter().chain(&container.args).flatten();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix('-') else { continue };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let value = match flag.split_once('=') {
                Some((LOCAL_IP, value)) => Some(value),
                None if flag == LOCAL_IP => words.next().map(String::as_str),
                _ => None,
            };
            let listed = value.into_iter().flat_map(|value| value.split(','));
            addresses.extend(listed.filter_map(|text| IpAddr::from_str(text.trim()).ok()));
        }
    }
    addresses
}
