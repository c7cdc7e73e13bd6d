//! Policies of Calico's own, as its API server keeps them (`crd.projectcalico.org/v1`).
//!
//! Left out is what releases of Calico read differently: several policies of one order.

use serde_json::{Value, json};

use super::{APPS, Chance, DNS, PORTS, TEAMS};

/// Networks that hold some of the pods, if they get the addresses from 10.244.1.8, or those from
/// `fd00:10:244:1::8` on, in their order.
const NETS: [&str; 6] = [
    "10.244.1.8/31",
    "10.244.1.8/30",
    "10.244.0.0/16",
    "fd00:10:244:1::8/127",
    "fd00:10:244:1::8/126",
    "fd00:10:244::/48",
];
/// Between the orders of two policies.
const STEP: usize = 10;
/// Kubernetes policies have the order 1000; this is after them.
const AFTER_KUBERNETES: usize = 2000;

impl Chance {
    /// A set of addresses with labels, which rules select as they do pods.
    pub(super) fn network_set(&mut self, namespaces: &[&str]) -> Value {
        let nets = [self.random.one_of(&NETS), self.random.one_of(&NETS)];
        let mut metadata = json!({ "name": "set", "labels": { "app": self.random.one_of(&APPS) } });
        let kind = if self.random.is_one_in(2) {
            metadata["namespace"] = self.random.one_of(namespaces).into();
            "NetworkSet"
        } else {
            "GlobalNetworkSet"
        };
        json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": kind,
            "metadata": metadata, "spec": { "nets": nets },
        })
    }

    /// A policy of a namespace, or of all of them.
    pub(super) fn calico_policy(&mut self, namespaces: &[&str], number: usize) -> Value {
        let is_global = self.random.is_one_in(2);
        let mut spec = json!({ "selector": self.expression() });
        let order = (number + 1) * STEP;
        spec["order"] =
            (order + if self.random.is_one_in(2) { AFTER_KUBERNETES } else { 0 }).into();
        // Absent they mean both, since nobody defaults them in this version.
        let types: &[&str] = match self.random.below(5) {
            0 => &[],
            1 | 2 => &["Ingress"],
            3 => &["Egress"],
            _ => &["Ingress", "Egress"],
        };
        if !types.is_empty() {
            spec["types"] = json!(types);
        }
        for (direction, kind) in [("ingress", "Ingress"), ("egress", "Egress")] {
            if types.is_empty() || types.contains(&kind) {
                let rules =
                    (0..self.random.below(4)).map(|_| self.calico_rule(namespaces, direction));
                spec[direction] = rules.collect::<Vec<_>>().into();
            }
        }
        let (kind, metadata) = if is_global {
            // Pods of the cluster's own, and of the test that plays the case, have no such label.
            spec["selector"] = format!("has(app) && ({})", self.expression()).into();
            if self.random.is_one_in(2) {
                spec["namespaceSelector"] = self.namespace_expression(namespaces).into();
            }
            ("GlobalNetworkPolicy", json!({ "name": format!("default.policy-{number}") }))
        } else {
            let namespace = self.random.one_of(namespaces);
            let name = format!("default.policy-{number}");
            ("NetworkPolicy", json!({ "name": name, "namespace": namespace }))
        };
        json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": kind,
            "metadata": metadata, "spec": spec,
        })
    }

    fn calico_rule(&mut self, namespaces: &[&str], direction: &str) -> Value {
        let action = self.random.one_of(&["Allow", "Allow", "Allow", "Deny", "Deny", "Pass"]);
        let mut rule = json!({ "action": action });
        let (peer, own) = match direction {
            "ingress" => ("source", "destination"),
            _ => ("destination", "source"),
        };
        if !self.random.is_one_in(5) {
            rule[peer] = self.entity(namespaces);
        }
        if self.random.is_one_in(6) {
            // What a rule asks of the pod itself, beside the policy's own selector.
            rule[own]["selector"] = self.expression().into();
        }
        match self.random.below(5) {
            0 => rule["protocol"] = "TCP".into(),
            1 => rule["notProtocol"] = "UDP".into(),
            2 => {}
            3 if self.random.is_one_in(2) => {
                rule["protocol"] = "UDP".into();
                rule["destination"]["ports"] = json!([DNS]);
            }
            which => {
                rule["protocol"] = "TCP".into();
                let field = if which == 3 { "ports" } else { "notPorts" };
                rule["destination"][field] = self.calico_ports();
            }
        }
        rule
    }

    fn entity(&mut self, namespaces: &[&str]) -> Value {
        match self.random.below(6) {
            0 => json!({ "nets": [self.random.one_of(&NETS)] }),
            1 => json!({ "notNets": [self.random.one_of(&NETS)] }),
            2 => json!({ "notSelector": self.expression() }),
            3 => json!({ "selector": self.expression() }),
            4 => json!({ "namespaceSelector": self.namespace_expression(namespaces) }),
            _ => json!({
                "selector": self.expression(),
                "namespaceSelector": self.namespace_expression(namespaces),
            }),
        }
    }

    fn calico_ports(&mut self) -> Value {
        match self.random.below(4) {
            0 => json!(["main"]),
            1 => json!(["8000:8443"]),
            2 => json!([self.random.one_of(&PORTS), self.random.one_of(&PORTS)]),
            _ => json!([self.random.one_of(&PORTS)]),
        }
    }

    /// An expression over the labels of pods.
    fn expression(&mut self) -> String {
        let (app, other) = (self.random.one_of(&APPS), self.random.one_of(&APPS));
        match self.random.below(10) {
            0 => "all()".into(),
            1 | 2 => format!("app == '{app}'"),
            3 => format!("app != \"{app}\""),
            4 => format!("app in {{'{app}', '{other}'}}"),
            5 => format!("app not in {{'{app}'}}"),
            6 => format!("has(canary) && app == '{app}'"),
            7 => format!("!has(canary) || app starts with '{}'", &app[..1]),
            8 => format!("app ends with '{}'", &app[1..]),
            _ => format!("!(app contains '{}' && has(canary))", &app[1..]),
        }
    }

    /// An expression over the labels of namespaces.
    fn namespace_expression(&mut self, namespaces: &[&str]) -> String {
        let team = self.random.one_of(&TEAMS);
        match self.random.below(4) {
            0 => "all()".into(),
            1 => format!("team == '{team}'"),
            2 => format!("has(team) && team != '{team}'"),
            _ => format!("projectcalico.org/name == '{}'", self.random.one_of(namespaces)),
        }
    }
}
