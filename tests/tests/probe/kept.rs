//! What was attached is looked at again, and put back; and no pod makes its own veth an uplink.

use std::net::{Ipv6Addr, SocketAddrV6};

use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};
use whydrop::probe::{Attach, Change};
use whydrop_core::observation::Fact;
use whydrop_tests::{
    kube::wait::{Look, until},
    world::{
        namespace::{Network, checked},
        netns::{Node, Numbered},
    },
};

use crate::{
    Server, connect, others,
    watch::{DEADLINE, Seen, Watch},
};

/// How often our programs were put back on the first pod's veth, because of what.
fn restored(seen: &Seen, behind: bool) -> usize {
    let is_it = |change: &&Change| matches!(change, Change::Restored { name, was_behind } if name == "veth0" && *was_behind == behind);
    seen.changes.iter().filter(is_it).count()
}

/// A connect of the first pod's is seen from its veth on.
fn see(watch: &Watch, node: &Node, index: u32) {
    let server = Server::start(node.nth(1), node.nth(1).ip);
    connect(node.nth(0), server.address, DEADLINE).unwrap();
    let port = server.address.port();
    let answered = watch
        .observed("an answer", |seen| (&seen.fact, seen.flow.port) == (&Fact::AnsweredFirst, port));
    assert_eq!(answered.entered, Some(index));
    server.stop(node.nth(1));
}

#[test]
fn what_is_taken_away_at_tcx_is_put_back() {
    let node = Node::new(2).unwrap();
    let watch = Watch::start(&node, Attach::Tcx);
    let index = node.namespace().enter(|| Ok(if_nametoindex("veth0")?)).unwrap();
    for round in 1..=2 {
        let taken = node.namespace().enter(|| Ok(others::take_away(index)?)).unwrap();
        assert_eq!(taken, 2, "both of ours");
        watch.wait("ours again", |seen| (restored(seen, false) >= round).then_some(()));
    }
    see(&watch, &node, index);
}

#[test]
fn a_program_that_is_put_before_ours_at_tcx_comes_after_them_or_is_reported() {
    let node = Node::new(2).unwrap();
    let watch = Watch::start(&node, Attach::Tcx);
    let index = node.namespace().enter(|| Ok(if_nametoindex("veth0")?)).unwrap();
    let put = || node.namespace().enter(|| Ok(others::put_in_front(index)?)).unwrap();
    let mut theirs = vec![put()];
    watch.wait("ours in front", |seen| (restored(seen, true) == 1).then_some(()));
    see(&watch, &node, index);
    // One that will not leave it at that has its way in the end.
    let mut times = 1;
    loop {
        theirs.push(put());
        let is_behind = |change: &Change| matches!(change, Change::Behind { .. });
        let behind = watch.wait("ours in front, or a report", |seen| {
            let behind = seen.changes.iter().filter(|change| is_behind(change)).count();
            (behind > 0 || restored(seen, true) > times).then_some(behind)
        });
        if behind > 0 {
            break;
        }
        times += 1;
        assert!(times < 20, "there is a limit");
    }
}

#[test]
fn one_that_is_renamed_or_moves_away_and_back_is_watched() {
    let node = Node::new(2).unwrap();
    let watch = Watch::start(&node, Attach::Auto);
    watch.wait("both pods", |seen| (seen.attached.len() == 2).then_some(()));
    let ip = node.nth(0).ip;
    let up = |name: &str| {
        node.namespace().ip(&format!(
            "link set {name} up\n\
             addr replace 169.254.1.1/32 dev {name}\n\
             route replace {ip}/32 dev {name}\n"
        ))
    };
    node.namespace().ip("link set veth0 down\nlink set veth0 name renamed\n").unwrap();
    up("renamed").unwrap();
    let index = || node.namespace().enter(|| Ok(if_nametoindex("renamed")?)).unwrap();
    see(&watch, &node, index());

    let (home, away) = (node.namespace().name(), &node.nth(1).network);
    node.namespace().ip(&format!("link set renamed netns {}\n", away.name())).unwrap();
    watch.wait("one that is away", |seen| (seen.attached == ["veth1"]).then_some(()));
    away.ip(&format!("link set renamed netns {home}\n")).unwrap();
    up("renamed").unwrap();
    watch.wait("one that is back", |seen| (seen.attached.len() == 2).then_some(()));
    see(&watch, &node, index());
}

#[test]
fn what_a_pod_can_have_routed_does_not_make_its_veth_an_uplink() {
    let node = Node::new(1).unwrap();
    let watch = Watch::start(&node, Attach::Auto);
    let pod = node.nth(0);
    node.namespace().ip(&format!("route add 10.200.0.0/16 via {} dev veth0\n", pod.ip)).unwrap();
    advertise_as_router(&node, pod);
    let routes = until("a route by the pod", DEADLINE, || {
        let mut command = node.namespace().command("ip");
        let shown = checked(command.args(["-6", "route", "show", "default"]))?;
        let is_there = shown.contains("fe80::2 dev veth0 proto ra");
        Ok(if is_there { Look::Seen(()) } else { Look::NotYet(shown) })
    });
    routes.unwrap();
    let seen = watch.settled();
    assert_eq!(seen.attached, ["veth0"]);
    let lost = |change: &Change| matches!(change, Change::Uplink { .. } | Change::Detached { .. });
    assert!(!seen.changes.iter().any(lost), "{:?}", seen.changes);
}

/// Says from a pod that it is the way to everywhere, and which network is on its link (RFC 4861, 4.2 and
/// 4.6.2); the node listens, as with the kernel's defaults one does that does not forward.
fn advertise_as_router(node: &Node, pod: &Numbered) {
    const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    const PREFIX: [u8; 16] = [3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0];
    const NETWORK: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0);
    let set = |network: &Network, name: &str, value| network.set(&[(name, value)]).unwrap();
    set(node.namespace(), "ipv6/conf/veth0/accept_ra", "2");
    pod.network.ip("addr add fe80::2/64 dev eth0 nodad\n").unwrap();
    let sent = pod.network.enter(|| {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        let index = if_nametoindex("eth0")?;
        socket.set_multicast_hops_v6(255)?;
        socket.bind(&SocketAddrV6::new("fe80::2".parse()?, 0, 0, index).into())?;
        let all = SocketAddrV6::new("ff02::1".parse()?, 0, 0, index);
        let packet = [&ADVERTISEMENT[..], &PREFIX, &NETWORK.octets()].concat();
        Ok(socket.send_to(&packet, &all.into())?)
    });
    assert_eq!(sent.unwrap(), 48);
}
