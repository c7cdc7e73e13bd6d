//! The API server of the lab: real objects, rights, tokens and watches, and what a restart keeps.

mod older_role;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::mpsc,
    time::Duration,
};

use whydrop_tests::{
    kube::{
        api::{Api, Settings, User},
        daemon::Place,
        wait::{Look, until},
    },
    repository,
    world::{
        agent::binary,
        namespace::{Namespace, sweep},
    },
};

/// How long what was written may take to reach a watch.
const WATCH_WAIT: Duration = Duration::from_secs(20);

/// How long the controllers may take to give the role `view` its rules.
const ROLES_WAIT: Duration = Duration::from_secs(20);

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
    let mut curl = Command::new("curl");
    let outside = curl.args(["-q", "-sk", "--max-time", "5", &server]).status().expect("curl");
    assert_eq!(outside.code(), Some(7), "{server} is reached from outside");

    let folder = inside.kubeconfig().parent().expect("a folder").to_owned();
    let pids = inside.pids();
    assert_eq!(pids.len(), 2, "etcd and the API server");
    drop(inside);
    assert!(!folder.exists());
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is left");
    }
}

/// Two namespaces: `shop`, whose policies want labels of pods and of namespaces, and `backend`.
const SHOP_AND_BACKEND: &str = r"
apiVersion: v1
kind: Node
metadata: {name: node-a}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: red}}
---
apiVersion: v1
kind: Namespace
metadata: {name: backend, labels: {team: blue}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: node-a, containers: [{name: web, image: example.com/web:1}]}
status: {phase: Running, podIP: 10.7.0.10, podIPs: [{ip: 10.7.0.10}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {nodeName: node-a, containers: [{name: db, image: example.com/db:1}]}
status: {phase: Running, podIP: 10.7.0.11, podIPs: [{ip: 10.7.0.11}]}
---
apiVersion: v1
kind: Pod
metadata: {name: queue, namespace: shop, labels: {app: queue}}
spec: {nodeName: node-a, containers: [{name: queue, image: example.com/queue:1}]}
status: {phase: Running, podIP: 10.7.0.12, podIPs: [{ip: 10.7.0.12}]}
---
apiVersion: v1
kind: Pod
metadata: {name: pod-b, namespace: backend, labels: {app: api}}
spec: {nodeName: node-a, containers: [{name: api, image: example.com/api:1}]}
status: {phase: Running, podIP: 10.7.0.20, podIPs: [{ip: 10.7.0.20}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
spec:
  replicas: 0
  selector: {matchLabels: {app: cart}}
  template:
    metadata: {labels: {app: cart}}
    spec: {containers: [{name: cart, image: example.com/cart:1}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: queue, namespace: shop}
spec:
  podSelector: {matchLabels: {app: queue}}
  ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}]}]
";

/// Asks as whoever has this kubeconfig.
fn explain(kubeconfig: &Path, from: &str, to: &str, port: &str) -> (Option<i32>, String, String) {
    let mut explain = Command::new(binary().expect("whydrop"));
    explain.args(["explain", "--from", from, "--to", to, "--port", port]);
    let Output { status, stdout, stderr } =
        explain.arg("--kubeconfig").arg(kubeconfig).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

/// An API server with the two namespaces, and a user with the role `view` in `shop`.
fn shop_and_backend() -> (Api, PathBuf) {
    let dev = User { name: "dev".to_owned(), groups: vec![], token: "of-the-developer".to_owned() };
    let settings = Settings { users: vec![dev], controllers: true, ..Settings::default() };
    let mut api = start(settings);
    let kubectl = api.kubectl().expect("kubectl");
    for namespace in ["shop", "backend"] {
        kubectl.run(["create", "namespace", namespace]).expect("a namespace");
        api.wait_service_account(namespace, "default").expect("its account");
    }
    api.apply(SHOP_AND_BACKEND).expect("applied");
    let binding =
        ["create", "rolebinding", "dev", "--clusterrole=view", "--user=dev", "-n", "shop"];
    kubectl.run(binding).expect("rights");
    let path = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies";
    until("rules of the role view", ROLES_WAIT, || {
        let answer = api.get(path, "of-the-developer")?;
        Ok(match answer.status {
            200 => Look::Seen(()),
            status => Look::NotYet(format!("{status} {}", answer.body)),
        })
    })
    .expect("rights");
    let kubeconfig = api.kubeconfig_for("dev", "of-the-developer").expect("a kubeconfig");
    (api, kubeconfig)
}

#[test]
fn the_role_view_in_one_namespace_answers_for_that_namespace() {
    let (api, dev) = shop_and_backend();
    let quiet = |from: &str, to: &str, port: &str, code: i32, says: &str| {
        let (status, out, err) = explain(&dev, from, to, port);
        assert_eq!((status, err.as_str()), (Some(code), ""), "{from} -> {to}: {out}");
        assert!(out.contains(says), "{from} -> {to}: {out}");
    };
    quiet("shop/web", "shop/db", "5432", 0, "passes");
    quiet("shop/web", "shop/db", "5433", 1, "port-mismatch");
    quiet("shop/db", "shop/deploy/cart", "80", 0, "passes");
    quiet("shop/deploy/cart", "shop/db", "5432", 1, "pod-selector-mismatch");
    // The namespace is read by its name, labels and all.
    quiet("shop/web", "shop/queue", "80", 1, "namespace-selector-mismatch");

    // One half, and who knows the other.
    let (status, out, err) = explain(&dev, "shop/web", "backend/pod-b", "80");
    assert_eq!(status, Some(1), "{out}");
    assert!(out.contains("egress of shop/web: no policy governs it"), "{out}");
    assert!(out.contains("you may not read namespace backend; ask its owner"), "{out}");
    assert_eq!(
        err,
        "whydrop: Not readable with your rights: namespace backend; everything in backend.\n"
    );
    let (_, out, _) = explain(&dev, "shop/db", "backend/svc/api", "80");
    assert!(out.contains("you may not read namespace backend; ask its owner"), "{out}");
    for text in [&out, &err] {
        assert!(!text.contains("synced"), "{text}");
        assert!(!text.contains("403"), "{text}");
    }
    // What hangs on the labels of a namespace that may not be read, and on nothing else.
    let (status, out, _) = explain(&dev, "backend/pod-b", "shop/queue", "80");
    assert_eq!(status, Some(1), "{out}");
    let hangs = "does namespace backend have label team=blue? That is unknown: you may not read it";
    assert!(out.contains(hangs), "{out}");
    let (status, out, _) = explain(&dev, "backend/pod-b", "shop/db", "5432");
    assert_eq!(status, Some(1), "{out}");
    assert!(out.contains("ingress of shop/db: denied"), "{out}");

    // Whose address it is, where one may look.
    quiet("shop/web", "shop/db", "5432", 0, "passes");
    let (status, out, err) = explain(&dev, "shop/web", "8.8.8.8", "443");
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(err.contains("8.8.8.8 is taken to be outside of the cluster"), "{err}");

    let (status, _, err) = explain(&dev, "shop/wep", "shop/db", "5432");
    assert_eq!(status, Some(2), "{err}");
    assert!(err.contains("no pod wep in namespace shop; there are: db, queue, web"), "{err}");
    drop(api);
}

#[test]
fn the_role_of_those_who_ask_reads_all_that_they_need() {
    let (api, dev) = shop_and_backend();
    let kubectl = api.kubectl().expect("kubectl");
    let role = repository("deploy/kustomize/explain/rbac.yaml");
    let role = std::fs::read_to_string(role).expect("the role");
    kubectl.apply(&role).expect("applied");
    let binding =
        ["create", "clusterrolebinding", "dev", "--clusterrole=whydrop-explain", "--user=dev"];
    kubectl.run(binding).expect("rights");
    until("rights", ROLES_WAIT, || {
        let answer = api.get("/api/v1/nodes", "of-the-developer")?;
        Ok(if answer.status == 200 { Look::Seen(()) } else { Look::NotYet(answer.body) })
    })
    .expect("rights");
    for (from, to, code) in [
        ("shop/web", "backend/pod-b", 0),
        ("backend/pod-b", "shop/queue", 0),
        ("backend/pod-b", "shop/db", 1),
        ("shop/web", "10.7.0.20", 0),
        ("shop/cronjob/none", "shop/db", 2),
        ("node/none", "shop/db", 2),
    ] {
        let (status, out, err) = explain(&dev, from, to, "5432");
        assert_eq!(status, Some(code), "{from} -> {to}: {out}{err}");
        assert!(!err.contains("Not readable"), "{from} -> {to}: {err}");
    }
}
