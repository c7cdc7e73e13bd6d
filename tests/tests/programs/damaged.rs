//! Packets that are cut short, lie about their lengths, or are noise.

use proptest::{
    prelude::*,
    test_runner::{Config as CaseConfig, TestRunner},
};
use whydrop::probe::Hook;

use crate::{
    Kernel, key,
    packets::{
        CLIENT, CLIENT_PORT, ICMP, IPV4, IPV6, ISN, SCTP, SERVER, SYN, TCP, TO_WEB, UDP, chained,
        dns, ethernet, icmp, init, ipv4, ipv4_with, sctp, syn, syn6, tcp, udp,
    },
};

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
