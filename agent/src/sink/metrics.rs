//! `OpenMetrics` for Prometheus: what `/metrics` answers
//! (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).
//!
//! The agent's task writes plain values, and whoever answers a scrape encodes them: there is no
//! queue, and a Prometheus that does not come costs nothing. Every label takes its values from a
//! small set, or is bounded by [`SERIES_MAX`] or by how many incidents an agent keeps; none names a
//! pod or an address.

mod labels;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeLabelSet, NoLabelSet, text::encode},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Registry,
};

use whydrop_core::mute::MutedBy;

use super::otlp::Fare;
use crate::report::{
    AgentState, DropKind, DropRecord, Record,
    incident::{IncidentHappened, IncidentRecord},
};
use labels::{ChangeLabels, IncidentLabels, Labels, OTHER, escaped, severity};

/// What a scrape is answered with.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How many combinations of names are told apart (about 300 bytes each, and more in Prometheus).
/// A node has some hundred pods of fewer workloads, and a workload suffers from few policies: this
/// is several times what a node in trouble shows.
const SERIES_MAX: usize = 1000;

/// The metrics of one agent, written by its task alone.
#[derive(Clone, Debug)]
pub struct Metrics {
    values: Arc<Mutex<Values>>,
    registry: Arc<Registry>,
}

/// What the agent reads off itself, all at one moment. Counts begin with the agent's start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readings {
    /// Drops are judged, and the cluster is synced.
    pub is_ready: bool,
    /// Parts of the probe, and whether they work on this kernel.
    pub parts: Vec<(&'static str, bool)>,
    /// Kinds of objects that an API server tells of, and whether it does at this moment.
    pub followed: Vec<(String, bool)>,
    /// Objects that the snapshot holds, by kind.
    pub objects: Vec<(String, usize)>,
    /// Policies of kinds that cannot be read.
    pub unread: Vec<(String, usize)>,
    /// The snapshot's revision.
    pub revision: u64,
    /// Interfaces by whether they are watched: `attached`, `failed`.
    pub interfaces: Vec<(&'static str, usize)>,
    /// Packets that the programs observed, by kind.
    pub observations: Vec<(&'static str, u64)>,
    /// Packets that this kernel dropped and no drop record tells of, by what has become of them.
    pub fates: Vec<(&'static str, u64)>,
    /// What was lost.
    pub losses: Vec<(&'static str, u64)>,
    /// What waits.
    pub queues: Vec<Queue>,
    /// How the collector takes records, where there is one.
    pub otlp: Option<Fare>,
    /// What programs cost; without those that the kernel keeps no statistics of.
    pub programs: Vec<Program>,
}

/// Something that waits, or is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Which queue.
    pub name: &'static str,
    /// How many wait.
    pub length: usize,
    /// How many there is room for.
    pub limit: usize,
}

/// What a program cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// How often it ran.
    pub runs: u64,
    /// How long it ran in all.
    pub seconds: f64,
}

impl Default for Metrics {
    fn default() -> Self {
        let values = Arc::<Mutex<Values>>::default();
        let mut registry = Registry::with_prefix("whydrop");
        registry.register_collector(Box::new(Shared(values.clone())));
        Self { values, registry: Arc::new(registry) }
    }
}

impl Metrics {
    /// Counts a record.
    pub fn write(&self, record: &Record) {
        let mut values = lock(&self.values);
        match record {
            Record::Drop(record) => values.count(record),
            Record::Incident(record) => values.follow(record),
            Record::Heal(_) => {}
            Record::Agent(record) => {
                *values.agent_records.entry(state(&record.state)).or_default() += 1;
            }
        }
    }

    /// Counts what is not told, since this mutes it.
    pub fn mute(&self, by: &MutedBy) {
        lock(&self.values).mute(by);
    }

    /// Takes new readings.
    pub fn set(&self, readings: Readings) {
        lock(&self.values).readings = readings;
    }

    /// Everything, as a scrape is answered; of the type [`CONTENT_TYPE`].
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string fails only where a number has no place in the format, and ours have.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Nobody panics while writing a value; were it so, the others would be as good as before.
fn lock(values: &Mutex<Values>) -> MutexGuard<'_, Values> {
    values.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All that is encoded.
#[derive(Debug, Default)]
struct Values {
    drops: BTreeMap<Labels, u64>,
    findings: BTreeMap<Labels, u64>,
    muted: BTreeMap<MutedLabels, u64>,
    /// Records that are counted under [`OTHER`].
    overflow: u64,
    /// By the incident's id; as many at most as the agent's book has room for.
    incidents: BTreeMap<String, IncidentLabels>,
    incident_changes: BTreeMap<ChangeLabels, u64>,
    agent_records: BTreeMap<&'static str, u64>,
    readings: Readings,
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

impl Values {
    fn is_full(&self) -> bool {
        self.drops.len() + self.findings.len() + self.muted.len() >= SERIES_MAX
    }

    fn mute(&mut self, by: &MutedBy) {
        let mut labels = MutedLabels { by: by.kind(), name: escaped(&by.name()) };
        if self.is_full() && !self.muted.contains_key(&labels) {
            OTHER.clone_into(&mut labels.name);
            self.overflow += 1;
        }
        *self.muted.entry(labels).or_default() += 1;
    }

    fn count(&mut self, record: &DropRecord) {
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

    /// Its drops are counted as they are told; here is what becomes of it.
    fn follow(&mut self, record: &IncidentRecord) {
        let happened = match record.happened {
            IncidentHappened::Opened => Some("opened"),
            IncidentHappened::Updated => None,
            IncidentHappened::Resolved => Some("resolved"),
            IncidentHappened::Reopened => Some("reopened"),
        };
        if let Some(happened) = happened {
            let labels = ChangeLabels { happened, severity: severity(record.severity) };
            *self.incident_changes.entry(labels).or_default() += 1;
        }
        if record.happened == IncidentHappened::Resolved {
            self.incidents.remove(&record.id);
        } else {
            self.incidents.insert(record.id.clone(), IncidentLabels::of(record));
        }
    }

    /// How many incidents are open by what they are told by.
    fn open_incidents(&self) -> BTreeMap<IncidentLabels, u64> {
        let mut open = BTreeMap::new();
        for labels in self.incidents.values() {
            *open.entry(labels.clone()).or_default() += 1;
        }
        open
    }
}

/// The values, as the registry holds them.
#[derive(Debug)]
struct Shared(Arc<Mutex<Values>>);

impl Collector for Shared {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let values = lock(&self.0);
        let mut page = Page(encoder);
        page.0
            .encode_descriptor("build", "The running agent.", None, MetricType::Info)?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        page.records(
            "drops",
            "Flows that die: each counted when it begins to, and once a minute while it goes on.",
            &values.drops,
        )?;
        page.records(
            "findings",
            "Flows that were answered although policies deny them.",
            &values.findings,
        )?;
        page.incidents(
            "incidents_open",
            "Incidents that go on, by who suffers most.",
            &values.open_incidents(),
        )?;
        let changes = values.incident_changes.iter();
        page.series(
            "incidents",
            "Incidents that began, were over, or came back.",
            changes.map(|(labels, count)| (labels.clone(), *count)),
        )?;
        page.series(
            "muted",
            "Drops and findings that are not told since they are meant, by what mutes them.",
            values.muted.iter().map(|(labels, count)| (labels.clone(), *count)),
        )?;
        page.counter(
            "series_overflow",
            "Drops and findings counted under other names, since there were too many names.",
            values.overflow,
        )?;
        page.counters(
            "agent_records",
            "Records in which the agent told of itself.",
            ("state", values.agent_records.iter().map(|(state, count)| (*state, *count))),
        )?;
        values.readings.encode(&mut page)
    }
}

fn encode_otlp(page: &mut Page<'_>, otlp: Fare) -> fmt::Result {
    page.counter("otlp_sent", "Records that the collector has.", otlp.sent)?;
    page.counter(
        "otlp_retries",
        "Requests that the collector did not take, and that were to be sent again.",
        otlp.retries,
    )?;
    page.gauge("outbox_records", "Records that wait for the collector.", otlp.waiting as u64)?;
    page.gauge("outbox_bytes", "What they take up.", otlp.waiting_bytes)?;
    page.gauge(
        "outbox_oldest_seconds",
        "For how long the eldest of them has waited.",
        otlp.waiting_seconds,
    )
}

impl Readings {
    fn encode(&self, page: &mut Page<'_>) -> fmt::Result {
        let whether = |(name, is): &(&'static str, bool)| (*name, usize::from(*is));
        page.gauge("ready", "Drops are judged, and the cluster is synced.", self.is_ready.into())?;
        page.gauges(
            "part_active",
            "A part of the probe works on this kernel.",
            ("part", self.parts.iter().map(whether)),
        )?;
        page.gauges(
            "kind_followed",
            "The API server tells of objects of a kind; if not, what is known is old, or nothing.",
            ("kind", self.followed.iter().map(|(kind, is)| (kind, usize::from(*is)))),
        )?;
        page.gauges(
            "objects",
            "Objects that the agent knows.",
            ("kind", self.objects.iter().map(|(kind, count)| (kind, *count))),
        )?;
        page.gauges(
            "policies_unread",
            "Policies of kinds that the agent cannot read, and that may decide all the same.",
            ("kind", self.unread.iter().map(|(kind, count)| (kind, *count))),
        )?;
        page.gauge("snapshot_revision", "Changes of the cluster so far.", self.revision)?;
        page.gauges(
            "interfaces",
            "Pods' interfaces, by whether they are watched.",
            ("state", self.interfaces.iter().copied()),
        )?;
        page.counters(
            "observations",
            "Packets that the programs took notice of.",
            ("kind", self.observations.iter().copied()),
        )?;
        page.counters(
            "dropped_packets",
            "Packets that this kernel dropped and no drop tells of, by what became of them.",
            ("fate", self.fates.iter().copied()),
        )?;
        page.counters(
            "lost",
            "What the agent could not tell, for want of room or time.",
            ("what", self.losses.iter().copied()),
        )?;
        page.gauges(
            "queue_length",
            "What waits, or is under way.",
            ("queue", self.queues.iter().map(|queue| (queue.name, queue.length))),
        )?;
        page.gauges(
            "queue_limit",
            "How much may wait, or be under way.",
            ("queue", self.queues.iter().map(|queue| (queue.name, queue.limit))),
        )?;
        if let Some(otlp) = self.otlp {
            encode_otlp(page, otlp)?;
        }
        page.counters(
            "program_runs",
            "How often the kernel ran a program, while kernel.bpf_stats_enabled is set.",
            ("program", self.programs.iter().map(|program| (program.name, program.runs))),
        )?;
        page.counters(
            "program_run_seconds",
            "How long programs ran, while kernel.bpf_stats_enabled is set.",
            ("program", self.programs.iter().map(|program| (program.name, program.seconds))),
        )
    }
}

/// What is being written; a metric without values is left out.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter(&value, NO_EXEMPLAR)
    }

    /// A gauge for each value of a label.
    fn gauges<N: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        (label, values): (&'static str, impl Iterator<Item = (N, usize)>),
    ) -> fmt::Result {
        let mut values = values.peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        values.try_for_each(|(of, value)| {
            metric.encode_family(&[(label, escaped(of.as_ref()))])?.encode_gauge(&value)
        })
    }

    /// A counter for each value of a label.
    fn counters<N: AsRef<str>, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        (label, values): (&'static str, impl Iterator<Item = (N, V)>),
    ) -> fmt::Result {
        let values = values.map(|(of, value)| ([(label, escaped(of.as_ref()))], value));
        self.series(name, help, values)
    }

    fn incidents(
        &mut self,
        name: &str,
        help: &str,
        open: &BTreeMap<IncidentLabels, u64>,
    ) -> fmt::Result {
        if open.is_empty() {
            return Ok(());
        }
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        open.iter()
            .try_for_each(|(labels, count)| metric.encode_family(labels)?.encode_gauge(count))
    }

    fn records(&mut self, name: &str, help: &str, counts: &BTreeMap<Labels, u64>) -> fmt::Result {
        self.series(name, help, counts.iter().map(|(labels, count)| (labels.clone(), *count)))
    }

    fn series<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut values = values.peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        values.try_for_each(|(labels, value)| {
            metric.encode_family(&labels)?.encode_counter(&value, NO_EXEMPLAR)
        })
    }
}

/// Ours have none.
const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, u64>> = None;

#[cfg(test)]
mod tests {
    use super::*;

    /// A drop of a workload's, as far as series go by it.
    fn record(kind: DropKind, workload: &str) -> Record {
        let verdict = serde_json::json!({
            "decision": "denied", "layer": null, "isolating": [], "allowed_by": [],
            "denied_by": null,
        });
        let value = serde_json::json!({
            "schema": "whydrop/v1", "kind": kind, "time": "", "id": "", "node": "", "primary": true,
            "flow": {
                "protocol": "TCP",
                "source": {"ip": "10.1.0.10", "namespace": "frontend", "pod": "web-0",
                    "workload": {"kind": "Deployment", "name": workload}},
                "destination": {"ip": "10.1.0.20", "port": 80, "namespace": "backend", "pod": "b"},
            },
            "evidence": {"level": "unanswered", "reason": null, "location": null, "attempts": 1,
                "interface": null, "first": "", "last": "", "last_success": null},
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
            metrics.write(&record(DropKind::Drop, "web"));
        }
        metrics.write(&record(DropKind::Finding, "web"));
        metrics.set(Readings {
            is_ready: true,
            objects: vec![("Pod".to_owned(), 7)],
            losses: vec![("records", 3)],
            ..Readings::default()
        });
        let text = metrics.text();
        for line in [
            "whydrop_drops_total{namespace=\"frontend\",workload=\"web\",policy=\"backend/deny\",\
             direction=\"ingress\",cause=\"default-deny\",evidence=\"unanswered\"} 2",
            // The pod that the policy is there to protect.
            "whydrop_findings_total{namespace=\"backend\",workload=\"\",policy=\"backend/deny\",\
             direction=\"ingress\",cause=\"default-deny\",evidence=\"unanswered\"} 1",
            "whydrop_ready 1",
            "whydrop_objects{kind=\"Pod\"} 7",
            "whydrop_lost_total{what=\"records\"} 3",
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
            "schema": "whydrop/v1", "kind": "incident", "time": "", "id": id, "node": "",
            "happened": happened, "resolution": null, "severity": severity,
            "severity_reasons": [], "confidence": 1.0, "confidence_reasons": [],
            "cause": {"class": "default-deny", "direction": "ingress", "situation": null,
                "policy": {"kind": "NetworkPolicy", "namespace": "backend", "name": "deny"},
                "responsible": [], "changed": [], "changed_by": "unknown", "known_since": null},
            "affected": [path], "affected_untold": 0, "services_lost": [], "established": null,
            "drops": {"count": 1, "packets": 1, "ids": []}, "first": "", "last": "",
            "last_success": null, "reopened": 0, "text": "", "plan": [],
        });
        serde_json::from_value(value).expect("a record")
    }

    #[test]
    fn incidents_are_counted_and_those_that_go_on_are_told_by_who_suffers() {
        let metrics = Metrics::default();
        let labels = "namespace=\"frontend\",workload=\"web\",policy=\"backend/deny\",\
                      cause=\"default-deny\"";
        let open = |severity: &str, count: u64| {
            format!("whydrop_incidents_open{{severity=\"{severity}\",{labels}}} {count}")
        };
        let has = |line: &str| metrics.text().lines().any(|have| have == line);
        metrics.write(&incident("a", "opened", "info"));
        metrics.write(&incident("b", "opened", "info"));
        assert!(has(&open("info", 2)), "{}", metrics.text());
        metrics.write(&incident("a", "updated", "critical"));
        assert!(has(&open("info", 1)) && has(&open("critical", 1)), "{}", metrics.text());
        assert!(!metrics.text().contains("web-0"), "{}", metrics.text());
        metrics.write(&incident("a", "resolved", "critical"));
        metrics.write(&incident("b", "resolved", "info"));
        assert!(!metrics.text().contains("whydrop_incidents_open"), "{}", metrics.text());
        metrics.write(&incident("a", "reopened", "critical"));
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
    fn programs_have_their_cost_where_the_kernel_keeps_it() {
        let metrics = Metrics::default();
        let programs = vec![Program { name: "whydrop_from_pod", runs: 3, seconds: 0.25 }];
        metrics.set(Readings { programs, ..Readings::default() });
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
            metrics.write(&record(DropKind::Drop, &format!("web-{number}")));
        }
        // What has a series keeps it.
        metrics.write(&record(DropKind::Drop, "web-0"));
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
        metrics.mute(&rule("scanners"));
        metrics.mute(&rule("scanners"));
        metrics.mute(&MutedBy::Namespace("shop".into()));
        for number in 0..SERIES_MAX {
            metrics.mute(&rule(&format!("rule-{number}")));
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
        metrics.write(&record(DropKind::Drop, "a\"} 1\n\\"));
        let text = metrics.text();
        assert!(text.contains(r#"workload="a\"} 1\n\\""#), "{text}");
    }
}
