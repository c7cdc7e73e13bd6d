//! What can be set in the chart: all of it has effect, and nothing else is taken.

use std::fs;

use serde_json::Value;

use crate::{chart, helm, same::accepted};

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
engine: calico@3.30
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
  perClientAndHour: 4
  minWorked: 7m
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
explainRole: {create: true}
"#;

/// What they lead to, among the objects as JSON.
const OTHER_WORDS: &[&str] = &[
    r#""image":"registry.example:5000/tools/whydrop:9.9.9@sha256:0123456789abcdef"#,
    r#""imagePullPolicy":"Always""#,
    r#""imagePullSecrets":[{"name":"registry"}]"#,
    r#""name":"drops""#,
    r#""WHYDROP_LOG_FORMAT":"json""#,
    r#""WHYDROP_EVENT_REASON":"PolicyDropped""#,
    r#""WHYDROP_MUTE_RULES":"[{\"name\":\"scanners\""#,
    r#""WHYDROP_ENGINE":"calico@3.30""#,
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
    "--per-client-and-hour=4",
    "--min-worked=7m",
    "--watch-time=3m",
    "--time-to-live=48h",
    r#""memory":"2Gi""#,
    r#""name":"drops-explain""#,
];

/// What the chart makes of [`OTHER_VALUES`].
pub(crate) fn other_chart() -> Vec<Value> {
    let values = tempfile::NamedTempFile::new().expect("a file");
    fs::write(values.path(), OTHER_VALUES).expect("write");
    chart(&["--values", values.path().to_str().expect("a path")])
}

#[test]
fn every_value_of_the_chart_has_effect() {
    let objects = accepted(&other_chart());
    let text = serde_json::to_string(&objects.values().collect::<Vec<_>>()).expect("JSON");
    for expected in OTHER_WORDS {
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
        ("explainRole.creat=true", "creat"),
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
