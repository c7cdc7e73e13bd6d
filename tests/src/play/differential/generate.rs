//! Clusters from a seed: namespaces, pods, and policies of what [`Features`] has of `NetworkPolicy`.
//!
//! Left out is what enforcers read differently on purpose: `ipBlock` against addresses of pods, and
//! rules for a direction that `policyTypes` leaves out.

mod calico;
pub(super) mod services;

use std::fmt;

use serde_json::{Value, json};

use crate::play::random::Random;

/// The ports that every pod listens on.
pub const PORTS: [u16; 3] = [80, 8080, 8443];

/// The port on which every pod is a resolver, over UDP.
pub const DNS: u16 = 53;

const NAMESPACES: [&str; 3] = ["blue", "green", "red"];
const TEAMS: [&str; 2] = ["core", "edge"];
const APPS: [&str; 3] = ["api", "db", "web"];
/// Of these two, a pod calls one `main`: the same name is another port elsewhere.
const MAIN: [u16; 2] = [80, 8080];
/// How many pods a cluster has: pairs of them, times ports, are its traffic.
const PODS: std::ops::RangeInclusive<usize> = 4..=6;
/// How many policies: fewer leave most open, more close all.
const POLICIES: std::ops::RangeInclusive<usize> = 2..=5;

/// What an enforcer knows of `NetworkPolicy` that not every one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// `endPort`; without it, `port` alone.
    pub end_port: bool,
    /// A port's name in a rule of egress, where pods give it to different ports; without it, names
    /// are in rules of ingress alone.
    pub egress_names: bool,
    /// Calico's own policies besides.
    pub calico: bool,
}

/// A cluster, and all that is asked of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// What it was made from.
    pub seed: u64,
    /// The namespaces' manifests.
    pub namespaces: Vec<Value>,
    /// The pods.
    pub pods: Vec<CasePod>,
    /// The policies' manifests, and those of what they refer to.
    pub policies: Vec<Value>,
}

/// A pod that is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct CasePod {
    /// Its namespace.
    pub namespace: &'static str,
    /// Its name, which no other pod has, whatever its namespace.
    pub name: String,
    /// Its manifest, without a node and a status.
    pub manifest: Value,
}

impl fmt::Display for CasePod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} {}", self.namespace, self.name, self.manifest["metadata"]["labels"])
    }
}

impl Case {
    /// The cluster of a seed: the same one, whenever and wherever.
    pub fn generate(seed: u64, features: Features) -> Self {
        let mut chance = Chance { random: Random::new(seed), features };
        let count = 2 + chance.random.below(2);
        let namespaces = &NAMESPACES[..count];
        let pods = (0..chance.random.within(PODS))
            .map(|number| chance.pod(namespaces[number % count], number))
            .collect();
        let mut policies: Vec<Value> = (0..chance.random.within(POLICIES))
            .map(|number| chance.any_policy(namespaces, number))
            .collect();
        if features.calico && chance.random.is_one_in(2) {
            policies.push(chance.network_set(namespaces));
        }
        let namespaces = namespaces.iter().map(|name| chance.namespace(name)).collect();
        Self { seed, namespaces, pods, policies }
    }
}

/// What makes a cluster by chance.
struct Chance {
    random: Random,
    features: Features,
}

impl Chance {
    fn namespace(&mut self, name: &str) -> Value {
        let labels = json!({ "team": self.random.one_of(&TEAMS) });
        let metadata = json!({ "name": name, "labels": labels });
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata })
    }

    fn pod(&mut self, namespace: &'static str, number: usize) -> CasePod {
        let name = format!("pod-{number}");
        let mut labels = json!({ "app": self.random.one_of(&APPS) });
        if self.random.is_one_in(2) {
            labels["canary"] = "true".into();
        }
        let port = json!({ "name": "main", "containerPort": self.random.one_of(&MAIN) });
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": namespace, "labels": labels },
            "spec": { "containers": [{ "name": "c", "image": "example.com/c", "ports": [port] }] },
        });
        CasePod { namespace, name, manifest }
    }

    fn any_policy(&mut self, namespaces: &[&str], number: usize) -> Value {
        if self.features.calico && self.random.is_one_in(2) {
            self.calico_policy(namespaces, number)
        } else {
            self.policy(namespaces, number)
        }
    }

    fn policy(&mut self, namespaces: &[&str], number: usize) -> Value {
        let metadata = json!({ "name": format!("policy-{number}"), "namespace": self.random.one_of(namespaces) });
        let mut spec = json!({ "podSelector": self.pods() });
        // Absent they mean ingress, and egress where there are rules for it.
        let types: &[&str] = match self.random.below(5) {
            0 => &[],
            1 | 2 => &["Ingress"],
            3 => &["Egress"],
            _ => &["Ingress", "Egress"],
        };
        if !types.is_empty() {
            spec["policyTypes"] = json!(types);
        }
        if types.is_empty() || types.contains(&"Ingress") {
            self.add_rules(&mut spec, namespaces, "ingress", "from");
        }
        if types.contains(&"Egress") || (types.is_empty() && self.random.is_one_in(2)) {
            self.add_rules(&mut spec, namespaces, "egress", "to");
        }
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": metadata, "spec": spec,
        })
    }

    fn add_rules(&mut self, spec: &mut Value, namespaces: &[&str], direction: &str, peers: &str) {
        let rules: Vec<Value> =
            (0..self.random.below(3)).map(|_| self.rule(namespaces, peers)).collect();
        // An empty list and none at all mean the same, and both are written.
        if !rules.is_empty() || self.random.is_one_in(2) {
            spec[direction] = rules.into();
        }
    }

    fn rule(&mut self, namespaces: &[&str], peers: &str) -> Value {
        let mut rule = json!({});
        if !self.random.is_one_in(5) {
            let all: Vec<Value> =
                (0..=self.random.below(2)).map(|_| self.peer(namespaces)).collect();
            rule[peers] = all.into();
        }
        if !self.random.is_one_in(3) {
            let all: Vec<Value> =
                (0..=self.random.below(2)).map(|_| self.port(peers == "to")).collect();
            rule["ports"] = all.into();
        }
        rule
    }

    fn peer(&mut self, namespaces: &[&str]) -> Value {
        match self.random.below(3) {
            0 => json!({ "podSelector": self.pods() }),
            1 => json!({ "namespaceSelector": self.namespaces(namespaces) }),
            _ => json!({
                "podSelector": self.pods(),
                "namespaceSelector": self.namespaces(namespaces),
            }),
        }
    }

    fn pods(&mut self) -> Value {
        let app = self.random.one_of(&APPS);
        match self.random.below(7) {
            0 => json!({}),
            1 | 2 => json!({ "matchLabels": { "app": app } }),
            3 => json!({ "matchLabels": { "app": app, "canary": "true" } }),
            4 => requires("app", "In", &[app, self.random.one_of(&APPS)]),
            5 => requires("app", "NotIn", &[app]),
            _ if self.random.is_one_in(2) => requires("canary", "Exists", &[]),
            _ => requires("canary", "DoesNotExist", &[]),
        }
    }

    fn namespaces(&mut self, namespaces: &[&str]) -> Value {
        let team = self.random.one_of(&TEAMS);
        match self.random.below(5) {
            0 => json!({}),
            1 | 2 => json!({ "matchLabels": { "team": team } }),
            3 => requires("team", "NotIn", &[team]),
            _ => {
                let name = self.random.one_of(namespaces);
                json!({ "matchLabels": { "kubernetes.io/metadata.name": name } })
            }
        }
    }

    fn port(&mut self, is_egress: bool) -> Value {
        match self.random.below(6) {
            0 => json!({ "protocol": "TCP" }),
            1 if self.features.egress_names || !is_egress => {
                json!({ "port": "main", "protocol": "TCP" })
            }
            2 if self.features.end_port => {
                json!({ "port": 8000, "endPort": 8443, "protocol": "TCP" })
            }
            // For resolvers, and for nobody: no other port is tried over UDP.
            3 => json!({ "port": self.random.one_of(&[DNS, DNS, PORTS[0]]), "protocol": "UDP" }),
            // Absent it means TCP.
            4 => json!({ "port": self.random.one_of(&PORTS) }),
            _ => json!({ "port": self.random.one_of(&PORTS), "protocol": "TCP" }),
        }
    }
}

fn requires(key: &str, operator: &str, values: &[&str]) -> Value {
    let mut expression = json!({ "key": key, "operator": operator });
    if !values.is_empty() {
        expression["values"] = json!(values);
    }
    json!({ "matchExpressions": [expression] })
}
