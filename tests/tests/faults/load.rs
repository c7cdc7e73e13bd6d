//! Killed and stopped while packets are dropped as fast as a pod can send them.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use whydrop_tests::{
    kube::wait::{Look, until},
    world::{
        World as _,
        account::Account,
        netns::{NAME, Node},
    },
};

use super::{load, node, reported};

/// How long so many packets may take, on a busy machine.
const LOAD_WAIT: Duration = Duration::from_secs(60);
/// What is dropped while an agent is stopped: several times what the kernel keeps for it.
const MISSED: u64 = 100_000;

/// Counts what goes to the server, before it is dropped.
const COUNT: &str = "table inet whole {\n\
    chain forward {\n\
      type filter hook forward priority -10; policy accept;\n\
      ip daddr 10.7.0.11 counter comment \"whole\"\n\
    }\n\
  }\n";

/// Waits until so many more packets were sent to the server.
fn more(node: &Node, packets: u64) {
    let begin = node.counted("whole").expect("a counter");
    let enough = || {
        let now = node.counted("whole")?;
        Ok(if now >= begin + packets { Look::Seen(()) } else { Look::NotYet(now.to_string()) })
    };
    until("packets", LOAD_WAIT, enough).expect("a load");
}

#[test]
fn killed_under_load_its_successor_reports_and_its_account_balances() {
    let node = node();
    node.nft(COUNT).expect("a counter");
    let is_over = AtomicBool::new(false);
    let (records, sent) = thread::scope(|scope| {
        let load = scope.spawn(|| load(&node, &is_over));
        let work = || {
            let mut killed = node.agent(NAME).expect("it gets ready");
            let before = reported(&node, &mut killed, 0);
            more(&node, MISSED / 10);
            // With SIGKILL.
            drop(killed);
            let mut agent = node.agent(NAME).expect("it gets ready again");
            let after = reported(&node, &mut agent, 1);
            // What is one drop has one name; these are two.
            assert_ne!(before["id"], after["id"]);
            agent.stop_and_read().expect("records")
        };
        let records = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        is_over.store(true, Ordering::Relaxed);
        let sent = load.join().expect("no panic").expect("a load");
        (records.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), sent)
    });
    let account = Account::balanced(&records).expect("an account");
    assert!(account.packets("observed") > 1000, "{account:?}");
    assert!(account.packets("observed") < sent, "of its own time alone: {account:?}");
}

#[test]
fn what_it_missed_while_it_was_stopped_is_counted_to_the_packet() {
    let node = node();
    node.nft(COUNT).expect("a counter");
    let mut agent = node.agent(NAME).expect("it gets ready");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| load(&node, &is_over));
        let work = || {
            let process = Pid::from_raw(agent.pid().cast_signed());
            kill(process, Signal::SIGSTOP).expect("a signal");
            more(&node, MISSED);
            kill(process, Signal::SIGCONT).expect("a signal");
            reported(&node, &mut agent, 0);
        };
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        is_over.store(true, Ordering::Relaxed);
        load.join().expect("no panic").expect("a load");
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let account = Account::balanced(&agent.stop_and_read().expect("records")).expect("an account");
    assert_eq!(account.packets("observed"), node.counted("whole").expect("a counter"));
}
