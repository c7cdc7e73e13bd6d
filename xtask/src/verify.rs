//! `cargo xtask verify`: whether an archive is the image that who has a key made.

use std::{
    path::{PathBuf, absolute},
    process::ExitCode,
};

use anyhow::{Result, ensure};

use crate::{plan::Plan, supply, toolchain};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The archive that `cargo xtask image --key` made.
    file: PathBuf,
    /// The public key of who made it, in PEM.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// Verifies, and says what holds or what is wrong.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    for file in [&arguments.file, &arguments.key] {
        ensure!(file.is_file(), "{}: no such file", file.display());
    }
    let mut plan = Plan::default();
    toolchain::prepare(&mut plan, &[])?;
    supply::prepare(&mut plan);
    plan.run()?;
    let (file, key) = (absolute(&arguments.file)?, absolute(&arguments.key)?);
    let holds = supply::ask("verify", &[file.as_os_str(), "--key".as_ref(), key.as_os_str()])?;
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
