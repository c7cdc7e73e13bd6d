//! Plays a scenario on a terminal: `whydrop-demo [NAME]`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use whydrop_tests::{
    kube::stories,
    play::{Watched, play},
    scenario::{Scenario, scenarios},
    story::Story,
};

/// The scenario that tells the main thing.
const FIRST: &str = "frontend-to-backend";
/// What tells it, and more, on a whole Kubernetes node.
const NODE: &str = "node";

/// Plays one of the scenarios in tests/scenarios on this machine, in network namespaces.
#[derive(Parser)]
struct Arguments {
    /// Which one; `node` plays on a whole Kubernetes node.
    #[arg(default_value = FIRST)]
    name: String,
    /// Plays the traffic alone, without whydrop: for writing a scenario.
    #[arg(long)]
    traffic_only: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut story = Story::on_stdout();
    let watched = if arguments.traffic_only { Watched::Not } else { Watched::ByAgent };
    match tell(&mut story, &arguments.name, watched) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            story.heading(&format!("\nerror: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn tell(story: &mut Story<std::io::Stdout>, name: &str, watched: Watched) -> Result<()> {
    if name == NODE {
        return stories::play(story);
    }
    let scenario = Scenario::read(&scenarios().join(name))
        .context("no such scenario; `cargo xtask demo --list` names them all")?;
    story.introduce(&scenario);
    play(&scenario, watched, story)
}
