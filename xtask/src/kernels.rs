//! `cargo xtask kernels`: whydrop on other kernels than this machine's, from the oldest that it supports
//! to the newest, each booted in QEMU.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{
    budget,
    cargo::{build, path, program},
    plan::Plan,
    setup::{Need, prepare, require_root},
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which, such as 5.10,6.1; without this all, of which the README's table is made.
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
    let mut kernels = Command::new(program("whydrop-kernels")?);
    kernels.env("PATH", path()).arg(if arguments.fetch { "fetch" } else { "play" });
    let status = kernels.args(&arguments.kernel).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
