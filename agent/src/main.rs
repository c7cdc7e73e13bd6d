//! The `whydrop` binary: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser as _;
use whydrop::command::{Cli, run};

fn main() -> ExitCode {
    run(Cli::parse())
}
