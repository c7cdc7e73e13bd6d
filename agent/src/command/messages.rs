//! Messages on standard error. `kubectl logs` mixes them with the records of standard output, so that
//! each is one line that cannot look like a record, whatever an object or a server says in it.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, Write},
    panic,
};

use tracing_subscriber::EnvFilter;

use crate::report::escape::{json_text, words};

/// Starts the messages of a command: of this level on, as JSON or as text.
pub(super) fn start(level: &str, is_json: bool) {
    // The client says itself what its caller says better.
    let default = format!("{level},kube_client=off,kube_runtime=error");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let messages = tracing_subscriber::fmt().with_env_filter(filter);
    if is_json {
        messages.json().with_writer(|| Lines { out: io::stderr(), is_json: true }).init();
    } else {
        let lines = || Lines { out: io::stderr(), is_json: false };
        messages.with_ansi(false).with_writer(lines).init();
    }
    panic::set_hook(Box::new(|panic| {
        complain(&panic.to_string());
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            let _ = write!(io::stderr(), "{backtrace}");
        }
    }));
}

/// A line on standard error, for the person who gave the command.
pub(super) fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "whydrop: {}", words(line));
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
