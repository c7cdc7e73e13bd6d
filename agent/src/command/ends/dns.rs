//! Names of the cluster's DNS.
//!
//! <https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/>,
//! <https://github.com/kubernetes/dns/blob/master/docs/specification.md>

use std::net::{IpAddr, Ipv6Addr};

use anyhow::{bail, ensure};
use whydrop_core::flow::Protocol;

/// What a name of DNS names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::command) enum DnsName {
    /// `SERVICE.NAMESPACE[.svc[.DOMAIN]]`
    Service {
        /// The Service's namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Without `svc` it may be a name that is not the cluster's.
        is_certain: bool,
    },
    /// `HOST.SERVICE.NAMESPACE[.svc[.DOMAIN]]`: a pod behind a headless Service.
    Member {
        /// Namespace of both.
        namespace: String,
        /// The Service.
        service: String,
        /// The pod, by its host name: of a `StatefulSet`'s that is its name.
        host: String,
        /// Without `svc` it may be a name that is not the cluster's.
        is_certain: bool,
    },
    /// A name that holds the address: `10-1-0-20.NAMESPACE.pod[.DOMAIN]`.
    Address(IpAddr),
    /// No name of the cluster's.
    Outside,
}

impl DnsName {
    /// The namespace that it names.
    pub(in crate::command) fn namespace(&self) -> Option<&str> {
        match self {
            Self::Service { namespace, .. } | Self::Member { namespace, .. } => Some(namespace),
            Self::Address(_) | Self::Outside => None,
        }
    }
}

/// A port's name and its protocol, as the name of an SRV record has them before all else.
type OfService = (String, Protocol);

/// Reads a name with dots.
///
/// # Errors
/// What is wrong with a name that can only be the cluster's.
pub(super) fn read(text: &str) -> anyhow::Result<(DnsName, Option<OfService>)> {
    let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let labels: Vec<&str> = text.split('.').collect();
    ensure!(!labels.iter().any(|label| label.is_empty()), "expected a name, found {text:?}");
    let (labels, of_service) = match labels.as_slice() {
        [port, protocol, labels @ ..] if port.starts_with('_') && protocol.starts_with('_') => {
            let protocol = protocol[1..].to_uppercase().parse::<Protocol>()?;
            (labels, Some((port[1..].to_owned(), protocol)))
        }
        labels => (labels, None),
    };
    Ok((read_labels(labels)?, of_service))
}

fn read_labels(labels: &[&str]) -> anyhow::Result<DnsName> {
    let of_zone = |zone: &str| labels.iter().skip(2).position(|label| *label == zone);
    Ok(match (of_zone("svc"), of_zone("pod"), labels) {
        (Some(0), _, [name, namespace, ..]) => service(name, namespace, true),
        (Some(1), _, [host, name, namespace, ..]) => member(host, name, namespace, true),
        (Some(_), ..) => bail!("expected SERVICE.NAMESPACE.svc or POD.SERVICE.NAMESPACE.svc"),
        (None, Some(0), [address, ..]) => match dashed(address) {
            Some(address) => DnsName::Address(address),
            None => {
                bail!("expected an address with dashes before NAMESPACE.pod, found {address:?}")
            }
        },
        (None, _, [name, namespace]) => service(name, namespace, false),
        (None, _, [host, name, namespace]) => member(host, name, namespace, false),
        _ => DnsName::Outside,
    })
}

fn service(name: &str, namespace: &str, is_certain: bool) -> DnsName {
    DnsName::Service { namespace: namespace.to_owned(), name: name.to_owned(), is_certain }
}

/// A pod without a host name of its own has its address for one.
fn member(host: &str, name: &str, namespace: &str, is_certain: bool) -> DnsName {
    match dashed(host) {
        Some(address) => DnsName::Address(address),
        None => DnsName::Member {
            namespace: namespace.to_owned(),
            service: name.to_owned(),
            host: host.to_owned(),
            is_certain,
        },
    }
}

/// `10-1-0-20`, `fd00--1`.
fn dashed(text: &str) -> Option<IpAddr> {
    let v4 = || text.replace('-', ".").parse::<std::net::Ipv4Addr>().ok();
    let v6 = || text.replace('-', ":").parse::<Ipv6Addr>().ok();
    v4().map(IpAddr::V4).or_else(|| v6().map(IpAddr::V6))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> DnsName {
        read(text).expect("a name").0
    }

    #[test]
    fn names_of_services_and_of_the_pods_behind_them() {
        for name in ["page.pulp.svc", "page.pulp.svc.cluster.local", "page.pulp.svc.corp.example."]
        {
            assert_eq!(named(name), service("page", "pulp", true), "{name}");
        }
        assert_eq!(named("page.pulp"), service("page", "pulp", false));
        let member = |is_certain| DnsName::Member {
            namespace: "pulp".into(),
            service: "web".into(),
            host: "web-0".into(),
            is_certain,
        };
        assert_eq!(named("web-0.web.pulp.svc.cluster.local"), member(true));
        assert_eq!(named("web-0.web.pulp"), member(false));
        assert_eq!(named("db.eu.example.com"), DnsName::Outside);
    }

    #[test]
    fn names_that_hold_an_address() {
        let v4 = DnsName::Address([10, 1, 0, 20].into());
        assert_eq!(named("10-1-0-20.pulp.pod.cluster.local"), v4);
        assert_eq!(named("10-1-0-20.web.pulp.svc.cluster.local"), v4);
        let v6 = DnsName::Address("fd00::1".parse().expect("an address"));
        assert_eq!(named("fd00--1.pulp.pod"), v6);
        assert!(read("web-0.pulp.pod").is_err());
        assert!(read("a..b").is_err());
    }

    #[test]
    fn a_record_of_a_port_names_it() {
        let (name, port) = read("_http._tcp.page.pulp.svc").expect("a name");
        assert_eq!(name, service("page", "pulp", true));
        assert_eq!(port, Some(("http".to_owned(), Protocol::Tcp)));
    }
}
