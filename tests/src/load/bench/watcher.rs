//! Who watches a load: nobody, whydrop, or bpftrace.

use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::load::PORT;
use crate::world::{
    World as _,
    agent::{Agent, resident_mib},
    manifest::{self, documents, namespace, pod, running},
    netns::{NAME, Node},
};

/// How long bpftrace may take to attach.
const ATTACH_WAIT: Duration = Duration::from_secs(30);

/// What people write when they have no tool: every dropped TCP packet with its five-tuple.
const SCRIPT: &str = r#"
BEGIN { printf("attached\n"); }
tracepoint:skb:kfree_skb {
  $skb = (struct sk_buff *)args->skbaddr;
  $ip = (struct iphdr *)($skb->head + $skb->network_header);
  if ($ip->version == 4 && $ip->protocol == 6) {
    $tcp = (struct tcphdr *)($skb->head + $skb->network_header + ($ip->ihl * 4));
    printf("%s:%d -> %s:%d %d\n", ntop($ip->saddr), bswap($tcp->source), ntop($ip->daddr),
      bswap($tcp->dest), args->reason);
  }
}"#;

/// The same process from the shell on, so that its CPU time is found by its number.
const TRACE: &str = "mount -t tracefs tracefs /sys/kernel/tracing; exec bpftrace -e \"$1\"";

/// A kind of watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nobody.
    Nobody,
    /// The agent.
    Whydrop,
    /// A script of bpftrace's that prints five-tuples.
    Bpftrace,
}

/// What a watcher says of itself in the end.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Dropped packets that it passed on, one by one or counted.
    pub passed_on: u64,
    /// Dropped packets that it counted as lost.
    pub lost: u64,
    /// Dropped packets in its records, as the reader of the log sees them.
    pub reported: u64,
    /// Resident memory after the load, in MiB.
    pub resident_mib: f64,
    /// By program: runs, and nanoseconds in them.
    pub programs: BTreeMap<String, (u64, u64)>,
}

/// A watcher at work.
pub struct Watcher {
    inner: Inner,
    pids: Vec<u32>,
}

enum Inner {
    Nobody,
    Whydrop(Agent),
    Bpftrace(Child, tempfile::NamedTempFile),
}

impl Watcher {
    /// Starts one, and waits until it watches.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start(kind: Kind, node: &mut Node) -> Result<Self> {
        match kind {
            Kind::Nobody => Ok(Self { inner: Inner::Nobody, pids: Vec::new() }),
            Kind::Whydrop => {
                node.apply(&manifests(node))?;
                let agent = node.agent(NAME)?;
                let pids = vec![agent.pid()];
                Ok(Self { inner: Inner::Whydrop(agent), pids })
            }
            Kind::Bpftrace => {
                let output = tempfile::NamedTempFile::new()?;
                // A mount namespace of its own: not every machine has tracefs mounted.
                let mut child = Command::new("unshare")
                    .args(["--mount", "sh", "-c", TRACE, "sh", SCRIPT])
                    .stdin(Stdio::null())
                    .stdout(output.reopen()?)
                    .stderr(Stdio::null())
                    .spawn()
                    .context("start bpftrace")?;
                let deadline = std::time::Instant::now() + ATTACH_WAIT;
                while !fs::read_to_string(output.path())?.contains("attached") {
                    ensure!(child.try_wait()?.is_none(), "bpftrace ended");
                    ensure!(std::time::Instant::now() < deadline, "bpftrace did not attach");
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                let pids = vec![child.id()];
                Ok(Self { inner: Inner::Bpftrace(child, output), pids })
            }
        }
    }

    /// Its processes.
    pub fn pids(&self) -> &[u32] {
        &self.pids
    }

    /// Ends it, and says what it did.
    ///
    /// # Errors
    /// Where it does not end as it should.
    pub fn stop(self) -> Result<Account> {
        let resident_mib = self.pids.first().map_or(Ok(0.0), |pid| resident_mib(*pid))?;
        match self.inner {
            Inner::Nobody => Ok(Account::default()),
            Inner::Whydrop(agent) => {
                let records = agent.stop_and_read()?;
                Ok(Account { resident_mib, ..account(&records)? })
            }
            Inner::Bpftrace(mut child, output) => {
                kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGINT)?;
                child.wait()?;
                let lines = fs::read_to_string(output.path())?;
                let passed_on = lines.lines().filter(|line| line.contains("-> 10.8.")).count();
                let passed_on = u64::try_from(passed_on)?;
                Ok(Account { passed_on, reported: passed_on, resident_mib, ..Account::default() })
            }
        }
    }
}

/// Adds up what the agent wrote.
fn account(records: &[Value]) -> Result<Account> {
    let mut account = Account::default();
    let mut attempts: BTreeMap<String, u64> = BTreeMap::new();
    for record in records {
        let kind = record["kind"].as_str().unwrap_or_default();
        match (kind, record["state"].as_str()) {
            ("drop", _) => {
                // The latest record of a drop has the sum.
                let id = record["id"].as_str().unwrap_or_default().to_owned();
                attempts.insert(id, record["evidence"]["attempts"].as_u64().unwrap_or_default());
            }
            ("agent", Some("folded")) => {
                account.reported += record["packets"].as_u64().unwrap_or_default();
            }
            ("agent", Some("stopping")) => {
                let counts = record["counts"].as_object().context("counts")?;
                let count = |what: &str| counts.get(what).and_then(Value::as_u64).unwrap_or(0);
                account.passed_on = count("dropped packets reported to the agent");
                account.lost = count("dropped packets lost in the kernel");
                for (what, value) in counts {
                    let value = value.as_u64().unwrap_or_default();
                    if let Some(program) = what.strip_prefix("runs of ") {
                        account.programs.entry(program.to_owned()).or_default().0 = value;
                    } else if let Some(program) = what.strip_prefix("ns in ") {
                        account.programs.entry(program.to_owned()).or_default().1 = value;
                    }
                }
            }
            _ => {}
        }
    }
    account.reported += attempts.values().sum::<u64>();
    Ok(account)
}

/// The cluster of the lab: the first pod may reach the second one's port, and nothing else.
fn manifests(node: &Node) -> String {
    let pods = [("shop/client", 0), ("shop/server", 1)]
        .map(|(key, number)| running(pod(key), NAME, &[node.nth(number).ip.into()]));
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "client-egress", "namespace": "shop" },
        "spec": {
            "podSelector": { "matchLabels": { "app": "client" } },
            "policyTypes": ["Egress"],
            "egress": [{
                "to": [{ "podSelector": { "matchLabels": { "app": "server" } } }],
                "ports": [{ "port": PORT }],
            }],
        },
    });
    let own = [manifest::node(NAME, "10.7.0.0/24", [192, 168, 77, 2].into()), namespace("shop")];
    documents(own.iter().chain(&pods).chain([&policy]))
}
