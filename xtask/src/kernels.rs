//! `cargo xtask kernels`: whydrop on other kernels than this machine's, from the oldest that it supports
//! to the newest, each booted in QEMU.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    arch::Arch,
    budget,
    cargo::{build, cargo, path, program, target_folder},
    image::{self, set_target},
    plan::Plan,
    setup::{Need, prepare_for, require_root},
};

/// The kernel for another processor, by the name that it is asked for.
const ARM64: &str = "arm64";
/// What plays scenarios in a guest.
const PLAYER: &str = "whydrop-kernels";
/// How long building it for another processor takes.
const PLAYER_SECONDS: u64 = 240;
/// The tests that run on each kernel, too: of the eBPF programs, and of the probe.
const TESTS: &[&str] = &["programs", "probe"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which, such as 5.10,6.1,arm64; without this all. Each has a row in the README's table.
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
    let is_asked = |name| arguments.kernel.is_empty() || arguments.kernel.iter().any(|k| k == name);
    let is_for_arm64 = is_asked(ARM64) && !arguments.fetch;
    let arm64 = is_for_arm64.then_some((Need::Arm64, Arch::Arm64.target())).into_iter();
    let (arm64, targets): (Vec<_>, Vec<_>) = arm64.unzip();
    prepare_for(&mut plan, &[vec![Need::Play, Need::Kernels], arm64].concat(), &targets)?;
    plan.add(budget::PROGRAMS.name, build(), budget::PROGRAMS.cold);
    if is_for_arm64 {
        image::prepare(&mut plan, Arch::Arm64)?;
        plan.add("building what plays scenarios on arm64", player(Arch::Arm64), PLAYER_SECONDS);
    }
    plan.run()?;
    let tests = if arguments.fetch { Vec::new() } else { tests()? };
    let mut kernels = Command::new(program(PLAYER)?);
    kernels.env("PATH", path()).arg(if arguments.fetch { "fetch" } else { "play" });
    kernels.args(&arguments.kernel).args(tests.iter().flat_map(|test| ["--tests", test]));
    if is_for_arm64 {
        let player = target_folder()?.join(Arch::Arm64.target()).join("debug").join(PLAYER);
        kernels.arg("--agent-arm64").arg(image::program(Arch::Arm64)?);
        kernels.arg("--player-arm64").arg(player);
    }
    let status = kernels.status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The call that builds what plays scenarios, for another processor.
fn player(arch: Arch) -> Command {
    let mut build = cargo(["build", "--quiet", "--locked", "--package", "whydrop-tests"]);
    build.args(["--bin", PLAYER]);
    // A guest has little memory.
    set_target(&mut build, arch, &["-Cstrip=debuginfo".to_owned()]);
    build
}

/// Builds the tests that are run on each kernel, too; where they are.
fn tests() -> Result<Vec<String>> {
    let mut build = cargo(["test", "--quiet", "--workspace", "--no-run"]);
    build.args(TESTS.iter().flat_map(|name| ["--test", name]));
    build.arg("--message-format=json").stderr(Stdio::inherit());
    let output = build.output().context("run cargo test")?;
    ensure!(output.status.success(), "cargo test: {}", output.status);
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
    let programs = messages.filter_map(|message: Value| {
        let name = message["target"]["name"].as_str()?;
        let is_test = TESTS.contains(&name);
        message["executable"].as_str().filter(|_| is_test).map(str::to_owned)
    });
    Ok(programs.collect())
}
