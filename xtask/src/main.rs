//! cargo xtask JOB: everything that is done to this repository, on one machine.

mod arch;
mod bare;
mod bench;
mod budget;
mod cache;
mod cargo;
mod churn;
mod demo;
mod differential;
mod dist;
mod fleet;
mod fuzz;
mod image;
mod kernels;
mod lab;
mod lint;
mod plan;
mod reproduce;
mod setup;
mod soak;
mod supply;
mod test;
mod toolchain;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about)]
struct Arguments {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Shows whydrop at work on real packets, after setting up what that needs.
    Demo(demo::Arguments),
    /// Sets up and runs every check and every test.
    Test(test::Arguments),
    /// Holds real enforcers, the objects and whydrop against each other over clusters from seeds.
    Differential(differential::Arguments),
    /// Lets a whole node churn under clients, and holds their own account against what is reported.
    Churn(churn::Arguments),
    /// Plays clusters on two nodes before the same agents for hours: nothing false, and no growth.
    Soak(soak::Arguments),
    /// Boots other kernels, from the oldest that is supported to the newest, and plays scenarios there.
    Kernels(kernels::Arguments),
    /// Lets libFuzzer look for input that breaks what whydrop holds of all that it reads from others.
    Fuzz(fuzz::Arguments),
    /// Measures what whydrop costs, beside no watcher and beside bpftrace, in turn.
    Bench(bench::Arguments),
    /// Sends a fleet's worth of records through one real collector, and says what that took.
    FleetLoad(fleet::Arguments),
    /// Makes the agent's container image, as an archive that containerd and Docker take.
    Image(image::Arguments),
    /// Holds an image against a public key: its bytes, its SBOM, how it was made.
    Verify(verify::Arguments),
    /// Builds the image twice, in two places, and says what differs.
    Reproduce(reproduce::Arguments),
    /// Builds the client for Linux, Windows and macOS, with checksums; runs what runs here.
    Dist,
    /// Builds, starts and ends a real Kubernetes that leaves the machine as it is.
    Lab(lab::Arguments),
    /// Runs a README command in a bare Debian, as on a new machine; says how long it took.
    Bare(bare::Arguments),
    /// Installs what is missing to build, to play scenarios and to test; says what and why.
    Setup,
    /// Formatting, licences, lints, and each crate alone; if asked for, advisories.
    Lint(lint::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().job {
        Job::Demo(arguments) => demo::run(&arguments),
        Job::Test(arguments) => test::run(&arguments),
        Job::Differential(arguments) => differential::run(&arguments),
        Job::Churn(arguments) => churn::run(&arguments),
        Job::Soak(arguments) => soak::run(&arguments),
        Job::Kernels(arguments) => kernels::run(&arguments),
        Job::Fuzz(arguments) => fuzz::run(&arguments),
        Job::Bench(arguments) => bench::run(&arguments),
        Job::FleetLoad(arguments) => fleet::run(&arguments),
        Job::Image(arguments) => image::run(&arguments),
        Job::Verify(arguments) => verify::run(&arguments),
        Job::Reproduce(arguments) => reproduce::run(&arguments),
        Job::Dist => dist::run(),
        Job::Lab(arguments) => lab::run(&arguments),
        Job::Bare(arguments) => bare::run(&arguments),
        Job::Setup => setup::run(),
        Job::Lint(arguments) => lint::run(&arguments),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            plan::say(&format!("\nerror: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
