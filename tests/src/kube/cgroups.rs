//! The control groups of a node: one below the root of each hierarchy, its pods within.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    daemon::Lifetime,
    wait::{Look, until},
};

/// Where systems mount the hierarchies.
const MOUNTS: &str = "/sys/fs/cgroup";
/// What the groups of every node are called first; see [`sweep`].
const PREFIX: &str = "whydrop-";
/// How long groups may take to empty once their processes were killed.
const EMPTY_WAIT: Duration = Duration::from_secs(10);

/// The groups of one node, removed when dropped.
#[derive(Debug)]
pub struct Groups {
    name: String,
    /// Whether dropping removes them.
    owned: bool,
}

impl Groups {
    /// Makes the groups of this name in every hierarchy: those of version 1, and that of version 2
    /// with the controllers that the kubelet wants.
    pub fn create(role: &str, lifetime: Lifetime) -> Result<Self> {
        let owned = lifetime == Lifetime::Owner;
        let groups = Self { name: format!("{PREFIX}{role}"), owned };
        let hierarchies = hierarchies();
        ensure!(!hierarchies.is_empty(), "no control groups are mounted on {MOUNTS}");
        for hierarchy in hierarchies {
            let group = hierarchy.join(&groups.name);
            fs::create_dir_all(&group).with_context(|| group.display().to_string())?;
            // A new group of cpuset, version 1, may use no processor until it is given some.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(all) = fs::read_to_string(hierarchy.join(file)) {
                    fs::write(group.join(file), all.trim())
                        .with_context(|| format!("{}/{file}", group.display()))?;
                }
            }
        }
        Ok(groups)
    }

    /// That of the memory controller, of version 1.
    pub fn memory(&self) -> PathBuf {
        Path::new(MOUNTS).join("memory").join(&self.name)
    }

    /// What the kubelet calls them.
    pub(super) fn root(&self) -> String {
        format!("/{}", self.name)
    }

    /// Removes them once they are empty; their processes were killed before.
    pub(super) fn remove(&self) -> Result<()> {
        until("empty control groups", EMPTY_WAIT, || {
            for hierarchy in hierarchies() {
                let group = hierarchy.join(&self.name);
                if let Err(error) = remove(&group) {
                    return Ok(Look::NotYet(format!("{}: {error}", group.display())));
                }
            }
            Ok(Look::Seen(()))
        })
    }

    /// Those that a detached node has left.
    pub(super) fn of_detached(role: &str) -> Self {
        Self { name: format!("{PREFIX}{role}"), owned: false }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        if self.owned {
            // Best effort: groups that are left are removed by `sweep` of a later run.
            let _ = self.remove();
        }
    }
}

/// Removes the groups of runs whose process is gone: one that was killed could not clean up. Their
/// role begins with the process id.
pub(super) fn sweep() {
    for hierarchy in hierarchies() {
        for group in folders(&hierarchy).unwrap_or_default() {
            let name = group.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let role = name.strip_prefix(PREFIX).unwrap_or_default();
            let process = role.split('-').next().and_then(|word| word.parse::<u32>().ok());
            if let Some(process) = process
                && !Path::new("/proc").join(process.to_string()).exists()
            {
                // Best effort, as above.
                let _ = remove(&group);
            }
        }
    }
}

/// The mounted hierarchies, whether each has its mount (version 1, hybrid) or all share one.
fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from(MOUNTS);
    if root.join("cgroup.controllers").exists() {
        return vec![root];
    }
    let mounts = folders(&root).unwrap_or_default();
    mounts.into_iter().filter(|mount| mount.join("cgroup.procs").exists()).collect()
}

/// Removes a group and all below it; nothing where it is not there.
fn remove(group: &Path) -> std::io::Result<()> {
    if !group.exists() {
        return Ok(());
    }
    for child in folders(group)? {
        remove(&child)?;
    }
    fs::remove_dir(group)
}

fn folders(of: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(of)?.flatten();
    Ok(entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect())
}
