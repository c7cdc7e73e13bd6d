//! `cargo xtask bench`: what whydrop costs, as ratios measured in one run.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{
    cargo::{build_release, path, program_released},
    plan::Plan,
    setup::{Need, prepare, require_root},
};

/// How long the optimised build takes on two cores.
const BUILD_SECONDS: u64 = 240;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many rounds; each plays every load under every watcher, and takes about a minute.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Leaves out bpftrace, which takes most of the time.
    #[arg(long)]
    without_bpftrace: bool,
}

/// Sets up, builds and measures.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    require_root("making network namespaces and loading eBPF programs")?;
    let mut plan = Plan::default();
    prepare(&mut plan, &[Need::Play, Need::Bench])?;
    plan.add("building whydrop, optimised", build_release(), BUILD_SECONDS);
    plan.run()?;
    let mut bench = Command::new(program_released("whydrop-bench")?);
    bench.env("PATH", path()).args(["--rounds", &arguments.rounds.to_string()]);
    bench.args(arguments.without_bpftrace.then_some("--without-bpftrace"));
    let status = bench.status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
