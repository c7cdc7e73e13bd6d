//! `whydrop agent`: the `DaemonSet`'s process.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use clap::Args as ClapArgs;
use tokio::signal::unix::{SignalKind, signal};

use super::Outcome;
use crate::{
    agent::{self, Options},
    cluster::connect::KubeArgs,
    mute,
    probe::Attach,
    sink::{
        self,
        log::Format,
        otlp::settings::{OtlpArgs, Settings},
    },
};

/// Flags of `agent`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// A folder of manifests that describes the cluster, instead of an API server; it is followed
    /// as it changes
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "context"])]
    manifests: Option<PathBuf>,
    #[command(flatten)]
    kube: KubeArgs,
    /// The node it runs on [default: the host's name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,
    /// Where to answer /healthz, /readyz and /metrics
    #[arg(long, value_name = "ADDRESS:PORT")]
    health_address: Option<SocketAddr>,
    /// The reason that Kubernetes Events on pods give
    #[arg(
        long,
        value_name = "REASON",
        env = "WHYDROP_EVENT_REASON",
        default_value = "NetworkPolicyDenied"
    )]
    event_reason: String,
    /// Write no Kubernetes Events
    #[arg(long)]
    no_events: bool,
    #[command(flatten)]
    otlp: OtlpArgs,
    /// Where to keep what survives a restart, such as when flows worked last; nothing does without
    #[arg(long, value_name = "DIR", env = "WHYDROP_STATE_DIRECTORY")]
    state_directory: Option<PathBuf>,
    /// Denials that are meant, and not to be told but counted: a list of rules, YAML or JSON
    #[arg(long, value_name = "FILE")]
    mute: Option<PathBuf>,
    /// More such rules, themselves
    #[arg(long, value_name = "YAML", env = "WHYDROP_MUTE_RULES", default_value = "")]
    mute_rules: String,
    /// The form of records on standard output, and of messages on standard error
    #[arg(long, value_enum, env = "WHYDROP_LOG_FORMAT", default_value = "text")]
    pub(super) log_format: Format,
}

pub(super) fn run(args: Args) -> anyhow::Result<Outcome> {
    let node = match args.node_name {
        Some(name) => name,
        None => host_name().context("the host's name cannot be read; give --node-name")?,
    };
    let mut rules = mute::parse("WHYDROP_MUTE_RULES", &args.mute_rules)?;
    if let Some(file) = &args.mute {
        rules.extend(mute::read(file)?);
    }
    let options = Options {
        manifests: args.manifests,
        kube: args.kube,
        node,
        attach: Attach::Auto,
        health: args.health_address,
        mute: rules,
        sinks: sink::Options {
            format: args.log_format,
            event_reason: (!args.no_events).then_some(args.event_reason),
            collector: Settings::read(&args.otlp)?,
        },
        state_directory: args.state_directory,
    };
    // One thread: the agent is one task, and resident memory counts.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let shutdown = stop_signal()?;
        agent::run(options, shutdown).await
    })?;
    Ok(Outcome::Done)
}

/// Which signal says to stop, once it has come.
pub(super) fn stop_signal() -> anyhow::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

/// The host's name.
pub(super) fn host_name() -> anyhow::Result<String> {
    let name = nix::sys::utsname::uname()?.nodename().to_owned();
    name.into_string().map_err(|_| anyhow::anyhow!("it is not UTF-8"))
}
