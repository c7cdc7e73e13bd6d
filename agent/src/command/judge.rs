//! What a question about a flow comes to: every packet that may come of it, judged.

use std::net::IpAddr;

use anyhow::{Context as _, bail};
use clap::Args;
use whydrop_core::{
    answer::Answer,
    cluster::{
        Snapshot,
        object::{Pod, Service, ServicePort, TargetPort},
        resolve::{Endpoint, Holder},
    },
    diagnosis::{Diagnosis, remark::Remark},
    flow::Protocol,
    service::{Course, Dial, Fate, to_address, to_service, words},
    verdict::Question,
};

use super::ends::{NamedEnd, Port};

/// How many remarks on ends there are at the most: with one for each of a hundred nodes nothing else
/// would be read.
const REMARKS_MAX: usize = 8;

/// How an address is judged.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct AddressArgs {
    /// Judge an address as it is in the packet, even if it is a Service's
    #[arg(long)]
    as_is: bool,
}

/// A question, answered.
pub(super) struct Judged {
    /// What may come of it.
    pub answer: Answer,
    /// What stands for it.
    pub diagnosis: Diagnosis,
    /// What is worth knowing of its ends.
    pub remarks: Vec<Remark>,
    /// Whether the destination was named by an address or a node.
    pub by_address: bool,
}

/// Judges a flow between two ends.
///
/// # Errors
/// An end that the cluster does not have, two that have no address family in common, a port that a
/// Service has not, and a Service that stands for a name.
pub(super) fn judge(
    snapshot: &Snapshot,
    from: &NamedEnd,
    to: &NamedEnd,
    port: Port,
    how: AddressArgs,
) -> anyhow::Result<Judged> {
    if let NamedEnd::Service(..) = from {
        bail!("from {from}: a Service opens no connections; name a pod behind it");
    }
    let clients = from.ends(snapshot).with_context(|| format!("from {from}"))?;
    let Port { number, protocol } = port;
    let by_address = matches!(to, NamedEnd::Address(_) | NamedEnd::Node(_));
    let mut answer = Answer::default();
    for client in &clients {
        let dial = Dial { client, port: number, protocol };
        let courses = match to.service(snapshot)? {
            Some(service) if !how.as_is => to_service(snapshot, &dial, service),
            service => {
                let addresses = match service {
                    Some(service) => service.cluster_addresses.clone(),
                    None => to.addresses(snapshot).with_context(|| format!("to {to}"))?,
                };
                let addresses =
                    addresses.into_iter().filter(|address| client.may_be_of_family(*address));
                addresses
                    .filter_map(|address| {
                        let course = || to_address(snapshot, &dial, address, None);
                        let course = (!how.as_is).then(course).flatten();
                        if course.is_none() {
                            let destination = snapshot.resolve(address, None);
                            for source in from.sources(snapshot, client, &destination) {
                                let destination = destination.clone();
                                let question = Question::new(source, destination, number, protocol);
                                answer.add_packet(snapshot, question);
                            }
                        }
                        course
                    })
                    .collect()
            }
        };
        for course in courses {
            refuse(&course, port, by_address)?;
            answer.add_course(
                snapshot,
                match from {
                    NamedEnd::Address(_) => course,
                    _ => course.of_any_address(snapshot),
                },
            );
        }
    }
    let diagnosis = clients.first().and_then(|client| answer.diagnosis(snapshot, client));
    let Some(diagnosis) = diagnosis else {
        bail!("{from} and {to} have no address family in common");
    };
    let mut remarks: Vec<Remark> =
        [from, to].into_iter().filter_map(|end| end.host_network(snapshot)).collect();
    for question in answer.questions() {
        for remark in Remark::on(question) {
            if !remarks.contains(&remark) && remarks.len() < REMARKS_MAX {
                remarks.push(remark);
            }
        }
    }
    Ok(Judged { answer, diagnosis, remarks, by_address })
}

/// What no packet comes of, as the question is wrong.
fn refuse(course: &Course, port: Port, by_address: bool) -> anyhow::Result<()> {
    let identity = words::identity(course).filter(|_| by_address);
    let identity = identity.map(|identity| format!("{identity}. ")).unwrap_or_default();
    match &course.fate {
        Fate::NoPort => {
            let hint = match port_to_try(&course.service, port) {
                Some(ServicePort { port, protocol: Protocol::Tcp, .. }) => {
                    format!(": try --port {port}")
                }
                Some(ServicePort { port, protocol, .. }) => {
                    format!(": try --port {port}/{protocol}")
                }
                None => String::new(),
            };
            bail!("{identity}{}{hint}", words::no_port(course))
        }
        Fate::Name(_) => {
            let why = words::fate(course).unwrap_or_default();
            bail!("{why}: ask about one of them, --to ADDRESS")
        }
        Fate::Sent(_) | Fate::Refused { .. } | Fate::Untranslated(_) | Fate::Unknown(_) => Ok(()),
    }
}

/// The port that was probably wanted: the one of another protocol, or that goes to the port of the pods
/// that was named, or the only one.
fn port_to_try(service: &Service, asked: Port) -> Option<&ServicePort> {
    let of_other_protocol = |own: &&ServicePort| own.port == asked.number;
    let goes_there = |own: &&ServicePort| own.target == TargetPort::Number(asked.number);
    let ports = || service.ports.iter();
    let only = ports().next().filter(|_| service.ports.len() == 1);
    ports().find(of_other_protocol).or_else(|| ports().find(goes_there)).or(only)
}

impl NamedEnd {
    /// The Service, if it is one.
    fn service<'a>(
        &self,
        snapshot: &'a Snapshot,
    ) -> anyhow::Result<Option<&'a std::sync::Arc<Service>>> {
        let Self::Service(namespace, name) = self else { return Ok(None) };
        match snapshot.service(namespace, name) {
            Some(service) => Ok(Some(service)),
            None => bail!("to {self}: no Service {namespace}/{name} among the objects"),
        }
    }

    /// What it may be as a source: one end for each address family.
    fn ends(&self, snapshot: &Snapshot) -> anyhow::Result<Vec<Endpoint>> {
        let addresses = self.addresses(snapshot)?;
        Ok(addresses.into_iter().map(|address| snapshot.resolve(address, None)).collect())
    }

    /// What packets to an end come from: those of a node carry whichever of its addresses the route
    /// there has.
    fn sources(&self, snapshot: &Snapshot, client: &Endpoint, to: &Endpoint) -> Vec<Endpoint> {
        match (self, &client.holder) {
            (Self::Address(_), _) => vec![client.clone()],
            (_, Holder::Node(node)) => snapshot.sources_of_node(node, to),
            _ => vec![client.clone()],
        }
    }

    /// A pod in its node's network, which people take for a pod.
    fn host_network(&self, snapshot: &Snapshot) -> Option<Remark> {
        let Self::Pod(namespace, name) = self else { return None };
        let pod = snapshot.pod(namespace, name).filter(|pod| pod.host_network)?;
        Some(Remark::HostNetwork { pod: pod.clone(), node: pod.node.clone()? })
    }

    /// Its addresses, the first of each family.
    fn addresses(&self, snapshot: &Snapshot) -> anyhow::Result<Vec<IpAddr>> {
        let (what, addresses) = match self {
            Self::Address(address) => return Ok(vec![*address]),
            Self::Service(..) => bail!("a Service is no end of a packet"),
            Self::Pod(namespace, name) => {
                let Some(pod) = snapshot.pod(namespace, name) else {
                    bail!("no pod {namespace}/{name} among the objects");
                };
                ("pod", Pod::clone(pod).addresses)
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
        let first = |is_v4: bool| addresses.iter().find(|a| a.is_ipv4() == is_v4).copied();
        let mut of_families: Vec<IpAddr> = [true, false].into_iter().filter_map(first).collect();
        // The family that is listed first is the cluster's own.
        of_families.sort_by_key(|address| addresses.iter().position(|own| own == address));
        Ok(of_families)
    }
}
