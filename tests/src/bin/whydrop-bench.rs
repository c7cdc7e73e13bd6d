//! What whydrop costs, as ratios measured in one run: `whydrop-bench [--rounds N]`.

use std::{collections::BTreeMap, fmt::Write as _, fs, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use whydrop_tests::load::bench::{Run, Spread, load::Load, run, watcher::Kind};

/// Where the kernel keeps whether it measures programs, which costs a little itself.
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Measures whydrop against nobody and against bpftrace, in turn.
#[derive(Parser)]
struct Arguments {
    /// How many rounds; each plays every load under every watcher.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Leaves bpftrace out, which takes the most time.
    #[arg(long)]
    without_bpftrace: bool,
}

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn say(line: &str) {
    println!("{line}");
}

fn bench(arguments: &Arguments) -> Result<()> {
    ensure!(arguments.rounds > 0, "at least one round");
    let kernel = nix::sys::utsname::uname()?;
    let cores = std::thread::available_parallelism()?;
    say(&format!("Linux {}, {cores} cores", kernel.release().to_string_lossy()));
    for load in Load::ALL {
        compare(load, arguments).with_context(|| load.to_string())?;
    }
    programs()
}

/// Plays one load under all watchers, round by round, in an order that turns.
fn compare(load: Load, arguments: &Arguments) -> Result<()> {
    let rounds = arguments.rounds;
    let mut kinds = vec![Kind::Nobody, Kind::Whydrop];
    kinds.extend((!arguments.without_bpftrace).then_some(Kind::Bpftrace));
    let mut runs: Vec<[Option<Run>; 3]> = Vec::new();
    for _ in 0..rounds {
        let mut round = [None, None, None];
        for kind in kinds.iter().copied() {
            round[kind as usize] = Some(run(load, kind)?);
        }
        runs.push(round);
        kinds.rotate_left(1);
    }
    let of = |kind: Kind| runs.iter().filter_map(move |round| round[kind as usize].as_ref());
    say(&format!("\n{load}, {rounds} rounds; median (least-most)"));
    let alone = Spread::of(of(Kind::Nobody).map(|run| run.cpu_seconds).collect());
    if let Some(alone) = alone {
        say(&format!("  nobody watches    {alone} s of CPU"));
    }
    for (kind, name) in [(Kind::Whydrop, "whydrop"), (Kind::Bpftrace, "bpftrace")] {
        // Round by round, so that what changed between rounds cancels out.
        let pairs = of(Kind::Nobody).zip(of(kind));
        let ratios = pairs.map(|(alone, watched)| watched.cpu_seconds / alone.cpu_seconds);
        let resident = of(kind).map(|run| run.watched.resident_mib);
        let own = of(kind).map(|run| run.watcher_seconds);
        let (Some(ratio), Some(resident), Some(own)) = (
            Spread::of(ratios.collect()),
            Spread::of(resident.collect()),
            Spread::of(own.collect()),
        ) else {
            continue;
        };
        let mut line = format!(
            "  {name:10} times  {ratio} the CPU, {:.2} s of it in its own process; {:.1} MiB \
             resident",
            own.median, resident.max
        );
        if load.is_dropped() {
            let (mut dropped, mut passed_on, mut lost, mut reported) = (0, 0, 0, 0);
            for run in of(kind) {
                dropped += run.filtered;
                passed_on += run.watched.passed_on;
                lost += run.watched.lost;
                reported += run.watched.reported;
            }
            write!(
                line,
                "; dropped {dropped}, passed on {passed_on}, counted as lost {lost}, in the log {reported}"
            )?;
        }
        say(&line);
    }
    Ok(())
}

/// What the kernel says each program takes per run: in runs of their own, since measuring costs.
fn programs() -> Result<()> {
    let before = fs::read_to_string(STATISTICS)?;
    fs::write(STATISTICS, "1")?;
    let measured: Result<Vec<_>> =
        Load::ALL.iter().map(|load| Ok((*load, run(*load, Kind::Whydrop)?))).collect();
    fs::write(STATISTICS, before)?;
    say("\nkernel ns per run of each program");
    for (load, run) in measured? {
        say(&format!("  {load}"));
        let programs: BTreeMap<_, _> = run.watched.programs;
        for (program, (runs, nanoseconds)) in programs {
            say(&format!("    {program:20} {runs:>9} runs {:>6} ns", nanoseconds / runs.max(1)));
        }
    }
    Ok(())
}
