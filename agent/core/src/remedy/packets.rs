//! Which packets a question stands for.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use super::{NoRemedy, nodes, selection};
use crate::{
    cluster::{
        Snapshot,
        object::Pod,
        resolve::{Endpoint, Holder},
    },
    diagnosis::{Class, Diagnosis, Dialled},
    service::{Dial, to_address},
    verdict::{Decision, Question, evaluate},
};

/// How many replicas, backends or nodes are tried beside those that were asked about, of each side.
/// Beyond it another one shows nothing new: they are of one template.
const MORE_MAX: usize = 64;

/// The packets that a remedy is for.
pub(super) struct Packets {
    /// Those that were asked about.
    asked: Vec<Question>,
    /// Those of them that policies have to let pass.
    required: Vec<Question>,
    /// Others that the question stands for: the same between other backends, replicas and nodes.
    more: Vec<Question>,
    /// To how many ends there are packets that the question names itself: those of a Service.
    pub(super) backends: usize,
    /// Ends for which nothing was tried: backends that a rule denies, and those of which too little is
    /// known.
    pub(super) untried: Vec<String>,
}

impl Packets {
    /// Those that these diagnoses of one question stand for; the error: a rule denies one of them.
    /// Those of which it is unknown what policies say are not tried.
    pub(super) fn of(snapshot: &Snapshot, diagnoses: &[Diagnosis]) -> Result<Self, NoRemedy> {
        let mut packets = Self {
            asked: diagnoses.iter().map(|diagnosis| diagnosis.question.clone()).collect(),
            required: Vec::new(),
            more: Vec::new(),
            backends: 1,
            untried: Vec::new(),
        };
        for Diagnosis { question, verdict, cause, .. } in diagnoses {
            // What the specification exempts passes, unless it was seen not to.
            if verdict.exempt.is_some() && !cause.class.is_denial() {
                continue;
            }
            // What an engine accepts and does not enforce passes.
            if cause.class == Class::NotEnforced {
                continue;
            }
            if cause.class == Class::CannotTell {
                packets.untried.push(question.destination.to_string());
                continue;
            }
            if let Some(why) = NoRemedy::of_verdict(verdict) {
                return Err(why);
            }
            packets.required.push(question.clone());
        }
        for diagnosis in diagnoses.iter().filter(|diagnosis| diagnosis.cause.class.is_denial()) {
            packets.add_carried(snapshot, diagnosis);
        }
        if let [Diagnosis { question, service: Some(dialled), .. }] = diagnoses {
            packets.add_backends(snapshot, question, dialled);
        }
        // One that is asked for by two families is one.
        let names = packets.asked.iter().map(|asked| asked.destination.to_string());
        packets.backends = names.collect::<BTreeSet<_>>().len();
        for question in packets.required.clone() {
            packets.add_replicas(snapshot, &question);
        }
        packets.untried.sort();
        packets.untried.dedup();
        Ok(packets)
    }

    /// Those that were asked about.
    pub(super) fn asked(&self) -> impl Iterator<Item = &Question> {
        self.asked.iter()
    }

    /// Those that have to pass.
    pub(super) fn required(&self) -> impl Iterator<Item = &Question> {
        self.required.iter()
    }

    /// Those that are to pass as well, as far as additive rules can do it.
    pub(super) fn more(&self) -> impl Iterator<Item = &Question> {
        self.more.iter()
    }

    /// What a mesh sends instead, if policies deny that as well.
    fn add_carried(&mut self, snapshot: &Snapshot, diagnosis: &Diagnosis) {
        let Some(carried) = diagnosis.carried(snapshot) else { return };
        if self.required.contains(&carried) {
            return;
        }
        match standing(snapshot, &carried) {
            Standing::Passes => {}
            Standing::Denied => self.required.push(carried),
            Standing::Hopeless => {
                self.untried.push(format!("{} on {}", carried.destination, carried.port));
            }
        }
    }

    /// The other packets that may come of what was dialled: the next connection may go to any backend.
    fn add_backends(&mut self, snapshot: &Snapshot, asked: &Question, dialled: &Dialled) {
        let Dialled { address, port, .. } = dialled;
        let dial = Dial { client: &asked.source, port: *port, protocol: asked.protocol };
        let Some(course) = to_address(snapshot, &dial, *address, None) else { return };
        for packet in course.packets().iter().take(MORE_MAX) {
            for question in Question::of_packet(packet, asked.protocol) {
                if self.asked.contains(&question) {
                    continue;
                }
                match standing(snapshot, &question) {
                    Standing::Passes => {}
                    Standing::Denied => {
                        self.asked.push(question.clone());
                        self.required.push(question);
                    }
                    Standing::Hopeless => self.untried.push(question.destination.to_string()),
                }
            }
        }
    }

    /// The same from other pods of the client's workload, from the other nodes where a node is the
    /// client, and to other pods of the destination's; where an end is an API server, at the others.
    fn add_replicas(&mut self, snapshot: &Snapshot, question: &Question) {
        let Question { source, destination, .. } = question;
        let sources = match &source.holder {
            Holder::Node(node) => nodes::clients(snapshot, node, source.address)
                .addresses
                .into_iter()
                .filter(|address| source.may_be_of_family(*address))
                .map(|address| snapshot.resolve(address, None))
                .collect(),
            Holder::Outside => {
                other_api_servers(snapshot, source, &snapshot.api_server_addresses())
            }
            _ => replicas(snapshot, source),
        };
        let destinations = match &destination.holder {
            Holder::Node(_) | Holder::Outside => {
                let endpoints = snapshot.api_server_endpoints().into_iter();
                let answering = endpoints.filter(|(_, port)| *port == question.port);
                let answering: Vec<IpAddr> = answering.map(|(address, _)| address).collect();
                other_api_servers(snapshot, destination, &answering)
            }
            _ => replicas(snapshot, destination),
        };
        let of_sources = sources
            .into_iter()
            .map(|source| Question { source, ..question.clone() })
            .take(MORE_MAX);
        let of_destinations = destinations
            .into_iter()
            .map(|destination| Question { destination, ..question.clone() })
            .take(MORE_MAX);
        for question in of_sources.chain(of_destinations) {
            let is_known = self.required.contains(&question) || self.more.contains(&question);
            if !is_known && matches!(standing(snapshot, &question), Standing::Denied) {
                self.more.push(question);
            }
        }
    }
}

/// How a packet fares by the policies.
enum Standing {
    Passes,
    /// No rule admits it, and one could.
    Denied,
    /// A rule denies it, or not enough is known.
    Hopeless,
}

fn standing(snapshot: &Snapshot, question: &Question) -> Standing {
    let is_unknown = |end: &Endpoint| {
        matches!(end.holder, Holder::Unknown(_) | Holder::Service(_) | Holder::Hidden(_))
    };
    if is_unknown(&question.source) || is_unknown(&question.destination) {
        return Standing::Hopeless;
    }
    let verdict = evaluate(snapshot, question);
    match verdict.decision() {
        _ if verdict.exempt.is_some() => Standing::Passes,
        Decision::Allowed | Decision::NotIsolated => Standing::Passes,
        Decision::Denied if NoRemedy::of_verdict(&verdict).is_none() => Standing::Denied,
        Decision::Denied | Decision::Unknown => Standing::Hopeless,
    }
}

/// The other pods of an end's workload, at their addresses of the same family, in the order of their
/// names.
fn replicas(snapshot: &Snapshot, end: &Endpoint) -> Vec<Endpoint> {
    let Some(pod) = end.pod() else { return Vec::new() };
    let is_other = |other: &&Arc<Pod>| other.name != pod.name && !other.host_network;
    let mut others: Vec<_> = selection::replicas(snapshot, pod).filter(is_other).collect();
    others.sort_by(|a, b| a.name.cmp(&b.name));
    others.into_iter().filter_map(|pod| end_like(pod, end)).collect()
}

/// The other API servers of these addresses, of the same family, where an end is one of them.
fn other_api_servers(snapshot: &Snapshot, end: &Endpoint, all: &[IpAddr]) -> Vec<Endpoint> {
    if !end.address.is_some_and(|address| all.contains(&address)) {
        return Vec::new();
    }
    let others = all.iter().filter(|other| Some(**other) != end.address);
    let of_family = others.filter(|other| end.may_be_of_family(**other));
    of_family.map(|address| snapshot.resolve(*address, None)).collect()
}

/// A pod where this end is: with its address of the same family.
pub(super) fn end_like(pod: &Arc<Pod>, end: &Endpoint) -> Option<Endpoint> {
    let address = *pod.addresses.iter().find(|address| end.may_be_of_family(**address))?;
    Some(Endpoint { address: Some(address), holder: Holder::Pod(pod.clone()) })
}
