//! Programs from Debian's packages, unpacked into the cache: nothing is installed, so no service of
//! theirs is started and no file of the machine's is written.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::cache;
use crate::world::namespace::checked;

/// Packages that are unpacked together, of whichever version this release of Debian has.
#[derive(Debug, Clone, Copy)]
pub struct Packages {
    names: &'static [&'static str],
    /// What `cargo xtask lab build` builds with them.
    built: &'static str,
}

/// What a node runs: containerd with its shim and `ctr`, runc, the standard network plugins, and the
/// shell for pods.
pub const NODE: Packages = Packages {
    names: &["containerd", "runc", "containernetworking-plugins", "busybox-static"],
    built: "node",
};

/// The shell of a guest.
pub const SHELL: Packages = Packages { names: &["busybox-static"], built: "kernels" };

/// Prometheus, and `promtool` which checks what it is given.
pub const PROMETHEUS: Packages = Packages { names: &["prometheus"], built: "deploy" };

impl Packages {
    /// Fetches and unpacks them unless that is done. Returns whether it had to be.
    pub fn unpack(&self) -> Result<bool> {
        cache::provide(&self.path()?, |new| {
            let fetched = tempfile::tempdir()?;
            let fetch = || {
                let mut download = Command::new("apt-get");
                // As root: otherwise apt complains that its own user cannot write here.
                download.args(["-q", "-o", "APT::Sandbox::User=root", "download"]);
                checked(download.args(self.names).current_dir(fetched.path()))
            };
            if fetch().is_err() {
                // The lists of what there is are too old, or there are none.
                checked(Command::new("apt-get").args(["-q", "update"]))?;
                fetch()?;
            }
            fs::create_dir(new)?;
            for package in fs::read_dir(fetched.path())? {
                checked(Command::new("dpkg-deb").arg("--extract").arg(package?.path()).arg(new))?;
            }
            Ok(())
        })
        .with_context(|| format!("unpack {} of Debian", self.names.join(", ")))
    }

    /// A program or folder of the packages, such as `usr/bin/containerd`.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        let path = self.path()?.join(name);
        ensure!(
            path.exists(),
            "{name} of Debian's packages is not unpacked. `cargo xtask lab build {}` does it, once",
            self.built
        );
        Ok(path)
    }

    /// The shell among them; where it is depends on whether this Debian has merged `/bin` into `/usr`.
    pub fn busybox(&self) -> Result<PathBuf> {
        self.file("bin/busybox").or_else(|_| self.file("usr/bin/busybox"))
    }

    fn path(&self) -> Result<PathBuf> {
        let key = cache::key(self.names.iter().map(|name| name.as_bytes()));
        Ok(Path::new(&cache::folder()?).join("debian").join(key))
    }
}

/// The shell for pods.
pub(super) fn busybox() -> Result<PathBuf> {
    NODE.busybox()
}
