//! Debian's kernels, unpacked into the cache: nothing is installed, and the machine's own lists of
//! packages are not touched.

use std::{
    cmp::Reverse,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};

use crate::{kube::cache, world::namespace::checked};

/// The part of Debian's archive that has kernels for clouds: small, with BTF, and what a node needs as
/// modules.
const FLAVOUR: &str = "-cloud-amd64";
/// Where apt finds the keys of the archive.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// A mirror may list a package that it no longer, or not yet, has: so many of a series are tried.
const TRIED_MAX: usize = 6;

/// A line of releases, of which the newest that the archive has is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Series {
    /// What its releases begin with; [`NEWEST`] stands for whatever is newest.
    pub name: &'static str,
    /// The address below the mirror's, and the suite.
    suite: (&'static str, &'static str),
}

/// The name of the series that is as new as the archive has one.
pub const NEWEST: &str = "newest";

const SECURITY: &str = "debian-security";
const BACKPORTS: (&str, &str) = ("debian", "trixie-backports");

/// Every series: the oldest that is supported, those of Debian's stable releases, and the newest two.
/// Of 5.14, 5.15 and others between these the archive has none.
pub const SERIES: &[Series] = &[
    Series { name: "5.10", suite: (SECURITY, "bullseye-security") },
    Series { name: "6.1", suite: (SECURITY, "bookworm-security") },
    Series { name: "6.12", suite: (SECURITY, "trixie-security") },
    Series { name: "7.2", suite: BACKPORTS },
    Series { name: NEWEST, suite: BACKPORTS },
];

/// Those that tests boot: the oldest, and the one of the Debian that most machines have.
pub const TESTED: &[&str] = &["5.10", "6.1"];

impl Series {
    /// The one of this name.
    pub fn named(name: &str) -> Result<&'static Self> {
        SERIES.iter().find(|series| series.name == name).with_context(|| {
            let names: Vec<_> = SERIES.iter().map(|series| series.name).collect();
            format!("no kernel {name} here; there are {}", names.join(", "))
        })
    }

    /// Fetches its newest kernel unless that is in the cache.
    pub fn fetch(&self) -> Result<Kernel> {
        let archive = Archive::update()?;
        let mut refused = Vec::new();
        for packages in archive.packages(self)?.into_iter().take(TRIED_MAX) {
            let kernel = Kernel { folder: folder()?.join(self.name).join(&packages[0]) };
            match cache::provide(&kernel.folder, |new| archive.unpack(&packages, new)) {
                Ok(_) => return Ok(kernel),
                Err(error) => refused.push(format!("{}: {error:#}", packages[0])),
            }
        }
        bail!("the archive has no kernel {}\n{}", self.name, refused.join("\n"))
    }

    /// Its newest kernel that is in the cache.
    ///
    /// # Errors
    ///
    /// That there is none; a test does not fetch it.
    pub fn cached(&self) -> Result<Kernel> {
        let folders = fs::read_dir(folder()?.join(self.name)).into_iter().flatten().flatten();
        let names = folders.filter_map(|entry| entry.file_name().into_string().ok());
        let newest = names.filter(|name| name.contains(FLAVOUR)).max_by_key(|name| numbers(name));
        let newest = newest.with_context(|| {
            format!(
                "no kernel {} is in the cache. `cargo xtask kernels --fetch` brings it, once",
                self.name
            )
        })?;
        Ok(Kernel { folder: folder()?.join(self.name).join(newest) })
    }

    /// Whether a package's release is of this series.
    fn has(&self, release: &str) -> bool {
        self.name == NEWEST || release.starts_with(&format!("{}.", self.name))
    }
}

/// A kernel, unpacked.
#[derive(Debug)]
pub struct Kernel {
    folder: PathBuf,
}

impl Kernel {
    /// What QEMU boots.
    pub fn image(&self) -> Result<PathBuf> {
        let found = fs::read_dir(self.folder.join("boot")).into_iter().flatten().flatten();
        let mut found = found.map(|entry| entry.path());
        found
            .find(|path| file_name(path).starts_with("vmlinuz"))
            .or_else(|| Some(self.modules().ok()?.join("vmlinuz")).filter(|path| path.exists()))
            .with_context(|| format!("no kernel in {}", self.folder.display()))
    }

    /// The folder of its modules, which is called as its release.
    pub fn modules(&self) -> Result<PathBuf> {
        let all = ["lib/modules", "usr/lib/modules"].map(|folder| self.folder.join(folder));
        let mut found = all.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
        let found =
            found.next().with_context(|| format!("no modules in {}", self.folder.display()));
        Ok(found??.path())
    }

    /// Its release.
    pub fn release(&self) -> Result<String> {
        Ok(file_name(&self.modules()?))
    }
}

fn folder() -> Result<PathBuf> {
    Ok(cache::folder()?.join("kernels"))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The numbers in a name, by which releases are ordered.
pub(super) fn numbers(name: &str) -> Vec<u64> {
    let words = name.split(|letter: char| !letter.is_ascii_digit());
    words.filter_map(|word| word.parse().ok()).collect()
}

/// Debian's archive, as a folder of apt's of our own sees it.
struct Archive {
    folder: PathBuf,
    /// Of the folder: apt does not wait for another that uses it.
    _held: Flock<File>,
}

impl Archive {
    /// Reads what the archive has.
    fn update() -> Result<Self> {
        let folder = folder()?.join("apt");
        fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join(".lock"))?;
        let held = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        let archive = Self { folder, _held: held };
        for folder in ["etc/apt/preferences.d", "state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(archive.folder.join(folder))?;
        }
        let mut suites: Vec<_> = SERIES.iter().map(|series| series.suite).collect();
        suites.dedup();
        let lines = suites.iter().map(|(address, suite)| {
            // Package lists alone, whatever else this machine's apt is set up to fetch.
            format!(
                "deb [arch=amd64 target=Packages signed-by={KEYS}] \
                 http://deb.debian.org/{address} {suite} main\n"
            )
        });
        fs::write(archive.folder.join("sources.list"), lines.collect::<String>())?;
        fs::write(archive.folder.join("status"), "")?;
        checked(archive.apt("apt-get").args(["-q", "update"])).context("read Debian's archive")?;
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
            ("APT::Architecture", "amd64".to_owned()),
            ("APT::Architectures", "amd64".to_owned()),
            ("APT::Sandbox::User", "root".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
        ] {
            command.arg("-o").arg(format!("{key}={value}"));
        }
        command
    }

    /// The packages of each kernel of a series, the newest first. Newer kernels are in two: the kernel,
    /// and its modules. Older ones are there signed, and not.
    fn packages(&self, series: &Series) -> Result<Vec<Vec<String>>> {
        let names = checked(self.apt("apt-cache").args(["pkgnames", "linux-"]))?;
        let names: Vec<&str> = names.lines().collect();
        let mut kernels = Vec::new();
        for name in &names {
            let Some(release) = name.strip_prefix("linux-image-") else { continue };
            let release = release.strip_suffix("-unsigned").unwrap_or(release);
            if !release.ends_with(FLAVOUR) || !series.has(release) || numbers(release).is_empty() {
                continue;
            }
            let parts = ["linux-binary", "linux-modules"].map(|part| format!("{part}-{release}"));
            let is_split = parts.iter().all(|part| names.contains(&part.as_str()));
            kernels.push(if is_split { parts.to_vec() } else { vec![(*name).to_owned()] });
        }
        ensure!(!kernels.is_empty(), "the archive lists no kernel {}", series.name);
        kernels.sort_by_key(|packages| Reverse(numbers(&packages[0])));
        kernels.dedup();
        Ok(kernels)
    }

    fn unpack(&self, packages: &[String], new: &Path) -> Result<()> {
        let fetched = tempfile::tempdir()?;
        let mut download = self.apt("apt-get");
        download.args(["-q", "download"]).args(packages).current_dir(fetched.path());
        checked(&mut download)?;
        fs::create_dir(new)?;
        for package in fs::read_dir(fetched.path())? {
            checked(Command::new("dpkg-deb").arg("--extract").arg(package?.path()).arg(new))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_ordered_by_their_numbers() {
        let mut names = ["6.1.0-9-cloud", "6.1.0-57-cloud", "6.12.3-cloud", "5.10.0-46-cloud"];
        names.sort_by_key(|name| numbers(name));
        assert_eq!(names, ["5.10.0-46-cloud", "6.1.0-9-cloud", "6.1.0-57-cloud", "6.12.3-cloud"]);
    }

    #[test]
    fn a_series_has_its_own_releases() {
        let series = Series::named("6.1").expect("a series");
        assert!(series.has("6.1.0-57-cloud-amd64") && !series.has("6.12.118+deb13-cloud-amd64"));
        assert!(Series::named(NEWEST).expect("it is there").has("7.3.4+deb13-cloud-amd64"));
        assert!(Series::named("4.19").is_err());
    }
}
