//! `cargo xtask test`: every check, and every test but a few that `--all` adds.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    cargo::{build, cargo},
    image, lab, lint,
    plan::{Plan, say},
    setup::{Purpose, prepare, require_root},
};

/// How long the programs, and then the tests, take to build on two cores after the lints.
const BUILD_SECONDS: u64 = 90;

/// Most tests wait more than they compute; `.config/nextest.toml` says which do not.
const TESTS_PER_CORE: usize = 4;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also what takes minutes and is seldom broken alone: most of what is played with Cilium.
    #[arg(long)]
    all: bool,
    /// For `cargo nextest run`: names of tests, or its flags.
    #[arg(last = true)]
    nextest: Vec<String>,
}

/// Sets up, lints, and runs the tests; their runner has the last word.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    require_root("making network namespaces and loading eBPF programs")?;
    let mut plan = Plan::default();
    prepare(&mut plan, Purpose::Test)?;
    lint::prepare(&mut plan);
    plan.add("building the programs", build(), BUILD_SECONDS);
    lab::prepare_all(&mut plan)?;
    let tests = cargo(["nextest", "run", "--cargo-quiet", "--workspace", "--no-run"]);
    plan.add("building the tests", tests, BUILD_SECONDS);
    image::prepare(&mut plan, image::Arch::of_this_machine()?)?;
    plan.run()?;
    let cores = std::thread::available_parallelism()?.get();
    let mut tests = cargo(["nextest", "run", "--workspace", "--test-threads"]);
    tests.arg((cores * TESTS_PER_CORE).to_string());
    if arguments.all {
        tests.arg("--ignore-default-filter");
    } else {
        say("left out: most of what is played with Cilium; `cargo xtask test --all` has it");
    }
    let status = tests.args(&arguments.nextest).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
