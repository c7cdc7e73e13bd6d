//! What a pod sends, at the ingress of its veth's host side, before any other program sees it.
//!
//! What is done about a packet is not inlined: frames of calls share 512 bytes of stack, and a call
//! costs nothing beside what it does.

use aya_ebpf::{macros::classifier, programs::TcContext};
use whydrop_ebpf::{Attempt, flags, kind};

use crate::{
    parse::{Packet, Role},
    report::{self, AttemptOrigin, Observation, Ring},
    sender,
    skb::{self, Look, PASS},
};

#[classifier]
fn whydrop_from_pod(ctx: TcContext) -> i32 {
    let look = skb::look(&ctx);
    if matches!(look, Look::Dull) {
        return PASS;
    }
    let mut packet = skb::packet(&ctx, &look);
    // SAFETY: the context is valid for the program's run.
    let by = unsafe { skb::ifindex(&ctx) };
    match packet.role {
        Role::Request => {
            let sent = sender::sent(&packet.attempt, by);
            sent.mark(&mut packet.attempt);
            request(&packet, by, sent.flags);
        }
        Role::Answer => answer(&packet, by),
        Role::Reset => rejected(&packet, by, kind::REJECTED_RESET, 0),
        Role::Unreachable => rejected(&packet, by, kind::REJECTED_ICMP, packet.reason),
        Role::None => {}
    }
    PASS
}

/// The pod tries to connect. When the kernel repeats an attempt, nobody has answered it.
#[inline(never)]
fn request(packet: &Packet, by: u32, flags: u16) {
    if let Some(attempt) = report::attempt(&packet.attempt) {
        if attempt.flags & flags::FROM_POD == 0 || attempt.entered != by {
            // A pod that routes passes on what came to it; it is not the one who connects.
            return;
        }
        if attempt.destination == packet.destination
            && attempt.destination_port == packet.destination_port
        {
            attempt.packets += 1;
            if attempt.packets > report::RETRANSMISSIONS_REPORTED {
                return;
            }
            attempt.flags |= flags::REPORTED;
            let known = AttemptOrigin::of(attempt);
            report::report(&Observation {
                key: report::key(packet, known, kind::RETRANSMITTED, 0),
                attempt: packet.attempt,
                location: 0,
                known,
            });
            return;
        }
        // A resolver that asks several servers at once uses one port and one id for all of them.
    }
    let attempt = Attempt {
        destination: packet.destination,
        first_ns: report::tick(),
        entered: by,
        packets: 1,
        destination_port: packet.destination_port,
        flags: flags | flags::FROM_POD,
        delivered: 0,
    };
    report::remember(&packet.attempt, &attempt, Ring::Made, by);
}

/// The pod answers. That settles an attempt from elsewhere; a local client's is settled where the
/// answer reaches it, because the answer may still be lost on the way.
#[inline(never)]
fn answer(packet: &Packet, by: u32) {
    let Some(attempt) = report::attempt(&packet.attempt) else { return };
    if !sender::may_answer(attempt, &packet.destination, by) {
        return;
    }
    let known = AttemptOrigin::of(attempt);
    if known.flags & flags::FROM_POD == 0 {
        // Only who was handed it.
        if attempt.delivered != by {
            return;
        }
        report::succeeded(
            &packet.attempt,
            packet.destination,
            packet.destination_port,
            known,
            report::tick(),
        );
        report::forget(&packet.attempt);
        return;
    }
    // Where a plugin redirects packets past the pod's veth, it is not seen that they are handed to it.
    attempt.delivered = by;
    if known.flags & flags::COUNTED == 0
        && (known.dialled != packet.destination || known.dialled_port != packet.destination_port)
    {
        // The client dialled a Service; only here is it seen which pod answers. The attempt is not
        // settled before that has reached the client: an answer sent again is no other connection's.
        attempt.flags |= flags::COUNTED;
        let known = AttemptOrigin { flags: known.flags & !flags::REPORTED, ..known };
        report::succeeded(
            &packet.attempt,
            packet.destination,
            packet.destination_port,
            known,
            report::tick(),
        );
    }
}

/// The pod itself refuses a client that is not local. For a local client, the refusal is reported at
/// the client's veth.
#[inline(never)]
fn rejected(packet: &Packet, by: u32, kind: u8, reason: u32) {
    if let Some(attempt) = report::attempt(&packet.attempt)
        && attempt.flags & (flags::FROM_POD | flags::REJECTED) == 0
        && attempt.delivered == by
    {
        report::rejected(packet, attempt, kind, reason);
    }
}
