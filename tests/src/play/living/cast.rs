//! The pods of a situation: each answers HTTP on a port of its own, or connects to somebody, or both.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::kube::node::BUSYBOX;

/// The annotation of pods whose readiness nobody waits for.
pub(super) const NEVER_READY: &str = "living/never-ready";

/// What a pod, or each pod of a Deployment, is and does.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Role {
    labels: BTreeMap<String, String>,
    /// Of a Deployment.
    #[serde(default = "one")]
    replicas: u32,
    /// `ADDRESS PORT` that it connects to every second, and waits two for an answer.
    dials: Option<String>,
    /// How long it may take to end.
    #[serde(default)]
    grace_seconds: u32,
    /// Whether it ever gets ready.
    #[serde(default = "yes")]
    ready: bool,
    /// How a Deployment's pods are replaced.
    strategy: Option<Value>,
}

const fn one() -> u32 {
    1
}

const fn yes() -> bool {
    true
}

impl Role {
    /// A pod that does this.
    pub(super) fn pod(&self, key: &str) -> Value {
        let (namespace, name) = key.split_once('/').unwrap_or(("default", key));
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": namespace, "labels": self.labels,
                "annotations": self.annotations(),
            },
            "spec": self.spec(),
        })
    }

    /// A Deployment of pods that do this.
    pub(super) fn deployment(&self, key: &str) -> Value {
        let (namespace, name) = key.split_once('/').unwrap_or(("default", key));
        let mut labels = json!(self.labels);
        labels["deployment"] = name.into();
        let mut deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": name, "namespace": namespace },
            "spec": {
                "replicas": self.replicas,
                "selector": { "matchLabels": { "deployment": name } },
                "template": {
                    "metadata": { "labels": labels, "annotations": self.annotations() },
                    "spec": self.spec(),
                },
            },
        });
        if let Some(strategy) = &self.strategy {
            deployment["spec"]["strategy"] = strategy.clone();
        }
        deployment
    }

    fn annotations(&self) -> Value {
        json!({ NEVER_READY: (!self.ready).to_string() })
    }

    fn spec(&self) -> Value {
        let serve = "httpd -p 8080 -h /www";
        let dials = self.dials.as_ref();
        let then = dials.map_or_else(
            || "exec sleep infinity".to_owned(),
            |to| format!("while sleep 1; do nc -w 2 {to} </dev/null; done"),
        );
        let mut container = json!({
            "name": "c", "image": BUSYBOX, "imagePullPolicy": "Never",
            "command": ["sh", "-c", format!("{serve}; {then}")],
        });
        if !self.ready {
            container["readinessProbe"] = json!({ "exec": { "command": ["false"] } });
        }
        json!({
            "terminationGracePeriodSeconds": self.grace_seconds,
            "containers": [container],
        })
    }
}
