//! What is there, and what happens to it, from a seed.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{kube::node::BUSYBOX, play::random::Random, world::manifest};

/// The namespaces.
const NAMESPACES: [&str; 3] = ["churn-a", "churn-b", "churn-c"];
/// The clients of each.
const CLIENTS: [&str; 2] = ["one", "two"];
/// The Deployments of each, each behind a Service of its name.
const SERVERS: [&str; 2] = ["api", "web"];
/// The names of policies, which come, change and go.
const POLICIES: [&str; 3] = ["first", "second", "third"];

/// One thing that happens.
#[derive(Debug, Clone)]
pub enum Action {
    /// An object is applied.
    Apply(Value),
    /// A command of kubectl's.
    Kubectl(Vec<String>),
    /// A client's pod is made again.
    Renew(String, Value),
}

/// What becomes of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PolicyChange {
    /// It is there, as it is written now.
    Applied,
    /// It is not there.
    Deleted,
}

impl Action {
    /// What it does to a policy of its namespace.
    pub(super) fn changes_policy(&self, name: &str) -> Option<PolicyChange> {
        match self {
            Self::Apply(object) => {
                let is_it = object["kind"] == "NetworkPolicy" && object["metadata"]["name"] == name;
                is_it.then_some(PolicyChange::Applied)
            }
            Self::Kubectl(words) => {
                let says = |word: &str| words.iter().any(|own| own == word);
                let is_it = says("networkpolicy") && (says("--all") || says(name));
                is_it.then_some(PolicyChange::Deleted)
            }
            Self::Renew(..) => None,
        }
    }

    /// The namespace that it is about.
    pub(super) fn namespace(&self) -> &str {
        match self {
            Self::Apply(object) | Self::Renew(_, object) => {
                object["metadata"]["namespace"].as_str().unwrap_or_default()
            }
            Self::Kubectl(words) => {
                let place = words.iter().position(|word| word == "-n");
                place.and_then(|place| words.get(place + 1)).map_or("", String::as_str)
            }
        }
    }
}

/// What happens next, and what is in force.
pub(super) struct Plan {
    random: Random,
}

/// `namespace, name` of every Deployment.
pub(super) fn deployments() -> Vec<(String, String)> {
    let all = NAMESPACES.iter().flat_map(|namespace| SERVERS.map(|name| (*namespace, name)));
    all.map(|(namespace, name)| (namespace.to_owned(), name.to_owned())).collect()
}

/// Every client.
pub(super) fn clients() -> Vec<String> {
    let all =
        NAMESPACES.iter().flat_map(|namespace| CLIENTS.map(|name| format!("{namespace}/{name}")));
    all.collect()
}

/// What a client dials: the Services of its own namespace, and one of the next.
pub(super) fn dialled_by(client: &str) -> Vec<SocketAddr> {
    let own = NAMESPACES.iter().position(|name| client.starts_with(name)).unwrap_or_default();
    let next = (own + 1) % NAMESPACES.len();
    vec![address(own, 0), address(own, 1), address(next, 0)]
}

fn address(namespace: usize, server: usize) -> SocketAddr {
    let last = u8::try_from(10 * namespace + server + 10).unwrap_or(u8::MAX);
    (Ipv4Addr::new(10, 96, 77, last), 80).into()
}

fn client_pod(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace, "labels": { "role": "client", "app": name },
        },
        "spec": spec("exec sleep infinity"),
    })
}

fn spec(command: &str) -> Value {
    json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "c", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["sh", "-c", command],
        }],
    })
}

fn deployment(namespace: &str, name: &str) -> Value {
    let labels = json!({ "app": name, "role": "server", "tier": "back" });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": labels },
                "spec": spec("exec httpd -f -p 8080 -h /www"),
            },
        },
    })
}

fn service(namespace: usize, server: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": SERVERS[server], "namespace": NAMESPACES[namespace] },
        "spec": {
            "clusterIP": address(namespace, server).ip(),
            "selector": { "app": SERVERS[server] },
            "ports": [{ "port": 80, "targetPort": 8080 }],
        },
    })
}

fn kubectl(words: &[&str]) -> Action {
    Action::Kubectl(words.iter().map(|word| (*word).to_owned()).collect())
}

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed) }
    }

    /// What is there in the beginning.
    pub(super) fn objects() -> Vec<Value> {
        let mut objects: Vec<Value> = NAMESPACES.iter().copied().map(manifest::namespace).collect();
        for (place, namespace) in NAMESPACES.iter().enumerate() {
            objects.extend(CLIENTS.map(|name| client_pod(namespace, name)));
            objects.extend(SERVERS.map(|name| deployment(namespace, name)));
            objects.extend([0, 1].map(|server| service(place, server)));
        }
        objects
    }

    /// What happens next, and how long it is left at that.
    pub(super) fn next(&mut self) -> (Action, Duration) {
        let pause = Duration::from_secs(self.random.within(1..=8) as u64);
        (self.action(), pause)
    }

    fn action(&mut self) -> Action {
        let place = self.random.below(NAMESPACES.len());
        let namespace = NAMESPACES[place];
        let (server, client) = (self.random.one_of(&SERVERS), self.random.one_of(&CLIENTS));
        let deployment = format!("deployment/{server}");
        match self.random.below(20) {
            0..=5 => Action::Apply(self.policy(namespace)),
            6..=9 => {
                let name = self.random.one_of(&POLICIES);
                kubectl(&["delete", "networkpolicy", name, "-n", namespace, "--ignore-not-found"])
            }
            10 => kubectl(&["delete", "networkpolicy", "--all", "-n", namespace]),
            11 => {
                let label = self.random.one_of(&["team=blue", "team-"]);
                kubectl(&["label", "pod", client, "-n", namespace, "--overwrite", label])
            }
            12 => kubectl(&["rollout", "restart", &deployment, "-n", namespace]),
            13 => {
                let tier = self.random.one_of(&["back", "front"]);
                let patch = json!({ "spec": { "template": { "metadata": { "labels": { "tier": tier } } } } });
                kubectl(&["patch", &deployment, "-n", namespace, "-p", &patch.to_string()])
            }
            14 | 15 => {
                let replicas = format!("--replicas={}", self.random.one_of(&[0, 1, 2, 3]));
                kubectl(&["scale", &deployment, "-n", namespace, &replicas])
            }
            16 => {
                let app = format!("app={server}");
                let delete = ["delete", "pod", "-l", &app, "-n", namespace];
                let how = self.random.one_of(&[
                    ["--wait=false", "--grace-period=1"],
                    ["--force", "--grace-period=0"],
                ]);
                kubectl(&[&delete[..], &how].concat())
            }
            17 => {
                let app = self.random.one_of(&["api", "web", "nobody"]);
                let patch = json!({ "spec": { "selector": { "app": app } } });
                kubectl(&["patch", "service", server, "-n", namespace, "-p", &patch.to_string()])
            }
            18 => Action::Renew(format!("{namespace}/{client}"), client_pod(namespace, client)),
            _ => {
                let label = self.random.one_of(&["open=yes", "open-"]);
                kubectl(&["label", "namespace", namespace, "--overwrite", label, "-n", namespace])
            }
        }
    }

    fn policy(&mut self, namespace: &str) -> Value {
        let name = self.random.one_of(&POLICIES);
        let subject = match self.random.below(5) {
            0 => json!({}),
            1 => json!({ "matchLabels": { "role": "client" } }),
            2 => json!({ "matchLabels": { "tier": "back" } }),
            _ => json!({ "matchLabels": { "app": self.random.one_of(&SERVERS) } }),
        };
        let peer = match self.random.below(6) {
            0 => json!({ "podSelector": {} }),
            1 => json!({ "podSelector": { "matchLabels": { "app": "one" } } }),
            2 => json!({ "podSelector": { "matchLabels": { "team": "blue" } } }),
            3 => json!({ "namespaceSelector": { "matchLabels": { "open": "yes" } } }),
            4 => json!({ "namespaceSelector": {} }),
            _ => json!({ "ipBlock": { "cidr": "203.0.113.0/24" } }),
        };
        let mut spec = json!({ "podSelector": subject });
        let (kind, field, end) = match self.random.is_one_in(4) {
            true => ("Egress", "egress", "to"),
            false => ("Ingress", "ingress", "from"),
        };
        let is_closed = self.random.is_one_in(3);
        spec["policyTypes"] = json!([kind]);
        spec[field] = if is_closed { json!([]) } else { json!([{ end: [peer] }]) };
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": { "name": name, "namespace": namespace }, "spec": spec,
        })
    }

    /// What makes everything pass again.
    pub(super) fn restore() -> Vec<Action> {
        let mut actions = Vec::new();
        for (place, namespace) in NAMESPACES.iter().enumerate() {
            actions.push(kubectl(&["delete", "networkpolicy", "--all", "-n", namespace]));
            for (server, name) in SERVERS.iter().enumerate() {
                actions.push(Action::Apply(service(place, server)));
                let deployment = format!("deployment/{name}");
                actions.push(kubectl(&["scale", &deployment, "-n", namespace, "--replicas=2"]));
            }
        }
        actions
    }
}
