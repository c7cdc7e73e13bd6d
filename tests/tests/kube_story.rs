//! The main story where its users live it: real pods, policies that Calico enforces, the agent from
//! its own manifests and its own image, and nothing but `kubectl` to look at it. Needs root.

use std::{path::Path, process::Command, time::Duration};

use whydrop_tests::{
    agent::{beside, binary},
    kube::{
        kubectl::Kubectl,
        node::{BUSYBOX, Node, Settings},
        wait::{Look, until},
    },
};

/// From a command to its effect in the cluster: a pod's start, or a policy's way into the kernel.
const WAIT: Duration = Duration::from_secs(60);

/// A server, and a client that says every second whether it reaches it.
const BACKEND: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: frontend}
---
apiVersion: v1
kind: Namespace
metadata: {name: backend}
---
apiVersion: v1
kind: Pod
metadata: {name: pod-b, namespace: backend, labels: {app: api}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: api
    image: IMAGE
    imagePullPolicy: Never
    command: [httpd, -f, -p, "8080", -h, /www]
    livenessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
"#;

const CLIENT: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: frontend, labels: {app: NAME}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: client
    image: IMAGE
    imagePullPolicy: Never
    command: [sh, -c, "while sleep 1; do if nc -w 2 ADDRESS; then echo reached; else echo blocked; fi; done </dev/null"]
"#;

const BACKEND_POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny, namespace: backend}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-web, namespace: backend}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress:
    - from: [{namespaceSelector: {matchLabels: {name: frontend}}}]
      ports: [{port: 8080}]
";

const EGRESS_POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-egress, namespace: frontend}
spec: {podSelector: {matchLabels: {app: network-test}}, policyTypes: [Egress]}
";

#[test]
fn kubectl_logs_name_the_policy_behind_a_real_drop() {
    let node = Node::start(&Settings::default()).expect("a node");
    let kubectl = node.kubectl().expect("kubectl");
    deploy(&node, &kubectl);

    kubectl.apply(&BACKEND.replace("IMAGE", BUSYBOX)).expect("applied");
    let running = ["wait", "pod/pod-b", "-n", "backend", "--for=condition=Ready", "--timeout=60s"];
    kubectl.run(running).expect("the server runs");
    let address = ["get", "pod", "pod-b", "-n", "backend", "-o", "jsonpath={.status.podIP}"];
    let address = kubectl.run(address).expect("its address");
    run_client(&kubectl, "pod-a", &format!("{address} 8080"));
    // The API server, by its Service.
    run_client(&kubectl, "network-test", "10.96.0.1 443");
    for client in ["pod-a", "network-test"] {
        wait_for_word(&kubectl, client, "reached");
    }

    // Nothing but a policy changes, and nothing in the cluster says why the connections hang.
    kubectl.apply(BACKEND_POLICIES).expect("applied");
    kubectl.apply(EGRESS_POLICY).expect("applied");
    let ingress = wait_for_line(&kubectl, "DROP frontend/pod-a -> backend/pod-b:8080/TCP");
    assert!(ingress.contains("ingress denied by NetworkPolicy backend/"), "{ingress}");
    assert!(ingress.contains("wants namespace label name=frontend"), "{ingress}");
    assert!(ingress.contains("NETFILTER_DROP"), "{ingress}");
    let egress = wait_for_line(&kubectl, "DROP frontend/network-test -> ");
    assert!(egress.contains("egress denied by NetworkPolicy frontend/deny-egress"), "{egress}");
    for client in ["pod-a", "network-test"] {
        wait_for_word(&kubectl, client, "blocked");
    }
    until("Event", WAIT, || {
        let described = kubectl.run(["describe", "pod", "pod-a", "-n", "frontend"])?;
        Ok(if described.contains("NetworkPolicyDenied") && described.contains("default-deny") {
            Look::Seen(())
        } else {
            Look::NotYet(described)
        })
    })
    .expect("kubectl describe pod shows it");

    // What the log proposes, applied, ends it.
    let mut fix = node.in_network(binary().expect("whydrop"));
    fix.args(["fix", "--from", "frontend/pod-a", "--to", "backend/pod-b", "--port", "8080"]);
    let fixed = fix.arg("--kubeconfig").arg(node.api().kubeconfig()).output().expect("whydrop fix");
    assert!(fixed.status.success(), "{}", String::from_utf8_lossy(&fixed.stderr));
    kubectl.apply(&String::from_utf8_lossy(&fixed.stdout)).expect("the remedy applies");
    wait_for_word(&kubectl, "pod-a", "reached");
    // The kubelet reaches the server all the while, and the agent has not been restarted.
    let restarts = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
    let restarts = kubectl.run(["get", "pods", "-A", "-o", restarts]).expect("counts");
    assert_eq!(restarts, "0 0 0 0");
}

/// Imports the image and applies the manifests, both as they are.
fn deploy(node: &Node, kubectl: &Kubectl) {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = folder.path().join("whydrop.tar");
    let mut image = Command::new(beside("xtask").expect("xtask"));
    let made = image.args(["image", "-o"]).arg(&archive).output().expect("cargo xtask image");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
    node.import_archive(&archive).expect("imported");
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize/base");
    let base = base.to_str().expect("a path");
    kubectl.run(["apply", "-k", base]).expect("applied");
    let ready = ["rollout", "status", "daemonset/whydrop", "-n", "whydrop", "--timeout=60s"];
    kubectl.run(ready).unwrap_or_else(|error| {
        let described = kubectl.run(["describe", "pods", "-n", "whydrop"]);
        panic!("{error:#}\n{described:?}\n{}", log(kubectl));
    });
}

fn run_client(kubectl: &Kubectl, name: &str, address: &str) {
    let client = CLIENT.replace("IMAGE", BUSYBOX).replace("NAME", name);
    kubectl.apply(&client.replace("ADDRESS", address)).expect("applied");
}

fn log(kubectl: &Kubectl) -> String {
    kubectl.run(["logs", "daemonset/whydrop", "-n", "whydrop"]).unwrap_or_default()
}

/// Waits until the last word of a client's is this one.
fn wait_for_word(kubectl: &Kubectl, client: &str, word: &str) {
    until(word, WAIT, || {
        let said = kubectl.output(["logs", client, "-n", "frontend", "--tail=1"])?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        Ok(if said.trim() == word { Look::Seen(()) } else { Look::NotYet(said) })
    })
    .unwrap_or_else(|error| panic!("{client}: {error:#}\n{}", log(kubectl)));
}

/// Waits for a line of the agent's log that holds this.
fn wait_for_line(kubectl: &Kubectl, part: &str) -> String {
    until("line in kubectl logs", WAIT, || {
        let log = log(kubectl);
        let line = log.lines().find(|line| line.contains(part)).map(str::to_owned);
        Ok(line.map_or(Look::NotYet(log), Look::Seen))
    })
    .unwrap_or_else(|error| panic!("{part}: {error:#}"))
}
