//! A record as one line for `kubectl logs`: what a tired person needs first, first.
//!
//! `TIME VERB SOURCE -> DESTINATION:PORT/PROTOCOL  CAUSE; EVIDENCE[; CHANGE][; fix: COMMAND]  [incident ID]`

mod heal;
mod incident;

use std::{fmt::Write as _, str::FromStr as _};

use whydrop_core::{
    cluster::object::WorkloadKind,
    correlate::EvidenceLevel,
    flow::Protocol,
    service::EntryKind,
    verdict::{Decision, Exemption},
};

use crate::{
    escape::{FIX, INCIDENT, name, phrase, shell_word, words},
    incident::IncidentResolution,
    record::Record,
    schema::{
        AgentRecord, AgentState, Changed, DropKind, DropRecord, End, Evidence, Flow, MutedDrops,
        ObjectRef, Service,
    },
    time::Time,
    word::Word,
};

pub use heal::sentence as heal_sentence;

/// How many characters of an id are shown: enough to keep a cluster's drops of a day apart.
pub const ID_SHOWN: usize = 8;

/// As much of an id as is shown.
pub fn short(id: &str) -> String {
    id.chars().take(ID_SHOWN).collect()
}

/// A number and its noun: `1 drop`, `3 drops`.
pub fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Writes a record as one line, without the newline. But for the command of a drop and its incident,
/// nothing in it can look like these, whatever objects say.
pub fn line(record: &Record) -> String {
    match record {
        Record::Drop(drop) => words(&drop_words(drop)).into_owned() + &drop_end(drop),
        Record::Incident(incident) => words(&incident::line(incident)).into_owned(),
        Record::Heal(heal) => words(&heal::line(heal)).into_owned(),
        Record::Agent(agent) => words(&agent_line(agent)).into_owned(),
    }
}

/// What leads up to the command.
fn drop_words(record: &DropRecord) -> String {
    let verb = match (record.kind, record.evidence.level) {
        (DropKind::Finding, _) => "FINDING",
        (DropKind::Drop, EvidenceLevel::Rejected) => "REJECT",
        (DropKind::Drop, _) => "DROP",
    };
    let source = end(&record.flow.source);
    let destination = &record.flow.destination;
    let mut line = format!(
        "{} {verb} {source} -> {}/{}",
        record.time.seconds(),
        destination_text(destination),
        name(&record.flow.protocol.to_string())
    );
    if let Some(service) = &destination.service {
        let _ = write!(line, " ({})", service_text(service));
    }
    let evidence = evidence_text(record);
    let _ = write!(line, "  {}; {evidence}", record.cause.text);
    if let Some(node) = record.flow.destination.node.as_deref().filter(|_| !record.primary) {
        let _ = write!(line, "; see the agent of node {}", name(node));
    }
    if let Some(changed) = &record.cause.changed {
        let _ = write!(line, "; {}", changed_text(changed, record));
    }
    line
}

/// `Service mart/web:80`, or by which other address or port it was dialled:
/// `Service mart/web:80 via load balancer 198.51.100.8`, `Service mart/web via NodePort 30080 of node/n2`.
pub fn service_text(service: &Service) -> String {
    let Service { namespace, name: own, ip, port, by, node } = service;
    let own = format!("Service {}/{}", name(namespace), name(own));
    match (by.as_ref().and_then(Word::known), node) {
        (Some(EntryKind::NodePort), Some(node)) => {
            format!("{own} via NodePort {port} of node/{}", name(node))
        }
        (Some(EntryKind::NodePort), None) => format!("{own} via NodePort {port} of {}", name(ip)),
        (Some(EntryKind::Balancer), _) => format!("{own}:{port} via load balancer {}", name(ip)),
        (Some(EntryKind::External), _) => format!("{own}:{port} via external address {}", name(ip)),
        (Some(EntryKind::Cluster | EntryKind::Headless) | None, _) => format!("{own}:{port}"),
    }
}

/// The command, where there is a remedy, and the incident.
fn drop_end(record: &DropRecord) -> String {
    let incident = short(&record.incident);
    let command = match &record.remedy {
        Some(_) => format!("{FIX}{}", fix_command(&record.flow)),
        None => String::new(),
    };
    format!("{command}{INCIDENT}{}]", name(&incident))
}

/// The end's name, or its address where it has none.
pub fn end(end: &End) -> String {
    match (&end.namespace, &end.pod, &end.node) {
        (Some(namespace), Some(pod), _) => format!("{}/{}", name(namespace), name(pod)),
        (_, _, Some(node)) => format!("node/{}", name(node)),
        _ => without_pod(end),
    }
}

/// The end's address; of one without, the workload whose template it is, or the Service of which nothing
/// may be read.
fn without_pod(end: &End) -> String {
    match (&end.namespace, &end.workload, &end.service) {
        _ if !end.ip.is_empty() => name(&end.ip).into_owned(),
        (Some(namespace), Some(workload), _) => {
            let kind = WorkloadKind::from_str(&workload.kind).map(WorkloadKind::short);
            let kind = kind.unwrap_or(&workload.kind);
            format!("{}/{}/{}", name(namespace), name(kind), name(&workload.name))
        }
        (_, _, Some(service)) => {
            format!("{}/svc/{}", name(&service.namespace), name(&service.name))
        }
        _ => String::new(),
    }
}

/// The destination with its port; an IPv6 address is in brackets.
pub fn destination_text(destination: &End) -> String {
    let name = end(destination);
    let port = destination.port.unwrap_or_default();
    if name.contains(':') { format!("[{name}]:{port}") } else { format!("{name}:{port}") }
}

fn evidence_text(record: &DropRecord) -> String {
    let evidence = &record.evidence;
    let Evidence { attempts, first, last, .. } = evidence;
    let packets = count(*attempts, packet(&record.flow));
    if evidence.level == EvidenceLevel::Answered {
        return "it was answered".to_owned();
    }
    let mut text = match last.timestamp().duration_since(first.timestamp()).as_secs() {
        0 => packets,
        seconds => format!("{packets} in {seconds}s"),
    };
    match (evidence.level, &evidence.reason) {
        (EvidenceLevel::Unanswered, _) => text += ", no answer",
        (_, Some(reason)) => {
            let _ = write!(text, ", {reason}");
        }
        (_, None) => {}
    }
    if let Some(rejection) = &evidence.rejection {
        let _ = write!(text, ", {rejection}");
    }
    if let Some(share) = share_text(evidence, packet(&record.flow)) {
        let _ = write!(text, ", {share}");
    }
    match &evidence.last_success {
        Some(success) if success > last => {
            let _ = write!(text, "; works since {}", moment(*success, record));
        }
        Some(success) => {
            let _ = write!(text, "; worked until {}", moment(*success, record));
        }
        None => {}
    }
    text
}

/// `21 of 36 connects needed a second SYN`; `None`: none did.
pub fn share_text(evidence: &Evidence, packet: &str) -> Option<String> {
    let needed = Some(evidence.needed_again).filter(|needed| *needed > 0)?;
    Some(match evidence.connects {
        Some(all) => format!("{needed} of {} needed a second {packet}", count(all, "connect")),
        None => format!("{} needed a second {packet}", count(needed, "connect")),
    })
}

fn changed_text(changed: &Changed, record: &DropRecord) -> String {
    let ObjectRef { kind, namespace, name, .. } = &changed.object;
    let is_cause = record.cause.policy.as_ref().is_some_and(|policy| {
        (&policy.kind, &policy.namespace, &policy.name) == (kind, namespace, name)
    });
    let object = if is_cause { "policy".to_owned() } else { object(&changed.object) };
    let at = moment(changed.at, record);
    let difference = changed.difference.as_deref().map(|d| format!(" ({d})")).unwrap_or_default();
    let change = match &changed.change {
        Word::Known(kind) => kind.name().to_owned(),
        Word::Other(word) => word.clone(),
    };
    format!("{object} {change} {at}{difference}")
}

/// The command that prints the remedy, for a shell.
pub fn fix_command(flow: &Flow) -> String {
    FlowQuery::of(flow).fix_command()
}

/// The command that prints the remedy of a drop or an incident.
pub fn fix_by_id(id: &str) -> String {
    format!("whydrop fix {}", short(id))
}

/// A flow as commands are asked about it: in the words of `--from`, `--to` and `--port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowQuery {
    /// Who connects.
    pub from: String,
    /// Who is connected to: the Service, the node or the address, as it was dialled.
    pub to: String,
    /// `8080/TCP`; empty where the end that is connected to has it behind it.
    pub port: String,
}

impl FlowQuery {
    /// The flow of a record.
    pub fn of(flow: &Flow) -> Self {
        let destination = &flow.destination;
        let to = match &destination.service {
            Some(Service {
                by: Some(Word::Known(EntryKind::NodePort)), node: Some(node), ..
            }) => {
                format!("node/{}", name(node))
            }
            Some(Service { by: Some(_), ip, .. }) if !ip.is_empty() => name(ip).into_owned(),
            Some(service) => format!("{}/svc/{}", name(&service.namespace), name(&service.name)),
            None => end(destination),
        };
        let port = match &destination.service {
            Some(service) => service.port,
            None => destination.port.unwrap_or_default(),
        };
        Self {
            from: end(&flow.source),
            to,
            port: format!("{port}/{}", name(&flow.protocol.to_string())),
        }
    }

    /// The command that prints the remedy, for a shell.
    pub fn fix_command(&self) -> String {
        let [from, to, port] = [&self.from, &self.to, &self.port].map(|text| shell_word(text));
        match self.port.is_empty() {
            true => format!("whydrop fix --from {from} --to {to}"),
            false => format!("whydrop fix --from {from} --to {to} --port {port}"),
        }
    }
}

/// `NetworkPolicy backend/default-deny`.
pub fn object(object: &ObjectRef) -> String {
    let ObjectRef { kind, namespace, name, .. } = object;
    match namespace {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

/// What a direction came to.
pub const fn decision(decision: Decision) -> &'static str {
    match decision {
        Decision::NotIsolated => "no policy governs it",
        Decision::Allowed => "allowed",
        Decision::Denied => "denied",
        Decision::Unknown => "cannot tell",
    }
}

/// Why policies do not matter for a flow.
pub const fn exemption(exemption: Exemption) -> &'static str {
    match exemption {
        Exemption::SamePod => "a pod reaches itself",
        Exemption::LocalNode => "a node and its own pods reach each other",
    }
}

/// Why an incident is over.
pub fn resolution(resolution: Option<&IncidentResolution>) -> String {
    match resolution {
        Some(IncidentResolution::Passes { at }) => {
            format!("traffic passes since {}", at.seconds())
        }
        Some(IncidentResolution::Allowed) => "policies allow it now".to_owned(),
        Some(IncidentResolution::Gone) => {
            "nobody attempts it any more, its pods are gone".to_owned()
        }
        Some(IncidentResolution::Muted) => "it is muted, and goes on".to_owned(),
        Some(IncidentResolution::Silence) | None => "nobody attempts it now".to_owned(),
    }
}

/// What else a remedy allows, and between whom, as far as that is known.
pub fn newly_allowed(number: usize, paths: &[String]) -> String {
    let mut text = match number {
        0 => return "newly allows nothing else".to_owned(),
        1 => "newly allows 1 other pair of ends".to_owned(),
        number => format!("newly allows {number} other pairs of ends"),
    };
    if let [first, others @ ..] = paths {
        let _ = write!(text, ": {}", phrase(first));
        for path in others {
            let _ = write!(text, ", {}", phrase(path));
        }
    }
    text
}

/// What the packets of an attempt are called.
pub fn packet(flow: &Flow) -> &'static str {
    match flow.protocol {
        Word::Known(Protocol::Tcp) => "SYN",
        Word::Known(Protocol::Sctp) => "INIT",
        Word::Known(Protocol::Udp) | Word::Other(_) => "packet",
    }
}

fn agent_line(record: &AgentRecord) -> String {
    let head = format!("{} AGENT node/{}", record.time.seconds(), name(&record.node));
    match &record.state {
        AgentState::Ready { version, kernel, interfaces, objects, cannot } => {
            let objects: Vec<_> =
                objects.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            let mut line = format!(
                "{head} ready: whydrop {version} on Linux {kernel}, attached to {}; knows {}",
                count(interfaces.len() as u64, "veth"),
                if objects.is_empty() { "no objects".to_owned() } else { objects.join(", ") }
            );
            for what in cannot {
                let _ = write!(line, "; cannot {what}");
            }
            line
        }
        AgentState::Degraded { what, since } => {
            format!("{head} degraded since {}: {what}", since.seconds())
        }
        AgentState::Lost { counts } => {
            let counts: Vec<_> =
                counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
            format!("{head} lost: {}", counts.join(", "))
        }
        AgentState::Folded { source, by, attempts, packets, example } => {
            let others = by.as_ref().map(|by| format!(" and others by {}", words(by)));
            format!(
                "{head} folded: {}{} has {attempts} more attempts to many destinations or ports, \
                 {packets} packets dropped, such as {example}",
                end(source),
                others.unwrap_or_default()
            )
        }
        AgentState::Muted { since, muted } => {
            let muted: Vec<_> = muted.iter().map(muted_text).collect();
            format!("{head} muted since {}: {}", since.seconds(), muted.join("; "))
        }
        AgentState::Stopping { why, counts } => {
            let mut line = format!("{head} stopping: {why}");
            for (what, count) in counts.iter().filter(|(_, count)| **count > 0) {
                let _ = write!(line, "; {count} {what}");
            }
            line
        }
    }
}

/// `3 drops (9 packets) by NetworkPolicy shop/locked (REASON), such as FLOW`.
fn muted_text(muted: &MutedDrops) -> String {
    let MutedDrops { by, kind, reason, reports, packets, example, .. } = muted;
    let (by, name) = (kind.clone().unwrap_or_else(|| by.to_string()), name(&muted.name));
    let reason =
        reason.as_deref().map(|reason| format!(" ({})", phrase(reason))).unwrap_or_default();
    let (drops, packets) = (count(*reports, "drop"), count(*packets, "packet"));
    format!("{drops} ({packets}) by {by} {name}{reason}, such as {example}")
}

/// The time of day; with the date, where that is another one than the record's.
fn moment(time: Time, record: &DropRecord) -> String {
    let day = |time: Time| time.timestamp().strftime("%F").to_string();
    match day(time) == day(record.time) {
        true => time.timestamp().strftime("%T").to_string(),
        false => time.seconds(),
    }
}
