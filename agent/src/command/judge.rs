//! What a question about a flow comes to: every packet that may come of it, judged.

use std::sync::Arc;

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
    service::{self, Course, Dial, Fate, Refusal, to_address, words},
    verdict::Question,
};

use super::{
    ends::{Between, Found, NamedEnd, Port, WrittenPort},
    messages::complain,
    source::ClusterArgs,
};
use crate::report::escape::shell_word;

/// How many remarks on ends there are at the most: with one for each of a hundred nodes nothing else
/// would be read.
const REMARKS_MAX: usize = 8;

/// How an address is judged.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct AddressArgs {
    /// Judge an address as it is in the packet, even if it is a Service's
    #[arg(long)]
    pub(super) as_is: bool,
}

impl AddressArgs {
    /// The command that prints the remedy of a flow, asked about as here, for anyone: the context of
    /// others may have another namespace.
    pub(super) fn fix_command(self, flow: &Between, cluster: &ClusterArgs) -> String {
        let namespace = flow.namespace_of_a_name().map(|name| format!(" -n {}", shell_word(name)));
        let engine = cluster.engine().map(|name| format!(" --engine {name}"));
        let as_is = self.as_is.then(|| " --as-is".to_owned());
        let flags: String = [namespace, engine, as_is].into_iter().flatten().collect();
        flow.query().fix_command() + &flags
    }
}

/// A question, answered.
pub(super) struct Judged {
    /// What may come of it.
    pub answer: Answer,
    /// What stands for it.
    pub diagnosis: Diagnosis,
    /// What is worth knowing of its ends.
    pub remarks: Vec<Remark>,
    /// The port asked about.
    pub port: Port,
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
    between: &Between,
    how: AddressArgs,
) -> anyhow::Result<Judged> {
    let Between { from, to, port, labels } = between;
    let clients = clients(snapshot, from).context(labels[0])?;
    let destination = to.find(snapshot).context(labels[1])?;
    let port = port_of(snapshot, port.as_ref(), &destination).context(labels[1])?;
    let to_service = match &destination {
        Found::Service(service) if !how.as_is => Some(service.clone()),
        _ => None,
    };
    let ends = ends(snapshot, &destination);
    let by_address = matches!(to, NamedEnd::Address(_) | NamedEnd::Node(_));
    let mut answer = Answer::default();
    for client in &clients {
        let dial = Dial { client, port: port.number, protocol: port.protocol };
        let mut courses = Vec::new();
        if let Some(service) = &to_service {
            courses = service::to_service(snapshot, &dial, service);
        } else {
            for end in ends.iter().filter(|end| is_of_one_family(client, end)) {
                let address = end.address.filter(|_| !how.as_is);
                match address.and_then(|to| to_address(snapshot, &dial, to, None)) {
                    Some(course) => courses.push(course),
                    None => add_packets(&mut answer, snapshot, from, &dial, end),
                }
            }
        }
        for course in courses {
            refuse(&course, port, by_address)?;
            let course = match from {
                NamedEnd::Address(_) => course,
                _ => course.of_any_address(snapshot),
            };
            answer.add_course(snapshot, course);
        }
    }
    let diagnosis = clients.first().and_then(|client| answer.diagnosis(snapshot, client));
    let Some(diagnosis) = diagnosis else {
        bail!("{from} and {to} have no address family in common");
    };
    let remarks = remarks(snapshot, between, &answer);
    Ok(Judged { answer, diagnosis, remarks, port, by_address })
}

/// Adds the packets to an end that is no Service's.
fn add_packets(
    answer: &mut Answer,
    snapshot: &Snapshot,
    from: &NamedEnd,
    dial: &Dial<'_>,
    end: &Endpoint,
) {
    let sources = sources(snapshot, from, dial.client, end);
    answer.is_one_of_ways |= sources.len() > 1;
    for source in sources {
        let question = Question::new(source, end.clone(), dial.port, dial.protocol);
        answer.add_packet(snapshot, question);
    }
}

/// What is worth knowing of the ends, those first that were asked about.
fn remarks(snapshot: &Snapshot, between: &Between, answer: &Answer) -> Vec<Remark> {
    let mut remarks: Vec<Remark> = [&between.from, &between.to]
        .into_iter()
        .filter_map(|end| host_network(snapshot, end))
        .collect();
    for question in answer.questions() {
        for remark in Remark::on(question) {
            if !remarks.contains(&remark) && remarks.len() < REMARKS_MAX {
                remarks.push(remark);
            }
        }
    }
    remarks
}

/// What packets to an end come from: those of a node that is named carry whichever of its addresses
/// the route there has.
fn sources(
    snapshot: &Snapshot,
    from: &NamedEnd,
    client: &Endpoint,
    to: &Endpoint,
) -> Vec<Endpoint> {
    let sources = match (from, &client.holder) {
        (NamedEnd::Address(_), _) => Vec::new(),
        (_, Holder::Node(node)) => snapshot.sources_of_node(node, to),
        _ => Vec::new(),
    };
    if sources.is_empty() { vec![client.clone()] } else { sources }
}

/// A pod in its node's network, which people take for a pod.
fn host_network(snapshot: &Snapshot, end: &NamedEnd) -> Option<Remark> {
    let NamedEnd::Pod(place) = end else { return None };
    let is_it = |pod: &&Arc<Pod>| {
        let namespace = place.namespace.as_deref();
        *pod.name == *place.name && namespace.is_none_or(|own| *own == *pod.namespace)
    };
    let pod = snapshot.pods().find(is_it).filter(|pod| pod.host_network)?;
    Some(Remark::HostNetwork { pod: pod.clone(), node: pod.node.clone()? })
}

/// Who may connect: of each pod one end for each family.
fn clients(snapshot: &Snapshot, from: &NamedEnd) -> anyhow::Result<Vec<Endpoint>> {
    match from.find(snapshot)? {
        Found::Service(service) => bail!(
            "a Service opens no connections; name a pod or a workload behind it, such as {}",
            behind(snapshot, &service)
        ),
        found => Ok(ends(snapshot, &found)),
    }
}

/// A pod that a Service selects, for a person.
fn behind(snapshot: &Snapshot, service: &Service) -> String {
    let is_selected =
        |pod: &&Arc<Pod>| pod.namespace == service.namespace && service.selects(&pod.labels);
    let first = snapshot.pods_and_templates().filter(is_selected).min_by_key(|pod| &pod.name);
    first.map_or_else(
        || format!("{}/POD", service.namespace),
        |pod| format!("{}/{}", pod.namespace, pod.name),
    )
}

/// The ends of packets that a destination, or a source, stands for.
fn ends(snapshot: &Snapshot, found: &Found) -> Vec<Endpoint> {
    match found {
        Found::Ends(ends) => sample(ends),
        Found::Address(address) => vec![snapshot.resolve(*address, None)],
        Found::Service(service) => {
            let addresses = service.cluster_addresses.iter();
            addresses.map(|address| snapshot.resolve(*address, None)).collect()
        }
    }
}

/// Whether a packet can have both for its ends.
fn is_of_one_family(client: &Endpoint, end: &Endpoint) -> bool {
    end.address.is_none_or(|address| client.may_be_of_family(address))
}

/// How many pods of a workload are asked about one by one. Pods of one template differ in their address
/// and their node; those that differ in more come first.
const SAMPLE_MAX: usize = 64;

/// All of some ends, or as many as are asked about.
fn sample(ends: &[Endpoint]) -> Vec<Endpoint> {
    if ends.len() <= SAMPLE_MAX {
        return ends.to_vec();
    }
    complain(&format!(
        "asked about {SAMPLE_MAX} of {} addresses of pods, those that differ by more than that first",
        ends.len()
    ));
    let mut seen = Vec::new();
    let is_new = |end: &&Endpoint| {
        let is =
            |pod: &Arc<Pod>| (pod.labels.clone(), pod.service_account.clone(), pod.ports.clone());
        let is = end.pod().map(is);
        let is_new = !seen.contains(&is);
        if is_new {
            seen.push(is);
        }
        is_new
    };
    let (new, like): (Vec<_>, Vec<_>) = ends.iter().partition(is_new);
    new.into_iter().chain(like).take(SAMPLE_MAX).cloned().collect()
}

/// The port, which the question names, or the destination by its name.
fn port_of(
    snapshot: &Snapshot,
    port: Option<&WrittenPort>,
    destination: &Found,
) -> anyhow::Result<Port> {
    match (port, destination) {
        (Some(port), destination) => port.of(snapshot, destination),
        (None, Found::Service(service)) => {
            let ports = service.ports.iter().map(|port| format!("{}/{}", port.port, port.protocol));
            let ports = ports.collect::<Vec<_>>().join(", ");
            bail!("the port is missing: {} has {ports}", words::name(service))
        }
        (None, _) => bail!("the port is missing"),
    }
}

/// What no packet comes of, as the question is wrong.
fn refuse(course: &Course, port: Port, by_address: bool) -> anyhow::Result<()> {
    let identity = words::identity(course).filter(|_| by_address);
    let identity = identity.map(|identity| format!("{identity}. ")).unwrap_or_default();
    match &course.fate {
        Fate::Refused { refusal: Refusal::NoPort, .. } => {
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
