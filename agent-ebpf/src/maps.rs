//! Everything the programs share with each other and with user space.

use aya_ebpf::{
    btf_maps::{ArrayOfMaps, HashMap as InnerHashMap},
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use whydrop_ebpf::{
    ABI_VERSION, ATTEMPTS_OF_SENDER, Address, Attempt, AttemptKey, COUNTERS as COUNTERS_MAX, Event,
    LOCATION_BYTES, Layout, SENDERS_SHARES, Sender, Success, SuccessKey, Tally, TallyKey,
};

/// Places for attempts: for each share of a sender those that it makes, and those that are handed to it.
const PLACES_MAX: u32 = SENDERS_SHARES * 2 * ATTEMPTS_OF_SENDER;

/// Attempts remembered: as many as there are places, and a quarter more, so that none is evicted which holds
/// its place: the kernel looks for the oldest of a part of them only.
const ATTEMPTS_MAX: u32 = PLACES_MAX / 4 * 5;

/// Addresses of this node's pods: some hundred pods with one of each family, and of second networks.
const ADDRESSES_MAX: u32 = 4_096;

/// Interfaces by which packets come: the pods' veths, and those that lead out of the node.
const SENDERS_MAX: u32 = 4_096;

/// (source, destination, port) triples whose answers are known. The oldest are evicted.
const SUCCESSES_MAX: u32 = 16_384;

/// Keys counted in one interval. What comes on top goes through the ring, one event a packet.
const TALLY_MAX: usize = 4_096;

/// Kernel functions that drop packets: a few hundred call `kfree_skb`, some ten ever do here.
const LOCATIONS_MAX: u32 = 256;

/// 8192 events of 128 bytes (120 and the ring's header), which the reader's pause of 50 ms turns
/// into 160 000 a second before any is lost. A power of two of pages.
pub(crate) const RING_BYTES: u32 = 1 << 20;
const _: () = assert!(size_of::<Event>() + 8 == 128);

/// As many entries as [`ABI_VERSION`] says: user space reads it off the map before all else.
#[map(name = "ABI")]
static ABI: Array<u8> = Array::with_max_entries(ABI_VERSION, 0);

/// The running kernel, as user space describes it before load: all of it is constant to the verifier.
#[unsafe(no_mangle)]
pub(crate) static LAYOUT: Layout = Layout {
    netns: 0,
    has_reason: 0,
    name_locations: 0,
    has_coarse_clock: 0,
    skb_dev: 0,
    skb_iif: 0,
    skb_sk: 0,
    skb_dst: 0,
    skb_len: 0,
    skb_data_len: 0,
    skb_protocol: 0,
    skb_network_header: 0,
    skb_head: 0,
    skb_data: 0,
    dev_net: 0,
    dev_ifindex: 0,
    dst_dev: 0,
    net_inum: 0,
    sock_net: 0,
    sock_family: 0,
    sock_source_port: 0,
    sock_destination_port: 0,
    sock_source: 0,
    sock_destination: 0,
    sock_source_v6: 0,
    sock_destination_v6: 0,
    sock_protocol: 0,
    sock_err: 0,
    tcp_snd_una: 0,
};

/// One value of [`LAYOUT`], as user space set it.
macro_rules! layout {
    ($field:ident) => {
        $crate::maps::constant(&$crate::maps::LAYOUT.$field)
    };
}

/// Reads what user space has set before load, whatever the compiler believes of it.
#[inline(always)]
pub(crate) fn constant(value: &'static u32) -> u32 {
    // SAFETY: a reference is valid for reads.
    unsafe { core::ptr::from_ref(value).read_volatile() }
}
pub(crate) use layout;

/// Unanswered attempts.
#[map]
pub(crate) static ATTEMPTS: LruHashMap<AttemptKey, Attempt> =
    LruHashMap::with_max_entries(ATTEMPTS_MAX, 0);

/// Which attempt has which place. Each share has two rings of [`ATTEMPTS_OF_SENDER`] places: an attempt takes
/// the next one in the ring of its sender, or, where it comes from elsewhere, in that of the pod it is handed
/// to; and whose place that was is forgotten. So nobody's attempts give way to another sender's.
#[map]
pub(crate) static PLACES: Array<AttemptKey> = Array::with_max_entries(PLACES_MAX, 0);

/// The next place in each ring of [`PLACES`].
#[map]
pub(crate) static NEXT_PLACES: Array<u32> = Array::with_max_entries(SENDERS_SHARES * 2, 0);

/// Behind which interface the pod is that has an address, as far as user space knows.
#[map]
pub(crate) static ADDRESSES: HashMap<Address, u32> = HashMap::with_max_entries(ADDRESSES_MAX, 0);

/// What user space knows of the interfaces by which packets come.
#[map]
pub(crate) static SENDERS: HashMap<u32, Sender> = HashMap::with_max_entries(SENDERS_MAX, 0);

/// How much of the ring's reserve each share has used, and in which interval.
#[map]
pub(crate) static RESERVED: Array<Reserved> = Array::with_max_entries(SENDERS_SHARES, 0);

/// Events of one share in the reserve of the ring.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Reserved {
    /// Of which interval.
    pub(crate) interval: u32,
    /// How many.
    pub(crate) events: u32,
}

/// Which answers each (source, destination, port) got.
#[map]
pub(crate) static SUCCESSES: LruHashMap<SuccessKey, Success> =
    LruHashMap::with_max_entries(SUCCESSES_MAX, 0);

/// What is reported one by one.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// Not zero while user space waits for the ring: see `probe/observations.rs` for the agreement.
#[map]
pub(crate) static WAITING: Array<u32> = Array::with_max_entries(1, 0);

/// Which of the two tallies counts: 0 for [`TALLY_A`], 1 for [`TALLY_B`]. A program reads it once.
/// Plus [`TALLY_FULL`], once or more, when that one has room for no other key.
#[map]
pub(crate) static ACTIVE: Array<u64> = Array::with_max_entries(1, 0);
pub(crate) const TALLY_FULL: u64 = 2;
/// The bit of [`ACTIVE`] by which [`TALLY_B`] counts.
pub(crate) const COUNTS_IN_B: u64 = 1;

/// What is counted in an interval.
pub(crate) type TallyMap = InnerHashMap<TallyKey, Tally, TALLY_MAX>;

/// One of the two maps that count in turn.
#[btf_map]
pub(crate) static TALLY_A: TallyMap = TallyMap::new();

/// The other one.
#[btf_map]
pub(crate) static TALLY_B: TallyMap = TallyMap::new();

/// Never read here. After user space has changed [`ACTIVE`], it puts a map in here: the kernel
/// returns from that only after every program that runs now has ended (`maybe_wait_bpf_programs`),
/// and then nothing counts any more in the map that is to be drained. Looking the tally up in here
/// would be neater, but the kernel inlines look-ups only in maps it knows beforehand.
#[btf_map]
static BARRIER: ArrayOfMaps<TallyMap, 1> = ArrayOfMaps::new();

/// Index by [`whydrop_ebpf::kind`]: all observations of the kind. Plus `kind::COUNT`: those neither
/// reported nor counted, because the ring and the counts were both full. Then: keys that found no
/// room among the counts. Then [`whydrop_ebpf::SUCCESSES_MADE`] and [`whydrop_ebpf::ATTEMPTS_EVICTED`].
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS_MAX, 0);

/// The names of the kernel functions that have dropped something.
#[map]
pub(crate) static LOCATIONS: HashMap<u64, [u8; LOCATION_BYTES]> =
    HashMap::with_max_entries(LOCATIONS_MAX, 0);

/// The entry of an attempt, if a veth has seen it.
///
/// The entry may be given away to another attempt while a program holds it, since the map evicts
/// the oldest; that mixes up two attempts' times, never memory.
#[inline(always)]
pub(crate) fn attempt(key: &AttemptKey) -> Option<&'static mut Attempt> {
    // SAFETY: the verifier sees to it that the pointer is of a live entry of this type. Other CPUs
    // may write it at the same time; what can come of that is said above.
    ATTEMPTS.get_ptr_mut(key).map(|attempt| unsafe { &mut *attempt })
}
