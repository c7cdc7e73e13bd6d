//! `cargo xtask fleet-load`: a fleet's worth of records through one collector.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{
    cargo::{build_release, path, program_released},
    plan::Plan,
    setup::{Need, prepare},
};

/// How long the optimised build takes on two cores.
const BUILD_SECONDS: u64 = 300;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many agents (--agents), records of each (--records), over how long (--seconds), --http.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    load: Vec<String>,
}

/// Sets up, builds, and plays it.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut plan = Plan::default();
    prepare(&mut plan, &[Need::Play, Need::Go, Need::Store])?;
    plan.add("building whydrop, optimised", build_release(), BUILD_SECONDS);
    plan.run()?;
    let mut load = Command::new(program_released("whydrop-fleet-load")?);
    let status = load.env("PATH", path()).args(&arguments.load).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
