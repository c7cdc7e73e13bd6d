//! `cargo xtask differential`: what real enforcers do, what the objects imply, and what whydrop says,
//! over clusters from seeds.

use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::{
    budget,
    cargo::{build, cargo},
    lab,
    plan::Plan,
    setup::{Need, prepare, require_root},
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many clusters each enforcer plays: about 8 s each, and 30 s each of those with Services.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// The first seed: that of a difference shows it again.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Which: `felix` or `cilium`; both unless named.
    enforcer: Option<String>,
}

/// Sets up, builds and plays; the first difference ends it, with all that it takes to see it again.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    require_root("making network namespaces and loading eBPF programs")?;
    ensure!(arguments.seeds > 0, "--seeds 0: at least one");
    let tests: &[&str] = match arguments.enforcer.as_deref() {
        None => &["fleet", "cilium"],
        Some("felix") => &["fleet"],
        Some("cilium") => &["cilium"],
        Some(other) => anyhow::bail!("{other}: expected felix or cilium"),
    };
    let mut plan = Plan::default();
    prepare(&mut plan, &[Need::Play, Need::Go, Need::Node, Need::Cilium])?;
    plan.add(budget::PROGRAMS.name, build(), budget::PROGRAMS.cold);
    lab::prepare_all(&mut plan)?;
    plan.run()?;
    let mut test = cargo(["test", "--quiet", "--package", "whydrop-tests"]);
    for name in tests {
        test.args(["--test", name]);
    }
    let last = arguments.from + arguments.seeds - 1;
    test.env("WHYDROP_SEEDS", format!("{}-{last}", arguments.from));
    // One after the other: each has the machine's cores for its connections.
    let status = test.args(["--", "matrix::", "--nocapture", "--test-threads=1"]).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
