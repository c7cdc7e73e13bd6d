//! The probe on a node with real pods, real sockets and real filters. Needs root, and fails without.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cilium;
mod clsact;
mod kept;
mod kernel;
mod others;
mod watch;

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use watch::{DEADLINE, Watch};
use whydrop::probe::{Attach, Change, Totals};
use whydrop_core::{
    flow::{Flow, Protocol},
    observation::{Fact, IN_POD, Observation, Rejection},
};
use whydrop_tests::world::{
    lab::{packet, server::raw},
    namespace::Namespace,
    netns::{Node, Numbered},
};

/// How long a client waits in vain: past the first retransmission of a SYN, after a second.
const IN_VAIN: Duration = Duration::from_millis(1500);

/// A listener in a pod that answers every connection with its name, until it is dropped.
struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(pod: &Numbered, ip: impl Into<IpAddr> + Send) -> Self {
        let listener = pod
            .network
            .enter(|| Ok(TcpListener::bind(SocketAddr::new(ip.into(), 0))?))
            .expect("a listener");
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                if theirs.load(Ordering::Relaxed) {
                    return;
                }
                let _ = stream.write_all(b"hello");
            }
        });
        Self { address, stop, thread: Some(thread) }
    }

    /// Lets the accepting thread see that it is over, by a connection from its own pod.
    fn stop(mut self, pod: &Numbered) {
        self.stop.store(true, Ordering::Relaxed);
        let address = self.address;
        let _ = pod.network.enter(|| Ok(TcpStream::connect(address)?));
        self.thread.take().map(JoinHandle::join);
    }
}

/// Connects from a pod, and reads what the server says.
fn connect(pod: &Numbered, to: SocketAddr, wait: Duration) -> std::io::Result<String> {
    pod.network
        .enter(|| {
            Ok(TcpStream::connect_timeout(&to, wait).and_then(|mut stream| {
                let mut text = String::new();
                stream.read_to_string(&mut text)?;
                Ok(text)
            }))
        })
        .expect("enter the pod")
}

fn address(pod: &Numbered, port: u16) -> SocketAddr {
    SocketAddr::new(pod.ip.into(), port)
}

fn drops(reason: &str) -> impl Fn(&Observation) -> bool {
    move |seen| matches!(&seen.fact, Fact::KernelDrop { reason: found, .. } if &*found.name == reason)
}

#[track_caller]
fn assert_exact(totals: &Totals) {
    for (kind, observed) in totals.observed.iter().enumerate() {
        assert_eq!(*observed, totals.reported[kind] + totals.lost[kind], "{totals:#?}");
    }
}

#[test]
fn a_drop_by_nftables_is_reported_with_where_and_why_it_happened() {
    let node = Node::new(2).unwrap();
    node.nft(
        "table ip t { chain c { type filter hook forward priority 0
         tcp dport 8080 drop
         }
         }",
    )
    .unwrap();
    let watch = Watch::start(&node, Attach::Auto);
    assert!(connect(node.nth(0), address(node.nth(1), 8080), IN_VAIN).is_err());

    let seen = watch.observed("the drop", drops(kernel::of_filters()));
    // Before Linux 6.9 nftables leaves the freeing to the hook it is called from.
    assert!(kernel::is_at(&seen, &["nft_do_chain", "nf_hook_slow"]), "{seen:?}");
    assert_eq!(
        seen.flow,
        Flow {
            source: node.nth(0).ip.into(),
            destination: node.nth(1).ip.into(),
            port: 8080,
            protocol: Protocol::Tcp,
        }
    );
    assert_eq!((seen.packets, seen.dialled, seen.delivered), (1, None, false));
    let entered = seen.entered.expect("the pod's veth");
    assert!(matches!(seen.fact, Fact::KernelDrop { interface, .. } if interface == entered));
    assert!(seen.first <= seen.at);

    let again = watch.observed("the retransmission", |seen| seen.fact == Fact::Retransmitted);
    assert_eq!(again.attempt, seen.attempt);
    let failed = watch.observed("the end", |seen| seen.fact == Fact::Failed { errno: 0 });
    assert_eq!(failed.attempt, seen.attempt);
    assert_exact(&watch.settled().totals);
}

#[test]
fn a_drop_by_the_older_iptables_looks_alike_at_another_place() {
    let node = Node::new(2).unwrap();
    let rules = "*filter\n-A FORWARD -p tcp --dport 8080 -j DROP\nCOMMIT\n";
    node.namespace().iptables(rules).unwrap();
    let watch = Watch::start(&node, Attach::Auto);
    assert!(connect(node.nth(0), address(node.nth(1), 8080), IN_VAIN).is_err());
    let seen = watch.observed("the drop", drops(kernel::of_filters()));
    assert!(kernel::is_at(&seen, &["nf_hook_slow"]), "{seen:?}");
}

#[test]
fn a_drop_of_ipv6_is_reported_by_its_own_addresses() {
    let node = Node::new(2).unwrap();
    node.nft(
        "table ip6 t { chain c { type filter hook forward priority 0
         tcp dport 8080 drop
         }
         }",
    )
    .unwrap();
    let watch = Watch::start(&node, Attach::Auto);
    let to = SocketAddr::new(node.nth(1).ip6.into(), 8080);
    assert!(connect(node.nth(0), to, IN_VAIN).is_err());
    let seen = watch.observed("the drop", drops(kernel::of_filters()));
    assert_eq!(seen.flow.source, IpAddr::from(node.nth(0).ip6));
    assert_eq!(seen.flow.destination, to.ip());
    assert!(seen.entered.is_some());
}

#[test]
fn a_reject_is_reported_as_rejection_and_as_drop_of_one_attempt() {
    let node = Node::new(2).unwrap();
    node.nft(
        "table ip t { chain c { type filter hook forward priority 0
         tcp dport 8080 reject with icmp type admin-prohibited
         tcp dport 8081 reject with tcp reset
         }
         }",
    )
    .unwrap();
    let watch = Watch::start(&node, Attach::Auto);
    for (port, rejection) in
        [(8080, Rejection::Icmp { v6: false, kind: 3, code: 13 }), (8081, Rejection::Reset)]
    {
        assert!(connect(node.nth(0), address(node.nth(1), port), IN_VAIN).is_err());
        let rejected = watch.observed("the rejection", |seen| {
            seen.flow.port == port && seen.fact == Fact::Rejected(rejection)
        });
        let dropped = watch.observed("the drop", |seen| {
            seen.flow.port == port && drops(kernel::of_filters())(seen)
        });
        assert_eq!(rejected.attempt, dropped.attempt);
        assert!(rejected.entered.is_some() && dropped.entered == rejected.entered);
    }
}

#[test]
fn a_closed_port_is_a_reset_after_delivery() {
    let node = Node::new(2).unwrap();
    let watch = Watch::start(&node, Attach::Auto);
    assert!(connect(node.nth(0), address(node.nth(1), 81), IN_VAIN).is_err());
    let seen = watch.observed("the reset", |seen| seen.fact == Fact::Rejected(Rejection::Reset));
    assert!(seen.delivered);
    // The socket's end says no more than the reset has.
    let seen = watch.settled();
    assert!(!seen.observations.iter().any(|seen| matches!(seen.fact, Fact::Failed { .. })));
}

#[test]
fn a_drop_after_translation_is_joined_with_what_was_dialled() {
    let node = Node::new(2).unwrap();
    let service: SocketAddr = "10.96.0.7:80".parse().unwrap();
    node.nft(&format!(
        "table ip t {{ chain n {{ type nat hook prerouting priority -100
         ip daddr {} tcp dport 80 dnat to {}:8080
         }}
         chain c {{ type filter hook forward priority 0
         tcp dport 8080 drop
         }}
         }}",
        service.ip(),
        node.nth(1).ip,
    ))
    .unwrap();
    let watch = Watch::start(&node, Attach::Auto);
    assert!(connect(node.nth(0), service, IN_VAIN).is_err());
    let seen = watch.observed("the drop", drops(kernel::of_filters()));
    assert_eq!((seen.flow.destination, seen.flow.port), (node.nth(1).ip.into(), 8080));
    assert_eq!(seen.dialled, Some((service.ip(), service.port())));
}

#[test]
fn a_verdict_of_a_queue_drops_without_a_reason() {
    let node = Node::new(2).unwrap();
    let rules = "*filter\n-A FORWARD -p tcp --dport 8080 -j NFQUEUE --queue-num 0\nCOMMIT\n";
    node.namespace().iptables(rules).unwrap();
    let mut queue = node
        .namespace()
        .enter(|| {
            let mut queue = nfq::Queue::open()?;
            queue.bind(0)?;
            Ok(queue)
        })
        .unwrap();
    let watch = Watch::start(&node, Attach::Auto);
    std::thread::scope(|scope| {
        scope.spawn(|| connect(node.nth(0), address(node.nth(1), 8080), IN_VAIN));
        let mut message = queue.recv().expect("a packet");
        message.set_verdict(nfq::Verdict::Drop);
        queue.verdict(message).expect("a verdict");
        let seen = watch.observed("the drop", drops("NOT_SPECIFIED"));
        // The latter until Linux 6.9 or so.
        assert!(kernel::is_at(&seen, &["nfqnl_reinject", "nf_reinject"]), "{seen:?}");
        assert!(seen.entered.is_some());
    });
}

#[test]
fn dns_queries_are_attempts_too() {
    let node = Node::new(2).unwrap();
    node.nft(
        "table ip t { chain c { type filter hook forward priority 0
         udp dport 53 drop
         }
         }",
    )
    .unwrap();
    let watch = Watch::start(&node, Attach::Auto);
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";
    node.nth(0)
        .network
        .enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            for _ in 0..2 {
                socket.send_to(query, address(node.nth(1), 53))?;
            }
            Ok(())
        })
        .unwrap();
    // The second may be counted only, and the count be read before the first.
    let is_first = |seen: &Observation| drops(kernel::of_filters())(seen) && seen.attempt.is_some();
    let seen = watch.observed("the drop", is_first);
    assert_eq!((seen.flow.protocol, seen.flow.port), (Protocol::Udp, 53));
    assert_eq!(seen.attempt.unwrap().sequence, 0x1234);
    watch.observed("the query again", |seen| seen.fact == Fact::Retransmitted);
}

#[test]
fn sctp_is_watched_without_the_kernel_speaking_it() {
    let node = Node::new(2).unwrap();
    node.nft(
        "table ip t { chain c { type filter hook forward priority 0
         meta l4proto 132 drop
         }
         }",
    )
    .unwrap();
    let watch = Watch::start(&node, Attach::Auto);
    node.nth(0)
        .network
        .enter(|| {
            let init = packet::init(40_000, 9_999, 0xfeed);
            raw(packet::SCTP)?.send_to(&init, &address(node.nth(1), 0).into())?;
            Ok(())
        })
        .unwrap();
    let seen = watch.observed("the drop", drops(kernel::of_filters()));
    assert_eq!((seen.flow.protocol, seen.flow.port), (Protocol::Sctp, 9_999));
    assert_eq!(seen.attempt.unwrap().sequence, 0xfeed);
}

#[test]
fn a_success_is_reported_once_and_remembered() {
    let node = Node::new(2).unwrap();
    let server = Server::start(node.nth(1), node.nth(1).ip);
    let watch = Watch::start(&node, Attach::Auto);
    for _ in 0..3 {
        assert_eq!(connect(node.nth(0), server.address, DEADLINE).unwrap(), "hello");
    }
    let first = watch.observed("the first answer", |seen| seen.fact == Fact::AnsweredFirst);
    assert_eq!(first.flow.port, server.address.port());
    let seen = watch.settled();
    assert_eq!(seen.observations.len(), 1, "{:#?}", seen.observations);
    assert_eq!(seen.successes, [first.flow]);
    server.stop(node.nth(1));
}

#[test]
fn an_answer_after_a_retransmission_is_late() {
    let node = Node::new(2).unwrap();
    let server = Server::start(node.nth(1), node.nth(1).ip);
    let port = server.address.port();
    node.nft(&format!(
        "table ip t {{ chain c {{ type filter hook forward priority 0
         tcp sport {port} drop
         }}
         }}"
    ))
    .unwrap();
    let watch = Watch::start(&node, Attach::Auto);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| connect(node.nth(0), server.address, DEADLINE));
        let again = watch.observed("a retransmission", |seen| seen.fact == Fact::Retransmitted);
        assert!(again.delivered);
        node.nft("flush ruleset\n").unwrap();
        let late = watch.observed("the answer", |seen| seen.fact == Fact::AnsweredLate);
        assert_eq!(late.attempt, again.attempt);
        assert_eq!(client.join().unwrap().unwrap(), "hello");
    });
    server.stop(node.nth(1));
}

#[test]
fn a_connect_that_times_out_has_failed() {
    let node = Node::new(2).unwrap();
    let pod = node.nth(0);
    pod.network.set(&[("ipv4/tcp_syn_retries", "1")]).unwrap();
    // Nobody has the address, and nobody says so.
    node.namespace().ip("route add blackhole 10.8.0.0/16\n").unwrap();
    let watch = Watch::start(&node, Attach::Auto);
    let error = connect(pod, "10.8.0.1:80".parse().unwrap(), DEADLINE).unwrap_err();
    let failed = watch.observed("the end", |seen| matches!(seen.fact, Fact::Failed { .. }));
    assert_eq!(failed.fact, Fact::Failed { errno: error.raw_os_error().unwrap() });
}

#[test]
fn a_full_accept_queue_shows_as_delivered_and_unanswered() {
    let node = Node::new(2).unwrap();
    let pod = node.nth(1);
    let listener = pod
        .network
        .enter(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(pod.ip.into(), 0).into())?;
            socket.listen(0)?;
            Ok(TcpListener::from(socket))
        })
        .unwrap();
    let to = listener.local_addr().unwrap();
    let watch = Watch::start(&node, Attach::Auto);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                node.nth(0)
                    .network
                    .enter(|| {
                        // Held, so that the queue stays full.
                        let stream = TcpStream::connect_timeout(&to, IN_VAIN);
                        watch.observed("an attempt again", |seen| {
                            seen.fact == Fact::Retransmitted && seen.delivered
                        });
                        drop(stream);
                        Ok(())
                    })
                    .unwrap();
            });
        }
    });
}

#[test]
fn drops_inside_a_pod_are_reported_if_they_were_handed_to_it() {
    let node = Node::new(2).unwrap();
    let (client, server) = (node.nth(0), node.nth(1));
    let rule = |hook, port| {
        format!(
            "table ip t{port} {{ chain c {{ type filter hook {hook} priority 0
             tcp dport {port} drop
             }}
             }}"
        )
    };
    client.network.nft(&rule("output", 8080)).unwrap();
    server.network.nft(&rule("input", 8081)).unwrap();
    let watch = Watch::start(&node, Attach::Auto);
    for port in [8080, 8081] {
        assert!(connect(client, address(server, port), Duration::from_millis(100)).is_err());
    }
    let seen = watch.observed("the drop", drops(kernel::of_filters()));
    assert_eq!((seen.flow.port, seen.delivered), (8081, true));
    assert!(matches!(seen.fact, Fact::KernelDrop { interface: IN_POD, .. }));
    // What never left the pod is the pod's affair.
    assert!(watch.settled().observations.iter().all(|seen| seen.flow.port == 8081));
}

#[test]
fn the_host_s_own_attempts_are_reported_as_well() {
    let node = Node::new(1).unwrap();
    node.nft(
        "table ip t { chain c { type filter hook output priority 0
         tcp dport 8080 drop
         }
         }",
    )
    .unwrap();
    let watch = Watch::start(&node, Attach::Auto);
    let to = address(node.nth(0), 8080);
    let refused = node
        .namespace()
        .enter(|| Ok(TcpStream::connect_timeout(&to, Duration::from_millis(100)).is_err()));
    assert!(refused.unwrap());
    let seen = watch.observed("the drop", drops(kernel::of_filters()));
    assert_eq!((seen.entered, seen.delivered, seen.flow.port), (None, false, 8080));
}

#[test]
fn veths_are_followed_as_pods_come_and_go() {
    for attach in [Attach::Auto, Attach::Clsact] {
        let mut node = Node::new(1).unwrap();
        let watch = Watch::start(&node, attach);
        watch.wait("the first pod", |seen| (seen.attached == ["veth0"]).then_some(()));
        let ip = IpAddr::from(node.add().unwrap().ip);
        watch.wait("the second pod", |seen| (seen.attached.len() == 2).then_some(()));
        watch.wait("its route", |seen| {
            seen.addresses
                .iter()
                .any(|(name, addresses)| name == "veth1" && addresses.contains(&ip))
                .then_some(())
        });
        let server = Server::start(node.nth(0), node.nth(0).ip);
        connect(node.nth(1), server.address, DEADLINE).unwrap();
        watch.observed("its success", |seen| seen.fact == Fact::AnsweredFirst);
        server.stop(node.nth(0));
        node.remove();
        watch.wait("its end", |seen| {
            seen.changes
                .iter()
                .any(|change| matches!(change, Change::Detached { name, .. } if name == "veth1"))
                .then_some(())
        });
        assert_eq!(watch.settled().attached, ["veth0"]);
    }
}

#[test]
fn uplinks_and_pairs_of_the_host_are_left_alone() {
    let node = Node::new(1).unwrap();
    let other = Namespace::create(1_000_000, "uplink").unwrap();
    node.namespace()
        .ip(&format!(
            "link add up0 type veth peer name eth0 netns {}\n\
             addr add 192.168.7.1/24 dev up0\n\
             link set up0 up\n\
             link add own0 type veth peer name own1\n\
             link set own0 up\n\
             link set own1 up\n",
            other.name()
        ))
        .unwrap();
    other.ip("link set eth0 up\naddr add 192.168.7.2/24 dev eth0\n").unwrap();
    node.namespace().ip("route add default via 192.168.7.2\n").unwrap();
    let watch = Watch::start(&node, Attach::Auto);
    watch.wait("the pod alone", |seen| (seen.attached == ["veth0"]).then_some(()));
    // Without a gateway behind it, it might be a pod's.
    node.namespace().ip("route del default\n").unwrap();
    watch.wait("the uplink too", |seen| (seen.attached.len() == 2).then_some(()));
    node.namespace().ip("route add default via 192.168.7.2\n").unwrap();
    watch.wait("the pod alone again", |seen| (seen.attached == ["veth0"]).then_some(()));
}

#[test]
fn filters_left_by_a_crash_are_replaced() {
    let node = Node::new(2).unwrap();
    let filters = || {
        let mut command = node.namespace().command("tc");
        let output = command.args(["filter", "show", "dev", "veth0", "ingress"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().matches("whydrop_from_pod").count()
    };
    Watch::start(&node, Attach::Clsact).crash();
    assert_eq!(filters(), 1);
    let watch = Watch::start(&node, Attach::Clsact);
    assert_eq!(filters(), 1);
    let server = Server::start(node.nth(1), node.nth(1).ip);
    connect(node.nth(0), server.address, DEADLINE).unwrap();
    watch.observed("a success", |seen| seen.fact == Fact::AnsweredFirst);
    server.stop(node.nth(1));
    drop(watch);
    assert_eq!(filters(), 0);
}

/// Sends SYNs from a pod, none of which a socket of its knows of.
fn flood(pod: &Numbered, count: u32, of: impl Fn(u32) -> (u16, SocketAddr, u32) + Sync) {
    pod.network
        .enter(|| {
            let socket = raw(packet::WHOLE)?;
            for number in 0..count {
                let (source_port, to, sequence) = of(number);
                let IpAddr::V4(destination) = to.ip() else { unreachable!("IPv4 only") };
                let syn = packet::syn((pod.ip, source_port), (destination, to.port()), sequence);
                socket.send_to(&syn, &SocketAddr::new(to.ip(), 0).into())?;
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn every_dropped_syn_of_a_flood_is_reported_or_counted_as_lost() {
    const COUNT: u32 = 50_000;
    let node = Node::new(2).unwrap();
    node.nft(
        "table ip t { chain c { type filter hook forward priority 0
         ip daddr 10.7.0.11 counter drop comment \"dropped\"
         }
         }",
    )
    .unwrap();
    let to = node.nth(1).ip;
    let port = |number: u32| u16::try_from(1024 + number % 60_000).unwrap();
    for attach in [Attach::Auto, Attach::Clsact] {
        let watch = Watch::start(&node, attach);
        let before = node.counted("dropped").unwrap();
        // 64 flows over and over; a source port for each; and a key of its own for each, which are
        // more than the counts hold.
        flood(node.nth(0), COUNT, |n| (port(n % 64), SocketAddr::new(to.into(), 80), n % 64));
        flood(node.nth(0), COUNT, |n| (port(n), SocketAddr::new(to.into(), 80), n));
        flood(node.nth(0), COUNT, |n| (port(n), SocketAddr::new(to.into(), port(n)), n));
        let dropped = node.counted("dropped").unwrap() - before;
        assert_eq!(dropped, u64::from(3 * COUNT));
        // A slow machine has yet to read some of it.
        let seen = watch.wait("all to be accounted for", |seen| {
            let Totals { reported, lost, skipped, .. } = &seen.totals;
            (reported[0] + lost[0] + skipped >= dropped).then(|| seen.clone())
        });
        let passed_on: u64 = seen
            .observations
            .iter()
            .filter(|seen| matches!(seen.fact, Fact::KernelDrop { .. }))
            .map(|seen| seen.packets)
            .sum();
        assert_eq!(passed_on, seen.totals.reported[0]);
        assert_eq!(
            passed_on + seen.totals.lost[0] + seen.totals.skipped,
            dropped,
            "{:#?}",
            seen.totals
        );
        assert_exact(&seen.totals);
        // The first two floods are of one key: a few events in some seconds, and counts.
        let of_web = seen.observations.iter().filter(|seen| seen.flow.port == 80).count();
        assert!(of_web < 1000, "{of_web} observations of one key");
    }
}
