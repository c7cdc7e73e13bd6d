//! The first process of a node: makes its namespaces a place where a kubelet runs and where nothing
//! of the machine is written, and then waits.
//!
//! `whydrop-lab` runs this within network, mount, host name and process namespaces that are new.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        signal::{SigSet, Signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
};

/// Written once all is done; it holds this process's id on the machine.
pub(super) const READY: &str = "inside";

/// Kernel parameters of the whole machine that a kubelet or Cilium sets, with what they want to
/// find. They are given files instead.
const PARAMETERS: &[(&str, &str)] = &[
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
    ("kernel/unprivileged_bpf_disabled", "1"),
    ("kernel/timer_migration", "0"),
];

/// Prepares the namespaces for the node whose state is in a folder, and waits for its end.
pub fn run(folder: &Path, name: &str) -> Result<()> {
    // Before the processes that are shown become the namespace's own.
    let pid = fs::read_link("/proc/self")?;
    nix::unistd::sethostname(name)?;
    filesystem("proc", "/proc")?;
    system(folder)?;
    filesystem("tmpfs", "/run")?;
    for made in ["/run/lock", "/run/netns"] {
        fs::create_dir_all(made)?;
    }
    overlays(folder)?;
    parameters(folder)?;
    // What the kubelet mounts for a pod must reach the pod.
    mount(NONE, "/", NONE, MsFlags::MS_SHARED | MsFlags::MS_REC, NONE)?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;

    let ready = folder.join(READY);
    fs::write(ready.with_extension("new"), pid.to_string_lossy().as_bytes())?;
    fs::rename(ready.with_extension("new"), ready)?;
    reap()
}

const NONE: Option<&str> = None;

fn filesystem(kind: &str, at: &str) -> Result<()> {
    mount(Some(kind), at, Some(kind), MsFlags::empty(), NONE).with_context(|| format!("mount {at}"))
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
        .with_context(|| format!("mount {} on {}", from.display(), to.display()))
}

/// Shows the namespace's network in `/sys`, with the control groups of the machine put back, without
/// which no kubelet starts, and with file systems for eBPF and tracing.
fn system(folder: &Path) -> Result<()> {
    let (aside, groups) = (folder.join("groups"), Path::new("/sys/fs/cgroup"));
    fs::create_dir_all(&aside)?;
    bind(groups, &aside)?;
    filesystem("sysfs", "/sys")?;
    bind(&aside, groups)?;
    umount2(&aside, MntFlags::MNT_DETACH)?;
    filesystem("bpf", "/sys/fs/bpf")?;
    filesystem("tracefs", "/sys/kernel/tracing")
}

/// Lays what is written to `/etc` and `/var` over the machine's, in memory; the pods' files, which
/// are larger and cannot be on an overlay, into the folder.
fn overlays(folder: &Path) -> Result<()> {
    let written = folder.join("written");
    fs::create_dir_all(&written)?;
    filesystem("tmpfs", &written.to_string_lossy())?;
    for name in ["etc", "var"] {
        let upper = written.join(name);
        let work = written.join(format!("{name}.work"));
        fs::create_dir_all(&upper)?;
        fs::create_dir_all(&work)?;
        let options =
            format!("lowerdir=/{name},upperdir={},workdir={}", upper.display(), work.display());
        let target = format!("/{name}");
        mount(Some("overlay"), &*target, Some("overlay"), MsFlags::empty(), Some(&*options))
            .with_context(|| format!("lay an overlay on {target}"))?;
    }
    for (own, shown) in [("containerd", "/var/lib/containerd"), ("kubelet", "/var/lib/kubelet")] {
        let own = folder.join("lib").join(own);
        fs::create_dir_all(&own)?;
        fs::create_dir_all(shown)?;
        bind(&own, Path::new(shown))?;
    }
    // Where this leads, there is nothing in the node: resolved on the machine it is in /run.
    let resolver = Path::new("/etc/resolv.conf");
    if resolver.is_symlink() {
        fs::remove_file(resolver)?;
        fs::write(resolver, "")?;
    }
    // Programs that take locks want it there.
    if !Path::new("/var/lock").exists() {
        symlink("/run/lock", "/var/lock").context("make /var/lock")?;
    }
    Ok(())
}

fn parameters(folder: &Path) -> Result<()> {
    let files = folder.join("parameters");
    fs::create_dir_all(&files)?;
    for (name, value) in PARAMETERS {
        let shown = PathBuf::from("/proc/sys").join(name);
        let own = files.join(name.replace('/', "."));
        fs::write(&own, value)?;
        bind(&own, &shown)?;
    }
    Ok(())
}

/// Takes note of every process that ends, as the first one of a process namespace has to.
fn reap() -> Result<()> {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block()?;
    loop {
        children.wait()?;
        // One signal may stand for several.
        while !matches!(
            waitpid(None, Some(WaitPidFlag::WNOHANG)),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD)
        ) {}
    }
}
