//! Which crates are linked into a program: asked of cargo, which has built it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::{Metadata, Package};
use serde::Deserialize;

/// A crate and its version, unique in one workspace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// As its manifest says.
    pub name: String,
    /// The same.
    pub version: String,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// Crates, each with those that it is linked with.
pub type Links = BTreeMap<Id, BTreeSet<Id>>;

/// One of our packages as it is built for a target.
pub struct Build<'a> {
    /// The package.
    pub package: &'a str,
    /// What it is built with beside its defaults.
    pub features: &'a [&'a str],
    /// As Rust calls it.
    pub target: &'a str,
}

/// What is linked into a program: neither what only runs while it is compiled, nor what only tests
/// use, nor what another member of the workspace turns on.
pub fn linked(root: &Path, build: &Build<'_>) -> Result<Links> {
    let features = build.features.join(",");
    let text = run(
        root,
        &[
            "tree",
            "--locked",
            "--package",
            build.package,
            "--features",
            &features,
            "--target",
            build.target,
            "--edges",
            "normal,no-proc-macro",
            "--prefix",
            "depth",
            "--format",
            " {p}",
        ],
    )?;
    read(&text).with_context(|| format!("cargo tree of {}", build.package))
}

/// Reads lines such as `2 serde v1.0.229`, each of which is below the last line with a lower number.
fn read(text: &str) -> Result<Links> {
    let mut links = Links::new();
    let mut above: Vec<Id> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let mut words = line.split_whitespace();
        let mut word = || words.next().with_context(|| format!("a line of another form: {line}"));
        let depth: usize = word()?.parse().with_context(|| line.to_owned())?;
        let (name, version) = (word()?, word()?);
        let version = version.strip_prefix('v').with_context(|| line.to_owned())?;
        let id = Id { name: name.to_owned(), version: version.to_owned() };
        links.entry(id.clone()).or_default();
        above.truncate(depth);
        if let Some(parent) = above.last() {
            links.entry(parent.clone()).or_default().insert(id.clone());
        }
        above.push(id);
    }
    ensure!(!links.is_empty(), "no crate at all");
    Ok(links)
}

/// What the manifests of all crates say that programs for these targets may hold.
pub fn packages(root: &Path, targets: &[&str]) -> Result<BTreeMap<Id, Package>> {
    let mut arguments = vec!["metadata", "--locked", "--format-version=1", "--all-features"];
    arguments.extend(targets.iter().flat_map(|target| ["--filter-platform", target]));
    let metadata: Metadata = serde_json::from_str(&run(root, &arguments)?)?;
    let by_id = metadata.packages.into_iter().map(|package| {
        let id = Id { name: package.name.to_string(), version: package.version.to_string() };
        (id, package)
    });
    Ok(by_id.collect())
}

/// The SHA-256 of each crate that comes from a registry, as `Cargo.lock` pins it.
pub fn checksums(root: &Path) -> Result<BTreeMap<Id, String>> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Locked>,
    }
    #[derive(Deserialize)]
    struct Locked {
        name: String,
        version: String,
        checksum: Option<String>,
    }

    let path = root.join("Cargo.lock");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let lock: Lock = toml::from_str(&text).context("Cargo.lock")?;
    let pinned = lock
        .package
        .into_iter()
        .filter_map(|Locked { name, version, checksum }| Some((Id { name, version }, checksum?)));
    Ok(pinned.collect())
}

/// What a call of cargo prints.
fn run(root: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("cargo").args(arguments).current_dir(root).output();
    let output = output.context("run cargo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo {}: {said}", arguments.join(" "));
    String::from_utf8(output.stdout).context("cargo prints text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_another_line_is_linked_with_it() {
        let id = |name: &str| Id { name: name.to_owned(), version: "1.0.0".to_owned() };
        let text = "0 a v1.0.0 (/somewhere)\n1 b v1.0.0\n2 d v1.0.0\n1 c v1.0.0\n2 d v1.0.0 (*)\n";
        let links = read(text).unwrap();
        assert_eq!(links[&id("a")], BTreeSet::from([id("b"), id("c")]));
        assert_eq!(links[&id("b")], BTreeSet::from([id("d")]));
        assert_eq!(links[&id("c")], BTreeSet::from([id("d")]));
        assert!(links[&id("d")].is_empty());
    }

    #[test]
    fn a_line_of_another_form_is_an_error() {
        assert!(read("").is_err());
        assert!(read("a v1.0.0\n").is_err());
        assert!(read("0 a 1.0.0\n").is_err());
    }
}
