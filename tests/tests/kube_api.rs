//! The API server of the lab: real objects, rights, tokens and watches, and what a restart keeps.

use std::{
    io::{BufRead, BufReader},
    sync::mpsc,
    time::Duration,
};

use whydrop_tests::{
    kube::{
        api::{Api, Settings, User},
        daemon::Place,
    },
    world::namespace::{Namespace, sweep},
};

/// How long what was written may take to reach a watch.
const WATCH_WAIT: Duration = Duration::from_secs(20);

const OBJECTS: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: backend}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: backend, labels: {app: web}}
spec:
  nodeName: node-a
  containers: [{name: web, image: example.com/web:1}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-web, namespace: backend}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{ports: [{port: 8000, endPort: 8080}]}]
";

fn start(settings: Settings) -> Api {
    Api::start(settings).expect("an API server")
}

#[test]
fn what_is_applied_is_there_and_reaches_a_watch() {
    let api = start(Settings::default());
    let kubectl = api.kubectl().expect("kubectl");
    let watch = ["get", "networkpolicies", "--all-namespaces", "--watch", "--output=name"];
    let mut watching = kubectl.spawn(watch).expect("a watch");
    let stdout = watching.stdout.take().expect("its output");
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(stdout).lines().map_while(Result::ok).for_each(|line| {
            let _ = sender.send(line);
        });
    });

    let applied = kubectl.apply(OBJECTS).expect("applied");
    assert!(applied.contains("networkpolicy.networking.k8s.io/allow-web created"), "{applied}");
    let seen = lines.recv_timeout(WATCH_WAIT).expect("the watch sees the policy");
    assert_eq!(seen, "networkpolicy.networking.k8s.io/allow-web");
    watching.kill().and_then(|()| watching.wait()).expect("the watch ends");

    let status = r#"{"status": {"phase": "Running", "podIP": "10.7.0.9"}}"#;
    let patch = ["patch", "pod", "web", "-n", "backend", "--subresource=status", "-p", status];
    kubectl.run(patch).expect("a status");
    let pod = kubectl.json(["get", "pod", "web", "-n", "backend", "-o", "json"]).expect("the pod");
    assert_eq!(pod["status"]["podIP"], "10.7.0.9");
    assert_eq!(pod["spec"]["nodeName"], "node-a");

    let bad = OBJECTS.replace("endPort: 8080", "endPort: 80");
    let refused = kubectl.apply(&bad).expect_err("an invalid policy");
    assert!(refused.to_string().contains("must be greater than or equal to `port`"), "{refused}");
}

#[test]
fn a_token_does_what_its_roles_allow() {
    let name = "system:serviceaccount:default:agent".to_owned();
    let token = "known-from-the-start".to_owned();
    let agent = User { name, groups: vec![], token: token.clone() };
    let api = start(Settings { users: vec![agent], ..Settings::default() });
    let status = |token: &str| api.get("/api/v1/pods", token).expect("an answer").status;
    assert_eq!(status("unknown"), 401);
    assert_eq!(status(&token), 403);
    assert_eq!(status(api.token()), 200);

    let kubectl = api.kubectl().expect("kubectl");
    let denied = api.kubectl_for("agent", &token).expect("kubectl").run(["get", "pods"]);
    let denied = denied.expect_err("no rights").to_string();
    assert!(denied.contains("cannot list resource \"pods\""), "{denied}");

    kubectl.run(["create", "serviceaccount", "agent"]).expect("a ServiceAccount");
    let issued = api.service_account_token("default", "agent").expect("a token");
    assert_eq!(status(&issued), 403);
    kubectl
        .run(["create", "clusterrole", "agent", "--verb=get,list,watch", "--resource=pods"])
        .and_then(|_| {
            let account = "--serviceaccount=default:agent";
            kubectl.run(["create", "clusterrolebinding", "agent", "--clusterrole=agent", account])
        })
        .expect("rights");
    // The one known from the start, and the one that was issued: they are the same account.
    assert_eq!(status(&token), 200);
    assert_eq!(status(&issued), 200);
}

#[test]
fn a_restart_keeps_the_address_and_the_objects() {
    let mut api = start(Settings::default());
    let kubectl = api.kubectl().expect("kubectl");
    kubectl.apply(OBJECTS).expect("applied");
    let before = kubectl.run(["get", "pod", "web", "-n", "backend", "-o", "yaml"]).expect("a pod");

    api.stop_apiserver().expect("stopped");
    assert_eq!(api.get("/readyz", api.token()).expect("nobody answers").status, 0);
    api.start_apiserver().expect("started again");
    let after = kubectl.run(["get", "pod", "web", "-n", "backend", "-o", "yaml"]).expect("a pod");
    assert_eq!(before, after);

    api.stop_etcd().expect("stopped");
    // Whether it is ready, it remembers for a while; what is in a namespace, it must ask.
    let path = "/api/v1/namespaces/default";
    assert_ne!(api.get(path, api.token()).expect("no answer, or an error").status, 200);
    api.start_etcd().expect("started again");
    let after = kubectl.run(["get", "pod", "web", "-n", "backend", "-o", "yaml"]).expect("a pod");
    assert_eq!(before, after);
}

#[test]
fn controllers_act_and_namespaces_go() {
    let api = start(Settings { controllers: true, ..Settings::default() });
    let kubectl = api.kubectl().expect("kubectl");
    kubectl.run(["create", "namespace", "backend"]).expect("a namespace");
    let deployment = ["create", "deployment", "web", "--image=example.com/web:1", "-n", "backend"];
    kubectl.run(deployment).expect("a deployment");
    let pods = ["wait", "pod", "-l", "app=web", "-n", "backend", "--for=create", "--timeout=20s"];
    kubectl.run(pods).expect("a pod of the deployment");
    kubectl.run(["delete", "namespace", "backend", "--timeout=30s"]).expect("it goes");
}

#[test]
fn servers_live_side_by_side_in_namespaces_and_leave_nothing() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: network namespaces");
    sweep();
    let namespace = Namespace::create(0, "api").expect("a namespace");
    namespace.ip("link set lo up\n").expect("loopback");
    let place = Place::Network(namespace.name().to_owned());
    let inside = start(Settings { place, ..Settings::default() });
    let here = start(Settings::default());
    assert_ne!(inside.token(), here.token());
    assert_eq!(inside.get("/readyz", inside.token()).expect("an answer").body, "ok");
    assert_eq!(here.get("/readyz", here.token()).expect("an answer").body, "ok");
    // The one is not to be had where the other is.
    let server = inside.server();
    let mut curl = std::process::Command::new("curl");
    let outside = curl.args(["-q", "-sk", "--max-time", "5", &server]).status().expect("curl");
    assert_eq!(outside.code(), Some(7), "{server} is reached from outside");

    let folder = inside.kubeconfig().parent().expect("a folder").to_owned();
    let pids = inside.pids();
    assert_eq!(pids.len(), 2, "etcd and the API server");
    drop(inside);
    assert!(!folder.exists());
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is left");
    }
}
