//! `cargo xtask dist`: the client for every platform that people sit at, an archive for each.
//!
//! One machine builds them all, without an SDK of anybody's: zig has what Linux, Windows and macOS
//! need of C, and what Rust needs of macOS besides is written in `xtask/macos`.

mod archive;
mod questions;

use std::{
    env,
    fmt::Write as _,
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};
use hex::ToHex as _;
use sha2::{Digest as _, Sha256};

use crate::{
    cargo::{cargo, root, set_rustflags, target_folder},
    plan::{Plan, say},
    setup::{Need, prepare_for, zig},
};
use questions::{Answer, ask};

/// How long the first build and each other one takes on two cores.
const BUILD_SECONDS: u64 = 120;
/// The profile of Cargo.toml that the programs are built with.
const PROFILE: &str = "dist";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What has to go with every copy of the client, which holds no eBPF programs.
const LICENSES: &[&str] = &["LICENSE-APACHE", "LICENSE-MIT"];
/// What `sha256sum --check` reads.
const SUMS: &str = "SHA256SUMS";

/// A platform that the client is built for.
struct Platform {
    /// As Rust calls it.
    target: &'static str,
    /// What a program's name ends in there.
    suffix: &'static str,
    runs: Runs,
}

/// How a platform's program runs on a Linux machine.
#[derive(Clone, Copy)]
enum Runs {
    /// By itself on this processor, else in an emulator of it.
    On(&'static str),
    /// In wine, on this processor.
    InWine(&'static str),
    Nowhere,
}

const PLATFORMS: &[Platform] = &[
    Platform { target: "x86_64-unknown-linux-musl", suffix: "", runs: Runs::On("x86_64") },
    Platform { target: "aarch64-unknown-linux-musl", suffix: "", runs: Runs::On("aarch64") },
    Platform { target: "x86_64-pc-windows-gnu", suffix: ".exe", runs: Runs::InWine("x86_64") },
    Platform { target: "aarch64-apple-darwin", suffix: "", runs: Runs::Nowhere },
];

/// Sets up, builds, packs, and asks what runs here the same questions.
pub(crate) fn run() -> Result<ExitCode> {
    let mut plan = Plan::default();
    let targets: Vec<&str> = PLATFORMS.iter().map(|platform| platform.target).collect();
    prepare_for(&mut plan, &[Need::Dist], &targets)?;
    for platform in PLATFORMS {
        plan.add(format!("building for {}", platform.target), platform.build()?, BUILD_SECONDS);
    }
    plan.run()?;

    let folder = target_folder()?.join("dist");
    start_afresh(&folder)?;
    let mut sums = String::new();
    let mut reference: Option<(&str, Vec<Answer>)> = None;
    for platform in PLATFORMS {
        let archive = platform.pack(&folder)?;
        let bytes = fs::read(&archive).with_context(|| archive.display().to_string())?;
        let name = archive.file_name().unwrap_or_default().to_string_lossy();
        let sum: String = Sha256::digest(&bytes).encode_hex();
        writeln!(sums, "{sum}  {name}")?;
        let tried = platform.try_out(&mut reference)?;
        say(&format!("{}: {} kB, {tried}", archive.display(), bytes.len().div_ceil(1000)));
    }
    let file = folder.join(SUMS);
    fs::write(&file, sums).with_context(|| file.display().to_string())?;
    say(&format!("{}: to be checked by sha256sum --check {SUMS} in that folder", file.display()));
    say(&format!("asked of each that ran: {}", questions::names()));
    say("tried for none of them: a terminal, a cluster over TLS");
    Ok(ExitCode::SUCCESS)
}

/// Makes the folder, with nothing of an earlier run in it.
fn start_afresh(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())
}

impl Platform {
    /// The call that builds the program.
    fn build(&self) -> Result<Command> {
        let mut build = cargo(["zigbuild", "--quiet", "--locked", "--package", "whydrop"]);
        build.args(["--no-default-features", "--bin", "whydrop", "--profile", PROFILE]);
        build.args(["--target", self.target]);
        let mut flags = Vec::new();
        if self.target.ends_with("-apple-darwin") {
            let frameworks = root().join("xtask/macos");
            flags.push(format!("-Clink-arg=-F{}", frameworks.display()));
        }
        if self.target.ends_with("-linux-musl") {
            // rustc brings a linker and musl for these; zig's refuses a flag that rustc's target for
            // arm64 gives (--fix-cortex-a53-843419). zig still compiles the C in ring.
            flags.push("-Clinker=rust-lld".to_owned());
        }
        set_rustflags(&mut build, self.target, &flags);
        // It would lead to an SDK that only some machines have.
        build.env_remove("SDKROOT");
        build.env("CARGO_ZIGBUILD_ZIG_PATH", zig::program()?);
        Ok(build)
    }

    /// What [`Self::build`] made.
    fn program(&self) -> Result<PathBuf> {
        let folder = target_folder()?.join(self.target).join(PROFILE);
        Ok(folder.join(format!("whydrop{}", self.suffix)))
    }

    /// Packs the program with its licences.
    fn pack(&self, folder: &Path) -> Result<PathBuf> {
        let name = format!("whydrop-{VERSION}-{}", self.target);
        let mut files = vec![(self.program()?, 0o755)];
        files.extend(LICENSES.iter().map(|license| (root().join(license), 0o644)));
        let archive = folder.join(format!("{name}.tar.gz"));
        let out = File::create(&archive).map(BufWriter::new);
        let out = out.with_context(|| archive.display().to_string())?;
        archive::write(out, &name, &files).with_context(|| archive.display().to_string())?;
        Ok(archive)
    }

    /// Asks the program the questions where it runs here, and says how that went. The first answers
    /// are what all others must be.
    fn try_out(&self, reference: &mut Option<(&'static str, Vec<Answer>)>) -> Result<String> {
        let Some((how, command)) = self.runs.command() else {
            return Ok("not run: nothing here runs it".to_owned());
        };
        let program = self.program()?;
        let is_wine = matches!(self.runs, Runs::InWine(_));
        if is_wine && questions::lacks_library(&command, &program)? {
            // That of Debian 12 has no bcryptprimitives.dll, which Rust's standard library calls.
            return Ok("not run: this wine lacks a library that it is linked to".to_owned());
        }
        let answers = ask(&command, &program).with_context(|| format!("{} {how}", self.target))?;
        match reference {
            None => {
                *reference = Some((self.target, answers));
                Ok(format!("run {how}"))
            }
            Some((first, expected)) => {
                questions::compare(expected, &answers)
                    .with_context(|| format!("{} {how}, other than {first}", self.target))?;
                Ok(format!("run {how}, with the same answers as {first}"))
            }
        }
    }
}

impl Runs {
    /// How the program is run here, in words and as what is put before it.
    fn command(self) -> Option<(String, Vec<String>)> {
        match self {
            Self::On(processor) if processor == env::consts::ARCH => {
                Some(("here".to_owned(), Vec::new()))
            }
            Self::On(processor) => {
                let emulator = format!("qemu-{processor}");
                Some((format!("in {emulator}"), vec![emulator]))
            }
            Self::InWine(processor) if processor == env::consts::ARCH => {
                Some(("in wine".to_owned(), vec!["wine".to_owned()]))
            }
            Self::InWine(_) | Self::Nowhere => None,
        }
    }
}
