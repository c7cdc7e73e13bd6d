//! The stories on a whole Kubernetes node, with nothing but `kubectl`; `cargo xtask demo node` shows
//! the same. Needs root.

use std::{collections::BTreeMap, process::Command, time::Duration};

use serde_json::Value;
use whydrop_tests::{
    kube::{
        kubectl::Kubectl,
        node::{Node, Settings},
        parts::KUSTOMIZE,
        wait::{Look, until},
    },
    play::{narration::Narrator, whole_node},
    repository,
    world::{World as _, agent::beside, namespace::checked},
};

/// From a command to its effect in the cluster: a pod's start, a policy's way into the kernel, a
/// client's next try, the healer's look at it.
const WAIT: Duration = Duration::from_secs(90);

/// Two replicas that say every second how it went, and whom they talk to.
const WORKLOADS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: frontend, annotations: {whydrop.io/heal: apply}}
---
apiVersion: v1
kind: Namespace
metadata: {name: backend, annotations: {whydrop.io/heal: apply}}
---
apiVersion: v1
kind: Pod
metadata: {name: api, namespace: backend, labels: {app: api}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - {name: api, image: localhost/busybox:1, imagePullPolicy: Never, command: [httpd, -f, -p, "8080", -h, /www]}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: backend}
spec: {clusterIP: 10.96.0.80, selector: {app: api}, ports: [{port: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: frontend}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: client
          image: localhost/busybox:1
          imagePullPolicy: Never
          command:
            - sh
            - -c
            - while sleep 1; do if nc -w 2 10.96.0.80 8080 </dev/null; then echo reached; else echo blocked; fi; done
"#;

const DEFAULT_DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny, namespace: backend}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

#[test]
fn kubectl_logs_name_the_policy_behind_a_real_drop() {
    let mut narrator = Narrator::plain(Vec::new());
    let played = whole_node::play(&mut narrator);
    let shown = String::from_utf8_lossy(&narrator.into_inner()).into_owned();
    played.unwrap_or_else(|error| panic!("{shown}\n{error:?}"));
}

/// Everything from the overlay and the image as they are, but for the healer's times: it hears the
/// agent through the API, with the rights that it has.
#[test]
fn a_healer_in_its_pods_hears_the_agents_and_heals() {
    let node = Node::start(&Settings::default()).expect("a node");
    let kubectl = node.kubectl().expect("kubectl");
    let folder = tempfile::tempdir().expect("a folder");
    let archive = folder.path().join("whydrop.tar");
    let mut make = Command::new(beside("xtask").expect("xtask"));
    checked(make.args(["image", "-o"]).arg(&archive)).expect("an image");
    node.import_archive(&archive).expect("imported");
    let mut build = Command::new(KUSTOMIZE.program().expect("kustomize"));
    build.arg("build").arg(repository("deploy/kustomize/overlays/heal"));
    let built = checked(&mut build).expect("it builds");
    kubectl.apply(&of_seconds(built)).expect("applied");
    kubectl.apply(WORKLOADS).expect("applied");
    for (what, namespace) in [
        ("daemonset/whydrop", "whydrop"),
        ("deployment/whydrop-heal", "whydrop"),
        ("deployment/web", "frontend"),
    ] {
        let status = ["rollout", "status", what, "-n", namespace, "--timeout=60s"];
        kubectl.run(status).unwrap_or_else(|error| panic!("{error:#}\n{}", heal_log(&kubectl)));
    }
    clients(&kubectl, "reached");
    all_reach_it_twice(&kubectl);
    kubectl.apply(DEFAULT_DENY).expect("applied");
    for action in ["applied", "kept"] {
        until(action, WAIT, || {
            let log = heal_log(&kubectl);
            let is_it = |line: &str| {
                serde_json::from_str(line).is_ok_and(|record: Value| record["action"] == action)
            };
            Ok(if log.lines().any(is_it) { Look::Seen(()) } else { Look::NotYet(log) })
        })
        .expect("what the healer does");
    }
    clients(&kubectl, "reached");
    let log = heal_log(&kubectl);
    assert!(log.contains(r#""outcome":"recovered""#), "{log}");
    let policies = ["get", "networkpolicies", "-n", "backend", "-o", "name"];
    assert_eq!(kubectl.run(policies).expect("policies").lines().count(), 2);
    let described = ["describe", "networkpolicies", "-n", "backend"];
    let described = kubectl.run(described).expect("described");
    assert!(described.contains("whydrop.io/incident"), "{described}");
    // As docs/healing.md has it.
    let selector = "--field-selector=reportingComponent=whydrop.io/heal";
    let events = ["get", "events", "-A", selector];
    let events = kubectl.run(events).expect("events");
    for reason in ["WhydropHealApplied", "WhydropHealKept"] {
        assert!(events.contains(reason), "{reason}: {events}");
    }
}

/// The overlay with times that a test can wait for: how long a flow has to have worked before it was
/// denied, and for how long a remedy is watched.
fn of_seconds(built: String) -> String {
    let times = [("--min-worked=5m", "--min-worked=1s"), ("--watch-time=2m", "--watch-time=20s")];
    times.into_iter().fold(built, |built, (long, short)| {
        assert!(built.contains(long), "expected {long}: {built}");
        built.replace(long, short)
    })
}

fn heal_log(kubectl: &Kubectl) -> String {
    let label = "app.kubernetes.io/name=whydrop-heal";
    kubectl.run(["logs", "-n", "whydrop", "-l", label, "--tail=-1"]).unwrap_or_default()
}

/// Waits until each client has reached it twice more: before the agents' eyes, which watch by now.
fn all_reach_it_twice(kubectl: &Kubectl) {
    let times = || -> anyhow::Result<BTreeMap<String, usize>> {
        let said =
            kubectl.run(["logs", "-n", "frontend", "-l", "app=web", "--prefix", "--tail=-1"])?;
        let mut times = BTreeMap::new();
        for pod in said.lines().filter_map(|line| line.strip_suffix(" reached")) {
            *times.entry(pod.to_owned()).or_default() += 1;
        }
        Ok(times)
    };
    let before = times().expect("the clients' logs");
    assert_eq!(before.len(), 2, "{before:?}");
    until("two connections of each", WAIT, || {
        let now = times()?;
        let done =
            before.iter().all(|(pod, times)| now.get(pod).is_some_and(|now| *now >= times + 2));
        Ok(if done { Look::Seen(()) } else { Look::NotYet(format!("{now:?}")) })
    })
    .expect("the clients");
}

/// Waits until the last word of all clients is this one.
fn clients(kubectl: &Kubectl, word: &str) {
    until(word, WAIT, || {
        let said = kubectl.run(["logs", "-n", "frontend", "-l", "app=web", "--tail=1"])?;
        let words: Vec<&str> = said.lines().collect();
        Ok(if words == [word, word] { Look::Seen(()) } else { Look::NotYet(said) })
    })
    .expect("the clients");
}
