//! `cargo xtask churn`: generated churn on a whole node under clients that connect all the time; their own
//! account beside what the agent reports.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;

use crate::{cargo::cargo, lab};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long something happens; two minutes of quiet come after it.
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// What happens: that of a difference shows it again.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to keep what the agent reports, as lines of a log.
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
}

/// Sets up, builds and plays; every difference is listed.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    lab::ready_node("making a node and loading eBPF programs")?;
    let mut test = cargo(["test", "--quiet", "--package", "whydrop-tests", "--test", "living"]);
    test.env("WHYDROP_CHURN_MINUTES", arguments.minutes.to_string());
    test.env("WHYDROP_CHURN_SEED", arguments.seed.to_string());
    if let Some(file) = &arguments.records {
        test.env("WHYDROP_CHURN_RECORDS", std::path::absolute(file)?);
    }
    let status = test.args(["--", "churn", "--nocapture"]).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
