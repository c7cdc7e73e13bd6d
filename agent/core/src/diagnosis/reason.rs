//! What the kernel's drop reasons mean: one table, with a line for each.

use crate::{
    correlate::{Evidence, KernelDrops},
    observation::{Fact, IN_POD, Rejection},
};

/// Who dropped the packets, as far as reason and place say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DroppedBy {
    /// A filter that may enforce policy.
    Filter,
    /// Something that enforces no policy.
    Other,
    /// This kernel, without saying why.
    Unclear,
    /// Nothing on this node.
    Elsewhere,
}

/// What becomes of established connections by the filter that dropped the first packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Established {
    /// It accepts them before policy is asked.
    Accepted,
    /// It judges them as it judges new ones.
    Judged,
}

/// A drop reason (include/net/dropreason-core.h).
struct Reason {
    /// Its names without `SKB_DROP_REASON_`, which mean the same here; one that ends in `*` is how
    /// the names of several begin.
    names: &'static [&'static str],
    /// Who drops packets for it.
    dropped_by: DroppedBy,
    /// What becomes of established connections by that filter, where that is known.
    established: Option<Established>,
    /// It in plain words, where that says more than the name does.
    words: Option<&'static str>,
}

impl Reason {
    /// The reason of this name, if it is in the table.
    fn named(name: &str) -> Option<&'static Self> {
        let is_it = |pattern: &&str| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == *pattern,
        };
        REASONS.iter().find(|reason| reason.names.iter().any(&is_it))
    }
}

/// The reason of a filter that may enforce policy.
const fn filter(
    names: &'static [&'static str],
    established: Option<Established>,
    words: Option<&'static str>,
) -> Reason {
    Reason { names, dropped_by: DroppedBy::Filter, established, words }
}

/// A reason that has nothing to do with policy.
const fn other(names: &'static [&'static str], words: &'static str) -> Reason {
    Reason { names, dropped_by: DroppedBy::Other, established: None, words: Some(words) }
}

/// What netfilter gives for a reason.
const NETFILTER: &str = "NETFILTER_DROP";

/// Every reason that means more than its name.
///
/// Those of filters are measured on real engines: netfilter ones give `NETFILTER_DROP`; Cilium
/// `TC_INGRESS`, or `TC_EGRESS` with endpoint routes; Open vSwitch reasons of its own. Connection
/// tracking comes first in the engines that use netfilter (Felix, kube-router,
/// kube-network-policies), and in Antrea's Open vSwitch tables. Of Cilium, replies and related
/// packets pass, and "all others must be permitted by policy" (`bpf/bpf_lxc.c`).
const REASONS: &[Reason] = &[
    filter(&[NETFILTER], Some(Established::Accepted), Some("a netfilter rule dropped it")),
    filter(
        &["TC_INGRESS", "TC_EGRESS"],
        Some(Established::Judged),
        Some("a tc program dropped it"),
    ),
    filter(&["XDP"], None, Some("an XDP program dropped it")),
    filter(&["BPF_CGROUP_EGRESS"], None, Some("a cgroup program dropped it")),
    filter(&["OVS_DROP*"], Some(Established::Accepted), None),
    other(&["NO_SOCKET"], "nothing listens on the port"),
    other(&["TCP_LISTEN_OVERFLOW", "LISTEN_OVERFLOW"], "the listener's accept queue is full"),
    other(&["SOCKET_BACKLOG"], "the socket's backlog is full"),
    other(&["SOCKET_RCVBUFF"], "the socket's receive buffer is full"),
    other(&["SOCKET_FILTER"], "a socket filter dropped it"),
    other(&["PROTO_MEM", "NOMEM"], "the kernel is short of memory"),
    other(
        &["IP_RPFILTER"],
        "the reverse-path filter dropped it: no route leads back to its source by that interface",
    ),
    other(&["IP_INNOROUTES", "IP_OUTNOROUTES"], "there is no route to its destination"),
    other(&["IP_INVALID_SOURCE", "IP_LOCAL_SOURCE"], "its source address is not valid here"),
    other(&["IP_INVALID_DEST"], "its destination address is not valid here"),
    other(&["IP_INADDRERRORS"], "its destination address cannot be reached from here"),
    other(
        &["NEIGH_FAILED", "NEIGH_CREATEFAIL", "NEIGH_DEAD"],
        "nobody answers for the next hop's address (ARP or neighbour discovery)",
    ),
    other(&["NEIGH_QUEUEFULL"], "too many packets wait for the next hop's address"),
    other(
        &["QDISC_DROP", "QDISC_OVERLIMIT", "QDISC_CONGESTED", "CAKE_FLOOD", "FQ_FLOW_LIMIT"],
        "a queueing discipline is full",
    ),
    other(&["CPU_BACKLOG"], "a CPU's packet backlog is full"),
    other(&["FULL_RING"], "a device's ring is full"),
    other(&["DEV_READY"], "the device is not up"),
    other(&["TCP_CSUM", "UDP_CSUM", "IP_CSUM", "SKB_CSUM"], "its checksum is wrong"),
    other(&["PKT_TOO_BIG"], "it is larger than the path's MTU"),
    other(&["TCP_FLAGS", "TCP_INVALID_SYN"], "its TCP flags are not those of a connect"),
    other(&["XFRM_POLICY"], "an IPsec policy dropped it"),
    other(&["SECURITY_HOOK"], "a security module dropped it"),
    other(&["OTHERHOST"], "its link-layer address is another host's"),
    other(&["IPV6DISABLED"], "IPv6 is off on the interface"),
];

/// A kernel function in which filters drop packets without a reason.
struct Place {
    /// How its name begins; compilers add endings.
    function: &'static str,
    /// Only where the kernel has no reasons at all, which gives "not specified" the number 0.
    only_without_reasons: bool,
    /// It is netfilter's, which a pod may have rules of its own for.
    is_netfilter: bool,
    /// What becomes of established connections by that filter, where that is known.
    established: Option<Established>,
}

/// NFQUEUE engines free the packet when their daemon's verdict comes in; kernels before 5.17 give no
/// reasons at all, so the place has to do. The last two are where the verdict of a tc program is
/// carried out (net/core/dev.c): kernels that have a reason for that have another number for none.
const PLACES: &[Place] = &[
    netfilter("nfqnl_reinject", Some(Established::Accepted)),
    netfilter("nf_reinject", None),
    netfilter("nf_hook_slow", None),
    netfilter("nft_do_chain", None),
    tc("__netif_receive_skb_core"),
    tc("__dev_queue_xmit"),
];

const fn netfilter(function: &'static str, established: Option<Established>) -> Place {
    Place { function, only_without_reasons: false, is_netfilter: true, established }
}

const fn tc(function: &'static str) -> Place {
    Place { function, only_without_reasons: true, is_netfilter: false, established: None }
}

/// Where a kernel frees a SYN that has come to TCP at its destination, behind every filter, without
/// saying why: one that repeats another, whose request is still pending (`tcp_v4_rcv` in
/// `net/ipv4/tcp_ipv4.c`). Before 5.17 it says no more of one to a closed port, which is answered by a
/// reset.
const ARRIVED: &[&str] = &["tcp_v4_rcv", "tcp_v6_rcv"];

/// Whether a packet that the kernel freed had arrived, so that it was no drop on its way.
pub fn has_arrived(fact: &Fact) -> bool {
    let Fact::KernelDrop { reason, location: Some(location), .. } = fact else { return false };
    &*reason.name == "NOT_SPECIFIED" && ARRIVED.iter().any(|place| location.starts_with(place))
}

/// The place of a filter that dropped these packets without saying why, if it is one.
fn filter_at(drops: &KernelDrops) -> Option<&'static Place> {
    let location = drops.location.as_deref()?;
    let is_unspecified = matches!(&*drops.reason.name, "NOT_SPECIFIED" | "");
    let is_here = |place: &&Place| {
        location.starts_with(place.function)
            && (!place.only_without_reasons || drops.reason.number == 0)
    };
    PLACES.iter().find(is_here).filter(|_| is_unspecified)
}

/// Whether the destination refused them by itself, without a filter: the port is closed, and the client
/// knows.
pub fn is_of_closed_port(evidence: &Evidence) -> bool {
    evidence.rejected == Some(Rejection::Reset) && dropped_by(evidence) != DroppedBy::Filter
}

/// Who dropped the packets, by all that was seen.
pub fn dropped_by(evidence: &Evidence) -> DroppedBy {
    evidence.kernel_drop().map_or(DroppedBy::Elsewhere, dropped_by_kernel)
}

fn dropped_by_kernel(drops: &KernelDrops) -> DroppedBy {
    let name = &*drops.reason.name;
    match Reason::named(name) {
        Some(reason) => reason.dropped_by,
        None if filter_at(drops).is_some() => DroppedBy::Filter,
        None if name == "NOT_SPECIFIED" => DroppedBy::Unclear,
        // A number without a name: newer than what is known.
        None if name.bytes().all(|byte| byte.is_ascii_digit()) => DroppedBy::Unclear,
        None => DroppedBy::Other,
    }
}

/// Whether a filter of the destination pod's own dropped the packets: in its network namespace, in which
/// no network plugin has any.
pub fn is_in_pod(evidence: &Evidence) -> bool {
    let is_in_pod = |drops: &KernelDrops| {
        drops.interface == IN_POD && dropped_by_kernel(drops) == DroppedBy::Filter
    };
    evidence.kernel_drop().is_some_and(is_in_pod)
}

/// Which filter of the destination pod's own dropped the packets, in plain words; `None`: none did.
pub fn filter_in_pod(evidence: &Evidence) -> Option<&'static str> {
    let drops = evidence.kernel_drop().filter(|_| is_in_pod(evidence))?;
    let at_netfilter = || filter_at(drops).is_some_and(|at| at.is_netfilter);
    Some(match &*drops.reason.name {
        "TC_INGRESS" | "TC_EGRESS" => "whose own tc program dropped it",
        "XDP" => "whose own XDP program dropped it",
        NETFILTER => "whose own netfilter rules dropped it",
        _ if at_netfilter() => "whose own netfilter rules dropped it",
        _ => "whose own filter dropped it",
    })
}

/// What becomes of established connections by the filter that dropped these packets; `None`: that is
/// unknown.
pub fn established(evidence: &Evidence) -> Option<Established> {
    let drops = evidence.kernel_drop()?;
    match Reason::named(&drops.reason.name) {
        Some(reason) => reason.established,
        None => filter_at(drops)?.established,
    }
}

/// A drop reason in plain words.
pub fn in_words(reason: &str) -> Option<&'static str> {
    Reason::named(reason)?.words
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::observation::DropReason;

    fn by(number: u32, reason: &str, location: &str) -> DroppedBy {
        let reason = DropReason { number, name: Arc::from(reason) };
        let location = Some(Arc::from(location));
        dropped_by_kernel(&KernelDrops { reason, location, interface: 0, packets: 1 })
    }

    #[test]
    fn where_the_kernel_gives_no_reasons_the_place_decides() {
        for place in ["nf_hook_slow", "__netif_receive_skb_core.constprop.0", "__dev_queue_xmit"] {
            assert_eq!(by(0, "NOT_SPECIFIED", place), DroppedBy::Filter, "{place}");
        }
        assert_eq!(by(0, "NOT_SPECIFIED", "tcp_v4_rcv"), DroppedBy::Unclear);
        // Where it has a reason for tc programs, this is none of theirs.
        assert_eq!(by(2, "NOT_SPECIFIED", "__dev_queue_xmit"), DroppedBy::Unclear);
        assert_eq!(by(2, "NOT_SPECIFIED", "nfqnl_reinject"), DroppedBy::Filter);
        assert_eq!(by(62, "TC_EGRESS", "__dev_queue_xmit"), DroppedBy::Filter);
    }

    #[test]
    fn a_reason_that_is_not_in_the_table_is_nobody_s_policy_unless_it_has_no_name() {
        assert_eq!(by(300, "OVS_DROP_LAST_ACTION", "x"), DroppedBy::Filter);
        assert_eq!(by(90, "SOMETHING_NEW", "nf_hook_slow"), DroppedBy::Other);
        assert_eq!(by(90, "90", "nf_hook_slow"), DroppedBy::Unclear);
    }

    #[test]
    fn no_name_stands_in_two_lines() {
        let names: Vec<_> = REASONS.iter().flat_map(|reason| reason.names).collect();
        for (place, name) in names.iter().enumerate() {
            assert!(!names[place + 1..].contains(name), "{name}");
        }
    }
}
