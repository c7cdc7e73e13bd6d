//! `cargo xtask bare`: the README's commands on a machine that has nothing.
//!
//! A Debian made by debootstrap, with nothing brought in but a clone of the last commit, rustup with
//! the machine's default toolchain, and Go: what a job calls and does not install is missing there,
//! whatever the machine around it has. It runs in mount, process, IPC and host name namespaces of its
//! own, and shares the machine's network, which packages are fetched over.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    budget::seconds,
    cache,
    cargo::root,
    plan::{Plan, say},
    setup::{self, Need},
};

/// The Debian release that a user is taken to have.
const RELEASE: &str = "bookworm";
/// How long debootstrap takes, once.
const BOOTSTRAP_SECONDS: u64 = 90;
/// What it has beside Debian's own minimum: the certificates that every download is checked with, and
/// the linker that rustup asks its users to have.
const INCLUDED: &str = "--include=ca-certificates,gcc,libc6-dev";
/// What the archive's addresses are; the release's security suite has LLVM 22.
const SOURCES: &str = "\
deb http://deb.debian.org/debian bookworm main
deb http://deb.debian.org/debian bookworm-updates main
deb http://deb.debian.org/debian-security bookworm-security main
";
/// The certificates that the machine trusts, which the bare one may need on the same network.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Where things are within the bare root.
const CLONE: &str = "root/whydrop";
const GO: &str = "usr/local/go";
const TOOLCHAINS: &str = "root/.rustup/toolchains";
const CARGO_BIN: &str = "root/.cargo/bin";
/// `$PATH` there.
const PATH: &str = "/root/.cargo/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Mounts what a machine has, and runs the command in the clone. `$1` is the root, the rest the
/// command. The mounts are private, and go with the namespace. The shell stays: as the first process
/// it waits for whatever loses its parent, and a signal that ends the command would not end it were it
/// the first.
const INSIDE: &str = r#"
set -e
bare=$1; shift
mount --make-rprivate /
mount --bind "$bare" "$bare"
mount -t proc proc "$bare/proc"
mount --rbind /sys "$bare/sys"
mount --rbind /dev "$bare/dev"
mount -t tmpfs tmpfs "$bare/run"
mount -t tmpfs tmpfs "$bare/tmp"
hostname bare
chroot "$bare" sh -ec 'cd /root/whydrop; exec "$@"' sh "$@" || exit $?
"#;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Goes on in the root of the last run, with all that it installed and built.
    #[arg(long)]
    warm: bool,
    /// The job of `cargo xtask` with its flags, such as `test --all`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, default_value = "demo")]
    job: Vec<String>,
}

/// Makes the root and runs the command there; says how long it took.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    setup::require_root("making a root file system and namespaces")?;
    let folder = cache::folder()?.join("bare");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let (pristine, bare) = (folder.join(RELEASE), folder.join("root"));
    if !arguments.warm || !bare.is_dir() {
        make(&pristine, &bare)?;
    }
    update_clone(&bare)?;
    let words: Vec<&str> =
        ["cargo", "xtask"].into_iter().chain(arguments.job.iter().map(String::as_str)).collect();
    say(&format!("in {}: {}", bare.display(), words.join(" ")));
    let started = Instant::now();
    let status = command(&bare, &words).status().context("run unshare")?;
    let state = if arguments.warm { "warm" } else { "with nothing there" };
    say(&format!("{}, {state}: {}, {status}", words.join(" "), seconds(started.elapsed())));
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes a new root from a Debian that is kept.
fn make(pristine: &Path, bare: &Path) -> Result<()> {
    let mut plan = Plan::default();
    setup::prepare(&mut plan, &[Need::Bare])?;
    // debootstrap removes its own folder at its good end.
    if !pristine.is_dir() || pristine.join("debootstrap").exists() {
        let mut debootstrap = Command::new("debootstrap");
        debootstrap.args(["--variant=minbase", INCLUDED, RELEASE]).arg(pristine);
        plan.add(format!("debootstrap {RELEASE}"), debootstrap, BOOTSTRAP_SECONDS);
    }
    plan.run()?;
    if bare.exists() {
        fs::remove_dir_all(bare).with_context(|| bare.display().to_string())?;
    }
    copy(pristine, bare)?;
    fs::write(bare.join("etc/apt/sources.list"), SOURCES)?;
    for file in ["/etc/resolv.conf", "/etc/hosts", CERTIFICATES] {
        let inside = bare.join(file.trim_start_matches('/'));
        // Resolved by name, not as a link into the machine.
        let _absent = fs::remove_file(&inside);
        fs::copy(file, &inside).with_context(|| file.to_owned())?;
    }
    bring_rust(bare)?;
    let go = said(Command::new("go").args(["env", "GOROOT"]))?;
    copy(Path::new(&go), &bare.join(GO))
}

/// Brings rustup, its proxies, and the default toolchain.
fn bring_rust(bare: &Path) -> Result<()> {
    let bin = bare.join(CARGO_BIN);
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(bare.join(TOOLCHAINS))?;
    let rustup = PathBuf::from(said(Command::new("sh").args(["-c", "command -v rustup"]))?);
    fs::copy(&rustup, bin.join("rustup")).with_context(|| rustup.display().to_string())?;
    for proxy in ["cargo", "rustc", "rustdoc"] {
        std::os::unix::fs::symlink("rustup", bin.join(proxy))?;
    }
    // Asked elsewhere than in a folder that may override it.
    let default = said(Command::new("rustup").arg("default").current_dir("/"))?;
    let default = default.split_whitespace().next().unwrap_or_default().to_owned();
    ensure!(!default.is_empty(), "rustup has no default toolchain to bring");
    let home = PathBuf::from(said(Command::new("rustup").args(["show", "home"]))?);
    copy(&home.join("toolchains").join(&default), &bare.join(TOOLCHAINS).join(&default))?;
    let settings = format!("version = \"12\"\ndefault_toolchain = \"{default}\"\n");
    Ok(fs::write(bare.join("root/.rustup/settings.toml"), settings)?)
}

/// Clones the last commit, or brings the clone that is there up to it; what was built there stays.
fn update_clone(bare: &Path) -> Result<()> {
    let clone = bare.join(CLONE);
    if !clone.is_dir() {
        let mut git = Command::new("git");
        done(git.args(["clone", "--quiet", "--no-hardlinks"]).arg(root()).arg(&clone))?;
    }
    let head = said(Command::new("git").args(["rev-parse", "HEAD"]).current_dir(root()))?;
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        done(git.args(arguments).current_dir(&clone))
    };
    git(&["fetch", "--quiet", "origin", &head])?;
    git(&["checkout", "--quiet", "--detach", &head])
}

/// The call of a command within.
fn command(bare: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts"]);
    command.args(["sh", "-ec", INSIDE, "bare"]).arg(bare).args(words);
    command.env_clear().stdin(Stdio::null());
    command.envs([("HOME", "/root"), ("PATH", PATH), ("LANG", "C.UTF-8"), ("TERM", "dumb")]);
    command.env("RUSTUP_AUTO_INSTALL", "0");
    // Where packages come from by way of others than the usual servers, there too.
    for name in ["GOPROXY", "GOSUMDB", "http_proxy", "https_proxy", "no_proxy"] {
        command.envs(env::var_os(name).map(|value| (name, value)));
    }
    command
}

/// Copies a folder with all that files have besides their bytes.
fn copy(from: &Path, to: &Path) -> Result<()> {
    done(Command::new("cp").arg("--archive").arg(from).arg(to))
}

/// Runs a command to its good end.
fn done(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// What a command prints.
fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} ended with {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
