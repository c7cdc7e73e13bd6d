//! The thread that keeps events and brings them to the collector.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock, atomic::Ordering::Relaxed},
};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use jiff::Timestamp;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep_until},
};

use super::{
    DeliveryCounts, Options, Origin,
    client::{Client, ExportOutcome},
    event::event,
    outbox::{Bounds, Outbox, ShedEvents},
    settings::OtlpSettings,
};
use whydrop_core::chain::chain;
use whydrop_report::Record;

/// A request has no more than this: what a collector takes by default is 4 MiB, and an event has
/// some 6 kB.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Nor more than this: what the SDKs of OpenTelemetry send at a time
/// (`OTEL_BLRP_MAX_EXPORT_BATCH_SIZE`).
const BATCH_EVENTS_MAX: usize = 512;

/// So many records are written in one transaction: as many as the queue holds.
const GROUP_MAX: usize = super::QUEUE_MAX;

/// An event waits this long for others that come with it: a drop and its incident, for one.
const LINGER: Duration = Duration::from_millis(200);

/// How long to wait after a failure: it doubles from the least to the most. Jitter adds up to as much
/// again, so that the agents of a fleet do not all come back at once; the longest wait is half a
/// minute.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// The waits after one failure after the other.
const PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(PAUSE_MIN)
    .with_max_delay(PAUSE_MAX)
    .with_jitter()
    .without_max_times();

/// A collector that asks for a longer pause is still tried again after this.
const ASKED_WAIT_MAX: Duration = Duration::from_mins(5);

/// Between two looks for what is too old.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);

/// How long the agent's end is delayed for what waits: its last records, as a rule.
const GRACE: Duration = Duration::from_secs(3);

type Sending = Pin<Box<dyn Future<Output = ExportOutcome>>>;

/// Owns the outbox and the client.
pub(super) struct Courier {
    settings: Arc<OtlpSettings>,
    origin: Origin,
    outbox: Outbox,
    client: Client,
    counts: Arc<DeliveryCounts>,
    cluster: Arc<OnceLock<String>>,
    /// When to send what waits.
    due: Instant,
    /// How long to wait after the next failures; `None`: the last request did not fail.
    pauses: Option<ExponentialBackoff>,
    /// The last trouble that was logged: each is logged once.
    complaint: String,
}

impl Courier {
    pub(super) fn new(
        options: Options,
        client: Client,
        counts: Arc<DeliveryCounts>,
        cluster: Arc<OnceLock<String>>,
    ) -> Self {
        let Options { settings, origin, folder, bounds } = options;
        let in_memory = || Outbox::in_memory(bounds.unwrap_or(Bounds::MEMORY));
        let outbox = match &folder {
            None => {
                tracing::info!(
                    "records that wait for the collector are lost at a restart: --state-directory is not set"
                );
                in_memory()
            }
            Some(folder) => {
                Outbox::on_disk(folder, bounds.unwrap_or(Bounds::DISK)).unwrap_or_else(|error| {
                    tracing::warn!(
                        "{}: {error}. Records that wait for the collector are kept in memory, and \
                         lost at a restart",
                        folder.display()
                    );
                    in_memory()
                })
            }
        };
        counts.is_on_disk.store(outbox.is_on_disk(), Relaxed);
        let courier = Self {
            settings,
            origin,
            outbox,
            client,
            counts,
            cluster,
            due: Instant::now(),
            pauses: None,
            complaint: String::new(),
        };
        courier.publish();
        courier
    }

    /// Until the queue ends, and what waits is sent or the time for it is over.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Arc<Record>>) {
        let mut records = Vec::new();
        let mut sending: Option<(Sending, usize)> = None;
        let mut end: Option<Instant> = None;
        let mut expiry = Instant::now() + EXPIRY_INTERVAL;
        while end
            .is_none_or(|end| (sending.is_some() || self.outbox.len() > 0) && Instant::now() < end)
        {
            let is_idle = sending.is_none();
            let wakes =
                if is_idle && self.outbox.len() > 0 { self.due.min(expiry) } else { expiry };
            let wakes = end.map_or(wakes, |end| end.min(wakes));
            tokio::select! {
                count = queue.recv_many(&mut records, GROUP_MAX), if end.is_none() => {
                    if count == 0 {
                        end = Some(Instant::now() + GRACE);
                        // Once more, at once: whatever was waited for, there is no time for it.
                        self.due = Instant::now();
                    }
                    self.keep(&mut records);
                }
                outcome = outcome(&mut sending) => {
                    if let Some((_, events)) = sending.take() {
                        self.settle(outcome, events);
                    }
                }
                () = sleep_until(wakes) => {}
            }
            if Instant::now() >= expiry {
                expiry = Instant::now() + EXPIRY_INTERVAL;
                let shed = self.outbox.expire(Timestamp::now());
                self.shed(shed);
            }
            if sending.is_none() && self.outbox.len() > 0 && Instant::now() >= self.due {
                sending = self.send();
            }
            self.publish();
        }
        self.leave();
    }

    /// Makes events of records, and keeps them.
    fn keep(&mut self, records: &mut Vec<Arc<Record>>) {
        if records.is_empty() {
            return;
        }
        self.counts.queued.fetch_sub(records.len(), Relaxed);
        let now = Timestamp::now();
        let mut events: Vec<_> = records.drain(..).map(|record| event(&record, now)).collect();
        if self.outbox.len() == 0 {
            self.due = self.due.max(Instant::now() + LINGER);
        }
        let count = events.len() as u64;
        let shed = self.outbox.push(&mut events, now);
        self.counts.kept.fetch_add(count, Relaxed);
        self.shed(shed);
    }

    /// Sends what waits longest.
    fn send(&mut self) -> Option<(Sending, usize)> {
        let batch = self.outbox.batch(BATCH_EVENTS_MAX, BATCH_BYTES_MAX);
        let unreadable = batch.entries - batch.events.len();
        self.shed(ShedEvents { full: unreadable as u64, old: 0 });
        if batch.events.is_empty() {
            self.outbox.done();
            return None;
        }
        let events = batch.events.len();
        let cluster = self.cluster.get().map(String::as_str);
        let logs = self.origin.logs(self.outbox.instance(), cluster, batch.events);
        let request = ExportLogsServiceRequest { resource_logs: vec![logs] };
        Some((Box::pin(self.client.clone().export(request)), events))
    }

    /// Does with a batch as its answer says.
    fn settle(&mut self, outcome: ExportOutcome, events: usize) {
        let events = events as u64;
        match outcome {
            ExportOutcome::Retry { .. } => self.outbox.retry(),
            ExportOutcome::Accepted { .. } | ExportOutcome::Refused { .. } => self.outbox.done(),
        }
        self.due = Instant::now();
        match outcome {
            ExportOutcome::Accepted { rejected, message } => {
                let rejected = rejected.min(events);
                self.counts.refused.fetch_add(rejected, Relaxed);
                self.counts.sent.fetch_add(events - rejected, Relaxed);
                if rejected > 0 {
                    self.complain(format!("the collector rejected some records: {message}"));
                } else if !message.is_empty() {
                    self.complain(format!("the collector warns: {message}"));
                } else if self.pauses.is_some() {
                    tracing::info!("the collector accepts records again");
                    self.complaint.clear();
                }
                self.pauses = None;
            }
            ExportOutcome::Refused { why } => {
                self.counts.refused.fetch_add(events, Relaxed);
                self.complain(format!("the collector refused records: {why}"));
                self.pauses = None;
            }
            ExportOutcome::Retry { after, why } => {
                self.counts.retries.fetch_add(1, Relaxed);
                self.complain(format!("the collector accepts no records: {why}"));
                let pause = self.pauses.get_or_insert_with(|| PAUSES.build()).next();
                let pause = pause.unwrap_or(PAUSE_MAX);
                self.due += after.unwrap_or_default().clamp(pause, ASKED_WAIT_MAX);
                // Certificates may have been renewed, and the name may stand for another address.
                match Client::new(&self.settings) {
                    Ok(client) => self.client = client,
                    Err(error) => self.complain(chain(&error)),
                }
            }
        }
    }

    fn complain(&mut self, complaint: String) {
        if complaint != self.complaint {
            tracing::warn!("{complaint}");
            self.complaint = complaint;
        }
    }

    fn shed(&self, shed: ShedEvents) {
        self.counts.outbox_full.fetch_add(shed.full, Relaxed);
        self.counts.outbox_old.fetch_add(shed.old, Relaxed);
    }

    /// Publishes what waits.
    fn publish(&self) {
        let counts = &self.counts;
        let oldest = self.outbox.oldest().map_or(0, Timestamp::as_millisecond);
        counts.waiting.store(self.outbox.len(), Relaxed);
        counts.waiting_bytes.store(self.outbox.bytes(), Relaxed);
        counts.oldest.store(u64::try_from(oldest).unwrap_or(0), Relaxed);
    }

    fn leave(&self) {
        let waiting = self.outbox.len();
        if waiting > 0 {
            let fate = if self.outbox.is_on_disk() { "sent after the next start" } else { "lost" };
            tracing::warn!("{waiting} records still wait for the collector: they are {fate}");
        }
    }
}

/// Waits for an answer, and forever where none is to come.
async fn outcome(sending: &mut Option<(Sending, usize)>) -> ExportOutcome {
    match sending {
        Some((sending, _)) => sending.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_differ() {
        let agents: Vec<Vec<_>> =
            (0..9).map(|seed| PAUSES.with_jitter_seed(seed).build().take(40).collect()).collect();
        for pauses in &agents {
            assert_eq!(pauses.len(), 40, "there is always another one");
            let mut least = PAUSE_MIN;
            for (failures, pause) in pauses.iter().enumerate() {
                let range = least..=least * 2;
                assert!(range.contains(pause), "{failures}: {pause:?} in {range:?}");
                least = (least * 2).min(PAUSE_MAX);
            }
            assert_eq!(least, PAUSE_MAX);
        }
        assert!(agents.iter().any(|pauses| pauses != &agents[0]), "{agents:?}");
    }
}
