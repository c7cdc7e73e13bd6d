//! Reading kernel memory at a tracepoint.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

/// A value in kernel memory.
#[inline(always)]
pub(crate) fn probe<T: Copy>(address: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper reads any address, and fails where there is nothing; if it does not fail,
    // then it has filled `value`. Every `T` read is made of integers.
    unsafe {
        (bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            core::ptr::with_exposed_provenance(address as usize),
        ) == 0)
            .then(|| value.assume_init())
    }
}

/// A member of a structure behind a pointer whose type the verifier knows.
///
/// SAFETY: `pointer` must be such a pointer, not null; the verifier refuses the program otherwise.
#[inline(always)]
pub(crate) unsafe fn field<T: Copy>(pointer: *const u8, offset: u32) -> T {
    // SAFETY: the caller's promise. Volatile, to keep the load as it is written here.
    unsafe { pointer.add(offset as usize).cast::<T>().read_volatile() }
}
