//! How an image was made, as SLSA has it (slsa.dev/spec/v1.1/provenance).

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::layout::sha256;

/// The page that says what the fields mean.
const BUILD_TYPE: &str =
    concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/docs/security.md#the-image");
/// Who ran the job: the key that signs says who that is, and nothing else does.
const BUILDER: &str =
    concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/docs/security.md#who-built-it");

/// The compiler, as it says itself.
pub struct Rust {
    /// Such as `1.98.0`.
    pub release: String,
    commit: String,
}

impl Rust {
    /// Asks the compiler that is called.
    ///
    /// # Errors
    /// That there is none.
    pub fn ask() -> Result<Self> {
        let said = said("rustc", &["-vV"])?;
        let line = |name: &str| {
            let mut lines = said.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.map(str::to_owned).with_context(|| format!("rustc -vV says no {name}"))
        };
        Ok(Self { release: line("release")?, commit: line("commit-hash")? })
    }
}

/// What went into an image.
pub struct Inputs<'a> {
    /// The repository.
    pub root: &'a Path,
    /// The commit, where nothing else went into it.
    pub revision: Option<&'a str>,
    /// As Go calls the processor.
    pub architecture: &'a str,
    /// As Rust calls it.
    pub target: &'a str,
    /// The compiler.
    pub rust: &'a Rust,
}

/// What is said: the predicate of the statement. Nothing in it differs from one machine or hour to
/// the next.
///
/// # Errors
/// That a tool that was used is not there any more.
pub fn predicate(inputs: &Inputs<'_>) -> Result<Value> {
    let repository = concat!("git+", env!("CARGO_PKG_REPOSITORY"));
    let source = match inputs.revision {
        Some(revision) => json!({
            "digest": {"gitCommit": revision},
            "name": "source",
            "uri": format!("{repository}@{revision}"),
        }),
        None => json!({
            "annotations": {"changed": "sources that no commit has went into it"},
            "name": "source",
            "uri": repository,
        }),
    };
    let lock = inputs.root.join("Cargo.lock");
    let lock = fs::read(&lock).with_context(|| lock.display().to_string())?;
    let linker = said("bpf-linker", &["--version"])?;
    let linker = linker.split_whitespace().nth(1).context("bpf-linker says no version")?.to_owned();
    let rust = inputs.rust;
    Ok(json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"arch": inputs.architecture, "job": "cargo xtask image"},
            "internalParameters": {"profile": "image", "target": inputs.target},
            "resolvedDependencies": [
                source,
                // By it every crate is pinned, with its hash.
                {"digest": {"sha256": sha256(&lock)}, "name": "Cargo.lock"},
                {
                    "digest": {"gitCommit": rust.commit},
                    "name": "rustc",
                    "uri": format!("pkg:generic/rustc@{}", rust.release),
                },
                {"name": "bpf-linker", "uri": format!("pkg:cargo/bpf-linker@{linker}")},
            ],
        },
        "runDetails": {
            "builder": {"id": BUILDER, "version": {"whydrop": env!("CARGO_PKG_VERSION")}},
        },
    }))
}

/// What a program prints.
fn said(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("run {program}"))?;
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
