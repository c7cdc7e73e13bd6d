//! CPU time of those who take part in a run, and of nobody else on the machine.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::resource::{UsageWho, getrusage};

/// Who works for all: packets that a CPU could not finish where they came from.
const KERNEL_THREAD: &str = "ksoftirqd/";

/// How long nothing may happen before a run counts as over: longer than the agent waits for an
/// answer, counts, and reports.
const QUIET: Duration = Duration::from_millis(2500);
/// What a process may use of that and still count as idle.
const IDLE: Duration = Duration::from_millis(15);
/// How long to wait for that at most.
const SETTLE_MAX: Duration = Duration::from_secs(30);

/// Measures from its start.
pub struct Meter {
    pids: Vec<u32>,
    before: Duration,
}

impl Meter {
    /// Starts to measure this process, some others, and the kernel's threads for packets.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn start(pids: &[u32]) -> Result<Self> {
        let mut pids = pids.to_vec();
        pids.push(std::process::id());
        for entry in fs::read_dir("/proc")? {
            let Ok(pid) = entry?.file_name().to_string_lossy().parse() else { continue };
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.starts_with(KERNEL_THREAD) {
                pids.push(pid);
            }
        }
        Self::of(&pids)
    }

    /// Starts to measure some processes and nothing else.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn of(pids: &[u32]) -> Result<Self> {
        Ok(Self { pids: pids.to_vec(), before: used(pids)? })
    }

    /// CPU seconds since the start.
    ///
    /// # Errors
    /// Where the kernel does not say, or one of the processes is gone.
    pub fn stop(self) -> Result<f64> {
        Ok(used(&self.pids)?.saturating_sub(self.before).as_secs_f64())
    }
}

/// Waits until some processes are idle.
///
/// # Errors
/// Where one of them is gone.
pub fn settle(pids: &[u32]) -> Result<()> {
    let deadline = Instant::now() + SETTLE_MAX;
    let mut before = used(pids)?;
    while Instant::now() < deadline {
        let quiet = Instant::now() + QUIET;
        while let Some(left) = quiet.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(left);
        }
        let now = used(pids)?;
        if now.saturating_sub(before) < IDLE {
            break;
        }
        before = now;
    }
    Ok(())
}

/// CPU time of processes.
fn used(pids: &[u32]) -> Result<Duration> {
    pids.iter().map(|pid| if *pid == std::process::id() { Ok(own()?) } else { of(*pid) }).sum()
}

/// CPU time of this process, with threads that have ended.
fn own() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: nix::sys::time::TimeVal| {
        let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
        Duration::from_micros(u64::try_from(micros).unwrap_or_default())
    };
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// CPU time of the threads that another process has now. The agent's do not end within a run.
fn of(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/task");
    let mut used = Duration::ZERO;
    for entry in fs::read_dir(&path).context(path)? {
        let text = fs::read_to_string(entry?.path().join("schedstat")).unwrap_or_default();
        let nanoseconds = text.split_whitespace().next().and_then(|n| n.parse().ok());
        used += Duration::from_nanos(nanoseconds.unwrap_or_default());
    }
    Ok(used)
}
