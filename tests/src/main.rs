//! Plays a scenario on a terminal: `whydrop-demo [NAME]`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use whydrop_tests::play::{
    narration::Narrator,
    player::{Watched, play},
    replicas::{self, Kind},
    scenario::{Scenario, scenarios},
    whole_node,
};

/// The scenario that shows the main thing.
const FIRST: &str = "frontend-to-backend";
/// What shows it, and more, on a whole Kubernetes node.
const NODE: &str = "node";
/// The incident that whydrop was first written for, with the engine it happened with.
const CALICO: &str = "calico-restrict-backend-ingress";

/// Plays one of the scenarios in tests/scenarios on this machine, in network namespaces.
#[derive(Parser)]
struct Arguments {
    /// Which one.
    #[arg(default_value = FIRST)]
    name: String,
    /// Plays the traffic alone, without whydrop: for writing a scenario.
    #[arg(long)]
    traffic_only: bool,
    /// Of the story with Calico: also keeps what the agent reports, as lines of a log.
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
    /// With `--records`: how long it goes on before somebody mends it.
    #[arg(long, default_value_t = 0, requires = "records")]
    minutes: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut narrator = Narrator::on_stdout();
    let watched = if arguments.traffic_only { Watched::Not } else { Watched::ByAgent };
    let shown = match &arguments.records {
        Some(file) => record(&mut narrator, &arguments, file),
        None => show(&mut narrator, &arguments.name, watched),
    };
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            narrator.heading(&format!("\nerror: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn show(narrator: &mut Narrator<std::io::Stdout>, name: &str, watched: Watched) -> Result<()> {
    match name {
        NODE => return whole_node::play(narrator),
        CALICO => return replicas::play(Kind::Calico, narrator),
        _ => {}
    }
    let scenario = Scenario::read(&scenarios().join(name))
        .context("no such scenario; `cargo xtask demo --list` names them all")?;
    narrator.introduce(&scenario);
    play(&scenario, watched, narrator)
}

fn record(
    narrator: &mut Narrator<std::io::Stdout>,
    arguments: &Arguments,
    file: &Path,
) -> Result<()> {
    ensure!(arguments.name == CALICO, "--records: only {CALICO} can be kept");
    let outage = Duration::from_secs(arguments.minutes * 60);
    let mut lines = String::new();
    for record in replicas::record(Kind::Calico, outage, narrator)? {
        lines += &serde_json::to_string(&record)?;
        lines.push('\n');
    }
    fs::write(file, lines).with_context(|| file.display().to_string())
}
