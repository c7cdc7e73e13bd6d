//! Work that takes a while: what is to be done, how far it is, how long it will take.

use std::{
    io::{self, BufRead, BufReader, IsTerminal, Write},
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How often the line on a terminal is written anew.
const REFRESH: Duration = Duration::from_secs(1);
/// How often a log, which cannot be written anew, is told that work goes on.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How much of a failed command's output is shown.
const LINES_SHOWN: usize = 60;

/// Jobs in their order.
#[derive(Default)]
pub(crate) struct Plan {
    jobs: Vec<Job>,
}

struct Job {
    what: String,
    command: Command,
    /// How long it took when measured, on two cores and with nothing cached.
    estimate: Duration,
}

impl Plan {
    /// Adds a command that is expected to take `seconds`.
    pub(crate) fn add(&mut self, what: impl Into<String>, command: Command, seconds: u64) {
        let estimate = Duration::from_secs(seconds);
        self.jobs.push(Job { what: what.into(), command, estimate });
    }

    /// Runs all, and stops at the first that fails, with what it said.
    pub(crate) fn run(self) -> Result<()> {
        let started = Instant::now();
        let count = self.jobs.len();
        let mut left: Duration = self.jobs.iter().map(|job| job.estimate).sum();
        for (index, job) in self.jobs.into_iter().enumerate() {
            left -= job.estimate;
            let title = format!("[{}/{count}] {}", index + 1, job.what);
            run(&title, job.command, job.estimate, left)?;
        }
        if count > 1 {
            say(&format!("ready after {}", seconds(started.elapsed())));
        }
        Ok(())
    }
}

/// Runs one job while it tells how far it is; `after` is the estimate of all that follows.
fn run(title: &str, mut command: Command, estimate: Duration, after: Duration) -> Result<()> {
    let started = Instant::now();
    let terminal = io::stdout().is_terminal();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{title}: run {command:?}"))?;
    let (sender, lines) = mpsc::channel();
    let streams: [Option<Box<dyn io::Read + Send>>; 2] = [
        child.stdout.take().map(|stream| Box::new(stream) as _),
        child.stderr.take().map(|stream| Box::new(stream) as _),
    ];
    for stream in streams.into_iter().flatten() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                // Nobody listens any more once the job has been given up.
                let _ = sender.send(line);
            }
        });
    }
    drop(sender);

    let progress = || {
        let elapsed = started.elapsed();
        let left = match estimate.checked_sub(elapsed) {
            Some(left) => format!("about {} left in all", seconds(left + after)),
            None => format!("longer than the usual {}", seconds(estimate)),
        };
        format!("{title}: {}, {left}", seconds(elapsed))
    };
    if !terminal && estimate >= HEARTBEAT {
        say(&format!("{title}: up to about {} where nothing is built yet", seconds(estimate)));
    }
    let mut output = Vec::new();
    let mut told = Instant::now();
    loop {
        match lines.recv_timeout(REFRESH) {
            Ok(line) => output.push(line),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        let due = if terminal { REFRESH } else { HEARTBEAT };
        if told.elapsed() >= due {
            told = Instant::now();
            if terminal { rewrite(&progress()) } else { say(&progress()) }
        }
    }
    let status = child.wait()?;
    if terminal {
        rewrite("");
    }
    if !status.success() {
        let from = output.len().saturating_sub(LINES_SHOWN);
        bail!("{title}: {command:?} ended with {status}:\n{}", output[from..].join("\n"));
    }
    say(&format!("{title}: done in {}", seconds(started.elapsed())));
    Ok(())
}

/// A line for whoever watches; nobody is told where nobody listens.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn rewrite(line: &str) {
    let mut stdout = io::stdout();
    let _ = write!(stdout, "\r\x1b[2K{line}").and_then(|()| stdout.flush());
}

fn seconds(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=99 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}
