//! A packet at tc: the quick test that most packets end with, and bytes for the parser.

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes, programs::TcContext};

use crate::parse::{
    self, ABORT, Bytes, DNS_PORT, ETHERNET_BYTES, ETHERTYPE_OFFSET, ICMP, ICMP_UNREACHABLE, ICMPV6,
    ICMPV6_UNREACHABLE, INIT, INIT_ACK, IPV4, IPV6, PLAIN_V4, PROVIDER_VLAN, Packet, RST, SCTP,
    SYN, TCP, UDP, VLAN,
};

/// Passes the packet on untouched to the next program in line: `TCX_NEXT` for tcx, and for clsact
/// `TC_ACT_UNSPEC`, after the last of which the packet passes.
pub(crate) const PASS: i32 = -1;

/// What a packet means for an attempt that is not dull at first sight.
#[inline(always)]
pub(crate) fn packet(ctx: &TcContext, look: &Look) -> Packet {
    let mut packet = Packet::NOTHING;
    let skb = aya_ebpf::EbpfContext::as_ptr(ctx).cast();
    match *look {
        Look::Dull => {}
        Look::Segment(IPV4) => read_segment::<IPV4>(skb, &mut packet),
        Look::Segment(_) => read_segment::<IPV6>(skb, &mut packet),
        Look::Unclear => read(skb, &mut packet),
    }
    packet
}

/// Reads a TCP segment in place.
///
/// Not inlined, as [`read`]: its frame on the stack is free again for what follows. One for each
/// ethertype, so that every place in the packet is a constant: what is added to a pointer into a packet
/// must be that for a kernel which does not trust us with its memory.
#[inline(never)]
fn read_segment<const ETHERTYPE: u16>(skb: *mut __sk_buff, packet: &mut Packet) {
    // SAFETY: the context is valid for the program's run.
    let (data, data_end, len) = unsafe { ((*skb).data, (*skb).data_end, (*skb).len) };
    let linear = Linear { data: data as usize, data_end: data_end as usize, len };
    if let Some(found) = parse::segment(&linear, ETHERNET_BYTES, ETHERTYPE) {
        *packet = found;
    }
}

/// Reads the packet wherever it lies.
#[inline(never)]
fn read(skb: *mut __sk_buff, packet: &mut Packet) {
    let skb = Skb { skb };
    if let Some((offset, ethertype)) = parse::network(&skb)
        && let Some(found) = parse::packet(&skb, offset, ethertype)
    {
        *packet = found;
    }
}

/// What a first look says.
pub(crate) enum Look {
    /// The packet surely means nothing.
    Dull,
    /// A TCP segment that may, with headers in one piece, under this ethertype.
    Segment(u16),
    /// For the parser to say, which looks anywhere.
    Unclear,
}

/// Looks at the packet's linear part. This is what every packet of every pod pays, so it makes no
/// calls.
#[inline(always)]
pub(crate) fn look(ctx: &TcContext) -> Look {
    const V4_TRANSPORT: usize = ETHERNET_BYTES as usize + 20;
    const V6_TRANSPORT: usize = ETHERNET_BYTES as usize + 40;
    /// To the TCP flags, which lie farthest.
    const FAR: usize = 14;

    let (data, end) = (ctx.data(), ctx.data_end());
    if data + V4_TRANSPORT + FAR > end {
        return Look::Unclear;
    }
    // SAFETY: in bounds, as just tested.
    let ethertype = u16::from_be(unsafe { at::<u16>(data, ETHERTYPE_OFFSET as usize) });
    if ethertype == IPV4 {
        // SAFETY: as above.
        let (length, protocol) = unsafe { (at::<u8>(data, 14), at::<u8>(data, 23)) };
        if length != PLAIN_V4 {
            return Look::Unclear;
        }
        // SAFETY: the transport header's first `FAR` bytes are in bounds, as tested above.
        unsafe { look_at::<V4_TRANSPORT>(data, IPV4, protocol, ICMP, ICMP_UNREACHABLE) }
    } else if ethertype == IPV6 {
        if data + V6_TRANSPORT + FAR > end {
            return Look::Unclear;
        }
        // SAFETY: in bounds, as tested above.
        let next = unsafe { at::<u8>(data, 20) };
        if parse::is_extension(next) {
            return Look::Unclear;
        }
        // SAFETY: as above.
        unsafe { look_at::<V6_TRANSPORT>(data, IPV6, next, ICMPV6, ICMPV6_UNREACHABLE) }
    } else if ethertype == VLAN || ethertype == PROVIDER_VLAN {
        Look::Unclear
    } else {
        Look::Dull
    }
}

/// Looks at the transport header.
///
/// SAFETY: 14 bytes from `data + AT` must be within the packet.
#[inline(always)]
unsafe fn look_at<const AT: usize>(
    data: usize,
    ethertype: u16,
    protocol: u8,
    icmp: u8,
    unreachable: u8,
) -> Look {
    // SAFETY: the caller's promise, for each.
    let is_dull = unsafe {
        if protocol == TCP {
            let flags = at::<u8>(data, AT + 13);
            if flags & SYN != 0
                || (flags & RST != 0 && at::<u16>(data, AT + 4) | at::<u16>(data, AT + 6) == 0)
            {
                return Look::Segment(ethertype);
            }
            true
        } else if protocol == UDP {
            at::<u16>(data, AT) != DNS_PORT.to_be() && at::<u16>(data, AT + 2) != DNS_PORT.to_be()
        } else if protocol == SCTP {
            let chunk = at::<u8>(data, AT + 12);
            chunk != INIT && chunk != INIT_ACK && chunk != ABORT
        } else {
            protocol != icmp || at::<u8>(data, AT) != unreachable
        }
    };
    if is_dull { Look::Dull } else { Look::Unclear }
}

/// SAFETY: `data + offset` must be within the packet's linear part.
#[inline(always)]
unsafe fn at<T: Copy>(data: usize, offset: usize) -> T {
    // SAFETY: the caller's promise; the kernel aligns frames to two bytes at least, headers are at
    // even offsets, and no type read here is aligned to more.
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

/// The interface by which the packet came into the node, or the last one that took it in as if it had; 0: the
/// node itself made it.
///
/// SAFETY: as [`ifindex`].
#[inline(always)]
pub(crate) unsafe fn came_by(ctx: &TcContext) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { (*aya_ebpf::EbpfContext::as_ptr(ctx).cast::<__sk_buff>()).ingress_ifindex }
}

/// The linear part of a packet, read without calls.
struct Linear {
    data: usize,
    data_end: usize,
    len: u32,
}

impl Bytes for Linear {
    #[inline(always)]
    fn read<T: Copy>(&self, offset: u32) -> Option<T> {
        const { assert!(align_of::<T>() <= 2) };
        let offset = offset as usize;
        if self.data + offset + size_of::<T>() > self.data_end {
            return None;
        }
        // SAFETY: in bounds, as just tested. Every `T` of the parser is made of integers.
        Some(unsafe { at(self.data, offset) })
    }

    #[inline(always)]
    fn end(&self) -> u32 {
        self.len
    }
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
