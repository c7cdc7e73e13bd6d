//! `cargo xtask kernels`: whydrop on other kernels than this machine's, from the oldest that it supports
//! to the newest, each booted in QEMU.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    budget,
    cargo::{build, cargo, path, program},
    plan::Plan,
    setup::{Need, prepare, require_root},
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which, such as 5.10,6.1; without this all. Each has a row in the README's table.
    #[arg(long, value_delimiter = ',')]
    kernel: Vec<String>,
    /// Only fetches them.
    #[arg(long)]
    fetch: bool,
}

/// Sets up, builds, and boots one after the other; every scenario's result is a line.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    require_root("installing packages")?;
    let mut plan = Plan::default();
    prepare(&mut plan, &[Need::Play, Need::Kernels])?;
    plan.add(budget::PROGRAMS.name, build(), budget::PROGRAMS.cold);
    plan.run()?;
    let tests = if arguments.fetch { Vec::new() } else { tests()? };
    let mut kernels = Command::new(program("whydrop-kernels")?);
    kernels.env("PATH", path()).arg(if arguments.fetch { "fetch" } else { "play" });
    kernels.args(&arguments.kernel).args(tests.iter().flat_map(|test| ["--tests", test]));
    let status = kernels.status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the tests of the eBPF programs, which are run on each kernel, too; where they are.
fn tests() -> Result<Vec<String>> {
    let mut build = cargo(["test", "--quiet", "--workspace", "--test", "programs", "--no-run"]);
    build.arg("--message-format=json").stderr(Stdio::inherit());
    let output = build.output().context("run cargo test")?;
    ensure!(output.status.success(), "cargo test: {}", output.status);
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
    let programs = messages.filter_map(|message: Value| {
        let is_test = message["target"]["name"] == "programs";
        message["executable"].as_str().filter(|_| is_test).map(str::to_owned)
    });
    Ok(programs.collect())
}
