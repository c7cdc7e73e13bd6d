//! A folder of manifests that describes a cluster, followed as it changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use notify::{RecursiveMode, Watcher as _};
use tokio::{
    sync::mpsc,
    time::{Duration, timeout},
};
use whydrop_core::cluster::{
    Cluster, Engine,
    object::{Key, Object},
};

use super::manifests::{Manifests, files};

/// How long the folder must be quiet before it is read: an editor or `kubectl` writes in steps.
const QUIET: Duration = Duration::from_millis(100);

/// The folder, and what was read from it last.
pub struct Folder {
    path: PathBuf,
    files: BTreeMap<PathBuf, Manifests>,
    /// Objects as they were applied.
    applied: BTreeMap<Key, Object>,
    changes: mpsc::Receiver<notify::Result<()>>,
    /// A change was told, and the folder has not been read since.
    is_stale: bool,
    passed_over: BTreeMap<String, usize>,
    _watcher: notify::RecommendedWatcher,
}

impl Folder {
    /// Reads the folder into the cluster and begins to follow it.
    ///
    /// # Errors
    /// A folder that cannot be read or followed, and every manifest in it that cannot be taken: to
    /// start from half of what is meant would blame the wrong policies.
    pub fn open(path: PathBuf, cluster: &mut Cluster) -> anyhow::Result<Self> {
        if !path.is_dir() {
            bail!("{}: expected a folder of manifests", path.display());
        }
        let (sender, changes) = mpsc::channel(1);
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                let told = match event {
                    Ok(event) if event.kind.is_access() => return,
                    Ok(_) => Ok(()),
                    Err(error) => Err(error),
                };
                // Full: a change is waiting to be taken, and covers this one.
                let _ = sender.try_send(told);
            })?;
        watcher
            .watch(&path, RecursiveMode::NonRecursive)
            .with_context(|| format!("{}: cannot be followed", path.display()))?;
        let mut folder = Self {
            path,
            files: BTreeMap::new(),
            applied: BTreeMap::new(),
            changes,
            is_stale: false,
            passed_over: BTreeMap::new(),
            _watcher: watcher,
        };
        let problems = folder.read(cluster, None);
        if !problems.is_empty() {
            bail!("{}", problems.join("\nwhydrop: "));
        }
        if folder.files.is_empty() {
            bail!(
                "{}: no manifests in this folder: expected files ending in .yaml, .yml or .json",
                folder.path.display()
            );
        }
        Ok(folder)
    }

    /// Waits until the folder has changed and is quiet again. Losing the future loses no change.
    ///
    /// # Errors
    /// Where it cannot be followed any more.
    pub async fn changed(&mut self) -> anyhow::Result<()> {
        if !self.is_stale {
            self.next_change().await?;
            self.is_stale = true;
        }
        while let Ok(another) = timeout(QUIET, self.next_change()).await {
            another?;
        }
        Ok(())
    }

    async fn next_change(&mut self) -> anyhow::Result<()> {
        match self.changes.recv().await {
            Some(change) => change.with_context(|| self.path.display().to_string()),
            // Not while the watcher lives, which this owns.
            None => std::future::pending().await,
        }
    }

    /// Reads the folder again and tells what is wrong with it. A file with a mistake keeps what it
    /// last held without one.
    pub fn reload(&mut self, cluster: &mut Cluster, now: Timestamp) -> Vec<String> {
        self.is_stale = false;
        self.read(cluster, Some(now))
    }

    fn read(&mut self, cluster: &mut Cluster, at: Option<Timestamp>) -> Vec<String> {
        let mut problems = Vec::new();
        let paths = match files(&self.path) {
            Ok(paths) => paths,
            Err(error) => return vec![format!("{}: {error}", self.path.display())],
        };
        let listed: BTreeSet<&PathBuf> = paths.iter().collect();
        self.files.retain(|path, _| listed.contains(path));
        for path in &paths {
            let mut manifests = Manifests::default();
            manifests.read_file(path);
            problems.extend(manifests.errors.iter().map(ToString::to_string));
            if manifests.errors.is_empty() || !self.files.contains_key(path) {
                self.files.insert(path.clone(), manifests);
            }
        }
        self.apply(cluster, at);
        problems
    }

    /// Brings the cluster to what the files hold now.
    fn apply(&mut self, cluster: &mut Cluster, at: Option<Timestamp>) {
        let mut unread: BTreeMap<String, usize> = BTreeMap::new();
        let mut passed_over: BTreeMap<String, usize> = BTreeMap::new();
        let mut held: BTreeMap<Key, Object> = BTreeMap::new();
        for (path, manifests) in &self.files {
            for (kind, count) in &manifests.unread {
                *unread.entry(kind.clone()).or_default() += count;
            }
            for (kind, count) in &manifests.passed_over {
                *passed_over.entry(kind.clone()).or_default() += count;
            }
            for object in &manifests.objects {
                if held.insert(object.key(), object.clone()).is_some() {
                    warn_twice(path, &object.key());
                }
            }
        }
        if passed_over != self.passed_over {
            for (kind, count) in &passed_over {
                tracing::info!(count, "objects of kind {kind} take no part and are passed over");
            }
            self.passed_over = passed_over;
        }
        let is_calico = self.files.values().any(|file| file.engine == Engine::Calico);
        cluster.set_engine(if is_calico { Engine::Calico } else { Engine::Standard });
        cluster.set_unread(unread);
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

fn warn_twice(path: &Path, key: &Key) {
    tracing::warn!(file = %path.display(), "{key} is there twice; the last one counts");
}
