//! Where a command takes the cluster from.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use tokio::runtime::Runtime;
use whydrop_core::cluster::Snapshot;

use super::{ends::End, messages::complain, progress::Progress};
use crate::cluster::{
    agents::{LogLine, SELECTOR, once},
    connect::{KubeArgs, connect},
    live::once::{Wanted, read},
    manifests::Manifests,
};

/// How far back agents are asked what they told: whoever has an id got it today.
const RECALLED: SignedDuration = SignedDuration::from_hours(24);

/// The cluster to ask about: the one that a kubeconfig names, or manifests.
#[derive(Debug, Args)]
pub(super) struct ClusterArgs {
    /// Manifests instead of a cluster: files, folders, or `-` for standard input; YAML or JSON
    #[arg(short = 'f', long = "filename", value_name = "PATH", num_args = 1..,
          conflicts_with_all = ["kubeconfig", "context"])]
    paths: Vec<PathBuf>,
    /// The namespace of ends that name none [default: the context's]
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Show no progress; there is none but on a terminal
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    kube: KubeArgs,
}

/// A cluster that can be asked.
pub(super) struct Source {
    namespace: Option<String>,
    quiet: bool,
    from: From,
}

enum From {
    Manifests(Box<Snapshot>),
    Api(Client, Runtime),
}

impl ClusterArgs {
    /// Whether manifests come from standard input.
    pub(super) fn reads_stdin(&self) -> bool {
        self.paths.iter().any(|path| path.as_os_str() == "-")
    }

    /// Reads the manifests, or connects to the cluster.
    ///
    /// # Errors
    /// Everything that is wrong with the manifests, a line each; a cluster that cannot be reached.
    pub(super) fn open(&self) -> anyhow::Result<Source> {
        let namespace = self.namespace.clone();
        if !self.paths.is_empty() {
            let from = From::Manifests(Box::new(self.manifests()?));
            return Ok(Source { namespace, quiet: self.quiet, from });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(connect(&self.kube))?;
        let namespace = namespace.or_else(|| Some(client.default_namespace().to_owned()));
        Ok(Source { namespace, quiet: self.quiet, from: From::Api(client, runtime) })
    }

    fn manifests(&self) -> anyhow::Result<Snapshot> {
        let manifests = Manifests::read(&self.paths);
        if let [errors @ .., last] = manifests.errors.as_slice() {
            for error in errors {
                complain(&error.to_string());
            }
            bail!("{last}");
        }
        for (kind, count) in &manifests.passed_over {
            tracing::debug!(kind, count, "objects that take no part were passed over");
        }
        Ok(manifests.cluster().snapshot())
    }
}

impl Source {
    /// What the agents in a namespace have logged for the last day, as far as their nodes keep it.
    ///
    /// # Errors
    /// Where there is no cluster to ask, or no agent in it.
    pub(super) fn agents_lines(&self, namespace: &str) -> anyhow::Result<Vec<LogLine>> {
        let From::Api(client, runtime) = &self.from else {
            bail!("--records FILE is missing: manifests have no agents to ask");
        };
        let since = Timestamp::now() - RECALLED;
        runtime.block_on(once(client, namespace, SELECTOR, Some(since)))
    }

    /// The namespace of ends that name none, if there is one.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// As much of the cluster as these ends take. Says what could not be read.
    ///
    /// # Errors
    /// Where the cluster does not answer, or does not accept who asks.
    pub(super) fn snapshot<'a>(
        self,
        ends: impl IntoIterator<Item = &'a End>,
    ) -> anyhow::Result<Snapshot> {
        let (client, runtime) = match self.from {
            From::Manifests(snapshot) => return Ok(*snapshot),
            From::Api(client, runtime) => (client, runtime),
        };
        let mut wanted = Wanted::default();
        for end in ends {
            match end {
                End::Pod(namespace, _) | End::Service(namespace, _) => {
                    wanted.namespaces.insert(namespace.clone());
                }
                End::Node(_) => wanted.nodes = true,
                End::Address(address) => {
                    wanted.addresses.insert(*address);
                }
            }
        }
        let progress = Progress::start(self.quiet);
        let part = runtime.block_on(read(client, wanted, &|what| progress.say(what)))?;
        // Before anything else is written to the terminal.
        drop(progress);
        for line in &part.unreadable {
            complain(line);
        }
        Ok(part.snapshot)
    }
}
