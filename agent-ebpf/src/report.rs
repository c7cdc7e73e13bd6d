//! Reporting to user space: the first of a key in an interval by an event, the rest by counting.
//!
//! Every observation ends in exactly one of three places, which is what makes
//! `reported + counted + lost = observed` hold: an event submitted to the ring, a count in the interval's
//! tally, or the counter of the lost.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_snprintf},
};
use whydrop_ebpf::{
    ATTEMPTS_EVICTED, ATTEMPTS_OF_SENDER, Address, Attempt, AttemptKey, Event, LOCATION_BYTES,
    SUCCESSES_MADE, Success, SuccessKey, Tally, TallyKey, flags, kind,
};

use crate::{
    maps::{
        ACTIVE, ATTEMPTS, COUNTERS, COUNTS_IN_B, EVENTS, LOCATIONS, NEXT_PLACES, PLACES, RESERVED,
        RING_BYTES, SUCCESSES, TALLY_A, TALLY_B, TALLY_FULL, WAITING, layout,
    },
    parse::Packet,
    sender,
};

pub(crate) use crate::maps::attempt;

/// The reader is woken each time another eighth of the ring has filled while it paused.
const WAKE_EVERY: u64 = RING_BYTES as u64 / 8;
const EVENT_IN_RING: u64 = size_of::<Event>() as u64 + 8;

/// The clock is read for the first few counts of an interval, and then for one of so many: at the
/// rates where it matters what the clock costs, one packet is as late as the next.
const CLOCKED: u64 = 32;

/// Linux sends a SYN seven times (`tcp_syn_retries`), resolvers a query fewer. What comes more often
/// is no attempt to connect but a flood of one packet; if it is dropped here, its drops are counted.
pub(crate) const RETRANSMISSIONS_REPORTED: u32 = 8;

/// From here on the ring is a reserve, in which each share of senders has room for so many events in an
/// interval of some second: so that a flood which fills the ring faster than it is read loses its own.
const RESERVE_FROM: u64 = RING_BYTES as u64 / 2;
const RESERVED_EVENTS: u32 = 32;
/// An interval is so many nanoseconds, as a power of two.
const RESERVE_INTERVAL: u32 = 30;

/// How many places are looked at for one that is free, before the attempt gives way that has the first.
const PLACES_TRIED: u32 = 4;

/// An attempt that is so old has had its time: the last of its packets was sent two minutes after the first
/// (`tcp_syn_retries`).
const ATTEMPT_OVER_NS: u64 = 150_000_000_000;

/// `-EEXIST`, from a map that has the key already.
const EXISTS: i32 = -17;

/// An observation about to be reported.
pub(crate) struct Observation {
    pub(crate) key: TallyKey,
    pub(crate) attempt: AttemptKey,
    pub(crate) location: u64,
    /// What a veth of ours knows of the attempt.
    pub(crate) known: AttemptOrigin,
}

/// What an event takes over from the attempt's entry.
#[derive(Clone, Copy)]
pub(crate) struct AttemptOrigin {
    pub(crate) first_ns: u64,
    pub(crate) dialled: Address,
    pub(crate) dialled_port: u16,
    pub(crate) entered: u32,
    pub(crate) flags: u16,
}

impl AttemptOrigin {
    /// Nothing: no veth of ours has seen the attempt.
    pub(crate) const NOTHING: Self =
        Self { first_ns: 0, dialled: [0; 4], dialled_port: 0, entered: 0, flags: 0 };

    #[inline(always)]
    pub(crate) fn of(attempt: &Attempt) -> Self {
        Self {
            first_ns: attempt.first_ns,
            dialled: attempt.destination,
            dialled_port: attempt.destination_port,
            entered: attempt.entered,
            flags: attempt.flags | flags::KNOWN,
        }
    }
}

/// Which ring of a share's places an attempt is in.
#[derive(Clone, Copy)]
pub(crate) enum Ring {
    /// The pod has made it.
    Made = 0,
    /// It came from elsewhere and is handed to the pod.
    Handed = 1,
}

/// Remembers an attempt, in a place of the share of this interface. What fails here loses a time of first
/// sight; the drop itself is seen elsewhere.
#[inline(never)]
pub(crate) fn remember(key: &AttemptKey, attempt: &Attempt, ring: Ring, of: u32) {
    let ring = sender::share(of) * 2 + ring as u32;
    let Some(next) = NEXT_PLACES.get_ptr_mut(ring) else { return };
    // SAFETY: valid for reads and writes. Where two CPUs take one place, an attempt is left without: the
    // kernel evicts it when it has become old.
    let first = unsafe { next.read_volatile() };
    let mut taken = 0;
    while taken < PLACES_TRIED && !is_free(ring, first.wrapping_add(taken)) {
        taken += 1;
    }
    let at = if taken < PLACES_TRIED { first.wrapping_add(taken) } else { first };
    // SAFETY: as above.
    unsafe { next.write_volatile(at.wrapping_add(1)) };
    take(ring, at, key, taken >= PLACES_TRIED);
    let _ = ATTEMPTS.insert(key, attempt, u64::from(BPF_ANY));
}

/// The number of a place in all of them.
#[inline(always)]
fn place(ring: u32, at: u32) -> u32 {
    ring * ATTEMPTS_OF_SENDER + at % ATTEMPTS_OF_SENDER
}

/// Whether nobody waits for an answer in a place.
#[inline(never)]
fn is_free(ring: u32, at: u32) -> bool {
    let Some(key) = PLACES.get_ptr(place(ring, at)) else { return false };
    // SAFETY: valid for reads, as a key of the other map as well.
    let Some(attempt) = attempt(unsafe { &*key }) else { return true };
    attempt.flags & flags::REJECTED != 0
}

/// Takes a place, whoever has it.
#[inline(never)]
fn take(ring: u32, at: u32, key: &AttemptKey, is_taken: bool) {
    let Some(had) = PLACES.get_ptr_mut(place(ring, at)) else { return };
    // SAFETY: valid for reads and writes, as in `is_free`.
    unsafe {
        if is_taken
            && let Some(attempt) = attempt(&*had)
            && tick().wrapping_sub(attempt.first_ns) < ATTEMPT_OVER_NS
        {
            count(ATTEMPTS_EVICTED);
        }
        let _ = ATTEMPTS.remove(&*had);
        *had = *key;
    }
}

/// Forgets an attempt: its place is free.
#[inline(always)]
pub(crate) fn forget(key: &AttemptKey) {
    let _ = ATTEMPTS.remove(key);
}

/// The time.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { bpf_ktime_get_ns() }
}

/// The time at the last tick, some milliseconds ago at most: for a tenth of the price, and for
/// programs at tc only.
#[inline(always)]
pub(crate) fn tick() -> u64 {
    // A constant to the verifier, which drops the branch with a helper that is not there.
    if layout!(has_coarse_clock) == 0 {
        return now();
    }
    // SAFETY: as above.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The key of an observation about a packet on a veth.
#[inline(always)]
pub(crate) fn key(packet: &Packet, known: AttemptOrigin, kind: u8, reason: u32) -> TallyKey {
    TallyKey {
        source: packet.attempt.source,
        destination: packet.destination,
        reason,
        interface: 0,
        sender: known.entered,
        destination_port: packet.destination_port,
        protocol: packet.attempt.protocol,
        kind,
    }
}

/// Reports or counts one observation.
#[inline(always)]
pub(crate) fn report(observation: &Observation) {
    let Observation { key, location, .. } = observation;
    count(u32::from(key.kind));
    let active = active();
    let tally = if active & COUNTS_IN_B == 0 { WhichTally::A } else { WhichTally::B };
    if add(tally, key) {
        return;
    }
    // The first of its key in this interval, as far as this CPU can see. The event comes before the
    // entry: if there is no room for it, the entry starts with this one counted.
    let reported = submit(observation);
    let is_full = active >= TALLY_FULL || {
        let errno = begin(tally, observation, reported);
        if errno != 0 {
            full(errno);
        }
        errno != 0
    };
    if is_full {
        count(2 * u32::from(kind::COUNT));
        if !reported {
            count(u32::from(kind::COUNT + key.kind));
        }
    }
    if *location != 0 {
        name(*location);
    }
}

/// Begins to count a key, with the observation as the first if it was not reported. Returns an
/// error if there is no room for another key.
///
/// Not inlined, as others here: frames of calls that follow each other share their room on the
/// stack, of which there are 512 bytes.
#[inline(never)]
fn begin(which: WhichTally, observation: &Observation, reported: bool) -> i32 {
    let Observation { key, attempt: _, location, known } = observation;
    let tally = Tally {
        count: u64::from(!reported),
        last_ns: now(),
        location: *location,
        dialled: known.dialled,
        dialled_port: known.dialled_port,
        flags: known.flags,
        pad: 0,
    };
    let inserted = match which {
        WhichTally::A => TALLY_A.insert(key, &tally, u64::from(BPF_NOEXIST)),
        WhichTally::B => TALLY_B.insert(key, &tally, u64::from(BPF_NOEXIST)),
    };
    match inserted {
        Ok(()) => 0,
        // Another CPU was faster.
        Err(EXISTS) if reported || add(which, key) => 0,
        Err(errno) => errno,
    }
}

/// Notes for the rest of the interval that counts have no room for another key, and says so once.
#[inline(never)]
#[cold]
fn full(errno: i32) {
    let Some(active) = ACTIVE.get_ptr_mut(0) else { return };
    // SAFETY: valid for reads and writes, and atomic: what user space writes meanwhile stays. At
    // worst the next interval begins as full, and counts less. Added, which kernels before 5.12 know as
    // well: that another CPU has done so changes neither which tally counts nor that it is full.
    unsafe {
        core::arch::asm!("lock *(u64 *)({active} + 0) += {full}", active = in(reg) active, full = in(reg) TALLY_FULL);
    }
    aya_log_ebpf::warn!((), "counts are full ({}): each further packet is an event", errno);
}

/// Reports one observation that is never counted with others.
#[inline(always)]
pub(crate) fn report_once(observation: &Observation) {
    count(u32::from(observation.key.kind));
    if !submit(observation) {
        count(u32::from(kind::COUNT + observation.key.kind));
    }
}

/// One of the two tallies.
#[derive(Clone, Copy)]
enum WhichTally {
    A,
    B,
}

/// What [`ACTIVE`] says.
#[inline(always)]
fn active() -> u64 {
    // SAFETY: valid for reads; volatile, as user space writes it.
    ACTIVE.get(0).map_or(0, |active| unsafe { core::ptr::from_ref(active).read_volatile() })
}

/// Adds one to the key's count; false if the interval has not seen the key yet.
#[inline(always)]
fn add(which: WhichTally, key: &TallyKey) -> bool {
    // Two look-ups written out, so that the kernel knows the map of each and inlines it.
    let tally = match which {
        WhichTally::A => TALLY_A.get_ptr_mut(key),
        WhichTally::B => TALLY_B.get_ptr_mut(key),
    };
    let Some(tally) = tally else { return false };
    // SAFETY: a live entry, whose count all CPUs only add to, atomically. The time is of several
    // that differ by next to nothing, so the last writer may win.
    unsafe {
        increment(&raw mut (*tally).count);
        let count = (*tally).count;
        if count < CLOCKED || count % CLOCKED == 0 {
            (*tally).last_ns = now();
        }
    }
    true
}

/// Adds one to a counter, and returns what it says now.
#[inline(always)]
fn count(index: u32) -> u64 {
    let Some(counter) = COUNTERS.get_ptr_mut(index) else { return 0 };
    // SAFETY: this CPU's own, and added to atomically since an interrupt's program may come in
    // between.
    unsafe {
        increment(counter);
        *counter
    }
}

/// Adds one, atomically. The BPF target of the compiler has no such method on atomics.
///
/// SAFETY: `counter` must be valid for reads and writes.
#[inline(always)]
unsafe fn increment(counter: *mut u64) {
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("lock *(u64 *)({counter} + 0) += {one}", counter = in(reg) counter, one = in(reg) 1_u64);
    }
}

/// Whether an event of this sender may take room in the reserve of the ring.
#[inline(never)]
fn has_reserve(sender: u32) -> bool {
    let Some(reserved) = RESERVED.get_ptr_mut(sender::share(sender)) else { return false };
    let interval = (now() >> RESERVE_INTERVAL) as u32;
    // SAFETY: valid for reads and writes. A count that is lost to another CPU's is one event more.
    unsafe {
        if (*reserved).interval != interval {
            (*reserved).interval = interval;
            (*reserved).events = 0;
        }
        (*reserved).events += 1;
        (*reserved).events <= RESERVED_EVENTS
    }
}

/// Puts an event into the ring; false if there is no room.
#[inline(never)]
fn submit(observation: &Observation) -> bool {
    let Observation { key, attempt, location, known } = observation;
    let before = EVENTS.query(u64::from(BPF_RB_AVAIL_DATA));
    if before > RESERVE_FROM && !has_reserve(key.sender) {
        return false;
    }
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else { return false };
    entry.write(Event {
        key: *key,
        attempt: *attempt,
        dialled_port: known.dialled_port,
        flags: known.flags,
        at_ns: now(),
        first_ns: known.first_ns,
        location: *location,
        dialled: known.dialled,
    });
    // A wake-up costs twenty times what an event does. The reader says when it waits for one, and
    // gets one; otherwise it looks by itself, and is woken only as the ring fills.
    let waits = WAITING.get_ptr_mut(0).is_some_and(|waiting| {
        // SAFETY: valid for reads and writes; volatile, as user space and other CPUs write it too.
        unsafe {
            let waits = waiting.read_volatile() != 0;
            if waits {
                waiting.write_volatile(0);
            }
            waits
        }
    });
    let wake = waits || {
        let filled = before + EVENT_IN_RING;
        filled / WAKE_EVERY != before / WAKE_EVERY
    };
    entry.submit(u64::from(if wake { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }));
    yes()
}

/// True, which the compiler does not know: of a constant it would make that the entry is not null, and
/// look at the pointer when it is given away already. Only a kernel that trusts us lets that pass.
#[inline(always)]
fn yes() -> bool {
    let one: u64;
    // SAFETY: sets a register and nothing else.
    unsafe { core::arch::asm!("{one} = 1", one = out(reg) one) };
    one != 0
}

/// Sees to it that user space can name the kernel function that holds this address. The addresses
/// in `/proc/kallsyms` need a capability of their own; the kernel's own formatting does not.
#[inline(never)]
fn name(location: u64) {
    /// In read-only memory, as the helper demands.
    static FORMAT: [u8; 4] = *b"%ps\0";

    if layout!(name_locations) == 0 || LOCATIONS.get_ptr(&location).is_some() {
        return;
    }
    let mut text = [0_u8; LOCATION_BYTES];
    // SAFETY: buffer and data are of the lengths given, the format ends in zero.
    let written = unsafe {
        bpf_snprintf(
            text.as_mut_ptr().cast(),
            LOCATION_BYTES as u32,
            FORMAT.as_ptr().cast(),
            core::ptr::from_ref(&location).cast_mut().cast(),
            size_of::<u64>() as u32,
        )
    };
    if written > 0 {
        // A full map leaves the function unnamed.
        let _ = LOCATIONS.insert(&location, &text, 0);
    }
}

/// The attempt was refused, which is reported once.
#[inline(always)]
pub(crate) fn rejected(packet: &Packet, attempt: &mut Attempt, kind: u8, reason: u32) {
    // The entry stays: a REJECT rule frees the SYN only after it has sent its refusal.
    attempt.flags |= flags::REJECTED | flags::REPORTED;
    report(&Observation {
        key: key(packet, AttemptOrigin::of(attempt), kind, reason),
        attempt: packet.attempt,
        location: 0,
        known: AttemptOrigin::of(attempt),
    });
}

/// The attempt was answered, at `destination` as the packet has it: remembers when, counts it, and
/// reports what is new about it. The caller forgets the attempt, or takes care that it is counted once.
#[inline(always)]
pub(crate) fn succeeded(
    key: &AttemptKey,
    destination: Address,
    destination_port: u16,
    known: AttemptOrigin,
    at_ns: u64,
) {
    // What others send in its name is not its success, whoever answers.
    let is_its_own = known.flags & flags::FOREIGN == 0;
    let first = is_its_own && note_success(key, destination, destination_port, at_ns);
    let late = known.flags & flags::REPORTED != 0;
    if !first && !late {
        return;
    }
    // One event says both: that it came late is what somebody waits to hear.
    report_once(&Observation {
        key: TallyKey {
            source: key.source,
            destination,
            reason: 0,
            interface: 0,
            sender: known.entered,
            destination_port,
            protocol: key.protocol,
            kind: if late { kind::ANSWERED_LATE } else { kind::ANSWERED_FIRST },
        },
        attempt: *key,
        location: 0,
        known,
    });
}

/// Remembers that the attempt was answered; whether that is the first answer of its flow.
#[inline(always)]
fn note_success(key: &AttemptKey, destination: Address, destination_port: u16, at_ns: u64) -> bool {
    let success = SuccessKey {
        source: key.source,
        destination,
        port: destination_port,
        protocol: key.protocol,
        pad: 0,
    };
    match SUCCESSES.get_ptr_mut(&success) {
        // SAFETY: a live entry, whose count all CPUs only add to, atomically; a time lost to another
        // CPU's is as good as that one.
        Some(known) => unsafe {
            (*known).before_ns = (*known).last_ns;
            (*known).last_ns = at_ns;
            increment(&raw mut (*known).count);
            false
        },
        None => {
            let first = Success { first_ns: at_ns, before_ns: 0, last_ns: at_ns, count: 1 };
            let made = SUCCESSES.insert(&success, &first, u64::from(BPF_NOEXIST)).is_ok();
            if made {
                count(SUCCESSES_MADE);
            }
            made
        }
    }
}
