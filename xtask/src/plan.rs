//! Work that takes a while: what is to be done, how far it is, how long it will take.

use std::{
    io::{self, BufRead, BufReader, IsTerminal, Write},
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::budget::{beside, seconds};

/// How often the line on a terminal is written again.
const REFRESH: Duration = Duration::from_secs(1);
/// How often a log, where nothing can be written again, shows that work goes on.
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
    /// How long it may take, on two cores and with nothing cached.
    budget: Duration,
    /// Whether those that follow begin while it runs.
    is_beside: bool,
}

impl Plan {
    /// Adds a command that may take `seconds`.
    pub(crate) fn add(&mut self, what: impl Into<String>, command: Command, seconds: u64) {
        self.push(what.into(), command, seconds, false);
    }

    /// The same, and what follows need not wait for it: only others that run beside do.
    pub(crate) fn add_beside(&mut self, what: impl Into<String>, command: Command, seconds: u64) {
        self.push(what.into(), command, seconds, true);
    }

    fn push(&mut self, what: String, command: Command, seconds: u64, is_beside: bool) {
        let budget = Duration::from_secs(seconds);
        self.jobs.push(Job { what, command, budget, is_beside });
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
        thread::scope(|scope| {
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

/// Runs jobs in their order; the first that fails stops the others.
fn run_all(jobs: Vec<(String, Job)>, stop: &AtomicBool) -> Result<()> {
    let mut left: Duration = jobs.iter().map(|(_, job)| job.budget).sum();
    for (title, job) in jobs {
        left -= job.budget;
        let ran = run(&title, job, left, stop);
        if ran.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        ran?;
    }
    Ok(())
}

/// Runs one job while it shows how far it is; `after` is the budget of all that follows.
fn run(title: &str, job: Job, after: Duration, stop: &AtomicBool) -> Result<()> {
    let Job { mut command, budget, is_beside, .. } = job;
    // The line that is written again is of those that others wait for.
    let is_terminal = io::stdout().is_terminal() && !is_beside;
    let (mut child, lines) =
        start(&mut command).with_context(|| format!("{title}: {command:?}"))?;
    let mut progress = Progress::start(title, budget, after, is_terminal);
    let mut output = Vec::new();
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
        progress.show();
    }
    let status = child.wait()?;
    progress.clear();
    if !status.success() {
        let from = output.len().saturating_sub(LINES_SHOWN);
        bail!("{title}: {command:?} ended with {status}:\n{}", output[from..].join("\n"));
    }
    say(&format!("{title}: done in {}", beside(progress.started.elapsed(), budget)));
    Ok(())
}

/// Starts a command, and collects what it prints line by line.
fn start(command: &mut Command) -> Result<(Child, mpsc::Receiver<String>)> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (sender, lines) = mpsc::channel();
    let streams: [Option<Box<dyn io::Read + Send>>; 2] = [
        child.stdout.take().map(|stream| Box::new(stream) as _),
        child.stderr.take().map(|stream| Box::new(stream) as _),
    ];
    for stream in streams.into_iter().flatten() {
        let sender = sender.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                // The receiver is gone once the job has been given up.
                let _ = sender.send(line);
            }
        });
    }
    Ok((child, lines))
}

/// How far a job is: one line that is written again on a terminal, one now and then in a log.
struct Progress<'a> {
    title: &'a str,
    budget: Duration,
    after: Duration,
    is_terminal: bool,
    started: Instant,
    shown: Instant,
}

impl<'a> Progress<'a> {
    fn start(title: &'a str, budget: Duration, after: Duration, is_terminal: bool) -> Self {
        if !is_terminal && budget >= HEARTBEAT {
            say(&format!("{title}: up to about {} where nothing is built yet", seconds(budget)));
        }
        let now = Instant::now();
        Self { title, budget, after, is_terminal, started: now, shown: now }
    }

    /// Shows it where that is due.
    fn show(&mut self) {
        let due = if self.is_terminal { REFRESH } else { HEARTBEAT };
        if self.shown.elapsed() < due {
            return;
        }
        self.shown = Instant::now();
        let elapsed = self.started.elapsed();
        let left = match self.budget.checked_sub(elapsed) {
            Some(left) => format!("about {} left in all", seconds(left + self.after)),
            None => format!("longer than its budget of {}", seconds(self.budget)),
        };
        let line = format!("{}: {}, {left}", self.title, seconds(elapsed));
        if self.is_terminal { rewrite(&line) } else { say(&line) }
    }

    /// Leaves the line to what comes next.
    fn clear(&self) {
        if self.is_terminal {
            rewrite("");
        }
    }
}

/// A line for anyone who watches; that standard output is closed is no failure.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn rewrite(line: &str) {
    let mut stdout = io::stdout();
    let _ = write!(stdout, "\r\x1b[2K{line}").and_then(|()| stdout.flush());
}
