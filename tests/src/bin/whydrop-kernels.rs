//! Boots other kernels with our programs in them, for `cargo xtask kernels`.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use whydrop_tests::{
    kube::debian,
    repository,
    vm::{
        COURSE, Course, Ours, Outcome,
        arch::Arch,
        inside,
        kernel::{SERIES, Series},
        line::{LeftOut, Line, Walked},
        play, table, userland,
    },
};

/// Boots other kernels with our programs in them, and plays scenarios there.
#[derive(Parser)]
#[command(name = "cargo xtask kernels", bin_name = "cargo xtask kernels")]
struct Arguments {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Fetches kernels, and what a guest's shell is.
    Fetch {
        /// Which; all where none is named.
        series: Vec<String>,
    },
    /// Fetches and boots kernels, plays the course in each, and puts what was seen into the README.
    Play {
        /// Which; all where none is named.
        series: Vec<String>,
        /// A program whose tests are run there, too, where the processor is this machine's.
        #[arg(long)]
        tests: Vec<PathBuf>,
        /// The agent's program for arm64.
        #[arg(long, requires = "player_arm64")]
        agent_arm64: Option<PathBuf>,
        /// This program for arm64.
        #[arg(long)]
        player_arm64: Option<PathBuf>,
    },
    /// Is what a guest runs.
    #[command(hide = true)]
    Inside {
        /// What is played.
        scenarios: Vec<String>,
        /// Programs whose tests are run.
        #[arg(long)]
        tests: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().job) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(job: Job) -> Result<ExitCode> {
    match job {
        Job::Fetch { series } => {
            debian::SHELL.unpack()?;
            for series in chosen(&series)? {
                let kernel = series.fetch()?;
                if kernel.arch == Arch::Arm64 {
                    userland::unpacked()?;
                }
                say(&format!("{}: {}", series.name, kernel.release()?));
            }
            Ok(ExitCode::SUCCESS)
        }
        Job::Play { series, tests, agent_arm64, player_arm64 } => {
            let other = agent_arm64.zip(player_arm64);
            let other = other.map(|(agent, player)| Ours { agent, player });
            play_all(&series, &tests, other.as_ref())
        }
        Job::Inside { scenarios, tests } => {
            inside::run(&scenarios, &tests)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The series that are named, or all.
fn chosen(names: &[String]) -> Result<Vec<&'static Series>> {
    if names.is_empty() {
        return Ok(SERIES.iter().collect());
    }
    names.iter().map(|name| Series::named(name)).collect()
}

fn play_all(names: &[String], tests: &[PathBuf], other: Option<&Ours>) -> Result<ExitCode> {
    debian::SHELL.unpack()?;
    let mut outcomes = Vec::new();
    for series in chosen(names)? {
        let kernel = series.fetch()?;
        let release = kernel.release()?;
        say(&format!("\n{release}"));
        let ours = Ours::of(kernel.arch, other)?;
        let tests = if kernel.arch == Arch::Amd64 { tests } else { &[] };
        let course = Course { scenarios: COURSE, tests };
        let outcome = play(&kernel, &ours, course, hear)?;
        if let Some(why) = &outcome.broke_off {
            say(&format!("broke off: {why}"));
        }
        let seconds = seconds(outcome.took);
        say(&format!("{release}: {seconds} from power on to power off"));
        outcomes.push(Outcome { release, ..outcome });
        write_table(&outcomes)?;
    }
    say("README.md has the table of what was seen");
    let cases = || outcomes.iter().flat_map(|outcome| &outcome.cases);
    let passed = cases().filter(|case| case.failure.is_none()).count();
    let broken = outcomes.iter().filter(|outcome| outcome.broke_off.is_some()).count();
    say(&format!("{passed} passed, {} failed", cases().count() - passed + broken));
    let is_good = outcomes.iter().all(Outcome::is_good);
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Puts what was seen into the README's table.
fn write_table(outcomes: &[Outcome]) -> Result<()> {
    let file = repository("README.md");
    let text = fs::read_to_string(&file)?;
    let text = table::put(&text, outcomes).context("README.md has no place for the table")?;
    Ok(fs::write(&file, text)?)
}

/// Shows what a guest says, as it comes.
fn hear(line: &Line) {
    match line {
        Line::Release(_) | Line::End | Line::Broke(_) => {}
        Line::Walked(Walked { program, instructions: Some(instructions), time, .. }) => {
            let time = seconds(*time);
            say(&format!("{program}: the verifier walked {instructions} instructions in {time}"));
        }
        Line::Walked(Walked { program, refusal, .. }) => {
            say(&format!("{program}: {}", refusal.as_deref().unwrap_or("refused")));
        }
        Line::Ready(ready) => {
            say(&format!("an agent is ready after {}", seconds(ready.after)));
            for cannot in &ready.cannot {
                say(&format!("  it cannot {cannot}"));
            }
        }
        Line::LeftOut(LeftOut { name, why }) => say(&format!("test {name} ... left out: {why}")),
        Line::Case(case) => {
            let outcome = if case.failure.is_some() { "FAILED" } else { "ok" };
            say(&format!("test {} ... {outcome} ({})", case.name, seconds(case.took)));
            if let Some(failure) = &case.failure {
                say(failure);
            }
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// A line for the person who asked.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
