//! The calls of `bpf(2)` that aya has none for, and values from bytes: all unsafe code of the agent.
#![expect(unsafe_code, reason = "system calls on memory that the kernel fills")]

use std::{
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya::{
    Pod,
    maps::{MapData, RingBuf},
};
use nix::libc;
use tokio::io::unix::AsyncFd;

/// include/uapi/linux/bpf.h
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_LOOKUP_AND_DELETE_BATCH: libc::c_long = 25;

/// More programs than one hook may have (`BPF_MPROG_MAX` in `include/linux/bpf_mprog.h`).
const PROGRAMS_MAX: usize = 64;

/// How many entries one call may bring: a few calls for our largest map, some 100 KiB of memory.
const BATCH: usize = 1024;

/// What the kernel reads for an update of one entry.
#[repr(C)]
struct Update {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// What the kernel reads, and writes, for a batch.
#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// What the kernel reads, and writes, for the programs at a hook.
#[repr(C)]
#[derive(Default)]
struct AttachedTo {
    interface: u32,
    hook: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    pad: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

/// Whether entries stay in a map that is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entries {
    Stay,
    Go,
}

/// Waits until every program that runs now has ended, some milliseconds.
///
/// By putting a map into the first slot of an array of maps. The kernel returns from that only after
/// every program that might still use the map that was there before (`maybe_wait_bpf_programs` in
/// `kernel/bpf/syscall.c`), and it cannot know which programs do: so it waits for all.
pub(crate) fn wait_for_programs(outer: BorrowedFd<'_>, inner: BorrowedFd<'_>) -> io::Result<()> {
    let key = 0_u32;
    let value = inner.as_raw_fd();
    let mut attributes = Update {
        map: descriptor(outer),
        pad: 0,
        key: address(&key),
        value: address(&value),
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut attributes)
}

/// Gives every entry of a hash map to `each`.
///
/// While programs change the map, an entry may be missed or come twice. Entries that go are each
/// given once.
pub(crate) fn entries<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    entries: Entries,
    mut each: impl FnMut(&K, &V),
) -> io::Result<()> {
    let command = match entries {
        Entries::Stay => BPF_MAP_LOOKUP_BATCH,
        Entries::Go => BPF_MAP_LOOKUP_AND_DELETE_BATCH,
    };
    let mut keys = vec![MaybeUninit::<K>::uninit(); BATCH];
    let mut values = vec![MaybeUninit::<V>::uninit(); BATCH];
    // Where the kernel goes on: opaque, four bytes for a hash map.
    let (mut from, mut to) = (0_u32, 0_u32);
    let mut is_first = true;
    loop {
        let mut attributes = Batch {
            from: if is_first { 0 } else { address(&from) },
            to: address_mut(&mut to),
            keys: keys.as_mut_ptr().addr() as u64,
            values: values.as_mut_ptr().addr() as u64,
            count: u32::try_from(BATCH).unwrap_or(u32::MAX),
            map: descriptor(map),
            element_flags: 0,
            flags: 0,
        };
        let result = bpf(command, &mut attributes);
        let is_last = match &result {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(_) => return result,
        };
        let count = usize::try_from(attributes.count).unwrap_or(0).min(BATCH);
        for (key, value) in keys.iter().zip(&values).take(count) {
            // SAFETY: the kernel has filled the first `count` of both, and any bytes are a `Pod`.
            unsafe { each(key.assume_init_ref(), value.assume_init_ref()) };
        }
        if is_last {
            return Ok(());
        }
        from = to;
        is_first = false;
    }
}

/// The numbers of the programs at a hook of an interface, in the order in which they run. aya asks for
/// more of each, which takes `CAP_SYS_ADMIN`.
pub(crate) fn programs_at(interface: u32, hook: u32) -> io::Result<Vec<u32>> {
    let mut numbers = [0_u32; PROGRAMS_MAX];
    let mut attributes = AttachedTo {
        interface,
        hook,
        programs: address_mut(&mut numbers),
        count: u32::try_from(PROGRAMS_MAX).unwrap_or(u32::MAX),
        ..AttachedTo::default()
    };
    match bpf(BPF_PROG_QUERY, &mut attributes) {
        Ok(()) => {
            let count = usize::try_from(attributes.count).unwrap_or(0).min(PROGRAMS_MAX);
            Ok(numbers[..count].to_vec())
        }
        // Nobody has attached anything to the interface.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Waits for a socket with the runtime.
pub(crate) fn watch_socket(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, and stays the same one until it is dropped.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

/// Waits for a ring with the runtime.
pub(crate) fn watch_ring(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns its map's descriptor, which stays the same one until it is dropped.
    Ok(unsafe { AsyncFd::register(ring) }?)
}

/// The value that begins with these bytes, if they are enough.
pub(crate) fn read<T: Pod>(bytes: &[u8]) -> Option<T> {
    // SAFETY: there are as many bytes as it takes, and any bytes are a `Pod`.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

fn descriptor(map: BorrowedFd<'_>) -> u32 {
    // Never negative while it is borrowed.
    map.as_raw_fd().cast_unsigned()
}

fn address<T>(value: &T) -> u64 {
    std::ptr::from_ref(value).expose_provenance() as u64
}

fn address_mut<T>(value: &mut T) -> u64 {
    std::ptr::from_mut(value).expose_provenance() as u64
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<()> {
    // SAFETY: `attributes` is laid out as the kernel expects for `command`, and what it points to
    // outlives the call and is as large as the map's keys and values.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
