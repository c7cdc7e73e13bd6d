//! Packets that this kernel frees as dropped, wherever on the node.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use whydrop_ebpf::{ELSEWHERE, TallyKey, flags, kind};

use crate::{
    kernel_memory::{field, probe},
    maps::layout,
    parse::{self, Bytes, IPV4, IPV6, PLAIN_V4, Packet, Role, TCP},
    report::{self, AttemptOrigin, Observation},
    sender::{self, Sent},
};

/// Arguments of the tracepoint: `skb`, `location`, and since Linux 5.17 `reason`.
const SKB: usize = 0;
const LOCATION: usize = 1;
const REASON: usize = 2;
/// `SKB_DROP_REASON_NOT_SPECIFIED` of the kernels that do not say; user space names it.
const NO_REASON: u32 = 0;

#[btf_tracepoint]
fn whydrop_kfree_skb(ctx: BtfTracePointContext) -> i32 {
    let _ = dropped(&ctx);
    0
}

#[inline(always)]
fn dropped(ctx: &BtfTracePointContext) -> Option<()> {
    let skb: *const u8 = ctx.arg(SKB);
    // SAFETY: as with all typed pointers here, the verifier knows the type and checks the
    // offset, and a load that faults reads zero.
    let ethertype = u16::from_be(unsafe { field::<u16>(skb, layout!(skb_protocol)) });
    if ethertype != IPV4 && ethertype != IPV6 {
        return None;
    }
    if layout!(netns) == 0 {
        aya_log_ebpf::error!((), "user space has not said which network namespace is ours");
        return None;
    }
    let mut packet = request(&Headers::of(skb)?, ethertype)?;
    let (netns, interface) = place(skb);
    let ours = netns == layout!(netns);
    // There the numbers mean other interfaces.
    let interface = if ours { interface } else { ELSEWHERE };
    let sent = if ours {
        // SAFETY: as above.
        let by = unsafe { field::<u32>(skb, layout!(skb_iif)) };
        sender::sent(&packet.attempt, by)
    } else {
        Sent { by: 0, flags: 0 }
    };
    sent.mark(&mut packet.attempt);
    let known = match report::attempt(&packet.attempt) {
        // Namespaces of other nodes may be on the same machine, and pods may filter for
        // themselves. What was handed to a local pod and is dropped there is still ours to report.
        Some(attempt) if ours || attempt.flags & flags::TO_POD != 0 => {
            attempt.flags |= flags::REPORTED;
            AttemptOrigin::of(attempt)
        }
        None if ours => {
            AttemptOrigin { entered: sent.by, flags: sent.flags, ..AttemptOrigin::NOTHING }
        }
        _ => return None,
    };
    report_drop(ctx, &packet, known, interface);
    Some(())
}

/// The packet, if it asks for a connection.
#[inline(always)]
fn request(headers: &Headers, ethertype: u16) -> Option<Packet> {
    if ethertype != IPV4 || headers.linear < Front::BYTES {
        return parse::request(headers, 0, ethertype);
    }
    // Nearly all that is dropped: read at once, because calls are what costs here.
    let front = Front { bytes: probe(headers.base)?, end: headers.end };
    if front.bytes[0] != PLAIN_V4 || front.bytes[9] != TCP {
        return parse::request(headers, 0, ethertype);
    }
    let packet = parse::segment(&front, 0, IPV4)?;
    (packet.role == Role::Request).then_some(packet)
}

#[inline(always)]
fn report_drop(ctx: &BtfTracePointContext, packet: &Packet, known: AttemptOrigin, interface: u32) {
    // A constant to the verifier, which drops the branch that reads an argument not there.
    let reason = if layout!(has_reason) != 0 { ctx.arg::<u32>(REASON) } else { NO_REASON };
    let key = TallyKey { interface, ..report::key(packet, known, kind::KERNEL_DROP, reason) };
    report::report(&Observation {
        key,
        attempt: packet.attempt,
        location: ctx.arg(LOCATION),
        known,
    });
}

/// The network namespace (its inode number, 0 for unknown) and the device of the packet.
#[inline(always)]
fn place(skb: *const u8) -> (u32, u32) {
    // SAFETY: as in `dropped`.
    unsafe {
        let dev = field::<*const u8>(skb, layout!(skb_dev));
        if !dev.is_null() {
            let net = field::<*const u8>(dev, layout!(dev_net));
            let interface = field::<u32>(dev, layout!(dev_ifindex));
            let netns = if net.is_null() { 0 } else { field(net, layout!(net_inum)) };
            return (netns, interface);
        }
        // On its way out, before a device was chosen: as on the OUTPUT hook of a host process.
        let sk = field::<*const u8>(skb, layout!(skb_sk));
        if !sk.is_null() {
            let net = field::<*const u8>(sk, layout!(sock_net));
            return (if net.is_null() { 0 } else { field(net, layout!(net_inum)) }, 0);
        }
        (netns_of_route(field(skb, layout!(skb_dst))).unwrap_or(0), 0)
    }
}

/// The namespace of the device that a packet without device or socket is routed to.
#[inline(always)]
fn netns_of_route(skb_dst: u64) -> Option<u32> {
    /// `SKB_DST_NOREF` in the lowest bit (include/linux/skbuff.h).
    const NO_REFERENCE: u64 = 1;
    let dst = skb_dst & !NO_REFERENCE;
    if dst == 0 {
        return None;
    }
    let dev: u64 = probe(dst + u64::from(layout!(dst_dev)))?;
    let net: u64 = probe(dev + u64::from(layout!(dev_net)))?;
    probe(net + u64::from(layout!(net_inum)))
}

/// A packet from its network header on.
struct Headers {
    base: u64,
    /// Where the part in one piece ends, from `base`; headers beyond it are not looked for.
    linear: u32,
    end: u32,
}

impl Headers {
    #[inline(always)]
    fn of(skb: *const u8) -> Option<Self> {
        // SAFETY: as in `dropped`.
        let (head, data, network, len, paged) = unsafe {
            (
                field::<u64>(skb, layout!(skb_head)),
                field::<u64>(skb, layout!(skb_data)),
                field::<u16>(skb, layout!(skb_network_header)),
                field::<u32>(skb, layout!(skb_len)),
                field::<u32>(skb, layout!(skb_data_len)),
            )
        };
        let base = head + u64::from(network);
        // `data` is at whichever header the packet had got to.
        let end = (data + u64::from(len)).checked_sub(base)?;
        let linear = end.checked_sub(u64::from(paged))?;
        // A packet has at most 64 KiB of headers; what claims more has no network header set.
        (linear <= 0xffff).then_some(Self { base, linear: linear as u32, end: end as u32 })
    }
}

impl Bytes for Headers {
    #[inline(always)]
    fn read<T: Copy>(&self, offset: u32) -> Option<T> {
        if offset + size_of::<T>() as u32 > self.linear {
            return None;
        }
        probe(self.base + u64::from(offset))
    }

    #[inline(always)]
    fn end(&self) -> u32 {
        self.end
    }
}

/// A plain IPv4 header and a TCP header, copied.
struct Front {
    bytes: [u8; Self::BYTES as usize],
    end: u32,
}

impl Front {
    const BYTES: u32 = 40;
}

impl Bytes for Front {
    #[inline(always)]
    fn read<T: Copy>(&self, offset: u32) -> Option<T> {
        if offset + size_of::<T>() as u32 > Self::BYTES {
            return None;
        }
        // SAFETY: in bounds, as just tested. Every `T` of the parser is made of integers.
        Some(unsafe { self.bytes.as_ptr().add(offset as usize).cast::<T>().read_unaligned() })
    }

    #[inline(always)]
    fn end(&self) -> u32 {
        self.end
    }
}
