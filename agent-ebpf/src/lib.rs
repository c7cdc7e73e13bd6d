//! The types that the eBPF programs and user space share: fixed layout, sizes asserted, versioned.
#![no_std]

/// Version of everything in this file. User space refuses programs of another version.
pub const ABI_VERSION: u32 = 1;
