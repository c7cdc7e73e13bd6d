//! A folder of manifests that describes a cluster, followed as it changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use jiff::Timestamp;
use notify::{RecursiveMode, Watcher as _};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, timeout},
};
use whydrop_core::cluster::{
    Cluster,
    object::{Key, Object},
    profile::detect::detect,
};

use crate::manifests::{ManifestError, Manifests, ServiceName, files, sliced, stands_alone};

/// How long the folder must be quiet before it is read: an editor or `kubectl` writes in steps.
const QUIET: Duration = Duration::from_millis(100);

/// How long that is waited for: a folder that is written to all the time is read anyway.
const QUIET_WAIT: Duration = Duration::from_secs(2);

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// There is no folder of this name.
    #[error("{path}: expected a folder of manifests")]
    Absent {
        /// Its path.
        path: String,
    },
    /// Changes in it are not reported, or not any more.
    #[error("{path}: cannot be followed")]
    NotFollowed {
        /// Its path.
        path: String,
        /// Why.
        source: notify::Error,
    },
    /// Manifests that cannot be taken: a line each, the later ones as the command writes them.
    #[error("{}", lines(.0))]
    Manifests(Vec<ManifestError>),
}

fn lines(errors: &[ManifestError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\nwhydrop: ")
}

/// The folder, and what was read from it last.
pub struct Folder {
    path: PathBuf,
    files: BTreeMap<PathBuf, Manifests>,
    /// Objects as they were applied.
    applied: BTreeMap<Key, Object>,
    changes: mpsc::Receiver<notify::Result<()>>,
    /// When it changed first since it was read.
    changed_at: Option<Instant>,
    ignored: BTreeMap<String, usize>,
    _watcher: notify::RecommendedWatcher,
}

impl Folder {
    /// Reads the folder into the cluster and begins to follow it.
    ///
    /// # Errors
    /// A folder that cannot be read or followed, and every manifest in it that cannot be taken: to
    /// start from half of what is intended would blame the wrong policies.
    pub fn open(path: PathBuf, cluster: &mut Cluster) -> Result<Self, FolderError> {
        let shown = path.display().to_string();
        if !path.is_dir() {
            return Err(FolderError::Absent { path: shown });
        }
        let not_followed = |source| FolderError::NotFollowed { path: shown.clone(), source };
        let (sender, changes) = mpsc::channel(1);
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                let change = match event {
                    Ok(event) if event.kind.is_access() => return,
                    Ok(_) => Ok(()),
                    Err(error) => Err(error),
                };
                // Full: a change is waiting to be handled, and covers this one.
                let _ = sender.try_send(change);
            })
            .map_err(not_followed)?;
        watcher.watch(&path, RecursiveMode::Recursive).map_err(not_followed)?;
        let mut folder = Self {
            path,
            files: BTreeMap::new(),
            applied: BTreeMap::new(),
            changes,
            changed_at: None,
            ignored: BTreeMap::new(),
            _watcher: watcher,
        };
        let problems = folder.read(cluster, None);
        if !problems.is_empty() {
            return Err(FolderError::Manifests(problems));
        }
        if folder.files.is_empty() {
            return Err(FolderError::Manifests(vec![ManifestError::Empty { path: shown }]));
        }
        Ok(folder)
    }

    /// Waits until the folder has changed and is quiet again, or has not been quiet for some seconds. Losing
    /// the future loses no change.
    ///
    /// # Errors
    /// Where it cannot be followed any more.
    pub async fn changed(&mut self) -> Result<(), FolderError> {
        if self.changed_at.is_none() {
            self.next_change().await?;
        }
        let changed_at = *self.changed_at.get_or_insert_with(Instant::now);
        while changed_at.elapsed() < QUIET_WAIT
            && let Ok(another) = timeout(QUIET, self.next_change()).await
        {
            another?;
        }
        Ok(())
    }

    async fn next_change(&mut self) -> Result<(), FolderError> {
        match self.changes.recv().await {
            Some(change) => change.map_err(|source| {
                let path = self.path.display().to_string();
                FolderError::NotFollowed { path, source }
            }),
            // Not while the watcher lives, which this owns.
            None => std::future::pending().await,
        }
    }

    /// Reads the folder again and returns what is wrong with it. A file with a mistake keeps what it
    /// last held without one.
    pub fn reload(&mut self, cluster: &mut Cluster, now: Timestamp) -> Vec<ManifestError> {
        self.changed_at = None;
        self.read(cluster, Some(now))
    }

    fn read(&mut self, cluster: &mut Cluster, at: Option<Timestamp>) -> Vec<ManifestError> {
        let mut problems = Vec::new();
        let paths = match files(&self.path) {
            Ok(paths) => paths,
            Err(source) => {
                let path = self.path.display().to_string();
                return vec![ManifestError::Read { path, source }];
            }
        };
        let listed: BTreeSet<&PathBuf> = paths.iter().collect();
        self.files.retain(|path, _| listed.contains(path));
        for path in &paths {
            let mut manifests = Manifests::default();
            manifests.read_file(path);
            for remark in &manifests.remarks {
                tracing::warn!("{remark}");
            }
            let errors = std::mem::take(&mut manifests.errors);
            if errors.is_empty() || !self.files.contains_key(path) {
                self.files.insert(path.clone(), manifests);
            }
            problems.extend(errors);
        }
        self.apply(cluster, at);
        problems
    }

    /// Brings the cluster to what the files hold now.
    fn apply(&mut self, cluster: &mut Cluster, at: Option<Timestamp>) {
        let unread = self.files.values().flat_map(|file| file.unread.iter().cloned());
        cluster.set_unread(unread);
        let mut ignored: BTreeMap<String, usize> = BTreeMap::new();
        let mut held: BTreeMap<Key, Object> = BTreeMap::new();
        for (path, manifests) in &self.files {
            for (kind, count) in &manifests.ignored {
                *ignored.entry(kind.clone()).or_default() += count;
            }
            for object in &manifests.objects {
                if held.insert(object.key(), object.clone()).is_some() {
                    let (file, key) = (path.display(), object.key());
                    tracing::warn!(%file, "{key} is defined twice; using the last one");
                }
            }
        }
        let services: BTreeSet<ServiceName> = held.values().filter_map(sliced).collect();
        for slice in self.files.values().flat_map(|manifests| &manifests.endpoints) {
            if stands_alone(slice, &services) {
                held.insert(slice.key(), slice.clone());
            }
        }
        if ignored != self.ignored {
            for (kind, count) in &ignored {
                tracing::info!(count, "ignoring objects of kind {kind}");
            }
            self.ignored = ignored;
        }
        cluster.set_engine(detect(self.files.values().flat_map(|file| &file.signs)));
        let gone = self.applied.keys().filter(|key| !held.contains_key(*key));
        for key in gone {
            cluster.delete(key, at.unwrap_or(Timestamp::UNIX_EPOCH));
        }
        for (key, object) in &held {
            if self.applied.get(key) != Some(object) {
                cluster.apply(object.clone(), at);
            }
        }
        self.applied = held;
    }
}
