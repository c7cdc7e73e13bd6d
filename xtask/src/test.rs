//! `cargo xtask test`: the main path on a real kernel against a real API server; with `--all`
//! everything.

use std::{
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::Result;

use crate::{
    cargo::{build, cargo},
    image::{self, Arch},
    lab, lint,
    plan::{Plan, say, seconds},
    setup::{ALL_TESTS, Need, prepare, require_root},
};

/// How long the programs, and then the tests, take to build on two cores.
const BUILD_SECONDS: u64 = 150;

/// Most tests wait more than they compute; `.config/nextest.toml` says which do not.
const TESTS_PER_CORE: usize = 4;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also lints, whole nodes, Calico, Cilium, collectors, the image, the chart and the page.
    #[arg(long)]
    all: bool,
    /// For `cargo nextest run`: names of tests, or its flags.
    #[arg(last = true)]
    nextest: Vec<String>,
}

/// Sets up, builds and runs the tests; their runner has the last word.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    require_root("making network namespaces and loading eBPF programs")?;
    let started = Instant::now();
    let mut plan = Plan::default();
    let needs = if arguments.all { ALL_TESTS } else { &[Need::Play, Need::Tests, Need::Go] };
    prepare(&mut plan, needs)?;
    plan.add("building the programs", build(), BUILD_SECONDS);
    if arguments.all {
        lab::prepare_all(&mut plan)?;
        lint::prepare(&mut plan);
    } else {
        lab::prepare_api(&mut plan)?;
    }
    let tests = cargo(["nextest", "run", "--cargo-quiet", "--workspace", "--no-run"]);
    plan.add("building the tests", tests, BUILD_SECONDS);
    if arguments.all {
        image::prepare(&mut plan, Arch::of_this_machine()?)?;
    }
    plan.run()?;
    let built = started.elapsed();
    let started = Instant::now();
    let ran = nextest(arguments)?.status()?;
    let tests = started.elapsed();
    say(&format!("set-up and build {}, tests {}", seconds(built), seconds(tests)));
    Ok(if ran.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The call that runs the tests.
fn nextest(arguments: &Arguments) -> Result<Command> {
    let cores = std::thread::available_parallelism()?.get();
    let mut tests = cargo(["nextest", "run", "--workspace", "--test-threads"]);
    tests.arg((cores * TESTS_PER_CORE).to_string());
    if arguments.all {
        tests.arg("--ignore-default-filter");
    } else {
        say("left out: what `cargo xtask test --all` adds, as .config/nextest.toml names it");
    }
    tests.args(&arguments.nextest);
    Ok(tests)
}
