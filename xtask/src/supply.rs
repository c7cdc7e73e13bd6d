//! The program that attaches, verifies and compares (`xtask/supply`): built when a job needs it.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf, absolute},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    arch::Arch,
    budget,
    cargo::{cargo, path, root, target_folder},
    plan::Plan,
    toolchain,
};

/// Adds its build to a plan.
pub(crate) fn prepare(plan: &mut Plan) {
    // Of the whole workspace, for the features of what others use as well.
    let build = ["build", "--quiet", "--locked", "--workspace", "--bin", "whydrop-supply"];
    plan.add(budget::SUPPLY.name, cargo(build), budget::SUPPLY.cold);
}

/// What an archive with an image is given.
pub(crate) struct Attached<'a> {
    /// The program in the image.
    pub(crate) program: &'a Path,
    /// The folder of its build's profile.
    pub(crate) profile: &'a Path,
    pub(crate) arch: Arch,
    pub(crate) key: Option<&'a Path>,
}

/// Attaches SBOM and provenance to an archive, and signatures where there is a key.
pub(crate) fn attach(archive: &Path, attached: &Attached<'_>) -> Result<()> {
    let mut attach = call("attach")?;
    attach.arg(absolute(archive)?).arg("--root").arg(root());
    attach.arg("--program").arg(attached.program);
    attach.arg("--scripts").arg(attached.profile.join("build"));
    attach.args(["--target", attached.arch.target(), "--arch", attached.arch.name()]);
    if let Some(key) = attached.key {
        attach.arg("--key").arg(absolute(key)?);
    }
    let output = attach.output().context("run whydrop-supply")?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(output.status.success(), "{}", said.trim().trim_start_matches("error: "));
    Ok(())
}

/// A call of it with files, which says by itself what it found.
pub(crate) fn ask<S: AsRef<OsStr>>(job: &str, arguments: &[S]) -> Result<bool> {
    let status = call(job)?.args(arguments).status().context("run whydrop-supply")?;
    Ok(status.success())
}

fn call(job: &str) -> Result<Command> {
    // In the pinned toolchain, whose cargo and compiler it asks.
    let mut call = toolchain::program(&program()?.to_string_lossy());
    call.arg(job).env("PATH", path());
    Ok(call)
}

fn program() -> Result<PathBuf> {
    Ok(target_folder()?.join("debug/whydrop-supply"))
}
