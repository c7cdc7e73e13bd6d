//! `cargo xtask test`: the main path on a real kernel against a real API server; with `--all`
//! everything.

use std::{
    env,
    process::{Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    arch::Arch,
    budget::{self, Budget, beside},
    cargo::{build, cargo, root},
    image, lab, lint,
    plan::{Plan, say},
    setup::{ALL_TESTS, Need, prepare, prepare_tools, require_root},
    supply,
};

/// How the runner of tests is set up.
const NEXTEST: &str = include_str!("../../.config/nextest.toml");

/// Most tests wait more than they compute; `.config/nextest.toml` says which do not.
const TESTS_PER_CORE: usize = 4;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also lints, whole nodes, Calico, Cilium, collectors, the image, the chart and the page.
    #[arg(long)]
    all: bool,
    /// For `cargo nextest run`: names of tests, or its flags.
    #[arg(last = true)]
    nextest: Vec<String>,
}

/// Sets up, builds and runs the tests.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    require_root("making network namespaces and loading eBPF programs")?;
    let started = Instant::now();
    let mut plan = Plan::default();
    let needs = if arguments.all { ALL_TESTS } else { &[Need::Play, Need::Tests, Need::Go] };
    prepare(&mut plan, needs)?;
    plan.add(budget::PROGRAMS.name, build(), budget::PROGRAMS.cold);
    if arguments.all {
        lab::prepare_all(&mut plan)?;
    } else {
        lab::prepare_api(&mut plan)?;
    }
    // While Go builds beside, which takes longest.
    prepare_tools(&mut plan, needs);
    if arguments.all {
        lint::prepare(&mut plan);
    }
    let targets = if arguments.all { Vec::new() } else { main_path()? };
    let budget = if arguments.all { &budget::ALL_TESTS_BUILD } else { &budget::MAIN_TESTS_BUILD };
    let mut tests = cargo(["nextest", "run", "--cargo-quiet", "--workspace", "--no-run"]);
    tests.args(&targets);
    plan.add(budget.name, tests, budget.cold);
    if arguments.all {
        image::prepare(&mut plan, Arch::of_this_machine()?)?;
        supply::prepare(&mut plan);
    }
    plan.run()?;

    let is_good = run_tests(arguments, &targets)?;
    if !arguments.all {
        say("left out: what `cargo xtask test --all` adds, as .config/nextest.toml names it");
    }
    let job = if arguments.all { &budget::TEST_ALL } else { &budget::TEST };
    say(&job.verdict(started.elapsed()));
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the tests in groups, or those that are asked for, and returns whether all passed.
fn run_tests(arguments: &Arguments, targets: &[String]) -> Result<bool> {
    if !arguments.nextest.is_empty() {
        let mut tests = nextest(targets)?;
        tests.args(arguments.all.then_some("--ignore-default-filter")).args(&arguments.nextest);
        return Ok(tests.status()?.success());
    }
    let mut is_good = run_group(&budget::MAIN_TESTS, nextest(targets)?)?;
    if arguments.all {
        let mut others = nextest(targets)?;
        others.args(["--ignore-default-filter", "--filterset", "not default()"]);
        is_good &= run_group(&budget::OTHER_TESTS, others)?;
    }
    Ok(is_good)
}

/// Runs a group of tests, and says how long that took and whether all passed.
fn run_group(budget: &Budget, mut tests: Command) -> Result<bool> {
    let started = Instant::now();
    let status = tests.status()?;
    let took = beside(started.elapsed(), Duration::from_secs(budget.cold));
    let outcome = if status.success() { "passed" } else { "failed" };
    say(&format!("{}: {outcome} in {took}", budget.name));
    Ok(status.success())
}

/// The call that runs tests.
fn nextest(targets: &[String]) -> Result<Command> {
    let cores = thread::available_parallelism()?.get();
    let mut tests = cargo(["nextest", "run", "--cargo-quiet", "--workspace", "--test-threads"]);
    tests.arg((cores * TESTS_PER_CORE).to_string()).args(targets);
    Ok(tests)
}

/// The flags by which cargo builds the tests of the main path, and none of those that it leaves out.
fn main_path() -> Result<Vec<String>> {
    // Of the cargo that runs this: the pinned one may be yet to be installed.
    let mut metadata = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    metadata.args(["metadata", "--no-deps", "--format-version=1"]).current_dir(root());
    let output = metadata.output().context("run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", output.status);
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let left_out = left_out(NEXTEST);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let targets = list(&metadata["packages"]).into_iter().flat_map(|p| list(&p["targets"]));
    let tests = targets.filter(|target| list(&target["kind"]).contains(&Value::from("test")));
    let names = tests.filter_map(|test| Some(test["name"].as_str()?.to_owned()));
    let names = names.filter(|name| !left_out.contains(&name.as_str()));
    let flags = names.flat_map(|name| ["--test".to_owned(), name]);
    Ok(["--lib".to_owned(), "--bins".to_owned()].into_iter().chain(flags).collect())
}

/// The test programs that the runner's default filter leaves out with all their tests.
fn left_out(nextest: &str) -> Vec<&str> {
    let (_, filter) = nextest.split_once("default-filter = \"\"\"").unwrap_or_default();
    let (filter, _) = filter.split_once("\"\"\"").unwrap_or_default();
    let named = filter.split("binary(").skip(1).filter_map(|rest| rest.split_once(')'));
    named
        .filter(|(_, after)| !after.trim_start().starts_with("and"))
        .map(|(name, _)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_filter_leaves_out_whole_is_not_built() {
        let left_out = left_out(NEXTEST);
        assert!(left_out.contains(&"cilium") && left_out.contains(&"page"), "{left_out:?}");
        // Of these some tests are left out, and others are not.
        assert!(!left_out.contains(&"metrics") && !left_out.contains(&"probe"), "{left_out:?}");
    }
}
