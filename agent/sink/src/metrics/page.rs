//! The page that a scrape is answered with.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeLabelSet, MetricEncoder, NoLabelSet},
    metrics::{MetricType, exemplar::Exemplar},
};

use super::{
    SharedCounts,
    labels::{IncidentLabels, Labels, escaped},
    lock,
};
use crate::reading::{Kind, Number, Reading, Values};

impl Collector for SharedCounts {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let values = lock(&self.0);
        let mut page = Page(encoder);
        page.0
            .encode_descriptor("build", "The running agent.", None, MetricType::Info)?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        page.records(
            "drops",
            "Dropped flows: each is counted when it begins, and once a minute while it continues.",
            &values.drops,
        )?;
        page.records(
            "findings",
            "Flows that were answered although policies deny them.",
            &values.findings,
        )?;
        page.incidents(
            "incidents_open",
            "Open incidents, by the workload that is affected most.",
            &values.open_incidents(),
        )?;
        let changes = values.incident_changes.iter();
        page.series(
            "incidents",
            "Incidents that were opened, resolved or reopened.",
            changes.map(|(labels, count)| (labels.clone(), *count)),
        )?;
        page.series(
            "muted",
            "Muted drops and findings, by the rule or annotation that mutes them.",
            values.muted.iter().map(|(labels, count)| (labels.clone(), *count)),
        )?;
        page.counter(
            "series_overflow",
            "Drops and findings counted under other names, because there were too many names.",
            values.overflow,
        )?;
        let agent_records = values.agent_records.iter();
        page.series(
            "agent_records",
            "Records about the agent itself, by state.",
            agent_records.map(|(state, count)| ([("state", *state)], *count)),
        )?;
        values.readings.iter().try_for_each(|reading| page.reading(reading))
    }
}

/// What is being written; a metric without values is left out.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn reading(&mut self, reading: &Reading) -> fmt::Result {
        let Reading { name, help, kind, values } = reading;
        let metric_type = match kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        };
        match values {
            Values::One(number) => {
                let metric = self.0.encode_descriptor(name, help, None, metric_type)?;
                number.encode(metric, *kind)
            }
            Values::Each(_, numbers) if numbers.is_empty() => Ok(()),
            Values::Each(label, numbers) => {
                let mut metric = self.0.encode_descriptor(name, help, None, metric_type)?;
                numbers.iter().try_for_each(|(of, number)| {
                    number.encode(metric.encode_family(&[(*label, escaped(of))])?, *kind)
                })
            }
        }
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter(&value, NO_EXEMPLAR)
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

impl Number {
    fn encode(self, mut metric: MetricEncoder<'_>, kind: Kind) -> fmt::Result {
        match (kind, self) {
            (Kind::Counter, Self::Count(count)) => metric.encode_counter(&count, NO_EXEMPLAR),
            (Kind::Counter, Self::Seconds(seconds)) => metric.encode_counter(&seconds, NO_EXEMPLAR),
            (Kind::Gauge, Self::Count(count)) => metric.encode_gauge(&count),
            (Kind::Gauge, Self::Seconds(seconds)) => metric.encode_gauge(&seconds),
        }
    }
}

/// Ours have none.
const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, u64>> = None;
