//! What the process may open, by Landlock: <https://docs.kernel.org/userspace-api/landlock.html>.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::mpsc::sync_channel,
    thread,
    time::Duration,
};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
    path_beneath_rules,
};

use super::Needs;
use crate::{cluster::connect::Reach, state};

/// What rights there are to take; of those that a kernel does not know it takes none.
const KNOWN: ABI = ABI::V6;

/// What an agent in its pod reads. Of the node there is only what is mounted into it.
const IN_A_POD: [&str; 9] = [
    // Conntrack's counters, and what the programs cost.
    "/proc",
    // How much memory there may be, and is used.
    "/sys/fs/cgroup",
    // How many processors there may be, each of which counts for itself.
    "/sys/devices/system/cpu",
    // The service account's token and authority, which the kubelet renews.
    "/var/run/secrets/kubernetes.io",
    // Name servers, names, and an authority that the image's maker adds.
    "/etc",
    // What a distribution has of these, and the libraries that look names up: the image has none.
    "/usr",
    "/lib",
    "/lib64",
    "/dev/null",
];

/// How long to wait for the disk of the state folder. A disk that is there has answered by then.
const PATIENCE: Duration = Duration::from_secs(3);

/// What may be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// These and all below them.
    Listed(Vec<PathBuf>),
    /// Everything: manifests, or a kubeconfig, name files anywhere.
    All,
}

/// What may be opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Files {
    /// These; nothing else, and no program is run.
    Some { read: Read, write: Option<PathBuf>, port: Option<u16> },
    /// Everything: a kubeconfig names a program to be run, and nobody knows what this needs.
    All,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Enforced {
    /// The kernel enforces it, or as much of it as it knows.
    Yes { files: Files, status: RulesetStatus },
    /// See [`Files::All`].
    NotAsked,
}

impl Files {
    pub(super) fn of(needs: &Needs) -> Self {
        let read = match needs.reach {
            Some(Reach::Programs) => return Self::All,
            Some(Reach::ServiceAccount) => {
                let known = IN_A_POD.map(PathBuf::from).into_iter();
                // A Secret that is mounted is renewed by replacing what its files lead to, beside them.
                let folders = needs.read.iter().filter_map(|file| file.parent());
                Read::Listed(known.chain(folders.map(Path::to_path_buf)).collect())
            }
            Some(Reach::Files) | None => Read::All,
        };
        Self::Some { read, write: needs.state.clone(), port: needs.port }
    }

    /// Has the kernel refuse everything else from here on, to this thread and those that it makes.
    pub(super) fn enforce(self) -> Result<Enforced, RulesetError> {
        let Self::Some { read, write, port } = &self else { return Ok(Enforced::NotAsked) };
        let reads = AccessFs::from_read(KNOWN) & !BitFlags::from(AccessFs::Execute);
        let writes = AccessFs::from_all(KNOWN) & !BitFlags::from(AccessFs::Execute);
        let readable = match read {
            Read::Listed(paths) => paths.clone(),
            Read::All => vec![PathBuf::from("/")],
        };
        let rules = Ruleset::default()
            .handle_access(AccessFs::from_all(KNOWN))?
            .handle_access(AccessNet::BindTcp)?
            .scope(Scope::from_all(KNOWN))?
            .create()?
            // What is not there is not needed: the image has few of these.
            .add_rules(path_beneath_rules(readable, reads))?
            .add_rules(
                write
                    .as_deref()
                    .and_then(open)
                    .map(|folder| Ok::<_, RulesetError>(PathBeneath::new(folder, writes))),
            )?
            .add_rules(
                port.map(|port| Ok::<_, RulesetError>(NetPort::new(port, AccessNet::BindTcp))),
            )?;
        let status = rules.restrict_self()?.ruleset;
        Ok(Enforced::Yes { files: self, status })
    }
}

/// The state folder, which is made where it is missing; `None`: it cannot be had, or its disk does not answer.
/// The agent finds that out again, and reports it.
fn open(folder: &Path) -> Option<PathFd> {
    let (sender, receiver) = sync_channel(1);
    let folder = folder.to_owned();
    // This thread has no capability that the process has given up. One whose disk does not answer is left
    // behind, waiting.
    thread::spawn(move || {
        let opened = state::make(&folder).ok().and_then(|()| PathFd::new(&folder).ok());
        let _ = sender.send(opened);
    });
    receiver.recv_timeout(PATIENCE).ok().flatten()
}

impl fmt::Display for Enforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (files, status) = match self {
            Self::NotAsked => {
                return f.write_str("all files, since the kubeconfig names a program to be run");
            }
            Self::Yes { status: RulesetStatus::NotEnforced, .. } => {
                return f.write_str("all files, since this kernel has no Landlock");
            }
            Self::Yes { files, status } => (files, status),
        };
        let Files::Some { read, write, .. } = files else { return f.write_str("all files") };
        f.write_str(match read {
            Read::Listed(_) => "files: it reads what a pod's agent needs",
            Read::All => "files: it reads all",
        })?;
        match write {
            Some(folder) => write!(f, ", writes {}", folder.display())?,
            None => f.write_str(", writes none")?,
        }
        f.write_str(match status {
            RulesetStatus::PartiallyEnforced => ", as far as this kernel's Landlock goes",
            _ => "",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs, io,
        net::{Ipv4Addr, TcpListener},
        os::unix::fs::symlink,
        process::Command,
    };

    use super::*;

    fn needs(reach: Option<Reach>) -> Needs {
        let read = vec![PathBuf::from("/certificates/ca.crt")];
        Needs { reach, read, state: Some("/state".into()), port: Some(9472) }
    }

    #[test]
    fn only_an_agent_in_its_pod_knows_what_it_reads() {
        let Files::Some { read: Read::Listed(listed), write, port } =
            Files::of(&needs(Some(Reach::ServiceAccount)))
        else {
            panic!("a list");
        };
        assert_eq!(listed.last().unwrap(), Path::new("/certificates"));
        assert!(!listed.contains(&PathBuf::from("/")) && listed.len() == IN_A_POD.len() + 1);
        assert_eq!((write, port), (Some("/state".into()), Some(9472)));
        for reach in [None, Some(Reach::Files)] {
            let files = Files::of(&needs(reach));
            assert!(matches!(files, Files::Some { read: Read::All, .. }), "{files:?}");
        }
        assert_eq!(Files::of(&needs(Some(Reach::Programs))), Files::All);
    }

    /// On this kernel, which has Landlock; of a thread that ends, and with it what is enforced.
    #[test]
    fn the_kernel_refuses_what_is_not_needed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let path = |name: &str| root.join(name);
        for name in ["account/..1", "elsewhere"] {
            fs::create_dir_all(path(name)).unwrap();
            fs::write(path(name).join("token"), name).unwrap();
        }
        symlink("..1", path("account/..data")).unwrap();
        symlink("..data/token", path("account/token")).unwrap();
        // Any that is free, and one that is not asked for.
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let (port, other) = (free(), free());
        let files = Files::Some {
            read: Read::Listed(vec![path("account"), "/proc".into(), "/usr".into()]),
            write: Some(path("state/below")),
            port: Some(port.port()),
        };
        let token = path("account/token");
        let is_refused = |result: io::Result<()>| {
            let kind = result.map_err(|error| error.kind());
            assert_eq!(kind, Err(io::ErrorKind::PermissionDenied));
        };
        let (looked, has_looked) = sync_channel(1);
        let (renew, renewed) = sync_channel(1);
        let work = move || {
            nix::sys::prctl::set_no_new_privs().unwrap();
            let enforced = files.enforce().unwrap();
            let said = enforced.to_string();
            assert!(
                said.starts_with("files: it reads what a pod's agent needs, writes /"),
                "{said}"
            );
            assert_eq!(fs::read_to_string(&token).unwrap(), "account/..1");
            fs::read("/proc/self/status").unwrap();
            is_refused(fs::read(path("elsewhere/token")).map(drop));
            is_refused(fs::read("/etc/hostname").map(drop));
            is_refused(fs::write(&token, "mine"));
            is_refused(fs::write(path("elsewhere/new"), "mine"));
            // The folder was made, and holds what is put there.
            let state = state::StateDirectory::open(&path("state/below")).unwrap();
            state.write("a.json", b"one").unwrap();
            assert_eq!(state.read("a.json", 9).unwrap().unwrap(), b"one");
            is_refused(Command::new("/usr/bin/true").status().map(drop));
            TcpListener::bind(port).unwrap();
            is_refused(TcpListener::bind(other).map(drop));
            looked.send(()).unwrap();
            renewed.recv().unwrap();
            assert_eq!(fs::read_to_string(&token).unwrap(), "renewed");
        };
        thread::scope(|scope| {
            let confined = scope.spawn(work);
            // Fails if the thread has failed before.
            if has_looked.recv().is_ok() {
                // As a kubelet renews it: the folder is another.
                fs::create_dir(path("account/..2")).unwrap();
                fs::write(path("account/..2/token"), "renewed").unwrap();
                symlink("..2", path("account/new")).unwrap();
                fs::rename(path("account/new"), path("account/..data")).unwrap();
                renew.send(()).unwrap();
            }
            confined.join().unwrap();
        });
    }
}
