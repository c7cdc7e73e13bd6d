//! The real agent, as a process on a lab's node.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
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

use crate::lab::namespace::Namespace;

/// How long the agent may take to load its programs and attach them, on a busy machine.
const READY_WAIT: Duration = Duration::from_secs(30);
/// How long the agent may take to end once it was told to.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// Between two looks whether a process has ended.
const LOOK: Duration = Duration::from_millis(10);

/// A record of the agent's.
#[derive(Debug, Clone)]
pub struct Heard {
    /// When it was printed.
    pub at: Instant,
    /// What it says.
    pub record: Value,
}

impl Heard {
    /// The incident of one flow goes by one id, however often it is told.
    pub fn id(&self) -> Option<&str> {
        self.record["id"].as_str()
    }

    /// How many attempts it speaks of.
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
    /// Starts `whydrop agent` over a folder of manifests on a node.
    pub fn start(node: &Namespace, name: &str, manifests: &Path) -> Result<Self> {
        Self::start_with(node, name, manifests, &[])
    }

    /// The same, with more flags.
    pub fn start_with(
        node: &Namespace,
        name: &str,
        manifests: &Path,
        more: &[&str],
    ) -> Result<Self> {
        // Ends with us, however we end: `kill` from a lab's drop does not run when we are killed.
        let mut command = node.command("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(binary()?);
        command.args(["agent", "--log-format", "json", "--node-name", name, "--manifests"]);
        command.arg(manifests).args(more);
        Self::spawn(&mut command)
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
            .context("the agent did not get ready")
    }

    /// Waits until `enough` says so of all records there were.
    pub fn wait_for(
        &mut self,
        patience: Duration,
        mut enough: impl FnMut(&[Heard]) -> bool,
    ) -> Result<()> {
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
                Err(mpsc::RecvTimeoutError::Timeout) => bail!("nothing for {patience:?}"),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = self.wait_end(STOP_WAIT)?;
                    bail!("the agent ended: {status}");
                }
            }
        }
        Ok(())
    }

    /// Every record so far.
    pub fn records(&self) -> &[Heard] {
        &self.records
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

    /// Tells the agent to end, and checks that it does so cleanly.
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
        kill(process, Signal::SIGTERM).context("tell the agent to end")?;
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
        format!("no {name} beside this program: build it with `cargo build -p {name}`")
    })
}
