//! The thread that keeps events and brings them to the collector.

use std::{
    hash::{BuildHasher as _, RandomState},
    pin::Pin,
    sync::{Arc, OnceLock, atomic::Ordering::Relaxed},
};

use jiff::Timestamp;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep_until},
};

use super::{
    Counts, Options, Origin,
    client::{Client, Outcome},
    event::event,
    outbox::{Bounds, Outbox, Shed},
    settings::Settings,
};
use crate::report::Record;

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

/// The first wait after a failure; it doubles up to the longest. Between half of it and all of it is
/// waited, so that the agents of a fleet do not all come back at once.
const BACKOFF: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A collector that asks for more is asked again all the same, after this.
const ASKED_WAIT_MAX: Duration = Duration::from_mins(5);

/// Between two looks for what is too old.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);

/// How long the agent's end is put off for what waits: its last words, as a rule.
const GRACE: Duration = Duration::from_secs(3);

type Sending = Pin<Box<dyn Future<Output = Outcome>>>;

/// Owns the outbox and the client.
pub(super) struct Courier {
    settings: Arc<Settings>,
    origin: Origin,
    outbox: Outbox,
    client: Client,
    counts: Arc<Counts>,
    cluster: Arc<OnceLock<String>>,
    /// When to send what waits.
    due: Instant,
    /// Failures since the last success.
    failures: u32,
    /// The last that was told: each trouble is told once.
    complaint: String,
}

impl Courier {
    pub(super) fn new(
        options: Options,
        client: Client,
        counts: Arc<Counts>,
        cluster: Arc<OnceLock<String>>,
    ) -> Self {
        let Options { settings, origin, folder, bounds } = options;
        let in_memory = || Outbox::in_memory(bounds.unwrap_or(Bounds::MEMORY));
        let outbox = match &folder {
            None => {
                tracing::info!(
                    "what waits for the collector is lost at a restart: no folder is set"
                );
                in_memory()
            }
            Some(folder) => {
                Outbox::on_disk(folder, bounds.unwrap_or(Bounds::DISK)).unwrap_or_else(|error| {
                    tracing::warn!(
                        "{}: {error}. What waits for the collector is kept in memory, and lost at \
                         a restart",
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
            failures: 0,
            complaint: String::new(),
        };
        courier.tell();
        courier
    }

    /// Until the queue ends, and what waits is sent or the time for it is over.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Record>) {
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
            self.tell();
        }
        self.leave();
    }

    /// Makes events of records, and keeps them.
    fn keep(&mut self, records: &mut Vec<Record>) {
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
        self.shed(Shed { full: unreadable as u64, old: 0 });
        if batch.events.is_empty() {
            self.outbox.settle(true);
            return None;
        }
        let events = batch.events.len();
        let cluster = self.cluster.get().map(String::as_str);
        let logs = self.origin.logs(self.outbox.instance(), cluster, batch.events);
        let request = ExportLogsServiceRequest { resource_logs: vec![logs] };
        Some((Box::pin(self.client.clone().export(request)), events))
    }

    /// Does with a batch as its answer says.
    fn settle(&mut self, outcome: Outcome, events: usize) {
        let events = events as u64;
        self.outbox.settle(!matches!(outcome, Outcome::Retry { .. }));
        self.due = Instant::now();
        match outcome {
            Outcome::Accepted { rejected, message } => {
                let rejected = rejected.min(events);
                self.counts.refused.fetch_add(rejected, Relaxed);
                self.counts.sent.fetch_add(events - rejected, Relaxed);
                if rejected > 0 {
                    self.complain(format!("the collector rejects some records: {message}"));
                } else if !message.is_empty() {
                    self.complain(format!("the collector warns: {message}"));
                } else if self.failures > 0 {
                    tracing::info!("the collector takes records again");
                    self.complaint.clear();
                }
                self.failures = 0;
            }
            Outcome::Refused { why } => {
                self.counts.refused.fetch_add(events, Relaxed);
                self.complain(format!("the collector refuses records: {why}"));
                self.failures = 0;
            }
            Outcome::Retry { after, why } => {
                self.counts.retries.fetch_add(1, Relaxed);
                self.complain(format!("the collector takes no records: {why}"));
                let wait = backoff(self.failures, RandomState::new().hash_one(events));
                self.due += after.unwrap_or_default().clamp(wait, ASKED_WAIT_MAX);
                self.failures = self.failures.saturating_add(1);
                // Certificates may have been renewed, and the name may stand for another address.
                match Client::new(&self.settings) {
                    Ok(client) => self.client = client,
                    Err(error) => self.complain(format!("{error:#}")),
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

    fn shed(&self, shed: Shed) {
        self.counts.outbox_full.fetch_add(shed.full, Relaxed);
        self.counts.outbox_old.fetch_add(shed.old, Relaxed);
    }

    /// Tells what waits.
    fn tell(&self) {
        let counts = &self.counts;
        let eldest = self.outbox.eldest().map_or(0, Timestamp::as_millisecond);
        counts.waiting.store(self.outbox.len(), Relaxed);
        counts.waiting_bytes.store(self.outbox.bytes(), Relaxed);
        counts.eldest.store(u64::try_from(eldest).unwrap_or(0), Relaxed);
    }

    fn leave(&self) {
        let waiting = self.outbox.len();
        if waiting > 0 {
            let fate = if self.outbox.is_on_disk() { "sent after the next start" } else { "lost" };
            tracing::warn!("{waiting} records wait for the collector: they are {fate}");
        }
    }
}

/// Waits for an answer, and forever where none is to come.
async fn outcome(sending: &mut Option<(Sending, usize)>) -> Outcome {
    match sending {
        Some((sending, _)) => sending.await,
        None => std::future::pending().await,
    }
}

/// How long to wait after so many failures; any number makes it differ from that of others.
fn backoff(failures: u32, random: u64) -> Duration {
    let longest = BACKOFF.saturating_mul(1 << failures.min(10)).min(BACKOFF_MAX);
    let millis = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(millis / 2 + random % (millis / 2 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_differ() {
        for failures in 0..40 {
            for random in [0, 1, 7919, u64::MAX] {
                let wait = backoff(failures, random);
                assert!(wait >= BACKOFF / 2 && wait <= BACKOFF_MAX, "{failures}: {wait:?}");
            }
        }
        assert!(backoff(20, 0) >= BACKOFF_MAX / 2);
        let some: Vec<_> = (0..9).map(|random| backoff(3, random * 977)).collect();
        assert!(some.iter().any(|wait| *wait != some[0]), "{some:?}");
    }
}
