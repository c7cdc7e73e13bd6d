//! The cluster that a command asks about: one behind an API server, or manifests.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use tokio::runtime::Runtime;
use whydrop_core::cluster::{Snapshot, profile::Engine};

use super::{
    ends::{Between, NamedEnd},
    messages::complain,
    progress::Progress,
};
use crate::cluster::{
    agent_logs::{LogLine, SELECTOR, once},
    connect::{ConnectError, KubeArgs, Server, target},
    live::once::{Wanted, read},
    manifests::{Manifests, Touches},
};

/// How far back agents' logs are read: anyone who has an id got it today.
const RECALLED: SignedDuration = SignedDuration::from_hours(24);

/// The cluster to ask about: the one of a kubeconfig, or manifests.
#[derive(Debug, Args)]
pub(super) struct ClusterArgs {
    /// Manifests instead of a cluster: files, folders, or `-` for standard input; YAML or JSON
    #[arg(short = 'f', long = "filename", value_name = "PATH", num_args = 1..,
          conflicts_with_all = ["kubeconfig", "context"])]
    paths: Vec<PathBuf>,
    /// Namespace of pods that are given without one [default: the context's]
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Who enforces policies, such as calico@3.30 or cilium [default: what the objects show]
    #[arg(long, value_name = "NAME[@VERSION]", value_parser = Engine::read)]
    engine: Option<Engine>,
    /// Hide progress, which is shown only on a terminal
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    kube: KubeArgs,
}

/// There is no cluster to ask: nothing says where one is, or it is not reached.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoCluster(String);

/// A cluster that can be asked.
pub(super) struct OpenCluster {
    namespace: Option<String>,
    engine: Option<Engine>,
    quiet: bool,
    from: ClusterFrom,
}

enum ClusterFrom {
    Manifests(Box<Manifests>),
    Api(Client, Server, Runtime),
}

impl ClusterArgs {
    /// Whether manifests come from standard input.
    pub(super) fn reads_stdin(&self) -> bool {
        self.paths.iter().any(|path| path.as_os_str() == "-")
    }

    /// Who is said to enforce policies, as it can be written.
    pub(super) fn engine(&self) -> Option<String> {
        self.engine.as_ref().map(Engine::written)
    }

    /// Reads the manifests, or connects to the cluster.
    ///
    /// # Errors
    /// A cluster that cannot be reached.
    pub(super) fn open(&self) -> anyhow::Result<OpenCluster> {
        let namespace = self.namespace.clone();
        if !self.paths.is_empty() {
            let from = ClusterFrom::Manifests(Box::new(Manifests::read(&self.paths)));
            let engine = self.engine.clone();
            return Ok(OpenCluster { namespace, engine, quiet: self.quiet, from });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let target = runtime.block_on(target(&self.kube)).map_err(|error| match error {
            ConnectError::Nowhere { .. } => {
                NoCluster(format!("{error}, or ask manifests with -f")).into()
            }
            error => anyhow::Error::from(error),
        })?;
        let server = target.server.clone();
        let client = runtime.block_on(async { target.client() })?;
        let namespace = namespace.or_else(|| Some(client.default_namespace().to_owned()));
        let engine = self.engine.clone();
        let from = ClusterFrom::Api(client, server, runtime);
        Ok(OpenCluster { namespace, engine, quiet: self.quiet, from })
    }
}

/// How many remarks about manifests are written, a line each: a repository may hold hundreds of templates.
const REMARKS_MAX: usize = 20;

/// The cluster that manifests describe. Complains of what is passed over.
fn described(manifests: Manifests, wanted: &Wanted) -> anyhow::Result<Snapshot> {
    let Manifests { errors, remarks, .. } = &manifests;
    let (errors, harmless): (Vec<_>, Vec<_>) =
        errors.iter().partition(|error| matters(error.touches(), wanted));
    let harmless = harmless.into_iter().map(|error| format!("passed over: {error}"));
    let lines: Vec<String> = remarks.iter().map(ToString::to_string).chain(harmless).collect();
    for line in lines.iter().take(REMARKS_MAX) {
        complain(line);
    }
    if lines.len() > REMARKS_MAX {
        complain(&format!("and {} more like these", lines.len() - REMARKS_MAX));
    }
    if let [errors @ .., last] = errors.as_slice() {
        for error in errors {
            complain(&error.to_string());
        }
        bail!("{last}");
    }
    for (kind, count) in &manifests.ignored {
        tracing::debug!(kind, count, "ignoring objects of this kind");
    }
    let mut cluster = manifests.cluster();
    if let Some(engine) = &wanted.engine {
        cluster.give_engine(engine.clone());
    }
    Ok(cluster.snapshot())
}

/// Whether an object that cannot be read can make a difference to what is asked.
fn matters(touches: &Touches, wanted: &Wanted) -> bool {
    let Wanted { namespaces, addresses, nodes, .. } = wanted;
    match touches {
        Touches::Everything => true,
        Touches::Nothing => false,
        // Who has an address, or what is on a node, may be in any namespace.
        Touches::Namespace(own) => {
            *nodes || !addresses.is_empty() || namespaces.is_empty() || namespaces.contains(own)
        }
    }
}

impl OpenCluster {
    /// What the agents in a namespace have logged for the last day, as far as their nodes keep it.
    ///
    /// # Errors
    /// There is no cluster to ask, or no agent in it.
    pub(super) fn agents_lines(&self, namespace: &str) -> anyhow::Result<Vec<LogLine>> {
        let ClusterFrom::Api(client, _, runtime) = &self.from else {
            bail!("--records FILE is missing: manifests have no agents to ask");
        };
        let since = Timestamp::now() - RECALLED;
        Ok(runtime.block_on(once(client, namespace, SELECTOR, Some(since)))?)
    }

    /// The namespace of pods that are given without one, if it is known.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// As much of the cluster as these flows need. Complains of what could not be read.
    ///
    /// # Errors
    /// Everything that is wrong with the manifests and can make a difference, a line each; the cluster
    /// does not answer, or refuses the user.
    pub(super) fn snapshot<'a>(
        self,
        flows: impl IntoIterator<Item = &'a Between>,
    ) -> anyhow::Result<Snapshot> {
        let engine = self.engine;
        let mut wanted = Wanted { home: self.namespace, engine, ..Wanted::default() };
        for end in flows.into_iter().flat_map(|flow| [&flow.from, &flow.to]) {
            want(&mut wanted, end);
        }
        let (client, server, runtime) = match self.from {
            ClusterFrom::Manifests(manifests) => return described(*manifests, &wanted),
            ClusterFrom::Api(client, server, runtime) => (client, server, runtime),
        };
        let progress = Progress::start(self.quiet);
        let part = runtime.block_on(read(client, wanted, &|what| progress.say(what)));
        let part =
            part.map_err(|why| NoCluster(format!("cannot reach the API server {server}: {why}")))?;
        // Before anything else is written to the terminal.
        drop(progress);
        for line in part.failed.iter().chain(&part.assumed) {
            complain(line);
        }
        if !part.refused.is_empty() {
            complain(&format!("Not readable with your rights: {}.", part.refused));
        }
        Ok(part.snapshot)
    }
}

/// Adds what an end needs.
fn want(wanted: &mut Wanted, end: &NamedEnd) {
    match end {
        NamedEnd::Pod(place) | NamedEnd::Service(place) => {
            wanted.namespaces.extend(place.namespace.clone());
        }
        NamedEnd::Workload(kind, place) => {
            wanted.namespaces.extend(place.namespace.clone());
            wanted.workloads.extend(place.namespace.clone().map(|namespace| (*kind, namespace)));
        }
        NamedEnd::Dotted { dns, namespace, .. } => {
            let of_dns = dns.namespace().map(str::to_owned);
            wanted.namespaces.extend(of_dns.into_iter().chain(namespace.clone()));
        }
        NamedEnd::Node(_) => wanted.nodes = true,
        NamedEnd::Address(address) => {
            wanted.addresses.insert(*address);
        }
    }
}
