//! `cargo xtask soak`: two nodes with real enforcement, whose clusters come and go before the same agents
//! for hours.

use std::process::ExitCode;

use anyhow::Result;

use crate::{cargo::cargo, lab};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long.
    #[arg(long, default_value_t = 1)]
    hours: u64,
    /// How many minutes besides.
    #[arg(long, default_value_t = 0)]
    minutes: u64,
    /// The seed of the first cluster: that of a difference shows it again.
    #[arg(long, default_value_t = 1)]
    from: u64,
}

/// Sets up, builds and plays; what each agent holds is printed after each cluster.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    lab::ready_node("making network namespaces and loading eBPF programs")?;
    let mut test = cargo(["test", "--quiet", "--package", "whydrop-tests", "--test", "fleet"]);
    let minutes = 60 * arguments.hours + arguments.minutes;
    test.env("WHYDROP_SOAK_MINUTES", minutes.to_string());
    test.env("WHYDROP_SOAK_FROM", arguments.from.to_string());
    let status = test.args(["--", "soak::", "--ignored", "--nocapture"]).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
