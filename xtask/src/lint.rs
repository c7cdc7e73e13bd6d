//! `cargo xtask lint`: what can be said of the code without running it.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    budget,
    cargo::cargo,
    plan::Plan,
    setup::{self, Need},
};

/// Every package by itself: a manifest that leans on features which only another package turns on
/// builds in the workspace and nowhere else.
///
/// With the seconds that each takes after the lints, on two cores.
const PACKAGES: &[(&str, u64)] = &[
    ("whydrop-core", 15),
    ("whydrop-ebpf", 1),
    ("whydrop-report", 5),
    ("whydrop-kube", 20),
    ("whydrop-reader", 5),
    ("whydrop-probe", 10),
    ("whydrop-sink", 15),
    ("whydrop", 15),
    ("whydrop-tests", 5),
    ("whydrop-fuzz", 5),
    ("xtask", 1),
    ("whydrop-supply", 8),
];

/// The same of the client, which leaves most of them out.
const CLIENT_SECONDS: u64 = 10;

/// How long the database of advisories takes to fetch, some 10 MB, and to be asked.
const ADVISORIES_SECONDS: u64 = 30;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also whether anything that we build on has a known fault, by the database of RustSec, which is
    /// fetched from GitHub.
    #[arg(long)]
    advisories: bool,
}

/// Sets up and checks.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut plan = Plan::default();
    setup::prepare(&mut plan, &[Need::Lint])?;
    setup::prepare_tools(&mut plan, &[Need::Lint]);
    if arguments.advisories {
        // First: where there is no way to the database, that is known at once.
        let deny = cargo(["deny", "check", "advisories"]);
        plan.add("advisories", deny, ADVISORIES_SECONDS);
    }
    prepare(&mut plan);
    plan.run()?;
    Ok(ExitCode::SUCCESS)
}

/// Adds the checks to a plan.
pub(crate) fn prepare(plan: &mut Plan) {
    plan.add("formatting", cargo(["fmt", "--all", "--check"]), 2);
    // Not the advisories, unless asked for: they are fetched, and change without us.
    let deny = cargo(["deny", "check", "bans", "licenses", "sources"]);
    plan.add("licences, duplicates, sources", deny, 2);
    let lints = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    plan.add(budget::LINTS.name, cargo(lints), budget::LINTS.cold);
    for (package, seconds) in PACKAGES {
        let check = cargo(["check", "--quiet", "--package", package]);
        plan.add(format!("{package} alone"), check, *seconds);
    }
    let client = ["clippy", "--quiet", "--package", "whydrop", "--no-default-features"];
    let mut client = cargo(client);
    client.args(["--", "--deny", "warnings"]);
    plan.add("the client alone", client, CLIENT_SECONDS);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crates_fit_into_their_budget() {
        let seconds: u64 = PACKAGES.iter().map(|(_, seconds)| seconds).sum();
        assert!(seconds + CLIENT_SECONDS <= budget::CRATES.cold);
    }
}
