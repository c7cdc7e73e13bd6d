//! `whydrop heal`: remedies applied by a machine, where namespaces ask for it.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, ensure};
use clap::Args as ClapArgs;
use jiff::SignedDuration;
use whydrop_core::heal::{ENTRIES_MAX, SETTLE, Settings};

use super::{
    Outcome,
    agent::{host_name, run_to_end, stop_signal},
    messages,
};
use crate::{
    cluster::{agent_logs::SELECTOR, connect::KubeArgs},
    heal::{self, From, Options},
    sink::log::Format,
};

/// Flags of `heal`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// File of the agents' records as JSON; `-` is standard input [default: the logs of the agents'
    /// pods]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    kube: KubeArgs,
    /// Namespace of the Lease and of the agents' pods
    #[arg(short, long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "whydrop")]
    namespace: String,
    /// Label selector of the agents' pods
    #[arg(long, value_name = "SELECTOR", default_value = SELECTOR)]
    selector: String,
    /// Name of the leader-election Lease. Healers with different Lease names run independently
    #[arg(long, value_name = "NAME", default_value = "whydrop-heal")]
    lease: String,
    /// Name of this healer in the Lease [default: the host's name and the process id]
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    identity: Option<String>,
    /// Least confidence in an incident's cause, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value = "0.9", value_parser = share)]
    min_confidence: f64,
    /// Most incidents to heal in an hour
    #[arg(long, value_name = "COUNT", default_value = "6", value_parser = count)]
    per_hour: usize,
    /// Most incidents to heal in an hour in one namespace
    #[arg(long, value_name = "COUNT", default_value = "3", value_parser = count)]
    per_namespace_and_hour: usize,
    /// Most incidents to heal in an hour for clients of one namespace
    #[arg(long, value_name = "COUNT", default_value = "2", value_parser = count)]
    per_client_and_hour: usize,
    /// For how long a flow must have worked before it was denied
    #[arg(long, value_name = "TIME", default_value = "5m")]
    min_worked: SignedDuration,
    /// How long to watch whether a policy helps. Agents report a persistent drop once a minute, so
    /// use at least 75s
    #[arg(long, value_name = "TIME", default_value = "2m")]
    watch_time: SignedDuration,
    /// How long a policy that helps stays before it is removed, unless someone keeps it
    #[arg(long, value_name = "TIME", default_value = "24h")]
    time_to_live: SignedDuration,
    /// Address to serve /healthz at [default: it is not served]
    #[arg(long, value_name = "ADDRESS:PORT")]
    health_address: Option<SocketAddr>,
    /// Format of records on standard output, and of messages on standard error
    #[arg(long, value_enum, env = "WHYDROP_LOG_FORMAT", default_value = "text")]
    pub(super) log_format: Format,
}

fn share(text: &str) -> anyhow::Result<f64> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.context("expected a number from 0 to 1")
}

fn count(text: &str) -> anyhow::Result<usize> {
    // More would be forgotten within the hour.
    let count = text.parse().ok().filter(|count| (1..=ENTRIES_MAX / 2).contains(count));
    count.with_context(|| format!("expected a number from 1 to {}", ENTRIES_MAX / 2))
}

pub(super) fn run(args: Args) -> anyhow::Result<Outcome> {
    ensure!(args.watch_time > SETTLE, "--watch-time: expected more than {SETTLE:#}");
    ensure!(
        args.time_to_live > args.watch_time,
        "--time-to-live: expected more than --watch-time, which is {:#}",
        args.watch_time
    );
    ensure!(!args.min_worked.is_negative(), "--min-worked: expected no negative time");
    let identity = if let Some(identity) = args.identity {
        identity
    } else {
        let host = host_name().context("cannot read the host's name; set --identity")?;
        format!("{host}-{}", std::process::id())
    };
    let from = match args.file {
        Some(file) => From::File(file),
        None => From::Agents { namespace: args.namespace.clone(), selector: args.selector },
    };
    let options = Options {
        kube: args.kube,
        from,
        namespace: args.namespace,
        lease: args.lease,
        identity,
        settings: Settings {
            confidence_min: args.min_confidence,
            per_hour: args.per_hour,
            per_namespace_and_hour: args.per_namespace_and_hour,
            per_client_and_hour: args.per_client_and_hour,
            min_worked: args.min_worked,
            watch: args.watch_time,
            time_to_live: args.time_to_live,
        },
        format: args.log_format,
        health: args.health_address,
    };
    messages::queue(options.format != Format::Text);
    run_to_end(async {
        let shutdown = stop_signal()?;
        Box::pin(heal::run(options, shutdown)).await
    })?;
    Ok(Outcome::Done)
}
