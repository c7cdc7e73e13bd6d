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
mod event;
mod outbox;
mod resource;
pub mod settings;

use std::{
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client as KubeClient};
use tokio::{
    sync::mpsc,
    time::{Duration, sleep},
};

use crate::report::Record;
pub use event::{RECORD, SEQUENCE, UID, event};
pub use outbox::Bounds;
pub use resource::Origin;
use settings::Settings;

/// How many records wait for a slow disk (about 3 kB each): as many as wait for a slow log.
pub const QUEUE_MAX: usize = 1024;

/// Its uid stands for the cluster's, by the semantic conventions of `k8s.cluster.uid`.
const CLUSTER_NAMESPACE: &str = "kube-system";

/// Between two attempts to learn the cluster's uid.
const CLUSTER_PAUSE: Duration = Duration::from_secs(30);

/// What the sink is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to reach the collector.
    pub settings: Arc<Settings>,
    /// Who sends.
    pub origin: Origin,
    /// Where events wait; `None`: in memory.
    pub folder: Option<PathBuf>,
    /// How many; `None`: as many as is fit for where they wait.
    pub bounds: Option<Bounds>,
}

/// The queue to the sink's thread.
pub struct Otlp {
    queue: mpsc::Sender<Record>,
    thread: thread::JoinHandle<()>,
    counts: Arc<Counts>,
    cluster: Arc<OnceLock<String>>,
}

/// What became of records, and what waits; written by the sink's thread, but for `queued` and
/// `queue_full`.
#[derive(Debug, Default)]
struct Counts {
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
    eldest: AtomicU64,
    is_on_disk: AtomicBool,
}

/// How the sink fares. Counts begin with its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fare {
    /// Records that no event was made of: they wait in the queue.
    pub queued: usize,
    /// Events that the outbox has taken in.
    pub kept: u64,
    /// Events that a collector has.
    pub sent: u64,
    /// Requests that were to be sent again.
    pub retries: u64,
    /// Records and events that were shed for want of room.
    pub full: u64,
    /// Events that were shed since they were too old.
    pub old: u64,
    /// Events that the collector refused for good.
    pub refused: u64,
    /// Events that wait in the outbox.
    pub waiting: usize,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// For how long the eldest has waited.
    pub waiting_seconds: u64,
}

impl Otlp {
    /// Starts the sink's thread; it ends with the queue.
    ///
    /// # Errors
    /// Certificates that cannot be read, or a machine without room for another thread. The thread
    /// opens the outbox; where it cannot, it says so, and what waits is in memory.
    pub fn start(options: Options) -> anyhow::Result<Self> {
        let (queue, records) = mpsc::channel(QUEUE_MAX);
        let counts = Arc::<Counts>::default();
        let cluster = Arc::<OnceLock<String>>::default();
        counts.is_on_disk.store(options.folder.is_some(), Relaxed);
        let client = client::Client::new(&options.settings)?;
        let (counted, learnt) = (counts.clone(), cluster.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // For looking up the collector's name alone.
            .max_blocking_threads(1)
            .build()?;
        let thread = thread::Builder::new().name("otlp".to_owned());
        let thread = thread
            .spawn(move || {
                let courier = courier::Courier::new(options, client, counted, learnt);
                runtime.block_on(courier.run(records));
            })
            .context("start a thread for the collector")?;
        Ok(Self { queue, thread, counts, cluster })
    }

    /// Queues a record; where there is no room, it is counted as shed.
    pub fn write(&self, record: Record) {
        // Before it is sent: it may be taken at once.
        self.counts.queued.fetch_add(1, Relaxed);
        if self.queue.try_send(record).is_err() {
            self.counts.queued.fetch_sub(1, Relaxed);
            self.counts.queue_full.fetch_add(1, Relaxed);
        }
    }

    /// Learns which cluster this is, for the resource: asks until it is told, in a task of its own.
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
                    Err(error) => tracing::debug!("{CLUSTER_NAMESPACE} is not told of: {error}"),
                }
                sleep(CLUSTER_PAUSE).await;
            }
        });
    }

    /// Whether what waits is there after a restart.
    pub fn is_on_disk(&self) -> bool {
        self.counts.is_on_disk.load(Relaxed)
    }

    /// How it fares.
    pub fn fare(&self) -> Fare {
        let counts = &*self.counts;
        let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
        let eldest = match counts.eldest.load(Relaxed) {
            0 => now,
            eldest => eldest,
        };
        Fare {
            queued: counts.queued.load(Relaxed),
            kept: counts.kept.load(Relaxed),
            sent: counts.sent.load(Relaxed),
            retries: counts.retries.load(Relaxed),
            full: counts.queue_full.load(Relaxed) + counts.outbox_full.load(Relaxed),
            old: counts.outbox_old.load(Relaxed),
            refused: counts.refused.load(Relaxed),
            waiting: counts.waiting.load(Relaxed),
            waiting_bytes: counts.waiting_bytes.load(Relaxed),
            waiting_seconds: now.saturating_sub(eldest) / 1000,
        }
    }

    /// Waits until everything queued is in the outbox, and until the collector has it or does not
    /// take it; the latter for some seconds at most.
    pub async fn finish(self) {
        let Self { queue, thread, .. } = self;
        drop(queue);
        // A thread of the runtime's for calls that block, so that the wait blocks no other.
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}
