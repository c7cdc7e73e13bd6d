//! What deploy/ holds is what a cluster takes, grants what it says and nothing else, and is the same
//! whichever way it is installed; the image is what the manifests name.

mod pods;
mod rights;
mod same;
mod values;

use std::process::{Command, Output};

use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::PodSpec};
use serde::de::DeserializeOwned;
use serde_json::Value;
use whydrop_tests::{
    kube::parts::{HELM, KUSTOMIZE},
    repository,
};

fn helm(arguments: &[&str]) -> Output {
    let mut helm = Command::new(HELM.program().expect("helm"));
    helm.args(arguments).arg(repository("deploy/helm/whydrop"));
    // Not what the user who runs this has set up for theirs.
    let home = tempfile::tempdir().expect("a folder");
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        helm.env(name, home.path());
    }
    helm.output().expect("run helm")
}

/// What a command printed that went well.
fn printed(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn objects(yaml: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(yaml).expect("YAML")
}

/// What the chart makes with these arguments.
fn chart(arguments: &[&str]) -> Vec<Value> {
    let template = ["template", "--namespace", "whydrop", "--name-template", "whydrop"];
    objects(&printed(helm(&[&template, arguments].concat())))
}

/// What kustomize builds of a folder of its own.
fn kustomized(folder: &str) -> Vec<Value> {
    let mut kustomize = Command::new(KUSTOMIZE.program().expect("kustomize"));
    kustomize.arg("build").arg(repository("deploy/kustomize").join(folder));
    objects(&printed(kustomize.output().expect("run kustomize")))
}

fn base() -> Vec<Value> {
    kustomized("base")
}

/// The overlay for Prometheus.
fn metrics_overlay() -> Vec<Value> {
    kustomized("overlays/metrics")
}

/// The overlay that sends to the gateway.
fn otlp_overlay() -> Vec<Value> {
    kustomized("overlays/otlp")
}

/// The gateway of a fleet.
fn gateway() -> Vec<Value> {
    kustomized("../collector")
}

/// The overlay that keeps open the paths of its own pods.
fn self_policy_overlay() -> Vec<Value> {
    kustomized("overlays/self-policy")
}

/// The overlay with a seccomp profile of its own.
fn seccomp_overlay() -> Vec<Value> {
    kustomized("overlays/seccomp")
}

/// The overlay with a healer.
fn heal_overlay() -> Vec<Value> {
    kustomized("overlays/heal")
}

/// What whoever asks by hand may be allowed to read.
fn explain_folder() -> Vec<Value> {
    kustomized("explain")
}

/// The base's object of a kind.
fn of_kind<T: DeserializeOwned>(kind: &str) -> T {
    let found = base().into_iter().find(|object| object["kind"] == kind);
    serde_json::from_value(found.expect(kind)).expect(kind)
}

fn base_pod() -> PodSpec {
    let daemons: DaemonSet = of_kind("DaemonSet");
    daemons.spec.template.spec.expect("a pod's spec")
}
