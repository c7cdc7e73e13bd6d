//! `cargo xtask test`: every check and every test.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    cargo::{build, cargo},
    image, lab, lint,
    plan::{Plan, say},
    setup::{Purpose, prepare, require_root},
};

/// How long the programs, and then the tests, take to build on two cores after the lints.
const BUILD_SECONDS: u64 = 90;

/// Most tests wait more than they compute; `.config/nextest.toml` says which do not.
const TESTS_PER_CORE: usize = 4;

/// What does without a whole node.
const NOT_NODE: &str = "not (binary(kube_node) or binary(kube_story))";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also what plays on a whole Kubernetes node with Calico, whose programs take some six minutes
    /// more to build, once.
    #[arg(long)]
    node: bool,
    /// For `cargo nextest run`: names of tests, or its flags.
    #[arg(last = true)]
    nextest: Vec<String>,
}

/// Sets up, lints, and runs the tests; their runner has the last word.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    require_root("making network namespaces and loading eBPF programs")?;
    let mut plan = Plan::default();
    prepare(&mut plan, Purpose::Test)?;
    lint::prepare(&mut plan);
    plan.add("building the programs", build(), BUILD_SECONDS);
    lab::prepare_parts(&mut plan, arguments.node)?;
    let tests = cargo(["nextest", "run", "--cargo-quiet", "--workspace", "--no-run"]);
    plan.add("building the tests", tests, BUILD_SECONDS);
    image::prepare(&mut plan, image::Arch::of_this_machine()?)?;
    plan.run()?;
    let cores = std::thread::available_parallelism()?.get();
    // nextest runs what any of several filtersets has: whoever gives one, chooses.
    let flags = ["-E", "--filterset"];
    let chosen = arguments.nextest.iter().any(|given| flags.iter().any(|f| given.starts_with(f)));
    if !arguments.node && !chosen {
        say("left out: what plays on a whole Kubernetes node; `cargo xtask test --node` has it");
    }
    let mut tests = cargo(["nextest", "run", "--workspace", "--test-threads"]);
    tests.arg((cores * TESTS_PER_CORE).to_string());
    if !arguments.node && !chosen {
        tests.args(["--filterset", NOT_NODE]);
    }
    let status = tests.args(&arguments.nextest).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
