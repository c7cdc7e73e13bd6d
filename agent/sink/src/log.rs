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
use futures_util::future::BoxFuture;
use jiff::SignedDuration;

use super::{
    outgoing::Outgoing,
    reading::{Loss, Queue, SinkReadings},
    sink::Sink,
};
use whydrop_report::{
    Record,
    escape::json,
    hubble::{self, Pods},
    text,
};

/// How many records wait for a slow reader (about 3 kB each): some seconds of a bad moment.
pub const QUEUE_MAX: usize = 1024;

/// The form of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One line of text for each record.
    Text,
    /// One JSON object for each record.
    Json,
    /// Drops as Hubble exports flows, one JSON object a line; other records go to standard error.
    Hubble,
}

/// The queue to the thread that writes.
pub struct Log {
    /// `None`: it was closed.
    queue: Option<SyncSender<Entry>>,
    /// `None`: it has ended.
    writer: Option<thread::JoinHandle<()>>,
    counts: Arc<LogCounts>,
}

/// What a line is made of: a record, and the pods at its flow's ends.
type Entry = (Arc<Record>, Pods);

#[derive(Default)]
struct LogCounts {
    queued: AtomicUsize,
    /// Records that found no room, or that could not be written.
    shed: AtomicU64,
}

impl Log {
    /// Starts the thread that writes; it ends with the queue.
    pub fn start(format: Format) -> Self {
        let (queue, entries) = sync_channel(QUEUE_MAX);
        let counts = Arc::<LogCounts>::default();
        let counted = counts.clone();
        let writer = thread::spawn(move || write(format, &entries, &counted));
        Self { queue: Some(queue), writer: Some(writer), counts }
    }
}

impl Sink for Log {
    /// Queues a record; where there is no room, it is counted as shed.
    fn write(&self, outgoing: &Outgoing) {
        let Outgoing::Record { record, pods } = outgoing else { return };
        // Before it is sent: it may be written at once.
        self.counts.queued.fetch_add(1, Ordering::Relaxed);
        let entry = (record.clone(), pods.clone());
        if self.queue.as_ref().is_none_or(|queue| queue.try_send(entry).is_err()) {
            self.counts.queued.fetch_sub(1, Ordering::Relaxed);
            self.counts.shed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn readings(&self) -> SinkReadings {
        let length = self.counts.queued.load(Ordering::Relaxed);
        SinkReadings {
            queues: vec![Queue { name: "log", length, limit: QUEUE_MAX }],
            losses: vec![Loss {
                name: "records",
                words: "records for a slow reader of the log",
                interval: SignedDuration::ZERO,
                count: self.counts.shed.load(Ordering::Relaxed),
            }],
            ..SinkReadings::default()
        }
    }

    /// Waits until everything queued is written.
    fn finish(&mut self) -> BoxFuture<'_, ()> {
        self.queue = None;
        let writer = self.writer.take();
        Box::pin(async {
            if let Some(writer) = writer {
                // A thread of the runtime's for calls that block, so that the wait blocks no other.
                let _ = tokio::task::spawn_blocking(move || writer.join()).await;
            }
        })
    }
}

fn write(format: Format, entries: &Receiver<Entry>, counts: &LogCounts) {
    let (mut out, mut beside) = (io::stdout().lock(), io::stderr());
    while let Ok((record, pods)) = entries.recv() {
        counts.queued.fetch_sub(1, Ordering::Relaxed);
        let (out, line): (&mut dyn Write, _) = match format {
            Format::Text => (&mut out, Ok(text::line(&record))),
            Format::Json => (&mut out, json(&*record)),
            Format::Hubble => match hubble::flow(&record, &pods) {
                Some(flow) => (&mut out, json(&flow)),
                // A reader of flows would not understand it, and it must not get lost.
                None => (&mut beside, json(&*record)),
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
