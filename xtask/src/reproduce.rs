//! `cargo xtask reproduce`: builds the image of the last commit twice, in folders and homes of other
//! names, and holds one against the other byte by byte.
//!
//! So anyone can make the image that somebody else has published, and see that it is of these sources.

use std::{
    fs, io,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    arch::Arch,
    budget,
    cargo::{cargo, home, root, target_folder},
    plan::{Plan, say},
    setup::{self, Need},
    supply,
};

/// Of both builds: other lengths, so that nothing is merely as long as something else.
const FOLDERS: [&str; 2] = ["one", "another/with/a/longer/name"];
/// How long `cargo xtask` itself takes to build in a new clone.
const XTASK_SECONDS: u64 = 30;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The processor of the nodes that the image is for; this machine's unless given.
    #[arg(long, value_enum)]
    arch: Option<Arch>,
}

/// Builds twice, compares, and says what differs.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let arch = arguments.arch.map_or_else(Arch::of_this_machine, Ok)?;
    let folder = target_folder()?.join("reproduce");
    remove(&folder)?;
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    if !git(&root(), &["status", "--porcelain"])?.is_empty() {
        say("the last commit is built: what is changed since is left out");
    }

    let mut plan = Plan::default();
    setup::prepare_for(&mut plan, &[Need::Image], &[arch.target()])?;
    supply::prepare(&mut plan);
    let mut archives = Vec::new();
    for name in FOLDERS {
        let place = folder.join(name);
        let clone = place.join("whydrop");
        fs::create_dir_all(&place)?;
        let from = root();
        let from = from.to_str().context("a path that is text")?;
        let to = clone.to_str().context("a path that is text")?;
        git(&folder, &["clone", "--quiet", "--no-hardlinks", from, to])?;
        let archive = folder.join(format!("{}.tar", archives.len() + 1));
        let seconds = XTASK_SECONDS + budget::IMAGE.cold + budget::SUPPLY.cold;
        plan.add(format!("the image, in {name}"), build(&place, &clone, &archive, arch)?, seconds);
        archives.push(archive);
    }
    plan.run()?;

    if supply::ask("compare", &archives)? {
        for name in FOLDERS {
            let top = Path::new(name).iter().next().unwrap_or_default();
            remove(&folder.join(top))?;
        }
        let names: Vec<_> = archives.iter().map(|path| path.display().to_string()).collect();
        say(&format!("both builds made the same bytes: {}", names.join(" and ")));
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!("the two builds differ; they are kept in {}", folder.display()));
    Ok(ExitCode::FAILURE)
}

/// The call that makes the image in a clone, with a home of cargo's that has another name.
fn build(place: &Path, clone: &Path, archive: &Path, arch: Arch) -> Result<Command> {
    let cargo_home = place.join("cargo");
    copy_home(&home().context("cargo's home")?, &cargo_home)?;
    let mut build = cargo(["run", "--quiet", "--locked", "--package", "xtask", "--", "image"]);
    build.args(["--arch", arch.name(), "--output"]).arg(archive);
    build.current_dir(clone).env("CARGO_HOME", cargo_home);
    // Each has its own.
    build.env_remove("CARGO_TARGET_DIR").env_remove("SOURCE_DATE_EPOCH");
    Ok(build)
}

/// Makes another home with what was fetched and how it is set up. Not by links: a compiler finds out
/// where its sources really are.
fn copy_home(from: &Path, to: &Path) -> Result<()> {
    let registry = to.join("registry");
    fs::create_dir_all(&registry)?;
    for (name, folder) in [
        ("registry/cache", &registry),
        ("registry/index", &registry),
        ("config.toml", &to.to_owned()),
    ] {
        let there = from.join(name);
        if there.exists() {
            let mut copy = Command::new("cp");
            let status =
                copy.args(["--archive", "--reflink=auto"]).arg(&there).arg(folder).status();
            let status = status.context("run cp")?;
            ensure!(status.success(), "cp of {}: {status}", there.display());
        }
    }
    Ok(())
}

fn git(folder: &Path, arguments: &[&str]) -> Result<String> {
    let mut git = Command::new("git");
    let output = git.args(arguments).current_dir(folder).stderr(Stdio::inherit()).output();
    let output = output.context("run git")?;
    ensure!(output.status.success(), "git {}: {}", arguments.join(" "), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| folder.display().to_string())
        }
        _ => Ok(()),
    }
}
