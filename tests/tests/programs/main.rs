//! The programs for veths, fed with packets that no kernel sends: what they remember of an attempt,
//! and that every packet comes back as it went in. Needs root, and fails without.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod answers;
mod damaged;
mod older;
mod packets;
mod senders;

use std::net::{IpAddr, Ipv4Addr};

use packets::{
    ACK, CLIENT, CLIENT_PORT, CLIENT6, FROM_WEB, ICMP, ICMP6, IPV4, IPV6, ISN, RST, SCTP, SERVER,
    SERVER6, SYN, TCP, TO_WEB, UDP, chained, dns, ethernet, icmp, init, ipv4, ipv4_with, ipv6,
    sctp, syn, syn6, tcp, udp,
};
use whydrop::probe::{Config, Hook, Programs};
use whydrop_ebpf::{Attempt, AttemptKey, address, flags};

/// Passed on, for the next program in line to decide: `TCX_NEXT`, `TC_ACT_UNSPEC`.
const PASS: i32 = -1;

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
    AttemptKey { source, sequence, source_port: CLIENT_PORT, protocol, pad: 0, sender: 0 }
}

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
    assert_eq!((attempt.packets, attempt.flags), (2, flags::FROM_POD | flags::REPORTED));
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
    let rejected = flags::FROM_POD | flags::REJECTED | flags::REPORTED;
    // Nor where it is not read at first sight.
    let behind_a_tag = |packet: &[u8]| [&packet[..12], &[0x81, 0, 0, 7], &packet[12..]].concat();
    let ending = numbered(7, ISN + 1, RST | ACK);
    let (_, attempt) = kernel.only(Hook::ToPod, &behind_a_tag(&ending));
    assert_eq!(attempt.flags, flags::FROM_POD);
    let (_, attempt) = kernel.only(Hook::ToPod, &reset(ISN + 1, RST | ACK));
    assert_eq!(attempt.flags, rejected);
}

#[test]
fn an_icmp_error_rejects_the_attempt_it_quotes() {
    let rejected = flags::FROM_POD | flags::REJECTED | flags::REPORTED;
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
    assert_eq!(attempt.flags, flags::FROM_POD | flags::REJECTED | flags::REPORTED);
}

#[test]
fn an_icmp_error_about_a_dns_query_finds_it() {
    let query = ipv4(UDP, CLIENT, SERVER, &udp((CLIENT_PORT, 53), &dns(99, false)));
    let kernel = Kernel::new();
    kernel.run(Hook::FromPod, &ethernet(IPV4, &query));
    let error = ipv4(ICMP, SERVER, CLIENT, &icmp(3, 3, &query));
    let (_, attempt) = kernel.only(Hook::ToPod, &ethernet(IPV4, &error));
    assert_eq!(attempt.flags, flags::FROM_POD | flags::REJECTED | flags::REPORTED);
}

/// RFC 792 promises eight bytes of it, and the query's id comes after them.
#[test]
fn what_pads_an_icmp_error_is_no_part_of_what_it_quotes() {
    let query = ipv4(UDP, CLIENT, SERVER, &udp((CLIENT_PORT, 53), &dns(99, false)));
    let kernel = Kernel::new();
    kernel.run(Hook::FromPod, &ethernet(IPV4, &query));
    let error = ipv4(ICMP, SERVER, CLIENT, &icmp(3, 3, &query[..28]));
    let padded = [ethernet(IPV4, &error), query[28..].to_vec()].concat();
    let (_, attempt) = kernel.only(Hook::ToPod, &padded);
    assert_eq!(attempt.flags, flags::FROM_POD);
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
    assert_eq!(attempt.flags, flags::FROM_POD | flags::REJECTED | flags::REPORTED);
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
