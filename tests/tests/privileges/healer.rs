//! What the healer asks of the API server, beside what its overlay grants it.

use std::{collections::BTreeSet, fs, net::TcpListener, time::Duration};

use serde_json::{Value, json};
use whydrop_tests::{
    kube::wait::{Look, until},
    repository,
    world::{
        World as _,
        agent::{Agent, whydrop},
        manifest::{documents, namespace},
        netns::{NAME, Node},
    },
};

use crate::rights::{Audit, Right, STORED, define, granted, owned_by, right};

const PORT: u16 = 8080;
const CLIENT: &str = "frontend/web";
const SERVER: &str = "backend/db";

/// From an incident's first packet, or a change, to what the healer does about it.
const HEAL_WAIT: Duration = Duration::from_secs(60);

/// A watch and an end that a test can wait for, and little that has to have worked before.
const TIMES: [&str; 6] = ["--watch-time", "20s", "--time-to-live", "25s", "--min-worked", "1s"];

/// For how long a client has its server, and over how many connections: some more than it must.
const HAD: Duration = Duration::from_millis(1_500);

/// What the healer asks for and does without: it reads a cluster as `explain` does, which remarks on more than
/// decides a connection's first packet, and looks at `DaemonSets` for a sign of who enforces policies; the groups
/// that are served and the nodes are others.
const REFUSED: [&str; 11] = [
    "list adminpolicybasedexternalroutes.k8s.ovn.org",
    "list apiservices.apiregistration.k8s.io",
    "list authorizationpolicies.policy.linkerd.io",
    "list authorizationpolicies.security.istio.io",
    "list customresourcedefinitions.apiextensions.k8s.io",
    "list daemonsets.apps",
    "list multi-networkpolicies.k8s.cni.cncf.io",
    "list mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "list serverauthorizations.policy.linkerd.io",
    "list servers.policy.linkerd.io",
    "list validatingwebhookconfigurations.admissionregistration.k8s.io",
];

/// What the log cannot show, and where it is shown instead.
fn is_shown_elsewhere(right: &Right) -> bool {
    let text = right.to_string();
    // Calico's kinds are written, and read again for that, where Calico's policies deny: `tests/tests/fleet/heal.rs`, on a real Felix.
    let is_write_of_calico = text.contains("projectcalico.org")
        && ["get ", "create ", "patch ", "delete "].iter().any(|verb| text.starts_with(verb));
    // Who applies what is not there yet is asked for this right as well, within the request that patches.
    let is_within_patch = text == "create networkpolicies.networking.k8s.io";
    // An Event that comes again within minutes is counted on.
    let is_again = text == "patch events.events.k8s.io";
    is_write_of_calico || is_within_patch || is_again
}

/// A healer with the rights of its overlay, which hears this agent; or the agents' logs.
fn healer(node: &Node, agent: Option<&Agent>) -> Agent {
    let server = node.server().expect("a server");
    let token = server.service_account_token("whydrop", "whydrop-heal").expect("a token");
    let kubeconfig = server.kubeconfig_for("healer", &token).expect("a kubeconfig");
    let mut command = whydrop(&node.network(NAME).expect("the node")).expect("whydrop");
    command.arg("heal").args(agent.map(|_| "-"));
    command.args(["--log-format", "json", "--namespace", "whydrop"]).args(TIMES);
    command.arg("--kubeconfig").arg(kubeconfig);
    match agent {
        Some(agent) => agent.spawn_reader(&mut command),
        None => Agent::spawn(&mut command),
    }
    .expect("a healer")
}

/// An agent's pod, whose log nobody has, for there is no kubelet.
fn asks_for_the_agents_logs(node: &mut Node, audit: &Audit) {
    let mut pod = owned_by("whydrop/whydrop-1", "apps/v1", "DaemonSet", "whydrop");
    pod["metadata"]["labels"] = json!({ "app.kubernetes.io/name": "whydrop" });
    node.run(&pod).expect("a pod");
    let healer = healer(node, None);
    let log = right("get", "", "pods/log");
    until("a log to be asked for", HEAL_WAIT, || {
        let (asked, _) = audit.read();
        Ok(if asked.contains(&log) { Look::Seen(()) } else { Look::NotYet(format!("{asked:?}")) })
    })
    .expect("it is");
    healer.stop().expect("it ends");
}

/// What the healer reports of this action, while the client goes on trying.
fn does(healer: &mut Agent, node: &Node, agent: &Agent, action: &str) {
    let to = node.address(SERVER, PORT).expect("an address");
    let done = until(action, HEAL_WAIT, || {
        node.connects(CLIENT, to)?;
        healer.catch_up()?;
        let is_it = |record: &Value| record["kind"] == "heal" && record["action"] == action;
        let is_done = healer.records().iter().any(|heard| is_it(&heard.record));
        Ok(if is_done { Look::Seen(()) } else { Look::NotYet(healer.said()) })
    });
    done.unwrap_or_else(|error| panic!("{error:#}\n{}", agent.said()));
}

fn annotate(node: &Node, namespace: &str, consent: &str) {
    let annotation = format!("whydrop.io/heal={consent}");
    let annotate = ["annotate", "--overwrite", "namespace", namespace, &annotation];
    node.kubectl_run(&annotate).expect("annotated");
}

#[test]
fn the_healers_roles_grant_what_it_asks_for_and_nothing_else() {
    let path = "deploy/kustomize/overlays/heal/rbac.yaml";
    let granted: BTreeSet<Right> =
        granted(path).into_iter().filter(|right| !is_shown_elsewhere(right)).collect();
    let audit = Audit::new("whydrop-heal");
    let mut node = Node::with_server_of(0, audit.settings()).expect("a node");
    let rights = fs::read_to_string(repository(path)).expect(path);
    node.apply(&rights).expect("the healer's rights");
    node.apply(&documents(&["frontend", "backend"].map(namespace))).expect("namespaces");
    let labels = json!({ "app": "web" });
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": { "name": "web", "namespace": "frontend" },
        "spec": { "replicas": 1, "selector": { "matchLabels": labels }, "template": {
            "metadata": { "labels": labels },
            "spec": { "containers": [{ "name": "c", "image": "example.com/c" }] } } },
        "status": { "replicas": 1, "readyReplicas": 1 },
    });
    node.apply(&set.to_string()).expect("a workload");
    for pod in [
        owned_by(CLIENT, "apps/v1", "StatefulSet", "web"),
        owned_by(SERVER, "apps/v1", "StatefulSet", "db"),
    ] {
        node.run(&pod).expect("a pod");
    }
    // Where Calico has no store of its own.
    define(&mut node, |group| group != STORED);
    asks_for_the_agents_logs(&mut node, &audit);

    let agent = node.agent(NAME).expect("it gets ready");
    let to = node.address(SERVER, PORT).expect("an address");
    let listen = || Ok(TcpListener::bind(to)?);
    let listener = node.pod(SERVER).and_then(|pod| pod.enter(listen)).expect("a server");
    let begun = std::time::Instant::now();
    while begun.elapsed() < HAD {
        assert!(node.connects(CLIENT, to).expect("a client"), "{CLIENT} does not reach it");
        listener.accept().expect("a connection");
    }
    annotate(&node, "frontend", "apply");
    annotate(&node, "backend", "dry-run");
    let mut healer = healer(&node, Some(&agent));
    node.stand_in(SERVER, false).expect("rules");
    let deny = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "default-deny", "namespace": "backend" },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress"] },
    });
    node.apply(&deny.to_string()).expect("a policy");
    does(&mut healer, &node, &agent, "proposed");
    // With a store: all is read again for what is applied, which nobody decides about until it is over.
    define(&mut node, |group| group == STORED);
    annotate(&node, "backend", "apply");
    does(&mut healer, &node, &agent, "applied");
    node.stand_in(SERVER, true).expect("rules");
    does(&mut healer, &node, &agent, "expired");
    audit.agrees_with(&granted, &REFUSED);
    healer.stop().expect("it ends");
    drop(listener);
}
