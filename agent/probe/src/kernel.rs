//! What the programs must know about the running kernel, and what user space needs of it.

#[cfg(test)]
mod el9;

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt as _, path::Path, sync::Arc};

use whydrop_ebpf::Layout;

use super::{
    btf::{self, Btf},
    error::Error,
};

/// Where a kernel describes itself.
pub(crate) const BTF: &str = "/sys/kernel/btf/vmlinux";
/// The namespace of the thread that loads, not of the process: threads may differ.
const NETNS: &str = "/proc/thread-self/ns/net";
/// The tracepoints the programs are attached to.
pub(crate) const KFREE_SKB: &str = "kfree_skb";
pub(crate) const SOCK_STATE: &str = "inet_sock_set_state";
/// A helper for the time at the last tick.
const COARSE_CLOCK: &str = "BPF_FUNC_ktime_get_coarse_ns";
/// A helper that can name a function of the kernel.
const NAMES_FUNCTIONS: &str = "BPF_FUNC_snprintf";
/// With a third argument, `kfree_skb` gives a reason (Linux 5.17).
const ARGUMENTS_WITH_REASON: usize = 3;
const REASON_PREFIX: &str = "SKB_DROP_REASON_";

/// Facts about the running kernel.
pub(crate) struct Kernel {
    pub(crate) layout: Layout,
    /// Names of drop reasons, without the prefix. Empty where the kernel gives none.
    pub(crate) reasons: HashMap<u32, Arc<str>>,
    /// Type information enough for aya to find the tracepoints in.
    pub(crate) tracepoints: Vec<u8>,
}

impl Kernel {
    /// Reads them from type information and `/proc`.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let bytes =
            fs::read(path).map_err(|source| Error::NoBtf { path: path.to_owned(), source })?;
        let netns = fs::metadata(NETNS)
            .map_err(Error::io("reading which network namespace this is"))?
            .ino();
        // The kernel numbers namespaces with 32 bits.
        Self::of(&Btf::parse(&bytes)?, u32::try_from(netns).unwrap_or(0))
    }

    fn of(btf: &Btf<'_>, netns: u32) -> Result<Self, Error> {
        let tracepoint = |name: &'static str| {
            btf.tracepoint(name)
                .ok_or_else(|| Error::Btf(format!("this kernel has no tracepoint {name}")))
        };
        let (kfree_skb, sock_state) = (tracepoint(KFREE_SKB)?, tracepoint(SOCK_STATE)?);
        let skb = |member| btf.offset("sk_buff", member);
        let sock = |member| btf.offset("sock", member);
        let layout = Layout {
            netns,
            has_reason: u32::from(kfree_skb.arguments >= ARGUMENTS_WITH_REASON),
            name_locations: u32::from(has_helper(btf, NAMES_FUNCTIONS)),
            has_coarse_clock: u32::from(has_helper(btf, COARSE_CLOCK)),
            skb_dev: skb("dev")?,
            skb_iif: skb("skb_iif")?,
            skb_sk: skb("sk")?,
            skb_dst: skb("_skb_refdst")?,
            skb_len: skb("len")?,
            skb_data_len: skb("data_len")?,
            skb_protocol: skb("protocol")?,
            skb_network_header: skb("network_header")?,
            skb_head: skb("head")?,
            skb_data: skb("data")?,
            dev_net: btf.offset("net_device", "nd_net.net")?,
            dev_ifindex: btf.offset("net_device", "ifindex")?,
            dst_dev: btf.offset("dst_entry", "dev")?,
            net_inum: btf.offset("net", "ns.inum")?,
            sock_net: sock("__sk_common.skc_net.net")?,
            sock_family: sock("__sk_common.skc_family")?,
            sock_source_port: btf.offset("inet_sock", "inet_sport")?,
            sock_destination_port: sock("__sk_common.skc_dport")?,
            sock_source: sock("__sk_common.skc_rcv_saddr")?,
            sock_destination: sock("__sk_common.skc_daddr")?,
            sock_source_v6: sock("__sk_common.skc_v6_rcv_saddr")?,
            sock_destination_v6: sock("__sk_common.skc_v6_daddr")?,
            sock_protocol: sock("sk_protocol")?,
            sock_err: sock("sk_err")?,
            tcp_snd_una: btf.offset("tcp_sock", "snd_una")?,
        };
        let mut reasons = reasons(btf);
        if layout.has_reason == 0 {
            // What the programs report where the kernel gives no reason.
            reasons.insert(0, Arc::from("NOT_SPECIFIED"));
        }
        Ok(Self {
            layout,
            reasons,
            tracepoints: btf::only(&[(KFREE_SKB, kfree_skb), (SOCK_STATE, sock_state)], btf.len()),
        })
    }
}

/// The running kernel's release; empty where it is not to be read.
pub(crate) fn release() -> String {
    let name = nix::sys::utsname::uname();
    name.map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// Whether the kernel has a helper for programs, by the enumeration of all of them.
fn has_helper(btf: &Btf<'_>, name: &str) -> bool {
    btf.enumerators("bpf_func_id").into_iter().any(|(_, helper)| helper == name)
}

/// Drop reasons by number: the kernel's own, and those of subsystems that are built into it, whose
/// numbers carry the subsystem in the upper half (include/net/dropreason.h).
fn reasons(btf: &Btf<'_>) -> HashMap<u32, Arc<str>> {
    /// The bounds of an enumeration, not members of it.
    const NOT_REASONS: [&str; 4] = ["MAX", "SUBSYS_MASK", "__OVS_DROP_REASON", "OVS_DROP_MAX"];

    ["skb_drop_reason", "ovs_drop_reason", "mac80211_drop_reason"]
        .into_iter()
        .flat_map(|name| btf.enumerators(name))
        .map(|(number, name)| (number, name.strip_prefix(REASON_PREFIX).unwrap_or(name)))
        .filter(|(_, name)| !NOT_REASONS.contains(name))
        .map(|(number, name)| (number, Arc::from(name)))
        .collect()
}
