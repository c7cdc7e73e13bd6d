//! What rtnetlink reports about links, addresses, routes and filters, as far as the probe needs it.
//!
//! `netlink-packet-route` reads the messages. It gives up on a whole message over one attribute that
//! it does not expect, so each is read on its own: what fails is logged and left out, and the rest
//! of the listing is used. The sockets are our own: the connection of `rtnetlink` is a task of its own,
//! with a queue that has no bound, and keeps to itself which messages it could not read.
//!
//! <https://docs.kernel.org/userspace-api/netlink/intro.html>

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::Once,
};

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeader, AddressHeaderFlags, AddressMessage},
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType, RouteVia},
    tc::{TcHeader, TcMessage},
};
use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily as SocketFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
        bind, recv, send, setsockopt, socket,
        sockopt::{RcvBuf, ReceiveTimeout},
    },
    sys::time::{TimeVal, TimeValLike as _},
};

use super::filters::{self, Filter};

/// A message as large as the kernel makes them (`NLMSG_GOODSIZE`, 32 KiB for dumps).
const MESSAGE_BYTES: usize = 32 * 1024;

/// Room for a burst of changes, such as a node's pods all starting: some thousand messages. More
/// is not lost either: the kernel says that it overflowed, and everything is listed again.
const BUFFER_BYTES: usize = 1 << 20;

/// How long the kernel may take to write the next part of a listing. It does so when it is asked, if need be
/// after other changes of interfaces: within seconds where thousands come and go.
const DUMP_SECONDS: i64 = 10;

/// Changes that are subscribed to (include/uapi/linux/rtnetlink.h).
const GROUPS: i32 = libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_ROUTE
    | libc::RTMGRP_TC;

/// One change, or one part of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Link { index: u32, link: Link },
    LinkGone { index: u32 },
    Address { index: u32, address: Own, added: bool },
    Route { route: Route, added: bool },
    Filter(Filter),
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each may be so without the others")]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) is_veth: bool,
    /// Its other end is in another network namespace.
    pub(crate) is_elsewhere: bool,
    /// Set up by the administrator.
    pub(crate) is_up: bool,
    /// A network card, or what stands for one: packets come into the node by it.
    pub(crate) leads_out: bool,
}

/// An address of an interface's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) address: IpAddr,
    /// How long the network's part of it is.
    pub(crate) prefix: u8,
    /// Somebody has set it, and it is not one that the kernel has made from what a router said.
    pub(crate) is_set: bool,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Hop {
    pub(crate) index: u32,
    /// By way of whom; unspecified: of one with no address of ours.
    pub(crate) gateway: Option<IpAddr>,
}

/// What the probe needs to know of a route.
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
    /// Whether the kernel has it from a packet: of anyone who sends a router's advertisement.
    pub(crate) is_advertised: bool,
    pub(crate) hops: Vec<Hop>,
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

/// Lists everything there is now: links, then addresses, then routes. Blocks for as long as the
/// kernel takes to write it.
pub(crate) fn list() -> io::Result<Vec<Message>> {
    let socket = open(SockFlag::SOCK_CLOEXEC, 0)?;
    let mut messages = Vec::new();
    for what in [
        RouteNetlinkMessage::GetLink(LinkMessage::default()),
        RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        RouteNetlinkMessage::GetRoute(RouteMessage::default()),
    ] {
        messages.extend(dump(&socket, what)?);
    }
    Ok(messages)
}

/// The handles of the filters of one hook of an interface, in the order in which they run.
pub(crate) fn filter_handles(index: u32, parent: u32) -> io::Result<Vec<u32>> {
    let socket = open(SockFlag::SOCK_CLOEXEC, 0)?;
    let header =
        TcHeader { index: index.cast_signed(), parent: parent.into(), ..TcHeader::default() };
    let what = RouteNetlinkMessage::GetTrafficFilter(TcMessage::from_parts(header, Vec::new()));
    let handles = dump(&socket, what)?.into_iter().filter_map(|message| match message {
        Message::Filter(filter) => Some(filter.handle).filter(|handle| *handle != 0),
        _ => None,
    });
    Ok(handles.collect())
}

/// Asks for a listing, and reads it to its end.
fn dump(socket: &OwnedFd, what: RouteNetlinkMessage) -> io::Result<Vec<Message>> {
    setsockopt(socket, ReceiveTimeout, &TimeVal::seconds(DUMP_SECONDS))?;
    let mut request = NetlinkMessage::from(what);
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut buffer = vec![0; MESSAGE_BYTES];
    let mut messages = Vec::new();
    send(socket.as_raw_fd(), &bytes_of(request), MsgFlags::empty())?;
    let mut is_done = false;
    while !is_done {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        is_done = parse(&buffer[..length], &mut messages)?;
    }
    Ok(messages)
}

/// A socket that has joined these groups.
pub(crate) fn open(flags: SockFlag, groups: u32) -> io::Result<OwnedFd> {
    let socket = socket(SocketFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

fn bytes_of(mut message: NetlinkMessage<RouteNetlinkMessage>) -> Vec<u8> {
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Reads the messages of a datagram; true if the last of a listing is among them.
fn parse(mut bytes: &[u8], into: &mut Vec<Message>) -> io::Result<bool> {
    while !bytes.is_empty() {
        let message = match NetlinkBuffer::new_checked(bytes) {
            Ok(message) => message,
            Err(error) => {
                // Where the next one begins cannot be known.
                warn_unread(&error);
                break;
            }
        };
        let length = message.length() as usize;
        let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        if filters::is_traffic_control(&message) {
            into.extend(Filter::read(&message).map(Message::Filter));
            bytes = rest;
            continue;
        }
        match NetlinkMessage::deserialize(&bytes[..length]).map(|message| message.payload) {
            Ok(NetlinkPayload::InnerMessage(message)) => into.extend(message_of(message)),
            Ok(NetlinkPayload::Error(answer)) => accepted(answer.raw_code())?,
            Ok(NetlinkPayload::Done(end)) => return accepted(end.code).map(|()| true),
            Ok(_) => {}
            Err(error) => warn_unread(&error),
        }
        bytes = rest;
    }
    Ok(false)
}

/// The kernel refuses with an errno below zero, at the start of a listing or at its end.
fn accepted(code: i32) -> io::Result<()> {
    if code < 0 { Err(io::Error::from_raw_os_error(code.saturating_neg())) } else { Ok(()) }
}

/// Warns once: what cannot be read in one message is likely to be in many.
fn warn_unread(error: &DecodeError) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(%error, "ignoring a link, an address or a route that cannot be read; others are logged at debug level");
    });
    tracing::debug!(%error, "cannot read an rtnetlink message");
}

fn message_of(message: RouteNetlinkMessage) -> Option<Message> {
    use RouteNetlinkMessage::{DelAddress, DelLink, DelRoute, NewAddress, NewLink, NewRoute};
    let added = matches!(message, NewAddress(_) | NewRoute(_));
    match message {
        // A bridge reports its ports in the same way: one that leaves the bridge is not gone.
        NewLink(it) | DelLink(it) if it.header.interface_family != AddressFamily::Unspec => None,
        NewLink(link) => Some(Message::Link { index: link.header.index, link: link.into() }),
        DelLink(link) => Some(Message::LinkGone { index: link.header.index }),
        NewAddress(address) | DelAddress(address) => {
            let index = address.header.index;
            Some(Message::Address { index, address: own(&address)?, added })
        }
        NewRoute(route) | DelRoute(route) => Some(Message::Route { route: route.into(), added }),
        _ => None,
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            name: String::new(),
            is_veth: false,
            is_elsewhere: false,
            is_up: message.header.flags.contains(LinkFlags::Up),
            // Cards are of no kind, and neither is the loopback.
            leads_out: !message.header.flags.contains(LinkFlags::Loopback),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::LinkInfo(info) => {
                    link.is_veth = info.contains(&LinkInfo::Kind(InfoKind::Veth));
                    let card = [InfoKind::Bond, InfoKind::Vlan].map(LinkInfo::Kind);
                    let kinds = info.iter().filter(|info| matches!(info, LinkInfo::Kind(_)));
                    link.leads_out &= kinds.clone().all(|kind| card.contains(kind));
                }
                LinkAttribute::LinkNetNsId(_) => link.is_elsewhere = true,
                _ => {}
            }
        }
        link
    }
}

/// An interface's own address: on a point-to-point link, `IFA_ADDRESS` is the peer's.
fn own(message: &AddressMessage) -> Option<Own> {
    let addresses = message.attributes.iter().filter_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some((false, *address)),
        AddressAttribute::Local(address) => Some((true, *address)),
        _ => None,
    });
    let (_, address) = addresses.max_by_key(|(is_local, _)| *is_local)?;
    let AddressHeader { prefix_len: prefix, flags, .. } = message.header;
    // Of IPv4 the kernel makes none, and a DHCP client's are no more lasting than a router's.
    let is_set = address.is_ipv4() || flags.contains(AddressHeaderFlags::Permanent);
    Some(Own { address, prefix, is_set })
}

impl From<RouteMessage> for Route {
    fn from(RouteMessage { header, attributes, .. }: RouteMessage) -> Self {
        let mut route = Self {
            table: header.table.into(),
            is_unicast: header.kind == RouteType::Unicast,
            destination: None,
            prefix: header.destination_prefix_length,
            tos: header.tos,
            priority: 0,
            is_advertised: matches!(
                header.protocol,
                RouteProtocol::Ra | RouteProtocol::IcmpRedirect
            ),
            hops: Vec::new(),
        };
        let gateway = gateway_of(&attributes);
        for attribute in attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                    route.destination = Some(address.into());
                }
                RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                    route.destination = Some(address.into());
                }
                RouteAttribute::Oif(index) => route.hops.push(Hop { index, gateway }),
                RouteAttribute::MultiPath(hops) => {
                    route.hops.extend(hops.iter().map(|hop| Hop {
                        index: hop.interface_index,
                        gateway: gateway_of(&hop.attributes),
                    }));
                }
                RouteAttribute::Priority(priority) => route.priority = priority,
                RouteAttribute::Table(table) => route.table = table,
                _ => {}
            }
        }
        route
    }
}

fn gateway_of(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address))
        | RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::from(*address)),
        RouteAttribute::Gateway(RouteAddress::Inet6(address))
        | RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::from(*address)),
        RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => {
            Some(IpAddr::from(Ipv4Addr::UNSPECIFIED))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;

    use netlink_packet_core::{DefaultNla, DoneMessage, ErrorMessage, NetlinkHeader};
    use netlink_packet_route::route::RouteNextHop;
    use proptest::prelude::*;

    use super::*;

    /// A datagram of these messages.
    fn datagram(messages: impl IntoIterator<Item = RouteNetlinkMessage>) -> Vec<u8> {
        messages.into_iter().flat_map(|message| bytes_of(message.into())).collect()
    }

    fn parsed(messages: impl IntoIterator<Item = RouteNetlinkMessage>) -> Vec<Message> {
        let mut parsed = Vec::new();
        assert!(!parse(&datagram(messages), &mut parsed).unwrap());
        parsed
    }

    fn link(family: AddressFamily, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.interface_family = family;
        link.header.index = 7;
        link.attributes = attributes;
        link
    }

    #[test]
    fn a_veth_is_told_from_other_links() {
        use RouteNetlinkMessage::NewLink;
        let info = |kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]);
        let name = LinkAttribute::IfName("cali1".into());
        let elsewhere = LinkAttribute::LinkNetNsId(0);
        let new = |attributes| parsed([NewLink(link(AddressFamily::Unspec, attributes))]);
        let is = |is_veth, is_elsewhere, leads_out| {
            let link =
                Link { name: "cali1".into(), is_veth, is_elsewhere, is_up: false, leads_out };
            vec![Message::Link { index: 7, link }]
        };
        assert_eq!(new(vec![name.clone(), info(InfoKind::Veth), elsewhere]), is(true, true, false));
        assert_eq!(new(vec![info(InfoKind::Veth), name.clone()]), is(true, false, false));
        assert_eq!(new(vec![info(InfoKind::Dummy), name.clone()]), is(false, false, false));
        assert_eq!(new(vec![info(InfoKind::Bond), name.clone()]), is(false, false, true));
        assert_eq!(new(vec![name]), is(false, false, true));
    }

    #[test]
    fn a_port_of_a_bridge_is_no_link() {
        use RouteNetlinkMessage::{DelLink, NewLink};
        let port = link(AddressFamily::Bridge, vec![LinkAttribute::IfName("cali1".into())]);
        assert_eq!(parsed([NewLink(port.clone()), DelLink(port)]), []);
    }

    #[test]
    fn the_own_end_of_a_point_to_point_link_counts() {
        let [own, peer]: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        let mut message = AddressMessage::default();
        message.header.index = 7;
        message.attributes = vec![AddressAttribute::Address(peer)];
        let alone = message.clone();
        message.attributes.push(AddressAttribute::Local(own));
        message.header.prefix_len = 24;
        let of = |address, prefix| Own { address, prefix, is_set: true };
        let messages = parsed([
            RouteNetlinkMessage::NewAddress(alone),
            RouteNetlinkMessage::DelAddress(message),
        ]);
        assert_eq!(
            messages,
            [
                Message::Address { index: 7, address: of(peer, 0), added: true },
                Message::Address { index: 7, address: of(own, 24), added: false },
            ]
        );
    }

    #[test]
    fn routes_tell_where_they_lead() {
        let route_of = |attributes: Vec<RouteAttribute>| {
            let mut message = RouteMessage::default();
            message.header.address_family = AddressFamily::Inet;
            message.header.destination_prefix_length = 32;
            message.header.kind = RouteType::Unicast;
            let to = RouteAttribute::Destination(RouteAddress::Inet([10, 1, 0, 10].into()));
            message.attributes = vec![to, RouteAttribute::Table(1000)];
            message.attributes.extend(attributes);
            parsed([RouteNetlinkMessage::NewRoute(message)])
        };
        let leads = |hops: &[(u32, Option<&str>)]| {
            let hop = |(index, gateway): &(u32, Option<&str>)| {
                let gateway = gateway.map(|gateway| gateway.parse().unwrap());
                Hop { index: *index, gateway }
            };
            let route = Route {
                table: 1000,
                is_unicast: true,
                destination: Some([10, 1, 0, 10].into()),
                prefix: 32,
                tos: 0,
                priority: 0,
                is_advertised: false,
                hops: hops.iter().map(hop).collect(),
            };
            vec![Message::Route { route, added: true }]
        };
        let oif = RouteAttribute::Oif(9);
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet([10, 0, 0, 1].into()));
        let via = RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()));
        assert_eq!(route_of(vec![oif.clone()]), leads(&[(9, None)]));
        let by_gateway = leads(&[(9, Some("10.0.0.1"))]);
        assert_eq!(route_of(vec![oif.clone(), gateway.clone()]), by_gateway);
        assert_eq!(route_of(vec![oif, via]), leads(&[(9, Some("fe80::1"))]));

        let hop = |interface_index, attributes| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = interface_index;
            hop.attributes = attributes;
            hop
        };
        let paths = RouteAttribute::MultiPath(vec![hop(3, vec![gateway]), hop(4, vec![])]);
        assert_eq!(route_of(vec![paths]), leads(&[(3, Some("10.0.0.1")), (4, None)]));
    }

    #[test]
    fn a_message_that_cannot_be_read_takes_no_other_with_it() {
        /// `IFLA_MTU`, which is four bytes long as long as no kernel changes that.
        const MTU: u16 = 4;
        use RouteNetlinkMessage::{DelLink, NewLink};
        let gone = || DelLink(link(AddressFamily::Unspec, vec![]));
        let odd = LinkAttribute::Other(DefaultNla::new(MTU, vec![0; 3]));
        let odd = NewLink(link(AddressFamily::Unspec, vec![odd]));
        assert_eq!(parsed([gone(), odd, gone()]), vec![Message::LinkGone { index: 7 }; 2]);
    }

    #[test]
    fn several_messages_and_an_end_come_in_one_datagram() {
        let gone = || RouteNetlinkMessage::DelLink(link(AddressFamily::Unspec, vec![]));
        let mut bytes = datagram([gone(), gone()]);
        let done = NetlinkPayload::Done(DoneMessage::default());
        bytes.extend(bytes_of(NetlinkMessage::new(NetlinkHeader::default(), done)));
        let mut messages = Vec::new();
        assert!(parse(&bytes, &mut messages).unwrap());
        assert_eq!(messages, vec![Message::LinkGone { index: 7 }; 2]);
    }

    #[test]
    fn a_refusal_is_an_error_at_the_start_of_a_listing_and_at_its_end() {
        let mut refusal = ErrorMessage::default();
        refusal.code = NonZero::new(-libc::EPERM);
        let mut done = DoneMessage::default();
        done.code = -libc::EPERM;
        for payload in [NetlinkPayload::Error(refusal), NetlinkPayload::Done(done)] {
            let bytes = bytes_of(NetlinkMessage::new(NetlinkHeader::default(), payload));
            let error = parse(&bytes, &mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        }
    }

    #[test]
    fn this_kernel_is_read() {
        let is_lo = |message: &Message| match message {
            Message::Link { link, .. } => link.name == "lo",
            _ => false,
        };
        assert!(list().unwrap().iter().any(is_lo));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes, &mut Vec::new());
            for kind in [libc::RTM_NEWLINK, libc::RTM_NEWADDR, libc::RTM_NEWROUTE] {
                let length = u32::try_from(16 + bytes.len()).unwrap();
                let header = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10]].concat();
                let _ = parse(&[&header, &bytes[..]].concat(), &mut Vec::new());
            }
        }
    }
}
