//! `cargo xtask lab`: a real Kubernetes of one's own.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{
    budget::{self, Budget},
    cargo::{build, path, program},
    plan::Plan,
    setup::{Need, prepare, require_root},
};

/// What `whydrop-lab build` builds once, by its name there.
type Parts = (&'static str, &'static Budget);

const API: Parts = ("api", &budget::API);
const DEPLOY: Parts = ("deploy", &budget::DEPLOY);
const OTLP: Parts = ("otlp", &budget::OTLP);
const NODE: Parts = ("node", &budget::NODE);
const KERNELS: Parts = ("kernels", &budget::KERNELS);
const CILIUM: Parts = ("cilium", &budget::CILIUM);

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// up, down, status, kubeconfig, kubectl, exec or build; `--help` says more.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, default_value = "--help")]
    arguments: Vec<String>,
}

/// Sets up, builds our side of it, and hands over.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    require_root("making namespaces, control groups and pods")?;
    // What asks about a lab, or ends it, prints what it has to say and nothing else.
    let starts = matches!(arguments.arguments[0].as_str(), "up" | "build");
    if starts || !program("whydrop-lab")?.is_file() {
        let mut plan = Plan::default();
        prepare(&mut plan, &[Need::Play, Need::Go, Need::Node, Need::Cilium])?;
        plan.add(budget::PROGRAMS.name, build(), budget::PROGRAMS.cold);
        plan.run()?;
    }
    let status = lab()?.args(&arguments.arguments).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Adds to a plan what all tests run; the programs are built before.
pub(crate) fn prepare_all(plan: &mut Plan) -> Result<()> {
    prepare_parts(plan, &[API, DEPLOY, OTLP, NODE, CILIUM, KERNELS])
}

/// Adds to a plan what the tests of the main path run; the programs are built before.
pub(crate) fn prepare_api(plan: &mut Plan) -> Result<()> {
    prepare_parts(plan, &[API])
}

/// Adds to a plan what a whole node consists of; the programs are built before.
pub(crate) fn prepare_node(plan: &mut Plan) -> Result<()> {
    prepare_parts(plan, &[API, NODE])
}

/// Sets up and builds all that plays before real enforcement, which takes root for this.
pub(crate) fn ready_node(root_for: &str) -> Result<()> {
    require_root(root_for)?;
    let mut plan = Plan::default();
    prepare(&mut plan, &[Need::Play, Need::Go, Need::Node])?;
    plan.add(budget::PROGRAMS.name, build(), budget::PROGRAMS.cold);
    prepare_node(&mut plan)?;
    plan.run()
}

fn prepare_parts(plan: &mut Plan, all: &[Parts]) -> Result<()> {
    for (name, budget) in all {
        let mut command = lab()?;
        command.args(["build", *name]);
        // Go takes turns with the network, and leaves room for what Rust builds meanwhile.
        plan.add_beside(format!("{}, once", budget.name), command, budget.cold);
    }
    Ok(())
}

fn lab() -> Result<Command> {
    let mut command = Command::new(program("whydrop-lab")?);
    command.env("PATH", path());
    Ok(command)
}
