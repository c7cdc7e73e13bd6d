//! Programs from Debian's packages, unpacked into the cache: nothing is installed, so no service of
//! theirs is started and no file of the machine's is written.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::cache;
use crate::lab::namespace::checked;

/// The packages: containerd with its shim and `ctr`, runc, the standard network plugins, and the
/// shell for pods. Of whichever version this release of Debian has.
const PACKAGES: &[&str] = &["containerd", "runc", "containernetworking-plugins", "busybox-static"];

/// Fetches and unpacks them unless that is done.
pub fn unpack() -> Result<bool> {
    cache::provide(&path()?, |new| {
        let fetched = tempfile::tempdir()?;
        let fetch = || {
            let mut download = Command::new("apt-get");
            // As root: otherwise apt complains that its own user cannot write here.
            download.args(["-q", "-o", "APT::Sandbox::User=root", "download"]).args(PACKAGES);
            checked(download.current_dir(fetched.path()))
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
    .context("unpack Debian packages")
}

/// A program or folder of the packages, such as `usr/bin/containerd`.
pub(super) fn file(name: &str) -> Result<PathBuf> {
    let path = path()?.join(name);
    ensure!(
        path.exists(),
        "{name} of Debian's packages is not unpacked. `cargo xtask lab build node` does it, once"
    );
    Ok(path)
}

/// The shell for pods; where it is depends on whether this Debian has merged `/bin` into `/usr`.
pub(super) fn busybox() -> Result<PathBuf> {
    file("bin/busybox").or_else(|_| file("usr/bin/busybox"))
}

fn path() -> Result<PathBuf> {
    let key = cache::key(PACKAGES.iter().map(|package| package.as_bytes()));
    Ok(Path::new(&cache::folder()?).join("debian").join(key))
}
