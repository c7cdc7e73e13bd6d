//! Processes of a cluster: started in their place, stopped by their own id, gone with their test.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::wait::{Look, until};

/// How long a process that was killed may take to be gone: the kernel returns its memory.
const END_WAIT: Duration = Duration::from_secs(10);
/// How many lines of a log an error shows: a Go panic's first goroutine fits.
const TAIL: usize = 25;

/// Where processes run.
#[derive(Debug, Clone, Default)]
pub enum Place {
    /// Where this process runs.
    #[default]
    Here,
    /// In the network namespace of this name.
    Network(String),
    /// In the network, mount, host name and process namespaces of this process.
    Process(u32),
}

/// How long processes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lifetime {
    /// Until their owner is dropped, and never longer than this process, however that ends.
    #[default]
    Owner,
    /// Until [`end_all`].
    Detached,
}

/// Starts processes in one place.
///
/// A thread of its own does it. One reason is that it can enter namespaces without moving anyone
/// else. The other is that the kernel's parent-death signal is sent when the *thread* ends that
/// started a process (prctl(2)), and a test's threads may be short-lived.
#[derive(Debug, Clone)]
pub struct Spawner {
    requests: mpsc::Sender<Request>,
    lifetime: Lifetime,
    place: Place,
}

#[derive(Debug)]
struct Request {
    command: Command,
    answer: mpsc::Sender<io::Result<Child>>,
}

impl Spawner {
    /// A spawner in a place.
    pub fn new(place: Place, lifetime: Lifetime) -> Result<Self> {
        let (requests, inbox) = mpsc::channel::<Request>();
        let here = place.clone();
        let (entered, outcome) = mpsc::channel();
        std::thread::spawn(move || {
            let there = place.enter();
            let failed = there.is_err();
            let _ = entered.send(there);
            if failed {
                return;
            }
            // Ends with the last clone of the spawner, which every daemon holds.
            for mut request in inbox {
                let _ = request.answer.send(request.command.spawn());
            }
        });
        outcome.recv().context("the thread that starts processes is gone")??;
        Ok(Self { requests, lifetime, place: here })
    }

    /// Where it starts them.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Starts a command whose standard streams are set.
    pub fn spawn(&self, command: Command) -> Result<Child> {
        let what = format!("start {command:?}");
        let (answer, child) = mpsc::channel();
        self.requests
            .send(Request { command, answer })
            .ok()
            .and_then(|()| child.recv().ok())
            .with_context(|| format!("{what}: the thread that starts processes is gone"))?
            .context(what)
    }

    /// A command that ends with this process.
    ///
    /// Its environment is empty but for a `PATH`: a proxy that the caller's names must not come
    /// between two processes of one cluster.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        bare("setpriv", &["--pdeathsig", "KILL", "--"], program.as_ref())
    }

    /// The same for what serves: it ends with this process, or is detached from it for good.
    pub fn serving(&self, program: impl AsRef<OsStr>) -> Command {
        match self.lifetime {
            Lifetime::Owner => self.command(program),
            // A session of its own: the terminal's end and its Ctrl-C are for others. It becomes
            // the program without forking, since it leads no process group.
            Lifetime::Detached => bare("setsid", &[], program.as_ref()),
        }
    }
}

fn bare(wrapper: &str, arguments: &[&str], program: &OsStr) -> Command {
    let mut command = Command::new(wrapper);
    command.args(arguments).arg(program).env_clear().env("PATH", PATH).stdin(Stdio::null());
    command
}

/// Where Debian has what the parts of a cluster call: `ip`, `iptables`, `mount`.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Place {
    /// Calls `work` there, on a thread of its own.
    pub(crate) fn visit<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let place = self.clone();
        let visit = std::thread::spawn(move || {
            place.enter()?;
            work()
        });
        visit.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Moves the calling thread there.
    fn enter(&self) -> Result<()> {
        match self {
            Self::Here => Ok(()),
            Self::Network(name) => {
                let path = Path::new("/run/netns").join(name);
                let handle = File::open(&path).with_context(|| path.display().to_string())?;
                setns(handle, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {name}"))
            }
            Self::Process(pid) => {
                let open = |(name, kind)| {
                    let path = format!("/proc/{pid}/ns/{name}");
                    Ok((File::open(&path).context(path)?, kind))
                };
                // All are opened before the mounts change. A process namespace is entered by what
                // is started from here on, not by this thread itself.
                let namespaces = [
                    ("net", CloneFlags::CLONE_NEWNET),
                    ("uts", CloneFlags::CLONE_NEWUTS),
                    ("pid", CloneFlags::CLONE_NEWPID),
                    ("mnt", CloneFlags::CLONE_NEWNS),
                ];
                let namespaces = namespaces.into_iter().map(open).collect::<Result<Vec<_>>>()?;
                // The kernel moves a thread to other mounts only when no other shares its root.
                unshare(CloneFlags::CLONE_FS)?;
                for (handle, kind) in namespaces {
                    setns(handle, kind).with_context(|| format!("enter {kind:?} of {pid}"))?;
                }
                Ok(())
            }
        }
    }
}

/// A process that serves until it is stopped.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    // Its thread lives as long as the process does.
    spawner: Spawner,
}

impl Daemon {
    /// Starts it; what it says is added to `NAME.log` in a folder, and `processes` there names it.
    pub fn start(
        spawner: &Spawner,
        folder: &Path,
        name: &str,
        mut command: Command,
    ) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| log.display().to_string())?;
        command.stdout(file.try_clone()?).stderr(file);
        let child = spawner.spawn(command)?;
        record(folder, name, child.id())?;
        Ok(Self { name: name.to_owned(), child, log, spawner: spawner.clone() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails with the end of its log where it has ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended: {status}\n{}", self.name, self.tail());
        }
        Ok(())
    }

    /// The last lines that it said.
    pub fn tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        format!("the end of {}:\n{tail}", self.log.display())
    }

    /// Kills it. What runs in a lab is made to survive that, and asking takes long: an API server
    /// that has watches is given up by them only after its request timeout, a minute.
    pub fn stop(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.spawner.lifetime == Lifetime::Owner {
            // An error means that it has ended already.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The file that names the processes of a folder.
const PROCESSES: &str = "processes";

/// A process as [`PROCESSES`] has it: an id alone may be another's by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it was started as.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// When it was started, in the kernel's clock ticks since boot.
    begun: u64,
}

impl Entry {
    fn of(name: &str, pid: u32) -> Result<Self> {
        let begun = begun(pid).with_context(|| format!("{name} ended at once"))?;
        Ok(Self { name: name.to_owned(), pid, begun })
    }

    fn line(&self) -> String {
        format!("{} {} {}", self.name, self.pid, self.begun)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let name = words.next()?.to_owned();
        Some(Self { name, pid: words.next()?.parse().ok()?, begun: words.next()?.parse().ok()? })
    }

    /// Kills it, where it still runs, and waits until it is gone.
    pub(super) fn end(&self) -> Result<()> {
        if !self.runs() {
            return Ok(());
        }
        kill(Pid::from_raw(i32::try_from(self.pid)?), Signal::SIGKILL)
            .with_context(|| format!("end {}", self.name))?;
        until(&format!("end of {}", self.name), END_WAIT, || {
            Ok(if self.runs() { Look::NotYet("it runs".into()) } else { Look::Seen(()) })
        })
    }

    /// Whether that very process still runs.
    pub fn runs(&self) -> bool {
        begun(self.pid) == Some(self.begun)
    }
}

/// Adds a process to those that were started in a folder.
pub(super) fn record(folder: &Path, name: &str, pid: u32) -> Result<Entry> {
    let entry = Entry::of(name, pid)?;
    let mut processes = File::options().create(true).append(true).open(folder.join(PROCESSES))?;
    writeln!(processes, "{}", entry.line())?;
    Ok(entry)
}

/// The processes that were started in a folder, in their order.
pub fn started_in(folder: &Path) -> Vec<Entry> {
    let text = fs::read_to_string(folder.join(PROCESSES)).unwrap_or_default();
    text.lines().filter_map(Entry::parse).collect()
}

/// Kills the detached processes of a folder, the last first.
pub fn end_all(folder: &Path) -> Result<()> {
    started_in(folder).iter().rev().try_for_each(Entry::end)
}

/// When a process was started; nothing where it has ended, and be it that nobody has asked for its
/// status yet. The fields of /proc/PID/stat are those of proc(5).
fn begun(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name in parentheses, may hold anything.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?;
    if state == "Z" { None } else { fields.nth(18)?.parse().ok() }
}
