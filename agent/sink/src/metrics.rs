//! `OpenMetrics` for Prometheus: what `/metrics` answers
//! (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).
//!
//! The agent's task writes plain values, and whatever answers a scrape encodes them: there is no
//! queue, and a Prometheus that does not come costs nothing. Every label takes its values from a
//! small set, or is bounded by [`SERIES_MAX`] or by how many incidents an agent keeps; none names a
//! pod or an address.

mod labels;
mod page;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus_client::{encoding::EncodeLabelSet, encoding::text::encode, registry::Registry};
use whydrop_core::mute::MutedBy;

use super::{outgoing::Outgoing, reading::Reading, sink::Sink};
use labels::{ChangeLabels, IncidentLabels, Labels, OTHER, escaped, severity};
use whydrop_report::{
    AgentState, DropKind, DropRecord, Record,
    incident::{HappenedKind, IncidentRecord},
};

/// What a scrape is answered with.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How many combinations of names have a series of their own (about 300 bytes each, and more in Prometheus).
/// A node has some hundred pods of fewer workloads, and a workload is affected by few policies: this
/// is several times what a node in trouble shows.
const SERIES_MAX: usize = 1000;

/// The metrics of one agent, written by its task alone.
#[derive(Clone, Debug)]
pub struct Metrics {
    values: Arc<Mutex<RecordCounts>>,
    registry: Arc<Registry>,
}

impl Default for Metrics {
    fn default() -> Self {
        let values = Arc::<Mutex<RecordCounts>>::default();
        let mut registry = Registry::with_prefix("whydrop");
        registry.register_collector(Box::new(SharedCounts(values.clone())));
        Self { values, registry: Arc::new(registry) }
    }
}

impl Metrics {
    /// Everything, as a scrape is answered; of the type [`CONTENT_TYPE`].
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string fails only where a number has no place in the format, and ours have.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Sink for Metrics {
    /// Counts records and what is muted, and keeps the latest readings.
    fn write(&self, outgoing: &Outgoing) {
        let mut values = lock(&self.values);
        match outgoing {
            Outgoing::Record { record, .. } => values.count(record),
            Outgoing::Muted(by) => values.count_muted(by),
            Outgoing::Readings(readings) => values.readings = readings.clone(),
            Outgoing::Note(_) => {}
        }
    }
}

/// Nobody panics while writing a value; were it so, the others would be as good as before.
fn lock(values: &Mutex<RecordCounts>) -> MutexGuard<'_, RecordCounts> {
    values.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The values, as the registry holds them.
#[derive(Debug)]
struct SharedCounts(Arc<Mutex<RecordCounts>>);

/// All that is encoded: counts of what went out, and the latest readings.
#[derive(Debug, Default)]
struct RecordCounts {
    drops: BTreeMap<Labels, u64>,
    findings: BTreeMap<Labels, u64>,
    muted: BTreeMap<MutedLabels, u64>,
    /// Records that are counted under [`OTHER`].
    overflow: u64,
    /// By the incident's id; as many at most as the agent's book has room for.
    incidents: BTreeMap<String, IncidentLabels>,
    incident_changes: BTreeMap<ChangeLabels, u64>,
    agent_records: BTreeMap<&'static str, u64>,
    readings: Arc<[Reading]>,
}

/// What mutes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct MutedLabels {
    by: &'static str,
    name: String,
}

fn state(state: &AgentState) -> &'static str {
    match state {
        AgentState::Ready { .. } => "ready",
        AgentState::Degraded { .. } => "degraded",
        AgentState::Lost { .. } => "lost",
        AgentState::Folded { .. } => "folded",
        AgentState::Muted { .. } => "muted",
        AgentState::Stopping { .. } => "stopping",
    }
}

impl RecordCounts {
    fn count(&mut self, record: &Record) {
        match record {
            Record::Drop(record) => self.count_drop(record),
            Record::Incident(record) => self.follow(record),
            Record::Heal(_) => {}
            Record::Agent(record) => {
                *self.agent_records.entry(state(&record.state)).or_default() += 1;
            }
        }
    }

    fn is_full(&self) -> bool {
        self.drops.len() + self.findings.len() + self.muted.len() >= SERIES_MAX
    }

    fn count_muted(&mut self, by: &MutedBy) {
        let mut labels = MutedLabels { by: by.kind().into(), name: escaped(&by.name()) };
        if self.is_full() && !self.muted.contains_key(&labels) {
            OTHER.clone_into(&mut labels.name);
            self.overflow += 1;
        }
        *self.muted.entry(labels).or_default() += 1;
    }

    fn count_drop(&mut self, record: &DropRecord) {
        let mut labels = Labels::of(record);
        let is_full = self.is_full();
        let series = match record.kind {
            DropKind::Drop => &mut self.drops,
            DropKind::Finding => &mut self.findings,
        };
        if is_full && !series.contains_key(&labels) {
            labels = labels.without_names();
            self.overflow += 1;
        }
        *series.entry(labels).or_default() += 1;
    }

    /// Its drops are counted as they are reported; here is what becomes of it.
    fn follow(&mut self, record: &IncidentRecord) {
        let happened = match record.happened {
            HappenedKind::Opened => Some("opened"),
            HappenedKind::Updated => None,
            HappenedKind::Resolved => Some("resolved"),
            HappenedKind::Reopened => Some("reopened"),
        };
        if let Some(happened) = happened {
            let labels = ChangeLabels { happened, severity: severity(record.severity) };
            *self.incident_changes.entry(labels).or_default() += 1;
        }
        if record.happened == HappenedKind::Resolved {
            self.incidents.remove(&record.id);
        } else {
            self.incidents.insert(record.id.clone(), IncidentLabels::of(record));
        }
    }

    /// How many incidents are open, by their labels.
    fn open_incidents(&self) -> BTreeMap<IncidentLabels, u64> {
        let mut open = BTreeMap::new();
        for labels in self.incidents.values() {
            *open.entry(labels.clone()).or_default() += 1;
        }
        open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(metrics: &Metrics, record: Record) {
        metrics.write(&record.into());
    }

    fn read(metrics: &Metrics, readings: impl Into<Arc<[Reading]>>) {
        metrics.write(&Outgoing::Readings(readings.into()));
    }

    /// A drop of a workload's, as far as series go by it.
    fn record(kind: DropKind, workload: &str) -> Record {
        let verdict = serde_json::json!({
            "decision": "denied", "layer": null, "isolating": [], "allowed_by": [],
            "denied_by": null,
        });
        let value = serde_json::json!({
            "schema": "whydrop/v1", "kind": kind, "time": "2026-01-02T03:04:05Z", "id": "", "node": "", "primary": true,
            "flow": {
                "protocol": "TCP",
                "source": {"ip": "10.1.0.10", "namespace": "frontend", "pod": "web-0",
                    "workload": {"kind": "Deployment", "name": workload}},
                "destination": {"ip": "10.1.0.20", "port": 80, "namespace": "backend", "pod": "b"},
            },
            "evidence": {"level": "unanswered", "reason": null, "location": null, "attempts": 1,
                "interface": null, "first": "2026-01-02T03:04:01Z",
                "last": "2026-01-02T03:04:04Z", "last_success": null},
            "verdict": {"revision": 1, "exempt": null, "egress": verdict, "ingress": verdict},
            "cause": {"class": "default-deny", "direction": "ingress", "situation": null,
                "policy": {"kind": "NetworkPolicy", "namespace": "backend", "name": "deny"},
                "nearest_miss": null, "changed": null, "confidence": 1.0, "reasons": [],
                "text": ""},
            "remedy": null, "incident": "",
        });
        serde_json::from_value(value).expect("a record")
    }

    #[test]
    fn a_scrape_has_what_was_written_and_nothing_that_is_not_known() {
        let metrics = Metrics::default();
        for _ in 0..2 {
            write(&metrics, record(DropKind::Drop, "web"));
        }
        write(&metrics, record(DropKind::Finding, "web"));
        let losses = [("records", 3_u64), ("a\"b", 0)];
        read(
            &metrics,
            [
                Reading::gauge("ready", "It is ready.", true),
                Reading::gauges("objects", "Objects.", "kind", [("Pod", 7_usize)]),
                Reading::counters("lost", "Losses.", "what", losses),
                Reading::counters("program_runs", "Runs.", "program", [("", 0_u64); 0]),
            ],
        );
        let text = metrics.text();
        for line in [
            "whydrop_drops_total{namespace=\"frontend\",workload=\"web\",policy=\"backend/deny\",\
             direction=\"ingress\",cause=\"default-deny\",evidence=\"unanswered\"} 2",
            // The pod that the policy is there to protect.
            "whydrop_findings_total{namespace=\"backend\",workload=\"\",policy=\"backend/deny\",\
             direction=\"ingress\",cause=\"default-deny\",evidence=\"unanswered\"} 1",
            "whydrop_ready 1",
            "whydrop_objects{kind=\"Pod\"} 7",
            "# TYPE whydrop_lost counter",
            "# TYPE whydrop_objects gauge",
            "whydrop_lost_total{what=\"records\"} 3",
            r#"whydrop_lost_total{what="a\"b"} 0"#,
            "whydrop_series_overflow_total 0",
        ] {
            assert!(text.lines().any(|have| have == line), "no {line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
        assert!(!text.contains("program_run"), "no statistics are kept:\n{text}");
        assert!(!text.contains("10.1.0") && !text.contains("web-0"), "{text}");
    }

    /// What happened to an incident of a workload's.
    fn incident(id: &str, happened: &str, severity: &str) -> Record {
        let path = serde_json::json!({
            "source": {"name": "frontend/web", "namespace": "frontend",
                "workload": {"kind": "Deployment", "name": "web"}},
            "destination": {"name": "backend/b", "namespace": "backend", "pod": "b"},
            "port": 80, "protocol": "TCP", "sufferer": "source", "pods": 1, "replicas": 1,
            "knows_all": true, "pod_names": ["frontend/web-0"], "others": ["backend/b"],
            "last_success": null,
        });
        let value = serde_json::json!({
            "schema": "whydrop/v1", "kind": "incident", "time": "2026-01-02T03:04:05Z", "id": id, "node": "",
            "happened": happened, "resolution": null, "severity": severity,
            "severity_reasons": [], "confidence": 1.0, "confidence_reasons": [],
            "cause": {"class": "default-deny", "direction": "ingress", "situation": null,
                "policy": {"kind": "NetworkPolicy", "namespace": "backend", "name": "deny"},
                "responsible": [], "changed": [], "changed_by": "unknown", "known_since": null},
            "affected": [path], "affected_untold": 0, "services_lost": [], "established": null,
            "drops": {"count": 1, "packets": 1, "ids": []},
            "first": "2026-01-02T03:04:01Z", "last": "2026-01-02T03:04:04Z",
            "last_success": null, "reopened": 0, "text": "", "plan": [],
        });
        serde_json::from_value(value).expect("a record")
    }

    #[test]
    fn incidents_are_counted_and_open_ones_are_labelled_with_what_is_affected() {
        let metrics = Metrics::default();
        let labels = "namespace=\"frontend\",workload=\"web\",policy=\"backend/deny\",\
                      cause=\"default-deny\"";
        let open = |severity: &str, count: u64| {
            format!("whydrop_incidents_open{{severity=\"{severity}\",{labels}}} {count}")
        };
        let has = |line: &str| metrics.text().lines().any(|have| have == line);
        write(&metrics, incident("a", "opened", "info"));
        write(&metrics, incident("b", "opened", "info"));
        assert!(has(&open("info", 2)), "{}", metrics.text());
        write(&metrics, incident("a", "updated", "critical"));
        assert!(has(&open("info", 1)) && has(&open("critical", 1)), "{}", metrics.text());
        assert!(!metrics.text().contains("web-0"), "{}", metrics.text());
        write(&metrics, incident("a", "resolved", "critical"));
        write(&metrics, incident("b", "resolved", "info"));
        assert!(!metrics.text().contains("whydrop_incidents_open"), "{}", metrics.text());
        write(&metrics, incident("a", "reopened", "critical"));
        for line in [
            &open("critical", 1),
            "whydrop_incidents_total{happened=\"opened\",severity=\"info\"} 2",
            "whydrop_incidents_total{happened=\"resolved\",severity=\"critical\"} 1",
            "whydrop_incidents_total{happened=\"reopened\",severity=\"critical\"} 1",
        ] {
            assert!(has(line), "no {line} in\n{}", metrics.text());
        }
    }

    #[test]
    fn a_reading_is_a_count_or_a_time() {
        const PROGRAM: &str = "whydrop_from_pod";
        let metrics = Metrics::default();
        read(
            &metrics,
            [
                Reading::counters("program_runs", "Runs.", "program", [(PROGRAM, 3_u64)]),
                Reading::counters("program_run_seconds", "Time.", "program", [(PROGRAM, 0.25)]),
            ],
        );
        let text = metrics.text();
        for line in [
            "whydrop_program_runs_total{program=\"whydrop_from_pod\"} 3",
            "whydrop_program_run_seconds_total{program=\"whydrop_from_pod\"} 0.25",
        ] {
            assert!(text.lines().any(|have| have == line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn names_beyond_the_bound_are_counted_as_others() {
        let metrics = Metrics::default();
        for number in 0..SERIES_MAX + 5 {
            write(&metrics, record(DropKind::Drop, &format!("web-{number}")));
        }
        // What has a series keeps it.
        write(&metrics, record(DropKind::Drop, "web-0"));
        let text = metrics.text();
        let drops: Vec<_> =
            text.lines().filter(|line| line.starts_with("whydrop_drops_total")).collect();
        assert_eq!(drops.len(), SERIES_MAX + 1);
        let count = |workload: &str| {
            let label = format!("workload=\"{workload}\"");
            let line = drops.iter().find(|line| line.contains(&label)).expect(workload);
            line.rsplit_once(' ').expect("a value").1.to_owned()
        };
        assert_eq!((count("other").as_str(), count("web-0").as_str()), ("5", "2"));
        assert!(text.contains("whydrop_series_overflow_total 5"), "{}", text.len());
    }

    #[test]
    fn what_is_muted_counts_by_what_mutes_it_within_the_bound() {
        let metrics = Metrics::default();
        let rule = |name: &str| MutedBy::Rule(name.into());
        let mute = |by| metrics.write(&Outgoing::Muted(by));
        mute(rule("scanners"));
        mute(rule("scanners"));
        mute(MutedBy::Namespace("shop".into()));
        for number in 0..SERIES_MAX {
            mute(rule(&format!("rule-{number}")));
        }
        let text = metrics.text();
        for line in [
            "whydrop_muted_total{by=\"rule\",name=\"scanners\"} 2",
            "whydrop_muted_total{by=\"namespace\",name=\"shop\"} 1",
            "whydrop_muted_total{by=\"rule\",name=\"other\"} 2",
            "whydrop_series_overflow_total 2",
        ] {
            assert!(text.lines().any(|have| have == line), "no {line}");
        }
    }

    #[test]
    fn names_cannot_break_the_format() {
        let metrics = Metrics::default();
        write(&metrics, record(DropKind::Drop, "a\"} 1\n\\"));
        let text = metrics.text();
        assert!(text.contains(r#"workload="a\"} 1\n\\""#), "{text}");
    }
}
