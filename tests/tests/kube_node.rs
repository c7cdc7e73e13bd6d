//! The node of the lab: real pods, probes and Services, and policies that real CNIs enforce.

use std::{path::Path, process::Output};

use anyhow::Result;
use whydrop_tests::{
    kube::{
        image::{Content, busybox},
        kubectl::Kubectl,
        node::{BUSYBOX, NAME, Node, PodNetwork, Settings},
        wait::{Look, until},
    },
    play::{stage::Stage, story::stories},
    world::{ENFORCED_WAIT, World as _},
};

const APP: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: IMAGE
        imagePullPolicy: Never
        command: [sh, -c, "echo serving; exec httpd -f -p 8080 -h /www"]
        livenessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: client, image: IMAGE, imagePullPolicy: Never, command: [sleep, infinity]}
"#;

const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends-only}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]
";

fn start(network: PodNetwork) -> Node {
    Node::start(&Settings { network, ..Settings::default() }).expect("a node")
}

/// Applies [`APP`], waits for its pods, and returns the address of one of them.
fn run_app(node: &Node, kubectl: &Kubectl) -> Result<String> {
    let run = || {
        kubectl.apply(&APP.replace("IMAGE", BUSYBOX))?;
        kubectl.run(["rollout", "status", "deployment/web", "--timeout=40s"])?;
        kubectl.run(["wait", "pod/client", "--for=condition=Ready", "--timeout=40s"])?;
        kubectl.run(["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].status.podIP}"])
    };
    run().map_err(|error| error.context(node.kubelet_tail()))
}

/// Asks a web server from the client's pod.
fn ask(kubectl: &Kubectl, address: &str) -> Output {
    let url = format!("http://{address}/healthz");
    // Bounded by `timeout`: the shell's own `wget -T` crashes.
    let ask = ["exec", "client", "--", "timeout", "3", "wget", "-q", "-O", "-", &url];
    kubectl.output(ask).expect("kubectl")
}

/// Connects from the client's pod, and returns what the shell says where that fails.
fn connect(kubectl: &Kubectl, address: &str) -> String {
    let connect = ["exec", "client", "--", "nc", "-w", "2", address, "8080"];
    let output = kubectl.output(connect).expect("kubectl");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn pods_run_and_policies_drop_in_silence() {
    let node = start(PodNetwork::Calico);
    let kubectl = node.kubectl().expect("kubectl");
    let web = run_app(&node, &kubectl).expect("the app runs");

    let logs = kubectl.run(["logs", "deployment/web"]).expect("logs");
    assert!(logs.contains("serving"), "{logs}");
    let jsonpath = "jsonpath={.spec.clusterIP}";
    let service = kubectl.run(["get", "service", "web", "-o", jsonpath]).expect("a Service");
    for address in [&format!("{web}:8080"), &service] {
        let answer = ask(&kubectl, address);
        assert_eq!(answer.stdout, b"ok\n", "{address}: {answer:?}");
    }
    let outside = ["ip", "netns", "exec", "outside"];
    let curl = ["curl", "-q", "-s", "-m", "5", "http://172.31.99.2:30080/healthz"];
    assert_eq!(node.run_on_node(&[&outside[..], &curl].concat()).expect("the NodePort"), "ok\n");

    kubectl.apply(POLICY).expect("applied");
    until("policy in force", ENFORCED_WAIT, || {
        let said = connect(&kubectl, &web);
        Ok(if said.contains("timed out") { Look::Seen(()) } else { Look::NotYet(said) })
    })
    .expect("a denied connection hears nothing");
    let rules = node.run_on_node(&["iptables-nft-save", "-c"]).expect("rules");
    let mut drops = rules.lines().filter(|rule| rule.contains("Drop if no policies passed packet"));
    assert!(drops.any(|rule| !rule.starts_with("[0:")), "no such rule has counted:\n{rules}");

    kubectl.run(["label", "pod", "client", "app=friend", "--overwrite"]).expect("a label");
    until("friend let in", ENFORCED_WAIT, || {
        let answer = ask(&kubectl, &format!("{web}:8080"));
        Ok(if answer.status.success() {
            Look::Seen(())
        } else {
            Look::NotYet(format!("{answer:?}"))
        })
    })
    .expect("what the policy allows passes");
    let restarts = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
    let restarts = kubectl.run(["get", "pods", "-o", restarts]).expect("counts");
    assert_eq!(restarts, "0 0 0", "the kubelet's probes pass all the while");
}

#[test]
fn stories_are_played_among_containers() {
    let mut stage = Stage::new(start(PodNetwork::Calico));
    let stories = stories("stories").expect("stories");
    stage.cast().expect("pods");
    stage.serve_all(stories.values()).expect("servers");
    stage.watch().expect("an agent");
    for (name, story) in &stories {
        stage.play(name, story).unwrap_or_else(|error| panic!("{error:?}"));
    }
}

#[test]
fn an_image_of_ones_own_runs_and_nothing_is_left() {
    let node = start(PodNetwork::Plain);
    let name = "localhost/greeter:1".to_owned();
    let mut image = busybox(&name).expect("an image");
    image.files.push(("greet".into(), Content::Text("echo hello from $NODE\n".into())));
    image.entrypoint = vec!["/bin/sh".into(), "/greet".into()];
    image.arguments.clear();
    node.import(&image).expect("imported");
    let kubectl = node.kubectl().expect("kubectl");
    let manifest = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: greeter}}, spec: {{restartPolicy: Never,
          containers: [{{name: greeter, image: {name:?}, imagePullPolicy: Never,
            env: [{{name: NODE, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}]}}]}}}}"
    );
    kubectl.apply(&manifest).expect("applied");
    let done = "--for=jsonpath={.status.phase}=Succeeded";
    kubectl.run(["wait", "pod/greeter", done, "--timeout=40s"]).expect("it ran");
    let said = kubectl.run(["logs", "greeter"]).expect("logs");
    assert_eq!(said, format!("hello from {NAME}\n"));

    // Nobody enforces policies here.
    let web = run_app(&node, &kubectl).expect("the app runs");
    kubectl.apply(POLICY).expect("applied");
    assert_eq!(ask(&kubectl, &format!("{web}:8080")).stdout, b"ok\n");

    let (pids, groups) = (node.pids(), node.control_groups());
    let folder = node.folder().to_owned();
    assert!(pids.len() >= 7 && Path::new("/sys/fs/cgroup/pids").join(&groups[1..]).exists());
    drop(node);
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is left");
    }
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").expect("control groups");
    for hierarchy in hierarchies.flatten() {
        let group = hierarchy.path().join(&groups[1..]);
        assert!(!group.exists(), "{} is left", group.display());
    }
    assert!(!folder.exists());
}
