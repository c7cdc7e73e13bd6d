//! `cargo xtask demo`: whydrop at work.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{
    cargo::{build, program},
    plan::{Plan, say},
    setup::{Purpose, prepare},
};

/// How long the build takes on two cores.
const BUILD_SECONDS: u64 = 150;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A folder of tests/scenarios.
    #[arg(default_value = "frontend-to-backend")]
    name: String,
    /// Names all scenarios instead.
    #[arg(long)]
    list: bool,
    /// Plays the traffic alone, without whydrop.
    #[arg(long)]
    traffic_only: bool,
}

/// Sets up, builds and plays.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut plan = Plan::default();
    prepare(&mut plan, Purpose::Demo)?;
    plan.add("building whydrop", build(), BUILD_SECONDS);
    plan.run()?;
    say("");
    let mut scenario = Command::new(program("whydrop-demo")?);
    scenario.args(arguments.list.then_some("--list"));
    scenario.args(arguments.traffic_only.then_some("--traffic-only"));
    let status = scenario.arg(&arguments.name).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
