//! Work that takes a while: what is to be done, how far it is, how long it will take.

use std::{
    io::{self, BufRead, BufReader, IsTerminal, Write},
    process::{Command, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
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
    /// Whether those that follow begin while it runs.
    is_beside: bool,
}

impl Plan {
    /// Adds a command that is expected to take `seconds`.
    pub(crate) fn add(&mut self, what: impl Into<String>, command: Command, seconds: u64) {
        self.push(what.into(), command, seconds, false);
    }

    /// The same, and what follows need not wait for it: only others that run beside do.
    pub(crate) fn add_beside(&mut self, what: impl Into<String>, command: Command, seconds: u64) {
        self.push(what.into(), command, seconds, true);
    }

    fn push(&mut self, what: String, command: Command, seconds: u64, is_beside: bool) {
        let estimate = Duration::from_secs(seconds);
        self.jobs.push(Job { what, command, estimate, is_beside });
    }

    /// Runs all, and stops at the first that fails, with what it said.
    pub(crate) fn run(self) -> Result<()> {
        let started = Instant::now();
        let count = self.jobs.len();
        let numbered = self.jobs.into_iter().zip(1..);
        let titled = numbered.map(|(job, number)| {
            let title = format!("[{number}/{count}] {}", job.what);
            (title, job)
        });
        let mut before: Vec<(String, Job)> = titled.collect();
        let first = before.iter().position(|(_, job)| job.is_beside).unwrap_or(before.len());
        let (beside, after) = before.split_off(first).into_iter().partition(|(_, j)| j.is_beside);
        let stop = AtomicBool::new(false);
        run_all(before, &stop)?;
        std::thread::scope(|scope| {
            let beside = scope.spawn(|| run_all(beside, &stop));
            let here = run_all(after, &stop);
            let there = beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // One that failed has stopped the other, whose error says only that.
            match (here, there) {
                (Err(error), Err(other)) => Err(if error.is::<Stopped>() { other } else { error }),
                (here, there) => here.and(there),
            }
        })?;
        if count > 1 {
            say(&format!("ready after {}", seconds(started.elapsed())));
        }
        Ok(())
    }
}

/// A job was ended because another failed.
#[derive(Debug)]
struct Stopped;

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("another job failed")
    }
}

impl std::error::Error for Stopped {}

/// Runs jobs in their order; the first that fails stops everybody.
fn run_all(jobs: Vec<(String, Job)>, stop: &AtomicBool) -> Result<()> {
    let mut left: Duration = jobs.iter().map(|(_, job)| job.estimate).sum();
    for (title, job) in jobs {
        left -= job.estimate;
        let ran = run(&title, job, left, stop);
        if ran.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        ran?;
    }
    Ok(())
}

/// Runs one job while it tells how far it is; `after` is the estimate of all that follows.
fn run(title: &str, job: Job, after: Duration, stop: &AtomicBool) -> Result<()> {
    let Job { mut command, estimate, is_beside, .. } = job;
    let started = Instant::now();
    // The line that is written anew is of those that others wait for.
    let terminal = io::stdout().is_terminal() && !is_beside;
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
        if stop.load(Ordering::Relaxed) {
            // It has ended by itself where that fails.
            let _ = child.kill();
            child.wait()?;
            bail!(Stopped);
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

/// A duration for people: `45 s`, `2 min 5 s`.
pub(crate) fn seconds(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=99 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}
