//! From packet bytes to what a packet means for an attempt. Total: malformed packets mean nothing.

use whydrop_ebpf::{Address, AttemptKey, icmp_reason};

/// Where packet bytes come from: a socket buffer at tc, or kernel memory at a tracepoint.
pub(crate) trait Bytes {
    /// The value at this offset, which is even; `None` if the packet has not that many bytes.
    /// Headers are aligned to two bytes, because they are in a frame.
    fn read<T: Copy>(&self, offset: u32) -> Option<T>;

    /// The offset at which the packet ends.
    fn end(&self) -> u32;
}

/// What a packet means.
#[repr(u16)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// SYN, SCTP INIT, DNS query.
    Request,
    /// SYN-ACK, SCTP INIT-ACK, DNS response.
    Answer,
    /// RST or SCTP ABORT.
    Reset,
    /// ICMP destination unreachable.
    Unreachable,
    /// Nothing.
    None,
}

/// A packet about an attempt, described from the client's side whichever way the packet goes.
///
/// In this order, no zeros of one field follow those of another: of an odd run of them the compiler makes
/// a loop over bytes, which the verifier walks each time.
#[repr(C)]
pub(crate) struct Packet {
    pub(crate) destination: Address,
    pub(crate) attempt: AttemptKey,
    pub(crate) destination_port: u16,
    pub(crate) role: Role,
    /// The [`icmp_reason`] of one that says that something is unreachable, else 0. No payload of the role:
    /// that would be undefined for the others, and copied with them, which kernels before 6.3 refuse.
    pub(crate) reason: u32,
}

impl Packet {
    /// A packet that means nothing.
    ///
    /// Used in place of `Option::None` where ways of parsing meet: there the compiler would leave
    /// the fields of a missing packet undefined, and the verifier lets nothing undefined be copied.
    pub(crate) const NOTHING: Self = Self {
        role: Role::None,
        reason: 0,
        attempt: AttemptKey {
            source: [0; 4],
            sequence: 0,
            source_port: 0,
            protocol: 0,
            pad: 0,
            sender: 0,
        },
        destination: [0; 4],
        destination_port: 0,
    };
}

pub(crate) const ETHERNET_BYTES: u32 = 14;
pub(crate) const ETHERTYPE_OFFSET: u32 = 12;
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const VLAN: u16 = 0x8100;
pub(crate) const PROVIDER_VLAN: u16 = 0x88a8;
const VLAN_BYTES: u32 = 4;
/// IEEE 802.1ad: a customer's tag in a provider's. Deeper stacks are not followed.
const VLAN_TAGS_MAX: usize = 2;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const DNS_PORT: u16 = 53;
pub(crate) const ICMP_UNREACHABLE: u8 = 3;
pub(crate) const ICMPV6_UNREACHABLE: u8 = 1;
/// Fragmentation needed (RFC 1191): asks for smaller packets, refuses nobody.
const ICMP_TOO_BIG: u8 = 4;

/// TCP flag bits.
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
const ACK: u8 = 16;
const SYN_ACK: u8 = SYN | ACK;
const RST_ACK: u8 = RST | ACK;

/// SCTP chunk types (RFC 9260, 3.2).
pub(crate) const INIT: u8 = 1;
pub(crate) const INIT_ACK: u8 = 2;
pub(crate) const ABORT: u8 = 6;
/// An ABORT whose tag is the sender's own, not ours (RFC 9260, 3.3.7).
const ABORT_TAG_REFLECTED: u8 = 1;

/// IPv6 extension headers, by number (IANA). Eight of them are followed: RFC 8200, 4.1 orders
/// seven at most.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const EXTENSIONS_MAX: usize = 8;

/// Whether `next` is an IPv6 header that another header follows.
#[inline(always)]
pub(crate) const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

const IPV4_BYTES: u32 = 20;
/// The first byte of an IPv4 header without options.
pub(crate) const PLAIN_V4: u8 = 0x45;
const IPV6_BYTES: u32 = 40;
/// More fragments follow or came before: the flag and the offset (RFC 791, 3.1).
const IPV4_OFFSET_MASK: u16 = 0x1fff;
const IPV6_OFFSET_MASK: u16 = 0xfff8;
/// The third word of an IPv4-mapped address.
pub(crate) const IPV4_MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Ipv4 {
    version_length: u8,
    service: u8,
    total: [u8; 2],
    identification: [u8; 2],
    fragment: [u8; 2],
    ttl: u8,
    protocol: u8,
    checksum: [u8; 2],
    source: u32,
    destination: u32,
}

#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Ipv6 {
    version: u8,
    flow: [u8; 3],
    payload: [u8; 2],
    next: u8,
    hops: u8,
    source: Address,
    destination: Address,
}

#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Tcp {
    source: [u8; 2],
    destination: [u8; 2],
    sequence: [u8; 4],
    acknowledged: [u8; 4],
    /// Header length in words, in the upper four bits.
    length: u8,
    flags: u8,
    window: [u8; 2],
    checksum: [u8; 2],
    urgent: [u8; 2],
}

/// UDP and the first words of a DNS message (RFC 1035, 4.1.1).
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Dns {
    source: [u8; 2],
    destination: [u8; 2],
    length: [u8; 2],
    checksum: [u8; 2],
    id: [u8; 2],
    /// The response bit is the highest.
    flags: [u8; 2],
}
const DNS_HEADER_BYTES: u16 = 12;
const UDP_BYTES: u16 = 8;
const DNS_RESPONSE: u8 = 0x80;

/// SCTP's common header and the first words of a chunk (RFC 9260, 3).
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Sctp {
    source: [u8; 2],
    destination: [u8; 2],
    tag: [u8; 4],
    checksum: [u8; 4],
    kind: u8,
    flags: u8,
    length: [u8; 2],
    /// Of an INIT or INIT-ACK.
    initiate_tag: [u8; 4],
}
/// The chunk after the common header.
const SCTP_COMMON_BYTES: u32 = 12;
/// An INIT's fixed part.
const INIT_BYTES: u16 = 20;
const CHUNK_BYTES: u16 = 4;

#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Icmp {
    kind: u8,
    code: u8,
    checksum: [u8; 2],
    rest: [u8; 4],
}
const ICMP_BYTES: u32 = 8;

/// The ports and what follows them, of a packet quoted in an ICMP error: RFC 792 promises eight
/// bytes, which hold a TCP sequence number.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Quoted {
    source: [u8; 2],
    destination: [u8; 2],
    sequence: [u8; 4],
}

/// Where the network header is, and which one, skipping VLAN tags that are still in the packet.
#[inline(always)]
pub(crate) fn network<B: Bytes>(bytes: &B) -> Option<(u32, u16)> {
    let mut offset = ETHERTYPE_OFFSET;
    let mut ethertype = u16::from_be_bytes(bytes.read(offset)?);
    for _ in 0..VLAN_TAGS_MAX {
        if ethertype == VLAN || ethertype == PROVIDER_VLAN {
            offset += VLAN_BYTES;
            ethertype = u16::from_be_bytes(bytes.read(offset)?);
        }
    }
    Some((offset + 2, ethertype))
}

/// The network and transport headers of a packet, addresses as in the packet.
struct Headers {
    source: Address,
    destination: Address,
    protocol: u8,
    /// Where the transport header begins.
    transport: u32,
    /// Where the packet ends by its own account.
    end: u32,
}

/// Which headers are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Those of any packet.
    Any,
    /// Those of one without options and extension headers; others are refused. Where the transport
    /// header begins is a constant then, which leaves the verifier little to try.
    Plain,
    /// Those of one quoted in an ICMP error, which is cut off.
    Quoted,
}

/// Reads IP headers at `offset`.
#[inline(always)]
fn headers<B: Bytes>(bytes: &B, offset: u32, ethertype: u16, of: Of) -> Option<Headers> {
    let (whole, plain) = (of != Of::Quoted, of == Of::Plain);
    if ethertype == IPV4 {
        let ip: Ipv4 = bytes.read(offset)?;
        if plain && ip.version_length != PLAIN_V4 {
            return None;
        }
        let length = if plain { IPV4_BYTES } else { u32::from(ip.version_length & 0x0f) * 4 };
        if ip.version_length >> 4 != 4
            || length < IPV4_BYTES
            || u16::from_be_bytes(ip.fragment) & IPV4_OFFSET_MASK != 0
        {
            return None;
        }
        let end = offset + u32::from(u16::from_be_bytes(ip.total));
        if whole && end > bytes.end() {
            return None;
        }
        Some(Headers {
            source: [0, 0, IPV4_MAPPED, ip.source],
            destination: [0, 0, IPV4_MAPPED, ip.destination],
            protocol: ip.protocol,
            transport: offset + length,
            end,
        })
    } else if ethertype == IPV6 {
        let ip: Ipv6 = bytes.read(offset)?;
        if ip.version >> 4 != 6 {
            return None;
        }
        let transport = offset + IPV6_BYTES;
        let end = transport + u32::from(u16::from_be_bytes(ip.payload));
        if whole && end > bytes.end() {
            return None;
        }
        // An extension header is no protocol that anybody asks for.
        let (protocol, transport) =
            if plain { (ip.next, transport) } else { extensions(bytes, ip.next, transport)? };
        Some(Headers { source: ip.source, destination: ip.destination, protocol, transport, end })
    } else {
        None
    }
}

/// Follows IPv6 extension headers to the transport header.
#[inline(always)]
fn extensions<B: Bytes>(bytes: &B, next: u8, offset: u32) -> Option<(u8, u32)> {
    let (mut next, mut offset) = (next, offset);
    for _ in 0..EXTENSIONS_MAX {
        if !is_extension(next) {
            return Some((next, offset));
        }
        let [following, length, fragment @ ..]: [u8; 4] = bytes.read(offset)?;
        if next == FRAGMENT && u16::from_be_bytes(fragment) & IPV6_OFFSET_MASK != 0 {
            return None;
        }
        offset += match next {
            FRAGMENT => 8,
            AUTHENTICATION => (u32::from(length) + 2) * 4,
            _ => (u32::from(length) + 1) * 8,
        };
        next = following;
    }
    (!is_extension(next)).then_some((next, offset))
}

/// What the packet whose network header is at `offset` means.
#[inline(always)]
pub(crate) fn packet<B: Bytes>(bytes: &B, offset: u32, ethertype: u16) -> Option<Packet> {
    let headers = headers(bytes, offset, ethertype, Of::Any)?;
    match headers.protocol {
        TCP => tcp(bytes, &headers),
        UDP => dns(bytes, &headers),
        SCTP => sctp(bytes, &headers),
        ICMP if ethertype == IPV4 => icmp(bytes, &headers, IPV4),
        ICMPV6 if ethertype == IPV6 => icmp(bytes, &headers, IPV6),
        _ => None,
    }
}

/// As [`packet`], for one that is known to be TCP, without options or extension headers of IP.
#[inline(always)]
pub(crate) fn segment<B: Bytes>(bytes: &B, offset: u32, ethertype: u16) -> Option<Packet> {
    let headers = headers(bytes, offset, ethertype, Of::Plain)?;
    if headers.protocol == TCP { tcp(bytes, &headers) } else { None }
}

/// As [`packet`], for a place where errors and answers are of no interest.
#[inline(always)]
pub(crate) fn request<B: Bytes>(bytes: &B, offset: u32, ethertype: u16) -> Option<Packet> {
    let headers = headers(bytes, offset, ethertype, Of::Any)?;
    let packet = match headers.protocol {
        TCP => tcp(bytes, &headers),
        UDP => dns(bytes, &headers),
        SCTP => sctp(bytes, &headers),
        _ => None,
    }?;
    (packet.role == Role::Request).then_some(packet)
}

#[inline(always)]
fn tcp<B: Bytes>(bytes: &B, headers: &Headers) -> Option<Packet> {
    let tcp: Tcp = bytes.read(headers.transport)?;
    let length = u32::from(tcp.length >> 4) * 4;
    if length < size_of::<Tcp>() as u32 || headers.transport + length > headers.end {
        return None;
    }
    let answered = u32::from_be_bytes(tcp.acknowledged).wrapping_sub(1);
    match tcp.flags & (SYN | ACK | RST | FIN) {
        SYN => Some(from_client(
            headers,
            Role::Request,
            tcp.source,
            tcp.destination,
            u32::from_be_bytes(tcp.sequence),
        )),
        SYN_ACK => Some(to_client(headers, Role::Answer, tcp.source, tcp.destination, answered)),
        // With a number of its own it ends a connection (RFC 9293, 3.10.7.1).
        RST_ACK if tcp.sequence == [0; 4] => {
            Some(to_client(headers, Role::Reset, tcp.source, tcp.destination, answered))
        }
        _ => None,
    }
}

#[inline(always)]
fn dns<B: Bytes>(bytes: &B, headers: &Headers) -> Option<Packet> {
    let dns: Dns = bytes.read(headers.transport)?;
    let length = u16::from_be_bytes(dns.length);
    if length < UDP_BYTES + DNS_HEADER_BYTES || headers.transport + u32::from(length) > headers.end
    {
        return None;
    }
    let id = u32::from(u16::from_be_bytes(dns.id));
    let response = dns.flags[0] & DNS_RESPONSE != 0;
    if !response && u16::from_be_bytes(dns.destination) == DNS_PORT {
        Some(from_client(headers, Role::Request, dns.source, dns.destination, id))
    } else if response && u16::from_be_bytes(dns.source) == DNS_PORT {
        Some(to_client(headers, Role::Answer, dns.source, dns.destination, id))
    } else {
        None
    }
}

#[inline(always)]
fn sctp<B: Bytes>(bytes: &B, headers: &Headers) -> Option<Packet> {
    let chunk = headers.transport + SCTP_COMMON_BYTES;
    let [kind, flags, length @ ..]: [u8; 4] = bytes.read(chunk)?;
    let length = u16::from_be_bytes(length);
    let least = if kind == ABORT { CHUNK_BYTES } else { INIT_BYTES };
    if length < least || chunk + u32::from(length) > headers.end {
        return None;
    }
    if kind == ABORT {
        if flags & ABORT_TAG_REFLECTED != 0 {
            return None;
        }
        let Quoted { source, destination, sequence } = bytes.read(headers.transport)?;
        return Some(to_client(
            headers,
            Role::Reset,
            source,
            destination,
            u32::from_be_bytes(sequence),
        ));
    }
    let sctp: Sctp = bytes.read(headers.transport)?;
    match kind {
        INIT => Some(from_client(
            headers,
            Role::Request,
            sctp.source,
            sctp.destination,
            u32::from_be_bytes(sctp.initiate_tag),
        )),
        INIT_ACK => Some(to_client(
            headers,
            Role::Answer,
            sctp.source,
            sctp.destination,
            u32::from_be_bytes(sctp.tag),
        )),
        _ => None,
    }
}

#[inline(always)]
fn icmp<B: Bytes>(bytes: &B, outer: &Headers, ethertype: u16) -> Option<Packet> {
    let icmp: Icmp = bytes.read(outer.transport)?;
    let v6 = ethertype == IPV6;
    let unreachable = if v6 {
        icmp.kind == ICMPV6_UNREACHABLE
    } else {
        icmp.kind == ICMP_UNREACHABLE && icmp.code != ICMP_TOO_BIG
    };
    if !unreachable {
        return None;
    }
    let quoted = headers(bytes, outer.transport + ICMP_BYTES, ethertype, Of::Quoted)?;
    let ports: Quoted = bytes.read(quoted.transport)?;
    // The identity is beyond the eight bytes but for TCP; Linux quotes as much as fits (RFC 1812, 4.3.2.3).
    // What comes after the packet's end is padding.
    let (sequence, quoted_bytes) = match quoted.protocol {
        TCP => (u32::from_be_bytes(ports.sequence), size_of::<Quoted>()),
        UDP => {
            let dns: Dns = bytes.read(quoted.transport)?;
            (u32::from(u16::from_be_bytes(dns.id)), size_of::<Dns>())
        }
        SCTP => {
            let sctp: Sctp = bytes.read(quoted.transport)?;
            (u32::from_be_bytes(sctp.initiate_tag), size_of::<Sctp>())
        }
        _ => return None,
    };
    if quoted.transport + quoted_bytes as u32 > outer.end {
        return None;
    }
    let packet = from_client(&quoted, Role::Unreachable, ports.source, ports.destination, sequence);
    Some(Packet { reason: icmp_reason(v6, icmp.kind, icmp.code), ..packet })
}

#[inline(always)]
fn from_client(
    headers: &Headers,
    role: Role,
    source_port: [u8; 2],
    destination_port: [u8; 2],
    sequence: u32,
) -> Packet {
    Packet {
        role,
        reason: 0,
        attempt: AttemptKey {
            source: headers.source,
            sequence,
            source_port: u16::from_be_bytes(source_port),
            protocol: headers.protocol,
            pad: 0,
            sender: 0,
        },
        destination: headers.destination,
        destination_port: u16::from_be_bytes(destination_port),
    }
}

#[inline(always)]
fn to_client(
    headers: &Headers,
    role: Role,
    source_port: [u8; 2],
    destination_port: [u8; 2],
    sequence: u32,
) -> Packet {
    Packet {
        role,
        reason: 0,
        attempt: AttemptKey {
            source: headers.destination,
            sequence,
            source_port: u16::from_be_bytes(destination_port),
            protocol: headers.protocol,
            pad: 0,
            sender: 0,
        },
        destination: headers.source,
        destination_port: u16::from_be_bytes(source_port),
    }
}
