//! A slow path: SYNs, or what answers them, wait in an NFQUEUE before they go on. Everything else is the
//! kernel's own.

use std::{
    collections::VecDeque,
    io::ErrorKind,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nfq::{Message, Queue, Verdict};
use serde::Deserialize;

use super::namespace::{Namespace, checked};

/// How long the thread rests where nothing is due.
const REST: Duration = Duration::from_millis(2);

/// Which packets wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// SYNs on their way to a server.
    There,
    /// Its answers on their way back.
    Back,
}

/// A slow path to the servers on a port of any pod; fast again when this is dropped.
#[derive(Debug)]
pub struct Slow {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Slow {
    /// Lets packets that a node forwards, over IPv4 and IPv6, wait so long. `folder`: for the lock of
    /// iptables.
    pub fn start(
        node: &Namespace,
        folder: &Path,
        port: u16,
        way: Way,
        delay: Duration,
    ) -> Result<Self> {
        // The port numbers the queue: no other is there twice.
        let queue = node.enter(|| {
            let mut queue = Queue::open().context("open an NFQUEUE")?;
            queue.bind(port).context("bind the NFQUEUE")?;
            queue.set_nonblocking(true);
            Ok(queue)
        })?;
        let (end, flags) = match way {
            Way::There => ("--dport", "SYN"),
            Way::Back => ("--sport", "SYN,ACK"),
        };
        let port = port.to_string();
        for program in ["iptables-legacy", "ip6tables-legacy"] {
            let mut command = node.command(program);
            command.env("XTABLES_LOCKFILE", folder.join("lock"));
            command.args(["-A", "FORWARD", "-p", "tcp", end, &port, "--tcp-flags", "SYN,ACK"]);
            checked(command.args([flags, "-j", "NFQUEUE", "--queue-num", &port]))?;
        }
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let thread = thread::spawn(move || hold(queue, delay, &over));
        Ok(Self { is_over, thread: Some(thread) })
    }
}

/// Lets packets go once they are due.
fn hold(mut queue: Queue, delay: Duration, is_over: &AtomicBool) {
    let mut waiting: VecDeque<(Instant, Message)> = VecDeque::new();
    while !is_over.load(Ordering::Relaxed) {
        match queue.recv() {
            Ok(message) => waiting.push_back((Instant::now() + delay, message)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::park_timeout(REST),
            Err(_) => return,
        }
        while waiting.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            let Some((_, mut message)) = waiting.pop_front() else { break };
            message.set_verdict(Verdict::Accept);
            // A packet whose namespace is going away takes no verdict.
            let _ = queue.verdict(message);
        }
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has no result, and a panic of it was reported.
            let _ = thread.join();
        }
    }
}
