//! The memory limit of its group is nearly reached: the agent takes nothing new upon itself, says so, and
//! is back once there is more.

use std::{
    fs,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::Value;
use whydrop_tests::{
    kube::{cgroups::Groups, daemon::Lifetime},
    world::{
        RECORD_WAIT, World as _,
        account::Account,
        agent::{Agent, binary},
        netns::NAME,
    },
};

use super::{PORT, is_drop_to, load, node, reported};

const MIB: u64 = 1 << 20;
/// What an agent has in a pod, by deploy/.
const LIMIT: u64 = 128 * MIB;

/// Control groups with a limit on memory, of version 1 as this machine has it; version 2 differs in the names of
/// its files, which a test of the agent's own reads.
struct Group(Groups);

impl Group {
    fn new() -> Self {
        let role = format!("{}-limit", std::process::id());
        Self(Groups::create(&role, Lifetime::Owner).expect("groups"))
    }

    fn limit(&self, bytes: u64) {
        fs::write(self.0.memory().join("memory.limit_in_bytes"), bytes.to_string())
            .expect("a limit");
    }

    fn number(&self, file: &str, line: &str) -> u64 {
        let text = fs::read_to_string(self.0.memory().join(file)).expect("a file");
        let found = text.lines().find_map(|text| text.strip_prefix(line));
        found.and_then(|number| number.trim().parse().ok()).unwrap_or_else(|| panic!("{text}"))
    }

    /// What it uses beside cached files.
    fn used(&self) -> u64 {
        let used = self.number("memory.usage_in_bytes", "");
        used - self.number("memory.stat", "total_cache ")
    }
}

#[test]
fn it_sheds_before_the_kernel_kills_it_and_is_back_when_there_is_more() {
    let node = node();
    let group = Group::new();
    group.limit(LIMIT);
    let network = node.network(NAME).expect("the node");
    let mut command = network.command("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "--",
        "sh",
        "-c",
        "echo $$ > $0/cgroup.procs && exec \"$@\"",
    ]);
    command.arg(group.0.memory()).arg(binary().expect("whydrop"));
    command.args(["agent", "--log-format", "json", "--node-name", NAME]);
    command.args(node.source().expect("manifests").arguments());
    let mut agent = Agent::spawn(&mut command).expect("it starts");
    agent.wait_ready().expect("it gets ready");
    reported(&node, &mut agent, 0);

    // Just above what is short, in bytes that are left to it.
    group.limit(group.used() * 100 / 92);
    let says = |record: &Value, state: &str| record["kind"] == "agent" && record["state"] == state;
    let short = |record: &Value| {
        says(record, "degraded") && record["what"].to_string().contains("memory is nearly used up")
    };
    agent.record("that memory is short", RECORD_WAIT, short).expect("it is reported");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| load(&node, &is_over));
        let to = SocketAddr::new(node.nth(1).ip.into(), PORT + 1);
        let connects = node.connects("frontend/pod-a", to);
        is_over.store(true, Ordering::Relaxed);
        load.join().expect("no panic").expect("a load");
        assert!(!connects.expect("a client"));
    });
    let lost =
        |record: &Value| says(record, "lost") && record.to_string().contains("dropped packets");
    agent.record("what is lost", RECORD_WAIT, lost).expect("it is counted");
    assert_eq!(group.number("memory.oom_control", "oom_kill "), 0);
    let is_drop = |heard: &whydrop_tests::world::agent::Heard| is_drop_to(&heard.record, PORT + 1);
    assert!(!agent.records().iter().any(is_drop), "{}", agent.said());

    group.limit(LIMIT);
    let back = agent.wait_for(RECORD_WAIT, |heard| {
        heard.iter().filter(|heard| says(&heard.record, "ready")).count() > 1
    });
    back.unwrap_or_else(|error| panic!("{error:#}\n{}", agent.said()));
    reported(&node, &mut agent, 2);
    let account = Account::balanced(&agent.stop_and_read().expect("records")).expect("an account");
    assert!(account.packets("shed") > 0, "{account:?}");
}
