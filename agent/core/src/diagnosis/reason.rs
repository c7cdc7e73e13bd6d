//! What the kernel's drop reasons mean.

use crate::correlate::{Evidence, KernelDrops};

/// Who killed the packets, as far as reason and place tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Died {
    /// A filter that may enforce policy.
    Filter,
    /// Something that enforces no policy.
    Other,
    /// This kernel, without saying why.
    Unclear,
    /// Not here.
    Elsewhere,
}

impl Died {
    /// Whether a filter of this node killed them.
    pub fn is_filter(self) -> bool {
        self == Self::Filter
    }

    /// Judges all that was seen.
    pub fn of(evidence: &Evidence) -> Self {
        evidence.kernel_drop().map_or(Self::Elsewhere, Self::of_drops)
    }

    fn of_drops(drops: &KernelDrops) -> Self {
        let reason = &*drops.reason.name;
        let location = drops.location.as_deref().unwrap_or_default();
        // Measured on real engines: netfilter ones give NETFILTER_DROP; Cilium TC_INGRESS, or
        // TC_EGRESS with endpoint routes; Open vSwitch reasons of its own.
        let filters = ["NETFILTER_DROP", "TC_INGRESS", "TC_EGRESS", "XDP", "BPF_CGROUP_EGRESS"];
        if filters.contains(&reason) || reason.starts_with("OVS_DROP") {
            return Self::Filter;
        }
        if reason == "NOT_SPECIFIED" || reason.is_empty() {
            // NFQUEUE engines free the packet when their daemon's verdict comes in; kernels
            // before 5.17 give no reasons at all, and the place must do.
            let netfilter = ["nfqnl_reinject", "nf_reinject", "nf_hook_slow", "nft_do_chain"];
            // Where the verdict of a tc program is carried out (net/core/dev.c). Kernels that have a
            // reason for that have another number for none.
            let tc = ["__netif_receive_skb_core", "__dev_queue_xmit"];
            let is_at = |names: &[&str]| names.iter().any(|name| location.starts_with(name));
            let is_filter = is_at(&netfilter) || (drops.reason.number == 0 && is_at(&tc));
            return if is_filter { Self::Filter } else { Self::Unclear };
        }
        // A number without a name: newer than what is known.
        if reason.bytes().all(|byte| byte.is_ascii_digit()) { Self::Unclear } else { Self::Other }
    }
}

/// A drop reason in plain words (include/net/dropreason-core.h).
pub fn in_words(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "NETFILTER_DROP" => "a netfilter rule dropped it",
        "TC_INGRESS" | "TC_EGRESS" => "a tc program dropped it",
        "XDP" => "an XDP program dropped it",
        "BPF_CGROUP_EGRESS" => "a cgroup program dropped it",
        "NO_SOCKET" => "nothing listens on the port",
        "TCP_LISTEN_OVERFLOW" | "LISTEN_OVERFLOW" => "the listener's accept queue is full",
        "SOCKET_BACKLOG" => "the socket's backlog is full",
        "SOCKET_RCVBUFF" => "the socket's receive buffer is full",
        "SOCKET_FILTER" => "a socket filter dropped it",
        "PROTO_MEM" | "NOMEM" => "the kernel is short of memory",
        "IP_RPFILTER" => "the reverse-path filter: no route back to its source by that interface",
        "IP_INNOROUTES" | "IP_OUTNOROUTES" => "there is no route to its destination",
        "IP_INVALID_SOURCE" | "IP_LOCAL_SOURCE" => "its source address is not valid here",
        "IP_INVALID_DEST" => "its destination address is not valid here",
        "IP_INADDRERRORS" => "its destination address cannot be reached from here",
        "NEIGH_FAILED" | "NEIGH_CREATEFAIL" | "NEIGH_DEAD" => {
            "nobody answers for the next hop's address (ARP or neighbour discovery)"
        }
        "NEIGH_QUEUEFULL" => "too many packets wait for the next hop's address",
        "QDISC_DROP" | "QDISC_OVERLIMIT" | "QDISC_CONGESTED" | "CAKE_FLOOD" | "FQ_FLOW_LIMIT" => {
            "a queueing discipline is full"
        }
        "CPU_BACKLOG" => "a CPU's packet backlog is full",
        "FULL_RING" => "a device's ring is full",
        "DEV_READY" => "the device is not up",
        "TCP_CSUM" | "UDP_CSUM" | "IP_CSUM" | "SKB_CSUM" => "its checksum is wrong",
        "PKT_TOO_BIG" => "it is larger than the path's MTU",
        "TCP_FLAGS" | "TCP_INVALID_SYN" => "its TCP flags are not those of a connect",
        "XFRM_POLICY" => "an IPsec policy dropped it",
        "SECURITY_HOOK" => "a security module dropped it",
        "OTHERHOST" => "its link-layer address is another host's",
        "IPV6DISABLED" => "IPv6 is off on the interface",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::observation::DropReason;

    fn died(number: u32, reason: &str, location: &str) -> Died {
        let reason = DropReason { number, name: Arc::from(reason) };
        let location = Some(Arc::from(location));
        Died::of_drops(&KernelDrops { reason, location, interface: 0, packets: 1 })
    }

    #[test]
    fn where_the_kernel_gives_no_reasons_the_place_decides() {
        for place in ["nf_hook_slow", "__netif_receive_skb_core.constprop.0", "__dev_queue_xmit"] {
            assert_eq!(died(0, "NOT_SPECIFIED", place), Died::Filter, "{place}");
        }
        assert_eq!(died(0, "NOT_SPECIFIED", "tcp_v4_rcv"), Died::Unclear);
        // Where it has a reason for tc programs, this is none of theirs.
        assert_eq!(died(2, "NOT_SPECIFIED", "__dev_queue_xmit"), Died::Unclear);
        assert_eq!(died(2, "NOT_SPECIFIED", "nfqnl_reinject"), Died::Filter);
        assert_eq!(died(62, "TC_EGRESS", "__dev_queue_xmit"), Died::Filter);
    }
}
