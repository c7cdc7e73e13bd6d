//! As much of rtnetlink as it takes to know links, addresses and routes.
//!
//! Eight attributes are read, and unknown ones skipped, by a walker of our own: a parser for all of
//! rtnetlink refuses a whole message over one attribute that a newer kernel has changed.
//!
//! <https://docs.kernel.org/userspace-api/netlink/intro.html>

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
        setsockopt, socket, sockopt::RcvBuf,
    },
};

/// A message as large as the kernel makes them (`NLMSG_GOODSIZE`, 32 KiB for dumps).
const MESSAGE_BYTES: usize = 32 * 1024;

/// Room for a burst of changes, such as a node's pods all starting: some thousand messages. More
/// is not lost either: the kernel says that it overflowed, and everything is listed anew.
const BUFFER_BYTES: usize = 1 << 20;

/// Changes that are subscribed to (include/uapi/linux/rtnetlink.h).
const GROUPS: i32 = libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_ROUTE;

const HEADER_BYTES: usize = 16;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_LINK_NETNSID: u16 = 37;
const RTA_VIA: u16 = 18;
const VETH: &[u8] = b"veth";

/// One change, or one part of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Link { index: u32, link: Link },
    LinkGone { index: u32 },
    Address { index: u32, address: IpAddr, added: bool },
    Route { route: Route, added: bool },
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) is_veth: bool,
    /// Its other end is in another network namespace.
    pub(crate) is_elsewhere: bool,
    /// Set up by the administrator.
    pub(crate) is_up: bool,
}

/// What is asked of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Route {
    pub(crate) table: u32,
    /// Whether it leads on, and is not one of this host's own addresses and the like.
    pub(crate) is_unicast: bool,
    pub(crate) destination: Option<IpAddr>,
    pub(crate) prefix: u8,
    pub(crate) tos: u8,
    /// Distinguishes routes that are else alike.
    pub(crate) priority: u32,
    /// Interfaces it leads to, and whether by a gateway.
    pub(crate) hops: Vec<(u32, bool)>,
}

/// A list to ask for.
#[derive(Clone, Copy)]
pub(crate) enum List {
    Links,
    Addresses,
    Routes,
}

/// A socket for changes, in the network namespace of the thread that opens it.
pub(crate) fn subscribe() -> io::Result<OwnedFd> {
    let socket = open(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, GROUPS.cast_unsigned())?;
    // Refused beyond the administrator's limit: then the default has to do.
    let _ = setsockopt(&socket, RcvBuf, &BUFFER_BYTES);
    Ok(socket)
}

/// Receives one datagram of changes; `None` when there is none.
pub(crate) fn receive(socket: &OwnedFd) -> io::Result<Option<Vec<Message>>> {
    let mut buffer = vec![0; MESSAGE_BYTES];
    match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
        Ok(length) => {
            let mut messages = Vec::new();
            parse(&buffer[..length], &mut messages)?;
            Ok(Some(messages))
        }
        Err(Errno::EAGAIN) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether the kernel had to leave out changes.
pub(crate) fn is_overflow(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Lists everything there is now. Blocks for as long as the kernel takes to write it.
pub(crate) fn list(what: List) -> io::Result<Vec<Message>> {
    let socket = open(SockFlag::SOCK_CLOEXEC, 0)?;
    let (kind, body) = match what {
        List::Links => (libc::RTM_GETLINK, size_of::<libc::ifinfomsg>()),
        List::Addresses => (libc::RTM_GETADDR, 8),
        List::Routes => (libc::RTM_GETROUTE, 12),
    };
    let length = HEADER_BYTES + body;
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
    let mut request = Vec::with_capacity(length);
    request.extend(u32::try_from(length).unwrap_or(0).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(u16::try_from(flags).unwrap_or(0).to_ne_bytes());
    request.resize(length, 0); // sequence, port and an all-zero body: of any family
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;

    let mut buffer = vec![0; MESSAGE_BYTES];
    let mut messages = Vec::new();
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if parse(&buffer[..length], &mut messages)? {
            return Ok(messages);
        }
    }
}

fn open(flags: SockFlag, groups: u32) -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

/// Reads the messages of a datagram; true if the last of a listing is among them.
fn parse(mut bytes: &[u8], into: &mut Vec<Message>) -> io::Result<bool> {
    while let Some(length) = u32_at(bytes, 0) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(message) = bytes.get(..length).filter(|_| length >= HEADER_BYTES) else { break };
        let kind = u16_at(message, 4).unwrap_or(0);
        let body = &message[HEADER_BYTES..];
        match libc::c_int::from(kind) {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => {
                let errno = u32_at(body, 0).unwrap_or(0).cast_signed();
                if errno != 0 {
                    return Err(io::Error::from_raw_os_error(-errno));
                }
            }
            _ => into.extend(message_of(kind, body)),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn message_of(kind: u16, body: &[u8]) -> Option<Message> {
    match kind {
        libc::RTM_NEWLINK => {
            // A bridge also tells of its ports, with the bridge's own kind of attributes.
            (body.first()? == &0).then_some(())?;
            let is_up = u32_at(body, 8)? & libc::IFF_UP.cast_unsigned() != 0;
            Some(Message::Link { index: u32_at(body, 4)?, link: link(is_up, body.get(16..)?) })
        }
        libc::RTM_DELLINK => {
            (body.first()? == &0).then_some(())?;
            Some(Message::LinkGone { index: u32_at(body, 4)? })
        }
        libc::RTM_NEWADDR | libc::RTM_DELADDR => Some(Message::Address {
            index: u32_at(body, 4)?,
            address: own_address(body.get(8..)?)?,
            added: kind == libc::RTM_NEWADDR,
        }),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            Some(Message::Route { route: route(body)?, added: kind == libc::RTM_NEWROUTE })
        }
        _ => None,
    }
}

fn link(is_up: bool, attributes_of: &[u8]) -> Link {
    let mut link = Link { name: String::new(), is_veth: false, is_elsewhere: false, is_up };
    for (kind, value) in attributes(attributes_of) {
        match kind {
            libc::IFLA_IFNAME => {
                let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
                link.name = String::from_utf8_lossy(name).into_owned();
            }
            libc::IFLA_LINKINFO => {
                link.is_veth = attributes(value).any(|(kind, value)| {
                    kind == IFLA_INFO_KIND && value.strip_suffix(b"\0").unwrap_or(value) == VETH
                });
            }
            IFLA_LINK_NETNSID => link.is_elsewhere = true,
            _ => {}
        }
    }
    link
}

/// An interface's own address: on a point-to-point link, `IFA_ADDRESS` is the peer's.
fn own_address(attributes_of: &[u8]) -> Option<IpAddr> {
    let find = |wanted| {
        attributes(attributes_of).find(|(kind, _)| *kind == wanted).and_then(|(_, value)| ip(value))
    };
    find(libc::IFA_LOCAL).or_else(|| find(libc::IFA_ADDRESS))
}

fn route(body: &[u8]) -> Option<Route> {
    let [_family, prefix, _source_prefix, tos, table, _protocol, _scope, kind, ..] =
        *body.first_chunk::<12>()?;
    let mut route = Route {
        table: u32::from(table),
        is_unicast: kind == libc::RTN_UNICAST,
        destination: None,
        prefix,
        tos,
        priority: 0,
        hops: Vec::new(),
    };
    let (mut interface, mut has_gateway) = (None, false);
    for (kind, value) in attributes(&body[12..]) {
        match kind {
            libc::RTA_DST => route.destination = ip(value),
            libc::RTA_OIF => interface = u32_at(value, 0),
            libc::RTA_GATEWAY | RTA_VIA => has_gateway = true,
            libc::RTA_PRIORITY => route.priority = u32_at(value, 0).unwrap_or(0),
            libc::RTA_TABLE => route.table = u32_at(value, 0).unwrap_or(0),
            libc::RTA_MULTIPATH => hops(value, &mut route.hops),
            _ => {}
        }
    }
    route.hops.extend(interface.map(|index| (index, has_gateway)));
    Some(route)
}

/// The next hops of a multipath route: `struct rtnexthop`, each with attributes.
fn hops(mut bytes: &[u8], into: &mut Vec<(u32, bool)>) {
    while let (Some(length), Some(index)) = (u16_at(bytes, 0), u32_at(bytes, 4)) {
        let length = usize::from(length);
        let Some(hop) = bytes.get(8..length) else { break };
        let has_gateway =
            attributes(hop).any(|(kind, _)| matches!(kind, libc::RTA_GATEWAY | RTA_VIA));
        into.push((index, has_gateway));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// The attributes in these bytes, up to the first that is cut off.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// Flags in the upper bits of the kind.
    const KIND_MASK: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & KIND_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        Some(Ipv4Addr::from(octets).into())
    } else {
        Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = 4 + value.len();
        let mut bytes = u16::try_from(length).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(length.next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, body: &[&[u8]]) -> Vec<u8> {
        let body = body.concat();
        let length = HEADER_BYTES + body.len();
        let mut bytes = u32::try_from(length).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend(body);
        bytes
    }

    fn parsed(bytes: &[u8]) -> Vec<Message> {
        let mut messages = Vec::new();
        parse(bytes, &mut messages).unwrap();
        messages
    }

    #[test]
    fn a_veth_is_told_from_other_links() {
        let header = [[0; 4], 7_u32.to_ne_bytes(), [0; 4], [0; 4]].concat();
        let info = attribute(libc::IFLA_LINKINFO, &attribute(IFLA_INFO_KIND, b"veth\0"));
        let name = attribute(libc::IFLA_IFNAME, b"cali1\0");
        let elsewhere = attribute(IFLA_LINK_NETNSID, &[0; 4]);
        let link = |is_veth, is_elsewhere| {
            let link = Link { name: "cali1".into(), is_veth, is_elsewhere, is_up: false };
            vec![Message::Link { index: 7, link }]
        };
        let new = libc::RTM_NEWLINK;
        assert_eq!(parsed(&message(new, &[&header, &name, &info, &elsewhere])), link(true, true));
        assert_eq!(parsed(&message(new, &[&header, &info, &name])), link(true, false));
        assert_eq!(parsed(&message(new, &[&header, &name])), link(false, false));
    }

    #[test]
    fn routes_tell_where_they_lead() {
        let header = [2, 32, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0];
        let to = attribute(libc::RTA_DST, &[10, 1, 0, 10]);
        let oif = attribute(libc::RTA_OIF, &9_u32.to_ne_bytes());
        let via = attribute(libc::RTA_GATEWAY, &[10, 0, 0, 1]);
        let route = |hops| Route {
            table: 254,
            is_unicast: true,
            destination: Some([10, 1, 0, 10].into()),
            prefix: 32,
            tos: 0,
            priority: 0,
            hops,
        };
        let added = |route| vec![Message::Route { route, added: true }];
        let new = libc::RTM_NEWROUTE;
        assert_eq!(parsed(&message(new, &[&header, &to, &oif])), added(route(vec![(9, false)])));
        assert_eq!(
            parsed(&message(new, &[&header, &to, &oif, &via])),
            added(route(vec![(9, true)]))
        );
        let hop = |index: u32, via: &[u8]| {
            let length = u16::try_from(8 + via.len()).unwrap();
            [&length.to_ne_bytes()[..], &[0, 0], &index.to_ne_bytes(), via].concat()
        };
        let paths = attribute(libc::RTA_MULTIPATH, &[hop(3, &via), hop(4, &[])].concat());
        assert_eq!(
            parsed(&message(new, &[&header, &to, &paths])),
            added(route(vec![(3, true), (4, false)]))
        );
    }

    #[test]
    fn several_messages_and_an_end_come_in_one_datagram() {
        let header = [[0; 4], 7_u32.to_ne_bytes(), [0; 4], [0; 4]].concat();
        let gone = message(libc::RTM_DELLINK, &[&header]);
        let done = message(u16::try_from(libc::NLMSG_DONE).unwrap(), &[&[0; 4]]);
        let mut messages = Vec::new();
        assert!(parse(&[gone.clone(), gone, done].concat(), &mut messages).unwrap());
        assert_eq!(messages, vec![Message::LinkGone { index: 7 }; 2]);
    }

    #[test]
    fn a_refusal_is_an_error() {
        let refusal = (-libc::EPERM).to_ne_bytes();
        let bytes = message(u16::try_from(libc::NLMSG_ERROR).unwrap(), &[&refusal]);
        let error = parse(&bytes, &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes, &mut Vec::new());
            for kind in [libc::RTM_NEWLINK, libc::RTM_NEWADDR, libc::RTM_NEWROUTE] {
                let _ = message_of(kind, &bytes);
            }
        }
    }
}
