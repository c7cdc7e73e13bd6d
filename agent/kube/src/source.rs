//! Where the agent's cluster comes from: a folder of manifests, or an API server.

use jiff::Timestamp;
use whydrop_core::cluster::{Cluster, Snapshot, look_up::Query};

use crate::{
    folder::{Folder, FolderError},
    live::Live,
    manifests::ManifestError,
    update::{Trouble, Update},
};

/// The one writer of a [`Cluster`].
pub enum Source {
    /// Manifests, which are all there from the start.
    Manifests(Folder),
    /// An API server.
    Api(Box<Live>),
}

impl Source {
    /// Waits until there is news. Losing the future loses none.
    ///
    /// # Errors
    /// Where a folder cannot be followed any more.
    pub async fn changed(&mut self) -> Result<(), FolderError> {
        match self {
            Self::Manifests(folder) => folder.changed().await,
            Self::Api(live) => {
                live.changed().await;
                Ok(())
            }
        }
    }

    /// Brings the cluster up to date with the news.
    pub fn update(&mut self, cluster: &mut Cluster, now: Timestamp) -> Update {
        match self {
            Self::Manifests(folder) => {
                let problems = folder.reload(cluster, now);
                tracing::info!(revision = cluster.snapshot().revision(), "manifests changed");
                let skipped = |error: &ManifestError| Trouble::Skipped(error.to_string());
                let troubles = problems.iter().map(skipped).collect();
                Update { troubles, policies_changed: true }
            }
            Self::Api(live) => live.update(cluster, now),
        }
    }

    /// Whether everything that is followed has been listed once.
    pub fn is_synced(&self) -> bool {
        match self {
            Self::Manifests(_) => true,
            Self::Api(live) => live.is_synced(),
        }
    }

    /// Every kind that an API server is asked about, and whether it is followed at this moment.
    pub fn followed(&self) -> Vec<(String, bool)> {
        match self {
            Self::Manifests(_) => Vec::new(),
            Self::Api(live) => live.followed().collect(),
        }
    }

    /// Asks who holds these addresses; what comes of it is news.
    pub fn look_up(&mut self, snapshot: &Snapshot, all: &[Query], now: Timestamp) {
        if let Self::Api(live) = self {
            live.look_up(snapshot, all, now);
        }
    }

    /// How many addresses are being looked up.
    pub fn looking_up(&self) -> usize {
        match self {
            Self::Manifests(_) => 0,
            Self::Api(live) => live.looking_up(),
        }
    }

    /// To be called every second or so: what is to be reported about the connection, and forgotten.
    pub fn turn(&mut self, cluster: &mut Cluster, now: Timestamp) -> Option<Trouble> {
        match self {
            Self::Manifests(_) => None,
            Self::Api(live) => {
                live.expire(cluster, now);
                live.news_of_failures()
            }
        }
    }
}
