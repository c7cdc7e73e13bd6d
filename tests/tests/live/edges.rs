//! What an agent waits for, what it holds, and what the machine does meanwhile: a clock that is set, readers
//! that do not read, no descriptors, a name that somebody else has. It goes on, or ends in time, and what it
//! has seen is in the account.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::fs::FileExt as _,
        unix::net::{SocketAddr as LocalAddress, UnixListener},
    },
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use caps::{CapSet, Capability};
use jiff::{SignedDuration, Timestamp};
use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::{
        signal::{Signal, kill},
        socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket},
        stat::Mode,
    },
    unistd::{Pid, mkfifo, pipe},
};
use serde_json::Value;
use whydrop_tests::{
    kube::wait::{Look, until},
    world::{
        RECORD_WAIT, World as _,
        account::Account,
        agent::Agent,
        lab::{packet, server::raw},
        manifest,
        namespace::checked,
        netns::{NAME, Node},
    },
};

use crate::fixture::{PORT, dropped, states, to};

/// How long an agent may take to end: it waits some seconds for each that does not answer.
const END_WAIT: Duration = Duration::from_secs(20);

/// A node with a client and a server, to which nothing passes.
fn node() -> Node {
    let mut node = Node::new(2).expect("a node");
    for pod in ["frontend/pod-a", "backend/pod-b"] {
        node.run(&manifest::pod(pod)).expect("a pod");
    }
    node.stand_in_for(1, false).expect("rules");
    node
}

fn set_limit(agent: &Agent, descriptors: usize) {
    let mut command = Command::new("prlimit");
    command.arg("--pid").arg(agent.pid().to_string()).arg(format!("--nofile={descriptors}:"));
    checked(&mut command).expect("a limit");
}

#[test]
fn a_clock_that_is_set_holds_nothing_up_and_records_have_its_time() {
    let node = node();
    let folder = tempfile::tempdir().expect("a folder");
    let (library, shift) = (folder.path().join("clock.so"), folder.path().join("shift"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/clock.c");
    let mut cc = Command::new("cc");
    checked(cc.args(["-shared", "-fPIC", "-o"]).args([&library, &source])).expect("compiled");
    // Never shorter than what is mapped.
    let file = fs::File::create(&shift).expect("a file");
    let set = |by: SignedDuration| file.write_all_at(&by.as_secs().to_ne_bytes(), 0).expect("set");
    set(SignedDuration::ZERO);
    let mut command = node.agent_command(NAME).expect("whydrop");
    command.env("LD_PRELOAD", &library).env("WHYDROP_TEST_SHIFT", &shift);
    let mut agent = Agent::spawn(&mut command).expect("it starts");
    agent.wait_ready().expect("it gets ready");
    let hour = SignedDuration::from_hours(1);
    for (number, by) in [(0, SignedDuration::ZERO), (1, -hour), (2, hour)] {
        set(by);
        let to = SocketAddr::new(to(&node, 1).ip(), PORT + number);
        dropped(&node, "frontend/pod-a", to);
        let is_its = |record: &Value| {
            record["kind"] == "drop" && record["flow"]["destination"]["port"] == to.port()
        };
        // Of the moment at which the clock was set, too.
        agent.record("drop", RECORD_WAIT, is_its).expect("it is reported");
        let readies = agent.wait_for(RECORD_WAIT, |heard| {
            let ready = heard.iter().filter(|heard| heard.record["state"] == "ready");
            ready.count() > usize::from(number)
        });
        readies.unwrap_or_else(|error| panic!("{error:#}\n{}", agent.said()));
        let ready = states(&agent, "ready").last().expect("a record");
        let time: Timestamp = ready["time"].as_str().and_then(|t| t.parse().ok()).expect("a time");
        let off = (Timestamp::now() + by).duration_since(time).abs();
        assert!(off < SignedDuration::from_mins(1), "{number}: {off:#} off: {ready}");
    }
    let why: Vec<_> = states(&agent, "stopping").map(|record| record["why"].to_string()).collect();
    assert!(why.len() == 2 && why[0].contains("set back by 1h"), "{why:?}");
    assert!(why[1].contains("set forward by 2h"), "{why:?}");
    agent.stop().expect("it ends");
}

/// A pipe that is full, and that nobody reads.
fn full() -> (OwnedFd, Stdio) {
    const PAGE: usize = 4096;
    let (read, write) = pipe().expect("a pipe");
    fcntl(&write, FcntlArg::F_SETPIPE_SZ(4096)).expect("a size");
    assert_eq!(nix::unistd::write(&write, &[b'x'; PAGE]), Ok(PAGE));
    (read, Stdio::from(write))
}

#[test]
fn streams_that_nobody_reads_hold_up_neither_its_work_nor_its_end() {
    let node = node();
    let state = tempfile::tempdir().expect("a folder");
    let ((_out, out), (_err, err)) = (full(), full());
    let mut command = node.agent_command(NAME).expect("whydrop");
    command.args(["--health-address", "127.0.0.1:9473", "--state-directory"]).arg(state.path());
    let mut agent =
        command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().expect("it starts");
    // That it is ready, and how many last answers it has read.
    let both_wait = until("both streams to be waited for", RECORD_WAIT, || {
        let threads = fs::read_dir(format!("/proc/{}/task", agent.id()))?.flatten();
        let at = threads.filter_map(|thread| fs::read_to_string(thread.path().join("wchan")).ok());
        let at: Vec<String> = at.collect();
        let count = at.iter().filter(|at| at.contains("pipe_write")).count();
        Ok(if count == 2 { Look::Seen(()) } else { Look::NotYet(format!("{at:?}")) })
    });
    let alive = node
        .namespace()
        .command("curl")
        .args(["-qsf", "--max-time", "5", "http://127.0.0.1:9473/healthz"])
        .output()
        .expect("curl");
    kill(Pid::from_raw(agent.id().cast_signed()), Signal::SIGTERM).expect("a signal");
    let ended = until("an end", END_WAIT, || {
        Ok(agent.try_wait()?.map_or_else(|| Look::NotYet("it runs".to_owned()), Look::Seen))
    });
    let _ = agent.kill();
    both_wait.expect("both streams to be waited for");
    assert_eq!(alive.stdout, b"ok\n");
    assert_eq!(ended.expect("it ends").code(), Some(0));
}

#[test]
fn the_account_balances_in_the_middle_of_a_flood() {
    let node = node();
    let mut agent = node.agent(NAME).expect("it gets ready");
    let (from, destination) = (node.nth(0).ip, node.nth(1).ip);
    let is_over = AtomicBool::new(false);
    let records = std::thread::scope(|scope| {
        scope.spawn(|| {
            node.nth(0).network.enter(|| {
                let socket = raw(packet::WHOLE)?;
                let mut number = 0_u32;
                while !is_over.load(Ordering::Relaxed) {
                    number = number.wrapping_add(1);
                    let port = 20_000 + u16::try_from(number % 20_000)?;
                    let syn = packet::syn((from, port), (destination, PORT), number / 40_000);
                    socket.send_to(&syn, &SocketAddr::new(destination.into(), 0).into())?;
                }
                Ok(())
            })
        });
        let seen = agent.record("drop", RECORD_WAIT, |record| record["kind"] == "drop");
        let records = seen.and_then(|_| agent.stop_and_read());
        is_over.store(true, Ordering::Relaxed);
        records.expect("records")
    });
    let account = Account::balanced(&records).expect("an account");
    assert!(account.packets("observed") > 1000, "{account:?}");
}

#[test]
fn what_could_not_be_attached_to_is_once_there_are_descriptors() {
    let mut node = Node::new(1).expect("a node");
    node.run(&manifest::pod("frontend/pod-a")).expect("a pod");
    let mut agent = node.agent(NAME).expect("it gets ready");
    let open = fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("descriptors");
    let open: BTreeSet<usize> =
        open.flatten().filter_map(|fd| fd.file_name().to_str()?.parse().ok()).collect();
    // Room for one more, and each interface takes two.
    let free = (0..=open.len()).find(|number| !open.contains(number)).expect("a number");
    set_limit(&agent, free + 1);
    for _ in 0..4 {
        node.add().expect("a pod");
    }
    let failed = |record: &Value| {
        record["state"] == "degraded" && record["what"].to_string().contains("Too many open files")
    };
    let failed = agent.record("an interface that is not watched", RECORD_WAIT, failed);
    let failed = failed.expect("it is reported");
    assert!(failed["what"].to_string().contains("interface veth"), "{failed}");
    set_limit(&agent, 1024);
    let is_whole = |record: &Value| {
        record["state"] == "ready" && record["interfaces"].as_array().map(Vec::len) == Some(5)
    };
    agent.record("all interfaces", RECORD_WAIT, is_whole).expect("they are watched");
    agent.stop().expect("it ends");
}

#[test]
fn who_has_no_privilege_and_what_is_no_file_keep_no_agent_from_starting() {
    /// The groups of sockets that an agent is recognised by: all of them, and those that anyone may join.
    const OF_AGENTS: [u32; 2] = [0x6001_2000, 0x0001_2000];

    let node = node();
    let (_name, _groups) = node
        .namespace()
        .enter(|| {
            // This thread's alone.
            caps::drop(None, CapSet::Effective, Capability::CAP_NET_ADMIN)?;
            let join = |groups| -> nix::Result<OwnedFd> {
                let route = SockProtocol::NetlinkRoute;
                let flags = SockFlag::SOCK_CLOEXEC;
                let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, route)?;
                bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
                Ok(socket)
            };
            let [all, some] = OF_AGENTS.map(join);
            assert_eq!(all.err(), Some(nix::errno::Errno::EPERM));
            // What agents once held.
            let name = LocalAddress::from_abstract_name("whydrop-agent")?;
            Ok((UnixListener::bind_addr(&name)?, some?))
        })
        .expect("what anyone may hold");
    let state = tempfile::tempdir().expect("a folder");
    for name in ["last-answers.json", ".writable"] {
        mkfifo(&state.path().join(name), Mode::S_IRWXU).expect("a pipe");
    }
    let mut command = node.agent_command(NAME).expect("whydrop");
    let mut agent =
        Agent::spawn(command.arg("--state-directory").arg(state.path())).expect("it starts");
    agent.wait_ready().expect("it gets ready");
    let said =
        |record: &Value| record["what"].to_string().contains("last-answers.json is not a file");
    agent.record("what is wrong with the file", RECORD_WAIT, said).expect("it is reported");
    agent.stop().expect("it ends");
}
