//! Where a command takes the cluster from.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use whydrop_core::cluster::Snapshot;

use crate::cluster::manifests::Manifests;

/// The cluster to ask about.
#[derive(Debug, Args)]
pub(super) struct ClusterArgs {
    /// Manifests: files, folders, or `-` for standard input; YAML or JSON
    #[arg(short = 'f', long = "filename", value_name = "PATH", num_args = 1.., required = true)]
    paths: Vec<PathBuf>,
}

impl ClusterArgs {
    /// Reads the cluster.
    ///
    /// # Errors
    /// Everything that is wrong with the manifests, a line each.
    pub(super) fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let manifests = Manifests::read(&self.paths);
        if !manifests.errors.is_empty() {
            let lines: Vec<_> = manifests.errors.iter().map(ToString::to_string).collect();
            bail!("{}", lines.join("\nwhydrop: "));
        }
        for (kind, count) in &manifests.passed_over {
            tracing::debug!(kind, count, "objects that take no part were passed over");
        }
        Ok(manifests.cluster().snapshot())
    }
}
