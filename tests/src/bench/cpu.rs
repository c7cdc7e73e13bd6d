//! CPU time of those who take part in a run, and of nobody else on the machine.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// Who works for all: packets that a CPU could not finish where they came from.
const KERNEL_THREAD: &str = "ksoftirqd/";

/// How long nothing may happen before a run counts as over: longer than the agent waits for an
/// answer, counts, and tells.
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
    /// Where the kernel does not tell.
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
    /// Where the kernel does not tell.
    pub fn of(pids: &[u32]) -> Result<Self> {
        Ok(Self { pids: pids.to_vec(), before: used(pids)? })
    }

    /// CPU seconds since the start.
    ///
    /// # Errors
    /// Where the kernel does not tell, or one of the processes is gone.
    pub fn stop(self) -> Result<f64> {
        Ok((used(&self.pids)? - self.before).as_secs_f64())
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
        std::thread::park_timeout(QUIET);
        let now = used(pids)?;
        if now - before < IDLE {
            break;
        }
        before = now;
    }
    Ok(())
}

/// CPU time of processes, those of their threads that have ended included.
fn used(pids: &[u32]) -> Result<Duration> {
    pids.iter().map(|pid| used_by(*pid)).sum()
}

/// Threads that run tell nanoseconds in `schedstat`; what ended ones used is in `stat`, by ticks.
fn used_by(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/task");
    let mut running = Duration::ZERO;
    let mut running_ticks = 0;
    for entry in fs::read_dir(&path).context(path)? {
        let folder = entry?.path();
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(folder.join("schedstat")) else { continue };
        let nanoseconds = text.split_whitespace().next().and_then(|n| n.parse().ok());
        running += Duration::from_nanos(nanoseconds.context("schedstat")?);
        running_ticks += ticks(&fs::read_to_string(folder.join("stat")).unwrap_or_default());
    }
    let all = ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?);
    let ended = all.saturating_sub(running_ticks);
    Ok(running + Duration::from_millis(ended * 1000 / ticks_per_second()))
}

/// User and system time of `/proc/PID/stat` (fields 14 and 15; proc(5)).
fn ticks(stat: &str) -> u64 {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = |n: usize| after_name.split_whitespace().nth(n).and_then(|f| f.parse().ok());
    field(11).unwrap_or(0_u64) + field(12).unwrap_or(0_u64)
}

fn ticks_per_second() -> u64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
    ticks.and_then(|ticks| u64::try_from(ticks).ok()).unwrap_or(100)
}
