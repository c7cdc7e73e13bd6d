//! `cargo xtask demo`: whydrop at work.

use std::{
    fs,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    arch::Arch,
    budget::{self, beside},
    cargo::{build, path, program, root},
    image, lab,
    plan::{Plan, say},
    setup::{Need, prepare, require_root},
};

/// What is played on a whole Kubernetes node.
const NODE: &str = "node";
/// What is played with parts of a real Kubernetes, and their titles; they take about 20 minutes to
/// build, once. All else is a folder of tests/scenarios.
const REAL: &[(&str, &str)] = &[
    (NODE, "On a whole Kubernetes node: kubectl logs, Calico, CoreDNS, the kubelet's probes"),
    (
        "calico-restrict-backend-ingress",
        "With Calico's Felix: a new policy cuts all API replicas off from their database",
    ),
];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// One that `--list` names.
    #[arg(default_value = "frontend-to-backend")]
    name: String,
    /// Names all scenarios instead.
    #[arg(long)]
    list: bool,
    /// Plays the traffic alone, without whydrop.
    #[arg(long)]
    traffic_only: bool,
}

/// Sets up, builds and plays.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.list {
        return list();
    }
    require_root("making network namespaces and loading eBPF programs")?;
    let started = Instant::now();
    let mut plan = Plan::default();
    let is_real = REAL.iter().any(|(name, _)| *name == arguments.name);
    let mut needs = vec![Need::Play];
    needs.extend(is_real.then_some([Need::Go, Need::Node]).into_iter().flatten());
    needs.extend((arguments.name == NODE).then_some(Need::Image));
    prepare(&mut plan, &needs)?;
    plan.add(budget::PROGRAMS.name, build(), budget::PROGRAMS.cold);
    if is_real {
        lab::prepare_node(&mut plan)?;
    }
    if arguments.name == NODE {
        image::prepare(&mut plan, Arch::of_this_machine()?)?;
    }
    plan.run()?;
    say("");
    let mut scenario = Command::new(program("whydrop-demo")?);
    scenario.env("PATH", path());
    scenario.args(arguments.traffic_only.then_some("--traffic-only"));
    let begun = Instant::now();
    let status = scenario.arg(&arguments.name).status()?;
    if !is_real {
        let took = beside(begun.elapsed(), Duration::from_secs(budget::PLAY.cold));
        say(&format!("\n{}: {took}", budget::PLAY.name));
        say(&budget::DEMO.verdict(started.elapsed()));
    }
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every scenario with its title, without building anything.
fn list() -> Result<ExitCode> {
    let scenarios = root().join("tests/scenarios");
    let mut folders: Vec<_> =
        fs::read_dir(scenarios)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    folders.sort();
    for (name, title) in REAL {
        say(&format!("{name:32}{title}"));
    }
    for folder in folders {
        let text = fs::read_to_string(folder.join("scenario.yaml"))?;
        let title = text.lines().find_map(|line| line.strip_prefix("title: ")).unwrap_or_default();
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        say(&format!("{name:32}{title}"));
    }
    Ok(ExitCode::SUCCESS)
}
