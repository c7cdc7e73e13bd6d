//! Other kernels than the machine's: Debian's and Ubuntu's, booted in QEMU, with our programs in them.
//!
//! ```text
//! archive ─ apt-get download ─▶ kernel::Kernel      vmlinuz, modules; kept in the cache
//! machine ─ programs, scenarios ▶ initramfs         all that a guest has: no disk, no network
//! qemu::boot ─ TCG ─▶ inside (process 1's child)    plays, and prints a line for each result
//!           ◀─ second serial line ─ Line ──────────
//! ```

pub mod arch;
pub mod archive;
pub mod initramfs;
pub mod inside;
pub mod kernel;
pub mod line;
pub mod qemu;
pub mod table;
pub mod userland;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use self::{
    arch::Arch,
    initramfs::Initramfs,
    kernel::Kernel,
    line::{Case, LeftOut, Line, Ready, Walked},
};
use crate::world::agent::{beside, binary};

/// What is played on each kernel: a drop whose policy is named and its remedy, a Service, IPv6, a pod
/// that comes later, rejections, and what must not be reported.
pub const COURSE: &[&str] = &[
    "frontend-to-backend",
    "clusterip",
    "ipv6",
    "pod-appears",
    "rejected-by-policy",
    "refused-connection",
    "allowed-flow",
    "answered-late",
    "out-of-sync",
];

/// What is played where the time is short: the drop, and the answer that comes late.
pub const SMOKE: &[&str] = &["frontend-to-backend", "answered-late"];

/// What plays scenarios within.
const PLAYER: &str = "whydrop-kernels";

/// The programs of ours that a guest runs.
#[derive(Debug, Clone)]
pub struct Ours {
    /// The agent's.
    pub agent: PathBuf,
    /// What plays scenarios.
    pub player: PathBuf,
}

impl Ours {
    /// Those for this machine's processor, which lie beside the program that is running.
    pub fn native() -> Result<Self> {
        Ok(Self { agent: binary()?, player: beside(PLAYER)? })
    }

    /// Those for a processor, the other one's being given.
    pub fn of(arch: Arch, other: Option<&Self>) -> Result<Self> {
        match (arch, other) {
            (Arch::Amd64, _) => Self::native(),
            (Arch::Arm64, Some(other)) => Ok(other.clone()),
            (Arch::Arm64, None) => {
                bail!("no programs for arm64: `cargo xtask kernels` builds them")
            }
        }
    }
}

/// What is played in a guest.
#[derive(Debug, Clone, Copy)]
pub struct Course<'c> {
    /// Scenarios, by their folders.
    pub scenarios: &'c [&'c str],
    /// Test programs, all of whose tests are run but those of other programs than ours.
    pub tests: &'c [PathBuf],
}

/// What came of a boot.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The release that the guest says it runs.
    pub release: String,
    /// What loading the programs took.
    pub walked: Vec<Walked>,
    /// The agent's word that it is ready; none where it did not get so.
    pub ready: Option<Ready>,
    /// Each scenario, and each test.
    pub cases: Vec<Case>,
    /// The tests that are not for this kernel.
    pub left_out: Vec<LeftOut>,
    /// Why it ended before its end, with the last that the kernel said.
    pub broke_off: Option<String>,
    /// From power on to power off.
    pub took: Duration,
}

impl Outcome {
    /// Whether all that was to be played passed.
    pub fn is_good(&self) -> bool {
        self.broke_off.is_none()
            && self.ready.is_some()
            && !self.cases.is_empty()
            && self.cases.iter().all(|case| case.failure.is_none())
    }

    /// The case that is called so, if it was played.
    pub fn case(&self, name: &str) -> Option<&Case> {
        self.cases.iter().find(|case| case.name == name)
    }
}

/// Boots a kernel, plays a course in it, and hands on each line as it comes.
pub fn play(
    kernel: &Kernel,
    ours: &Ours,
    course: Course<'_>,
    mut hear: impl FnMut(&Line),
) -> Result<Outcome> {
    let started = Instant::now();
    let image = Initramfs::build(kernel, ours, course)?;
    let mut outcome = Outcome::default();
    let mut is_complete = false;
    let cases = u32::try_from(course.scenarios.len())?;
    let programs = u32::try_from(course.tests.len())?;
    let patience = qemu::BOOT_WAIT + qemu::CASE_WAIT * cases + qemu::TESTS_WAIT * programs;
    let ended = qemu::boot(kernel, &image.file(), patience, |line| {
        hear(&line);
        match line {
            Line::Release(release) => outcome.release = release,
            Line::Walked(walked) => outcome.walked.push(walked),
            Line::Ready(ready) => outcome.ready = Some(ready),
            Line::Case(case) => outcome.cases.push(case),
            Line::LeftOut(left_out) => outcome.left_out.push(left_out),
            Line::Broke(why) => outcome.broke_off = Some(why),
            Line::End => is_complete = true,
        }
    })?;
    if !is_complete && outcome.broke_off.is_none() {
        outcome.broke_off = Some(format!("the guest ended early; it said last:\n{ended}"));
    }
    outcome.took = started.elapsed();
    Ok(outcome)
}
