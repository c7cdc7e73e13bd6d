//! What reaches a pod, at the egress of its veth's host side, after netfilter and other programs of
//! tcx let it by. Filters of clsact come later, and may still drop it: Cilium's do.
//!
//! What is done about a packet is not inlined, as in `from_pod`.

use aya_ebpf::{bindings::BPF_ANY, macros::classifier, programs::TcContext};
use whydrop_ebpf::{Attempt, flags, kind};

use crate::{
    maps::ATTEMPTS,
    parse::{Packet, Role},
    report::{self, AttemptOrigin, Observation},
    skb::{self, Look, PASS},
};

#[classifier]
fn whydrop_to_pod(ctx: TcContext) -> i32 {
    let look = skb::look(&ctx);
    if matches!(look, Look::Dull) {
        return PASS;
    }
    let packet = skb::packet(&ctx, &look);
    match packet.role {
        Role::Request => request(&packet),
        Role::Answer => answer(&packet),
        Role::Reset => rejected(&packet, kind::REJECTED_RESET, 0),
        Role::Unreachable => rejected(&packet, kind::REJECTED_ICMP, packet.reason),
        Role::None => {}
    }
    PASS
}

/// The attempt is handed to the pod it is addressed to.
#[inline(never)]
fn request(packet: &Packet) {
    let Some(attempt) = report::attempt(&packet.attempt) else {
        let attempt = Attempt {
            destination: packet.destination,
            first_ns: report::tick(),
            entered: 0,
            packets: 1,
            destination_port: packet.destination_port,
            flags: flags::TO_POD,
            pad: 0,
        };
        let _ = ATTEMPTS.insert(&packet.attempt, &attempt, u64::from(BPF_ANY));
        return;
    };
    if attempt.flags & flags::FROM_POD != 0 {
        attempt.flags |= flags::TO_POD;
        return;
    }
    // From elsewhere, and the pod has had it before: no answer of its got through.
    attempt.packets += 1;
    if attempt.packets > report::RETRANSMISSIONS_REPORTED {
        return;
    }
    attempt.flags |= flags::REPORTED;
    report::report(&Observation {
        key: report::key(packet, kind::RETRANSMITTED, 0),
        attempt: packet.attempt,
        location: 0,
        known: AttemptOrigin::of(attempt),
    });
}

/// The pod's attempt was answered.
#[inline(never)]
fn answer(packet: &Packet) {
    if let Some(attempt) = report::attempt(&packet.attempt)
        && attempt.flags & flags::FROM_POD != 0
    {
        let known = AttemptOrigin::of(attempt);
        report::succeeded(
            &packet.attempt,
            packet.destination,
            packet.destination_port,
            known,
            report::tick(),
        );
        let _ = ATTEMPTS.remove(&packet.attempt);
    }
}

/// The pod's attempt was refused.
#[inline(never)]
fn rejected(packet: &Packet, kind: u8, reason: u32) {
    if let Some(attempt) = report::attempt(&packet.attempt)
        && attempt.flags & (flags::FROM_POD | flags::REJECTED) == flags::FROM_POD
    {
        report::rejected(packet, attempt, kind, reason);
    }
}
