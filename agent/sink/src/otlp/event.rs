//! A record as a log record of OpenTelemetry's, with the names of its semantic conventions
//! (<https://opentelemetry.io/docs/specs/semconv/>, 1.43) where those have one, and names below
//! `whydrop.` for everything else. `docs/otlp.md` lists them all.

use jiff::Timestamp;
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, SeverityNumber},
};
use serde::Serialize;

use whydrop_report::{
    AgentRecord, AgentState, Cause, Changed, DropKind, DropRecord, End, Evidence, EvidenceLevel,
    NearestMiss, ObjectRef, Record, Remedy, Time, Verdict, Workload,
    escape::json,
    heal::HealRecord,
    incident::{HappenedKind, IncidentRecord, IncidentResolution, Severity},
    text,
};

/// The name of the attribute that holds the whole record.
pub const RECORD: &str = "whydrop.record";
/// The name of the attribute that two copies of one record have in common, and nothing else has.
pub const UID: &str = "log.record.uid";
/// The name of the attribute that counts an agent's records without a gap.
pub const SEQUENCE: &str = "whydrop.sequence";

/// Describes a record, but for what the outbox adds: [`UID`] and [`SEQUENCE`].
///
/// The body is the line that `kubectl logs` shows, and [`RECORD`] the record's JSON.
pub fn event(record: &Record, observed: Timestamp) -> LogRecord {
    let mut attributes = Attributes::default();
    let (name, time, severity): EventHead = match record {
        Record::Drop(record) => drop(&mut attributes, record),
        Record::Incident(record) => incident(&mut attributes, record),
        Record::Heal(record) => heal(&mut attributes, record),
        Record::Agent(record) => agent(&mut attributes, record),
    };
    // Writing it fails only for maps whose keys are no strings, and ours are.
    attributes.text(RECORD, &json(record).unwrap_or_default());
    LogRecord {
        time_unix_nano: nanoseconds(time.into()),
        observed_time_unix_nano: nanoseconds(observed),
        severity_number: severity.into(),
        severity_text: match severity {
            SeverityNumber::Error => "ERROR",
            SeverityNumber::Warn => "WARN",
            _ => "INFO",
        }
        .to_owned(),
        body: Some(AnyValue { value: Some(Value::StringValue(text::line(record))) }),
        attributes: attributes.0,
        event_name: name.to_owned(),
        ..LogRecord::default()
    }
}

type EventHead = (&'static str, Time, SeverityNumber);

fn drop(attributes: &mut Attributes, record: &DropRecord) -> EventHead {
    let (name, severity) = match (record.kind, record.evidence.level) {
        (DropKind::Finding, _) => ("k8s.network_policy.finding", SeverityNumber::Warn),
        // The client knows already: it was refused.
        (DropKind::Drop, EvidenceLevel::Rejected) => {
            ("k8s.network_policy.drop", SeverityNumber::Info)
        }
        (DropKind::Drop, _) => ("k8s.network_policy.drop", SeverityNumber::Warn),
    };
    attributes.text("whydrop.drop.id", &record.id);
    attributes.flag("whydrop.drop.primary", record.primary);
    attributes.text("whydrop.incident.id", &record.incident);
    let flow = &record.flow;
    attributes.text("network.transport", &flow.protocol.to_string().to_lowercase());
    let version = if flow.destination.ip.contains(':') { "ipv6" } else { "ipv4" };
    attributes.text("network.type", version);
    attributes.end("source", &flow.source);
    attributes.end("destination", &flow.destination);
    attributes.evidence(&record.evidence);
    attributes.verdict(&record.verdict);
    attributes.cause(&record.cause);
    attributes.remedy(record.remedy.as_ref());
    (name, record.time, severity)
}

fn incident(attributes: &mut Attributes, record: &IncidentRecord) -> EventHead {
    let severity = match (record.happened, record.severity) {
        (HappenedKind::Resolved, _) | (_, Severity::Info) => SeverityNumber::Info,
        (_, Severity::Warning) => SeverityNumber::Warn,
        (_, Severity::Critical) => SeverityNumber::Error,
    };
    attributes.text("whydrop.incident.id", &record.id);
    attributes.word("whydrop.incident.happened", &record.happened);
    let resolution = record.resolution.as_ref().map(|resolution| match resolution {
        IncidentResolution::Passes { .. } => "passes",
        IncidentResolution::Allowed => "allowed",
        IncidentResolution::Gone => "gone",
        IncidentResolution::Silence => "silence",
        IncidentResolution::Muted => "muted",
    });
    attributes.maybe("whydrop.incident.resolution", resolution);
    attributes.word("whydrop.incident.severity", &record.severity);
    attributes.time("whydrop.incident.first", Some(record.first));
    attributes.time("whydrop.incident.last", Some(record.last));
    attributes.time("whydrop.incident.last_success", record.last_success);
    attributes.count("whydrop.incident.drops", record.drops.count);
    attributes.count("whydrop.incident.packets", record.drops.packets);
    attributes.count("whydrop.incident.reopened", record.reopened.into());
    let paths = record.affected.len() + record.affected_untold;
    attributes.count("whydrop.incident.paths", paths as u64);
    attributes.texts("whydrop.incident.services_lost", &record.services_lost);
    // The path that affects most pods: the two ends that a drop has as well.
    if let Some(path) = record.affected.first() {
        attributes.text("network.transport", &path.protocol.to_string().to_lowercase());
        for (side, end) in [("source", &path.source), ("destination", &path.destination)] {
            attributes.maybe(&format!("{side}.k8s.namespace.name"), end.namespace.as_deref());
            attributes.maybe(&format!("{side}.k8s.pod.name"), end.pod.as_deref());
            attributes.maybe(&format!("{side}.k8s.node.name"), end.node.as_deref());
            attributes.workload(side, end.workload.as_ref());
        }
        attributes.count("destination.port", path.port.into());
    }
    let cause = &record.cause;
    attributes.word("whydrop.cause.class", &cause.class);
    attributes.words("whydrop.cause.direction", cause.direction.as_ref());
    attributes.words("whydrop.cause.situation", cause.situation.as_ref());
    attributes.text("whydrop.cause.text", &record.text);
    attributes.number("whydrop.cause.confidence", record.confidence);
    attributes.object("whydrop.policy", cause.policy.as_ref());
    attributes.changed(cause.changed.first());
    // The first step of the plan is what to do; a remedy is in it where there is one.
    attributes.maybe("whydrop.plan.first", record.plan.first().map(|step| step.text.as_str()));
    attributes.remedy(record.plan.iter().find_map(|step| step.remedy.as_ref()));
    ("k8s.network_policy.incident", record.time, severity)
}

/// The agents do not write these, but others that forward records may.
fn heal(attributes: &mut Attributes, record: &HealRecord) -> EventHead {
    attributes.text("whydrop.incident.id", &record.incident);
    attributes.word("whydrop.heal.action", &record.action);
    attributes.words("whydrop.heal.outcome", record.outcome.as_ref());
    attributes.object("whydrop.policy", record.policies.first());
    ("k8s.network_policy.heal", record.time, SeverityNumber::Info)
}

fn agent(attributes: &mut Attributes, record: &AgentRecord) -> EventHead {
    let state = |attributes: &mut Attributes, name| attributes.text("whydrop.agent.state", name);
    let severity = match &record.state {
        AgentState::Ready { kernel, interfaces, cannot, .. } => {
            state(attributes, "ready");
            attributes.text("whydrop.agent.kernel", kernel);
            attributes.count("whydrop.agent.interfaces", interfaces.len() as u64);
            attributes.texts("whydrop.agent.cannot", cannot);
            SeverityNumber::Info
        }
        AgentState::Degraded { since, .. } => {
            state(attributes, "degraded");
            attributes.text("whydrop.agent.since", &since.seconds());
            SeverityNumber::Warn
        }
        AgentState::Lost { counts } => {
            state(attributes, "lost");
            attributes.count("whydrop.agent.lost", counts.values().sum());
            SeverityNumber::Warn
        }
        AgentState::Folded { source, attempts, packets, .. } => {
            state(attributes, "folded");
            attributes.end("source", source);
            attributes.count("whydrop.evidence.attempts", *attempts);
            attributes.count("whydrop.evidence.packets", *packets);
            SeverityNumber::Warn
        }
        AgentState::Muted { since, muted } => {
            state(attributes, "muted");
            attributes.time("whydrop.agent.since", Some(*since));
            attributes.count("whydrop.agent.muted", muted.iter().map(|by| by.reports).sum());
            SeverityNumber::Info
        }
        AgentState::Stopping { .. } => {
            state(attributes, "stopping");
            SeverityNumber::Info
        }
    };
    ("k8s.network_policy.agent", record.time, severity)
}

fn nanoseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_nanosecond()).unwrap_or(0)
}

/// Attributes as they are added; what is not known is left out.
#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn add(&mut self, key: &str, value: Value) {
        self.0.push(key_value(key, value));
    }

    fn text(&mut self, key: &str, value: &str) {
        self.add(key, Value::StringValue(value.to_owned()));
    }

    fn maybe(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    fn time(&mut self, key: &str, value: Option<Time>) {
        if let Some(time) = value {
            self.text(key, &time.to_string());
        }
    }

    fn texts(&mut self, key: &str, values: &[String]) {
        if !values.is_empty() {
            let any = |text: &String| AnyValue { value: Some(Value::StringValue(text.clone())) };
            self.add(
                key,
                Value::ArrayValue(ArrayValue { values: values.iter().map(any).collect() }),
            );
        }
    }

    fn count(&mut self, key: &str, value: u64) {
        self.add(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn number(&mut self, key: &str, value: f64) {
        self.add(key, Value::DoubleValue(value));
    }

    fn flag(&mut self, key: &str, value: bool) {
        self.add(key, Value::BoolValue(value));
    }

    /// A value of a small set, by the name that it has in the record.
    fn word(&mut self, key: &str, value: &impl Serialize) {
        if let Ok(serde_json::Value::String(word)) = serde_json::to_value(value) {
            self.text(key, &word);
        }
    }

    fn words(&mut self, key: &str, value: Option<&impl Serialize>) {
        if let Some(value) = value {
            self.word(key, value);
        }
    }

    fn end(&mut self, side: &str, end: &End) {
        self.text(&format!("{side}.address"), &end.ip);
        if let Some(port) = end.port {
            self.count(&format!("{side}.port"), port.into());
        }
        self.maybe(&format!("{side}.k8s.namespace.name"), end.namespace.as_deref());
        self.maybe(&format!("{side}.k8s.pod.name"), end.pod.as_deref());
        self.maybe(&format!("{side}.k8s.node.name"), end.node.as_deref());
        self.workload(side, end.workload.as_ref());
        if let Some(service) = &end.service {
            self.text(&format!("{side}.k8s.service.name"), &service.name);
            // The conventions have no second namespace, address or port of one end.
            self.text(&format!("whydrop.{side}.service.namespace"), &service.namespace);
            self.text(&format!("whydrop.{side}.service.address"), &service.ip);
            self.count(&format!("whydrop.{side}.service.port"), service.port.into());
        }
    }

    fn workload(&mut self, side: &str, workload: Option<&Workload>) {
        let Some(Workload { kind, name }) = workload else { return };
        // The kinds that the conventions have a name for.
        if matches!(
            kind.as_str(),
            "Deployment"
                | "StatefulSet"
                | "DaemonSet"
                | "ReplicaSet"
                | "ReplicationController"
                | "Job"
                | "CronJob"
        ) {
            self.text(&format!("{side}.k8s.{}.name", kind.to_lowercase()), name);
        }
        self.text(&format!("whydrop.{side}.workload.kind"), kind);
        self.text(&format!("whydrop.{side}.workload.name"), name);
    }

    fn evidence(&mut self, evidence: &Evidence) {
        self.word("whydrop.evidence.level", &evidence.level);
        self.maybe("whydrop.evidence.reason", evidence.reason.as_deref());
        self.maybe("whydrop.evidence.location", evidence.location.as_deref());
        self.maybe("network.interface.name", evidence.interface.as_deref());
        self.count("whydrop.evidence.attempts", evidence.attempts);
        if evidence.needed_again > 0 {
            self.count("whydrop.evidence.needed_again", evidence.needed_again);
        }
        if let Some(connects) = evidence.connects {
            self.count("whydrop.evidence.connects", connects);
        }
        self.time("whydrop.evidence.first", Some(evidence.first));
        self.time("whydrop.evidence.last", Some(evidence.last));
        self.time("whydrop.evidence.last_success", evidence.last_success);
        self.maybe("whydrop.evidence.rejection", evidence.rejection.as_deref());
    }

    fn verdict(&mut self, verdict: &Verdict) {
        self.count("whydrop.verdict.revision", verdict.revision);
        self.words("whydrop.verdict.exempt", verdict.exempt.as_ref());
        for (direction, verdict) in [("egress", &verdict.egress), ("ingress", &verdict.ingress)] {
            self.word(&format!("whydrop.verdict.{direction}.decision"), &verdict.decision);
            self.words(&format!("whydrop.verdict.{direction}.layer"), verdict.layer.as_ref());
        }
    }

    fn cause(&mut self, cause: &Cause) {
        self.word("whydrop.cause.class", &cause.class);
        self.words("whydrop.cause.direction", cause.direction.as_ref());
        self.words("whydrop.cause.situation", cause.situation.as_ref());
        self.text("whydrop.cause.text", &cause.text);
        self.number("whydrop.cause.confidence", cause.confidence);
        self.object("whydrop.policy", cause.policy.as_ref());
        if let Some(NearestMiss { policy, rule, wanted, found }) = &cause.nearest_miss {
            self.object("whydrop.nearest_miss.policy", Some(policy));
            self.count("whydrop.nearest_miss.rule", *rule as u64);
            self.text("whydrop.nearest_miss.wanted", wanted);
            self.text("whydrop.nearest_miss.found", found);
        }
        self.changed(cause.changed.as_ref());
    }

    fn changed(&mut self, changed: Option<&Changed>) {
        if let Some(Changed { object, change, at, .. }) = changed {
            self.object("whydrop.changed.object", Some(object));
            self.word("whydrop.changed.change", change);
            self.time("whydrop.changed.at", Some(*at));
        }
    }

    fn remedy(&mut self, remedy: Option<&Remedy>) {
        if let Some(Remedy { summary, verified, newly_allowed, .. }) = remedy {
            self.text("whydrop.remedy.summary", summary);
            self.flag("whydrop.remedy.verified", *verified);
            self.count("whydrop.remedy.newly_allowed", *newly_allowed as u64);
        }
    }

    fn object(&mut self, prefix: &str, object: Option<&ObjectRef>) {
        if let Some(ObjectRef { kind, namespace, name, uid }) = object {
            self.text(&format!("{prefix}.kind"), kind);
            self.maybe(&format!("{prefix}.namespace"), namespace.as_deref());
            self.text(&format!("{prefix}.name"), name);
            self.maybe(&format!("{prefix}.uid"), uid.as_deref());
        }
    }
}

/// An attribute.
pub(super) fn key_value(key: &str, value: Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}
