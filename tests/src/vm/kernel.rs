//! Debian's and Ubuntu's kernels, unpacked into the cache.

use std::{
    cmp::Reverse,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    arch::Arch,
    archive::{Archive, Signer, Suite, folder},
};
use crate::kube::cache;

/// A mirror may list a package that it no longer, or not yet, has: so many of a series are tried.
const TRIED_MAX: usize = 6;

/// A line of releases, of which the newest that the archive has is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Series {
    /// What it is asked for by.
    pub name: &'static str,
    /// What its releases begin with; nothing for whatever is newest.
    releases: &'static str,
    suite: Suite,
    /// For which processor.
    pub arch: Arch,
}

/// The name of the series that is as new as the archive has one.
pub const NEWEST: &str = "newest";
/// The name of the series that is for the other processor.
pub const ARM64: &str = "arm64";

const fn debian(name: &'static str) -> Suite {
    Suite { address: "http://deb.debian.org/debian", name, signer: Signer::Debian }
}

const fn debian_security(name: &'static str) -> Suite {
    Suite { address: "http://deb.debian.org/debian-security", name, signer: Signer::Debian }
}

const fn ubuntu(name: &'static str) -> Suite {
    Suite { address: "http://archive.ubuntu.com/ubuntu", name, signer: Signer::Ubuntu }
}

const fn series(name: &'static str, releases: &'static str, suite: Suite) -> Series {
    Series { name, releases, suite, arch: Arch::Amd64 }
}

/// Every series: the oldest that is supported, those of Debian's and Ubuntu's stable releases, the newest
/// two, and one for the other processor. Of 5.14 no archive that is read here has one.
pub const SERIES: &[Series] = &[
    series("5.10", "5.10.", debian_security("bullseye-security")),
    series("5.15", "5.15.", ubuntu("jammy-updates")),
    series("6.1", "6.1.", debian_security("bookworm-security")),
    series("6.8", "6.8.", ubuntu("noble-updates")),
    series("6.12", "6.12.", debian_security("trixie-security")),
    series("7.2", "7.2.", debian("trixie-backports")),
    series(NEWEST, "", debian("trixie-backports")),
    Series { arch: Arch::Arm64, ..series(ARM64, "6.12.", debian_security("trixie-security")) },
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
        let archive = Archive::update(self.suite, self.arch)?;
        let mut refused = Vec::new();
        let listed = self.packages(&archive.names("linux-")?)?;
        for packages in listed.into_iter().take(TRIED_MAX) {
            let kernel = self.kernel(&packages[0])?;
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
        let newest =
            names.filter(|name| name.contains(&self.flavour())).max_by_key(|name| numbers(name));
        let newest = newest.with_context(|| {
            format!(
                "no kernel {} is in the cache. `cargo xtask kernels --fetch` brings it, once",
                self.name
            )
        })?;
        self.kernel(&newest)
    }

    fn kernel(&self, package: &str) -> Result<Kernel> {
        Ok(Kernel { folder: folder()?.join(self.name).join(package), arch: self.arch })
    }

    /// Whether a package's release is of this series.
    fn has(&self, release: &str) -> bool {
        release.starts_with(self.releases)
    }

    /// What the releases of its kernels end in: of Debian's those for clouds, which are small; all have
    /// BTF, and what a node needs as modules.
    fn flavour(&self) -> String {
        match self.suite.signer {
            Signer::Debian => format!("-cloud-{}", self.arch.name()),
            Signer::Ubuntu => "-generic".to_owned(),
        }
    }

    /// The packages of each of its kernels, the newest first, of all that there are. Newer kernels of
    /// Debian's, and all of Ubuntu's, are in two: the kernel, and its modules. Older ones of Debian's are
    /// there signed, and not.
    fn packages(&self, names: &[String]) -> Result<Vec<Vec<String>>> {
        let kernel_alone = match self.suite.signer {
            Signer::Debian => "linux-binary",
            Signer::Ubuntu => "linux-image-unsigned",
        };
        let mut kernels = Vec::new();
        for name in names {
            let Some(release) = name.strip_prefix("linux-image-") else { continue };
            let release = release.strip_prefix("unsigned-").unwrap_or(release);
            let release = release.strip_suffix("-unsigned").unwrap_or(release);
            let is_number = release.starts_with(|letter: char| letter.is_ascii_digit());
            if !is_number || !release.ends_with(&self.flavour()) || !self.has(release) {
                continue;
            }
            let parts = [kernel_alone, "linux-modules"].map(|part| format!("{part}-{release}"));
            if parts.iter().all(|part| names.contains(part)) {
                kernels.push(parts.to_vec());
            } else if self.suite.signer == Signer::Debian {
                kernels.push(vec![name.clone()]);
            }
        }
        ensure!(!kernels.is_empty(), "the archive lists no kernel {}", self.name);
        kernels.sort_by_key(|packages| Reverse(numbers(&packages[0])));
        kernels.dedup();
        Ok(kernels)
    }
}

/// A kernel, unpacked.
#[derive(Debug)]
pub struct Kernel {
    folder: PathBuf,
    /// For which processor.
    pub arch: Arch,
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

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The numbers in a name, by which releases are ordered.
pub(super) fn numbers(name: &str) -> Vec<u64> {
    let words = name.split(|letter: char| !letter.is_ascii_digit());
    words.filter_map(|word| word.parse().ok()).collect()
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

    #[test]
    fn packages_are_found_by_the_names_of_each_archive() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let packages = |series: &str, listed: &[&str]| {
            let series = Series::named(series).expect("a series");
            series.packages(&names(listed)).expect("kernels")
        };
        let ubuntu = [
            "linux-image-5.15.0-198-generic",
            "linux-image-unsigned-5.15.0-99-generic",
            "linux-modules-5.15.0-99-generic",
            "linux-image-unsigned-5.15.0-198-generic",
            "linux-modules-5.15.0-198-generic",
            "linux-image-unsigned-5.15.0-198-lowlatency",
            "linux-image-unsigned-6.8.0-1-generic",
            "linux-modules-6.8.0-1-generic",
        ];
        let of = |release: &str| {
            names(&[
                &format!("linux-image-unsigned-{release}"),
                &format!("linux-modules-{release}"),
            ])
        };
        let expected = vec![of("5.15.0-198-generic"), of("5.15.0-99-generic")];
        assert_eq!(packages("5.15", &ubuntu), expected);
        let debian =
            ["linux-image-6.1.0-9-cloud-amd64-unsigned", "linux-image-6.1.0-9-cloud-arm64"];
        assert_eq!(packages("6.1", &debian), [names(&debian[..1])]);
        let split = ["linux-image-7.3.4-cloud-amd64", "linux-binary-7.3.4-cloud-amd64"];
        let split = [split[0], split[1], "linux-modules-7.3.4-cloud-amd64"];
        assert_eq!(packages(NEWEST, &split), [names(&split[1..])]);
    }
}
