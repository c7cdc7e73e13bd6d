//! `cargo xtask lint`: what can be said of the code without running it.

use std::process::ExitCode;

use anyhow::Result;

use crate::{cargo::cargo, plan::Plan};

/// Every package by itself: a manifest that leans on features which only another package turns on
/// builds in the workspace and nowhere else.
const PACKAGES: &[&str] = &["whydrop-core", "whydrop-ebpf", "whydrop", "whydrop-tests", "xtask"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also checks licences, sources and bans with cargo-deny, which has to be installed.
    ///
    /// Not part of the tests: cargo-deny takes longer to compile than all of this repository.
    #[arg(long)]
    deny: bool,
}

/// Formatting, lints, each crate alone.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut plan = Plan::default();
    prepare(&mut plan);
    if arguments.deny {
        plan.add(
            "licences, sources, bans",
            cargo(["deny", "check", "bans", "licenses", "sources"]),
            10,
        );
    }
    plan.run()?;
    Ok(ExitCode::SUCCESS)
}

/// Adds the checks to a plan.
pub(crate) fn prepare(plan: &mut Plan) {
    plan.add("formatting", cargo(["fmt", "--all", "--check"]), 2);
    let lints = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    plan.add("lints", cargo(lints), 60);
    for package in PACKAGES {
        plan.add(format!("{package} alone"), cargo(["check", "--package", package]), 10);
    }
}
