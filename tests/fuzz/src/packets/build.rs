//! Frames, byte by byte: as any kernel sends them, and as none does.

use std::net::IpAddr;

use super::meaning::{ICMP, ICMPV6, Meaning, SCTP, TCP, UDP};
use crate::choices::Choices;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// `SYN`
const SYN: u8 = 2;

/// A frame as the choices have it.
pub(super) fn frame(choices: &mut Choices<'_>) -> Vec<u8> {
    let is_v6 = choices.byte() % 2 == 1;
    let protocol = *choices.one(&[TCP, UDP, SCTP, if is_v6 { ICMPV6 } else { ICMP }, 47]);
    let mut payload = transport(choices, protocol, is_v6);
    if choices.rarely(4) {
        payload.truncate(choices.below(64));
    }
    let packet = network(choices, is_v6, protocol, &payload);
    let mut frame = vec![2; 12];
    for _ in 0..choices.below(8).saturating_sub(4) {
        frame.extend(choices.one(&[0x8100_u16, 0x88a8, 0x9100]).to_be_bytes());
        frame.extend([0, 7]);
    }
    let ethertype = if choices.rarely(16) { u16::from_be_bytes(choices.bytes()) } else { 0 };
    let own = if is_v6 { IPV6 } else { IPV4 };
    frame.extend((if ethertype == 0 { own } else { ethertype }).to_be_bytes());
    frame.extend(packet);
    // What a link adds to short frames, or somebody who wants it read.
    frame.extend(choices.some(32));
    frame
}

/// Addresses that a pod may have, and any.
fn address(choices: &mut Choices<'_>, bytes: &mut [u8]) {
    let any = choices.rarely(4);
    for byte in bytes.iter_mut() {
        *byte = if any { choices.byte() } else { 10 };
    }
    if let Some(last) = bytes.last_mut() {
        *last = choices.byte();
    }
}

fn network(choices: &mut Choices<'_>, is_v6: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut addresses = vec![0; if is_v6 { 32 } else { 8 }];
    let half = addresses.len() / 2;
    let (source, destination) = addresses.split_at_mut(half);
    address(choices, source);
    address(choices, destination);
    // A length that is not what the frame has, rarely.
    let wrong = if choices.rarely(8) { u16::from(choices.byte()) } else { 0 };
    let is_longer = choices.byte().is_multiple_of(2);
    let length = |bytes: usize| {
        let bytes = u16::try_from(bytes).expect("frames are short");
        let wrong =
            if is_longer { bytes.saturating_add(wrong) } else { bytes.saturating_sub(wrong) };
        wrong.to_be_bytes()
    };
    if is_v6 {
        let (next, chain) = extensions(choices, protocol);
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(length(chain.len() + payload.len()));
        packet.extend([next, 64]);
        return [&packet, &addresses, &chain, payload].concat();
    }
    let options = 4 * choices.below(16).saturating_sub(5);
    let words = u8::try_from(5 + options / 4).expect("fifteen at most");
    let fragment = *choices.one(&[0x4000_u16, 0, 0x2000, 0x2001, 1, 0x8000]);
    let mut packet = vec![0x40 | words, 0];
    packet.extend(length(20 + options + payload.len()));
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    [&packet, &addresses, &vec![1; options], payload].concat()
}

/// A chain of extension headers, and the number of its first.
fn extensions(choices: &mut Choices<'_>, last: u8) -> (u8, Vec<u8>) {
    let count = choices.below(24).saturating_sub(12);
    let kinds: Vec<u8> =
        (0..count).map(|_| *choices.one(&[0, 60, 43, 44, 51, 135, 139, 50])).collect();
    let mut chain = Vec::new();
    for (index, kind) in kinds.iter().enumerate() {
        let next = kinds.get(index + 1).copied().unwrap_or(last);
        let length = u8::try_from(choices.below(4)).expect("three at most");
        match kind {
            44 => {
                let fragment = *choices.one(&[0_u16, 1, 6, 8]);
                chain.extend([next, length]);
                chain.extend(fragment.to_be_bytes());
                chain.extend([0, 0, 0, 1]);
            }
            51 => {
                chain.extend([next, length.max(1)]);
                chain.extend(vec![0; (usize::from(length.max(1)) + 2) * 4 - 2]);
            }
            _ => {
                chain.extend([next, length]);
                chain.extend(vec![0; (usize::from(length) + 1) * 8 - 2]);
            }
        }
    }
    (kinds.first().copied().unwrap_or(last), chain)
}

fn port(choices: &mut Choices<'_>) -> [u8; 2] {
    choices.one(&[[0, 53], [0, 80], [0, 53], [0x9c, 0x40], [0, 0]]).to_owned()
}

fn transport(choices: &mut Choices<'_>, protocol: u8, is_v6: bool) -> Vec<u8> {
    let mut bytes = [port(choices), port(choices)].concat();
    match protocol {
        TCP => {
            bytes.extend(if choices.byte().is_multiple_of(2) { [0; 4] } else { choices.bytes() });
            bytes.extend(choices.bytes::<4>());
            let words = *choices.one(&[5_u8, 5, 6, 10, 15, 4, 0]);
            bytes.extend([words << 4, choices.byte(), 1, 0, 0, 0, 0, 0]);
            bytes.extend(choices.some(48));
        }
        UDP => {
            let length = *choices.one(&[20_u16, 8, 21, 40, 19, 0, 7, u16::MAX]);
            bytes.extend(length.to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(choices.bytes::<2>());
            bytes.push(choices.byte());
            bytes.extend([0; 9]);
            bytes.extend(choices.some(32));
        }
        SCTP => {
            bytes.extend(choices.bytes::<4>());
            bytes.extend([0; 4]);
            let length = *choices.one(&[20_u16, 4, 24, 3, 0, 19, u16::MAX]);
            bytes.extend([*choices.one(&[1, 2, 6, 0, 3]), choices.byte()]);
            bytes.extend(length.to_be_bytes());
            bytes.extend(choices.bytes::<4>());
            bytes.extend([0; 12]);
            bytes.extend(choices.some(16));
        }
        ICMP | ICMPV6 => {
            bytes = vec![*choices.one(&[3, 1, 11, 8]), choices.byte() % 16, 0, 0, 0, 0, 0, 0];
            let inner = *choices.one(&[TCP, UDP, SCTP, protocol]);
            let quoted = match inner {
                ICMP | ICMPV6 => choices.some(40).to_vec(),
                other => transport(choices, other, is_v6),
            };
            let mut quoted = network(choices, is_v6, inner, &quoted);
            if choices.byte() % 2 == 1 {
                quoted.truncate(choices.below(100));
            }
            bytes.extend(quoted);
        }
        _ => bytes.extend(choices.some(64)),
    }
    bytes
}

/// The request that a packet is about.
pub(super) fn request(meaning: &Meaning) -> Vec<u8> {
    let mut bytes = meaning.source.1.to_be_bytes().to_vec();
    let sequence = meaning.sequence.to_be_bytes();
    let port = if meaning.protocol == UDP { 53 } else { meaning.destination.1 };
    bytes.extend(port.to_be_bytes());
    match meaning.protocol {
        TCP => {
            bytes.extend(sequence);
            bytes.extend([0, 0, 0, 0, 5 << 4, SYN, 1, 0, 0, 0, 0, 0]);
        }
        UDP => bytes.extend([&[0, 20, 0, 0, sequence[2], sequence[3]], &[0; 10][..]].concat()),
        _ => bytes.extend([&[0; 8], &[1, 0, 0, 20][..], &sequence, &[0; 12]].concat()),
    }
    let (ethertype, packet) = match (meaning.source.0, meaning.destination.0) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = u16::try_from(20 + bytes.len()).expect("short");
            let mut packet = vec![0x45, 0];
            packet.extend(total.to_be_bytes());
            packet.extend([0, 1, 0x40, 0, 64, meaning.protocol, 0, 0]);
            packet.extend([source.octets(), destination.octets()].concat());
            (IPV4, packet)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend(u16::try_from(bytes.len()).expect("short").to_be_bytes());
            packet.extend([meaning.protocol, 64]);
            packet.extend([source.octets(), destination.octets()].concat());
            (IPV6, packet)
        }
        (source, destination) => panic!("of two families: {source}, {destination}"),
    };
    [&[2; 12], &ethertype.to_be_bytes()[..], &packet, &bytes].concat()
}
