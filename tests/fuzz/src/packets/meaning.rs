//! What a packet means for an attempt to connect, read by etherparse and, where that has no parser (SCTP,
//! DNS), by hand.

use std::net::IpAddr;

use etherparse::{
    Ipv4HeaderSlice, Ipv6ExtensionSlice, Ipv6ExtensionsSlice, Ipv6HeaderSlice, LinkExtSlice,
    NetSlice, SlicedPacket, TcpSlice, UdpHeaderSlice, err::packet::SliceError,
};

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;
pub(super) const SCTP: u8 = 132;

const DNS_PORT: u16 = 53;
/// A DNS message's header (RFC 1035, 4.1.1).
const DNS_BYTES: usize = 12;
/// An ICMP message's header, of either version.
const ICMP_BYTES: usize = 8;

/// The programs look through so many tags, and follow so many extension headers.
const TAGS_MAX: usize = 2;
const EXTENSIONS_MAX: usize = 8;

/// IPv6 extension headers that the programs follow: hop-by-hop and destination options, routing, fragment,
/// authentication. Of those that etherparse knows as well, nobody uses the others.
const FOLLOWED: [u8; 5] = [0, 60, 43, 44, 51];

/// What a packet is about an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Request,
    Answer,
    Reset,
    Unreachable,
    /// About it, without meaning anything.
    Nothing,
}

/// A packet about an attempt, from the side of who connects.
#[derive(Clone, Debug)]
pub(super) struct Meaning {
    pub(super) role: Role,
    pub(super) protocol: u8,
    pub(super) source: (IpAddr, u16),
    pub(super) destination: (IpAddr, u16),
    pub(super) sequence: u32,
}

/// Network headers, and what follows them within the packet's own length.
struct Network<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &'a [u8],
}

/// What a frame means; `None`: nothing, to nobody.
///
/// # Errors
/// etherparse cannot read it.
pub(super) fn meaning(frame: &[u8]) -> Result<Option<Meaning>, SliceError> {
    let packet = SlicedPacket::from_ethernet(frame)?;
    let is_followed = |tag: &LinkExtSlice<'_>| match tag {
        // What the tag itself is under, is in what comes before it.
        LinkExtSlice::Vlan(_) => true,
        LinkExtSlice::Macsec(_) => false,
    };
    let tags = &packet.link_exts;
    // 802.1Q and 802.1ad; etherparse also takes 0x9100, which was one vendor's.
    let is_old = |at: usize| frame[12 + 4 * at..14 + 4 * at] == [0x91, 0x00];
    if tags.len() > TAGS_MAX || !tags.iter().all(is_followed) || (0..tags.len()).any(is_old) {
        return Ok(None);
    }
    Ok(network(&packet).and_then(|network| transport(&network)))
}

fn network<'a>(packet: &SlicedPacket<'a>) -> Option<Network<'a>> {
    match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            // An authentication header is followed in IPv6 alone.
            let is_first = header.fragments_offset().value() == 0;
            (is_first && ip.extensions().auth.is_none()).then_some(())?;
            Some(Network {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                protocol: header.protocol().0,
                payload: ip.payload().payload,
            })
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            // A length of none is no jumbogram's to the programs: none of those is a request.
            (header.payload_length() > 0).then_some(())?;
            let extensions = ip.extensions();
            let first = header.next_header().0;
            are_followed(extensions, first).then_some(())?;
            Some(Network {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                protocol: ip.payload().ip_number.0,
                payload: ip.payload().payload,
            })
        }
        NetSlice::Arp(_) => None,
    }
}

/// Whether the programs follow these headers to the one behind them: a first fragment's, and not too many.
fn are_followed(extensions: &Ipv6ExtensionsSlice<'_>, first: u8) -> bool {
    let mut number = first;
    let mut count = 0;
    for extension in extensions.clone() {
        count += 1;
        if !FOLLOWED.contains(&number) || count > EXTENSIONS_MAX {
            return false;
        }
        number = match extension {
            Ipv6ExtensionSlice::Fragment(fragment) => {
                if fragment.fragment_offset().value() != 0 {
                    return false;
                }
                fragment.next_header().0
            }
            Ipv6ExtensionSlice::Authentication(header) => header.next_header().0,
            Ipv6ExtensionSlice::HopByHop(header)
            | Ipv6ExtensionSlice::Routing(header)
            | Ipv6ExtensionSlice::DestinationOptions(header) => header.next_header().0,
        };
    }
    true
}

fn transport(network: &Network<'_>) -> Option<Meaning> {
    let payload = network.payload;
    match network.protocol {
        TCP => {
            let tcp = TcpSlice::from_slice(payload).ok()?;
            let (from, to) = (tcp.source_port(), tcp.destination_port());
            let answered = tcp.acknowledgment_number().wrapping_sub(1);
            let (sequence, is_plain) = (tcp.sequence_number(), !tcp.fin());
            Some(match (tcp.syn(), tcp.ack(), tcp.rst()) {
                (true, false, false) if is_plain => network.sent(Role::Request, from, to, sequence),
                (true, true, false) if is_plain => network.answer(Role::Answer, from, to, answered),
                // With a number of its own it ends a connection (RFC 9293, 3.10.7.1).
                (false, true, true) if is_plain && sequence == 0 => {
                    network.answer(Role::Reset, from, to, answered)
                }
                _ => network.answer(Role::Nothing, from, to, answered),
            })
        }
        UDP => {
            let udp = UdpHeaderSlice::from_slice(payload).ok()?;
            let length = usize::from(udp.length());
            let message = payload.get(8..length).filter(|message| message.len() >= DNS_BYTES)?;
            let id = u32::from(u16::from_be_bytes([message[0], message[1]]));
            let is_response = message[2] & 0x80 != 0;
            let (from, to) = (udp.source_port(), udp.destination_port());
            Some(match (is_response, from, to) {
                (false, _, DNS_PORT) => network.sent(Role::Request, from, to, id),
                (true, DNS_PORT, _) => network.answer(Role::Answer, from, to, id),
                _ => network.answer(Role::Nothing, from, to, id),
            })
        }
        SCTP => sctp(network),
        ICMP | ICMPV6 => icmp(network),
        _ => None,
    }
}

impl Network<'_> {
    fn sent(&self, role: Role, from: u16, to: u16, sequence: u32) -> Meaning {
        Meaning {
            role,
            protocol: self.protocol,
            source: (self.source, from),
            destination: (self.destination, to),
            sequence,
        }
    }

    fn answer(&self, role: Role, from: u16, to: u16, sequence: u32) -> Meaning {
        Meaning {
            role,
            protocol: self.protocol,
            source: (self.destination, to),
            destination: (self.source, from),
            sequence,
        }
    }
}

/// RFC 9260, 3: of a packet its first chunk counts.
fn sctp(network: &Network<'_>) -> Option<Meaning> {
    let payload = network.payload;
    let number = |at: usize| Some(u32::from_be_bytes(payload.get(at..at + 4)?.try_into().ok()?));
    let port = |at: usize| Some(u16::from_be_bytes(payload.get(at..at + 2)?.try_into().ok()?));
    let (from, to, tag) = (port(0)?, port(2)?, number(4)?);
    let length = usize::from(port(14)?);
    let is_whole = |least: usize| length >= least && payload.len() >= 12 + length;
    Some(match payload[12] {
        1 if is_whole(20) => network.sent(Role::Request, from, to, number(16)?),
        2 if is_whole(20) => network.answer(Role::Answer, from, to, tag),
        // Its tag is the sender's own where the first bit says so (3.3.7).
        6 if is_whole(4) && payload[13] & 1 == 0 => network.answer(Role::Reset, from, to, tag),
        _ => network.answer(Role::Nothing, from, to, tag),
    })
}

/// Errors quote the packet that they are about (RFC 792, RFC 4443), cut off.
fn icmp(network: &Network<'_>) -> Option<Meaning> {
    let (kind, code) = (*network.payload.first()?, *network.payload.get(1)?);
    let quoted = network.payload.get(ICMP_BYTES..)?;
    let is_v6 = network.source.is_ipv6();
    if is_v6 != (network.protocol == ICMPV6) {
        return None;
    }
    let quoted = if is_v6 { quoted_v6(quoted) } else { quoted_v4(quoted) }?;
    // Behind the first eight bytes is what names a DNS query or an SCTP association.
    let at = quoted.payload;
    let ports = at.get(..8)?;
    let sequence = match quoted.protocol {
        TCP => u32::from_be_bytes([at[4], at[5], at[6], at[7]]),
        UDP => u32::from(u16::from_be_bytes(at.get(8..12)?[..2].try_into().ok()?)),
        SCTP => u32::from_be_bytes(at.get(16..20)?.try_into().ok()?),
        _ => return None,
    };
    let [from, to] = [0, 2].map(|at| u16::from_be_bytes([ports[at], ports[at + 1]]));
    let is_unreachable = if is_v6 { kind == 1 } else { kind == 3 && code != 4 };
    let role = if is_unreachable { Role::Unreachable } else { Role::Nothing };
    Some(quoted.sent(role, from, to, sequence))
}

fn quoted_v4(bytes: &[u8]) -> Option<Network<'_>> {
    let header = Ipv4HeaderSlice::from_slice(bytes).ok()?;
    (header.fragments_offset().value() == 0).then_some(())?;
    Some(Network {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        protocol: header.protocol().0,
        payload: &bytes[header.slice().len()..],
    })
}

fn quoted_v6(bytes: &[u8]) -> Option<Network<'_>> {
    let header = Ipv6HeaderSlice::from_slice(bytes).ok()?;
    let rest = &bytes[header.slice().len()..];
    let (extensions, protocol, payload) =
        Ipv6ExtensionsSlice::from_slice(header.next_header(), rest).ok()?;
    are_followed(&extensions, header.next_header().0).then_some(())?;
    Some(Network {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        protocol: protocol.0,
        payload,
    })
}
