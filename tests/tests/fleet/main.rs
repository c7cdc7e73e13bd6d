//! Nodes on which a real Felix enforces what a real API server says. Needs root.

mod changes;
mod heal;
mod matrix;
mod moments;
mod services;

use std::{net::SocketAddr, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use whydrop_tests::{
    agent::{Agent, Heard},
    fleet::{
        Fleet, Settings, interface,
        story::{self, Kind},
    },
    kube::{
        calico::Backend,
        wait::{Look, until},
    },
    lab::{namespace::checked, server::Server},
    story::Story,
};

const TWO_NODES: &str = include_str!("../../fleet/two-nodes.yaml");

/// How long a client tries: three SYNs.
const CONNECT_WAIT: Duration = Duration::from_secs(4);
/// How long a policy may take from the API server into the kernel.
const ENFORCED_WAIT: Duration = Duration::from_secs(20);
/// How long a record may take after the last SYN.
const RECORD_WAIT: Duration = Duration::from_secs(20);
/// How long to listen to an agent between two connections.
const LOOK: Duration = Duration::from_millis(500);

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
struct Stage {
    fleet: Fleet,
    server: SocketAddr,
    /// `backend/pod-c`, beside it.
    neighbour: SocketAddr,
    _serving: [Server; 2],
}

impl Stage {
    fn new(settings: Settings) -> Self {
        Self::of(settings, TWO_NODES)
    }

    /// The same, of other manifests with these pods.
    fn of(settings: Settings, manifests: &str) -> Self {
        let fleet = Fleet::start(settings, manifests).expect("a fleet");
        let [server, neighbour] = ["backend/pod-b", "backend/pod-c"]
            .map(|pod| fleet.address(pod, 8080).expect("an address"));
        let serving =
            [("backend/pod-b", server), ("backend/pod-c", neighbour)].map(|(name, at)| {
                let pod = &fleet.pod(name).expect("a pod").namespace;
                pod.enter(|| Server::http(at, name.into())).expect("a server")
            });
        Self { fleet, server, neighbour, _serving: serving }
    }

    fn agents(&self) -> [Agent; 2] {
        ["worker-1", "worker-2"].map(|node| self.fleet.agent(node).expect("an agent"))
    }

    fn connects(&self, to: SocketAddr) -> bool {
        self.fleet.connect("frontend/pod-a", to, CONNECT_WAIT).expect("a client").is_ok()
    }

    /// Waits until connections to the server fare like this.
    fn wait_for(&self, connects: bool) {
        until("policy in force", ENFORCED_WAIT, || {
            Ok(if self.connects(self.server) == connects {
                Look::Seen(())
            } else {
                Look::NotYet(format!("connects: {}", !connects))
            })
        })
        .expect("in force");
    }
}

/// The first record that is like this, while something goes on.
fn record_while(
    agent: &mut Agent,
    what: &str,
    like: impl Fn(&Value) -> bool,
    mut meanwhile: impl FnMut(),
) -> Value {
    let found = until(what, RECORD_WAIT, || {
        meanwhile();
        // What is missing is looked for once more.
        let _ = agent.wait_for(LOOK, |heard| heard.iter().any(|h| like(&h.record)));
        let found = agent.records().iter().find(|heard| like(&heard.record));
        Ok(found.map_or(Look::NotYet(String::new()), |heard| Look::Seen(heard.record.clone())))
    });
    found.unwrap_or_else(|error| panic!("{error:#}\n{}", told(agent)))
}

/// The first record that is like this.
fn record(agent: &mut Agent, what: &str, like: impl Fn(&Value) -> bool) -> Value {
    record_while(agent, what, like, || {})
}

fn told(agent: &Agent) -> String {
    let lines: Vec<String> = agent.records().iter().map(|heard| heard.record.to_string()).collect();
    format!("{}\n{}", lines.join("\n"), agent.stderr())
}

fn count(heard: &[Heard], kind: &str) -> usize {
    heard.iter().filter(|heard| heard.record["kind"] == kind).count()
}

#[test]
fn two_nodes_tell_of_one_drop_by_one_name() {
    let stage = Stage::new(Settings { services: true, ..Settings::default() });
    let service: SocketAddr = "10.96.0.80:80".parse().expect("an address");
    let [mut source, mut destination] = stage.agents();
    until("Service", ENFORCED_WAIT, || {
        Ok(if stage.connects(service) { Look::Seen(()) } else { Look::NotYet(String::new()) })
    })
    .expect("kube-proxy leads there");
    stage.fleet.kubectl().apply(DEFAULT_DENY).expect("applied");
    until("policy in force", ENFORCED_WAIT, || {
        Ok(if stage.connects(service) { Look::NotYet(String::new()) } else { Look::Seen(()) })
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
    assert_eq!((count(source.records(), "drop"), count(destination.records(), "drop")), (1, 1));
}

#[test]
fn what_the_kernel_does_and_what_policies_say_are_told_apart() {
    let mut stage = Stage::new(Settings { backend: Backend::Legacy, ..Settings::default() });
    let [_, mut agent] = stage.agents();
    assert!(stage.connects(stage.server));
    // Nobody enforces what comes from now on.
    stage.fleet.host_mut("worker-2").expect("a node").stop_felix().expect("stopped");
    stage.fleet.kubectl().apply(DEFAULT_DENY).expect("applied");
    let is_finding = |record: &Value| record["kind"] == "finding";
    let finding = record_while(&mut agent, "finding", is_finding, || {
        assert!(stage.connects(stage.server), "nobody enforces it");
    });
    assert_eq!(finding["cause"]["class"], "not-enforced", "{finding}");
    assert_eq!(finding["cause"]["policy"]["name"], "default-deny", "{finding}");

    // Felix is back, and enforces it.
    stage.fleet.start_felix("worker-2").expect("it starts");
    stage.wait_for(false);
    let denied = record(&mut agent, "drop", |record| record["kind"] == "drop");
    assert_eq!(denied["cause"]["class"], "default-deny", "{denied}");

    // Gone again while a policy comes that allows it: the kernel goes on dropping.
    stage.fleet.host_mut("worker-2").expect("a node").stop_felix().expect("stopped");
    stage.fleet.kubectl().apply(ALLOW_ALL).expect("applied");
    // Another port, for another flow: one that goes on dying is told once in a minute.
    assert!(!stage.connects(SocketAddr::new(stage.server.ip(), 8081)), "the rule is still there");
    let late =
        record(&mut agent, "out-of-sync", |record| record["flow"]["destination"]["port"] == 8081);
    assert_eq!(late["cause"]["class"], "out-of-sync", "{late}");
    // Nobody denies it now; it is said whose denial that was, and until when.
    assert_eq!(late["cause"]["policy"]["name"], "default-deny", "{late}");
    assert_eq!(late["cause"]["changed"]["object"]["name"], "allow-all", "{late}");
    assert_eq!(late["remedy"], Value::Null, "{late}");
    assert_eq!(late["evidence"]["reason"], "NETFILTER_DROP", "{late}");

    stage.fleet.start_felix("worker-2").expect("it starts");
    stage.wait_for(true);
    let (drops, findings) = (count(agent.records(), "drop"), count(agent.records(), "finding"));
    assert_eq!((drops, findings), (2, 1), "{}", told(&agent));
}

#[test]
fn a_pod_that_is_not_programmed_is_told_alone() {
    let mut stage = Stage::new(Settings { backend: Backend::Legacy, ..Settings::default() });
    let [_, mut agent] = stage.agents();
    stage.fleet.kubectl().apply(DEFAULT_DENY).expect("applied");
    stage.wait_for(false);
    assert!(!stage.connects(stage.neighbour));
    // What Felix wrote for one of the two pods is gone.
    let host = stage.fleet.host_mut("worker-2").expect("a node");
    host.stop_felix().expect("stopped");
    let chain = format!("cali-tw-{}", interface("backend/pod-c"));
    let accept = ["-I", &chain, "1", "-j", "ACCEPT"];
    checked(host.namespace.command("iptables-legacy").args(accept)).expect("a rule");
    let is_finding = |record: &Value| record["kind"] == "finding";
    let finding = record_while(&mut agent, "finding", is_finding, || {
        assert!(stage.connects(stage.neighbour) && !stage.connects(stage.server));
    });
    assert_eq!(finding["cause"]["class"], "not-enforced", "{finding}");
    assert_eq!(finding["flow"]["destination"]["pod"], "pod-c", "{finding}");
    assert_eq!(count(agent.records(), "finding"), 1, "{}", told(&agent));
}

#[test]
fn a_drop_that_is_seen_before_its_policy_is_not_called_out_of_sync() {
    let stage = Stage::new(Settings::default());
    let [_, mut agent] = stage.agents();
    assert!(stage.connects(stage.server));
    // The agent sees the policy and what it drops in one moment, in whatever order.
    let agent_process = Pid::from_raw(i32::try_from(agent.pid()).expect("a process"));
    kill(agent_process, Signal::SIGSTOP).expect("stopped");
    stage.fleet.kubectl().apply(DEFAULT_DENY).expect("applied");
    stage.wait_for(false);
    kill(agent_process, Signal::SIGCONT).expect("goes on");
    let drop = record(&mut agent, "drop", |record| record["kind"] == "drop");
    assert_eq!(drop["cause"]["class"], "default-deny", "{drop}");
    assert_eq!((count(agent.records(), "drop"), count(agent.records(), "finding")), (1, 0));
}

#[test]
fn an_address_that_is_not_the_pods_is_no_matter_of_policy() {
    let stage = Stage::new(Settings { backend: Backend::Legacy, ..Settings::default() });
    let [mut agent, _] = stage.agents();
    stage.fleet.kubectl().apply(DEFAULT_DENY).expect("applied");
    let pod = &stage.fleet.pod("frontend/pod-a").expect("a pod").namespace;
    pod.ip("addr add 10.244.1.99/32 dev eth0\n").expect("an address");
    let connected = pod.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from(([10, 244, 1, 99], 0)).into())?;
        Ok(socket.connect_timeout(&stage.server.into(), CONNECT_WAIT))
    });
    connected.expect("a client").expect_err("Felix drops what is not from the pod's own address");
    let drop = record(&mut agent, "drop", |record| record["kind"] == "drop");
    assert_eq!(drop["cause"]["class"], "not-policy", "{drop}");
    assert!(drop["cause"]["text"].to_string().contains("spoof"), "{drop}");
}

/// Plays the story, and shows it where it fails.
fn play(kind: Kind) {
    let mut story = Story::plain(Vec::new());
    let played = story::play(kind, &mut story);
    let told = String::from_utf8_lossy(&story.into_inner()).into_owned();
    played.unwrap_or_else(|error| panic!("{told}\n{error:?}"));
}

#[test]
fn eight_replicas_lose_their_database_to_a_kubernetes_policy() {
    play(Kind::Kubernetes);
}

#[test]
fn eight_replicas_lose_their_database_to_a_calico_policy() {
    play(Kind::Calico);
}
