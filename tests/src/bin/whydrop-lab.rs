//! A Kubernetes of one's own, for `cargo xtask lab`.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::{ExitCode, ExitStatus},
};

use anyhow::Result;
use clap::{Parser, Subcommand};
use whydrop_tests::kube::{
    lab::{Built, Lab, Shape},
    node::inside,
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
    /// Builds what a lab consists of, or what tests run besides, and keeps it in the cache.
    Build {
        /// What.
        #[arg(default_value = "api")]
        built: Built,
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
    /// Runs a program on the node: `exec ip route`, `exec ip netns exec outside ping 172.31.99.2`.
    Exec {
        /// Which.
        program: String,
        /// For it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Is the first process of a node.
    #[command(hide = true)]
    Inside {
        /// The folder of the node's state.
        folder: PathBuf,
        /// The node's name.
        name: String,
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
    // Where its state is comes from outside; it has no home.
    if let Job::Inside { folder, name } = &job {
        inside::run(folder, name)?;
        return Ok(ExitCode::SUCCESS);
    }
    let lab = Lab::of_cache()?;
    match job {
        Job::Inside { .. } => {}
        Job::Build { built } => Lab::build(built, say)?,
        Job::Up { shape } => {
            Lab::build(Built::Api, say)?;
            if shape == Shape::Node {
                Lab::build(Built::Node, say)?;
            }
            lab.up(shape, say)?;
        }
        Job::Down => lab.down()?,
        Job::Status => lab.status().iter().for_each(|line| say(line)),
        Job::Kubeconfig => say(&lab.kubeconfig()?.display().to_string()),
        Job::Kubectl { arguments } => return Ok(code(lab.run_kubectl(&arguments)?)),
        Job::Exec { program, arguments } => return Ok(code(lab.run(&program, &arguments)?)),
    }
    Ok(ExitCode::SUCCESS)
}

fn code(status: ExitStatus) -> ExitCode {
    // Nothing, where a signal ended it.
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

/// A line for the person who asked.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
