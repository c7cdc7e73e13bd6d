//! The ends of a flow as people name them.

use std::{fmt, net::IpAddr, str::FromStr};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use whydrop_core::flow::Protocol;

/// One end: `NAMESPACE/POD`, `NAMESPACE/svc/NAME`, `node/NAME` or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NamedEnd {
    /// A pod.
    Pod(String, String),
    /// A Service.
    Service(String, String),
    /// A node.
    Node(String),
    /// An address, as a packet carries it.
    Address(IpAddr),
}

impl NamedEnd {
    /// Reads an end. One without a namespace is a pod in `namespace`, if that is known.
    ///
    /// # Errors
    /// What was expected.
    pub(super) fn parse(text: &str, namespace: Option<&str>) -> anyhow::Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let own = |text: &&str| (*text).to_owned();
        match parts.as_slice() {
            [..] if parts.iter().any(|part| part.is_empty()) => {}
            ["node", name] => return Ok(Self::Node(own(name))),
            [namespace, name] => return Ok(Self::Pod(own(namespace), own(name))),
            [namespace, "svc", name] => return Ok(Self::Service(own(namespace), own(name))),
            [one] => match (one.parse(), namespace) {
                // One of IPv4 may be written as one of IPv6 (RFC 4291, 2.5.5.2).
                (Ok(address), _) => return Ok(Self::Address(IpAddr::to_canonical(&address))),
                (Err(_), Some(namespace)) => return Ok(Self::Pod(namespace.to_owned(), own(one))),
                (Err(_), None) => {}
            },
            _ => {}
        }
        bail!("expected NAMESPACE/POD, NAMESPACE/svc/NAME, node/NAME or an address, found {text:?}")
    }
}

impl fmt::Display for NamedEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(namespace, name) => write!(f, "{namespace}/{name}"),
            Self::Service(namespace, name) => write!(f, "{namespace}/svc/{name}"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// A port with its protocol: `8080/TCP`, or `8080` for TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port {
    /// Number.
    pub number: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl FromStr for Port {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
        match number.parse() {
            Ok(number) if number > 0 => {
                let protocol =
                    protocol.to_uppercase().parse().map_err(|error| anyhow!("{error}"))?;
                Ok(Self { number, protocol })
            }
            _ => bail!("expected a port from 1 to 65535, found {number:?}"),
        }
    }
}

/// A flow to ask about.
#[derive(Debug, Args)]
pub(super) struct FlowArgs {
    /// Who connects: [NAMESPACE/]POD, node/NAME or an IP address
    #[arg(long, value_name = "END")]
    from: String,
    /// Who is connected to: [NAMESPACE/]POD, NAMESPACE/svc/NAME, node/NAME or an IP address
    #[arg(long, value_name = "END")]
    to: String,
    /// Destination port, such as 8080 or 53/UDP; TCP unless given
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    port: Port,
}

/// A flow whose ends have been read.
#[derive(Debug)]
pub(super) struct Between {
    /// Who connects.
    pub from: NamedEnd,
    /// Who is connected to.
    pub to: NamedEnd,
    /// On which port.
    pub port: Port,
}

impl FlowArgs {
    /// Reads the ends; what names no namespace is in `namespace`.
    ///
    /// # Errors
    /// An end that cannot be read.
    pub(super) fn read(&self, namespace: Option<&str>) -> anyhow::Result<Between> {
        Ok(Between {
            from: NamedEnd::parse(&self.from, namespace).context("--from")?,
            to: NamedEnd::parse(&self.to, namespace).context("--to")?,
            port: self.port,
        })
    }
}
