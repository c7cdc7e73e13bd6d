//! Messages on standard error. `kubectl logs` mixes them with the records of standard output, so that
//! each is one line that cannot look like a record, whatever an object or a server says in it.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, Write},
    panic,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::EnvFilter;

use crate::report::escape::{json_text, words};

/// How many messages wait for a slow reader of standard error (some 200 bytes each).
const QUEUE_MAX: usize = 1024;

/// How long the end of a command waits for its last messages to be read.
const FINISH_WAIT: Duration = Duration::from_secs(1);

/// The queue to the thread that writes; none: who has a message writes it.
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// How the messages of a command are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// The least level that is written.
    pub(super) level: &'static str,
    /// As JSON, else as text.
    pub(super) is_json: bool,
}

/// Starts the messages of a command.
pub(super) fn start(manner: Manner) {
    let Manner { level, is_json } = manner;
    // The client says itself what its caller says better.
    let default = format!("{level},kube_client=off,kube_runtime=error");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let messages = tracing_subscriber::fmt().with_env_filter(filter);
    if is_json {
        messages.json().with_writer(|| Lines { out: Way, is_json: true }).init();
    } else {
        let lines = || Lines { out: Way, is_json: false };
        messages.with_ansi(false).with_writer(lines).init();
    }
    panic::set_hook(Box::new(|panic| {
        complain(&panic.to_string());
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            let _ = write!(Way, "{backtrace}");
        }
    }));
}

/// Has messages from here on written by a thread of its own, so that who does not read standard error holds
/// up nothing else: of a command that runs for days. What there is no room for is counted, and the count
/// written once there is.
#[cfg_attr(not(feature = "agent"), expect(dead_code, reason = "no such command"))]
pub(super) fn queue(is_json: bool) {
    let (sender, receiver) = sync_channel(QUEUE_MAX);
    // Without room for a thread each message is written by who has it.
    let writer = thread::Builder::new().name("messages".to_owned());
    if writer.spawn(move || write_queued(&receiver, io::stderr(), is_json)).is_ok() {
        let _ = QUEUE.set(Queue { sender, lost: AtomicU64::new(0) });
    }
}

/// A line on standard error, for the person who gave the command.
pub(super) fn complain(line: &str) {
    let _ = Way.write_all(format!("whydrop: {}\n", words(line)).as_bytes());
}

/// Waits until the last messages are written, for at most [`FINISH_WAIT`].
pub(super) fn finish() {
    let Some(queue) = QUEUE.get() else { return };
    let (written, is_written) = sync_channel(1);
    if queue.sender.try_send(Queued::End(written)).is_ok() {
        // What is not read by now will not be.
        let _ = is_written.recv_timeout(FINISH_WAIT);
    }
}

/// What goes to the thread that writes.
struct Queue {
    sender: SyncSender<Queued>,
    /// Messages that found no room, and were not reported yet.
    lost: AtomicU64,
}

enum Queued {
    Message(Vec<u8>),
    /// All before it is written.
    End(SyncSender<()>),
}

/// To standard error: through the queue, where there is one.
struct Way;

impl Write for Way {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        match QUEUE.get() {
            None => io::stderr().write_all(message)?,
            Some(queue) => {
                if queue.sender.try_send(Queued::Message(message.to_vec())).is_err() {
                    queue.lost.fetch_add(1, Relaxed);
                }
            }
        }
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_queued(queued: &Receiver<Queued>, mut out: impl Write, is_json: bool) {
    while let Ok(queued) = queued.recv() {
        match queued {
            // A reader that is gone is nobody to report to.
            Queued::Message(message) => drop(out.write_all(&message)),
            Queued::End(written) => drop(written.try_send(())),
        }
        let lost = QUEUE.get().map_or(0, |queue| queue.lost.swap(0, Relaxed));
        if lost > 0 {
            let what = format!("{lost} messages were lost: standard error was not read");
            let _ = match is_json {
                true => writeln!(out, r#"{{"level":"WARN","fields":{{"message":"{what}"}}}}"#),
                false => writeln!(out, "whydrop: {what}"),
            };
        }
    }
}

/// Writes each message as one line, with escapes. A message comes in one call of `write`, as
/// `tracing_subscriber::fmt` does it.
struct Lines<W> {
    out: W,
    is_json: bool,
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(message);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let mut line = if self.is_json { json_text(text) } else { words(text) }.into_owned();
        line.push('\n');
        self.out.write_all(line.as_bytes())?;
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;
    use crate::records::{Line, flow_search::FlowSearch, read_line};

    /// What a server or an object may say.
    const HOSTILE: &str = "x\n2026-01-02T03:04:05Z DROP tenant/evil -> books/db:5432/TCP  y; 1 SYN; fix: \
        whydrop fix --from tenant/evil --to books/db --port 5432/TCP  [incident 00c0ffee]\n\
        {\"schema\":\"whydrop/v1\",\"kind\":\"agent\"}\u{9b}31m\u{202e}\u{1b}[31m";

    #[derive(Clone, Default)]
    struct Memory(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("memory").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A writer of messages in that form, into memory.
    struct Into(Memory, bool);

    impl MakeWriter<'_> for Into {
        type Writer = Lines<Memory>;

        fn make_writer(&self) -> Self::Writer {
            Lines { out: self.0.clone(), is_json: self.1 }
        }
    }

    fn say() {
        tracing::warn!("{HOSTILE}");
        tracing::warn!(object = HOSTILE, error = %HOSTILE, ?HOSTILE, "said");
    }

    #[test]
    fn a_message_is_one_line_and_no_record() {
        for is_json in [false, true] {
            let memory = Memory::default();
            let into = Into(memory.clone(), is_json);
            let messages = tracing_subscriber::fmt();
            if is_json {
                let messages = messages.json().with_writer(into).finish();
                tracing::subscriber::with_default(messages, say);
            } else {
                let messages = messages.with_ansi(false).with_writer(into).finish();
                tracing::subscriber::with_default(messages, say);
            }
            let written = memory.0.lock().expect("memory").clone();
            let written = String::from_utf8(written).expect("UTF-8");
            let lines: Vec<&str> = written.lines().collect();
            assert_eq!(lines.len(), 2, "{written}");
            let mut named = FlowSearch::new("00c0ffee").expect("an id");
            for line in lines {
                assert!(!line.contains(['\u{9b}', '\u{202e}', '\u{1b}']), "{line:?}");
                assert_eq!(read_line(line), Line::Other, "{line}");
                named.search(line);
                let says: Result<Value, _> = serde_json::from_str(line);
                assert_eq!(says.is_ok(), is_json, "{line}");
            }
            assert!(named.flows().is_err(), "{written}");
        }
    }
}
