//! A Kubernetes of one's own, for `cargo xtask lab`.

use std::{
    io::{self, Write},
    process::{ExitCode, Stdio},
};

use anyhow::Result;
use clap::{Parser, Subcommand};
use whydrop_tests::kube::{
    lab::{Lab, Shape},
    parts,
};

/// Builds, starts and ends a real Kubernetes that leaves the machine as it is.
#[derive(Parser)]
#[command(name = "cargo xtask lab", bin_name = "cargo xtask lab")]
struct Arguments {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Builds what a shape consists of and what tests run with it, and keeps it in the cache.
    Build {
        /// Which.
        #[arg(default_value = "api")]
        shape: Shape,
    },
    /// Builds what is missing, and starts a cluster that stays until `down`.
    Up {
        /// Which.
        #[arg(default_value = "api")]
        shape: Shape,
    },
    /// Ends it and removes its state.
    Down,
    /// Names its processes.
    Status,
    /// Prints the path of the administrator's kubeconfig.
    Kubeconfig,
    /// Runs the cluster's own kubectl as its administrator.
    Kubectl {
        /// For kubectl.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().job) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(job: Job) -> Result<ExitCode> {
    let lab = Lab::of_cache()?;
    match job {
        Job::Build { shape: Shape::Api } => {
            Lab::build(parts::API, say)?;
            Lab::build(parts::DEPLOY, say)?;
        }
        Job::Up { shape } => {
            Lab::build(parts::API, say)?;
            lab.up(shape, say)?;
        }
        Job::Down => lab.down()?,
        Job::Status => lab.status().iter().for_each(|line| say(line)),
        Job::Kubeconfig => say(&lab.kubeconfig()?.display().to_string()),
        Job::Kubectl { arguments } => {
            let mut command = lab.kubectl()?.command(arguments.iter().map(String::as_str));
            command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
            let status = command.status()?;
            return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A line for whoever asked.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
