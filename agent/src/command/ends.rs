//! The ends of a flow as people name them.

use std::{fmt, net::IpAddr, str::FromStr};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use whydrop_core::{
    cluster::{Snapshot, object::Service},
    diagnosis::{Case, Class, Diagnosis, Fate, diagnose},
    flow::{Flow, Protocol},
    verdict::Decision,
};

use crate::report::text::FlowQuery;

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
                (Ok(address), _) => return Ok(Self::Address(address)),
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
    /// The flow in the words that it was asked about in.
    pub(super) fn query(&self) -> FlowQuery {
        let Self { from, to, port: Port { number, protocol } } = self;
        FlowQuery { from: from.clone(), to: to.clone(), port: format!("{number}/{protocol}") }
    }

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

/// Judges a flow between two ends.
///
/// # Errors
/// An end that the cluster does not have, or two that have no address family in common.
pub(super) fn judge(
    snapshot: &Snapshot,
    from: &NamedEnd,
    to: &NamedEnd,
    port: Port,
) -> anyhow::Result<Diagnosis> {
    if let NamedEnd::Service(..) = from {
        bail!("from {from}: a Service opens no connections; name a pod behind it");
    }
    let sources = from.addresses(snapshot).with_context(|| format!("from {from}"))?;
    let (destinations, number) = match headless(snapshot, to)? {
        Some(service) => backends(snapshot, service, port)?,
        None => (to.addresses(snapshot).with_context(|| format!("to {to}"))?, port.number),
    };
    let mut pairs = sources.iter().flat_map(|s| destinations.iter().map(move |d| (*s, *d)));
    let Some((source, destination)) = pairs.find(|(s, d)| s.is_ipv4() == d.is_ipv4()) else {
        bail!("{from} and {to} have no address family in common");
    };
    let flow = Flow { source, destination, port: number, protocol: port.protocol };
    let mut diagnosis =
        diagnose(snapshot, &Case { flow, dialled: None, at: None, fate: Fate::Asked });
    if let NamedEnd::Address(_) = to {
        // Asked about an address: judged as a packet with that address, not as the Service's.
        diagnosis = diagnosis.untranslated(snapshot, &flow);
    }
    Ok(diagnosis)
}

fn service<'a>(snapshot: &'a Snapshot, namespace: &str, name: &str) -> anyhow::Result<&'a Service> {
    match snapshot.service(namespace, name) {
        Some(service) => Ok(service),
        None => bail!("no Service {namespace}/{name} among the objects"),
    }
}

/// The Service, if the end is one without an address of its own.
fn headless<'a>(snapshot: &'a Snapshot, end: &NamedEnd) -> anyhow::Result<Option<&'a Service>> {
    let NamedEnd::Service(namespace, name) = end else { return Ok(None) };
    let service = service(snapshot, namespace, name)?;
    Ok(service.addresses.is_empty().then_some(service))
}

fn backends(
    snapshot: &Snapshot,
    service: &Service,
    port: Port,
) -> anyhow::Result<(Vec<IpAddr>, u16)> {
    let families: [IpAddr; 2] = [[0, 0, 0, 0].into(), [0; 16].into()];
    let backends = families
        .into_iter()
        .flat_map(|family| snapshot.backends(service, port.number, port.protocol, family));
    let backends: Vec<_> = backends.collect();
    let Some(first) = backends.first() else {
        bail!(
            "Service {}/{} has no backend for port {}/{}",
            service.namespace,
            service.name,
            port.number,
            port.protocol
        );
    };
    Ok((backends.iter().filter_map(|backend| backend.endpoint.address).collect(), first.port))
}

impl NamedEnd {
    fn addresses(&self, snapshot: &Snapshot) -> anyhow::Result<Vec<IpAddr>> {
        let (what, addresses) = match self {
            Self::Address(address) => return Ok(vec![*address]),
            Self::Pod(namespace, name) => {
                let Some(pod) = snapshot.pod(namespace, name) else {
                    bail!("no pod {namespace}/{name} among the objects");
                };
                ("pod", pod.addresses.clone())
            }
            Self::Service(namespace, name) => {
                ("Service", service(snapshot, namespace, name)?.addresses.clone())
            }
            Self::Node(name) => {
                let Some(node) = snapshot.node(name) else {
                    bail!("no node {name} among the objects");
                };
                ("node", node.listed_addresses().collect())
            }
        };
        if addresses.is_empty() {
            bail!("the {what} has no address (not started, or finished)");
        }
        Ok(addresses)
    }
}

/// Whether a flow gets through, in the words of `check`: what the specification exempts passes.
pub(super) fn effective(diagnosis: &Diagnosis) -> &'static str {
    match diagnosis.verdict.decision() {
        _ if diagnosis.verdict.exempt.is_some() => "allow",
        // The engine accepts policies and enforces none.
        _ if diagnosis.cause.class == Class::NotEnforced => "allow",
        Decision::Denied => "deny",
        Decision::Unknown => "unknown",
        Decision::Allowed | Decision::NotIsolated => "allow",
    }
}
