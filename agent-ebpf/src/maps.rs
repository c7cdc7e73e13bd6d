//! Everything the programs share with each other and with user space.

use aya_ebpf::{
    btf_maps::{ArrayOfMaps, HashMap as InnerHashMap},
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use whydrop_ebpf::{
    ABI_VERSION, Attempt, AttemptKey, Event, LOCATION_BYTES, Layout, SUCCESSES_MADE, Success,
    SuccessKey, Tally, TallyKey,
};

/// Attempts remembered: those of some two minutes, which is how long a SYN is retransmitted
/// (`tcp_syn_retries`), at 250 unanswered ones a second. The oldest are evicted; an attempt that was
/// forgotten loses its time of first sight, not its report.
const ATTEMPTS_MAX: u32 = 32_768;

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
/// room among the counts. The last: [`SUCCESSES_MADE`].
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(SUCCESSES_MADE + 1, 0);

/// The names of the kernel functions that have dropped something.
#[map]
pub(crate) static LOCATIONS: HashMap<u64, [u8; LOCATION_BYTES]> =
    HashMap::with_max_entries(LOCATIONS_MAX, 0);
