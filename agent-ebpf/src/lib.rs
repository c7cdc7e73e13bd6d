//! The types that the eBPF programs and user space share: fixed layout, sizes asserted, versioned.
//!
//! Integers are in the machine's byte order. Addresses are 16 bytes as they are on the wire, IPv4
//! as IPv4-mapped IPv6 (RFC 4291, 2.5.5.2), held as four words so that neither side copies byte by
//! byte: see [`address`] and [`octets`].
#![no_std]

/// Version of everything in this file. User space refuses programs of another version: the map
/// `ABI` has this many entries, which can be read before any program runs.
pub const ABI_VERSION: u32 = 4;

/// An IPv6 or IPv4-mapped address, as on the wire.
pub type Address = [u32; 4];

/// The address with these 16 bytes.
pub const fn address(octets: [u8; 16]) -> Address {
    let (words, _) = octets.as_chunks::<4>();
    [
        u32::from_ne_bytes(words[0]),
        u32::from_ne_bytes(words[1]),
        u32::from_ne_bytes(words[2]),
        u32::from_ne_bytes(words[3]),
    ]
}

/// The 16 bytes of an address.
pub const fn octets(address: Address) -> [u8; 16] {
    let mut octets = [0; 16];
    let mut at = 0;
    while at < octets.len() {
        octets[at] = address[at / 4].to_ne_bytes()[at % 4];
        at += 1;
    }
    octets
}

/// What stays the same of an attempt's packets, whatever translation does to their destination.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AttemptKey {
    /// Who connects.
    pub source: Address,
    /// TCP: initial sequence number. SCTP: initiate tag of the INIT. UDP: DNS message id.
    pub sequence: u32,
    /// Source port.
    pub source_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero, since the kernel hashes every byte of a key.
    pub pad: u8,
    /// The interface by which it came, of one whose source address is not its sender's
    /// ([`flags::FOREIGN`]); else 0. So what others send in its name is never taken for an attempt's own.
    pub sender: u32,
}

/// What is known of an attempt that nobody has answered: the value of the map `ATTEMPTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// Destination where a veth saw the attempt first: before DNAT, if it came from a local pod.
    pub destination: Address,
    /// Monotonic time of the first packet on a veth.
    pub first_ns: u64,
    /// Interface index by which it entered the node: that of the pod's veth, if it is [`flags::FROM_POD`];
    /// 0 if the node itself sent it.
    pub entered: u32,
    /// Packets seen where it was seen first.
    pub packets: u32,
    /// Destination port beside `destination`.
    pub destination_port: u16,
    /// Bits of [`flags`].
    pub flags: u16,
    /// Interface index of the veth that it was handed to last, 0 for none: an answer may come by it.
    pub delivered: u32,
}

/// Bits of [`Attempt::flags`], [`Tally::flags`] and [`Event::flags`].
pub mod flags {
    /// A pod on this node sent it.
    pub const FROM_POD: u16 = 1;
    /// It was handed to a pod on this node.
    pub const TO_POD: u16 = 2;
    /// An observation of it was reported.
    pub const REPORTED: u16 = 4;
    /// It was rejected, which is reported once.
    pub const REJECTED: u16 = 8;
    /// `dialled`, `entered` and `first_ns` are known: a veth of ours saw the attempt.
    pub const KNOWN: u16 = 16;
    /// A local pod has answered it, and that is counted; of [`super::Attempt::flags`] only. The
    /// same answer may come again, when it was lost on its way to the client.
    pub const COUNTED: u16 = 32;
    /// Its source address is none of those that its sender is known to have. It is another's, or its sender
    /// passes on what comes from elsewhere, as a VPN's pod does.
    pub const FOREIGN: u16 = 64;
    /// Its source address is another's: one that came by another interface than the one behind which, as
    /// is known, the pod is that has it.
    pub const SPOOFED: u16 = 128;
}

/// What user space knows of an interface by which packets come: the value of the map `SENDERS`. What comes by
/// one that is not in there is taken for the source's own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// Which share of the tables it has, below [`SENDERS_SHARES`]: 0 is that of all that have none.
    pub share: u32,
    /// Bits of [`sender_flags`].
    pub flags: u32,
}

/// Bits of [`Sender::flags`].
pub mod sender_flags {
    /// It is a pod's veth.
    pub const POD: u32 = 1;
    /// Which addresses the pod has is known: all of them are in the map `ADDRESSES`, or ambiguous.
    pub const HAS_KNOWN_ADDRESSES: u32 = 2;
}

/// How many shares the tables have. More than a node has pods, by default; beyond it, some share one.
pub const SENDERS_SHARES: u32 = 256;

/// How many attempts of one sender are remembered, and as many again of those that are handed to a pod from
/// elsewhere. A place is free again once the attempt was answered or refused, so that this is how many may be
/// open at once: some two minutes (`tcp_syn_retries`) of one a second.
pub const ATTEMPTS_OF_SENDER: u32 = 128;

/// What an observation is about: [`TallyKey::kind`]. The numbers index the map `COUNTERS`.
pub mod kind {
    /// The kernel freed the packet as dropped; `reason` is the `enum skb_drop_reason`.
    pub const KERNEL_DROP: u8 = 0;
    /// The same packet came again.
    pub const RETRANSMITTED: u8 = 1;
    /// A local pod's connect failed; `reason` is the errno.
    pub const FAILED: u8 = 2;
    /// TCP RST or SCTP ABORT.
    pub const REJECTED_RESET: u8 = 3;
    /// ICMP destination unreachable; `reason` is [`super::icmp_reason`].
    pub const REJECTED_ICMP: u8 = 4;
    /// An answer came after an observation of the attempt was reported.
    pub const ANSWERED_LATE: u8 = 5;
    /// The first answer for this (source, destination, port) in the table of successes.
    pub const ANSWERED_FIRST: u8 = 6;
    /// How many kinds there are.
    pub const COUNT: u8 = 7;
}

/// The `reason` of a [`kind::REJECTED_ICMP`].
pub const fn icmp_reason(v6: bool, kind: u8, code: u8) -> u32 {
    (v6 as u32) << 16 | (kind as u32) << 8 | code as u32
}

/// [`TallyKey::interface`] of a drop in another network namespace than the agent's. No interface has this
/// number: they are positive `int`s.
pub const ELSEWHERE: u32 = u32::MAX;

/// What one counter counts: everything about an observation but the source port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TallyKey {
    /// Who connects.
    pub source: Address,
    /// Who is connected to, where it was observed.
    pub destination: Address,
    /// See [`kind`].
    pub reason: u32,
    /// The packet's device at a kernel drop, or [`ELSEWHERE`]; else 0.
    pub interface: u32,
    /// The interface by which it entered the node: that of the pod's veth, if it is [`flags::FROM_POD`];
    /// 0 if the node itself sent it, or that is not known.
    pub sender: u32,
    /// Destination port.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// One of [`kind`].
    pub kind: u8,
}

/// How often a [`TallyKey`] came in one interval after the event that reported the first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets that no event reported.
    pub count: u64,
    /// Monotonic time of one of the latest of them.
    pub last_ns: u64,
    /// Where the kernel freed the first: an address in its text.
    pub location: u64,
    /// The first's destination where a veth saw it.
    pub dialled: Address,
    /// The port beside `dialled`.
    pub dialled_port: u16,
    /// The first's bits of [`flags`].
    pub flags: u16,
    /// Zero.
    pub pad: u32,
}

/// One observation, reported through the ring `EVENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// What was observed.
    pub key: TallyKey,
    /// Of which attempt.
    pub attempt: AttemptKey,
    /// The port beside `dialled`.
    pub dialled_port: u16,
    /// Bits of [`flags`].
    pub flags: u16,
    /// Monotonic time.
    pub at_ns: u64,
    /// Monotonic time of the attempt's first packet on a veth.
    pub first_ns: u64,
    /// Where the kernel freed the packet: an address in its text, named in `LOCATIONS`.
    pub location: u64,
    /// Destination where a veth saw the attempt first.
    pub dialled: Address,
}

/// Whose answers a [`Success`] is about: the key of the map `SUCCESSES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SuccessKey {
    /// Who connects.
    pub source: Address,
    /// Who answered.
    pub destination: Address,
    /// Destination port.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

/// Which answers a flow got, as monotonic times: the value of the map `SUCCESSES`. An answer settles
/// one attempt to connect, so that as many connections were answered.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Success {
    /// The first.
    pub first_ns: u64,
    /// The last but one; 0 where there was one only.
    pub before_ns: u64,
    /// The last.
    pub last_ns: u64,
    /// How many.
    pub count: u64,
}

/// Where the map `COUNTERS` has how many entries were ever made in `SUCCESSES`: those that are not
/// there any more were evicted.
pub const SUCCESSES_MADE: u32 = 2 * kind::COUNT as u32 + 1;

/// Where the map `COUNTERS` has how many attempts gave way before their time to others of their sender.
pub const ATTEMPTS_EVICTED: u32 = SUCCESSES_MADE + 1;

/// How many counters there are.
pub const COUNTERS: u32 = ATTEMPTS_EVICTED + 1;

/// Length of a name in `LOCATIONS`: the kernel's `KSYM_NAME_LEN` is longer, its names are not.
pub const LOCATION_BYTES: usize = 64;

/// What the programs must know of the running kernel and of the agent: the read-only global
/// `LAYOUT`. Offsets are in bytes. They are constants to the verifier, which checks those that are
/// read through typed pointers against the kernel's BTF.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Inode number of the agent's network namespace.
    pub netns: u32,
    /// 1 if `kfree_skb` hands over a reason (Linux 5.17).
    pub has_reason: u32,
    /// 1 if there is a helper that can name the kernel functions that drop (Linux 5.13).
    pub name_locations: u32,
    /// 1 if there is a helper for the time at the last tick (Linux 5.11).
    pub has_coarse_clock: u32,
    /// `sk_buff.dev`
    pub skb_dev: u32,
    /// `sk_buff.skb_iif`
    pub skb_iif: u32,
    /// `sk_buff.sk`
    pub skb_sk: u32,
    /// `sk_buff._skb_refdst`
    pub skb_dst: u32,
    /// `sk_buff.len`
    pub skb_len: u32,
    /// `sk_buff.data_len`
    pub skb_data_len: u32,
    /// `sk_buff.protocol`
    pub skb_protocol: u32,
    /// `sk_buff.network_header`
    pub skb_network_header: u32,
    /// `sk_buff.head`
    pub skb_head: u32,
    /// `sk_buff.data`
    pub skb_data: u32,
    /// `net_device.nd_net`
    pub dev_net: u32,
    /// `net_device.ifindex`
    pub dev_ifindex: u32,
    /// `dst_entry.dev`
    pub dst_dev: u32,
    /// `net.ns.inum`
    pub net_inum: u32,
    /// `sock.__sk_common.skc_net`
    pub sock_net: u32,
    /// `sock.__sk_common.skc_family`
    pub sock_family: u32,
    /// `inet_sock.inet_sport`
    pub sock_source_port: u32,
    /// `sock.__sk_common.skc_dport`
    pub sock_destination_port: u32,
    /// `sock.__sk_common.skc_rcv_saddr`
    pub sock_source: u32,
    /// `sock.__sk_common.skc_daddr`
    pub sock_destination: u32,
    /// `sock.__sk_common.skc_v6_rcv_saddr`
    pub sock_source_v6: u32,
    /// `sock.__sk_common.skc_v6_daddr`
    pub sock_destination_v6: u32,
    /// `sock.sk_protocol`
    pub sock_protocol: u32,
    /// `sock.sk_err`
    pub sock_err: u32,
    /// `tcp_sock.snd_una`
    pub tcp_snd_una: u32,
}

const _: () = {
    assert!(size_of::<AttemptKey>() == 28);
    assert!(size_of::<Attempt>() == 40);
    assert!(size_of::<TallyKey>() == 48);
    assert!(size_of::<Tally>() == 48);
    assert!(size_of::<Event>() == 120);
    assert!(size_of::<Sender>() == 8);
    assert!(size_of::<SuccessKey>() == 36);
    assert!(size_of::<Success>() == 32);
    assert!(size_of::<Layout>() == 29 * 4);
};

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "Pod promises aya that any bytes are a value")]
mod user {
    // SAFETY: `repr(C)`, integers only, padding explicit (the sizes above are the sums).
    unsafe impl aya::Pod for super::AttemptKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Attempt {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Sender {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::TallyKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Tally {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Event {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SuccessKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Success {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Layout {}
}
