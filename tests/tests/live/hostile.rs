//! Pods and hosts that send what they like: floods, in any name, and answers that nobody gave. What another pod
//! is affected by is reported within seconds and as it is, and nothing is lost that is not counted.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{MsgFlags, SockaddrIn, sendto};
use serde_json::Value;
use whydrop_tests::world::{
    RECORD_WAIT,
    account::Account,
    agent::Agent,
    lab::{
        packet::{self, ACK, SYN},
        server::raw,
    },
    manifest::{documents, namespace},
    namespace::Namespace,
    netns::Node,
};

use crate::fixture::{
    PORT, apply, describe, dropped, enforce, is_drop_to, policies, start_agent, to,
};

/// How soon a single flow must be reported, whatever others send.
const REPORTED_WITHIN: Duration = Duration::from_secs(5);
/// A network to which everything is dropped.
const NOWHERE: &str = "10.8.0.0/16";
/// A network beyond the node, which swallows all.
const BEYOND: &str = "10.9.0.0/16";

/// The number of the hostile pod.
const HOSTILE: usize = 2;

/// A node with the story's client and server, between which a policy denies, and a hostile pod. Nothing on it
/// looks at source addresses.
fn node() -> Node {
    let mut node = Node::new(3).expect("a node");
    let namespaces = ["frontend", "backend", "tenant"].map(namespace);
    apply(&mut node, &documents(&namespaces));
    for (number, pod) in ["frontend/pod-a", "backend/pod-b", "tenant/evil"].into_iter().enumerate()
    {
        describe(&mut node, number, pod);
    }
    apply(&mut node, &policies());
    enforce(&node, 1);
    let names = ["all".to_owned(), Node::veth(0), Node::veth(1), Node::veth(HOSTILE)];
    let parameters = names.map(|name| format!("ipv4/conf/{name}/rp_filter"));
    let all: Vec<(&str, &str)> = parameters.iter().map(|name| (name.as_str(), "0")).collect();
    node.namespace().set(&all).expect("no filter of source addresses");
    node
}

/// What a flood's packets are like, by their number.
type Like = fn(u32) -> (Ipv4Addr, SocketAddrV4);

/// Sends SYNs from a network, as fast as it can, until it is to stop: how many.
fn flood(from: &Namespace, stop: &AtomicBool, like: Like) -> u32 {
    from.enter(|| {
        let socket = raw(packet::WHOLE)?;
        let mut syn = packet::syn((Ipv4Addr::LOCALHOST, 40_000), (Ipv4Addr::LOCALHOST, 1), 7);
        let mut number: u32 = 0;
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..256 {
                number += 1;
                // Only what differs; nobody on the way looks at the checksum of a forwarded SYN.
                let (source, to) = like(number.wrapping_mul(2_654_435_761));
                syn[12..16].copy_from_slice(&source.octets());
                syn[16..20].copy_from_slice(&to.ip().octets());
                syn[22..24].copy_from_slice(&to.port().to_be_bytes());
                syn[24..28].copy_from_slice(&number.to_be_bytes());
                let to = SockaddrIn::from(SocketAddrV4::new(*to.ip(), 0));
                // A queue that is full for a moment loses the flood's own.
                let _ = sendto(socket.as_raw_fd(), &syn, &to, MsgFlags::empty());
            }
        }
        Ok(number)
    })
    .expect("a flood")
}

/// Floods while the client tries to connect, and returns the drop's record and the agent's last ones.
fn reported_under(node: &Node, mut agent: Agent, from: &Namespace, like: Like) -> Value {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(from, &stop, like));
        // It has filled what it can fill by then.
        let filled = Instant::now() + Duration::from_secs(4);
        agent.wait_for(RECORD_WAIT, |_| Instant::now() > filled).expect("an agent");
        let begun = Instant::now();
        let dialling = scope.spawn(|| dropped(node, "frontend/pod-a", to(node, 1)));
        let is_its = |record: &Value| {
            is_drop_to(record, "pod-b")
                && record["flow"]["source"]["pod"] == "pod-a"
                && record["flow"]["destination"]["port"] == PORT
                && record["cause"]["class"] != "not-policy"
        };
        let record = agent.record("drop", RECORD_WAIT, is_its);
        let took = begun.elapsed();
        stop.store(true, Ordering::Relaxed);
        let sent = flooding.join().expect("a flood");
        dialling.join().expect("a client");
        let record = record.unwrap_or_else(|error| panic!("under {sent} SYNs: {error:#}"));
        assert!(took < REPORTED_WITHIN, "after {took:?}, under {sent} SYNs: {record}");
        let records = agent.stop_and_read().expect("records");
        Account::balanced(&records).expect("an account");
        record
    })
}

fn address(random: u32) -> Ipv4Addr {
    // Of no network that anything is routed from or to.
    Ipv4Addr::from(0x1e00_0000 | (random >> 8))
}

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 11);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 10);

#[test]
fn a_drop_is_reported_under_a_pods_flood_of_random_sources() {
    let node = node();
    let agent = start_agent(&node);
    let from = &node.nth(HOSTILE).network;
    reported_under(&node, agent, from, |random| (address(random), SocketAddrV4::new(SERVER, PORT)));
}

#[test]
fn a_drop_is_reported_under_a_flood_of_random_sources_from_outside() {
    let node = node();
    let beyond = node.uplink(&[BEYOND]).expect("an uplink");
    beyond.ip("route add 10.7.0.0/24 via 192.168.77.2\n").expect("a route");
    node.namespace().set(&[("ipv4/conf/uplink/rp_filter", "0")]).expect("no filter");
    let agent = start_agent(&node);
    reported_under(&node, agent, &beyond, |random| {
        (address(random), SocketAddrV4::new(SERVER, PORT))
    });
}

#[test]
fn a_drop_is_reported_under_a_flood_to_random_destinations() {
    let node = node();
    let veth = Node::veth(1);
    node.namespace().ip(&format!("route add {NOWHERE} dev {veth}\n")).expect("a route");
    node.nft(&format!(
        "table inet nowhere {{
           chain forward {{
             type filter hook forward priority filter; policy accept;
             ip daddr {NOWHERE} drop
           }}
         }}\n"
    ))
    .expect("rules");
    let agent = start_agent(&node);
    let from = &node.nth(HOSTILE).network;
    reported_under(&node, agent, from, |random| {
        let [_, a, b, c] = random.to_be_bytes();
        let to = SocketAddrV4::new(Ipv4Addr::new(10, 8, a, b), u16::from(c) + 1);
        (Ipv4Addr::new(10, 7, 0, 12), to)
    });
}

#[test]
fn a_drop_is_reported_under_a_flood_in_its_clients_name() {
    let node = node();
    let agent = start_agent(&node);
    let from = &node.nth(HOSTILE).network;
    let record = reported_under(&node, agent, from, |random| {
        // The very flow, and others of its.
        let port = if random & 1 == 0 { PORT } else { (random >> 16) as u16 };
        (CLIENT, SocketAddrV4::new(SERVER, port))
    });
    // Its own packets alone.
    assert!(record["evidence"]["attempts"].as_u64().is_some_and(|packets| packets < 8), "{record}");
    assert_eq!(record["cause"]["policy"]["name"], "default-deny", "{record}");
}

/// Sends from the hostile pod.
fn send(node: &Node, packets: &[Vec<u8>]) {
    let from = &node.nth(HOSTILE).network;
    let sent = from.enter(|| {
        let socket = raw(packet::WHOLE)?;
        for packet in packets {
            let to = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
            socket.send_to(packet, &SocketAddr::from((to, 0)).into())?;
        }
        Ok(())
    });
    sent.expect("sent");
}

/// A SYN and its answer, both by the veth of a pod that is neither end: nothing worked, and nothing is not
/// enforced. In its own name, with the answer forged: neither.
#[test]
fn who_answers_itself_shows_nothing() {
    let node = node();
    let mut agent = start_agent(&node);
    let hostile = node.nth(HOSTILE).ip;
    for (number, source) in (0_u32..).zip([CLIENT, hostile, address(77 << 8)]) {
        for round in 0..3 {
            let isn = 1_000_000 + number * 1_000 + round;
            let port = 41_000;
            send(
                &node,
                &[
                    packet::tcp((source, port), (SERVER, PORT), [isn, 0], SYN),
                    packet::tcp((SERVER, PORT), (source, port), [7, isn + 1], SYN | ACK),
                ],
            );
        }
    }
    // What is seen of them is reported by now.
    let from = hostile.to_string();
    let is_its =
        |record: &Value| record["kind"] == "drop" && record["flow"]["source"]["ip"] == from;
    agent.record("drop", RECORD_WAIT, is_its).expect("its own SYNs are dropped");
    dropped(&node, "frontend/pod-a", to(&node, 1));
    let is_own = |record: &Value| {
        is_drop_to(record, "pod-b")
            && record["flow"]["source"]["pod"] == "pod-a"
            && record["cause"]["policy"]["name"] == "default-deny"
    };
    let own = agent.record("drop", RECORD_WAIT, is_own).expect("the client's drop");
    assert_eq!(own["evidence"]["last_success"], Value::Null, "{own}");
    let records = agent.stop_and_read().expect("records");
    let findings: Vec<_> = records.iter().filter(|record| record["kind"] == "finding").collect();
    assert!(findings.is_empty(), "{findings:#?}");
    let worked = records.iter().filter(|record| !record["evidence"]["last_success"].is_null());
    assert_eq!(worked.count(), 0);
    // What was sent in the client's name is not the client's.
    let spoofed = records.iter().find(|record| {
        let cause = record["cause"]["text"].as_str().unwrap_or_default();
        cause.contains(&format!("{CLIENT} is not the address of tenant/evil"))
    });
    let spoofed = spoofed.expect("what is sent in another's name is reported as that");
    assert_ne!(spoofed["incident"], own["incident"]);
}

/// Attempts that nobody answers beyond the node: those of whoever made too
/// many are forgotten, and that is counted.
#[test]
fn an_attempt_that_nobody_answers_outlives_a_flood_of_others() {
    let node = node();
    let _beyond = node.uplink(&[BEYOND]).expect("an uplink");
    let mut agent = start_agent(&node);
    let stop = AtomicBool::new(false);
    let from = &node.nth(HOSTILE).network;
    let far = Ipv4Addr::new(10, 9, 1, 1);
    thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            flood(from, &stop, |random| {
                let [_, _, a, b] = random.to_be_bytes();
                (Ipv4Addr::new(10, 7, 0, 12), SocketAddrV4::new(Ipv4Addr::new(10, 9, a, b), 80))
            })
        });
        dropped(&node, "frontend/pod-a", SocketAddr::from((far, PORT)));
        let is_its = |record: &Value| {
            record["kind"] == "drop"
                && record["flow"]["destination"]["ip"] == far.to_string()
                && record["flow"]["source"]["pod"] == "pod-a"
        };
        let record = agent.record("drop", RECORD_WAIT, is_its);
        stop.store(true, Ordering::Relaxed);
        let sent = flooding.join().expect("a flood");
        let record = record.unwrap_or_else(|error| panic!("under {sent} SYNs: {error:#}"));
        assert_eq!(record["evidence"]["level"], "unanswered", "{record}");
        let is_lost = |record: &Value| {
            record["state"] == "lost"
                && record["counts"].to_string().contains("unanswered attempts")
        };
        agent.record("count", RECORD_WAIT, is_lost).expect("what gave way is counted");
    });
    Account::balanced(&agent.stop_and_read().expect("records")).expect("an account");
}
