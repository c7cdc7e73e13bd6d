//! The eBPF programs: one file each, over a shared parser and a shared way of reporting.
//!
//! ```text
//!  pod ──▶ from_pod ─┐                      ┌─▶ EVENTS (ring)    the first of a key in an interval
//!  pod ◀── to_pod ───┼─▶ ATTEMPTS ─▶ report ┼─▶ TALLY (A or B)   every other one of it
//!      kfree_skb ────┤   SUCCESSES          └─▶ COUNTERS         all, and what was lost
//!      sock_state ───┘
//! ```
//!
//! They only look: every packet is passed on untouched to whatever comes next in line.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(unsafe_code, reason = "this is the kernel side of the kernel boundary")]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        clippy::inline_always,
        clippy::cast_possible_truncation,
        clippy::needless_pass_by_value,
        reason = "calls cost stack, of which there is little; sizes and headers are small; aya hands \
                  contexts over by value"
    )
)]

mod from_pod;
mod kernel_memory;
mod kfree_skb;
mod maps;
mod parse;
mod report;
mod sender;
mod skb;
mod sock_state;
mod to_pod;

/// Helpers for tracing need a GPL-compatible program.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
