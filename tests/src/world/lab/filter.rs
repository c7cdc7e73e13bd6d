//! Stand-ins for a CNI: rules in the kernel, or a user-space filter behind an NFQUEUE.

use std::{
    fmt::Write as _,
    fs,
    io::ErrorKind,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};
use nfq::{Queue, Verdict};
use tempfile::TempDir;

use super::Lab;
use crate::{
    play::scenario::{Rule, Rules},
    world::namespace::{Namespace, checked, feed},
};

/// The queue that `steer` rules name.
const QUEUE: u16 = 100;
/// How long the user-space filter rests when there is no packet: the queue cannot be waited for
/// together with the word to stop.
const QUEUE_REST: Duration = Duration::from_millis(2);

/// Begins each ruleset, so that it replaces the one before in a single transaction.
const REPLACE: &str = "table inet cni {}\ndelete table inet cni\n";

/// The rules in force.
#[derive(Debug)]
pub struct Enforcement {
    folder: PathBuf,
    /// Where `iptables-legacy` locks: not the machine's own lock, which other tests would wait for.
    lock: TempDir,
    queue: Option<UserSpaceFilter>,
}

impl Enforcement {
    /// Nothing is filtered yet; files of rules will be read from `folder`.
    pub fn new(folder: &Path) -> Result<Self> {
        Ok(Self { folder: folder.to_owned(), lock: tempfile::tempdir()?, queue: None })
    }

    /// Puts rules in force, in place of those before.
    pub fn switch(&mut self, lab: &Lab, rules: &Rules) -> Result<()> {
        match rules {
            Rules::Nftables(file) => self.nftables(&lab.node, file),
            Rules::Elsewhere(file) => self.nftables(&lab.outside, file),
            Rules::IptablesLegacy(file) => self.iptables(&lab.node, file),
            Rules::Nfqueue { steer, verdicts } => {
                let rules: Vec<Rule> = serde_saphyr::from_str(&self.read(verdicts)?)
                    .with_context(|| verdicts.display().to_string())?;
                match &self.queue {
                    // One queue for good: the kernel is slow to let go of one that is closed.
                    Some(queue) => queue.switch(rules),
                    None => self.queue = Some(UserSpaceFilter::start(&lab.node, rules)?),
                }
                self.iptables(&lab.node, steer)
            }
        }
    }

    /// What the kernel counted, for a report of failure.
    pub fn counters(&self, lab: &Lab) -> String {
        let mut text = String::new();
        for (title, mut command) in
            [("nft", lab.node.command("nft")), ("nft, outside", lab.outside.command("nft"))]
        {
            let rules = checked(command.args(["list", "ruleset"])).unwrap_or_default();
            let _ = writeln!(text, "[{title}]\n{rules}");
        }
        for table in ["filter", "nat", "mangle", "raw"] {
            let mut command = self.xtables(&lab.node, "iptables-legacy");
            let rules = checked(command.args(["-t", table, "-nvL"])).unwrap_or_default();
            if rules.contains("pkts")
                && rules.lines().any(|line| line.starts_with(char::is_numeric))
            {
                let _ = writeln!(text, "[iptables {table}]\n{rules}");
            }
        }
        text
    }

    fn nftables(&self, namespace: &Namespace, file: &Path) -> Result<()> {
        let rules = self.read(file)?;
        feed(namespace.command("nft").args(["-f", "-"]), &format!("{REPLACE}{rules}"))
            .with_context(|| file.display().to_string())
    }

    fn iptables(&self, namespace: &Namespace, file: &Path) -> Result<()> {
        let rules = self.read(file)?;
        feed(&mut self.xtables(namespace, "iptables-legacy-restore"), &rules)
            .with_context(|| file.display().to_string())
    }

    fn xtables(&self, namespace: &Namespace, program: &str) -> std::process::Command {
        let mut command = namespace.command(program);
        command.env("XTABLES_LOCKFILE", self.lock.path().join("lock"));
        command
    }

    fn read(&self, file: &Path) -> Result<String> {
        let path = self.folder.join(file);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }
}

/// A thread that gives verdicts on queued packets, until dropped.
#[derive(Debug)]
struct UserSpaceFilter {
    rules: Arc<Mutex<Vec<Rule>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UserSpaceFilter {
    fn start(namespace: &Namespace, rules: Vec<Rule>) -> Result<Self> {
        let mut queue = namespace.enter(|| {
            let mut queue = Queue::open().context("open an NFQUEUE")?;
            queue.bind(QUEUE).context("bind the NFQUEUE")?;
            queue.set_nonblocking(true);
            Ok(queue)
        })?;
        let rules = Arc::new(Mutex::new(rules));
        let stop = Arc::new(AtomicBool::new(false));
        let (in_force, stopped) = (Arc::clone(&rules), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match queue.recv() {
                    Ok(mut message) => {
                        let rules = in_force.lock().unwrap_or_else(PoisonError::into_inner);
                        let accept = accepts(&rules, message.get_payload());
                        drop(rules);
                        message.set_verdict(if accept { Verdict::Accept } else { Verdict::Drop });
                        // A packet whose namespace is going away takes no verdict.
                        let _ = queue.verdict(message);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        std::thread::park_timeout(QUEUE_REST);
                    }
                    Err(_) => return,
                }
            }
        });
        Ok(Self { rules, stop, thread: Some(thread) })
    }

    fn switch(&self, rules: Vec<Rule>) {
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
    }
}

impl Drop for UserSpaceFilter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The first rule that matches an IPv4 packet decides; none accepts.
fn accepts(rules: &[Rule], packet: &[u8]) -> bool {
    let Some(header) = packet.first().map(|first| usize::from(first & 0x0f) * 4) else {
        return true;
    };
    let address = |at: usize| {
        let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::from(octets))
    };
    let ports = packet.get(header + 2..header + 4).and_then(|bytes| bytes.try_into().ok());
    let port = ports.map(u16::from_be_bytes);
    let within = |net: Option<ipnet::IpNet>, at| {
        net.is_none_or(|net| address(at).is_some_and(|address| net.contains(&address)))
    };
    rules
        .iter()
        .find(|rule| {
            within(rule.from, 12)
                && within(rule.to, 16)
                && rule.protocol.is_none_or(|protocol| packet.get(9) == Some(&protocol))
                && rule.port.is_none_or(|wanted| port == Some(wanted))
        })
        .is_none_or(|rule| rule.accept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::lab::packet::syn;

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules: Vec<Rule> = serde_saphyr::from_str(
            "- {comment: a friend, from: 10.0.0.1/32, port: 80, accept: true}\n\
             - {comment: the rest, to: 10.0.0.0/24, protocol: 6, accept: false}\n",
        )
        .expect("rules");
        for (source, destination, port, accepted) in [
            ([10, 0, 0, 1], [10, 0, 0, 9], 80, true),
            ([10, 0, 0, 1], [10, 0, 0, 9], 81, false),
            ([10, 0, 0, 2], [10, 0, 0, 9], 80, false),
            ([10, 0, 0, 2], [10, 0, 1, 9], 80, true),
        ] {
            let packet = syn((source.into(), 1), (destination.into(), port), 1);
            assert_eq!(accepts(&rules, &packet), accepted, "{source:?} {destination:?} {port}");
        }
    }
}
