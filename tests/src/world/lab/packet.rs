//! Packets that no ordinary socket sends: a forged SYN, and SCTP where the kernel has none.

use std::net::Ipv4Addr;

/// IP protocol number of TCP.
const TCP: u8 = 6;
/// IP protocol number of SCTP.
pub const SCTP: u8 = 132;
/// The protocol of a raw socket that is given whole IPv4 packets (`IPPROTO_RAW`).
pub const WHOLE: u8 = 255;

const TCP_HEADER: usize = 20;
const SCTP_HEADER: usize = 12;
/// An INIT chunk without parameters (RFC 9260, 3.3.2).
const INIT_CHUNK: usize = 20;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
/// A State Cookie parameter with four bytes in it: an INIT-ACK has to carry one.
const COOKIE: [u8; 8] = [0, 7, 0, 8, b'w', b'h', b'y', b'd'];

/// The flags of a TCP header that make a connection (RFC 9293, 3.1).
pub const SYN: u8 = 0x02;
/// See [`SYN`].
pub const ACK: u8 = 0x10;

/// An IPv4 packet with a TCP SYN. The kernel fills in the IP checksum and length.
pub fn syn(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), sequence: u32) -> Vec<u8> {
    tcp(source, destination, [sequence, 0], SYN)
}

/// The same with a TCP segment without data: its sequence number, what it acknowledges, its flags.
pub fn tcp(
    source: (Ipv4Addr, u16),
    destination: (Ipv4Addr, u16),
    numbers: [u32; 2],
    flags: u8,
) -> Vec<u8> {
    let mut tcp = Vec::with_capacity(TCP_HEADER);
    tcp.extend(source.1.to_be_bytes());
    tcp.extend(destination.1.to_be_bytes());
    tcp.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
    tcp.extend([0x50, flags]); // five words
    tcp.extend(64_240_u16.to_be_bytes()); // window
    tcp.extend([0; 4]); // checksum, urgent pointer
    let mut pseudo = Vec::new();
    pseudo.extend(source.0.octets());
    pseudo.extend(destination.0.octets());
    pseudo.extend([0, TCP]);
    pseudo.extend(u16::try_from(TCP_HEADER).unwrap_or_default().to_be_bytes());
    let checksum = internet_checksum(pseudo.iter().chain(&tcp));
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());

    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, TCP, 0, 0]; // don't fragment, TTL 64
    packet.extend(source.0.octets());
    packet.extend(destination.0.octets());
    packet.extend(tcp);
    packet
}

/// An SCTP packet with an INIT.
pub fn init(source_port: u16, destination_port: u16, tag: u32) -> Vec<u8> {
    sctp(source_port, destination_port, 0, &chunk(INIT, tag, &[]))
}

/// The answer to an INIT, if `packet` is one: an IPv4 packet as a raw socket gets it.
pub fn init_ack(packet: &[u8]) -> Option<Vec<u8>> {
    let init = Sctp::parse(packet).filter(|sctp| sctp.chunk == INIT)?;
    let answer = chunk(INIT_ACK, init.tag.wrapping_add(1), &COOKIE);
    Some(sctp(init.destination_port, init.source_port, init.tag, &answer))
}

/// Whether an IPv4 packet from a raw socket is the INIT-ACK that is due at this port.
pub fn is_init_ack(packet: &[u8], port: u16) -> bool {
    Sctp::parse(packet).is_some_and(|sctp| sctp.chunk == INIT_ACK && sctp.destination_port == port)
}

struct Sctp {
    source_port: u16,
    destination_port: u16,
    chunk: u8,
    tag: u32,
}

impl Sctp {
    fn parse(packet: &[u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 0x0f) * 4;
        let sctp = packet.get(header..)?;
        let port = |at: usize| Some(u16::from_be_bytes(sctp.get(at..at + 2)?.try_into().ok()?));
        Some(Self {
            source_port: port(0)?,
            destination_port: port(2)?,
            chunk: *sctp.get(SCTP_HEADER)?,
            tag: u32::from_be_bytes(sctp.get(SCTP_HEADER + 4..SCTP_HEADER + 8)?.try_into().ok()?),
        })
    }
}

fn chunk(kind: u8, tag: u32, parameters: &[u8]) -> Vec<u8> {
    let length = u16::try_from(INIT_CHUNK + parameters.len()).unwrap_or_default();
    let mut chunk = vec![kind, 0];
    chunk.extend(length.to_be_bytes());
    chunk.extend(tag.to_be_bytes());
    chunk.extend(65_536_u32.to_be_bytes()); // receiver window
    chunk.extend([0, 1, 0, 1]); // one stream each way
    chunk.extend(tag.to_be_bytes()); // first sequence number
    chunk.extend(parameters);
    chunk
}

fn sctp(source_port: u16, destination_port: u16, tag: u32, chunk: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(source_port.to_be_bytes());
    packet.extend(destination_port.to_be_bytes());
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(chunk);
    let checksum = crc32c(&packet);
    packet[8..12].copy_from_slice(&checksum.to_le_bytes());
    packet
}

/// RFC 1071.
fn internet_checksum<'b>(bytes: impl Iterator<Item = &'b u8>) -> u16 {
    let sum: u32 = bytes
        .enumerate()
        .map(|(index, &byte)| u32::from(byte) << if index % 2 == 0 { 8 } else { 0 })
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or_default()
}

/// RFC 9260, appendix A; bit by bit, as only a handful of packets are made.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.iter().fold(!0, |crc: u32, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPV4_HEADER: usize = 20;

    #[test]
    fn crc32c_of_the_check_string() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_checksummed_header_sums_to_nothing() {
        let packet = syn((Ipv4Addr::new(10, 0, 0, 1), 1), (Ipv4Addr::new(10, 0, 0, 2), 2), 3);
        let pseudo = [&packet[12..20], &[0, TCP, 0, 20]].concat();
        assert_eq!(internet_checksum(pseudo.iter().chain(&packet[IPV4_HEADER..])), 0);
    }

    #[test]
    fn an_init_is_answered() {
        let packet = [&[0x45][..], &[0; IPV4_HEADER - 1], &init(1000, 38412, 7)].concat();
        let answer = init_ack(&packet).expect("an answer");
        let answer = [&[0x45][..], &[0; IPV4_HEADER - 1], &answer].concat();
        assert!(is_init_ack(&answer, 1000));
        assert!(!is_init_ack(&answer, 1001));
        assert!(init_ack(&answer).is_none());
    }
}
