//! The commands, one file each, and what they share.
//!
//! Exit codes: 0 done, 1 the answer is no (denied, differs), 2 wrong use or bad input.

#[cfg(feature = "agent")]
mod agent;
mod asked;
mod check;
mod ends;
mod explain;
mod fix;
#[cfg(feature = "agent")]
mod heal;
mod judge;
mod messages;
mod progress;
mod report;
mod source;
mod view;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};

use self::messages::{Manner, complain};
pub use self::{asked::Asked, fix::NoFix};
use crate::report::Record;
#[cfg(feature = "agent")]
use crate::sink::log::Format;

/// Names the Kubernetes `NetworkPolicy` that dropped a connection, why, and the rule that fixes it.
#[derive(Debug, Parser)]
#[command(name = "whydrop", version, propagate_version = true)]
#[cfg_attr(
    not(feature = "agent"),
    command(
        after_help = "This is the client alone. `agent` and `heal` run in the cluster, from the image."
    )
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch this node's pods for connections that are silently dropped, and report why
    #[cfg(feature = "agent")]
    Agent(agent::Args),
    /// Explain whether a flow passes: the policies' verdict, rule by rule. Exit 1: it is denied
    Explain(explain::Args),
    /// Compare many flows with their expected verdicts. Exit 1: at least one differs
    Check(check::Args),
    /// Print the smallest rule that lets a denied flow pass, as YAML for `kubectl apply -f -`
    #[command(
        override_usage = "whydrop fix [OPTIONS] <ID>\n       whydrop fix [OPTIONS] --from <END> --to <END> [--port <PORT[/PROTOCOL]>]"
    )]
    Fix(fix::Args),
    /// Show the agents' records in a terminal: incidents, drops, policies, remedies
    View(view::Args),
    /// Apply verified remedies in namespaces that ask for it, and remove those that do not help
    #[cfg(feature = "agent")]
    Heal(heal::Args),
    /// Write the agents' records as one self-contained HTML page, for a post-mortem
    Report(report::Args),
    /// Print the JSON Schema of the records
    Schema,
}

impl Command {
    /// How it writes messages: as JSON where its records are.
    fn messages(&self) -> Manner {
        match self {
            #[cfg(feature = "agent")]
            Self::Agent(agent::Args { log_format, .. })
            | Self::Heal(heal::Args { log_format, .. }) => {
                Manner { level: "info", is_json: *log_format != Format::Text }
            }
            _ => Manner { level: "warn", is_json: false },
        }
    }
}

/// How a command answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Text for people
    Text,
    /// JSON for programs
    Json,
}

/// What a command came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, or yes.
    Done,
    /// The answer is no.
    No,
    /// Some of what was asked cannot be answered, which has been said.
    Wrong,
}

/// Runs a command and says how it went, on standard error where it went wrong.
pub fn run(cli: Cli) -> ExitCode {
    messages::start(cli.command.messages());
    let code = code_of(run_command(cli.command));
    messages::finish();
    code
}

fn run_command(command: Command) -> anyhow::Result<Outcome> {
    match command {
        #[cfg(feature = "agent")]
        Command::Agent(args) => agent::run(args),
        Command::Explain(args) => explain::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Fix(args) => fix::run(&args),
        Command::View(args) => view::run(&args),
        #[cfg(feature = "agent")]
        Command::Heal(args) => heal::run(args),
        Command::Report(args) => report::run(&args),
        Command::Schema => schema(),
    }
}

fn code_of(outcome: anyhow::Result<Outcome>) -> ExitCode {
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Ok(Outcome::Wrong) => ExitCode::from(2),
        // `whydrop … | head` is no failure.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::from(2)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = error.root_cause().downcast_ref::<io::Error>().map(io::Error::kind);
    kind == Some(io::ErrorKind::BrokenPipe)
}

fn schema() -> anyhow::Result<Outcome> {
    let schema = schemars::schema_for!(Record);
    print(&(serde_json::to_string_pretty(&schema)? + "\n"))
}

/// Prints to standard output, where a write can fail.
fn print(text: &str) -> anyhow::Result<Outcome> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("standard output")?;
    Ok(Outcome::Done)
}
