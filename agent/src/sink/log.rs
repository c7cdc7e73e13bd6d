//! Records as lines on standard output: what `kubectl logs` shows.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use clap::ValueEnum;

use crate::report::{Record, escape::json, hubble, text};

/// How many records wait for a slow reader (about 3 kB each): some seconds of a bad moment.
pub const QUEUE_MAX: usize = 1024;

/// The form of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One line of text a person can read.
    Text,
    /// One JSON object a line.
    Json,
    /// Drops as Hubble exports flows, one JSON object a line; other records on standard error.
    Hubble,
}

/// The queue to the thread that writes.
pub struct Log {
    queue: SyncSender<Record>,
    writer: thread::JoinHandle<()>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    queued: AtomicUsize,
    shed: AtomicU64,
}

impl Log {
    /// Starts the thread that writes; it ends with the queue.
    pub fn start(format: Format) -> Self {
        let (queue, records) = sync_channel(QUEUE_MAX);
        let counts = Arc::<Counts>::default();
        let counted = counts.clone();
        let writer = thread::spawn(move || write(format, &records, &counted));
        Self { queue, writer, counts }
    }

    /// Queues a record; where there is no room, it is counted as shed.
    pub fn write(&self, record: Record) {
        // Before it is sent: it may be written at once.
        self.counts.queued.fetch_add(1, Ordering::Relaxed);
        if self.queue.try_send(record).is_err() {
            self.counts.queued.fetch_sub(1, Ordering::Relaxed);
            self.counts.shed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records that wait to be written.
    pub fn queued(&self) -> usize {
        self.counts.queued.load(Ordering::Relaxed)
    }

    /// Records that found no room, or that could not be written.
    pub fn shed(&self) -> u64 {
        self.counts.shed.load(Ordering::Relaxed)
    }

    /// Waits until everything queued is written.
    pub async fn finish(self) {
        let Self { queue, writer, .. } = self;
        drop(queue);
        // A thread of the runtime's for calls that block, so that the wait blocks no other.
        let _ = tokio::task::spawn_blocking(move || writer.join()).await;
    }
}

fn write(format: Format, records: &Receiver<Record>, counts: &Counts) {
    let (mut out, mut beside) = (io::stdout().lock(), io::stderr());
    while let Ok(record) = records.recv() {
        counts.queued.fetch_sub(1, Ordering::Relaxed);
        let (out, line): (&mut dyn Write, _) = match format {
            Format::Text => (&mut out, Ok(text::line(&record))),
            Format::Json => (&mut out, json(&record)),
            Format::Hubble => match hubble::flow(&record) {
                Some(flow) => (&mut out, json(&flow)),
                // Who reads flows would not know what it is, and it must not get lost.
                None => (&mut beside, json(&record)),
            },
        };
        let written = line.map_err(io::Error::from).and_then(|mut line| {
            line.push('\n');
            out.write_all(line.as_bytes())?;
            out.flush()
        });
        if written.is_err() {
            counts.shed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
