//! A record as one line for `kubectl logs`: what a tired person needs first, first.
//!
//! `TIME VERB SOURCE -> DESTINATION:PORT/PROTOCOL  CAUSE; EVIDENCE[; CHANGE][; fix: COMMAND]  [incident ID]`

use std::fmt::Write as _;

use super::{
    AgentRecord, AgentState, Changed, DropKind, DropRecord, End, Evidence, EvidenceLevel, Flow,
    MutedDrops, ObjectRef, Record,
    escape::{FIX, INCIDENT, name, phrase, shell_word, words},
    heal, incident,
};

/// How many characters of an id are shown: enough to tell a cluster's drops of a day apart.
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
        seconds(&record.time),
        destination_text(destination),
        name(&record.flow.protocol)
    );
    if let Some(service) = &destination.service {
        let _ = write!(
            line,
            " (Service {}/{}:{})",
            name(&service.namespace),
            name(&service.name),
            service.port
        );
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
        _ => name(&end.ip).into_owned(),
    }
}

/// The destination with its port; an IPv6 address stands in brackets.
pub fn destination_text(destination: &End) -> String {
    let name = end(destination);
    let port = destination.port.unwrap_or_default();
    if name.contains(':') { format!("[{name}]:{port}") } else { format!("{name}:{port}") }
}

fn evidence_text(record: &DropRecord) -> String {
    let evidence = &record.evidence;
    let Evidence { attempts, first, last, .. } = evidence;
    let seconds = span_secs(first, last);
    let packet = match &*record.flow.protocol {
        "TCP" => "SYN",
        "SCTP" => "INIT",
        _ => "packet",
    };
    let packets = format!("{attempts} {packet}{}", if *attempts == 1 { "" } else { "s" });
    if evidence.level == EvidenceLevel::Answered {
        return "it was answered".to_owned();
    }
    let mut text = match seconds {
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
    match &evidence.last_success {
        // Both are in the one form that sorts by time.
        Some(success) if success > last => {
            let _ = write!(text, "; works since {}", moment(success, record));
        }
        Some(success) => {
            let _ = write!(text, "; worked until {}", moment(success, record));
        }
        None => {}
    }
    text
}

fn changed_text(changed: &Changed, record: &DropRecord) -> String {
    let ObjectRef { kind, namespace, name, .. } = &changed.object;
    let is_cause = record.cause.policy.as_ref().is_some_and(|policy| {
        (&policy.kind, &policy.namespace, &policy.name) == (kind, namespace, name)
    });
    let object = match namespace {
        _ if is_cause => "policy".to_owned(),
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    };
    let at = moment(&changed.at, record);
    let difference = changed.difference.as_deref().map(|d| format!(" ({d})")).unwrap_or_default();
    format!("{object} {} {at}{difference}", changed.change)
}

/// The command that prints the remedy, for a shell.
pub fn fix_command(flow: &Flow) -> String {
    let (from, to, port) = asked(flow);
    fix_of(&from, &to, &port)
}

/// The command that prints the remedy of a flow in these words, for a shell.
pub fn fix_of(from: &str, to: &str, port: &str) -> String {
    let [from, to, port] = [from, to, port].map(shell_word);
    format!("whydrop fix --from {from} --to {to} --port {port}")
}

/// The flow as commands are asked about it: from whom, to whom (the Service, if that was dialled),
/// and on which port.
pub fn asked(flow: &Flow) -> (String, String, String) {
    let destination = &flow.destination;
    let to = match &destination.service {
        Some(service) => format!("{}/svc/{}", name(&service.namespace), name(&service.name)),
        None => end(destination),
    };
    let port = match &destination.service {
        Some(service) => service.port,
        None => destination.port.unwrap_or_default(),
    };
    (end(&flow.source), to, format!("{port}/{}", name(&flow.protocol)))
}

fn agent_line(record: &AgentRecord) -> String {
    let head = format!("{} AGENT node/{}", seconds(&record.time), name(&record.node));
    match &record.state {
        AgentState::Ready { version, kernel, interfaces, objects, cannot } => {
            let objects: Vec<_> =
                objects.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            let mut line = format!(
                "{head} ready: whydrop {version} on Linux {kernel}, attached to {} veth{}; knows {}",
                interfaces.len(),
                if interfaces.len() == 1 { "" } else { "s" },
                if objects.is_empty() { "no objects".to_owned() } else { objects.join(", ") }
            );
            for what in cannot {
                let _ = write!(line, "; cannot {what}");
            }
            line
        }
        AgentState::Degraded { what, since } => format!("{head} degraded since {since}: {what}"),
        AgentState::Lost { counts } => {
            let counts: Vec<_> =
                counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
            format!("{head} lost: {}", counts.join(", "))
        }
        AgentState::Folded { source, attempts, packets, example } => format!(
            "{head} folded: {} has {attempts} more attempts to many destinations or ports, \
             {packets} packets dropped, such as {example}",
            end(source)
        ),
        AgentState::Muted { since, muted } => {
            let muted: Vec<_> = muted.iter().map(muted_text).collect();
            format!("{head} muted since {}: {}", seconds(since), muted.join("; "))
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
    let (kind, name) = (kind.as_deref().unwrap_or(by), name(&muted.name));
    let reason =
        reason.as_deref().map(|reason| format!(" ({})", phrase(reason))).unwrap_or_default();
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    format!(
        "{reports} drop{} ({packets} packet{}) by {kind} {name}{reason}, such as {example}",
        plural(*reports),
        plural(*packets)
    )
}

/// `2026-01-02T03:04:05Z` of a time with a fraction.
pub fn seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{}Z", name(seconds)),
        None => name(time).into_owned(),
    }
}

/// The time of day; with the date, where that is another one than the record's.
fn moment(time: &str, record: &DropRecord) -> String {
    let same_day = time.get(..10) == record.time.get(..10);
    if same_day { clock(time) } else { seconds(time) }
}

/// `03:04:05`.
fn clock(time: &str) -> String {
    time.get(11..19).unwrap_or(time).to_owned()
}

fn span_secs(first: &str, last: &str) -> i64 {
    match (first.parse::<jiff::Timestamp>(), last.parse::<jiff::Timestamp>()) {
        (Ok(first), Ok(last)) => last.duration_since(first).as_secs(),
        _ => 0,
    }
}
