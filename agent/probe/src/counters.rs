//! How much was observed, reported and lost, and what the programs cost.

use std::{fs, os::fd::AsRawFd as _};

use aya::{
    maps::{MapData, PerCpuArray},
    programs::ProgramFd,
};
use whydrop_ebpf::{ATTEMPTS_EVICTED, SUCCESSES_MADE, kind};

use super::error::Error;

/// The kinds of observations, in the programs' order.
pub const KINDS: [&str; kind::COUNT as usize] = [
    "kernel-drop",
    "retransmitted",
    "failed",
    "rejected-reset",
    "rejected-icmp",
    "answered-late",
    "answered-first",
];

/// Where [`ByKind`] has the packets that this kernel dropped.
pub const KERNEL_DROP: usize = kind::KERNEL_DROP as usize;

/// Packets by kind, in the order of [`KINDS`].
pub type ByKind = [u64; kind::COUNT as usize];

/// Totals since the agent began. For every kind, once all that was counted is drained:
/// `observed == reported + lost`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// What the programs observed.
    pub observed: ByKind,
    /// What was read from the ring and from the counts.
    pub reported: ByKind,
    /// What found no room in the ring nor in the counts.
    pub lost: ByKind,
    /// Runs that the kernel skipped because the same program was running on that CPU already: an
    /// upper bound of what was not observed, because most runs observe nothing.
    pub skipped: u64,
    /// Entries ever made in the table of last answers, which has room for the latest.
    pub answers_kept: u64,
    /// Attempts that gave way before their time to others of their sender: that nobody answers them is not
    /// seen, unless this kernel drops them.
    pub attempts_evicted: u64,
    /// What each program cost.
    pub programs: Vec<Cost>,
}

/// What a program cost since the agent began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// The program's name.
    pub program: &'static str,
    /// How often it ran, counted only while `kernel.bpf_stats_enabled` is set.
    pub runs: u64,
    /// How long it ran in all, counted likewise.
    pub nanoseconds: u64,
    /// How often the kernel skipped it.
    pub skipped: u64,
}

/// Reads [`Totals`].
pub(crate) struct Counters {
    map: PerCpuArray<MapData, u64>,
    programs: Vec<(&'static str, ProgramFd)>,
    /// What had been counted when the agent began: nothing, unless it has begun again.
    before: Totals,
}

impl Counters {
    pub(crate) fn new(
        map: PerCpuArray<MapData, u64>,
        programs: Vec<(&'static str, ProgramFd)>,
    ) -> Self {
        Self { map, programs, before: Totals::default() }
    }

    /// What the kernel side counted: observed and lost.
    pub(crate) fn packets(&self) -> Result<(ByKind, ByKind), Error> {
        let mut all = [ByKind::default(); 2];
        for (part, counts) in (0_u32..).zip(&mut all) {
            for (kind, count) in (0_u32..).zip(counts) {
                *count = self.read(part * u32::from(kind::COUNT) + kind)?;
            }
        }
        let [observed, lost] = all;
        Ok((observed, lost))
    }

    fn read(&self, index: u32) -> Result<u64, Error> {
        let values = self.map.get(&index, 0);
        let values =
            values.map_err(|error| Error::kernel("reading the programs' counters", error))?;
        Ok(values.iter().sum())
    }

    /// All totals. `reported` is what [`super::Observations`] has handed out.
    pub(crate) fn totals(&self, reported: ByKind) -> Result<Totals, Error> {
        Ok(self.all(reported)?.since(&self.before))
    }

    /// Has totals count from here on. So many of the answers that were kept are left in their table.
    pub(crate) fn count_from_here(
        &mut self,
        reported: ByKind,
        answers_left: u64,
    ) -> Result<(), Error> {
        let mut before = self.all(reported)?;
        // What is in the ring, and among the counts, is yet to be reported.
        before.observed = std::array::from_fn(|kind| before.reported[kind] + before.lost[kind]);
        before.answers_kept = before.answers_kept.saturating_sub(answers_left);
        self.before = before;
        Ok(())
    }

    /// Totals since the programs were loaded.
    fn all(&self, reported: ByKind) -> Result<Totals, Error> {
        let (observed, lost) = self.packets()?;
        let programs: Vec<_> = self
            .programs
            .iter()
            .map(|(program, fd)| {
                let path = format!(
                    "/proc/thread-self/fdinfo/{}",
                    std::os::fd::AsFd::as_fd(fd).as_raw_fd()
                );
                // Costs are worth no failure: where the kernel does not report them, they read zero.
                cost(program, &fs::read_to_string(path).unwrap_or_default())
            })
            .collect();
        let skipped = programs.iter().map(|cost| cost.skipped).sum();
        let answers_kept = self.read(SUCCESSES_MADE)?;
        let attempts_evicted = self.read(ATTEMPTS_EVICTED)?;
        Ok(Totals { observed, reported, lost, skipped, answers_kept, attempts_evicted, programs })
    }
}

impl Totals {
    /// What was added to these earlier ones.
    fn since(self, before: &Self) -> Self {
        let added = |now: ByKind, then: ByKind| -> ByKind {
            std::array::from_fn(|kind| now[kind].saturating_sub(then[kind]))
        };
        let mut programs = self.programs;
        for (now, then) in programs.iter_mut().zip(&before.programs) {
            now.runs = now.runs.saturating_sub(then.runs);
            now.nanoseconds = now.nanoseconds.saturating_sub(then.nanoseconds);
            now.skipped = now.skipped.saturating_sub(then.skipped);
        }
        Self {
            observed: added(self.observed, before.observed),
            reported: added(self.reported, before.reported),
            lost: added(self.lost, before.lost),
            skipped: self.skipped.saturating_sub(before.skipped),
            answers_kept: self.answers_kept.saturating_sub(before.answers_kept),
            attempts_evicted: self.attempts_evicted.saturating_sub(before.attempts_evicted),
            programs,
        }
    }
}

/// Reads what `/proc/PID/fdinfo` says of a program.
fn cost(program: &'static str, text: &str) -> Cost {
    let value = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| *key == name)
            .and_then(|(_, value)| value.trim().parse().ok())
            .unwrap_or(0)
    };
    Cost {
        program,
        runs: value("run_cnt"),
        nanoseconds: value("run_time_ns"),
        skipped: value("recursion_misses"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_of_another_run_are_what_came_since() {
        let cost = |runs| Cost { program: "p", runs, nanoseconds: 10 * runs, skipped: 1 };
        let totals = |count, runs| Totals {
            observed: [count; KINDS.len()],
            reported: [count; KINDS.len()],
            lost: ByKind::default(),
            skipped: 1,
            answers_kept: count,
            attempts_evicted: count,
            programs: vec![cost(runs)],
        };
        let since = totals(7, 9).since(&totals(4, 5));
        let expected =
            Totals { skipped: 0, programs: vec![Cost { skipped: 0, ..cost(4) }], ..totals(3, 4) };
        assert_eq!(since, expected);
        assert_eq!(totals(7, 9).since(&Totals::default()), totals(7, 9));
    }

    #[test]
    fn costs_are_read_from_what_the_kernel_writes() {
        let text =
            "pos:\t0\nprog_type:\t26\nrun_time_ns:\t1234\nrun_cnt:\t56\nrecursion_misses:\t7\n";
        let expected = Cost { program: "p", runs: 56, nanoseconds: 1234, skipped: 7 };
        assert_eq!(cost("p", text), expected);
        assert_eq!(cost("p", ""), Cost { program: "p", ..Cost::default() });
    }
}
