//! Cargo, called from this repository.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::toolchain;

/// The repository.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// `$PATH`, with the folders of the administrator's programs, which not every user's has. Those
/// that are there are not added again: build scripts that look for programs run again for another
/// `$PATH`.
pub(crate) fn path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    for folder in ["/usr/sbin", "/sbin"].map(PathBuf::from) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    env::join_paths(folders).unwrap_or(path)
}

/// What cargo says to a program that it runs about that program's package. Some build scripts run
/// again where it differs, and it differs between this program and a test that runs it.
const OF_A_PACKAGE: [&str; 3] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];

/// A call of the pinned toolchain's cargo in the repository.
pub(crate) fn cargo<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = toolchain::program("cargo");
    command.args(arguments).current_dir(root()).env("PATH", path());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if OF_A_PACKAGE.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
}

/// The call that builds every program. All calls that build name the whole workspace, so that the
/// features of a shared dependency are the same each time and it is compiled once.
pub(crate) fn build() -> Command {
    cargo(["build", "--quiet", "--workspace", "--bins"])
}

/// The call that builds every program as it is shipped.
pub(crate) fn build_release() -> Command {
    let mut command = build();
    command.arg("--release");
    command
}

/// A program that [`build`] made: it lies beside this one.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let this = env::current_exe()?;
    Ok(this.parent().context("a program in a folder")?.join(name))
}

/// A program that [`build_release`] made.
pub(crate) fn program_released(name: &str) -> Result<PathBuf> {
    let profile = program("..")?;
    Ok(profile.join("release").join(name))
}

/// Cargo's target folder: this program lies in a profile's.
pub(crate) fn target_folder() -> Result<PathBuf> {
    let profile = program("")?;
    Ok(profile.ancestors().nth(1).context("a target folder")?.to_owned())
}

/// Where cargo keeps what it fetched.
pub(crate) fn home() -> Option<PathBuf> {
    let set = env::var_os("CARGO_HOME").map(PathBuf::from);
    set.or_else(|| Some(env::home_dir()?.join(".cargo")))
}

/// What `--config` says so that nothing of this machine gets into a program for a target, and with
/// which other flags it is compiled.
///
/// Panics say where they come from; where this machine keeps its sources concerns no user, and
/// would make two machines' programs differ.
fn rustflags(target: &str, others: &[String]) -> String {
    let set = env::var_os("RUSTUP_HOME").map(PathBuf::from);
    // With the standard library's source, which the BPF target is built from, rustc names where it is.
    let rustup = set.or_else(|| Some(env::home_dir()?.join(".rustup")));
    // The last that matches counts, and what build scripts wrote may be within the repository.
    let built = target_folder().ok();
    let flags =
        [(Some(root()), "/whydrop"), (home(), "/cargo"), (rustup, "/rustup"), (built, "/target")];
    let flags = flags
        .into_iter()
        .filter_map(|(from, to)| Some(format!("--remap-path-prefix={}={to}", from?.to_str()?)));
    let flags: Vec<String> =
        flags.chain(others.iter().cloned()).map(|flag| format!("'{flag}'")).collect();
    format!("target.{target}.rustflags=[{}]", flags.join(","))
}

/// Has a call build for a target with [`rustflags`], which the environment's would replace.
pub(crate) fn set_rustflags(build: &mut Command, target: &str, others: &[String]) {
    build.args(["--config", &rustflags(target, others)]);
    build.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
}
