//! Archives of Debian packages, read and fetched from: nothing is installed, and the machine's own lists
//! of packages are not touched.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use super::arch::Arch;
use crate::{kube::cache, world::namespace::checked};

/// Where apt finds the keys of Debian's archive.
const DEBIAN_KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// What of Debian has the keys of Ubuntu's archive, in which package, and where in that.
const WITH_UBUNTU_KEYS: Suite =
    Suite { address: "http://deb.debian.org/debian", name: "trixie", signer: Signer::Debian };
const UBUNTU_KEYS: (&str, &str) =
    ("ubuntu-keyring", "usr/share/keyrings/ubuntu-archive-keyring.gpg");

/// Whose keys an archive is checked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signer {
    /// Debian, which the machine has the keys of.
    Debian,
    /// Ubuntu, whose keys are a package of Debian's.
    Ubuntu,
}

impl Signer {
    /// The keys, as a file.
    fn keys(self) -> Result<PathBuf> {
        if self == Self::Debian {
            return Ok(DEBIAN_KEYS.into());
        }
        let (package, file) = UBUNTU_KEYS;
        let folder = folder()?.join("keys").join(package);
        cache::provide(&folder, |new| {
            Archive::update(WITH_UBUNTU_KEYS, Arch::Amd64)?.unpack(&[package.to_owned()], new)
        })?;
        Ok(folder.join(file))
    }
}

/// A suite of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suite {
    /// The archive's address.
    pub address: &'static str,
    /// The suite's name.
    pub name: &'static str,
    /// Who signs it.
    pub signer: Signer,
}

/// Where kernels, and what is fetched for them, are kept.
pub(super) fn folder() -> Result<PathBuf> {
    Ok(cache::folder()?.join("kernels"))
}

/// A suite, as a folder of apt's of our own sees it.
pub(super) struct Archive {
    folder: PathBuf,
    arch: Arch,
    /// Of the folder: apt does not wait for another that uses it.
    _held: Flock<File>,
}

impl Archive {
    /// Reads what the suite has for a processor.
    pub(super) fn update(suite: Suite, arch: Arch) -> Result<Self> {
        let keys = suite.signer.keys()?;
        let folder = folder()?.join("apt").join(format!("{}-{}", suite.name, arch.name()));
        fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join(".lock"))?;
        let held = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        let archive = Self { folder, arch, _held: held };
        for folder in ["etc/apt/preferences.d", "state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(archive.folder.join(folder))?;
        }
        // Package lists alone, whatever else this machine's apt is set up to fetch.
        let line = format!(
            "deb [arch={} target=Packages signed-by={}] {} {} main\n",
            arch.name(),
            keys.display(),
            suite.address,
            suite.name
        );
        fs::write(archive.folder.join("sources.list"), line)?;
        fs::write(archive.folder.join("status"), "")?;
        checked(archive.apt("apt-get").args(["-q", "update"]))
            .with_context(|| format!("read {} of {}", suite.name, suite.address))?;
        Ok(archive)
    }

    /// A call of apt that reads and writes nothing of the machine's but how it reaches the network.
    fn apt(&self, program: &str) -> Command {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let mut command = Command::new(program);
        for (key, value) in [
            ("Dir::Etc", path("etc/apt")),
            ("Dir::Etc::SourceList", path("sources.list")),
            ("Dir::Etc::SourceParts", "/dev/null".to_owned()),
            ("Dir::State", path("state")),
            ("Dir::State::status", path("status")),
            ("Dir::Cache", path("cache")),
            ("APT::Architecture", self.arch.name().to_owned()),
            ("APT::Architectures", self.arch.name().to_owned()),
            ("APT::Sandbox::User", "root".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
        ] {
            command.arg("-o").arg(format!("{key}={value}"));
        }
        command
    }

    /// The packages whose names begin so.
    pub(super) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = checked(self.apt("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Fetches packages, and unpacks them into a new folder.
    pub(super) fn unpack(&self, packages: &[String], new: &Path) -> Result<()> {
        let fetched = tempfile::tempdir()?;
        let mut download = self.apt("apt-get");
        download.args(["-q", "download"]).args(packages).current_dir(fetched.path());
        checked(&mut download)?;
        extract_all(fetched.path(), new)
    }

    /// The same, with all that they depend on.
    pub(super) fn unpack_whole(&self, packages: &[&str], new: &Path) -> Result<()> {
        let fetched = tempfile::tempdir()?;
        fs::create_dir(fetched.path().join("partial"))?;
        let mut download = self.apt("apt-get");
        download.arg("-o").arg(format!("Dir::Cache::archives={}", fetched.path().display()));
        download.args(["-q", "--yes", "--download-only", "--no-install-recommends", "install"]);
        checked(download.args(packages))?;
        extract_all(fetched.path(), new)
    }
}

/// Extracts every package of a folder.
fn extract_all(packages: &Path, new: &Path) -> Result<()> {
    fs::create_dir(new)?;
    for file in fs::read_dir(packages)? {
        let file = file?.path();
        if file.extension().is_some_and(|ending| ending == "deb") {
            checked(Command::new("dpkg-deb").arg("--extract").arg(file).arg(new))?;
        }
    }
    Ok(())
}
