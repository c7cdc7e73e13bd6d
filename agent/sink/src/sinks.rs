//! All sinks of an agent.

use futures_util::future::join_all;
use hyper::Uri;

use super::{
    events::Events,
    host::AgentHost,
    log::{Format, Log},
    metrics::Metrics,
    otlp::{Otlp, OtlpError, settings::OtlpSettings},
    outgoing::Outgoing,
    reading::SinkReadings,
    sink::Sink,
};

/// Which sinks there are, and how each is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The form of records on standard output.
    pub format: Format,
    /// The reason that Kubernetes Events give; `None`: none are written.
    pub event_reason: Option<String>,
    /// How to reach a collector; `None`: nothing is sent.
    pub collector: Option<OtlpSettings>,
}

/// The sinks that an agent writes to.
pub struct Sinks(Vec<Box<dyn Sink>>);

impl Sinks {
    /// Starts every sink that the options ask for.
    ///
    /// # Errors
    /// The collector's sink cannot start.
    pub fn start(
        options: Options,
        host: AgentHost<'_>,
        metrics: Metrics,
    ) -> Result<Self, OtlpError> {
        let Options { format, event_reason, collector } = options;
        let events = event_reason.and_then(|reason| Events::of_agent(reason, host));
        let otlp = collector.map(|collector| Otlp::of_agent(collector, host)).transpose()?;
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
        self.finish_those(|sink| !sink.takes_records()).await;
    }

    /// Finishes the others, after the last record.
    pub async fn finish(&mut self) {
        self.finish_those(|sink| sink.takes_records()).await;
    }

    async fn finish_those(&mut self, is_due: impl Fn(&dyn Sink) -> bool) {
        let due = self.0.iter_mut().filter(|sink| is_due(sink.as_ref()));
        join_all(due.map(|sink| sink.finish())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_that_is_off_has_the_series_of_its_queue_and_losses() {
        let off = [Option::<Events>::None.readings(), Option::<Otlp>::None.readings()];
        let names = |readings: &SinkReadings| -> Vec<&str> {
            let queues = readings.queues.iter().map(|queue| (queue.name, queue.length as u64));
            let losses = readings.losses.iter().map(|loss| (loss.name, loss.count));
            let zero = |(name, count)| (count == 0).then_some(name);
            queues.chain(losses).filter_map(zero).collect()
        };
        assert_eq!(names(&off[0]), ["events", "notes"]);
        assert_eq!(names(&off[1]), ["otlp", "otlp-full", "otlp-old", "otlp-refused"]);
        assert!(off.iter().all(|off| off.metrics.is_empty() && off.cannot.is_empty()));
    }
}
