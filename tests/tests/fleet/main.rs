//! Nodes on which a real Felix enforces what a real API server says. Needs root.

mod changes;
mod heal;
mod matrix;
mod moments;
mod service_matrix;
mod services;
mod soak;
mod tenants;
mod traps;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use whydrop_tests::{
    kube::{
        calico::Backend,
        wait::{Look, until},
    },
    play::{
        narration::Narrator,
        replicas::{self, Kind},
        stage::Stage,
    },
    world::{
        CONNECT_WAIT, ENFORCED_WAIT, World as _,
        agent::Agent,
        fleet::{Fleet, Settings, interface},
        namespace::checked,
    },
};

const TWO_NODES: &str = include_str!("../../fleet/two-nodes.yaml");

/// `backend/pod-b`, and `backend/pod-c` beside it, as the manifests have them.
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 244, 2, 20)), 8080);
const NEIGHBOUR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 244, 2, 30)), 8080);

/// How long a record may take after the last SYN.
const RECORD_WAIT: Duration = Duration::from_secs(20);

const DEFAULT_DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny, namespace: backend}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

const ALLOW_ALL: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-all, namespace: backend}
spec: {podSelector: {}, ingress: [{}]}
";

/// `frontend/pod-a` and its server `backend/pod-b`, each on a node of its own.
fn stage(settings: Settings) -> Stage<Fleet> {
    stage_of(settings, TWO_NODES)
}

/// The same, of other manifests with these pods.
fn stage_of(settings: Settings, manifests: &str) -> Stage<Fleet> {
    let mut stage = Stage::new(Fleet::start(settings, manifests).expect("a fleet"));
    for (pod, address) in [("backend/pod-b", SERVER), ("backend/pod-c", NEIGHBOUR)] {
        assert_eq!(stage.serve(pod, address.port()).expect("a server"), address);
    }
    stage
}

fn agents(stage: &Stage<Fleet>) -> [Agent; 2] {
    ["worker-1", "worker-2"].map(|node| stage.world.agent(node).expect("an agent"))
}

fn connects(stage: &Stage<Fleet>, to: SocketAddr) -> bool {
    stage.world.connects("frontend/pod-a", to).expect("a client")
}

/// Waits until the client connects to the server, or does not.
fn wait_for(stage: &Stage<Fleet>, connects: bool) {
    stage.world.wait_connects("frontend/pod-a", SERVER, connects).expect("policy in force");
}

fn apply(fleet: &Fleet, manifests: &str) {
    fleet.kubectl().and_then(|kubectl| kubectl.apply(manifests)).expect("applied");
}

/// The first record that is like this.
fn record(agent: &mut Agent, what: &str, like: impl Fn(&Value) -> bool) -> Value {
    record_while(agent, what, like, || {})
}

/// The same, while something goes on.
fn record_while(
    agent: &mut Agent,
    what: &str,
    like: impl Fn(&Value) -> bool,
    mut meanwhile: impl FnMut(),
) -> Value {
    let meanwhile = || {
        meanwhile();
        Ok(())
    };
    let found = agent.record_while(what, RECORD_WAIT, like, meanwhile);
    found.unwrap_or_else(|error| panic!("{error:#}"))
}

#[test]
fn two_nodes_report_one_drop_by_one_name() {
    let stage = stage(Settings { services: true, ..Settings::default() });
    let service: SocketAddr = "10.96.0.80:80".parse().expect("an address");
    let [mut source, mut destination] = agents(&stage);
    until("Service", ENFORCED_WAIT, || {
        Ok(if connects(&stage, service) { Look::Seen(()) } else { Look::NotYet(String::new()) })
    })
    .expect("kube-proxy leads there");
    apply(&stage.world, DEFAULT_DENY);
    until("policy in force", ENFORCED_WAIT, || {
        Ok(if connects(&stage, service) { Look::NotYet(String::new()) } else { Look::Seen(()) })
    })
    .expect("in force");
    let is_drop = |record: &Value| record["kind"] == "drop";
    let there = record(&mut destination, "drop", is_drop);
    let here = record(&mut source, "drop", is_drop);
    assert_eq!(there["evidence"]["level"], "kernel-drop", "{there}");
    assert_eq!(here["evidence"]["level"], "unanswered", "{here}");
    for field in ["id", "incident"] {
        assert_eq!(there[field], here[field], "{there}\n{here}");
    }
    assert_eq!((&there["primary"], &here["primary"]), (&true.into(), &false.into()));
    // The ClusterIP that the source's veth sees and the pod's address that the filter sees are one.
    for record in [&there, &here] {
        assert_eq!(record["cause"]["policy"]["name"], "default-deny", "{record}");
        assert_eq!(record["flow"]["destination"]["pod"], "pod-b", "{record}");
    }
    assert_eq!(here["flow"]["destination"]["service"]["name"], "pod-b", "{here}");
    assert_eq!((source.count("drop"), destination.count("drop")), (1, 1));
}

#[test]
fn what_the_kernel_does_and_what_policies_say_are_kept_apart() {
    let mut stage = stage(Settings { backend: Backend::Legacy, ..Settings::default() });
    let [_, mut agent] = agents(&stage);
    assert!(connects(&stage, SERVER));
    // Nobody enforces what comes from now on.
    stage.world.host_mut("worker-2").expect("a node").stop_felix().expect("stopped");
    apply(&stage.world, DEFAULT_DENY);
    let is_finding = |record: &Value| record["kind"] == "finding";
    let finding = record_while(&mut agent, "finding", is_finding, || {
        assert!(connects(&stage, SERVER), "nobody enforces it");
    });
    assert_eq!(finding["cause"]["class"], "not-enforced", "{finding}");
    assert_eq!(finding["cause"]["policy"]["name"], "default-deny", "{finding}");

    // Felix is back, and enforces it.
    stage.world.start_felix("worker-2").expect("it starts");
    wait_for(&stage, false);
    let denied = record(&mut agent, "drop", |record| record["kind"] == "drop");
    assert_eq!(denied["cause"]["class"], "default-deny", "{denied}");

    // Gone again while a policy comes that allows it: the kernel goes on dropping.
    stage.world.host_mut("worker-2").expect("a node").stop_felix().expect("stopped");
    apply(&stage.world, ALLOW_ALL);
    // Another port, for another flow: one that keeps being dropped is reported once a minute.
    assert!(!connects(&stage, SocketAddr::new(SERVER.ip(), 8081)), "the rule is still there");
    let late =
        record(&mut agent, "out-of-sync", |record| record["flow"]["destination"]["port"] == 8081);
    assert_eq!(late["cause"]["class"], "out-of-sync", "{late}");
    // Nobody denies it now; it is said whose denial that was, and until when.
    assert_eq!(late["cause"]["policy"]["name"], "default-deny", "{late}");
    assert_eq!(late["cause"]["changed"]["object"]["name"], "allow-all", "{late}");
    assert_eq!(late["remedy"], Value::Null, "{late}");
    assert_eq!(late["evidence"]["reason"], "NETFILTER_DROP", "{late}");

    stage.world.start_felix("worker-2").expect("it starts");
    wait_for(&stage, true);
    let (drops, findings) = (agent.count("drop"), agent.count("finding"));
    assert_eq!((drops, findings), (2, 1), "{}", agent.said());
}

#[test]
fn a_pod_that_is_not_programmed_is_reported_alone() {
    let mut stage = stage(Settings { backend: Backend::Legacy, ..Settings::default() });
    let [_, mut agent] = agents(&stage);
    apply(&stage.world, DEFAULT_DENY);
    wait_for(&stage, false);
    assert!(!connects(&stage, NEIGHBOUR));
    // What Felix wrote for one of the two pods is gone.
    let host = stage.world.host_mut("worker-2").expect("a node");
    host.stop_felix().expect("stopped");
    let chain = format!("cali-tw-{}", interface("backend/pod-c"));
    let accept = ["-I", &chain, "1", "-j", "ACCEPT"];
    checked(host.namespace.command("iptables-legacy").args(accept)).expect("a rule");
    let is_finding = |record: &Value| record["kind"] == "finding";
    let finding = record_while(&mut agent, "finding", is_finding, || {
        assert!(connects(&stage, NEIGHBOUR) && !connects(&stage, SERVER));
    });
    assert_eq!(finding["cause"]["class"], "not-enforced", "{finding}");
    assert_eq!(finding["flow"]["destination"]["pod"], "pod-c", "{finding}");
    assert_eq!(agent.count("finding"), 1, "{}", agent.said());
}

#[test]
fn a_drop_that_is_seen_before_its_policy_is_not_called_out_of_sync() {
    let stage = stage(Settings::default());
    let [_, mut agent] = agents(&stage);
    assert!(connects(&stage, SERVER));
    // The agent sees the policy and what it drops in one moment, in whatever order.
    let agent_process = Pid::from_raw(i32::try_from(agent.pid()).expect("a process"));
    kill(agent_process, Signal::SIGSTOP).expect("stopped");
    apply(&stage.world, DEFAULT_DENY);
    wait_for(&stage, false);
    kill(agent_process, Signal::SIGCONT).expect("goes on");
    let drop = record(&mut agent, "drop", |record| record["kind"] == "drop");
    assert_eq!(drop["cause"]["class"], "default-deny", "{drop}");
    assert_eq!((agent.count("drop"), agent.count("finding")), (1, 0));
}

#[test]
fn an_address_that_is_not_the_pods_is_no_matter_of_policy() {
    let stage = stage(Settings { backend: Backend::Legacy, ..Settings::default() });
    let [mut agent, _] = agents(&stage);
    apply(&stage.world, DEFAULT_DENY);
    let pod = stage.world.pod("frontend/pod-a").expect("a pod").network;
    pod.ip("addr add 10.244.1.99/32 dev eth0\n").expect("an address");
    let connected = pod.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from(([10, 244, 1, 99], 0)).into())?;
        Ok(socket.connect_timeout(&SERVER.into(), CONNECT_WAIT))
    });
    connected.expect("a client").expect_err("Felix drops what is not from the pod's own address");
    let drop = record(&mut agent, "drop", |record| record["kind"] == "drop");
    assert_eq!(drop["cause"]["class"], "not-policy", "{drop}");
    assert!(drop["cause"]["text"].to_string().contains("spoof"), "{drop}");
}

/// Plays the story, and shows it where it fails.
fn play(kind: Kind) {
    let mut narrator = Narrator::plain(Vec::new());
    let played = replicas::play(kind, &mut narrator);
    let shown = String::from_utf8_lossy(&narrator.into_inner()).into_owned();
    played.unwrap_or_else(|error| {
        panic!(
            "{shown}
{error:?}"
        )
    });
}

#[test]
fn eight_replicas_lose_their_database_to_a_kubernetes_policy() {
    play(Kind::Kubernetes);
}

#[test]
fn eight_replicas_lose_their_database_to_a_calico_policy() {
    play(Kind::Calico);
}
