//! What reaches a pod, at the egress of its veth's host side, after netfilter and other programs of
//! tcx let it by. Filters of clsact come later, and may still drop it: Cilium's do.
//!
//! What is done about a packet is not inlined, as in `from_pod`.

use aya_ebpf::{macros::classifier, programs::TcContext};
use whydrop_ebpf::{Attempt, flags, kind};

use crate::{
    parse::{Packet, Role},
    report::{self, AttemptOrigin, Observation, Ring},
    sender::{self, Sent},
    skb::{self, Look, PASS},
};

#[classifier]
fn whydrop_to_pod(ctx: TcContext) -> i32 {
    let look = skb::look(&ctx);
    if matches!(look, Look::Dull) {
        return PASS;
    }
    let mut packet = skb::packet(&ctx, &look);
    // SAFETY: the context is valid for the program's run.
    let (to, by) = unsafe { (skb::ifindex(&ctx), skb::came_by(&ctx)) };
    match packet.role {
        Role::Request => {
            let sent = sender::sent(&packet.attempt, by);
            sent.mark(&mut packet.attempt);
            request(&packet, sent, to);
        }
        Role::Answer => answer(&mut packet, by, to),
        Role::Reset => rejected(&packet, by, kind::REJECTED_RESET, 0),
        Role::Unreachable => rejected(&packet, by, kind::REJECTED_ICMP, packet.reason),
        Role::None => {}
    }
    PASS
}

/// The attempt is handed to the pod it is addressed to.
#[inline(never)]
fn request(packet: &Packet, sent: Sent, to: u32) {
    let Some(attempt) = report::attempt(&packet.attempt) else {
        // A local pod's was forgotten by now: its packets are no news from elsewhere.
        if sent.flags & flags::FROM_POD != 0 {
            return;
        }
        let attempt = Attempt {
            destination: packet.destination,
            first_ns: report::tick(),
            entered: sent.by,
            packets: 1,
            destination_port: packet.destination_port,
            flags: sent.flags | flags::TO_POD,
            delivered: to,
        };
        report::remember(&packet.attempt, &attempt, Ring::Handed, to);
        return;
    };
    let was_handed = attempt.flags & flags::TO_POD != 0;
    attempt.flags |= flags::TO_POD;
    attempt.delivered = to;
    if attempt.flags & flags::FROM_POD != 0 || !was_handed {
        return;
    }
    // From elsewhere, and the pod has had it before: no answer of its got through.
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
}

/// The pod's attempt was answered.
#[inline(never)]
fn answer(packet: &mut Packet, by: u32, to: u32) {
    let mut found = report::attempt(&packet.attempt);
    if found.is_none() {
        // What the pod has passed on for others is in its own account.
        packet.attempt.sender = to;
        found = report::attempt(&packet.attempt);
    }
    if let Some(attempt) = found
        && attempt.flags & flags::FROM_POD != 0
        && sender::may_answer(attempt, &packet.destination, by)
    {
        let known = AttemptOrigin::of(attempt);
        report::succeeded(
            &packet.attempt,
            packet.destination,
            packet.destination_port,
            known,
            report::tick(),
        );
        report::forget(&packet.attempt);
    }
}

/// The pod's attempt was refused.
#[inline(never)]
fn rejected(packet: &Packet, by: u32, kind: u8, reason: u32) {
    if let Some(attempt) = report::attempt(&packet.attempt)
        && attempt.flags & (flags::FROM_POD | flags::REJECTED) == flags::FROM_POD
        && sender::may_answer(attempt, &packet.destination, by)
    {
        report::rejected(packet, attempt, kind, reason);
    }
}
