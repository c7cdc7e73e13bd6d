//! What deploy/ holds is what a cluster takes, grants what it says and nothing else, and is the same
//! whichever way it is installed; the image is what the manifests name.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, StatefulSet},
    core::v1::{ConfigMap, Namespace, PodSpec, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use whydrop_tests::{
    agent::binary,
    kube::{
        api::{Api, Settings},
        parts::{HELM, KUSTOMIZE},
    },
};

/// What Helm's conventions add to labels and annotations, and that says nothing of what runs.
const HELM_WORDS: [&str; 5] = [
    "checksum/config",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "helm.sh/chart",
];

/// Everything that can be set, set to something else.
const OTHER_VALUES: &str = r#"
image:
  repository: registry.example:5000/tools/whydrop
  tag: 9.9.9
  digest: sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  pullPolicy: Always
  pullSecrets: [{name: registry}]
fullnameOverride: drops
logFormat: json
eventReason: PolicyDropped
mute: [{name: scanners, source: {namespace: security}}]
logLevel: debug
health: {port: 19472}
metrics:
  enabled: true
  address: "[::]"
  podMonitor: {enabled: true, labels: {release: stack}, interval: 1m30s}
otlp:
  endpoint: https://collector.example:4317
  protocol: grpc
  compression: gzip
  headers: {secret: collector, key: token}
  tls: {secret: collector-tls, client: true}
  resourceAttributes: {k8s.cluster.name: "east, 1"}
stateDirectory: /srv/drops
selfPolicy: {enabled: true}
heal:
  enabled: true
  replicas: 3
  minConfidence: 0.95
  perHour: 12
  perNamespaceAndHour: 5
  watchTime: 3m
  timeToLive: 48h
  resources: {limits: {memory: 2Gi}}
extraArgs: [--node-name=worker-1]
extraEnv:
  - {name: TZ, value: UTC}
  - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
resources: {requests: {cpu: "1"}, limits: {memory: 1Gi}}
tolerations: [{key: dedicated, operator: Equal, value: batch, effect: NoSchedule}]
nodeSelector: {pool: main}
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
priorityClassName: ""
updateStrategy: {type: OnDelete, rollingUpdate: null}
podAnnotations: {example.com/note: "yes"}
podLabels: {team: network}
podSecurityContext: {fsGroup: 5}
securityContext: {seLinuxOptions: {type: spc_t}}
serviceAccount: {name: agents, annotations: {example.com/role: reader}}
"#;

/// A folder of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").join(path)
}

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

/// The overlay with a healer.
fn heal_overlay() -> Vec<Value> {
    kustomized("overlays/heal")
}

/// Objects as the API understands them, by kind and name.
fn accepted(objects: &[Value]) -> BTreeMap<(String, String), Value> {
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

/// The base's object of a kind.
fn of_kind<T: DeserializeOwned>(kind: &str) -> T {
    let found = base().into_iter().find(|object| object["kind"] == kind);
    serde_json::from_value(found.expect(kind)).expect(kind)
}

fn base_pod() -> PodSpec {
    let daemons: DaemonSet = of_kind("DaemonSet");
    daemons.spec.template.spec.expect("a pod's spec")
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
fn the_policy_keeps_open_what_others_close() {
    let pod = |name: &str, ip: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": "whydrop", "labels": {"app.kubernetes.io/name": "whydrop"},
            },
            "spec": {"nodeName": "worker-2", "containers": [{"name": "c", "image": "c"}]},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
        })
    };
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker-1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.77.2"}]},
    });
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
    items.extend([node, deny, pod("collector", "10.7.0.20")]);
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

/// What the chart makes of [`OTHER_VALUES`].
fn other_chart() -> Vec<Value> {
    let values = tempfile::NamedTempFile::new().expect("a file");
    fs::write(values.path(), OTHER_VALUES).expect("write");
    chart(&["--values", values.path().to_str().expect("a path")])
}

#[test]
fn an_api_server_takes_the_base_and_the_chart() {
    let api = Api::start(Settings::default()).expect("an API server");
    let kubectl = api.kubectl().expect("kubectl");
    kubectl.run(["create", "namespace", "whydrop"]).expect("a namespace");
    // The real server takes a PodMonitor where something defines it, and is strict by the definition.
    let definition = repository("tests/monitoring/podmonitor.yaml");
    kubectl.apply(&fs::read_to_string(definition).expect("a definition")).expect("defined");
    let established = ["wait", "--for=condition=Established", "--timeout=30s"];
    let defined = "crd/podmonitors.monitoring.coreos.com";
    kubectl.run(established.into_iter().chain([defined])).expect("established");
    let list = |items: Vec<Value>| json!({"apiVersion": "v1", "kind": "List", "items": items});
    let dry = ["--dry-run=server"];
    for (what, objects, more) in [
        ("the chart", chart(&[]), &dry[..]),
        ("the chart with other values", other_chart(), &dry),
        ("the overlay for Prometheus", metrics_overlay(), &dry),
        ("the overlay that sends to the gateway", otlp_overlay(), &dry),
        ("the gateway", gateway(), &dry),
        ("the overlay with a policy", self_policy_overlay(), &dry),
        // For good as well. The namespace is the base's.
        ("the overlay with a healer", heal_overlay(), &[]),
        // For good, since its rights are asked about below.
        ("the base", base(), &[]),
    ] {
        let file = tempfile::NamedTempFile::with_suffix(".json").expect("a file");
        fs::write(file.path(), list(objects).to_string()).expect("write");
        let path = file.path().to_str().expect("a path");
        let apply =
            ["apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", path];
        let applied = kubectl.run(apply.iter().chain(more).copied());
        applied.unwrap_or_else(|error| panic!("{what}: {error:#}"));
    }

    // Nobody but the agent has its account; what that may do, the API server knows best.
    let may_in = |namespace: &str, account: &str, verb: &str, resource: &str| {
        let account = format!("--as=system:serviceaccount:whydrop:{account}");
        let question = ["auth", "can-i", verb].into_iter().chain(resource.split(' '));
        let asked = kubectl.output(question.chain(["-n", namespace, &account]));
        String::from_utf8_lossy(&asked.expect("kubectl").stdout).trim() == "yes"
    };
    let may = |verb: &str, resource: &str| may_in("backend", "whydrop", verb, resource);
    for (verb, resource) in [
        ("watch", "pods"),
        ("watch", "nodes"),
        ("watch", "networkpolicies.networking.k8s.io"),
        ("watch", "serviceaccounts"),
        ("list", "endpointslices.discovery.k8s.io"),
        ("get", "replicasets.apps"),
        ("get", "deployments.apps"),
        ("get", "statefulsets.apps"),
        ("get", "daemonsets.apps"),
        ("create", "events.events.k8s.io"),
        ("patch", "events.events.k8s.io"),
    ] {
        assert!(may(verb, resource), "it may not {verb} {resource}");
    }
    for (verb, resource) in [
        ("get", "secrets"),
        ("get", "configmaps"),
        ("get", "pods --subresource=log"),
        ("create", "pods --subresource=exec"),
        ("list", "deployments.apps"),
        ("patch", "deployments.apps"),
        ("delete", "networkpolicies.networking.k8s.io"),
        ("create", "networkpolicies.networking.k8s.io"),
        ("delete", "events.events.k8s.io"),
        ("create", "serviceaccounts --subresource=token"),
    ] {
        assert!(!may(verb, resource), "it may {verb} {resource}");
    }

    // The healer changes policies of namespaces, and nothing else; it hears the agents alone.
    for (namespace, verb, resource, yes) in [
        ("backend", "create", "networkpolicies.networking.k8s.io", true),
        ("backend", "delete", "networkpolicies.networking.k8s.io", true),
        ("backend", "update", "networkpolicies.networking.k8s.io", false),
        ("backend", "deletecollection", "networkpolicies.networking.k8s.io", false),
        ("backend", "patch", "namespaces", false),
        ("backend", "get", "pods --subresource=log", false),
        ("whydrop", "get", "pods --subresource=log", true),
        ("backend", "get", "leases.coordination.k8s.io/whydrop-heal", false),
        ("whydrop", "update", "leases.coordination.k8s.io/whydrop-heal", true),
        ("whydrop", "update", "leases.coordination.k8s.io/other", false),
        ("whydrop", "get", "secrets", false),
        ("whydrop", "get", "configmaps", false),
    ] {
        let may = may_in(namespace, "whydrop-heal", verb, resource);
        assert_eq!(may, yes, "in {namespace} the healer may {verb} {resource}");
    }
}

#[test]
fn every_value_of_the_chart_has_effect() {
    let objects = accepted(&other_chart());
    let text = serde_json::to_string(&objects.values().collect::<Vec<_>>()).expect("JSON");
    for expected in [
        r#""image":"registry.example:5000/tools/whydrop:9.9.9@sha256:0123456789abcdef"#,
        r#""imagePullPolicy":"Always""#,
        r#""imagePullSecrets":[{"name":"registry"}]"#,
        r#""name":"drops""#,
        r#""WHYDROP_LOG_FORMAT":"json""#,
        r#""WHYDROP_EVENT_REASON":"PolicyDropped""#,
        r#""WHYDROP_MUTE_RULES":"[{\"name\":\"scanners\""#,
        r#""RUST_LOG":"debug""#,
        r#"{"configMapRef":{"name":"drops"}}"#,
        "--health-address=[::]:19472",
        r#""containerPort":19472"#,
        r#""release":"stack""#,
        r#""interval":"1m30s""#,
        r#""port":19472"#,
        r#""OTEL_EXPORTER_OTLP_ENDPOINT":"https://collector.example:4317""#,
        r#""OTEL_EXPORTER_OTLP_PROTOCOL":"grpc""#,
        r#""OTEL_EXPORTER_OTLP_COMPRESSION":"gzip""#,
        r#""OTEL_EXPORTER_OTLP_CERTIFICATE":"/etc/whydrop/otlp/ca.crt""#,
        r#""OTEL_EXPORTER_OTLP_CLIENT_KEY":"/etc/whydrop/otlp/tls.key""#,
        r#""OTEL_RESOURCE_ATTRIBUTES":"k8s.cluster.name=east%2C%201""#,
        r#""secretKeyRef":{"key":"token","name":"collector"}"#,
        r#""secret":{"secretName":"collector-tls"}"#,
        r#""dnsPolicy":"ClusterFirstWithHostNet""#,
        r#""hostPath":{"path":"/srv/drops","type":"DirectoryOrCreate"}"#,
        r#""mountPath":"/var/lib/whydrop""#,
        "--node-name=worker-1",
        r#""name":"TZ""#,
        "status.podIP",
        r#""memory":"1Gi""#,
        r#""value":"batch""#,
        r#""pool":"main""#,
        r#""key":"a""#,
        "OnDelete",
        "example.com/note",
        r#""team":"network""#,
        r#""fsGroup":5"#,
        "spc_t",
        "example.com/role",
        r#""serviceAccountName":"agents""#,
        r#""serviceAccountName":"drops-heal""#,
        "--lease=drops-heal",
        r#""resourceNames":["drops-heal"]"#,
        r#""replicas":3"#,
        "--min-confidence=0.95",
        "--per-hour=12",
        "--per-namespace-and-hour=5",
        "--watch-time=3m",
        "--time-to-live=48h",
        r#""memory":"2Gi""#,
    ] {
        assert!(text.contains(expected), "no {expected} in {text}");
    }
    for unexpected in ["priorityClassName", "rollingUpdate", "9472}"] {
        let other = text.replace("19472}", "");
        assert!(!other.contains(unexpected), "{unexpected} in {text}");
    }
    // And what can be left out.
    let objects = accepted(&chart(&["--set", "rbac.create=false,serviceAccount.create=false"]));
    let kinds: Vec<_> = objects.keys().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["ConfigMap", "DaemonSet"]);
}

#[test]
fn the_chart_refuses_values_that_it_does_not_know() {
    for (set, word) in [
        ("imag.tag=1", "imag"),
        ("image.tagg=1", "tagg"),
        ("serviceAccount.nam=x", "nam"),
        ("rbac.creat=true", "creat"),
        ("health.prot=1", "prot"),
        ("metrics.enable=true", "enable"),
        ("metrics.podMonitor.enabled=true", "needs metrics.enabled"),
        ("metrics.podMonitor.interval=often", "/interval"),
        ("metrics.address=here", "/metrics/address"),
        ("resources.limit.memory=1Mi", "limit"),
        ("tolerations[0].operater=Exists", "operater"),
        ("logFormat=xml", "/logFormat"),
        ("eventReason=not a reason", "/eventReason"),
        ("health.port=70000", "/health/port"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("image.digest=sha256:12", "/image/digest"),
        ("extraArgs=--flag", "/extraArgs"),
        ("stateDirectory=drops", "/stateDirectory"),
        ("heal.enable=true", "enable"),
        ("heal.minConfidence=2", "/heal/minConfidence"),
        ("heal.watchTime=soon", "/heal/watchTime"),
    ] {
        let output = helm(&["template", "--set", set]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{set} was taken");
        assert!(said.contains(word), "{set}: no {word:?} in {said}");
    }
}

#[test]
fn the_agent_gets_three_capabilities_the_hosts_network_and_a_folder_of_its_own() {
    let pod = base_pod();
    assert_eq!(pod.host_network, Some(true));
    assert_eq!((pod.host_pid, pod.host_ipc), (None, None));
    let volumes = json!(pod.volumes);
    let folder = json!({"path": "/var/lib/whydrop", "type": "DirectoryOrCreate"});
    assert_eq!(volumes, json!([{"name": "state", "hostPath": folder}]));
    let everywhere = &pod.tolerations.as_deref().unwrap_or_default()[0];
    assert_eq!((everywhere.operator.as_deref(), &everywhere.key), (Some("Exists"), &None));

    let [container] = pod.containers.as_slice() else { panic!("one container") };
    // It is where the agent looks for it, and can be left out.
    let mount = &container.volume_mounts.as_deref().expect("a mount")[0].mount_path;
    let argument = format!("--state-directory={mount}");
    assert!(container.args.as_deref().expect("arguments").contains(&argument), "{argument}");
    let without = serde_json::to_string(&chart(&["--set", "stateDirectory="])).expect("JSON");
    for word in ["hostPath", "volume", "--state-directory"] {
        assert!(!without.contains(word), "{word} in {without}");
    }
    let security = container.security_context.as_ref().expect("a security context");
    let capabilities = security.capabilities.as_ref().expect("capabilities");
    let names = |list: &Option<Vec<String>>| list.clone().unwrap_or_default().join(" ");
    assert_eq!(names(&capabilities.add), "BPF NET_ADMIN PERFMON");
    assert_eq!(names(&capabilities.drop), "ALL");
    assert_eq!(security.privileged, None);
    assert_eq!(security.allow_privilege_escalation, Some(false));
    assert_eq!(security.read_only_root_filesystem, Some(true));
    let profile = pod.security_context.and_then(|context| context.seccomp_profile);
    assert_eq!(profile.expect("a seccomp profile").type_, "RuntimeDefault");
}

#[test]
fn the_agent_may_write_events_and_read_what_it_judges_by() {
    let role: ClusterRole = of_kind("ClusterRole");
    for PolicyRule { verbs, resources, .. } in role.rules.expect("rules") {
        let resources = resources.unwrap_or_default();
        let reads = verbs.iter().all(|verb| ["get", "list", "watch"].contains(&verb.as_str()));
        assert!(reads || resources == ["events"], "{verbs:?} on {resources:?}");
        for secret in ["*", "secrets", "configmaps", "pods/log", "pods/exec"] {
            assert!(!resources.iter().any(|resource| resource == secret), "{secret}");
        }
    }
}

/// What the API server above cannot be asked, for it does not have these kinds.
#[test]
fn the_healer_may_write_no_kind_of_the_whole_cluster() {
    let roles = heal_overlay().into_iter().filter(|object| {
        let is_healers = object["metadata"]["name"].as_str().is_some_and(|n| n.contains("heal"));
        object["kind"] == "ClusterRole" && is_healers
    });
    let roles: Vec<ClusterRole> =
        roles.map(|role| serde_json::from_value(role).expect("a role")).collect();
    assert_eq!(roles.len(), 2);
    for rule in roles.into_iter().flat_map(|role| role.rules.unwrap_or_default()) {
        let PolicyRule { verbs, resources, .. } = rule;
        let writes = verbs.iter().any(|verb| !["get", "list"].contains(&verb.as_str()));
        let resources = resources.unwrap_or_default();
        let may = resources == ["networkpolicies"] || resources == ["events"];
        assert!(!writes || may, "{verbs:?} on {resources:?}");
        assert!(!verbs.iter().any(|verb| verb == "*" || verb == "update"), "{verbs:?}");
    }
}

#[test]
fn the_kubelet_asks_where_the_agent_answers() {
    let [container] = &base_pod().containers[..] else { panic!("one container") };
    let probes = [(&container.liveness_probe, "/healthz"), (&container.readiness_probe, "/readyz")];
    for (probe, path) in probes {
        let probe = probe.as_ref().and_then(|probe| probe.http_get.as_ref()).expect("a probe");
        assert_eq!(probe.path.as_deref(), Some(path));
        let port = serde_json::to_value(&probe.port).expect("a port");
        let flag = format!("--health-address={}:{port}", probe.host.as_deref().unwrap_or_default());
        let arguments = container.args.as_deref().unwrap_or_default();
        assert!(arguments.contains(&flag), "no {flag} in {arguments:?}");
    }
}

#[test]
fn chart_base_and_program_have_one_version() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = fs::read_to_string(repository("deploy/helm/whydrop/Chart.yaml")).expect("a chart");
    let chart: Value = serde_saphyr::from_str(&chart).expect("YAML");
    assert_eq!(chart["appVersion"], version);
    let image = base_pod().containers[0].image.clone().expect("an image");
    assert_eq!(image.rsplit_once(':').expect("a tag").1, version);
    let dockerfile = fs::read_to_string(repository("deploy/Dockerfile")).expect("a Dockerfile");
    let label = format!("org.opencontainers.image.version=\"{version}\"");
    assert!(dockerfile.contains(&label), "no {label} in deploy/Dockerfile");
}
