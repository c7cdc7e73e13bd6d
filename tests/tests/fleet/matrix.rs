//! The differential: clusters from seeds with policies of Kubernetes' and of Calico's, every pair of
//! pods, what Felix does of it and what whydrop says of that.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use serde_json::{Value, json};
use whydrop_tests::{
    kube::{
        calico::Backend,
        wait::{Look, until},
    },
    play::differential::{self, Case, Features, Listening, Tally, play_case, seeds},
    world::{
        Pod, World as _,
        fleet::{Fleet, Settings},
        manifest::documents,
    },
};

pub(crate) const FEATURES: Features = Features { end_port: true, egress_names: true, calico: true };
/// How long Felix may take to see what the API server has, and write it.
pub(crate) const ENFORCED_WAIT: Duration = Duration::from_secs(30);
/// How long a canary waits for an answer before it looks again.
pub(crate) const CANARY_WAIT: Duration = Duration::from_millis(200);

/// The node, and two pods by which it is seen how far Felix is.
const MANIFESTS: &str = "
apiVersion: v1
kind: Node
metadata: {name: node}
spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.71.2}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: canary}
---
apiVersion: v1
kind: Pod
metadata: {name: singer, namespace: canary, labels: {part: singer}}
spec: {nodeName: node, containers: [{name: c, image: example.com/c}]}
status: {phase: Running, podIP: 'SINGER', podIPs: [{ip: 'SINGER'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: listener, namespace: canary, labels: {part: listener}}
spec: {nodeName: node, containers: [{name: c, image: example.com/c}]}
status: {phase: Running, podIP: 'LISTENER', podIPs: [{ip: 'LISTENER'}]}
";

/// The family of the pods' addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// The pod address of this number.
    fn address(self, number: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 244, 1, number).into(),
            Self::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, number.into()).into(),
        }
    }
}

/// One port for each kind of policy, which is watched by itself, and each seed.
pub(crate) const KINDS: [&str; 3] = ["kubernetes", "calico", "global"];

#[test]
fn every_drop_of_felix_is_reported_and_none_invented() {
    play(Backend::Nft, Family::V4, 1..=4);
}

#[test]
fn every_drop_of_felix_with_the_older_iptables_is_reported_and_none_invented() {
    play(Backend::Legacy, Family::V4, 5..=7);
}

#[test]
fn every_drop_of_felix_over_ipv6_is_reported_and_none_invented() {
    play(Backend::Nft, Family::V6, 8..=10);
}

#[expect(clippy::print_stdout, reason = "what was played, for those who ask to see it")]
fn play(backend: Backend, family: Family, otherwise: std::ops::RangeInclusive<u64>) {
    let settings = Settings { backend, ipv6: family == Family::V6, ..Settings::default() };
    let [singer, listener] = [2, 3].map(|number| family.address(number).to_string());
    let manifests = MANIFESTS.replace("SINGER", &singer).replace("LISTENER", &listener);
    let mut fleet = Fleet::start(settings, &manifests).expect("a fleet");
    let seeds = seeds(otherwise).expect("WHYDROP_SEEDS");
    let mut tally = Tally::default();
    for (number, seed) in seeds.clone().enumerate() {
        let number = u16::try_from(number).expect("a number of seeds");
        tally += play_seed(&mut fleet, family, number, &Case::generate(seed, FEATURES));
    }
    let Tally { probes, dropped } = tally;
    println!(
        "{backend:?} {family:?}: seeds {seeds:?}, {probes} probes, {dropped} dropped and reported"
    );
    assert!(dropped > 0 && dropped < probes, "nothing to compare: {tally:?}");
}

fn play_seed(fleet: &mut Fleet, family: Family, number: u16, case: &Case) -> Tally {
    let addresses: Vec<IpAddr> =
        (8..).map(|number| family.address(number)).take(case.pods.len()).collect();
    let keys: Vec<String> =
        case.pods.iter().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
    fleet.apply(&documents(&case.namespaces)).expect("applied");
    fleet.apply(&documents(&case.running(&addresses))).expect("pods");
    let pods: Vec<Pod> = keys.iter().map(|key| fleet.pod(key).expect("a pod")).collect();
    let _listeners: Vec<Listening> =
        pods.iter().map(|pod| pod.enter(differential::listen).expect("it listens")).collect();
    for key in &keys {
        // No policy selects the singer.
        wait_answered(fleet, key, fleet.address("canary/singer", 1).expect("an address"));
    }
    let canaries: Vec<Value> = KINDS.iter().map(|kind| canary(kind, number)).collect();
    fleet.apply(&documents(case.policies.iter().chain(&canaries))).expect("applied");
    for kind in KINDS {
        let at = fleet.address("canary/listener", port(kind, number)).expect("an address");
        wait_answered(fleet, "canary/singer", at);
    }
    let agent = fleet.agent("node").expect("an agent");
    let tally = play_case(case, &pods, agent);
    for policy in &case.policies {
        fleet.delete(policy).expect("deleted");
    }
    for key in &keys {
        fleet.remove(key).expect("removed");
    }
    tally.unwrap_or_else(|difference| panic!("{difference:#}"))
}

/// Waits until an attempt gets any answer: with no listener that is a refusal.
pub(crate) fn wait_answered(fleet: &Fleet, from: &str, to: SocketAddr) {
    until(&format!("answer of {to} to {from}"), ENFORCED_WAIT, || {
        Ok(match fleet.connect(from, to, CANARY_WAIT)? {
            Err(ErrorKind::TimedOut) => Look::NotYet("no answer".into()),
            _ => Look::Seen(()),
        })
    })
    .expect("Felix follows");
}

/// The port on which the listener is open once Felix has come to this seed's canary of a kind.
pub(crate) fn port(kind: &str, number: u16) -> u16 {
    let of_kind = KINDS.iter().position(|other| *other == kind).expect("a kind");
    10_000 * (u16::try_from(of_kind).expect("a kind") + 1) + number
}

/// A policy that opens one port of the listener's, which is closed else.
pub(crate) fn canary(kind: &str, number: u16) -> Value {
    let port = port(kind, number);
    let rule = json!({
        "action": "Allow", "protocol": "TCP", "destination": { "ports": [port] },
    });
    let spec = json!({
        "selector": "part == 'listener'", "types": ["Ingress"], "ingress": [rule],
    });
    match kind {
        "kubernetes" => json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": { "name": "canary", "namespace": "canary" },
            "spec": {
                "podSelector": { "matchLabels": { "part": "listener" } },
                "ingress": [{ "ports": [{ "port": port }] }],
            },
        }),
        "calico" => json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "NetworkPolicy",
            "metadata": { "name": "default.canary", "namespace": "canary" },
            "spec": spec,
        }),
        _ => json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "GlobalNetworkPolicy",
            "metadata": { "name": "default.canary" },
            "spec": spec,
        }),
    }
}
