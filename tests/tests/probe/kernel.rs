//! What the running kernel can say of a drop, by the names in its own description: these tests also run
//! on older ones, in guests, and some of those have what only later releases had at first.

use std::{fs, sync::LazyLock};

use whydrop_core::observation::{Fact, Observation};

/// The kernel's description of itself, with every name that it has in it.
static DESCRIPTION: LazyLock<Vec<u8>> =
    LazyLock::new(|| fs::read("/sys/kernel/btf/vmlinux").expect("a kernel with BTF"));

fn has_name(name: &str) -> bool {
    let whole = format!("\0{name}\0").into_bytes();
    DESCRIPTION.windows(whole.len()).any(|found| found == whole)
}

/// Whether a part of the probe works here.
pub(crate) fn has(part: &str) -> bool {
    match part {
        // The helper that names a function (Linux 5.13).
        "drop locations" => has_name("BPF_FUNC_snprintf"),
        // Linux 5.17.
        "drop reasons" => has_name("skb_drop_reason"),
        _ => true,
    }
}

/// The reason of what a filter drops (Linux 5.18).
pub(crate) fn of_filters() -> &'static str {
    if has_name("SKB_DROP_REASON_NETFILTER_DROP") { "NETFILTER_DROP" } else { "NOT_SPECIFIED" }
}

/// Whether a drop is at one of these functions, or nowhere where the kernel names none.
pub(crate) fn is_at(seen: &Observation, functions: &[&str]) -> bool {
    let Fact::KernelDrop { location, .. } = &seen.fact else { return false };
    match location {
        Some(location) => has("drop locations") && functions.contains(&&**location),
        None => !has("drop locations"),
    }
}
