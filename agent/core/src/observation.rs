//! What the kernel side saw of connection attempts, decoded once at the edge.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;

use crate::flow::{Flow, Protocol};

/// Which attempt a packet belongs to, whatever address translation did to its destination.
///
/// TCP retransmits a SYN with the same initial sequence number (RFC 9293, 3.4.1), so these values
/// are the same for every copy of it, before and after DNAT, on both nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptId {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Source address.
    pub source: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// TCP: initial sequence number. SCTP: initiate tag of the INIT. UDP: DNS message id.
    pub sequence: u32,
    /// The interface by which it came, where its source address is not its sender's ([`SourceIs`]): it is
    /// none of the attempts of whoever has that address.
    pub foreign: Option<u32>,
}

/// Who sent a packet: the interface by which it entered the node, which nobody can forge. What bounds, judges,
/// forgives or attributes goes by this, and by the source address only as far as that is the sender's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sender {
    /// The interface's index: a pod's veth, or one that leads out of the node; 0: the node itself sent it, or
    /// by which it came is not known.
    pub interface: u32,
    /// Whose the source address is.
    pub source: SourceIs,
}

/// Whose the source address of a packet is, as far as is known which pods have which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceIs {
    /// The sender's, or nobody's that is known.
    #[default]
    Own,
    /// None of the sender's, a pod whose addresses are known, and no other pod's of this node: a pod that
    /// routes passes on what comes from elsewhere.
    Foreign,
    /// Another's, behind another interface: it is forged.
    Spoofed,
}

impl Sender {
    /// The interface, where the source address is not its sender's.
    pub fn foreign(&self) -> Option<u32> {
        (self.source != SourceIs::Own).then_some(self.interface)
    }

    /// Whether the source address is another's.
    pub fn is_spoofed(&self) -> bool {
        self.source == SourceIs::Spoofed
    }
}

/// One thing the kernel saw, standing for one packet or for many alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// When the (last) packet was seen.
    pub at: Timestamp,
    /// When the attempt's first packet was seen on a pod's veth; else as `at`.
    pub first: Timestamp,
    /// Which attempt; `None` for a counter read from the kernel, which stands for several.
    pub attempt: Option<AttemptId>,
    /// How many packets this stands for: 1 with an `attempt`.
    pub packets: u64,
    /// The flow where it was observed: for a kernel drop after DNAT, so as the filter saw it.
    pub flow: Flow,
    /// The destination as the pod's veth saw it, where it differs: a Service's address before DNAT.
    pub dialled: Option<(IpAddr, u16)>,
    /// Who sent it.
    pub sender: Sender,
    /// The interface of the veth on which the attempt entered the node, if it did on one of ours.
    pub entered: Option<u32>,
    /// The packet was handed to the destination pod's veth on this node.
    pub delivered: bool,
    /// What was seen.
    pub fact: Fact,
}

impl Observation {
    /// The flow as the client dialled it, where the kernel side knows it to differ.
    pub(crate) fn flow_dialled(&self) -> Option<Flow> {
        self.dialled.map(|dialled| self.flow.to(dialled))
    }
}

/// Stands for every interface of the destination pod's own network namespace. None has this number.
pub const IN_POD: u32 = u32::MAX;

/// What was seen of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// This kernel freed the packet as dropped (`skb:kfree_skb`).
    KernelDrop {
        /// Why, in the kernel's words.
        reason: DropReason,
        /// The kernel function that freed it, such as `nf_hook_slow`.
        location: Option<Arc<str>>,
        /// The packet's device at the drop: neither the denied side nor reliable; 0 for none, [`IN_POD`]
        /// for any in the network namespace of the pod that the packet was handed to.
        interface: u32,
    },
    /// The same SYN, INIT or DNS query again: nothing answered the one before.
    Retransmitted,
    /// A local pod's connect ended without success, with this `errno`; 0: the application gave up.
    Failed {
        /// `sk_err` at `inet_sock_set_state` to `TCP_CLOSE`.
        errno: i32,
    },
    /// Somebody said no.
    Rejected(Rejection),
    /// A SYN-ACK, INIT-ACK or DNS response came, after something was reported of the attempt.
    AnsweredLate,
    /// The first answer that this (source, destination, port) ever got, as far as the table knows.
    AnsweredFirst,
}

/// How an attempt was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rejection {
    /// TCP RST or SCTP ABORT.
    Reset,
    /// An ICMP or `ICMPv6` error about the attempt's packet.
    Icmp {
        /// Whether it was `ICMPv6`.
        v6: bool,
        /// ICMP type: 3 (RFC 792); `ICMPv6`: 1 (RFC 4443).
        kind: u8,
        /// ICMP code.
        code: u8,
    },
}

/// `enum skb_drop_reason` of the running kernel (include/net/dropreason-core.h).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DropReason {
    /// The number, which differs between kernels.
    pub number: u32,
    /// The name without `SKB_DROP_REASON_`; the number in digits where the kernel names none.
    pub name: Arc<str>,
}
