//! The pinned Rust toolchain: installed where it is missing, and called by name.
//!
//! Nothing at the root of the repository selects it, so `cargo xtask` starts with whatever stable
//! toolchain the machine has, also where rustup may not install anything by itself
//! (`RUSTUP_AUTO_INSTALL=0`).

use std::{
    io::ErrorKind,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    budget,
    plan::{Plan, say},
};

/// The manifest that pins it, as `rust-version` of the workspace.
const MANIFEST: &str = include_str!("../../Cargo.toml");

/// What is needed of it: `core`'s source, which the BPF target is built from, and what lints run.
const COMPONENTS: [&str; 3] = ["rust-src", "clippy", "rustfmt"];

/// The toolchain's name for rustup, such as `1.98.0`.
pub(crate) fn pinned() -> &'static str {
    let mut lines = MANIFEST.lines();
    let version = lines.find_map(|line| line.strip_prefix("rust-version = "));
    version.map_or("stable", |version| version.trim_matches('"'))
}

/// A call of one of its programs, such as `cargo` or `rustc`.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", pinned(), name]);
    // What the cargo that runs this program says of itself is not about the pinned one.
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command
}

/// Adds its installation to a plan where it is missing, with the standard library for each of `targets`.
///
/// # Errors
/// That there is no rustup.
pub(crate) fn prepare(plan: &mut Plan, targets: &[&str]) -> Result<()> {
    let mut missing: Vec<String> = Vec::new();
    let installed = installed_components()?;
    let is_there = |wanted: &str| installed.iter().any(|name| name.starts_with(wanted));
    if !is_there("rustc") {
        missing.push(format!("Rust {}", pinned()));
    }
    missing.extend(COMPONENTS.iter().filter(|name| !is_there(name)).map(|name| (*name).to_owned()));
    let standard = targets.iter().map(|target| format!("rust-std-{target}"));
    missing.extend(standard.filter(|name| !is_there(name)));
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(", ");
    say(&format!("missing: {names} (from rustup, beside your own), which builds everything here"));
    let mut install = Command::new("rustup");
    install.args(["toolchain", "install", pinned(), "--profile", "minimal", "--no-self-update"]);
    install.args(COMPONENTS.iter().flat_map(|name| ["--component", name]));
    install.args(targets.iter().flat_map(|target| ["--target", target]));
    plan.add(format!("Rust {}", pinned()), install, budget::TOOLCHAIN.cold);
    Ok(())
}

/// What has Miri, which no stable toolchain has.
const NIGHTLY: &str = "nightly";

/// Adds the nightly toolchain with Miri to a plan, where it is missing. It is no pinned one: which nights have
/// Miri changes, and it interprets what the pinned one compiles.
pub(crate) fn prepare_miri(plan: &mut Plan) {
    let mut ask = Command::new("rustup");
    ask.args(["run", NIGHTLY, "cargo", "miri", "--version"]).stdout(Stdio::null());
    if ask.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return;
    }
    say(
        "missing: Miri (from rustup, with a nightly Rust), which interprets code to find what is undefined",
    );
    let mut install = Command::new("rustup");
    install.args(["toolchain", "install", NIGHTLY, "--profile", "minimal", "--no-self-update"]);
    install.args(["--component", "miri", "--component", "rust-src"]);
    plan.add("Miri", install, budget::TOOLCHAIN.cold);
}

/// A call of `cargo miri`.
pub(crate) fn miri() -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", NIGHTLY, "cargo", "miri"]);
    // A nightly may be older than the pinned release: what that has stabilised since, and aya uses.
    command.env("RUSTFLAGS", "-Zcrate-attr=feature(result_option_map_or_default)");
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command
}

/// The components that are installed of it, such as `rust-std-x86_64-unknown-linux-musl`; none where
/// it is not installed.
fn installed_components() -> Result<Vec<String>> {
    let mut list = Command::new("rustup");
    list.args(["component", "list", "--installed", "--toolchain", pinned()]);
    let output = match list.stderr(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "there is no rustup, which installs Rust {}. Install it from https://rustup.rs and have \
             it in PATH",
            pinned()
        ),
        Err(error) => return Err(error).context("run rustup"),
    };
    // It fails where the toolchain is not there.
    let names = if output.status.success() { output.stdout } else { Vec::new() };
    Ok(String::from_utf8_lossy(&names).lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_pins_a_whole_version() {
        let numbers: Vec<_> = pinned().split('.').map(str::parse::<u32>).collect();
        assert_eq!(numbers.len(), 3, "{}", pinned());
        assert!(numbers.iter().all(Result::is_ok), "{}", pinned());
    }

    /// The image's builder starts from an image of the same toolchain, so that nothing is fetched.
    #[test]
    fn the_dockerfile_starts_from_it() {
        let dockerfile = include_str!("../../deploy/Dockerfile");
        assert!(dockerfile.contains(&format!("rust:{}-bookworm", pinned())), "{dockerfile}");
    }
}
