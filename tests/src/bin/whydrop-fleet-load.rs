//! A fleet's worth of records through one collector: `whydrop-fleet-load [--agents N] …`.

use std::process::ExitCode;

use clap::Parser;
use whydrop_tests::{kube::parts::COLLECTOR, load::otlp::fleet::Fleet};

/// Sends records of many agents to a collector of its own, and reports what that took.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    fleet: Fleet,
}

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn main() -> ExitCode {
    let fleet = Arguments::parse().fleet;
    // Some minutes, the first time.
    match COLLECTOR.build().and_then(|_| fleet.play()) {
        Ok(report) => {
            println!("{report}");
            let is_whole = report.received + report.lost == report.handed;
            if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
