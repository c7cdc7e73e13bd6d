//! Who sent a packet: the interface by which it came says so, and not the source address that it has.

use whydrop_ebpf::{Address, Attempt, AttemptKey, flags, sender_flags};

use crate::maps::{self, ADDRESSES, SENDERS};

/// Who sent a packet.
#[derive(Clone, Copy)]
pub(crate) struct Sent {
    /// The interface by which it came; 0: by none.
    pub(crate) by: u32,
    /// [`flags::FROM_POD`], [`flags::FOREIGN`] and [`flags::SPOOFED`].
    pub(crate) flags: u16,
}

impl Sent {
    /// Makes the key that of the sender's own attempts.
    #[inline(always)]
    pub(crate) fn mark(self, key: &mut AttemptKey) {
        key.sender = if self.flags & flags::FOREIGN != 0 { self.by } else { 0 };
    }
}

/// Who sent what asks for a connection, and came by this interface.
#[inline(always)]
pub(crate) fn sent(key: &AttemptKey, by: u32) -> Sent {
    Sent { by, flags: flags_of(key, by) as u16 }
}

/// Not inlined, as others here: frames of calls that follow each other share their room on the stack.
#[inline(never)]
fn flags_of(key: &AttemptKey, by: u32) -> u32 {
    if by == 0 {
        return 0;
    }
    // SAFETY: a live entry, of integers that user space alone writes.
    let Some(sender) = SENDERS.get_ptr(&by).map(|sender| unsafe { (*sender).flags }) else {
        return 0;
    };
    let is_pod = sender & sender_flags::POD != 0;
    let from_pod = if is_pod { u32::from(flags::FROM_POD) } else { 0 };
    let holder = holder(&key.source);
    if holder == by {
        return from_pod;
    }
    let is_foreign = holder != 0 || (is_pod && sender & sender_flags::HAS_KNOWN_ADDRESSES != 0);
    if !is_foreign || is_passed_on(key, by, is_pod) {
        return from_pod;
    }
    let spoofed = if holder != 0 { u32::from(flags::SPOOFED) } else { 0 };
    from_pod | u32::from(flags::FOREIGN) | spoofed
}

/// Whether it is an attempt that its own sender has made, number and all, and that is on its way: by a pod that
/// routes and was handed it, or in again from outside.
#[inline(always)]
fn is_passed_on(key: &AttemptKey, by: u32, is_pod: bool) -> bool {
    // The key of what is its source's own.
    let Some(own) = maps::attempt(key) else { return false };
    !is_pod || own.delivered == by
}

/// Behind which interface the pod is that has this address; 0: that is not known, or nobody has.
#[inline(always)]
pub(crate) fn holder(address: &Address) -> u32 {
    // SAFETY: a live entry, of an integer that user space alone writes.
    ADDRESSES.get_ptr(address).map_or(0, |interface| unsafe { *interface })
}

/// Whether an answer may be one: from whoever has the address that answers, or was handed the attempt. One
/// that comes by another pod's veth is forged, and so is one by the veth of the attempt, unless a pod has
/// dialled itself. A pod of which no address is known may be the one behind a Service.
#[inline(always)]
pub(crate) fn may_answer(attempt: &Attempt, server: &Address, by: u32) -> bool {
    may_answer_by(attempt.entered, attempt.delivered, server, by) != 0
}

#[inline(never)]
fn may_answer_by(entered: u32, delivered: u32, server: &Address, by: u32) -> u32 {
    if by == 0 || delivered == by {
        return 1;
    }
    let holder = holder(server);
    if holder != 0 {
        return u32::from(holder == by);
    }
    // SAFETY: as in `flags_of`.
    let sender = SENDERS.get_ptr(&by).map_or(0, |sender| unsafe { (*sender).flags });
    let is_unknown = sender & sender_flags::HAS_KNOWN_ADDRESSES == 0;
    let may_be_it = is_unknown && delivered == 0 && by != entered;
    u32::from(sender & sender_flags::POD == 0 || may_be_it)
}

/// Which share of the tables an interface has.
#[inline(always)]
pub(crate) fn share(by: u32) -> u32 {
    // SAFETY: as in `flags_of`.
    SENDERS.get_ptr(&by).map_or(0, |sender| unsafe { (*sender).share })
}
