//! `--log-format hubble`: what Hubble's own code makes of the lines of a real agent. Needs root.

use std::{
    fs::{self, File},
    io::Write as _,
    net::{IpAddr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use whydrop_tests::{
    kube::{
        parts::HUBBLE,
        wait::{Look, until},
    },
    play::expect::differences,
    world::{
        World as _,
        agent::whydrop,
        netns::{NAME, Node},
    },
};

/// How long a client tries: two SYNs.
const CONNECT_WAIT: Duration = Duration::from_secs(2);
/// How long a line may take.
const LINE_WAIT: Duration = Duration::from_secs(30);

/// Two pods, one of a Deployment, a Service, and policies that cut off the other pod in each of two
/// ways; a third pod is on another node.
const MANIFESTS: &str = "
{apiVersion: v1, kind: Node, metadata: {name: worker-1}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: frontend}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: backend, labels: {tier: data}}}
---
apiVersion: v1
kind: Pod
metadata:
  name: web-5d9c7b9f4d-x2x4z
  namespace: frontend
  labels: {app: web, pod-template-hash: 5d9c7b9f4d}
  ownerReferences:
    - {apiVersion: apps/v1, kind: ReplicaSet, name: web-5d9c7b9f4d, uid: u-1, controller: true}
spec: {nodeName: worker-1, containers: [{name: c, image: c}]}
status: {phase: Running, podIP: 10.7.0.10, podIPs: [{ip: 10.7.0.10}, {ip: \"fd07::a\"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: api-0, namespace: backend, labels: {app: api}}
spec: {nodeName: worker-1, containers: [{name: c, image: c}]}
status: {phase: Running, podIP: 10.7.0.11, podIPs: [{ip: 10.7.0.11}, {ip: \"fd07::b\"}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny, namespace: backend}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: no-telnet}
spec:
  priority: 1
  subject: {namespaces: {matchLabels: {tier: data}}}
  ingress:
    - {action: Deny, from: [{namespaces: {}}], ports: [{portNumber: {protocol: TCP, port: 23}}]}
";

/// What the agent has a message about when it comes.
const MORE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: more}}";

const FILTER: &str = "table inet cni {
  chain forward {
    type filter hook forward priority filter; policy accept
    ip daddr 10.7.0.11 counter drop
    ip6 daddr fd07::b counter drop
  }
}
";

/// Killed when dropped.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What Hubble's code prints of lines.
fn as_hubble_reads(lines: &str) -> Vec<Value> {
    let mut reader = Command::new(HUBBLE.program().expect("the reader"));
    reader.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut reader = reader.spawn().expect("it starts");
    reader.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("it reads");
    let output = reader.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{lines}");
    json_lines(&String::from_utf8(output.stdout).expect("UTF-8"))
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[test]
fn hubble_reads_what_the_agent_writes() {
    let mut node = Node::new(2).expect("a node");
    node.nft(FILTER).expect("rules");
    node.apply(MANIFESTS).expect("applied");
    let folder = tempfile::tempdir().expect("a folder");
    let (out, err) = (folder.path().join("out"), folder.path().join("err"));
    let mut command = whydrop(&node.network(NAME).expect("the node")).expect("whydrop");
    command.args(["agent", "--log-format", "hubble", "--node-name", NAME]);
    command.args(node.source().expect("a folder").arguments()).stdin(Stdio::null());
    command.stdout(File::create(&out).expect("a file"));
    command.stderr(File::create(&err).expect("a file"));
    let mut agent = Agent(command.spawn().expect("it starts"));
    let read = |file| fs::read_to_string(file).expect("a file");
    let wait = |what: &str, file, lines: usize, words: &str| {
        until(what, LINE_WAIT, || {
            let text = read(file);
            let seen = text.lines().filter(|line| line.contains(words)).count() >= lines;
            Ok(if seen { Look::Seen(()) } else { Look::NotYet(text) })
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", read(&err)));
    };
    wait("readiness, on standard error", &err, 1, r#""state":"ready""#);

    let (client, server) = (&node.nth(0).network, node.nth(1));
    for to in [(IpAddr::from(server.ip), 8080), (server.ip.into(), 23), (server.ip6.into(), 8080)] {
        let to = SocketAddr::from(to);
        let connect = || Ok(TcpStream::connect_timeout(&to, CONNECT_WAIT).is_err());
        assert!(client.enter(connect).expect("a client"), "it is dropped");
    }
    wait("a flow for each", &out, 3, "DROPPED");
    node.apply(MORE).expect("applied");
    wait("a message", &err, 1, "manifests changed");
    kill(Pid::from_raw(i32::try_from(agent.0.id()).expect("a pid")), Signal::SIGTERM)
        .expect("asked to end");
    assert!(agent.0.wait().expect("it ends").success());

    compare(&read(&out));
    // What is no flow is beside them, whole, and messages are JSON as well.
    let said = read(&err);
    assert!(json_lines(&said).iter().any(|line| line["level"] == "INFO"), "{said}");
    for kind in [r#""kind":"incident""#, r#""state":"stopping""#] {
        assert!(said.lines().any(|line| line.contains(kind)), "{said}");
    }
}

/// Strictly: no field that Hubble does not have, and none that it would write otherwise.
fn compare(text: &str) {
    let (ours, theirs) = (json_lines(text), as_hubble_reads(text));
    assert_eq!(ours, theirs);
    let flow = |ip_version: &str, port: u16, reason: u16, desc: &str, by: Value| {
        json!({
            "node_name": "worker-1",
            "flow": {
                "verdict": "DROPPED", "drop_reason": reason, "drop_reason_desc": desc,
                "IP": {"ipVersion": ip_version},
                "l4": {"TCP": {"destination_port": port, "flags": {"SYN": true}}},
                "source": {
                    "namespace": "frontend", "pod_name": "web-5d9c7b9f4d-x2x4z",
                    "labels": [
                        "k8s:app=web", "k8s:pod-template-hash=5d9c7b9f4d",
                        "k8s:io.kubernetes.pod.namespace=frontend",
                    ],
                    "workloads": [{"name": "web", "kind": "Deployment"}],
                },
                "destination": {"namespace": "backend", "pod_name": "api-0"},
                "Type": "L3_L4", "node_name": "worker-1", "traffic_direction": "INGRESS",
                "event_type": {"type": 1, "sub_type": reason}, "is_reply": false,
                "ingress_denied_by": [by],
                "Summary": {"$contains": ["TCP Flags: SYN; ", "ingress denied by"]},
            },
        })
    };
    let policy = json!({"kind": "NetworkPolicy", "namespace": "backend", "name": "default-deny"});
    let admin = json!({"kind": "AdminNetworkPolicy", "name": "no-telnet"});
    for wanted in [
        flow("IPv4", 8080, 133, "POLICY_DENIED", policy.clone()),
        flow("IPv4", 23, 181, "POLICY_DENY", admin),
        flow("IPv6", 8080, 133, "POLICY_DENIED", policy),
    ] {
        let nearest = theirs.iter().map(|flow| differences(&wanted, flow));
        let nearest = nearest.min_by_key(Vec::len).expect("a flow");
        assert!(nearest.is_empty(), "{nearest:#?}\n{text}");
    }
}
