//! Records as log records to an OpenTelemetry Collector
//! (<https://opentelemetry.io/docs/specs/otlp/>): at least once, and in order.
//!
//! ```text
//!  the agent's task ── queue ──▶ this sink's thread: event ─▶ Outbox ─▶ batch ─▶ Client ──▶ collector
//!                                                              ▲                    │
//!                                                              └── done, or again ◀─┘
//! ```
//!
//! The thread owns the outbox and the client, and has a runtime of its own: a disk or a collector
//! that is slow holds up nobody else. Whatever came while the disk was busy is written in one
//! transaction, and only what is on disk is sent. One batch is under way at a time, so that an
//! incident's records arrive in their order.

mod client;
mod courier;
mod error;
mod event;
mod outbox;
mod resource;
pub mod settings;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use futures_util::future::BoxFuture;
use hyper::Uri;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client as KubeClient};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Duration, sleep, timeout},
};

use super::{
    host::AgentHost,
    outgoing::Outgoing,
    reading::{Loss, Queue, Reading, SinkReadings},
    sink::Sink,
};
pub use client::{ExportOutcome, outcome_of};
pub use error::OtlpError;
pub use event::{RECORD, SEQUENCE, UID, event};
pub use outbox::Bounds;
pub use resource::Origin;
use settings::OtlpSettings;
use whydrop_report::Record;

/// How many records wait for a slow disk (about 3 kB each): as many as wait for a slow log.
pub const QUEUE_MAX: usize = 1024;

/// How long the agent's end waits for the thread: for the collector it waits itself, some seconds less.
const FINISH_WAIT: Duration = Duration::from_secs(5);

/// Its uid stands for the cluster's, by the semantic conventions of `k8s.cluster.uid`.
const CLUSTER_NAMESPACE: &str = "kube-system";

/// Between two attempts to learn the cluster's uid.
const CLUSTER_PAUSE: Duration = Duration::from_secs(30);

/// What the collector did not get is reported at most this often: the record that reports it may not
/// get there either, and would be another loss to report.
const LOSS_INTERVAL: SignedDuration = SignedDuration::from_mins(5);

/// What the sink is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to reach the collector.
    pub settings: Arc<OtlpSettings>,
    /// Who sends.
    pub origin: Origin,
    /// Where events wait; `None`: in memory.
    pub folder: Option<PathBuf>,
    /// How many; `None`: as many as is fit for where they wait.
    pub bounds: Option<Bounds>,
}

/// The queue to the sink's thread.
pub struct Otlp {
    url: Uri,
    /// `None`: it was closed.
    queue: Option<mpsc::Sender<Arc<Record>>>,
    /// Says that the thread has ended; `None`: that was waited for.
    ended: Option<oneshot::Receiver<()>>,
    counts: Arc<DeliveryCounts>,
    cluster: Arc<OnceLock<String>>,
}

/// What became of records, and what waits; written by the sink's thread, but for `queued` and
/// `queue_full`.
#[derive(Debug, Default)]
struct DeliveryCounts {
    queued: AtomicUsize,
    queue_full: AtomicU64,
    kept: AtomicU64,
    outbox_full: AtomicU64,
    outbox_old: AtomicU64,
    refused: AtomicU64,
    sent: AtomicU64,
    retries: AtomicU64,
    waiting: AtomicUsize,
    waiting_bytes: AtomicU64,
    /// Milliseconds since 1970; 0: nothing waits.
    oldest: AtomicU64,
    is_on_disk: AtomicBool,
}

/// What has become of the sink's records. Counts begin with its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryStats {
    /// Records that no event was made of: they wait in the queue.
    pub queued: usize,
    /// Events that the outbox has taken in.
    pub kept: u64,
    /// Events that the collector has.
    pub sent: u64,
    /// Failed requests, which are sent again.
    pub retries: u64,
    /// Records and events that were shed because the queue or the outbox was full.
    pub full: u64,
    /// Events that were shed because they were too old.
    pub old: u64,
    /// Events that the collector refused for good.
    pub refused: u64,
    /// Events that wait in the outbox.
    pub waiting: usize,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// For how long the oldest has waited, in seconds.
    pub waiting_seconds: u64,
}

impl Otlp {
    /// Starts the sink of an agent.
    ///
    /// # Errors
    /// As [`Otlp::start`]; and resource attributes in the environment that cannot be read.
    pub(super) fn of_agent(
        collector: OtlpSettings,
        host: AgentHost<'_>,
    ) -> Result<Self, OtlpError> {
        let otlp = Self::start(Options {
            settings: Arc::new(collector),
            origin: Origin::new(host.node)?,
            folder: host.folder.map(Path::to_path_buf),
            bounds: None,
        })?;
        if let Some(client) = host.client {
            otlp.learn_cluster(client.clone());
        }
        Ok(otlp)
    }

    /// Starts the sink's thread; it ends with the queue.
    ///
    /// # Errors
    /// Certificates that cannot be read, or a machine without room for another thread. The thread
    /// opens the outbox; where it cannot, it says so, and what waits is in memory.
    pub fn start(options: Options) -> Result<Self, OtlpError> {
        let (queue, records) = mpsc::channel(QUEUE_MAX);
        let counts = Arc::<DeliveryCounts>::default();
        let cluster = Arc::<OnceLock<String>>::default();
        counts.is_on_disk.store(options.folder.is_some(), Relaxed);
        let client = client::Client::new(&options.settings)?;
        let url = options.settings.url.clone();
        let (counted, learnt) = (counts.clone(), cluster.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // For looking up the collector's name alone.
            .max_blocking_threads(1)
            .build()
            .map_err(OtlpError::Thread)?;
        let (ends, ended) = oneshot::channel();
        let thread = thread::Builder::new().name("otlp".to_owned());
        thread
            .spawn(move || {
                let courier = courier::Courier::new(options, client, counted, learnt);
                runtime.block_on(courier.run(records));
                // Nobody may be waiting any more.
                let _ = ends.send(());
            })
            .map_err(OtlpError::Thread)?;
        Ok(Self { url, queue: Some(queue), ended: Some(ended), counts, cluster })
    }

    /// Learns which cluster this is, for the resource: asks until it is answered, in a task of its own.
    pub fn learn_cluster(&self, client: KubeClient) {
        let cluster = Arc::clone(&self.cluster);
        tokio::spawn(async move {
            let api: Api<Namespace> = Api::all(client);
            loop {
                match api.get_metadata(CLUSTER_NAMESPACE).await {
                    Ok(namespace) => {
                        if let Some(uid) = namespace.metadata.uid {
                            let _ = cluster.set(uid);
                        }
                        return;
                    }
                    Err(error) => {
                        tracing::debug!("cannot read namespace {CLUSTER_NAMESPACE}: {error}");
                    }
                }
                sleep(CLUSTER_PAUSE).await;
            }
        });
    }

    /// Whether what waits is there after a restart.
    pub fn is_on_disk(&self) -> bool {
        self.counts.is_on_disk.load(Relaxed)
    }

    /// What has become of its records until now.
    pub fn stats(&self) -> DeliveryStats {
        let counts = &*self.counts;
        let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
        let oldest = match counts.oldest.load(Relaxed) {
            0 => now,
            oldest => oldest,
        };
        DeliveryStats {
            queued: counts.queued.load(Relaxed),
            kept: counts.kept.load(Relaxed),
            sent: counts.sent.load(Relaxed),
            retries: counts.retries.load(Relaxed),
            full: counts.queue_full.load(Relaxed) + counts.outbox_full.load(Relaxed),
            old: counts.outbox_old.load(Relaxed),
            refused: counts.refused.load(Relaxed),
            waiting: counts.waiting.load(Relaxed),
            waiting_bytes: counts.waiting_bytes.load(Relaxed),
            waiting_seconds: now.saturating_sub(oldest) / 1000,
        }
    }
}

impl Sink for Otlp {
    /// Queues a record; where there is no room, it is counted as shed.
    fn write(&self, outgoing: &Outgoing) {
        let Outgoing::Record { record, .. } = outgoing else { return };
        // Before it is sent: it may be taken at once.
        self.counts.queued.fetch_add(1, Relaxed);
        if self.queue.as_ref().is_none_or(|queue| queue.try_send(record.clone()).is_err()) {
            self.counts.queued.fetch_sub(1, Relaxed);
            self.counts.queue_full.fetch_add(1, Relaxed);
        }
    }

    fn readings(&self) -> SinkReadings {
        let stats = self.stats();
        let cannot =
            "keep records that wait for the collector across a restart: set --state-directory";
        SinkReadings {
            metrics: stats.metrics(),
            cannot: (!self.is_on_disk()).then(|| cannot.to_owned()).into_iter().collect(),
            ..stats.queue_and_losses()
        }
    }

    fn off() -> SinkReadings {
        DeliveryStats::default().queue_and_losses()
    }

    fn destination(&self) -> Option<(&'static str, &Uri)> {
        Some(("collector", &self.url))
    }

    /// Waits until everything queued is in the outbox, and until the collector has it or does not
    /// take it; for at most [`FINISH_WAIT`], should the disk not answer.
    fn finish(&mut self) -> BoxFuture<'_, ()> {
        self.queue = None;
        let ended = self.ended.take();
        Box::pin(async {
            let Some(ended) = ended else { return };
            if timeout(FINISH_WAIT, ended).await.is_err() {
                let left = self.counts.queued.load(Relaxed);
                tracing::warn!(
                    "the disk does not answer: {left} records for the collector are lost"
                );
            }
        })
    }
}

impl DeliveryStats {
    fn queue_and_losses(&self) -> SinkReadings {
        let losses = [
            ("otlp-full", "records for the collector (its queue was full)", self.full),
            ("otlp-old", "records that waited too long for the collector", self.old),
            ("otlp-refused", "records that the collector refused", self.refused),
        ];
        let loss = |(name, words, count)| Loss { name, words, interval: LOSS_INTERVAL, count };
        SinkReadings {
            queues: vec![Queue { name: "otlp", length: self.queued, limit: QUEUE_MAX }],
            losses: losses.map(loss).into(),
            ..SinkReadings::default()
        }
    }

    fn metrics(&self) -> Vec<Reading> {
        vec![
            Reading::counter("otlp_sent", "Records that the collector has accepted.", self.sent),
            Reading::counter(
                "otlp_retries",
                "Failed export requests that will be retried.",
                self.retries,
            ),
            Reading::gauge("outbox_records", "Records waiting for the collector.", self.waiting),
            Reading::gauge(
                "outbox_bytes",
                "Bytes of the records waiting for the collector.",
                self.waiting_bytes,
            ),
            Reading::gauge(
                "outbox_oldest_seconds",
                "Age of the oldest record waiting for the collector, in seconds.",
                self.waiting_seconds,
            ),
        ]
    }
}
