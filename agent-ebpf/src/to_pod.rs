//! What reaches a pod, at the egress of its veth's host side, after netfilter and other programs of
//! tcx let it by. Filters of clsact come later, and may still drop it: Cilium's do.
//!
//! What is done about a packet is not inlined, as in `from_pod`.

use aya_ebpf::{bindings::BPF_ANY, macros::classifier, programs::TcContext};
use whydrop_ebpf::{Attempt, flags, kind};

use crate::{
    maps::ATTEMPTS,
    parse::{Packet, Role},
    skb::{self, Look, PASS},
    tell::{self, Known, Observation},
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
        Role::Unreachable(reason) => rejected(&packet, kind::REJECTED_ICMP, reason),
        Role::None => {}
    }
    PASS
}

/// The attempt is handed to the pod it is meant for.
#[inline(never)]
fn request(packet: &Packet) {
    let Some(attempt) = tell::attempt(&packet.attempt) else {
        let attempt = Attempt {
            destination: packet.destination,
            first_ns: tell::tick(),
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
    if attempt.packets > tell::RETRANSMISSIONS_TOLD {
        return;
    }
    attempt.flags |= flags::TOLD;
    tell::tell(&Observation {
        key: tell::key(packet, kind::RETRANSMITTED, 0),
        attempt: packet.attempt,
        location: 0,
        known: Known::of(attempt),
    });
}

/// The pod's attempt was answered.
#[inline(never)]
fn answer(packet: &Packet) {
    if let Some(attempt) = tell::attempt(&packet.attempt)
        && attempt.flags & flags::FROM_POD != 0
    {
        let known = Known::of(attempt);
        tell::succeeded(
            &packet.attempt,
            packet.destination,
            packet.destination_port,
            known,
            tell::tick(),
        );
        let _ = ATTEMPTS.remove(&packet.attempt);
    }
}

/// The pod's attempt was refused.
#[inline(never)]
fn rejected(packet: &Packet, kind: u8, reason: u32) {
    if let Some(attempt) = tell::attempt(&packet.attempt)
        && attempt.flags & (flags::FROM_POD | flags::REJECTED) == flags::FROM_POD
    {
        tell::rejected(packet, attempt, kind, reason);
    }
}
