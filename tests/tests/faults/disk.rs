//! Disks that are full, and an output that nobody has any more.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    fcntl::OFlag,
    sys::signal::{Signal, kill},
    unistd::{Pid, pipe2},
};
use serde_json::Value;
use tempfile::TempDir;
use whydrop::state::last_answers;
use whydrop_tests::{
    kube::wait::{Look, until},
    world::{
        RECORD_WAIT, World as _,
        agent::Agent,
        namespace::checked,
        netns::{NAME, Node},
    },
};

use super::{PORT, is_drop_to, node, reported};

/// How many connects are reported in vain: more than there is room for.
const LOST: u16 = 3;

/// A disk of one megabyte, unmounted when dropped.
struct Disk(TempDir);

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(folder.path());
        checked(&mut mount).expect("a disk");
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves no room, or room again.
    fn fill(&self) {
        let filling = fs::write(self.path().join("filling"), vec![0; 2 << 20]);
        assert_eq!(filling.map_err(|error| error.raw_os_error()), Err(Some(nix::libc::ENOSPC)));
    }

    fn empty(&self) {
        fs::remove_file(self.path().join("filling")).expect("room");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Best effort, as all that is left behind.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).output();
    }
}

#[test]
fn a_full_disk_under_its_state_is_reported_and_used_again_when_there_is_room() {
    let node = node();
    let disk = Disk::new();
    let mut command = node.agent_command(NAME).expect("whydrop");
    command.arg("--state-directory").arg(disk.path().join("state"));
    let mut agent = Agent::spawn(&mut command).expect("it starts");
    agent.wait_ready().expect("it gets ready");
    disk.fill();
    // An answer is something to keep.
    node.stand_in_for(1, true).expect("no rules");
    let listen = || Ok(std::net::TcpListener::bind(("0.0.0.0", PORT + 9))?);
    let _server = node.nth(1).network.enter(listen).expect("a server");
    let to = (node.nth(1).ip, PORT + 9).into();
    assert!(node.connects("frontend/pod-a", to).expect("a client"));
    let full = |record: &Value| {
        record["state"] == "degraded" && record["what"].to_string().contains("No space left")
    };
    agent.record("that the disk is full", RECORD_WAIT, full).expect("it is reported");
    node.stand_in_for(1, false).expect("rules");
    reported(&node, &mut agent, 0);

    disk.empty();
    until("the answer on the disk", RECORD_WAIT, || {
        let file = disk.path().join("state").join(last_answers::NAME);
        let kept = fs::read_to_string(file).unwrap_or_default();
        let is_kept = kept.contains(&format!(",{},", PORT + 9));
        Ok(if is_kept { Look::Seen(()) } else { Look::NotYet(kept) })
    })
    .expect("what it knows");
    agent.stop().expect("it ends");
}

/// An agent whose records go where they may not arrive.
struct Writer(Child);

impl Writer {
    fn start(node: &Node, out: Stdio) -> Self {
        let mut command = node.agent_command(NAME).expect("whydrop");
        command.args(["--health-address", "127.0.0.1:9473"]);
        command.stdin(Stdio::null()).stdout(out).stderr(Stdio::null());
        let agent = Self(command.spawn().expect("it starts"));
        until("a ready agent", RECORD_WAIT, || {
            let ready = node.namespace().command("curl");
            let ready = asked(ready, "readyz");
            Ok(if ready == "ok\n" { Look::Seen(()) } else { Look::NotYet(ready) })
        })
        .expect("it gets ready");
        agent
    }

    /// Ends it, and expects that it does so well.
    fn stop(mut self) {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM).expect("a signal");
        let status = until("an end", RECORD_WAIT, || {
            Ok(self.0.try_wait()?.map_or_else(|| Look::NotYet("it runs".to_owned()), Look::Seen))
        });
        assert_eq!(status.expect("it ends").code(), Some(0));
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn asked(mut curl: Command, what: &str) -> String {
    curl.args(["-qsf", "--max-time", "5", &format!("http://127.0.0.1:9473/{what}")]);
    checked(&mut curl).unwrap_or_default()
}

/// Dials the server's port of this number, in vain.
fn dial(node: &Node, number: u16) {
    let to = (node.nth(1).ip, PORT + number).into();
    assert!(!node.connects("frontend/pod-a", to).expect("a client"), "it connects to {to}");
}

/// How many records were lost on their way to the log, by the metrics.
fn lost_records(node: &Node) -> u64 {
    let page = asked(node.namespace().command("curl"), "metrics");
    let line =
        page.lines().find_map(|line| line.strip_prefix("whydrop_lost_total{what=\"records\"} "));
    line.and_then(|count| count.parse().ok()).unwrap_or_default()
}

#[test]
fn records_that_find_no_room_on_the_disk_are_counted_and_later_ones_are_whole() {
    let node = node();
    let disk = Disk::new();
    let log = disk.path().join("log");
    let agent = Writer::start(&node, File::create(&log).expect("a log").into());
    disk.fill();
    // What is left of the log's last page takes a record or two.
    for number in 0..LOST {
        dial(&node, number);
    }
    until("a record that is lost", RECORD_WAIT, || {
        let lost = lost_records(&node);
        Ok(if lost > 0 { Look::Seen(()) } else { Look::NotYet(lost.to_string()) })
    })
    .expect("it is counted");
    disk.empty();
    dial(&node, LOST);
    until("a record", RECORD_WAIT, || {
        let text = fs::read_to_string(&log)?;
        let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let found = records.into_iter().any(|record| is_drop_to(&record, PORT + LOST));
        Ok(if found { Look::Seen(()) } else { Look::NotYet(text) })
    })
    .expect("it is written");
    agent.stop();
    let text = fs::read_to_string(&log).expect("the log");
    let told = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let told = told.filter(|record| record["state"] == "lost").map(|record| record.to_string());
    let told: String = told.collect();
    assert!(told.contains("records for a slow reader of the log"), "{text}");
}

#[test]
fn an_output_that_is_closed_ends_nothing() {
    let node = node();
    // The agent is not to have the other end.
    let (read, write) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    let agent = Writer::start(&node, Stdio::from(write));
    drop(read);
    dial(&node, 0);
    until("a record that is lost", RECORD_WAIT, || {
        let lost = lost_records(&node);
        Ok(if lost > 0 { Look::Seen(()) } else { Look::NotYet(lost.to_string()) })
    })
    .expect("it is counted");
    assert_eq!(asked(node.namespace().command("curl"), "healthz"), "ok\n");
    agent.stop();
}
