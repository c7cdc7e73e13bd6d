//! Network namespaces: made, entered, and removed again.

use std::{
    fs::{self, File},
    io::Write,
    ops::Deref,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

/// Where `ip netns` keeps the names.
const NAMES: &str = "/run/netns";

/// What every namespace of a lab is called first, so that what a killed run left is known as ours.
const PREFIX: &str = "whydrop";

/// A network namespace, by the file that stands for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    file: PathBuf,
}

impl Network {
    /// The one that this file stands for.
    pub fn at(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into() }
    }

    /// The file that stands for it.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// A command that will run inside, under the process id that spawning it gives.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.file.display())).arg("--").arg(program);
        command
    }

    /// Calls `work` on a thread of its own inside; sockets that it makes stay inside for good.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let place = || self.file.display().to_string();
        let handle = File::open(&self.file).with_context(place)?;
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(handle, CloneFlags::CLONE_NEWNET)
                        .with_context(|| format!("enter {}", place()))?;
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Sets kernel parameters below `net`, such as `ipv4/ip_forward`.
    pub fn set(&self, parameters: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            parameters.iter().try_for_each(|(key, value)| {
                let path = Path::new("/proc/sys/net").join(key);
                fs::write(&path, value).with_context(|| format!("{} = {value}", path.display()))
            })
        })
    }

    /// Runs `ip` over many lines in one process.
    pub fn ip(&self, lines: &str) -> Result<()> {
        feed(self.command("ip").args(["-batch", "-"]), lines)
    }

    /// Loads nftables rules.
    pub fn nft(&self, rules: &str) -> Result<()> {
        feed(self.command("nft").args(["-f", "-"]), rules)
    }

    /// Loads rules of the older iptables.
    pub fn iptables(&self, rules: &str) -> Result<()> {
        feed(&mut self.command("iptables-legacy-restore"), rules)
    }
}

/// A network namespace of one's own, which has a name and is removed when this is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    network: Network,
}

impl Namespace {
    /// Makes the namespace that is called `role` in run number `run` of this process.
    pub fn create(run: u32, role: &str) -> Result<Self> {
        let name = format!("{PREFIX}-{}-{run}-{role}", std::process::id());
        checked(Command::new("ip").args(["netns", "add", &name]))?;
        Ok(Self::called(name))
    }

    fn called(name: String) -> Self {
        let network = Network::at(Path::new(NAMES).join(&name));
        Self { name, network }
    }

    /// The name that `ip netns exec` knows.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same namespace, for those who do not own it.
    pub fn network(&self) -> &Network {
        &self.network
    }
}

impl Deref for Namespace {
    type Target = Network;

    fn deref(&self) -> &Network {
        &self.network
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Best effort: a name that is left is removed by `sweep` of a later run.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

/// Removes the namespaces of runs whose process is gone: one that was killed could not clean up.
pub fn sweep() {
    let Ok(names) = fs::read_dir(NAMES) else { return };
    for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let mut words = name.split('-');
        let ours = words.next() == Some(PREFIX);
        let process = words.next().and_then(|word| word.parse::<u32>().ok());
        if let (true, Some(process)) = (ours, process)
            && !Path::new("/proc").join(process.to_string()).exists()
        {
            drop(Namespace::called(name));
        }
    }
}

/// Runs a command to its end, with its own words as the error where it fails.
pub fn checked(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let (out, err) = (utf8(&output.stdout), utf8(&output.stderr));
    ensure!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    Ok(out)
}

/// Runs a command to its end with `input` on its standard input.
pub fn feed(command: &mut Command, input: &str) -> Result<()> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("run {command:?}"))?;
    // Where the command ended early the write fails, and its own words say more.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let words = utf8(&output.stderr);
        bail!("{command:?}: {}\n{words}on this input:\n{input}", output.status);
    }
    written.with_context(|| format!("write to {command:?}"))
}

fn utf8(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
