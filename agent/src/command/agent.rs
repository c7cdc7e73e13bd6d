//! `whydrop agent`: the `DaemonSet`'s process.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use clap::Args as ClapArgs;
use tokio::signal::unix::{SignalKind, signal};
use whydrop_core::cluster::profile::Engine;

use super::{Outcome, messages};
use crate::{
    agent::{self, Ended, Eyes, Options},
    cluster::connect::{KubeArgs, reach},
    confine::{self, Confined, Needs},
    mute,
    probe::{Attach, Config, Programs},
    sink::{
        self,
        log::Format,
        otlp::settings::{OtlpArgs, OtlpSettings},
    },
};

/// Flags of `agent`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Folder of manifests that describes the cluster, instead of an API server. Changes in it are
    /// followed
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "context"])]
    manifests: Option<PathBuf>,
    #[command(flatten)]
    kube: KubeArgs,
    /// Who enforces policies, such as calico@3.30 or cilium [default: what the objects show]
    #[arg(long, value_name = "NAME[@VERSION]", env = "WHYDROP_ENGINE", default_value = "")]
    engine: String,
    /// Name of the node that the agent runs on [default: the host's name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,
    /// Address to serve /healthz, /readyz and /metrics at [default: they are not served]
    #[arg(long, value_name = "ADDRESS:PORT")]
    health_address: Option<SocketAddr>,
    /// Reason to give in Kubernetes Events on pods
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
    /// Directory for state that survives restarts, such as when each flow last worked [default: none
    /// is kept]
    #[arg(long, value_name = "DIR", env = "WHYDROP_STATE_DIRECTORY")]
    state_directory: Option<PathBuf>,
    /// File of mute rules, a YAML or JSON list: denials that are expected are counted, not reported
    #[arg(long, value_name = "FILE")]
    mute: Option<PathBuf>,
    /// Further mute rules, given inline as YAML or JSON
    #[arg(long, value_name = "YAML", env = "WHYDROP_MUTE_RULES", default_value = "")]
    mute_rules: String,
    /// Format of records on standard output, and of messages on standard error
    #[arg(long, value_enum, env = "WHYDROP_LOG_FORMAT", default_value = "text")]
    pub(super) log_format: Format,
}

pub(super) fn run(args: Args) -> anyhow::Result<Outcome> {
    let is_json = args.log_format != Format::Text;
    let prepared = prepare(args);
    // A thread has the privileges of the one that makes it: this is the first.
    messages::queue(is_json);
    let (options, programs, confined) = prepared?;
    tracing::info!("{confined}");
    let mut eyes = Eyes::New(Box::new(programs));
    loop {
        let options = options.clone();
        let ended = run_to_end(async {
            let shutdown = stop_signal()?;
            Box::pin(agent::run(options, eyes, shutdown)).await
        })?;
        match ended {
            Ended::ForGood => return Ok(Outcome::Done),
            Ended::ToBeginAgain(used) => eyes = used,
        }
    }
}

/// Does what takes privileges, and gives these up.
fn prepare(args: Args) -> anyhow::Result<(Options, Programs, Confined)> {
    let options = options(args)?;
    let programs = Programs::load(&Config::default()).context("cannot watch this node")?;
    let confined = confine::confine(&needs(&options))?;
    Ok((options, programs, confined))
}

/// What it needs of the file system from then on.
fn needs(options: &Options) -> Needs {
    let collector = options.sinks.collector.iter();
    Needs {
        reach: options.manifests.is_none().then(|| reach(&options.kube)),
        read: collector.flat_map(OtlpSettings::files).cloned().collect(),
        state: options.state_directory.clone(),
        port: options.health.map(|address| address.port()),
    }
}

fn options(args: Args) -> anyhow::Result<Options> {
    let node = match args.node_name {
        Some(name) => name,
        None => host_name().context("cannot read the host's name; set --node-name")?,
    };
    let mut rules = mute::parse("WHYDROP_MUTE_RULES", &args.mute_rules)?;
    if let Some(file) = &args.mute {
        rules.extend(mute::read(file)?);
    }
    let engine = match args.engine.as_str() {
        "" => None,
        text => Some(Engine::read(text).context("--engine")?),
    };
    Ok(Options {
        manifests: args.manifests,
        kube: args.kube,
        engine,
        node,
        attach: Attach::Auto,
        health: args.health_address,
        mute: rules,
        sinks: sink::Options {
            format: args.log_format,
            event_reason: (!args.no_events).then_some(args.event_reason),
            collector: OtlpSettings::read(&args.otlp)?,
        },
        state_directory: args.state_directory,
    })
}

/// Runs what ends by itself, on one thread: it is one task, and resident memory counts. What still waits
/// then, such as a call to a disk or a name server that does not answer, is left.
pub(super) fn run_to_end<T>(task: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(task);
    runtime.shutdown_background();
    ended
}

/// Resolves to the signal that ends the process.
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
