//! Plays a scenario on a terminal: `whydrop-demo [NAME]`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use whydrop_tests::{
    fleet,
    kube::stories,
    play::{Watched, play},
    scenario::{Scenario, scenarios},
    story::Story,
};

/// The scenario that tells the main thing.
const FIRST: &str = "frontend-to-backend";
/// What tells it, and more, on a whole Kubernetes node.
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
    /// Of the story with Calico: also keeps what the agent tells, as lines of a log.
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
    /// With `--records`: how long it goes on before somebody mends it.
    #[arg(long, default_value_t = 0, requires = "records")]
    minutes: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut story = Story::on_stdout();
    let watched = if arguments.traffic_only { Watched::Not } else { Watched::ByAgent };
    let told = match &arguments.records {
        Some(file) => record(&mut story, &arguments, file),
        None => tell(&mut story, &arguments.name, watched),
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            story.heading(&format!("\nerror: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn tell(story: &mut Story<std::io::Stdout>, name: &str, watched: Watched) -> Result<()> {
    match name {
        NODE => return stories::play(story),
        CALICO => return fleet::story::play(fleet::story::Kind::Calico, story),
        _ => {}
    }
    let scenario = Scenario::read(&scenarios().join(name))
        .context("no such scenario; `cargo xtask demo --list` names them all")?;
    story.introduce(&scenario);
    play(&scenario, watched, story)
}

fn record(story: &mut Story<std::io::Stdout>, arguments: &Arguments, file: &Path) -> Result<()> {
    ensure!(arguments.name == CALICO, "--records: only {CALICO} can be kept");
    let outage = Duration::from_secs(arguments.minutes * 60);
    let mut lines = String::new();
    for record in fleet::story::record(fleet::story::Kind::Calico, outage, story)? {
        lines += &serde_json::to_string(&record)?;
        lines.push('\n');
    }
    fs::write(file, lines).with_context(|| file.display().to_string())
}
