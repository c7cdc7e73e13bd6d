//! All sinks of an agent.

use std::path::Path;

use anyhow::Context as _;
use futures_util::future::join_all;
use hyper::Uri;
use kube::Client;

use super::{
    Outgoing, Sink, SinkReadings,
    events::Events,
    log::{Format, Log},
    metrics::Metrics,
    otlp::{Otlp, settings::Settings},
};

/// Which sinks there are, and how each is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The form of records on standard output.
    pub format: Format,
    /// The reason that Kubernetes Events give; `None`: none are written.
    pub event_reason: Option<String>,
    /// How to reach a collector; `None`: nothing is sent.
    pub collector: Option<Settings>,
}

/// Where the agent runs, as far as sinks depend on it.
#[derive(Clone, Copy)]
pub struct Place<'p> {
    /// Its node.
    pub node: &'p str,
    /// The folder for what survives a restart; `None`: nothing does.
    pub folder: Option<&'p Path>,
    /// The client of the API server; `None`: there is none.
    pub client: Option<&'p Client>,
}

/// The sinks that an agent writes to.
pub struct Sinks(Vec<Box<dyn Sink>>);

impl Sinks {
    /// Starts every sink that the options ask for.
    ///
    /// # Errors
    /// A sink that cannot start: see each one.
    pub fn start(options: Options, place: Place<'_>, metrics: Metrics) -> anyhow::Result<Self> {
        let Options { format, event_reason, collector } = options;
        let events = event_reason.and_then(|reason| Events::of_agent(reason, place));
        let otlp = collector.map(|collector| Otlp::of_agent(collector, place)).transpose();
        let otlp = otlp.context("cannot send to a collector")?;
        Ok(Self(vec![
            Box::new(metrics),
            Box::new(Log::start(format)),
            Box::new(events),
            Box::new(otlp),
        ]))
    }

    /// Hands something to every sink.
    pub fn write(&self, outgoing: &Outgoing) {
        for sink in &self.0 {
            sink.write(outgoing);
        }
    }

    /// The readings of all of them.
    pub fn readings(&self) -> SinkReadings {
        let mut all = SinkReadings::default();
        for SinkReadings { queues, losses, metrics, cannot } in self.0.iter().map(|s| s.readings())
        {
            all.queues.extend(queues);
            all.losses.extend(losses);
            all.metrics.extend(metrics);
            all.cannot.extend(cannot);
        }
        all
    }

    /// What they must be able to reach.
    pub fn destinations(&self) -> impl Iterator<Item = (&'static str, &Uri)> {
        self.0.iter().filter_map(|sink| sink.destination())
    }

    /// Finishes those that take no records: what they lose until then can still be reported.
    pub async fn finish_without_records(&mut self) {
        self.finish_those(false).await;
    }

    /// Finishes the others, after the last record.
    pub async fn finish(&mut self) {
        self.finish_those(true).await;
    }

    async fn finish_those(&mut self, take_records: bool) {
        let due = self.0.iter_mut().filter(|sink| sink.takes_records() == take_records);
        join_all(due.map(|sink| sink.finish())).await;
    }
}
