//! Packets, byte by byte.

use std::net::{Ipv4Addr, Ipv6Addr};

pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 10);
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 20);
pub(crate) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 0x10);
pub(crate) const SERVER6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 0x20);
pub(crate) const CLIENT_PORT: u16 = 40_000;
pub(crate) const ISN: u32 = 0x1234_5678;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMP6: u8 = 58;
pub(crate) const SCTP: u8 = 132;

pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

pub(crate) fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&[0x02; 12], &ethertype.to_be_bytes()[..], payload].concat()
}

pub(crate) fn ipv4_with(
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

pub(crate) fn ipv4(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    ipv4_with(&[], 0x4000, protocol, from, to, payload)
}

pub(crate) fn ipv6(next: u8, from: Ipv6Addr, to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

pub(crate) fn tcp(ports: (u16, u16), sequence: u32, acknowledged: u32, flags: u8) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(ports.0.to_be_bytes());
    segment.extend(ports.1.to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledged.to_be_bytes());
    segment.extend([0x50, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
    segment
}

pub(crate) fn udp(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(ports.0.to_be_bytes());
    datagram.extend(ports.1.to_be_bytes());
    datagram.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

pub(crate) fn dns(id: u16, is_response: bool) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([if is_response { 0x81 } else { 0x01 }, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend([1, b'a', 0, 0, 1, 0, 1]);
    message
}

pub(crate) fn sctp(ports: (u16, u16), tag: u32, chunk: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(ports.0.to_be_bytes());
    packet.extend(ports.1.to_be_bytes());
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(chunk);
    packet
}

/// An INIT (1) or INIT-ACK (2).
pub(crate) fn init(kind: u8, initiate_tag: u32) -> Vec<u8> {
    let mut chunk = vec![kind, 0, 0, 20];
    chunk.extend(initiate_tag.to_be_bytes());
    chunk.resize(20, 0);
    chunk
}

pub(crate) fn icmp(kind: u8, code: u8, quoted: &[u8]) -> Vec<u8> {
    [&[kind, code, 0, 0, 0, 0, 0, 0], quoted].concat()
}

pub(crate) const TO_WEB: (u16, u16) = (CLIENT_PORT, 80);
pub(crate) const FROM_WEB: (u16, u16) = (80, CLIENT_PORT);

pub(crate) fn syn() -> Vec<u8> {
    ipv4(TCP, CLIENT, SERVER, &tcp(TO_WEB, ISN, 0, SYN))
}

pub(crate) fn syn6() -> Vec<u8> {
    ipv6(TCP, CLIENT6, SERVER6, &tcp(TO_WEB, ISN, 0, SYN))
}

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;

/// A chain of IPv6 extension headers, by their numbers, before a SYN.
pub(crate) fn chained(headers: &[u8], fragment_offset: u16) -> Vec<u8> {
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
