//! What is dropped though policies allow it: a pod's first attempts, and everything that comes while
//! the table of connections is full.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;
use socket2::Socket;
use whydrop_tests::{
    kube::wait::{Look, until},
    play::hint::line,
    world::{
        CONNECT_WAIT, ENFORCED_WAIT, Pod, World as _,
        fleet::Settings,
        lab::{packet, server::raw},
    },
};

use crate::{NEIGHBOUR, SERVER, agents, apply, record, stage, wait_for};

const NEWCOMER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: newcomer, namespace: frontend, labels: {app: newcomer}}
spec: {nodeName: worker-1, containers: [{name: c, image: example.com/c}]}
status: {phase: Running, podIP: 10.244.1.50, podIPs: [{ip: 10.244.1.50}]}
";

const ALLOW_WEB: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-backend, namespace: frontend}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: backend}}}]}]
";

/// What the application of the newcomer waits: two SYNs.
const IMPATIENT_WAIT: Duration = Duration::from_millis(1200);

#[test]
fn a_pod_that_is_not_let_in_yet_is_reported_as_that_and_how_long_it_took() {
    let mut stage = stage(Settings::default());
    let [mut agent, _] = agents(&stage);
    // Felix is slow.
    stage.world.host("worker-1").expect("a node").signal_felix(Signal::SIGSTOP).expect("held");
    stage.world.apply(NEWCOMER).expect("a pod");
    let connects = |patience| {
        let tried = stage.world.connect("frontend/newcomer", SERVER, patience);
        tried.expect("a client").is_ok()
    };
    assert!(!connects(IMPATIENT_WAIT), "Felix drops what comes from an interface it does not know");
    stage.world.host("worker-1").expect("a node").signal_felix(Signal::SIGCONT).expect("goes on");
    until("newcomer let in", ENFORCED_WAIT, || {
        Ok(if connects(IMPATIENT_WAIT) { Look::Seen(()) } else { Look::NotYet(String::new()) })
    })
    .expect("Felix lets it in");
    let drop = record(&mut agent, "drop", |record| record["kind"] == "drop");
    assert_eq!(drop["cause"]["class"], "not-policy", "{drop}");
    assert_eq!(drop["cause"]["situation"], "start", "{drop}");
    assert_eq!(drop["cause"]["policy"], Value::Null, "{drop}");
    let line = line(&drop).expect("a line");
    for part in ["its CNI had not programmed it yet", "; works since "] {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
}

#[test]
fn a_full_table_of_connections_is_no_matter_of_policy() {
    let stage = stage(Settings::default());
    let [_, mut agent] = agents(&stage);
    let pods = ["backend/pod-b", "backend/pod-c"].map(|pod| stage.world.pod(pod).expect("a pod"));
    let ends = pods.each_ref().map(End::new);
    fill(&ends);
    let connected = stage.world.connect("backend/pod-b", NEIGHBOUR, CONNECT_WAIT);
    connected.expect("a client").expect_err("there is no room");
    let is_it = |record: &Value| {
        record["kind"] == "drop" && record["flow"]["destination"]["port"] == NEIGHBOUR.port()
    };
    let drop = record(&mut agent, "drop", is_it);
    assert_eq!(drop["cause"]["class"], "not-policy", "{drop}\n{}", agent.said());
    let text = drop["cause"]["text"].as_str().unwrap_or_default();
    assert!(text.contains("the kernel's table of connections was full ("), "{drop}");
}

#[test]
fn what_conntrack_finds_invalid_is_no_matter_of_policy() {
    let stage = stage(Settings::default());
    let [mut agent, _] = agents(&stage);
    // Policies allow it, and Felix drops what has a wrong checksum before it asks them.
    apply(&stage.world, ALLOW_WEB);
    wait_for(&stage, true);
    let client = End::new(&stage.world.pod("frontend/pod-a").expect("a pod"));
    let SocketAddr::V4(server) = SERVER else { panic!("{SERVER}") };
    let to = (*server.ip(), server.port());
    let mut syn = packet::syn((client.address, 40_000), to, 7);
    let checksum = syn.len() - 4;
    syn[checksum] ^= 0xff;
    client.socket.send_to(&syn, &SERVER.into()).expect("sent");
    let drop = record(&mut agent, "drop", |record| record["kind"] == "drop");
    assert_eq!(drop["cause"]["class"], "not-policy", "{drop}\n{}", agent.said());
    let text = drop["cause"]["text"].as_str().unwrap_or_default();
    assert!(text.contains("conntrack found it invalid"), "{drop}");
    assert!(text.contains("policies allow it"), "{drop}");
}

/// One end of many connections of which only the packets exist.
struct End {
    socket: Socket,
    address: Ipv4Addr,
}

impl End {
    fn new(pod: &Pod) -> Self {
        let IpAddr::V4(address) = pod.addresses[0] else { panic!("{:?}", pod.addresses) };
        // The kernel knows nothing of them, and would say so.
        let silence = "table ip quiet { chain out { type filter hook output priority 0; \
                       tcp flags rst drop; }; }\n";
        pod.network.nft(silence).expect("rules");
        let socket = pod.enter(|| raw(packet::WHOLE)).expect("a raw socket");
        Self { socket, address }
    }

    fn send(&self, to: &Self, ports: [u16; 2], numbers: [u32; 2], flags: u8) {
        let [source, destination] = [(self.address, ports[0]), (to.address, ports[1])];
        let packet = packet::tcp(source, destination, numbers, flags);
        // One that is lost is one entry less, of which there are more than enough.
        let _ = self.socket.send_to(&packet, &SocketAddr::from((to.address, 0)).into());
    }
}

/// Establishes connections until the kernel of the node between has no room for another: those that
/// nobody has answered it would give up for a new one.
fn fill([client, server]: &[End; 2]) {
    /// Of its ports each, so that a number is a connection.
    const PORTS: u32 = 60_000;

    let max = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").expect("conntrack");
    let max: u32 = max.trim().parse().expect("a number");
    for number in 0..max + max / 20 {
        let source = u16::try_from(1024 + number % PORTS).expect("a port");
        let destination = u16::try_from(20_000 + number / PORTS).expect("a port");
        client.send(server, [source, destination], [1, 0], packet::SYN);
        server.send(client, [destination, source], [1, 2], packet::SYN | packet::ACK);
        client.send(server, [source, destination], [2, 2], packet::ACK);
    }
}
