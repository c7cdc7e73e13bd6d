//! Whether the memory that the agent may have is nearly used up: then it takes nothing new upon itself
//! before the kernel kills it.
//!
//! What counts is what the kernel counts against the limit of the process's control group and cannot take
//! back: its own memory and that of the eBPF maps, without cached files
//! (<https://docs.kernel.org/admin-guide/cgroup-v2.html#memory>,
//! <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>).

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::Agent;

/// From how many percent of the limit on memory is short: what is under way takes some more.
const SHORT_FROM: u64 = 90;
/// From how many percent down it is not any more: what comes and goes in a second is less than what lies
/// between the two.
const ENOUGH_FROM: u64 = 80;

/// Where systems mount control groups: all in one hierarchy (version 2), or that of memory (version 1).
const MOUNT: &str = "/sys/fs/cgroup";
/// What the agent cannot do then.
pub(super) const SHORT: &str = "report drops of flows that it does not know yet: its memory is nearly used \
    up, and they are counted as lost";
const MIB: u64 = 1 << 20;

/// The files that say it.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    limit: PathBuf,
    used: PathBuf,
    /// How much of what is used is of cached files.
    stat: PathBuf,
    /// Its line there.
    cached: &'static str,
}

/// How much memory is used, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Use {
    used: u64,
    limit: u64,
}

impl Use {
    fn is_from(self, percent: u64) -> bool {
        u128::from(self.used) * 100 >= u128::from(self.limit) * u128::from(percent)
    }
}

/// What is known of it.
#[derive(Debug)]
pub(super) struct Memory {
    /// `None`: no group has a limit, as far as can be read.
    files: Option<Files>,
    is_short: bool,
}

impl Memory {
    /// That of the group that this process is in.
    pub(super) fn of_this_process() -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self { files: Files::find(Path::new(MOUNT), &groups), is_short: false }
    }

    /// Whether it was short when it was last looked at.
    pub(super) fn is_short(&self) -> bool {
        self.is_short
    }

    /// Looks at it; what it is, if it has become short, or is no more.
    fn look(&mut self) -> Option<Use> {
        let now = self.files.as_ref()?.read()?;
        let is_short = now.is_from(if self.is_short { ENOUGH_FROM } else { SHORT_FROM });
        (std::mem::replace(&mut self.is_short, is_short) != is_short).then_some(now)
    }
}

impl Agent {
    /// Takes nothing new upon itself while memory is short, and says so.
    pub(super) fn look_at_memory(&mut self) {
        let Some(Use { used, limit }) = self.memory.look() else { return };
        self.docket.shed_new(self.memory.is_short);
        let (used, limit) = (used / MIB, limit / MIB);
        if self.memory.is_short {
            self.degraded(&format!(
                "memory is nearly used up, {used} of {limit} MiB: cannot {SHORT}. Raise its limit \
                 (resources.limits.memory)"
            ));
        } else {
            tracing::info!("memory is enough again: {used} of {limit} MiB are used");
            self.report_ready();
        }
    }
}

impl Files {
    /// Of the group that `/proc/self/cgroup` names; in a container, whose group is what is mounted, of that.
    fn find(mount: &Path, groups: &str) -> Option<Self> {
        let of = |controllers: &str| {
            let lines = groups.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
            let mut lines = lines.filter(|(all, _)| all.split(',').any(|one| one == controllers));
            lines.next().map(|(_, group)| group.trim_start_matches('/').to_owned())
        };
        let one = of("memory").into_iter().flat_map(|group| {
            let mount = mount.join("memory");
            [mount.join(group), mount].map(|folder| Self::version_1(&folder))
        });
        let two = of("").into_iter().flat_map(|group| {
            [mount.join(group), mount.to_owned()].map(|folder| Self::version_2(&folder))
        });
        one.chain(two).find(|files| files.used.exists() && files.stat.exists())
    }

    fn version_1(folder: &Path) -> Self {
        Self {
            limit: folder.join("memory.limit_in_bytes"),
            used: folder.join("memory.usage_in_bytes"),
            stat: folder.join("memory.stat"),
            cached: "total_cache",
        }
    }

    fn version_2(folder: &Path) -> Self {
        Self {
            limit: folder.join("memory.max"),
            used: folder.join("memory.current"),
            stat: folder.join("memory.stat"),
            cached: "file",
        }
    }

    /// `None`: there is no limit, or it cannot be read.
    fn read(&self) -> Option<Use> {
        let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        // `max` is none, and so is what version 1 has in its place: more than any machine.
        let limit = number(&self.limit).filter(|limit| *limit < u64::MAX / 4)?;
        let stat = fs::read_to_string(&self.stat).ok()?;
        let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
        let cached = lines.find(|(name, _)| *name == self.cached)?.1.parse::<u64>().ok()?;
        Some(Use { used: number(&self.used)?.saturating_sub(cached), limit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    /// Files in a folder, since a machine has groups of one version and not of the other. The real ones are
    /// in tests/faults.
    #[test]
    fn both_versions_are_read_on_a_node_and_in_a_container() {
        let folder = tempfile::tempdir().unwrap();
        let mount = folder.path();
        let two = [
            ("memory.max", "1000\n"),
            ("memory.current", "950\n"),
            ("memory.stat", "anon 700\nfile 150\n"),
        ];
        write(mount, &[("memory.max", "max\n")]);
        write(&mount.join("kubepods/a"), &two);
        let read = |groups: &str| Files::find(mount, groups).and_then(|files| files.read());
        assert_eq!(read("0::/kubepods/a\n"), Some(Use { used: 800, limit: 1000 }));
        assert_eq!(read("0::/\n"), None);
        write(mount, &two);
        assert_eq!(read("0::/not/seen/in/here\n"), Some(Use { used: 800, limit: 1000 }));
        let one = [
            ("memory.limit_in_bytes", "2000\n"),
            ("memory.usage_in_bytes", "500\n"),
            ("memory.stat", "cache 1\ntotal_cache 100\n"),
        ];
        write(&mount.join("memory/b"), &one);
        let groups = "5:cpu,cpuacct:/\n4:memory:/b\n0::/\n";
        assert_eq!(read(groups), Some(Use { used: 400, limit: 2000 }));
        write(&mount.join("memory/b"), &[("memory.limit_in_bytes", "9223372036854771712\n")]);
        assert_eq!(read(groups), None);
    }

    #[test]
    fn it_is_short_until_there_is_clearly_enough() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[("memory.max", "1000"), ("memory.stat", "file 0")]);
        let mut memory = Memory { files: Some(Files::version_2(folder.path())), is_short: false };
        let mut look = |used: &str| {
            write(folder.path(), &[("memory.current", used)]);
            memory.look().map(|_| memory.is_short())
        };
        let seen = ["899", "900", "850", "800", "799", "899"].map(&mut look);
        assert_eq!(seen, [None, Some(true), None, None, Some(false), None]);
    }
}
