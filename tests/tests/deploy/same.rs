//! The chart makes what the folders of kustomize hold, object by object, and what the API knows.

use std::{collections::BTreeMap, fs, process::Command};

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, StatefulSet},
    core::v1::{ConfigMap, Namespace, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use whydrop_tests::world::{agent::binary, manifest};

use crate::{
    base, base_pod, chart, explain_folder, gateway, heal_overlay, helm, metrics_overlay, of_kind,
    otlp_overlay, printed, self_policy_overlay,
};

/// What Helm's conventions add to labels and annotations, and that says nothing of what runs.
const HELM_WORDS: [&str; 5] = [
    "checksum/config",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "helm.sh/chart",
];

/// Objects as the API understands them, by kind and name.
pub(crate) fn accepted(objects: &[Value]) -> BTreeMap<(String, String), Value> {
    let accepted = objects.iter().map(|object| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = (text(&object["kind"]), text(&object["metadata"]["name"]));
        let known = match (text(&object["apiVersion"]).as_str(), name.0.as_str()) {
            ("v1", "Namespace") => strictly::<Namespace>(object),
            ("v1", "ConfigMap") => strictly::<ConfigMap>(object),
            ("v1", "ServiceAccount") => strictly::<ServiceAccount>(object),
            ("v1", "Service") => strictly::<Service>(object),
            ("apps/v1", "DaemonSet") => strictly::<DaemonSet>(object),
            ("apps/v1", "StatefulSet") => strictly::<StatefulSet>(object),
            ("apps/v1", "Deployment") => strictly::<Deployment>(object),
            ("rbac.authorization.k8s.io/v1", "Role") => strictly::<Role>(object),
            ("rbac.authorization.k8s.io/v1", "RoleBinding") => strictly::<RoleBinding>(object),
            ("rbac.authorization.k8s.io/v1", "ClusterRole") => strictly::<ClusterRole>(object),
            ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
                strictly::<ClusterRoleBinding>(object)
            }
            ("networking.k8s.io/v1", "NetworkPolicy") => strictly::<NetworkPolicy>(object),
            // The API server checks its fields.
            ("monitoring.coreos.com/v1", "PodMonitor") => object.clone(),
            (version, kind) => panic!("{version} {kind} is not known here"),
        };
        (name, known)
    });
    accepted.collect()
}

/// Decodes, and fails over a field that the type does not have, as the API server does.
fn strictly<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
    let known: T = serde_json::from_value(object.clone())
        .unwrap_or_else(|error| panic!("{error} in {object:#}"));
    let known = serde_json::to_value(known).expect("JSON");
    if let Some(path) = lost(object, &known) {
        panic!("the API has no {path} as in {object:#}");
    }
    known
}

/// The path of something that is given and not known.
fn lost(given: &Value, known: &Value) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given.iter().find_map(|(name, value)| {
            let path = match known.get(name) {
                Some(known) => lost(value, known)?,
                None if value.is_null() => return None,
                None => String::new(),
            };
            Some(format!(".{name}{path}"))
        }),
        (Value::Array(given), Value::Array(known)) if given.len() == known.len() => given
            .iter()
            .zip(known)
            .enumerate()
            .find_map(|(i, (given, known))| Some(format!("[{i}]{}", lost(given, known)?))),
        (given, known) => (given != known).then(|| format!(": {given} became {known}")),
    }
}

/// Takes away what only Helm sets.
fn without_helm(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !HELM_WORDS.contains(&name.as_str()));
            fields.values_mut().for_each(without_helm);
            fields.retain(|name, value| name != "annotations" || *value != json!({}));
        }
        Value::Array(items) => items.iter_mut().for_each(without_helm),
        _ => {}
    }
}

/// A chart's objects are a folder's.
fn assert_same(chart: &[Value], folder: &[Value]) {
    let mut folder = accepted(folder);
    // Helm makes the namespace itself (--create-namespace), and no chart labels it.
    assert!(folder.remove(&("Namespace".into(), "whydrop".into())).is_some(), "no Namespace");
    let mut chart = accepted(chart);
    chart.values_mut().for_each(without_helm);
    assert_eq!(chart.keys().collect::<Vec<_>>(), folder.keys().collect::<Vec<_>>());
    for (name, object) in &folder {
        assert_eq!(chart[name], *object, "{name:?}: left the chart's, right the folder's");
    }
}

#[test]
fn the_chart_passes_helms_own_checks() {
    printed(helm(&["lint", "--strict"]));
}

#[test]
fn the_chart_makes_what_the_base_holds() {
    assert_same(&chart(&[]), &base());
}

#[test]
fn the_chart_with_metrics_makes_what_the_overlay_holds() {
    let set = "metrics.enabled=true,metrics.podMonitor.enabled=true";
    let overlay = metrics_overlay();
    assert_same(&chart(&["--set", set]), &overlay);
    // Prometheus finds a port by the name that the container gives it.
    let kind = |kind| overlay.iter().find(|object| object["kind"] == kind).expect(kind);
    let endpoint = &kind("PodMonitor")["spec"]["podMetricsEndpoints"][0];
    let container = &kind("DaemonSet")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(endpoint["port"], container["ports"][0]["name"]);
}

#[test]
fn the_chart_with_the_gateways_endpoint_makes_what_the_overlay_holds() {
    let set = "otlp.endpoint=http://otel-gateway.whydrop:4318";
    assert_same(&chart(&["--set", set]), &otlp_overlay());
    // The name and the port are those of the gateway's Service, and lead to its container.
    let objects = accepted(&gateway());
    let service = &objects[&("Service".to_owned(), "otel-gateway".to_owned())];
    assert_eq!(service["metadata"]["namespace"], "whydrop");
    let port = &service["spec"]["ports"][1];
    assert_eq!((&port["port"], &port["targetPort"]), (&json!(4318), &json!("http")));
    let gateway = &objects[&("StatefulSet".to_owned(), "otel-gateway".to_owned())];
    let pod = &gateway["spec"]["template"];
    assert_eq!(service["spec"]["selector"], pod["metadata"]["labels"]);
    let listens = &pod["spec"]["containers"][0]["ports"][1];
    assert_eq!((&listens["name"], &listens["containerPort"]), (&json!("http"), &json!(4318)));
}

#[test]
fn the_chart_with_a_policy_makes_what_the_overlay_holds() {
    assert_same(&chart(&["--set", "selfPolicy.enabled=true"]), &self_policy_overlay());
}

#[test]
fn the_chart_has_the_role_of_those_who_ask_where_it_is_wanted() {
    let name = ("ClusterRole".to_owned(), "whydrop-explain".to_owned());
    let folder = accepted(&explain_folder());
    assert_eq!(folder.keys().collect::<Vec<_>>(), [&name], "it is bound to nobody");
    let mut chart = accepted(&chart(&["--set", "explainRole.create=true"]));
    chart.values_mut().for_each(without_helm);
    assert_eq!(chart[&name], folder[&name]);
    assert_eq!(chart.len(), accepted(&base()).len(), "the base has a Namespace, and this the role");
}

#[test]
fn the_policy_keeps_open_what_others_close() {
    let mut collector = manifest::pod("whydrop/collector");
    collector["metadata"]["labels"] = json!({ "app.kubernetes.io/name": "whydrop" });
    let collector = manifest::running(collector, "worker-2", &[[10, 7, 0, 20].into()]);
    let node = manifest::node("worker-1", "10.7.0.0/24", [192, 168, 77, 2].into());
    let deny = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "deny-all", "namespace": "whydrop"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
    });
    let flow = |from: &str, to: &str, port: u16, expect: &str| json!({"from": from, "to": to, "port": port, "expect": expect});
    let flows = json!([
        flow("node/worker-1", "whydrop/collector", 4317, "allow"),
        flow("node/worker-1", "whydrop/collector", 4318, "allow"),
        flow("node/worker-1", "whydrop/collector", 8888, "deny"),
        flow("whydrop/collector", "192.0.2.1", 6443, "allow"),
        flow("whydrop/collector", "192.0.2.1", 53, "allow"),
        flow("whydrop/collector", "192.0.2.1", 80, "deny"),
    ]);
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, value: Value| {
        let path = folder.path().join(name);
        fs::write(&path, value.to_string()).expect("write");
        path
    };
    let mut items = self_policy_overlay();
    items.extend([node, deny, collector]);
    let manifests = write("m.json", json!({"apiVersion": "v1", "kind": "List", "items": items}));
    let flows = write("f.json", flows);
    let mut check = Command::new(binary().expect("whydrop"));
    check.arg("check").arg("-f").arg(manifests).arg("--flows").arg(flows);
    printed(check.output().expect("run whydrop"));
}

#[test]
fn the_chart_with_a_healer_makes_what_the_overlay_holds() {
    let overlay = heal_overlay();
    assert_same(&chart(&["--set", "heal.enabled=true"]), &overlay);
    let of_base = |object: &&Value| base().contains(object);
    let unchanged = overlay.iter().filter(of_base).count();
    assert_eq!(unchanged, base().len() - 1, "but for the form of the records");
    let found = overlay.iter().find(|object| object["kind"] == "Deployment").expect("a healer");
    let healer: Deployment = serde_json::from_value(found.clone()).expect("a Deployment");
    let pod = healer.spec.template.spec.expect("a pod");
    assert_eq!((pod.host_network, pod.host_pid, &pod.volumes), (None, None, &None));
    assert_eq!(pod.security_context.expect("a context").run_as_non_root, Some(true));
    let [container] = &pod.containers[..] else { panic!("one container") };
    assert_eq!(container.image, base_pod().containers[0].image, "the same image");
    let security = container.security_context.as_ref().expect("a security context");
    let capabilities = security.capabilities.as_ref().expect("capabilities");
    assert_eq!(
        (&capabilities.add, capabilities.drop.as_deref()),
        (&None, Some(&["ALL".into()][..]))
    );
    assert_eq!(security.read_only_root_filesystem, Some(true));
    assert_eq!(security.allow_privilege_escalation, Some(false));
    // Its pods are none of the agents', whose logs are read by this very label.
    let labels = healer.metadata.labels.expect("labels");
    let agents = container.args.iter().flatten().find_map(|arg| arg.strip_prefix("--selector="));
    let (key, value) = agents.and_then(|agents| agents.split_once('=')).expect("a selector");
    let daemons: DaemonSet = of_kind("DaemonSet");
    let template = daemons.spec.template.metadata.expect("metadata").labels.expect("labels");
    assert_eq!(template.get(key).map(String::as_str), Some(value));
    assert_ne!(labels.get(key).map(String::as_str), Some(value));
}
