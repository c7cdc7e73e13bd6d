//! Records through the sink of one agent: `whydrop-otlp-load --endpoint URL --records N …`, for
//! tests that kill it.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Parser;
use whydrop_tests::load::otlp::load::{Records, Said, drain, drive, settings, sink};

/// Hands records to the sink, says on standard output how it goes, and ends when all are sent.
#[derive(Parser)]
struct Arguments {
    /// Where the collector listens.
    #[arg(long)]
    endpoint: String,
    /// `grpc` or `http/protobuf`.
    #[arg(long)]
    protocol: String,
    /// The agent's node.
    #[arg(long)]
    node: String,
    /// Where its outbox is.
    #[arg(long)]
    folder: PathBuf,
    /// The number of the first record.
    #[arg(long)]
    first: u64,
    /// How many.
    #[arg(long)]
    records: u64,
    /// In a second.
    #[arg(long)]
    rate: f64,
}

fn main() -> ExitCode {
    match load(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// How long what waits may take to be sent.
const PATIENCE: Duration = Duration::from_secs(60);

fn load(arguments: &Arguments) -> Result<()> {
    let settings = settings(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", arguments.endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", arguments.protocol.as_str()),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
    ])?;
    let sink = sink(&arguments.node, settings, Some(arguments.folder.clone()), None)?;
    let numbers = arguments.first..arguments.first + arguments.records;
    drive(&sink, &Records::of(&arguments.node), numbers, arguments.rate, say);
    drain(&sink, arguments.records, PATIENCE, say)?;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn say(said: Said) {
    if let Ok(line) = serde_json::to_string(&said) {
        println!("{line}");
    }
}

#[expect(clippy::print_stderr, reason = "this is what the program is for")]
fn say_error(line: &str) {
    eprintln!("error: {line}");
}
