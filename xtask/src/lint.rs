//! `cargo xtask lint`: what can be said of the code without running it.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
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
    ("xtask", 1),
];

/// Sets up and checks.
pub(crate) fn run() -> Result<ExitCode> {
    let mut plan = Plan::default();
    setup::prepare(&mut plan, &[Need::Lint])?;
    prepare(&mut plan);
    plan.run()?;
    Ok(ExitCode::SUCCESS)
}

/// Adds the checks to a plan.
pub(crate) fn prepare(plan: &mut Plan) {
    plan.add("formatting", cargo(["fmt", "--all", "--check"]), 2);
    // Not the advisories: they are fetched, and change without us.
    let deny = cargo(["deny", "check", "bans", "licenses", "sources"]);
    plan.add("licences, duplicates, sources", deny, 2);
    let lints = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    plan.add("lints", cargo(lints), 120);
    for (package, seconds) in PACKAGES {
        let check = cargo(["check", "--quiet", "--package", package]);
        plan.add(format!("{package} alone"), check, *seconds);
    }
}
