//! Records as lines on standard output: what `kubectl logs` shows.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
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
use tokio::{
    sync::oneshot,
    time::{Duration, timeout},
};

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

/// How long the agent's end waits for its last records to be read: anyone who reads them now and then does
/// so within a second, and a pod has half a minute to end.
const FINISH_WAIT: Duration = Duration::from_secs(3);

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
    /// Says that the thread has ended; `None`: that was waited for.
    ended: Option<oneshot::Receiver<()>>,
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
        let (ends, ended) = oneshot::channel();
        thread::spawn(move || {
            write(format, &entries, &counted);
            // Nobody may be waiting any more.
            let _ = ends.send(());
        });
        Self { queue: Some(queue), ended: Some(ended), counts }
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

    /// Waits until everything queued is written, for at most [`FINISH_WAIT`]. The thread may be held up
    /// by one who does not read for as long as the process runs.
    fn finish(&mut self) -> BoxFuture<'_, ()> {
        self.queue = None;
        let ended = self.ended.take();
        Box::pin(async {
            let Some(ended) = ended else { return };
            if timeout(FINISH_WAIT, ended).await.is_err() {
                let left = self.counts.queued.load(Ordering::Relaxed);
                tracing::warn!(
                    "nobody reads standard output: {left} records are lost, and the one that is being written"
                );
            }
        })
    }
}

fn write(format: Format, entries: &Receiver<Entry>, counts: &LogCounts) {
    let (mut out, mut beside) = (Lines::to(io::stdout()), Lines::to(io::stderr()));
    while let Ok((record, pods)) = entries.recv() {
        counts.queued.fetch_sub(1, Ordering::Relaxed);
        let (out, line) = match format {
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
            out.write(line.as_bytes())
        });
        if written.is_err() {
            counts.shed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes lines, each whole or not counted as written.
///
/// Without the buffer of the standard library, which would write what is left of a line that failed
/// together with a later one.
struct Lines {
    out: Box<dyn Write>,
    /// The last line was begun, and not finished.
    is_torn: bool,
}

impl Lines {
    fn to(stream: impl Write + AsFd + 'static) -> Self {
        let out: Box<dyn Write> = match stream.as_fd().try_clone_to_owned() {
            Ok(descriptor) => Box::new(File::from(descriptor)),
            // No descriptor is free.
            Err(_) => Box::new(stream),
        };
        Self { out, is_torn: false }
    }

    /// Writes a line. One that could not be finished, as on a full disk, takes no other with it: the next
    /// begins on a line of its own.
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.out.write_all(b"\n")?;
            self.is_torn = false;
        }
        let mut left = line;
        while !left.is_empty() {
            match self.out.write(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => left = &left[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.is_torn = left.len() < line.len();
                    return Err(error);
                }
            }
        }
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Has room for so many bytes, until it is made.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (written, room) = &mut *self.0.lock().expect("a disk");
            let count = bytes.len().min(*room);
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *room -= count;
            written.extend(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_has_no_room_takes_no_other_with_it() {
        let disk = Disk::default();
        let mut lines = Lines { out: Box::new(disk.clone()), is_torn: false };
        let mut write = |room, line: &str| {
            disk.0.lock().expect("a disk").1 = room;
            lines.write(line.as_bytes()).is_ok()
        };
        let written = [
            write(9, "one\n"),
            write(2, "two\n"),
            write(0, "three\n"),
            write(9, "four\n"),
            write(0, "five\n"),
            write(9, "six\n"),
        ];
        assert_eq!(written, [true, false, false, true, false, true]);
        let (text, _) = &*disk.0.lock().expect("a disk");
        assert_eq!(String::from_utf8_lossy(text), "one\ntw\nfour\nsix\n");
    }
}
