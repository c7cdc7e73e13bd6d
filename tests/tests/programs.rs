//! The programs for veths, fed with packets that no kernel sends: what they remember of an attempt,
//! and that every packet comes back as it went in. Needs root, and fails without.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proptest::{
    prelude::*,
    test_runner::{Config as CaseConfig, TestRunner},
};
use whydrop::probe::{
    ANSWERS_MAX, Answered, Answers, Attach, Config, Hook, LOOKED_UP_MAX, Programs, SinceBoot,
};
use whydrop_core::flow::{Flow, Protocol};
use whydrop_ebpf::{Attempt, AttemptKey, address, flags};
use whydrop_tests::netns::Node;

/// Passed on, for the next program in line to decide: `TCX_NEXT`, `TC_ACT_UNSPEC`.
const PASS: i32 = -1;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 10);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 20);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 0x10);
const SERVER6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 0x20);
const CLIENT_PORT: u16 = 40_000;
const ISN: u32 = 0x1234_5678;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
const SCTP: u8 = 132;

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// The programs with maps of their own: one test does not see another's attempts.
struct Kernel(Programs);

impl Kernel {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root: it loads eBPF programs");
        Self(Programs::load(&Config::default()).unwrap_or_else(|error| panic!("{error:?}")))
    }

    /// Runs a program on a packet, which must pass untouched.
    fn run(&self, hook: Hook, packet: &[u8]) {
        let (returned, after) = self.0.run(hook, packet).expect("run a program");
        assert_eq!(returned, PASS, "{packet:02x?}");
        assert_eq!(after, packet, "the packet was changed");
    }

    fn attempts(&self) -> Vec<(AttemptKey, Attempt)> {
        self.0.attempts().expect("read the attempts")
    }

    /// What is remembered, after this packet alone.
    #[track_caller]
    fn only(&self, hook: Hook, packet: &[u8]) -> (AttemptKey, Attempt) {
        self.run(hook, packet);
        match self.attempts()[..] {
            [attempt] => attempt,
            ref other => panic!("expected one attempt, found {other:?}"),
        }
    }

    #[track_caller]
    fn nothing(&self, hook: Hook, packet: &[u8]) {
        self.run(hook, packet);
        assert_eq!(self.attempts(), [], "{packet:02x?}");
    }
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn key(source: impl Into<IpAddr>, protocol: u8, sequence: u32) -> AttemptKey {
    let source = address(octets(source.into()));
    AttemptKey { source, sequence, source_port: CLIENT_PORT, protocol, pad: 0 }
}

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&[0x02; 12], &ethertype.to_be_bytes()[..], payload].concat()
}

fn ipv4_with(
    options: &[u8],
    fragment: u16,
    protocol: u8,
    from: Ipv4Addr,
    to: Ipv4Addr,
    payload: &[u8],
) -> Vec<u8> {
    let header = u8::try_from(20 + options.len()).unwrap();
    let total = u16::from(header) + u16::try_from(payload.len()).unwrap();
    let mut packet = vec![0x40 | (header / 4), 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(options);
    packet.extend(payload);
    packet
}

fn ipv4(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    ipv4_with(&[], 0x4000, protocol, from, to, payload)
}

fn ipv6(next: u8, from: Ipv6Addr, to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

fn tcp(ports: (u16, u16), sequence: u32, acknowledged: u32, flags: u8) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(ports.0.to_be_bytes());
    segment.extend(ports.1.to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledged.to_be_bytes());
    segment.extend([0x50, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
    segment
}

fn udp(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(ports.0.to_be_bytes());
    datagram.extend(ports.1.to_be_bytes());
    datagram.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

fn dns(id: u16, is_response: bool) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([if is_response { 0x81 } else { 0x01 }, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend([1, b'a', 0, 0, 1, 0, 1]);
    message
}

fn sctp(ports: (u16, u16), tag: u32, chunk: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(ports.0.to_be_bytes());
    packet.extend(ports.1.to_be_bytes());
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(chunk);
    packet
}

/// An INIT (1) or INIT-ACK (2).
fn init(kind: u8, initiate_tag: u32) -> Vec<u8> {
    let mut chunk = vec![kind, 0, 0, 20];
    chunk.extend(initiate_tag.to_be_bytes());
    chunk.resize(20, 0);
    chunk
}

fn icmp(kind: u8, code: u8, quoted: &[u8]) -> Vec<u8> {
    [&[kind, code, 0, 0, 0, 0, 0, 0], quoted].concat()
}

const TO_WEB: (u16, u16) = (CLIENT_PORT, 80);
const FROM_WEB: (u16, u16) = (80, CLIENT_PORT);

fn syn() -> Vec<u8> {
    ipv4(TCP, CLIENT, SERVER, &tcp(TO_WEB, ISN, 0, SYN))
}

fn syn6() -> Vec<u8> {
    ipv6(TCP, CLIENT6, SERVER6, &tcp(TO_WEB, ISN, 0, SYN))
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

#[test]
fn a_syn_is_remembered_with_its_destination() {
    for (packet, client, server) in [
        (ethernet(IPV4, &syn()), IpAddr::from(CLIENT), IpAddr::from(SERVER)),
        (ethernet(IPV6, &syn6()), CLIENT6.into(), SERVER6.into()),
    ] {
        let (found, attempt) = Kernel::new().only(Hook::FromPod, &packet);
        assert_eq!(found, key(client, TCP, ISN));
        assert_eq!(attempt.destination, address(octets(server)));
        assert_eq!((attempt.destination_port, attempt.packets), (80, 1));
        assert_eq!(attempt.flags, flags::FROM_POD);
        assert!(attempt.first_ns > 0);
    }
}

#[test]
fn the_same_syn_again_is_a_retransmission() {
    let kernel = Kernel::new();
    let packet = ethernet(IPV4, &syn());
    kernel.run(Hook::FromPod, &packet);
    let (_, attempt) = kernel.only(Hook::FromPod, &packet);
    assert_eq!((attempt.packets, attempt.flags), (2, flags::FROM_POD | flags::TOLD));
}

#[test]
fn a_syn_that_reaches_a_pod_is_delivered() {
    let kernel = Kernel::new();
    kernel.run(Hook::FromPod, &ethernet(IPV4, &syn()));
    // After translation of its destination it is still the same attempt.
    let translated =
        ipv4(TCP, CLIENT, Ipv4Addr::new(10, 1, 0, 99), &tcp((CLIENT_PORT, 8080), ISN, 0, SYN));
    let (_, attempt) = kernel.only(Hook::ToPod, &ethernet(IPV4, &translated));
    assert_eq!(attempt.flags, flags::FROM_POD | flags::TO_POD);
    assert_eq!(attempt.destination, address(octets(SERVER.into())));

    let (_, remote) = Kernel::new().only(Hook::ToPod, &ethernet(IPV4, &syn()));
    assert_eq!((remote.flags, remote.entered), (flags::TO_POD, 0));
}

#[test]
fn an_answer_to_the_client_settles_the_attempt() {
    let answer = |acknowledged| {
        ethernet(IPV4, &ipv4(TCP, SERVER, CLIENT, &tcp(FROM_WEB, 7, acknowledged, SYN | ACK)))
    };
    let kernel = Kernel::new();
    kernel.run(Hook::FromPod, &ethernet(IPV4, &syn()));
    // Another attempt's answer, then one on its way out of a local server: not there yet.
    kernel.only(Hook::ToPod, &answer(ISN));
    kernel.only(Hook::FromPod, &answer(ISN + 1));
    kernel.nothing(Hook::ToPod, &answer(ISN + 1));
}

/// Of each connection one answer counts: of local pods' to each other, through a Service or not, of a
/// kubelet's probes, and of look-ups at the DNS. An answer that is sent again is the same one's.
#[test]
fn each_connection_that_is_answered_is_counted_once() {
    const NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 7);
    let lab = Node::new(0).unwrap();
    let counted = lab.namespace().enter(|| {
        let kernel = Kernel::new();
        let run = |hook, from, to, protocol, payload: &[u8]| {
            kernel.run(hook, &ethernet(IPV4, &ipv4(protocol, from, to, payload)));
        };
        let request = |isn| tcp(TO_WEB, isn, 0, SYN);
        let answer = |isn: u32| tcp(FROM_WEB, 7, isn + 1, SYN | ACK);
        let (to_dns, from_dns) = ((CLIENT_PORT, 53), (53, CLIENT_PORT));
        for n in 0..3 {
            let isn = ISN + 1_000 * n;
            run(Hook::FromPod, CLIENT, SERVER, TCP, &request(isn));
            run(Hook::FromPod, SERVER, CLIENT, TCP, &answer(isn));
            run(Hook::ToPod, SERVER, CLIENT, TCP, &answer(isn));
            run(Hook::ToPod, SERVER, CLIENT, TCP, &answer(isn));
            // A probe: the kubelet's end is on no veth.
            run(Hook::ToPod, NODE, SERVER, TCP, &request(isn));
            run(Hook::FromPod, SERVER, NODE, TCP, &answer(isn));
            run(Hook::FromPod, SERVER, NODE, TCP, &answer(isn));
            let id = u16::try_from(n).unwrap();
            run(Hook::FromPod, CLIENT, SERVER, UDP, &udp(to_dns, &dns(id, false)));
            run(Hook::ToPod, SERVER, CLIENT, UDP, &udp(from_dns, &dns(id, true)));
        }
        // Through a Service, with an answer that is lost on its way to the client's veth.
        let backend = Ipv4Addr::new(10, 1, 0, 30);
        for n in 0..2 {
            let isn = ISN + 1_000 * n;
            run(Hook::FromPod, CLIENT, SERVICE, TCP, &request(isn));
            run(Hook::ToPod, CLIENT, backend, TCP, &request(isn));
            run(Hook::FromPod, backend, CLIENT, TCP, &answer(isn));
            run(Hook::FromPod, backend, CLIENT, TCP, &answer(isn));
            run(Hook::ToPod, SERVICE, CLIENT, TCP, &answer(isn));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let _inside = runtime.enter();
        let mut probe = kernel.0.start(Attach::Auto)?;
        let flow = |source: Ipv4Addr, destination: Ipv4Addr, port, protocol| Flow {
            source: source.into(),
            destination: destination.into(),
            port,
            protocol,
        };
        let direct = flow(CLIENT, SERVER, 80, Protocol::Tcp);
        for (flow, connections) in [
            (direct, 3),
            (flow(NODE, SERVER, 80, Protocol::Tcp), 3),
            (flow(CLIENT, SERVER, 53, Protocol::Udp), 3),
            (flow(CLIENT, SERVICE, 80, Protocol::Tcp), 2),
            (flow(CLIENT, backend, 80, Protocol::Tcp), 2),
        ] {
            let worked = probe.successes.worked(&flow, None)?.unwrap();
            assert_eq!(worked.connections, connections, "{flow}");
            assert!(worked.first <= worked.last, "{flow}: {worked:?}");
        }
        // What an agent before this one has counted is counted as well, and handed on.
        let before = SinceBoot::from_secs(-300);
        probe.successes.remember([(direct, Answered::once(before))]);
        for _ in 0..2 {
            let worked = probe.successes.worked(&direct, None)?.unwrap();
            assert_eq!(worked.connections, 4);
            assert!(worked.first < worked.last);
            let all = probe.successes.all()?;
            let (_, handed_on) = all.of.iter().find(|(flow, _)| *flow == direct).unwrap();
            assert_eq!((handed_on.first, handed_on.connections), (before, 4));
        }
        Ok(())
    });
    counted.unwrap();
}

/// In a network of its own, since a whole probe attaches to what it finds there.
#[test]
fn last_answers_that_give_way_are_counted() {
    const CLIENTS: u32 = 20_000;
    let lab = Node::new(0).unwrap();
    let counted = lab.namespace().enter(|| {
        let kernel = Kernel::new();
        for client in 0..CLIENTS {
            let client = Ipv4Addr::from_bits(CLIENT.to_bits() + client);
            let syn = ipv4(TCP, client, SERVER, &tcp(TO_WEB, ISN, 0, SYN));
            kernel.run(Hook::FromPod, &ethernet(IPV4, &syn));
            let answer = ipv4(TCP, SERVER, client, &tcp(FROM_WEB, 7, ISN + 1, SYN | ACK));
            kernel.run(Hook::ToPod, &ethernet(IPV4, &answer));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let _inside = runtime.enter();
        let mut probe = kernel.0.start(Attach::Auto)?;
        assert_eq!(probe.observations.totals()?.answers_kept, u64::from(CLIENTS));
        // Of what another agent knew, the latest find room beside these.
        let known = |n: u8| {
            let source = IpAddr::from([10, 9, 0, n]);
            Flow { source, destination: SERVER.into(), port: 8080, protocol: Protocol::Tcp }
        };
        let at = |n: u8| SinceBoot::from_secs(i64::from(n) - 300);
        probe.successes.remember((0..200).map(|n| (known(n), Answered::once(at(n)))));
        assert!(probe.successes.last(&known(7))?.is_some());
        // A few flows are looked up, and many found by reading all, with the same result.
        let lately = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(1);
        let web = |client: u32| {
            let source = Ipv4Addr::from_bits(CLIENT.to_bits() + client).into();
            Flow { source, destination: SERVER.into(), port: 80, protocol: Protocol::Tcp }
        };
        let many: HashSet<Flow> = (0..CLIENTS).map(web).collect();
        let found = probe.successes.since_of(&many, lately)?;
        assert!(found.len() > ANSWERS_MAX / 2, "{}", found.len());
        let few: HashSet<Flow> = found.keys().copied().take(LOOKED_UP_MAX - 1).collect();
        let unanswered = known(1);
        let asked = few.iter().copied().chain([unanswered]).collect();
        let looked_up = probe.successes.since_of(&asked, lately)?;
        assert_eq!(looked_up.keys().copied().collect::<HashSet<_>>(), few);
        let later = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(1);
        assert!(probe.successes.since_of(&many, later)?.is_empty());
        assert!(probe.successes.since_of(&few, later)?.is_empty());
        let all = probe.successes.all()?;
        let is_remembered = |flow: &Flow| (0..200).any(|n| known(n) == *flow);
        let remembered = all.of.iter().filter(|(flow, _)| is_remembered(flow)).count();
        assert_eq!(remembered, 200 - all.forgotten);
        assert_eq!(all.of.len(), all.in_kernel + remembered);
        Ok(all)
    });
    let Answers { of, in_kernel, forgotten } = counted.unwrap();
    assert!(of.len() <= ANSWERS_MAX);
    assert!((ANSWERS_MAX / 2..=ANSWERS_MAX).contains(&in_kernel), "{in_kernel} of {CLIENTS}");
    assert_eq!(forgotten, (in_kernel + 200).saturating_sub(ANSWERS_MAX));
}

#[test]
fn a_local_server_settles_the_attempt_of_a_remote_client() {
    let kernel = Kernel::new();
    kernel.run(Hook::ToPod, &ethernet(IPV4, &syn()));
    let answer = ipv4(TCP, SERVER, CLIENT, &tcp(FROM_WEB, 7, ISN + 1, SYN | ACK));
    kernel.nothing(Hook::FromPod, &ethernet(IPV4, &answer));
}

#[test]
fn a_reset_rejects_the_attempt_it_is_about() {
    let numbered = |sequence, acknowledged, flags| {
        ethernet(IPV4, &ipv4(TCP, SERVER, CLIENT, &tcp(FROM_WEB, sequence, acknowledged, flags)))
    };
    let reset = |acknowledged, flags| numbered(0, acknowledged, flags);
    let kernel = Kernel::new();
    kernel.run(Hook::FromPod, &ethernet(IPV4, &syn()));
    for (acknowledged, flags) in [(ISN, RST | ACK), (ISN + 1, RST), (ISN + 2, RST | ACK)] {
        let (_, attempt) = kernel.only(Hook::ToPod, &reset(acknowledged, flags));
        assert_eq!(attempt.flags, flags::FROM_POD, "{acknowledged} {flags}");
    }
    // One that ends a connection, which happens to have the number.
    let (_, attempt) = kernel.only(Hook::ToPod, &numbered(7, ISN + 1, RST | ACK));
    assert_eq!(attempt.flags, flags::FROM_POD);
    let rejected = flags::FROM_POD | flags::REJECTED | flags::TOLD;
    let (_, attempt) = kernel.only(Hook::ToPod, &reset(ISN + 1, RST | ACK));
    assert_eq!(attempt.flags, rejected);
}

#[test]
fn an_icmp_error_rejects_the_attempt_it_quotes() {
    let rejected = flags::FROM_POD | flags::REJECTED | flags::TOLD;
    let quoted = &syn()[..28]; // a header and eight bytes, as RFC 792 promises
    let error = |kind, code, quoted: &[u8]| {
        ethernet(IPV4, &ipv4(ICMP, SERVER, CLIENT, &icmp(kind, code, quoted)))
    };
    for (kind, code, expected) in [
        (3, 13, rejected),
        (3, 3, rejected),
        (3, 0, rejected),
        (3, 4, flags::FROM_POD), // fragmentation needed refuses nobody
        (11, 0, flags::FROM_POD),
    ] {
        let kernel = Kernel::new();
        kernel.run(Hook::FromPod, &ethernet(IPV4, &syn()));
        let (_, attempt) = kernel.only(Hook::ToPod, &error(kind, code, quoted));
        assert_eq!(attempt.flags, expected, "type {kind} code {code}");
    }
    for length in 0..quoted.len() {
        let kernel = Kernel::new();
        kernel.run(Hook::FromPod, &ethernet(IPV4, &syn()));
        let (_, attempt) = kernel.only(Hook::ToPod, &error(3, 13, &quoted[..length]));
        assert_eq!(attempt.flags, flags::FROM_POD, "{length} bytes quoted");
    }
}

#[test]
fn an_icmpv6_error_rejects_the_attempt_it_quotes() {
    let kernel = Kernel::new();
    kernel.run(Hook::FromPod, &ethernet(IPV6, &syn6()));
    let error = ipv6(ICMP6, SERVER6, CLIENT6, &icmp(1, 1, &syn6()));
    let (_, attempt) = kernel.only(Hook::ToPod, &ethernet(IPV6, &error));
    assert_eq!(attempt.flags, flags::FROM_POD | flags::REJECTED | flags::TOLD);
}

#[test]
fn an_icmp_error_about_a_dns_query_finds_it() {
    let query = ipv4(UDP, CLIENT, SERVER, &udp((CLIENT_PORT, 53), &dns(99, false)));
    let kernel = Kernel::new();
    kernel.run(Hook::FromPod, &ethernet(IPV4, &query));
    let error = ipv4(ICMP, SERVER, CLIENT, &icmp(3, 3, &query));
    let (_, attempt) = kernel.only(Hook::ToPod, &ethernet(IPV4, &error));
    assert_eq!(attempt.flags, flags::FROM_POD | flags::REJECTED | flags::TOLD);
}

#[test]
fn a_dns_query_is_an_attempt_and_its_response_the_answer() {
    let query = |ports, id, is_response, from, to| {
        ethernet(IPV4, &ipv4(UDP, from, to, &udp(ports, &dns(id, is_response))))
    };
    let kernel = Kernel::new();
    let ask = query((CLIENT_PORT, 53), 99, false, CLIENT, SERVER);
    let (found, _) = kernel.only(Hook::FromPod, &ask);
    assert_eq!(found, key(CLIENT, UDP, 99));
    kernel.only(Hook::ToPod, &query((53, CLIENT_PORT), 98, true, SERVER, CLIENT));
    kernel.only(Hook::ToPod, &query((53, CLIENT_PORT), 99, false, SERVER, CLIENT));
    kernel.nothing(Hook::ToPod, &query((53, CLIENT_PORT), 99, true, SERVER, CLIENT));
    kernel.nothing(Hook::FromPod, &query((CLIENT_PORT, 53), 99, true, CLIENT, SERVER));
    kernel.nothing(Hook::FromPod, &query((CLIENT_PORT, 5353), 99, false, CLIENT, SERVER));
}

#[test]
fn sctp_init_init_ack_and_abort_are_understood() {
    let packet = |from, to, ports, tag, chunk: &[u8]| {
        ethernet(IPV4, &ipv4(SCTP, from, to, &sctp(ports, tag, chunk)))
    };
    let ask = packet(CLIENT, SERVER, TO_WEB, 0, &init(1, 0xfeed));
    let kernel = Kernel::new();
    let (found, _) = kernel.only(Hook::FromPod, &ask);
    assert_eq!(found, key(CLIENT, SCTP, 0xfeed));
    kernel.only(Hook::ToPod, &packet(SERVER, CLIENT, FROM_WEB, 1, &init(2, 5)));
    kernel.nothing(Hook::ToPod, &packet(SERVER, CLIENT, FROM_WEB, 0xfeed, &init(2, 5)));

    let abort = |reflected| packet(SERVER, CLIENT, FROM_WEB, 0xfeed, &[6, reflected, 0, 4]);
    kernel.run(Hook::FromPod, &ask);
    let (_, attempt) = kernel.only(Hook::ToPod, &abort(1));
    assert_eq!(attempt.flags, flags::FROM_POD);
    let (_, attempt) = kernel.only(Hook::ToPod, &abort(0));
    assert_eq!(attempt.flags, flags::FROM_POD | flags::REJECTED | flags::TOLD);
}

#[test]
fn vlan_tags_are_looked_through_up_to_two() {
    let tag = |ethertype: u16, inner: u16, payload: &[u8]| {
        ethernet(ethertype, &[&[0, 7], &inner.to_be_bytes()[..], payload].concat())
    };
    let inner = |payload: &[u8]| [&[0, 8], &IPV4.to_be_bytes()[..], payload].concat();
    Kernel::new().only(Hook::FromPod, &tag(0x8100, IPV4, &syn()));
    Kernel::new().only(Hook::FromPod, &tag(0x88a8, 0x8100, &inner(&syn())));
    let three = [&[0, 8], &0x8100_u16.to_be_bytes()[..], &inner(&syn())].concat();
    Kernel::new().nothing(Hook::FromPod, &tag(0x88a8, 0x8100, &three));
}

#[test]
fn ipv4_options_are_skipped_and_later_fragments_ignored() {
    let segment = tcp(TO_WEB, ISN, 0, SYN);
    let with = |options: &[u8], fragment| {
        ethernet(IPV4, &ipv4_with(options, fragment, TCP, CLIENT, SERVER, &segment))
    };
    for words in 1..=10 {
        let (found, _) = Kernel::new().only(Hook::FromPod, &with(&vec![1; 4 * words], 0));
        assert_eq!(found, key(CLIENT, TCP, ISN));
    }
    Kernel::new().only(Hook::FromPod, &with(&[], 0x2000)); // the first of several
    Kernel::new().nothing(Hook::FromPod, &with(&[], 0x2005));
    Kernel::new().nothing(Hook::FromPod, &with(&[], 0x0005)); // the last
}

/// A chain of IPv6 extension headers, by their numbers, before a SYN.
fn chained(headers: &[u8], fragment_offset: u16) -> Vec<u8> {
    let mut payload = tcp(TO_WEB, ISN, 0, SYN);
    let mut next = TCP;
    for header in headers.iter().rev() {
        let mut extension = vec![next, 0, 0, 0, 0, 0, 0, 0];
        match header {
            44 => extension[2..4].copy_from_slice(&(fragment_offset << 3).to_be_bytes()),
            51 => {
                extension[1] = 4;
                extension.resize(24, 0);
            }
            _ => {
                extension[1] = 1;
                extension.resize(16, 0);
            }
        }
        extension.extend(payload);
        payload = extension;
        next = *header;
    }
    ethernet(IPV6, &ipv6(next, CLIENT6, SERVER6, &payload))
}

#[test]
fn ipv6_extension_headers_are_followed_within_bounds() {
    for chain in [&[0][..], &[60], &[43], &[51], &[44], &[0, 60, 43, 44, 51, 60], &[60; 8]] {
        let (found, _) = Kernel::new().only(Hook::FromPod, &chained(chain, 0));
        assert_eq!(found, key(CLIENT6, TCP, ISN), "{chain:?}");
    }
    Kernel::new().nothing(Hook::FromPod, &chained(&[60; 9], 0));
    Kernel::new().nothing(Hook::FromPod, &chained(&[60; 40], 0));
    Kernel::new().nothing(Hook::FromPod, &chained(&[0, 44], 1));
}

#[test]
fn what_means_nothing_leaves_no_trace() {
    let segment = |flags| ethernet(IPV4, &ipv4(TCP, CLIENT, SERVER, &tcp(TO_WEB, ISN, 1, flags)));
    let kernel = Kernel::new();
    for flags in 0..=u8::MAX {
        if flags & (SYN | ACK | RST | 1) != SYN {
            kernel.nothing(Hook::FromPod, &segment(flags));
            kernel.nothing(Hook::ToPod, &segment(flags));
        }
    }
    kernel.nothing(Hook::FromPod, &ethernet(0x0806, &[0; 28])); // ARP
    kernel.nothing(Hook::FromPod, &ethernet(IPV4, &ipv4(47, CLIENT, SERVER, &[0; 40]))); // GRE
    kernel.nothing(Hook::FromPod, &ethernet(IPV6, &syn())); // one family under the other's name
    kernel.nothing(Hook::FromPod, &ethernet(IPV4, &syn6()));
}

/// Well-formed packets of every kind.
fn samples() -> Vec<Vec<u8>> {
    vec![
        ethernet(IPV4, &syn()),
        ethernet(IPV6, &syn6()),
        ethernet(IPV4, &ipv4(UDP, CLIENT, SERVER, &udp((CLIENT_PORT, 53), &dns(9, false)))),
        ethernet(IPV4, &ipv4(SCTP, CLIENT, SERVER, &sctp(TO_WEB, 0, &init(1, 9)))),
        ethernet(IPV4, &ipv4_with(&[1; 40], 0, TCP, CLIENT, SERVER, &tcp(TO_WEB, ISN, 0, SYN))),
        ethernet(IPV4, &ipv4(ICMP, SERVER, CLIENT, &icmp(3, 13, &syn()))),
        chained(&[0, 60, 43, 44, 51, 60], 0),
        ethernet(0x88a8, &[&[0, 7, 0x81, 0, 0, 8, 8, 0][..], &syn()].concat()),
    ]
}

/// The least that this kernel runs programs on: an Ethernet header and a byte, or the IP header that
/// its ethertype promises.
fn shortest(packet: &[u8]) -> usize {
    match u16::from_be_bytes([packet[12], packet[13]]) {
        IPV4 => 14 + 20,
        IPV6 => 14 + 40,
        _ => 15,
    }
}

#[test]
fn packets_cut_short_anywhere_mean_nothing() {
    for packet in samples() {
        let kernel = Kernel::new();
        for length in shortest(&packet)..packet.len() {
            kernel.nothing(Hook::FromPod, &packet[..length]);
            kernel.nothing(Hook::ToPod, &packet[..length]);
        }
    }
}

#[test]
fn padding_after_a_packet_is_no_part_of_it() {
    let packet = [ethernet(IPV4, &syn()), vec![0; 6]].concat();
    let (found, _) = Kernel::new().only(Hook::FromPod, &packet);
    assert_eq!(found, key(CLIENT, TCP, ISN));
}

#[test]
fn headers_that_claim_too_little_mean_nothing() {
    let claim = |at: usize, value: u8| {
        let mut packet = ethernet(IPV4, &syn());
        packet[at] = value;
        packet
    };
    let kernel = Kernel::new();
    for words in 0..5 {
        kernel.nothing(Hook::FromPod, &claim(14, 0x40 | words)); // IP header length
        kernel.nothing(Hook::FromPod, &claim(14 + 20 + 12, words << 4)); // TCP header length
    }
    kernel.nothing(Hook::FromPod, &claim(14 + 20 + 12, 0xf0)); // more than there is
    kernel.nothing(Hook::FromPod, &claim(17, 39)); // total length
    kernel.nothing(Hook::FromPod, &claim(17, 41));
    kernel.nothing(Hook::FromPod, &claim(14, 0x55)); // version 5
}

#[test]
fn any_packet_passes_untouched() {
    let kernel = Kernel::new();
    let samples = samples();
    let damaged = (
        0..samples.len(),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    )
        .prop_map(move |(sample, damages)| {
            let mut packet = samples[sample].clone();
            for (at, value) in damages {
                let at = at.index(packet.len());
                packet[at] = value;
            }
            packet
        });
    let noise = prop::collection::vec(any::<u8>(), 15..200);
    let packets = prop_oneof![damaged, noise]
        .prop_filter("too short to be run", |packet| packet.len() >= shortest(packet));
    TestRunner::new(CaseConfig { cases: 2000, failure_persistence: None, ..CaseConfig::default() })
        .run(&packets, |packet| {
            kernel.run(Hook::FromPod, &packet);
            kernel.run(Hook::ToPod, &packet);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}
