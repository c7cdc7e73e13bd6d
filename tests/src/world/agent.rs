//! The real agent, as a process on a lab's node.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use whydrop::report::Record;

use crate::world::namespace::Network;

/// How long the agent may take to load its programs and attach them, on a busy machine or an emulated one.
const READY_WAIT: Duration = Duration::from_secs(90);
/// How long the agent may take to end once it was asked to.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// Between two looks whether a process has ended.
const LOOK: Duration = Duration::from_millis(10);
/// How long to listen to an agent before what goes on meanwhile goes on.
const LISTEN: Duration = Duration::from_millis(500);

/// What whydrop reads a cluster from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// The API server that this file leads to.
    Kubeconfig(PathBuf),
}

impl Source {
    /// The flag, and its value.
    pub fn arguments(&self) -> [&OsStr; 2] {
        match self {
            Self::Manifests(folder) => ["--manifests".as_ref(), folder.as_os_str()],
            Self::Kubeconfig(file) => ["--kubeconfig".as_ref(), file.as_os_str()],
        }
    }
}

/// `whydrop`, run in a network; it ends with this process, however that ends: `kill` from a test's
/// drop does not run when the test is killed.
pub fn whydrop(network: &Network) -> Result<Command> {
    let mut command = network.command("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(binary()?);
    Ok(command)
}

/// A record of the agent's.
#[derive(Debug, Clone)]
pub struct Heard {
    /// When it was printed.
    pub at: Instant,
    /// What it says.
    pub record: Value,
}

impl Heard {
    /// The drop of one flow has one id, however often it is reported.
    pub fn id(&self) -> Option<&str> {
        self.record["id"].as_str()
    }

    /// How many attempts it is about.
    pub fn attempts(&self) -> Option<u64> {
        self.record["evidence"]["attempts"].as_u64()
    }
}

/// What an agent has printed, and who else is to read it as it comes.
#[derive(Debug, Default)]
struct Feed {
    lines: Vec<String>,
    readers: Vec<ChildStdin>,
}

impl Feed {
    fn push(&mut self, line: &str) {
        self.lines.push(line.to_owned());
        // One that has ended reads no more.
        self.readers.retain_mut(|reader| writeln!(reader, "{line}").is_ok());
    }
}

/// A running agent; killed when dropped.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    lines: mpsc::Receiver<String>,
    records: Vec<Heard>,
    stderr: Arc<Mutex<String>>,
    feed: Arc<Mutex<Feed>>,
}

impl Agent {
    /// The command of an agent in the network of this node, with its records as JSON.
    pub fn command(network: &Network, node: &str, source: &Source) -> Result<Command> {
        let mut command = whydrop(network)?;
        command.args(["agent", "--log-format", "json", "--node-name", node]);
        command.args(source.arguments());
        Ok(command)
    }

    /// Starts any command that prints records.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null());
        Ok(Self::spawn_with(command)?.0)
    }

    /// The same, of one that reads on its standard input what this agent has printed, and goes on
    /// to print.
    pub fn spawn_reader(&self, command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::piped());
        let (reader, stdin) = Self::spawn_with(command)?;
        let mut stdin = stdin.context("standard input")?;
        let mut feed = self.feed.lock().unwrap_or_else(PoisonError::into_inner);
        for line in &feed.lines {
            writeln!(stdin, "{line}")?;
        }
        feed.readers.push(stdin);
        Ok(reader)
    }

    fn spawn_with(command: &mut Command) -> Result<(Self, Option<ChildStdin>)> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let stdin = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (sender, lines) = mpsc::channel();
        let feed = Arc::<Mutex<Feed>>::default();
        let fed = Arc::clone(&feed);
        // The threads end when the pipes close, with the process.
        std::thread::spawn(move || {
            for line in stdout.into_iter().flat_map(|out| BufReader::new(out).lines()).flatten() {
                fed.lock().unwrap_or_else(PoisonError::into_inner).push(&line);
                let _ = sender.send(line);
            }
        });
        let words = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&words);
        std::thread::spawn(move || {
            for line in stderr.into_iter().flat_map(|err| BufReader::new(err).lines()).flatten() {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.push_str(&line);
                heard.push('\n');
            }
        });
        Ok((Self { child, lines, records: Vec::new(), stderr: words, feed }, stdin))
    }

    /// Waits until the agent says that it is ready.
    pub fn wait_ready(&mut self) -> Result<()> {
        let ready =
            |heard: &Heard| heard.record["kind"] == "agent" && heard.record["state"] == "ready";
        self.wait_for(READY_WAIT, |records| records.iter().any(ready))
            .with_context(|| format!("the agent did not get ready\n{}", self.stderr()))
    }

    /// Waits until `enough` says so of all records there were.
    pub fn wait_for(
        &mut self,
        patience: Duration,
        enough: impl FnMut(&[Heard]) -> bool,
    ) -> Result<()> {
        ensure!(self.listen(patience, enough)?, "nothing for {patience:?}");
        Ok(())
    }

    /// Listens until `enough` says so, or for so long: whether it did.
    pub fn listen(
        &mut self,
        patience: Duration,
        mut enough: impl FnMut(&[Heard]) -> bool,
    ) -> Result<bool> {
        let deadline = Instant::now() + patience;
        while !enough(&self.records) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    // Strictly: a field that the schema does not know is a fault.
                    let _: Record = serde_json::from_str(&line)
                        .with_context(|| format!("not a record of the schema: {line}"))?;
                    let record = serde_json::from_str(&line)?;
                    self.records.push(Heard { at: Instant::now(), record });
                }
                Err(mpsc::RecvTimeoutError::Timeout) => return Ok(false),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = self.wait_end(STOP_WAIT)?;
                    bail!("the agent ended: {status}");
                }
            }
        }
        Ok(true)
    }

    /// Waits for the first record that is like this.
    pub fn record(
        &mut self,
        what: &str,
        patience: Duration,
        like: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        self.record_while(what, patience, like, || Ok(()))
    }

    /// The same, while something goes on.
    pub fn record_while(
        &mut self,
        what: &str,
        patience: Duration,
        like: impl Fn(&Value) -> bool,
        mut meanwhile: impl FnMut() -> Result<()>,
    ) -> Result<Value> {
        let deadline = Instant::now() + patience;
        loop {
            meanwhile()?;
            self.listen(LISTEN, |heard| heard.iter().any(|heard| like(&heard.record)))
                .with_context(|| self.said())?;
            if let Some(heard) = self.records.iter().find(|heard| like(&heard.record)) {
                return Ok(heard.record.clone());
            }
            ensure!(Instant::now() < deadline, "no {what} within {patience:?}\n{}", self.said());
        }
    }

    /// Listens for a moment, whatever comes.
    pub fn catch_up(&mut self) -> Result<()> {
        self.listen(Duration::ZERO, |_| false).map(drop)
    }

    /// Every record so far.
    pub fn records(&self) -> &[Heard] {
        &self.records
    }

    /// How many records of this kind there were.
    pub fn count(&self, kind: &str) -> usize {
        self.records.iter().filter(|heard| heard.record["kind"] == kind).count()
    }

    /// Everything that it has said, for an error.
    pub fn said(&self) -> String {
        let lines: Vec<String> =
            self.records.iter().map(|heard| heard.record.to_string()).collect();
        format!("{}\n{}", lines.join("\n"), self.stderr())
    }

    /// What was said on standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory in MiB.
    pub fn resident_mib(&self) -> Result<f64> {
        resident_mib(self.pid())
    }

    /// Asks the agent to end, and checks that it does so cleanly.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    /// The same, and returns every record there was, to the last.
    pub fn stop_and_read(mut self) -> Result<Vec<Value>> {
        self.end()?;
        let mut records: Vec<Value> = self.records.iter().map(|h| h.record.clone()).collect();
        while let Ok(line) = self.lines.recv_timeout(STOP_WAIT) {
            records.push(serde_json::from_str(&line)?);
        }
        Ok(records)
    }

    fn end(&mut self) -> Result<()> {
        let process = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(process, Signal::SIGTERM).context("ask the agent to end")?;
        let status = self.wait_end(STOP_WAIT)?;
        ensure!(status.code() == Some(0), "on SIGTERM the agent ended with {status}, not 0");
        Ok(())
    }

    /// Waits for the process to end by itself.
    pub fn wait_end(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "the agent did not end within {patience:?}");
            std::thread::park_timeout(LOOK);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The resident memory of a process, in MiB.
pub fn resident_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.context("VmRSS")? / 1024.0)
}

/// Where the program under test is: `$WHYDROP`, else beside the program that is running.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("WHYDROP") {
        return Ok(path.into());
    }
    beside("whydrop")
}

/// A program of this workspace, which lies where the program that is running does.
pub fn beside(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let folders = this.ancestors().skip(1).take(2);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file()).with_context(|| {
        format!("no {name} beside this program: build it with `cargo build --workspace --bins`")
    })
}
