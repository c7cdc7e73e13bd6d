//! From the agents' records to what the healer decides by.

use std::collections::BTreeMap;

use whydrop_core::{
    flow::{Flow, Protocol, Worked},
    heal::{
        Between, DropCause, DropReport, FlowPast, IncidentReport, IncidentState, PathName, Recovery,
    },
    incident::{HappenedKind, IncidentId},
    policy::{PolicyKind, PolicyRef},
    problem::{FieldPath, Problem},
};

use crate::report::{
    DropKind, DropRecord, ObjectRef, Word,
    incident::{IncidentRecord, IncidentResolution, PathEnd, RecoveredPath},
};

/// What a record says of an incident.
///
/// # Errors
/// The field that cannot be read.
pub(super) fn incident_report(record: &IncidentRecord) -> Result<IncidentReport, Problem> {
    let recovered = record.recovered.iter().map(recovered).filter_map(Result::transpose);
    Ok(IncidentReport {
        id: id("id", &record.id)?,
        node: record.node.as_str().into(),
        state: state(record),
        last: record.last.into(),
        severity: record.severity,
        confidence: record.confidence,
        client: record.affected.first().and_then(|path| namespace(&path.source)),
        recovered: recovered.collect::<Result<BTreeMap<_, _>, _>>()?,
    })
}

/// A path that is not cut any more; `None` where that is not since it passes or is allowed.
fn recovered(path: &RecoveredPath) -> Result<Option<(PathName, Recovery)>, Problem> {
    let at = match path.resolution {
        IncidentResolution::Passes { at } => Recovery::Passes(at.into()),
        IncidentResolution::Allowed => Recovery::Allowed,
        _ => return Ok(None),
    };
    let protocol = protocol("recovered.protocol", &path.protocol)?;
    Ok(Some((path_name(&path.source, &path.destination, path.port, protocol), at)))
}

fn path_name(source: &PathEnd, destination: &PathEnd, port: u16, protocol: Protocol) -> PathName {
    let [source, destination] = [source, destination].map(|end| end.name.as_str().into());
    PathName { source, destination, port, protocol }
}

fn namespace(end: &PathEnd) -> Option<std::sync::Arc<str>> {
    end.namespace.as_deref().map(Into::into)
}

fn protocol(field: &str, word: &Word<Protocol>) -> Result<Protocol, Problem> {
    let known = word.known().copied();
    known.ok_or_else(|| expected(field, "TCP, UDP or SCTP", &word.to_string()))
}

/// What a record says of a flow that was dropped; `None` where none was.
///
/// # Errors
/// The field that cannot be read.
pub(super) fn drop_report(record: &DropRecord) -> Result<Option<DropReport>, Problem> {
    if record.kind == DropKind::Finding {
        return Ok(None);
    }
    let (source, destination) = (&record.flow.source, &record.flow.destination);
    let address =
        |field: &str, text: &str| text.parse().map_err(|_| expected(field, "an address", text));
    let flow = Flow {
        source: address("flow.source.ip", &source.ip)?,
        destination: address("flow.destination.ip", &destination.ip)?,
        port: destination
            .port
            .ok_or_else(|| expected("flow.destination.port", "a port", "none"))?,
        protocol: protocol("flow.protocol", &record.flow.protocol)?,
    };
    let (client, server) = (PathEnd::from(source), PathEnd::from(destination));
    Ok(Some(DropReport {
        incident: id("incident", &record.incident)?,
        node: record.node.as_str().into(),
        flow,
        between: Between { client: namespace(&client), server: namespace(&server) },
        path: path_name(&client, &server, flow.port, flow.protocol),
        last: record.evidence.last.into(),
        past: past(record),
        cause: cause(record)?,
    }))
}

/// Why a flow was dropped.
fn cause(record: &DropRecord) -> Result<DropCause, Problem> {
    let cause = &record.cause;
    let class = cause.class.known().copied();
    Ok(DropCause {
        class: class.ok_or_else(|| expected("cause.class", "a class", &cause.class.to_string()))?,
        confidence: cause.confidence,
        policy: cause.policy.as_ref().and_then(policy),
        changed: cause.changed.as_ref().and_then(|changed| policy(&changed.object)),
        has_remedy: record.remedy.as_ref().is_some_and(|remedy| remedy.verified),
    })
}

/// What a record says of the time before the flow was denied. Of an agent that does not count, one
/// connection is known.
fn past(record: &DropRecord) -> FlowPast {
    let evidence = &record.evidence;
    let worked = evidence.last_success.map(|last| Worked {
        first: evidence.first_success.unwrap_or(last).into(),
        last: last.into(),
        connections: evidence.successes.max(1),
    });
    FlowPast { worked, denied_since: record.cause.denied_since.map(Into::into) }
}

fn state(record: &IncidentRecord) -> IncidentState {
    match (record.happened, &record.resolution) {
        (HappenedKind::Resolved, Some(IncidentResolution::Passes { at })) => {
            IncidentState::Passes((*at).into())
        }
        (HappenedKind::Resolved, Some(IncidentResolution::Allowed)) => IncidentState::Allowed,
        (HappenedKind::Resolved, _) => IncidentState::Silent,
        _ => IncidentState::Open,
    }
}

fn policy(reference: &ObjectRef) -> Option<PolicyRef> {
    let kind = PolicyKind::ALL.iter().copied().find(|kind| kind.name() == reference.kind)?;
    let namespace = reference.namespace.as_deref().map(Into::into);
    Some(PolicyRef { kind, namespace, name: reference.name.as_str().into() })
}

/// Reads the name of an incident.
///
/// # Errors
/// The field, with what it holds.
pub(super) fn id(field: &str, text: &str) -> Result<IncidentId, Problem> {
    let number = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
    number.map(IncidentId).ok_or_else(|| expected(field, "16 hex digits", text))
}

fn expected(field: &str, expected: &str, found: &str) -> Problem {
    FieldPath::root(field).expected(expected, found)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::report::Record;

    /// What the agent of `worker-1` reports about a dropped flow, with this of the time before.
    fn past_of(before: &Value) -> FlowPast {
        let mut record = json!({
            "schema": "whydrop/v1", "kind": "drop", "time": "2026-01-02T03:04:05.000000Z",
            "id": "00000000000000aa", "node": "worker-1", "primary": true,
            "flow": {"protocol": "TCP", "source": {"ip": "10.1.0.10"},
                     "destination": {"ip": "10.1.0.20", "port": 5432}},
            "evidence": {"level": "kernel-drop", "reason": "NETFILTER_DROP", "location": null,
                         "interface": null, "attempts": 3, "first": "2026-01-02T03:04:01Z",
                         "last": "2026-01-02T03:04:04Z", "last_success": null},
            "verdict": {"revision": 1, "exempt": null,
                        "egress": {"decision": "not-isolated", "layer": null, "isolating": [],
                                   "allowed_by": [], "denied_by": null},
                        "ingress": {"decision": "denied", "layer": "network-policy", "isolating": [],
                                    "allowed_by": [], "denied_by": null}},
            "cause": {"class": "default-deny", "direction": "ingress", "situation": null,
                      "policy": null, "nearest_miss": null, "changed": null, "confidence": 0.9,
                      "reasons": [], "text": ""},
            "remedy": null, "incident": "00000000000000bb",
        });
        for (part, fields) in before.as_object().expect("parts") {
            for (field, value) in fields.as_object().expect("fields") {
                record[part][field] = value.clone();
            }
        }
        let Ok(Record::Drop(record)) = serde_json::from_value(record) else { panic!("a drop") };
        let report =
            drop_report(&record).expect("it can be read").expect("a flow that was dropped");
        assert_eq!(&*report.node, "worker-1");
        report.past
    }

    #[test]
    fn what_there_was_before_a_flow_was_denied_is_read_as_facts() {
        let at = |text: &str| -> Timestamp { text.parse().expect("a time") };
        assert_eq!(past_of(&json!({})), FlowPast { worked: None, denied_since: None });
        let told = json!({
            "evidence": {"first_success": "2026-01-02T01:00:00Z", "successes": 7,
                         "last_success": "2026-01-02T03:00:00Z"},
            "cause": {"denied_since": "2026-01-02T03:04:00Z"},
        });
        let (first, last) = (at("2026-01-02T01:00:00Z"), at("2026-01-02T03:00:00Z"));
        let worked = Some(Worked { first, last, connections: 7 });
        let denied_since = Some(at("2026-01-02T03:04:00Z"));
        assert_eq!(past_of(&told), FlowPast { worked, denied_since });
        // An agent that does not count knows of the last one.
        let older = json!({"evidence": {"last_success": "2026-01-02T03:00:00Z"}});
        assert_eq!(
            past_of(&older),
            FlowPast { worked: Some(Worked::once(last)), denied_since: None }
        );
    }
}
