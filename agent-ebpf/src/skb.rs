//! A packet at tc: the quick test that most packets end with, and bytes for the parser.

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes, programs::TcContext};

use crate::parse::{
    self, ABORT, Bytes, DNS_PORT, ETHERNET_BYTES, ETHERTYPE_OFFSET, ICMP, ICMP_UNREACHABLE, ICMPV6,
    ICMPV6_UNREACHABLE, INIT, INIT_ACK, IPV4, IPV6, PROVIDER_VLAN, Packet, RST, SCTP, SYN, TCP,
    UDP, VLAN,
};

/// Passes the packet on untouched to the next program in line: `TCX_NEXT` for tcx, and for clsact
/// `TC_ACT_UNSPEC`, after the last of which the packet passes.
pub(crate) const PASS: i32 = -1;

/// What the packet means for an attempt; `None` for nearly all packets.
#[inline(always)]
pub(crate) fn packet(ctx: &TcContext) -> Option<Packet> {
    if is_dull(ctx) {
        return None;
    }
    let skb = Skb { skb: aya_ebpf::EbpfContext::as_ptr(ctx).cast() };
    let (offset, ethertype) = parse::network(&skb)?;
    parse::packet(&skb, offset, ethertype)
}

/// Whether the packet surely means nothing, by direct looks at its linear part. This is what every
/// packet of every pod pays, so it makes no calls. What it cannot see, it leaves to the parser.
#[inline(always)]
fn is_dull(ctx: &TcContext) -> bool {
    const V4_TRANSPORT: usize = ETHERNET_BYTES as usize + 20;
    const V6_TRANSPORT: usize = ETHERNET_BYTES as usize + 40;
    /// To the TCP flags, which lie farthest.
    const LOOK: usize = 14;
    /// Version 4 and a header without options.
    const PLAIN_V4: u8 = 0x45;

    let (data, end) = (ctx.data(), ctx.data_end());
    if data + V4_TRANSPORT + LOOK > end {
        return false;
    }
    // SAFETY: in bounds, as just tested.
    let ethertype = u16::from_be(unsafe { at::<u16>(data, ETHERTYPE_OFFSET as usize) });
    if ethertype == IPV4 {
        // SAFETY: as above.
        let (length, protocol) = unsafe { (at::<u8>(data, 14), at::<u8>(data, 23)) };
        if length != PLAIN_V4 {
            return false;
        }
        // SAFETY: the transport header's first `LOOK` bytes are in bounds, as tested above.
        unsafe { is_dull_transport::<V4_TRANSPORT>(data, protocol, ICMP, ICMP_UNREACHABLE) }
    } else if ethertype == IPV6 {
        if data + V6_TRANSPORT + LOOK > end {
            return false;
        }
        // SAFETY: in bounds, as tested above.
        let next = unsafe { at::<u8>(data, 20) };
        if parse::is_extension(next) {
            return false;
        }
        // SAFETY: as above.
        unsafe { is_dull_transport::<V6_TRANSPORT>(data, next, ICMPV6, ICMPV6_UNREACHABLE) }
    } else {
        ethertype != VLAN && ethertype != PROVIDER_VLAN
    }
}

/// SAFETY: 14 bytes from `data + AT` must be within the packet.
#[inline(always)]
unsafe fn is_dull_transport<const AT: usize>(
    data: usize,
    protocol: u8,
    icmp: u8,
    unreachable: u8,
) -> bool {
    // SAFETY: the caller's promise, for each.
    unsafe {
        if protocol == TCP {
            at::<u8>(data, AT + 13) & (SYN | RST) == 0
        } else if protocol == UDP {
            at::<u16>(data, AT) != DNS_PORT.to_be() && at::<u16>(data, AT + 2) != DNS_PORT.to_be()
        } else if protocol == SCTP {
            let chunk = at::<u8>(data, AT + 12);
            chunk != INIT && chunk != INIT_ACK && chunk != ABORT
        } else {
            protocol != icmp || at::<u8>(data, AT) != unreachable
        }
    }
}

/// SAFETY: `data + offset` must be within the packet's linear part.
#[inline(always)]
unsafe fn at<T: Copy>(data: usize, offset: usize) -> T {
    // SAFETY: the caller's promise; headers are at even offsets of a frame that the kernel aligns
    // to at least 2, and nothing wider than 2 bytes is read.
    unsafe { core::ptr::with_exposed_provenance::<T>(data + offset).read() }
}

/// The interface that the packet is at.
///
/// SAFETY: takes a context only so as to be called within a program's run, when it is valid.
#[inline(always)]
pub(crate) unsafe fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { (*aya_ebpf::EbpfContext::as_ptr(ctx).cast::<__sk_buff>()).ifindex }
}

/// The whole packet, linear or not.
struct Skb {
    skb: *mut __sk_buff,
}

impl Bytes for Skb {
    #[inline(always)]
    fn read<T: Copy>(&self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper checks `offset` and length against the packet and fills `value`, all
        // of it or none. Every `T` of the parser is made of integers.
        unsafe {
            (bpf_skb_load_bytes(
                self.skb.cast(),
                offset,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            ) == 0)
                .then(|| value.assume_init())
        }
    }

    #[inline(always)]
    fn end(&self) -> u32 {
        // SAFETY: the context is valid for the program's run.
        unsafe { (*self.skb).len }
    }
}
