//! From the agents' records to what the healer decides by.

use std::collections::BTreeSet;

use jiff::Timestamp;
use whydrop_core::{
    diagnosis::Class,
    flow::{Flow, Worked},
    heal::{Died, Past, State, Told},
    incident::{self, IncidentId},
    policy::{PolicyKind, PolicyRef},
};

use crate::report::{
    DropKind, DropRecord, ObjectRef,
    incident::{IncidentHappened, IncidentRecord, IncidentResolution, Severity},
};

/// What a record says of an incident; an error names the field that cannot be read.
pub(super) fn told(record: &IncidentRecord) -> Result<Told, String> {
    let class = Class::ALL.into_iter().find(|class| class.name() == record.cause.class);
    let ends = record.affected.iter().flat_map(|path| [&path.source, &path.destination]);
    let namespaces = ends.filter_map(|end| end.namespace.as_deref());
    let of_policies = record.cause.responsible.iter().filter_map(|p| p.namespace.as_deref());
    let verified = |step: &crate::report::incident::PlanStep| {
        step.step == "apply" && step.remedy.as_ref().is_some_and(|remedy| remedy.verified)
    };
    Ok(Told {
        id: id("id", &record.id)?,
        node: record.node.as_str().into(),
        state: state(record)?,
        first: time("first", &record.first)?,
        last: time("last", &record.last)?,
        severity: match record.severity {
            Severity::Info => incident::Severity::Info,
            Severity::Warning => incident::Severity::Warning,
            Severity::Critical => incident::Severity::Critical,
        },
        confidence: record.confidence,
        class: class.ok_or_else(|| format!("cause.class: {} is not known", record.cause.class))?,
        responsible: record.cause.responsible.iter().filter_map(policy).collect(),
        namespaces: namespaces.chain(of_policies).map(Into::into).collect::<BTreeSet<_>>(),
        has_remedy: record.plan.iter().any(verified),
    })
}

/// What a record says of a flow that died; `None` where none did.
pub(super) fn died(record: &DropRecord) -> Result<Option<Died>, String> {
    if record.kind == DropKind::Finding {
        return Ok(None);
    }
    let (source, destination) = (&record.flow.source, &record.flow.destination);
    let address = |field: &str, text: &str| {
        text.parse().map_err(|_| format!("{field}: expected an address, found {text}"))
    };
    let flow = Flow {
        source: address("flow.source.ip", &source.ip)?,
        destination: address("flow.destination.ip", &destination.ip)?,
        port: destination.port.ok_or("flow.destination.port: expected a port, found none")?,
        protocol: record.flow.protocol.parse().map_err(|why| format!("flow.protocol: {why}"))?,
    };
    Ok(Some(Died {
        incident: id("incident", &record.incident)?,
        node: record.node.as_str().into(),
        flow,
        last: time("evidence.last", &record.evidence.last)?,
        past: past(record)?,
    }))
}

/// What a record says of the time before the flow was denied. Of an agent that does not count, one
/// connection is known.
fn past(record: &DropRecord) -> Result<Past, String> {
    let evidence = &record.evidence;
    let optional = |field: &str, text: &Option<String>| {
        text.as_deref().map(|text| time(field, text)).transpose()
    };
    let first = optional("evidence.first_success", &evidence.first_success)?;
    let last = optional("evidence.last_success", &evidence.last_success)?;
    let worked = last.map(|last| Worked {
        first: first.unwrap_or(last),
        last,
        connections: evidence.successes.max(1),
    });
    let denied_since = optional("cause.denied_since", &record.cause.denied_since)?;
    Ok(Past { worked, denied_since })
}

fn state(record: &IncidentRecord) -> Result<State, String> {
    Ok(match (record.happened, &record.resolution) {
        (IncidentHappened::Resolved, Some(IncidentResolution::Passes { at })) => {
            State::Passes(time("resolution.at", at)?)
        }
        (IncidentHappened::Resolved, Some(IncidentResolution::Allowed)) => State::Allowed,
        (IncidentHappened::Resolved, _) => State::Silent,
        _ => State::Open,
    })
}

fn policy(reference: &ObjectRef) -> Option<PolicyRef> {
    let kind = PolicyKind::ALL.into_iter().find(|kind| kind.name() == reference.kind)?;
    let namespace = reference.namespace.as_deref().map(Into::into);
    Some(PolicyRef { kind, namespace, name: reference.name.as_str().into() })
}

/// Reads the name of an incident.
pub(super) fn id(field: &str, text: &str) -> Result<IncidentId, String> {
    let number = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
    number.map(IncidentId).ok_or_else(|| format!("{field}: expected 16 hex digits, found {text}"))
}

fn time(field: &str, text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| format!("{field}: expected a time of RFC 3339, found {text}"))
}
