//! What other programs of the machine may do with tcx. No library that the tests have speaks of the
//! programs of others.
#![expect(unsafe_code, reason = "bpf(2)")]

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use nix::libc;

/// include/uapi/linux/bpf.h
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// Before all others.
const BPF_F_BEFORE: u32 = 1 << 3;

/// Takes away what is attached to an interface of this thread's network namespace, by tcx; how many there
/// were.
pub(crate) fn take_away(interface: u32) -> io::Result<usize> {
    let mut taken = 0;
    for hook in [BPF_TCX_INGRESS, BPF_TCX_EGRESS] {
        for link in links(interface, hook)? {
            let link = descriptor(bpf(BPF_LINK_GET_FD_BY_ID, &mut [link, 0, 0, 0])?);
            bpf(BPF_LINK_DETACH, &mut [link.as_raw_fd().cast_unsigned(), 0, 0, 0])?;
            taken += 1;
        }
    }
    Ok(taken)
}

/// Puts a program that lets every packet pass on before all others of an interface, on the way in; it stays
/// as long as what this returns.
pub(crate) fn put_in_front(interface: u32) -> io::Result<OwnedFd> {
    /// `r0 = TCX_NEXT; exit`
    const PROGRAM: [u64; 2] = [0xffff_ffff_0000_00b7, 0x0000_0000_0000_0095];
    const LICENSE: &[u8] = b"GPL\0";
    let program = PROGRAM.as_ptr().expose_provenance() as u64;
    let license = LICENSE.as_ptr().expose_provenance() as u64;
    let mut load = [0_u32; 32];
    load[..2].copy_from_slice(&[BPF_PROG_TYPE_SCHED_CLS, 2]);
    load[2..4].copy_from_slice(&halves(program));
    load[4..6].copy_from_slice(&halves(license));
    let program = descriptor(bpf(BPF_PROG_LOAD, &mut load)?);
    let mut create = [0_u32; 16];
    let number = program.as_raw_fd().cast_unsigned();
    create[..4].copy_from_slice(&[number, interface, BPF_TCX_INGRESS, BPF_F_BEFORE]);
    bpf(BPF_LINK_CREATE, &mut create).map(descriptor)
}

/// The numbers of the links at a hook, 64 at most.
fn links(interface: u32, hook: u32) -> io::Result<Vec<u32>> {
    let (mut programs, mut links) = ([0_u32; 64], [0_u32; 64]);
    let address = |ids: &mut [u32; 64]| halves(ids.as_mut_ptr().expose_provenance() as u64);
    let mut query = [0_u32; 16];
    query[..2].copy_from_slice(&[interface, hook]);
    query[4..6].copy_from_slice(&address(&mut programs));
    query[6] = 64;
    query[10..12].copy_from_slice(&address(&mut links));
    bpf(BPF_PROG_QUERY, &mut query)?;
    Ok(links[..query[6] as usize].to_vec())
}

/// A number of 64 bits as two of 32, as they are in memory.
fn halves(number: u64) -> [u32; 2] {
    let bytes = number.to_ne_bytes();
    let (halves, _) = bytes.as_chunks::<4>();
    [u32::from_ne_bytes(halves[0]), u32::from_ne_bytes(halves[1])]
}

fn descriptor(number: libc::c_long) -> OwnedFd {
    let number = i32::try_from(number).expect("a descriptor");
    // SAFETY: the kernel has just opened it, for nobody else.
    unsafe { OwnedFd::from_raw_fd(number) }
}

fn bpf<const N: usize>(
    command: libc::c_long,
    attributes: &mut [u32; N],
) -> io::Result<libc::c_long> {
    // SAFETY: the attributes of each command are in words, and what they point to outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes))
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
