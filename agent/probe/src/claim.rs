//! Makes sure that a node has one agent: two would report everything twice.
//!
//! What an agent is recognised by is a socket of routing messages that has joined certain groups. The
//! kernel lists the sockets of a network namespace with the groups that each has joined, to everyone, in
//! whatever container. Two of ours may be joined only by who may administer that namespace
//! (`rtnetlink_bind` in `net/core/rtnetlink.c`), so that nobody else keeps an agent from starting, as one
//! could by holding a name. It goes with its process.

use std::{fs, io, os::fd::OwnedFd};

use nix::sys::socket::SockFlag;

use super::{capabilities, error::Error, netlink};

/// `RTNLGRP_IPV4_MROUTE_R` and `RTNLGRP_IPV6_MROUTE_R`, which take `CAP_NET_ADMIN`: a message when a
/// multicast router lacks a route. `RTNLGRP_NOP2` and `RTNLGRP_NOP4`, in which there are none, so that
/// nobody else has these four and no others. A bit for each (include/uapi/linux/rtnetlink.h).
const GROUPS: u32 = 1 << 29 | 1 << 30 | 1 << 13 | 1 << 16;

/// The sockets in the network namespace of the thread that reads it: the protocol is in the second column,
/// the groups in the fourth (`netlink_native_seq_show` in `net/netlink/af_netlink.c`).
const SOCKETS: &str = "/proc/thread-self/net/netlink";
const PROTOCOL: usize = 1;
const JOINED: usize = 3;
/// `NETLINK_ROUTE`
const ROUTE: &str = "0";

/// The network namespace of the thread that made it is watched by this process, until this is dropped.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "it is held")] OwnedFd);

impl Claim {
    /// Claims the network namespace of this thread.
    ///
    /// # Errors
    /// Another agent has it; a lack of privilege; what the kernel lists cannot be read.
    pub fn make() -> Result<Self, Error> {
        const DOING: &str = "looking for another agent on this node";
        capabilities::check_later()?;
        // First, so that of two that start at once one at least sees the other.
        let socket = netlink::open(SockFlag::SOCK_CLOEXEC, GROUPS).map_err(Error::io(DOING))?;
        let sockets = fs::read_to_string(SOCKETS).map_err(Error::io(DOING))?;
        match agents(&sockets) {
            0 => Err(Error::io(DOING)(io::Error::other(format!("{SOCKETS} does not list ours")))),
            1 => Ok(Self(socket)),
            _ => Err(Error::Claimed),
        }
    }
}

/// How many agents have a socket among these.
fn agents(sockets: &str) -> usize {
    let is_one = |line: &&str| {
        let mut columns = line.split_whitespace();
        let is_route = columns.nth(PROTOCOL) == Some(ROUTE);
        let joined = columns.nth(JOINED - PROTOCOL - 1);
        let joined = joined.and_then(|groups| u32::from_str_radix(groups, 16).ok());
        is_route && joined == Some(GROUPS)
    };
    sockets.lines().filter(is_one).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_known_by_all_of_its_groups_alone() {
        let sockets = "\
sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
0000000040afc4d6 0   0          00000000 0        0        0     2        0        4
00000000ae2a32c6 0   22197      00012000 0        0        0     2        0        25183
00000000ae2a32c7 0   1          60012001 0        0        0     2        0        25184
00000000ae2a32c8 12  1          60012000 0        0        0     2        0        25185
";
        assert_eq!(agents(sockets), 0);
        let one = "000000000ac21408 0   -4097      60012000 0   0  0  2  0  25157\n";
        assert_eq!(agents(&format!("{sockets}{one}{one}")), 2);
    }
}
