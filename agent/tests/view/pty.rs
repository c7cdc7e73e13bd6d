//! The real binary in a pseudo-terminal, and what is on its screen.

use std::{
    fs,
    io::{Read as _, Write as _},
    num::NonZeroU16,
    path::Path,
    process::{Child, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pty_process::{
    Size,
    blocking::{Command, Pty, open},
};
use tempfile::TempDir;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_whydrop");

/// How long something may take until it is on the screen, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the terminal has come to.
struct Output {
    parser: vt100::Parser,
    raw: Vec<u8>,
    has_ended: bool,
}

/// A program in a terminal of its own.
pub(crate) struct Session {
    pty: Arc<Pty>,
    child: Child,
    output: Arc<(Mutex<Output>, Condvar)>,
}

fn side(length: u16) -> NonZeroU16 {
    NonZeroU16::new(length).expect("not 0")
}

/// A file of lines.
pub(crate) fn file(lines: &[String]) -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("records.ndjson");
    fs::write(&path, lines.join("\n") + "\n").expect("written");
    let path = path.to_str().expect("UTF-8").to_owned();
    (folder, path)
}

impl Session {
    /// Starts a program; `piped`, where its standard input is not the terminal.
    pub(crate) fn start(program: &str, arguments: &[&str], size: (u16, u16), piped: bool) -> Self {
        let (columns, rows) = size;
        let (pty, pts) = open().expect("a pseudo-terminal");
        pty.resize(Size::new(rows, columns)).expect("resized");
        let mut command = Command::new(program)
            .args(arguments)
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .current_dir(Path::new("/"));
        if piped {
            command = command.stdin(Stdio::piped());
        }
        let child = command.spawn(pts).expect("it runs");
        let parser = vt100::Parser::new(side(rows), side(columns), 0);
        let output = Output { parser, raw: Vec::new(), has_ended: false };
        let output = Arc::new((Mutex::new(output), Condvar::new()));
        let (pty, shared) = (Arc::new(pty), output.clone());
        let reader = pty.clone();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            loop {
                // The terminal is gone once no process has it open any more.
                let read = (&*reader).read(&mut bytes).unwrap_or(0);
                let mut output = shared.0.lock().expect("no panic");
                output.parser.process(&bytes[..read]);
                output.raw.extend_from_slice(&bytes[..read]);
                output.has_ended |= read == 0;
                shared.1.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        Self { pty, child, output }
    }

    /// Starts `whydrop view` of a file.
    pub(crate) fn view(path: &str, size: (u16, u16)) -> Self {
        Self::start(BINARY, &["view", path], size, false)
    }

    /// Types.
    pub(crate) fn press(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).expect("typed");
    }

    /// Makes the terminal another size.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let mut output = self.output.0.lock().expect("no panic");
        output.parser.screen_mut().set_size(side(rows), side(columns));
        self.pty.resize(Size::new(rows, columns)).expect("resized");
    }

    /// Writes to the program's standard input.
    pub(crate) fn feed(&mut self, text: &str) {
        let pipe = self.child.stdin.as_mut().expect("a pipe");
        pipe.write_all(text.as_bytes()).and_then(|()| pipe.flush()).expect("fed");
    }

    /// Closes it.
    pub(crate) fn close(&mut self) {
        drop(self.child.stdin.take());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("signalled");
    }

    /// Waits until the screen is like that, and returns what is on it.
    pub(crate) fn wait(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        self.until(what, |output| {
            let text = output.parser.screen().contents();
            is_so(&text).then_some(text)
        })
    }

    /// Waits until a text is on the screen.
    pub(crate) fn see(&self, text: &str) -> String {
        self.wait(text, |screen| screen.contains(text))
    }

    /// Waits until the program has written these bytes, whatever they do.
    pub(crate) fn written(&self, bytes: &str) -> String {
        let has = |raw: &str| raw.contains(bytes).then(|| raw.to_owned());
        self.until(bytes, |output| has(&String::from_utf8_lossy(&output.raw)))
    }

    /// The screen as it is.
    pub(crate) fn screen(&self) -> vt100::Screen {
        self.output.0.lock().expect("no panic").parser.screen().clone()
    }

    /// Waits for the program's end and all it wrote.
    pub(crate) fn end(mut self) -> (ExitStatus, vt100::Screen) {
        self.until("the end", |output| output.has_ended.then_some(()));
        (self.child.wait().expect("waited"), self.screen())
    }

    fn until<T>(&self, what: &str, ask: impl Fn(&Output) -> Option<T>) -> T {
        let begun = Instant::now();
        let (output, changed) = &*self.output;
        let mut output: MutexGuard<'_, Output> = output.lock().expect("no panic");
        loop {
            if let Some(found) = ask(&output) {
                return found;
            }
            let left = DEADLINE.saturating_sub(begun.elapsed());
            let screen = || output.parser.screen().contents();
            assert!(!left.is_zero(), "expected {what}, found\n{}", screen());
            assert!(!output.has_ended || what == "the end", "{what}: it ended\n{}", screen());
            output = changed.wait_timeout(output, left).expect("no panic").0;
        }
    }
}
