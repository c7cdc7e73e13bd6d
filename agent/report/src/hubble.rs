//! Drops in the form of Hubble's flow export, for what reads that already.
//!
//! The shape is that of Cilium's `api/v1/flow/flow.proto` and `api/v1/observer/observer.proto`, as
//! protojson writes them with their own field names: a field without a value is left out. What
//! differs from Hubble's own is in `docs/hubble.md`.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use whydrop_core::{
    cluster::object::Pod,
    diagnosis::Class,
    flow::{Direction, Protocol},
    verdict::Question,
};

use crate::{
    record::Record,
    schema::{DirectionVerdict, DropKind, DropRecord, End, ObjectRef},
    word::Word,
};

/// Cilium's reasons (`flow.proto`, `DropReason`): no rule let it pass, or a rule denied it.
const POLICY_DENIED: (u8, &str) = (133, "POLICY_DENIED");
const POLICY_DENY: (u8, &str) = (181, "POLICY_DENY");

/// The type of events about drops (`pkg/monitor/api`, `MessageTypeDrop`).
const DROP_EVENT: u8 = 1;

/// Identities that Cilium reserves, and their labels (`pkg/identity`).
const HOST: (u32, &str) = (1, "reserved:host");
const WORLD: (u32, &str) = (2, "reserved:world");
const REMOTE_NODE: (u32, &str) = (6, "reserved:remote-node");

/// The pods at a flow's ends, where it ends at pods: Hubble shows their labels, which no record holds.
#[derive(Clone, Debug, Default)]
pub struct Pods {
    /// The one that connects.
    pub source: Option<Arc<Pod>>,
    /// The one that is connected to.
    pub destination: Option<Arc<Pod>>,
}

impl Pods {
    /// Those of a flow that policies were asked about.
    pub fn of(question: &Question) -> Self {
        let Question { source, destination, .. } = question;
        Self { source: source.pod().cloned(), destination: destination.pod().cloned() }
    }
}

/// A record as a flow, with the labels of these pods; `None`: Hubble has nothing like it.
pub fn flow(record: &Record, pods: &Pods) -> Option<Value> {
    match record {
        Record::Drop(drop) if drop.kind == DropKind::Drop => Some(pruned(exported(drop, pods))),
        Record::Drop(_) | Record::Incident(_) | Record::Heal(_) | Record::Agent(_) => None,
    }
}

fn exported(record: &DropRecord, pods: &Pods) -> Value {
    let time = canonical(record.evidence.last.into());
    let DropRecord { flow, cause, verdict, .. } = record;
    let (source, destination) = (&flow.source, &flow.destination);
    let reason = reason(record);
    let denied = |direction: Direction, verdict: &DirectionVerdict| {
        (cause.direction == Some(direction) && reason.is_some()).then(|| policies(verdict))
    };
    let allowed = |verdict: &DirectionVerdict| -> Vec<Value> {
        verdict.allowed_by.iter().map(|rule| policy(&rule.policy)).collect()
    };
    let is_known = cause.class != Class::CannotTell;
    json!({
        "flow": {
            "time": time,
            "uuid": uuid(record),
            "verdict": "DROPPED",
            "drop_reason": reason.map(|(number, _)| number),
            "drop_reason_desc": reason.map(|(_, name)| name),
            "IP": {
                "source": source.ip,
                "destination": destination.ip,
                "ipVersion": if source.ip.contains(':') { "IPv6" } else { "IPv4" },
            },
            "l4": l4(&flow.protocol, destination.port),
            "source": endpoint(source, pods.source.as_deref(), &record.node, is_known),
            "destination": endpoint(destination, pods.destination.as_deref(), &record.node, is_known),
            "Type": "L3_L4",
            "node_name": record.node,
            "event_type": reason.map(|(number, _)| json!({"type": DROP_EVENT, "sub_type": number})),
            "destination_service": destination.service.as_ref().map(|service| {
                json!({"name": service.name, "namespace": service.namespace})
            }),
            "traffic_direction": cause.direction.map(|direction| match direction {
                Direction::Egress => "EGRESS",
                Direction::Ingress => "INGRESS",
            }),
            "is_reply": false,
            "interface": record.evidence.interface.as_ref().map(|name| json!({"name": name})),
            "Summary": format!("{}; {}", packet(&flow.protocol), cause.text),
            "egress_allowed_by": allowed(&verdict.egress),
            "ingress_allowed_by": allowed(&verdict.ingress),
            "egress_denied_by": denied(Direction::Egress, &verdict.egress),
            "ingress_denied_by": denied(Direction::Ingress, &verdict.ingress),
        },
        "node_name": record.node,
        "time": time,
    })
}

/// What Hubble calls the reason, where policies are it; of nothing else is it known that Cilium's
/// programs would call it the same.
fn reason(record: &DropRecord) -> Option<(u8, &'static str)> {
    let verdict = match record.cause.direction? {
        Direction::Egress => &record.verdict.egress,
        Direction::Ingress => &record.verdict.ingress,
    };
    let is_denial = record.cause.policy.is_some() && record.cause.class != Class::NotEnforced;
    is_denial.then_some(if verdict.denied_by.is_some() { POLICY_DENY } else { POLICY_DENIED })
}

/// All that are responsible: the rule's policy of an explicit deny, else each that isolates the pod.
fn policies(verdict: &DirectionVerdict) -> Vec<Value> {
    match &verdict.denied_by {
        Some(rule) => vec![policy(&rule.policy)],
        None => verdict.isolating.iter().map(policy).collect(),
    }
}

fn policy(policy: &ObjectRef) -> Value {
    json!({"name": policy.name, "namespace": policy.namespace, "kind": policy.kind})
}

fn endpoint(end: &End, pod: Option<&Pod>, here: &str, is_known: bool) -> Value {
    let reserved = match (&end.pod, end.node.as_deref()) {
        (Some(_), _) => None,
        (None, Some(node)) if node == here => Some(HOST),
        (None, Some(_)) => Some(REMOTE_NODE),
        (None, None) => is_known.then_some(WORLD),
    };
    let namespace = end.namespace.as_ref();
    let of_namespace =
        namespace.map(|namespace| format!("k8s:io.kubernetes.pod.namespace={namespace}"));
    let own = pod.into_iter().flat_map(|pod| &pod.labels);
    let own = own.map(|(key, value)| format!("k8s:{key}={value}"));
    let labels = own.chain(of_namespace).chain(reserved.map(|(_, label)| label.to_owned()));
    let workload = end.workload.as_ref();
    let workload = workload.map(|workload| json!({"name": workload.name, "kind": workload.kind}));
    json!({
        "identity": reserved.map(|(identity, _)| identity),
        "namespace": end.namespace,
        "labels": labels.collect::<Vec<_>>(),
        "pod_name": end.pod,
        "workloads": workload.into_iter().collect::<Vec<_>>(),
    })
}

fn l4(protocol: &Word<Protocol>, port: Option<u16>) -> Value {
    let flags = (*protocol == Protocol::Tcp).then(|| json!({"SYN": true}));
    json!({ protocol.to_string(): {"destination_port": port, "flags": flags} })
}

/// What Hubble begins its summary with.
fn packet(protocol: &Word<Protocol>) -> String {
    match protocol {
        Word::Known(Protocol::Tcp) => "TCP Flags: SYN".to_owned(),
        other => other.to_string(),
    }
}

/// The same for the same report of the same drop, and for no other: a UUID of our own making (RFC
/// 9562, version 8).
fn uuid(record: &DropRecord) -> String {
    let hash = blake3::hash(format!("{} {} {}", record.id, record.node, record.time).as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// A time as protojson writes it: with no, three or six digits of a fraction, as few as it takes.
fn canonical(time: Timestamp) -> String {
    let form = match time.subsec_nanosecond() / 1000 {
        0 => "%Y-%m-%dT%H:%M:%SZ",
        micros if micros % 1000 == 0 => "%Y-%m-%dT%H:%M:%S.%3fZ",
        _ => "%Y-%m-%dT%H:%M:%S.%6fZ",
    };
    time.strftime(form).to_string()
}

/// Without what has no value.
fn pruned(value: Value) -> Value {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| (name, pruned(value)));
            fields.filter(|(_, value)| !is_empty(value)).collect()
        }
        Value::Array(items) => items.into_iter().map(pruned).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_protojson_writes_them() {
        for (given, wanted) in [
            ("2026-01-02T03:04:05.678901Z", "2026-01-02T03:04:05.678901Z"),
            ("2026-01-02T03:04:05.678000Z", "2026-01-02T03:04:05.678Z"),
            ("2026-01-02T03:04:05.000000Z", "2026-01-02T03:04:05Z"),
            ("2026-01-02T03:04:05.000001Z", "2026-01-02T03:04:05.000001Z"),
        ] {
            assert_eq!(canonical(given.parse().expect("a time")), wanted);
        }
    }
}
