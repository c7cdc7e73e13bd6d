//! How the connects of local pods end, by the state of their sockets: also where answers reach a pod
//! on a path that does not pass its veth.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use whydrop_ebpf::{Address, AttemptKey, TallyKey, flags, kind};

use crate::{
    kernel_memory::{field, probe},
    maps::layout,
    parse::{IPV4_MAPPED, TCP},
    report::{self, AttemptOrigin, Observation},
};

/// States of a TCP socket (`include/net/tcp_states.h`).
const ESTABLISHED: u32 = 1;
const SYN_SENT: u32 = 2;
const CLOSE: u32 = 7;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const ETIMEDOUT: u32 = 110;

#[btf_tracepoint]
fn whydrop_sock_state(ctx: BtfTracePointContext) -> i32 {
    let (old, new): (u32, u32) = (ctx.arg(1), ctx.arg(2));
    if old == SYN_SENT && (new == ESTABLISHED || new == CLOSE) {
        let _ = ended(ctx.arg(0), new == ESTABLISHED);
    }
    0
}

#[inline(always)]
fn ended(sk: *const u8, established: bool) -> Option<()> {
    // SAFETY: as for all members read here, the tracepoint's first argument is a socket, not null.
    if unsafe { field::<u16>(sk, layout!(sock_protocol)) } != u16::from(TCP) {
        return None;
    }
    let (source, destination) = addresses(sk)?;
    // Both beyond what the verifier knows of a socket. The port is not `skc_num`, which the kernel
    // clears before it reports a socket's end.
    let unacknowledged: u32 = probe(sk.addr() as u64 + u64::from(layout!(tcp_snd_una)))?;
    let port: u16 = probe(sk.addr() as u64 + u64::from(layout!(sock_source_port)))?;
    let key = AttemptKey {
        source,
        // The SYN takes one number, which the SYN-ACK has acknowledged by now, or nothing has.
        sequence: if established { unacknowledged.wrapping_sub(1) } else { unacknowledged },
        source_port: u16::from_be(port),
        protocol: TCP,
        pad: 0,
        // Its own: the pod has the address.
        sender: 0,
    };
    // Only attempts seen on a veth of ours: so only those of local pods, in whatever namespace.
    let attempt = report::attempt(&key)?;
    let known = AttemptOrigin::of(attempt);
    // SAFETY: as above.
    let destination_port = u16::from_be(unsafe { field(sk, layout!(sock_destination_port)) });
    if established {
        report::succeeded(&key, destination, destination_port, known, report::now());
    } else {
        // SAFETY: as above.
        let errno = unsafe { field::<u32>(sk, layout!(sock_err)) };
        let news = errno == ETIMEDOUT || known.flags & flags::REPORTED != 0;
        if news && known.flags & flags::REJECTED == 0 {
            report::report(&Observation {
                key: TallyKey {
                    source,
                    destination,
                    reason: errno,
                    interface: 0,
                    sender: known.entered,
                    destination_port,
                    protocol: TCP,
                    kind: kind::FAILED,
                },
                attempt: key,
                location: 0,
                known,
            });
        }
    }
    report::forget(&key);
    Some(())
}

/// The socket's own and the peer's address.
#[inline(always)]
fn addresses(sk: *const u8) -> Option<(Address, Address)> {
    // SAFETY: as in `ended`.
    match unsafe { field::<u16>(sk, layout!(sock_family)) } {
        // SAFETY: as in `ended`.
        AF_INET => Some(unsafe {
            (
                [0, 0, IPV4_MAPPED, field(sk, layout!(sock_source))],
                [0, 0, IPV4_MAPPED, field(sk, layout!(sock_destination))],
            )
        }),
        // IPv4 through an IPv6 socket is IPv4-mapped here as well.
        AF_INET6 => {
            let sk = sk.addr() as u64;
            Some((
                probe(sk + u64::from(layout!(sock_source_v6)))?,
                probe(sk + u64::from(layout!(sock_destination_v6)))?,
            ))
        }
        _ => None,
    }
}
