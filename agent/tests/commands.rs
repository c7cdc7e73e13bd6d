//! The commands as a user runs them: output, exit codes, and what bad input gets.

mod client;

use std::{io::Write as _, path::PathBuf, process::Output};

use client::{stderr, stdout, whydrop};
use serde_json::Value;

const CLUSTER: &str = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: worker-1}, status: {addresses: [{type: InternalIP, address: 192.168.77.2}]}}
- {apiVersion: v1, kind: Namespace, metadata: {name: frontend}}
- {apiVersion: v1, kind: Namespace, metadata: {name: backend}}
- apiVersion: v1
  kind: Pod
  metadata: {name: pod-a, namespace: frontend, labels: {app: web}}
  spec: {nodeName: worker-1, containers: []}
  status: {phase: Running, podIP: 10.1.0.10}
- apiVersion: v1
  kind: Pod
  metadata: {name: pod-b, namespace: backend, labels: {app: api}}
  spec: {nodeName: worker-1, containers: []}
  status: {phase: Running, podIP: 10.1.0.20}
- apiVersion: v1
  kind: Pod
  metadata: {name: pending, namespace: backend}
  spec: {containers: []}
- apiVersion: v1
  kind: Service
  metadata: {name: pod-b, namespace: backend}
  spec: {clusterIP: 10.96.0.7, selector: {app: api}, ports: [{port: 80, targetPort: 8080}]}
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: default-deny, namespace: backend}
  spec: {podSelector: {}, policyTypes: [Ingress]}
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: allow-web, namespace: backend}
  spec: {podSelector: {matchLabels: {app: api}}, ingress: [{from: [{namespaceSelector: {matchLabels: {name: frontend}}}]}]}
";

fn flow<'a>(command: &'a str, from: &'a str, to: &'a str, port: &'a str) -> Vec<&'a str> {
    vec![command, "-f", "-", "--from", from, "--to", to, "--port", port]
}

#[test]
fn explain_tells_policy_nearest_miss_and_remedy() {
    let mut arguments = flow("explain", "frontend/pod-a", "backend/pod-b", "8080/TCP");
    let text = whydrop(&arguments, CLUSTER);
    assert_eq!(text.status.code(), Some(1));
    insta::assert_snapshot!(stdout(&text));

    arguments.extend(["-o", "json"]);
    let json: Value = serde_json::from_str(&stdout(&whydrop(&arguments, CLUSTER))).expect("JSON");
    assert_eq!(json["effective"], "deny");
    assert_eq!(json["cause"]["policy"]["name"], "default-deny");
    assert_eq!(json["cause"]["nearest_miss"]["policy"]["name"], "allow-web");
    assert_eq!(json["remedy"]["verified"], true);
}

#[test]
fn explain_goes_through_a_service_to_its_backends() {
    let arguments = flow("explain", "frontend/pod-a", "backend/svc/pod-b", "80");
    let output = whydrop(&arguments, CLUSTER);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.starts_with("frontend/pod-a -> backend/pod-b:8080/TCP: denied\n"), "{text}");
    assert!(text.contains("through Service backend/pod-b, 10.96.0.7:80"), "{text}");
}

#[test]
fn a_flow_that_passes_exits_with_0() {
    let arguments = flow("explain", "backend/pod-b", "frontend/pod-a", "80/TCP");
    assert_eq!(whydrop(&arguments, CLUSTER).status.code(), Some(0));
    let own_node = flow("explain", "node/worker-1", "backend/pod-b", "8080/TCP");
    let output = whydrop(&own_node, CLUSTER);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("exempt by the specification"));
}

#[test]
fn a_fix_fixes_it() {
    let arguments = flow("fix", "frontend/pod-a", "backend/pod-b", "8080/TCP");
    let fix = whydrop(&arguments, CLUSTER);
    assert_eq!(fix.status.code(), Some(0));
    let fixed = format!("{CLUSTER}\n---\n{}", stdout(&fix));
    let explain = flow("explain", "frontend/pod-a", "backend/pod-b", "8080/TCP");
    let output = whydrop(&explain, &fixed);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    // And there is nothing more to fix.
    let again = whydrop(&arguments, &fixed);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("nothing to fix"), "{}", stderr(&again));
}

/// What a golden file of another test holds.
fn golden(name: &str) -> String {
    let path = format!("{}/tests/snapshots/{name}.snap", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("a golden file");
    text.splitn(3, "---\n").nth(2).expect("its content").to_owned()
}

fn records(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    file
}

/// Looks an id up in lines of a log, and asks for its fix in the cluster.
fn fix_by_id(id: &str, lines: &str, more: &[&str]) -> Output {
    let file = records(lines);
    let path = file.path().to_str().expect("UTF-8");
    let arguments = [&["fix", id, "--records", path, "-f", "-"], more].concat();
    whydrop(&arguments, CLUSTER)
}

#[test]
fn a_drop_is_fixed_by_its_id_or_its_incidents_in_either_form_of_the_log() {
    let dialled = flow("fix", "frontend/pod-a", "backend/svc/pod-b", "80/TCP");
    let by_name = stdout(&whydrop(&dialled, CLUSTER));
    assert!(by_name.contains("kind: NetworkPolicy"), "{by_name}");
    let record: Value = serde_json::from_str(&golden("records__records_as_json")).expect("JSON");
    let (id, incident) = (&record["id"], &record["incident"]);
    let [id, incident] = [id, incident].map(|id| id.as_str().expect("an id"));
    let prefixed = format!("[pod/whydrop-x/whydrop] {record}\nsome message\n");
    let text = golden("records__records_as_text");
    for (id, lines) in
        [(id, &prefixed), (&id[..6], &prefixed), (incident, &prefixed), (incident, &text)]
    {
        let by_id = fix_by_id(id, lines, &[]);
        assert_eq!(by_id.status.code(), Some(0), "{id}: {}", stderr(&by_id));
        assert_eq!(unmarked(&stdout(&by_id)), unmarked(&by_name), "{id}");
        let command = format!("whydrop.io/command: whydrop fix {}\n", &id[..id.len().min(8)]);
        assert!(stdout(&by_id).contains(&command), "{}", stdout(&by_id));
    }
}

#[test]
fn what_passes_needs_no_fix_and_is_named() {
    let passes = whydrop(&flow("fix", "backend/pod-b", "frontend/pod-a", "80/TCP"), CLUSTER);
    assert_eq!(passes.status.code(), Some(1));
    let expected =
        "nothing to fix: backend/pod-b -> frontend/pod-a:80/TCP passes: no policy denies it";
    assert!(stderr(&passes).contains(expected), "{}", stderr(&passes));
}

/// The specification exempts it; who asks for a fix says that it does not pass.
#[test]
fn what_the_specification_exempts_is_fixed_with_a_word() {
    let own_node = flow("fix", "node/worker-1", "backend/pod-b", "8080/TCP");
    let fix = whydrop(&own_node, CLUSTER);
    assert_eq!(fix.status.code(), Some(0), "{}", stderr(&fix));
    let text = stdout(&fix);
    assert!(text.starts_with("# It passes by the specification."), "{text}");
    assert!(text.contains("cidr: 192.168.77.2/32"), "{text}");
}

#[test]
fn a_fix_of_what_policies_did_not_drop_says_so_first() {
    let record: Value = serde_json::from_str(&golden("records__records_as_json")).expect("JSON");
    let mut record = record;
    record["cause"]["class"] = "not-policy".into();
    record["cause"]["text"] = "not policy: there is no route to its destination".into();
    let id = record["id"].as_str().expect("an id").to_owned();
    let fix = fix_by_id(&id, &record.to_string(), &[]);
    assert_eq!(fix.status.code(), Some(0), "{}", stderr(&fix));
    let first = "# Policies did not drop it: not policy: there is no route to its destination.";
    assert!(stdout(&fix).starts_with(first), "{}", stdout(&fix));
}

/// A manifest without the annotations that say when it was found, and how.
fn unmarked(manifest: &str) -> String {
    let is_mark = |line: &str| line.trim_start().starts_with("whydrop.io/");
    manifest.lines().filter(|line| !is_mark(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_incident_is_fixed_for_all_of_its_flows() {
    let incident: Value =
        serde_json::from_str(&golden("incidents__incidents_as_json")).expect("JSON");
    let mut incident = incident;
    let test = |from: &str| {
        serde_json::json!({"step": "test", "text": "", "flow": {"from": from, "to": "backend/pod-b",
            "ip": "10.1.0.20", "port": 8080, "protocol": "TCP"}})
    };
    // One that is fixed along with the first, one that has gone, and one of its own.
    let from = ["frontend/pod-a", "frontend/pod-a", "frontend/gone", "node/worker-9", "10.9.9.9"];
    incident["plan"] = Value::Array(from.map(test).to_vec());
    let id = incident["id"].as_str().expect("an id").to_owned();
    let fix = fix_by_id(&id, &incident.to_string(), &[]);
    assert_eq!(fix.status.code(), Some(0), "{}", stderr(&fix));
    let documents = stdout(&fix);
    assert_eq!(documents.matches("kind: NetworkPolicy").count(), 2, "{documents}");
    let fixed = format!("{CLUSTER}\n---\n{documents}");
    for from in ["frontend/pod-a", "10.9.9.9"] {
        let explain = flow("explain", from, "backend/pod-b", "8080/TCP");
        assert_eq!(whydrop(&explain, &fixed).status.code(), Some(0), "{from}: {documents}");
    }
}

/// Runs it where there is no cluster, with records in a file.
fn offline(id: &str, lines: &str, more: &[&str]) -> Output {
    let (file, home) = (records(lines), tempfile::tempdir().expect("a folder"));
    let mut fix = std::process::Command::new(env!("CARGO_BIN_EXE_whydrop"));
    fix.args(["fix", id, "--records"]).arg(file.path()).args(more);
    fix.env("HOME", home.path()).env_remove("KUBECONFIG").env_remove("KUBERNETES_SERVICE_HOST");
    fix.output().expect("it runs")
}

#[test]
fn without_a_cluster_the_remedy_is_printed_as_it_was_recorded() {
    let record: Value = serde_json::from_str(&golden("records__records_as_json")).expect("JSON");
    let incident: Value =
        serde_json::from_str(&golden("incidents__incidents_as_json")).expect("JSON");
    for (record, manifest) in [
        (&record, record["remedy"]["manifest"].as_str().expect("a manifest")),
        (&incident, incident["plan"][0]["remedy"]["manifest"].as_str().expect("a manifest")),
    ] {
        let id = record["id"].as_str().expect("an id");
        let output = offline(id, &record.to_string(), &[]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let text = stdout(&output);
        assert!(text.ends_with(manifest), "{text}");
        assert!(text.contains("# As judged at 2026-"), "{text}");
        assert!(text.contains("; not checked against the cluster as it is now."), "{text}");
        let said = stderr(&output);
        assert!(said.contains("no cluster: ~/.kube/config does not exist"), "{said}");
        assert!(said.contains("printing the remedy as it was recorded"), "{said}");
    }
    let id = record["id"].as_str().expect("an id");
    // A wrong id or path is wrong without a cluster, too.
    let wrong = offline("ffffffff", &record.to_string(), &[]);
    assert!(stderr(&wrong).contains("no drop or incident ffffffff in the records"));
    let missing = whydrop(&["fix", id, "--records", "/nowhere"], "");
    assert!(
        stderr(&missing).starts_with("whydrop: /nowhere: No such file"),
        "{}",
        stderr(&missing)
    );
    // Lines of text hold no remedy, a patch needs the policies that are there, and what is applied is
    // policies alone.
    for (lines, more, says) in [
        (
            golden("records__records_as_text"),
            &[][..],
            "the records hold no remedy to print instead",
        ),
        (record.to_string(), &["--patch"], "no cluster"),
        (
            record.to_string().replace("kind: NetworkPolicy", "kind: ClusterRoleBinding"),
            &[],
            "something else than policies",
        ),
    ] {
        let id = record["incident"].as_str().expect("an id");
        let output = offline(id, &lines, more);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), ""), "{says}");
        assert!(stderr(&output).contains(says), "{says}: {}", stderr(&output));
    }
    // Whatever separates another object from them, and whatever a terminal would not show.
    let binding =
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: x}}";
    let manifest = record["remedy"]["manifest"].as_str().expect("a manifest");
    for hostile in [
        format!("{manifest}---\n{binding}\n"),
        format!("{manifest}--- # more\n{binding}\n"),
        format!("{manifest}---\t\n{binding}\n"),
        format!("{manifest}---   {binding}\n"),
        format!("{manifest}...\n{binding}\n"),
        format!("{manifest}...\n%YAML 1.1\n---\n{binding}\n"),
        format!("{binding}\n---\n{manifest}"),
        format!("{{apiVersion: v1, kind: List, items: [{binding}]}}\n---\n{manifest}"),
        format!("{manifest}# \u{9b}2J\n"),
        format!("{manifest}# \u{202e}\n"),
        format!("{manifest}# \u{1b}]52;c;eA\u{7}\n"),
        format!("# \u{e0101}\n{manifest}"),
        format!("{manifest}kind: ClusterRoleBinding\n"),
        manifest.replace('\n', "\r"),
    ] {
        let mut record = record.clone();
        record["remedy"]["manifest"] = hostile.clone().into();
        let id = record["id"].as_str().expect("an id");
        let output = offline(id, &record.to_string(), &[]);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), ""), "{hostile:?}");
        let said = stderr(&output);
        assert!(said.contains("something else than policies"), "{hostile:?}: {said}");
    }
}

#[test]
fn a_patch_adds_a_rule_to_the_policy_that_came_nearest() {
    let mut arguments = flow("fix", "frontend/pod-a", "backend/pod-b", "8080/TCP");
    arguments.push("--patch");
    let output = whydrop(&arguments, CLUSTER);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    insta::assert_snapshot!(stdout(&output));
    arguments.extend(["-o", "json"]);
    let json: Value = serde_json::from_str(&stdout(&whydrop(&arguments, CLUSTER))).expect("JSON");
    assert_eq!(json["edits"][0]["policy"]["name"], "allow-web");
    assert_eq!(json["verified"], true);
}

#[test]
fn an_id_that_names_nothing_or_too_much_is_told() {
    let text = golden("records__records_as_text");
    for (id, expected) in [
        ("ffffffff", "no drop or incident ffffffff in the records"),
        (
            "xyz",
            "expected the id of a drop or an incident, 4 or more hex digits of it, found \"xyz\"",
        ),
    ] {
        let output = fix_by_id(id, &text, &[]);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
    let record: Value = serde_json::from_str(&golden("records__records_as_json")).expect("JSON");
    let mut other = record.clone();
    other["id"] = "914a000000000000".into();
    let output = fix_by_id("914a", &format!("{record}\n{other}\n"), &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("may be any of 914a000000000000, 914a"),
        "{}",
        stderr(&output)
    );
}

struct Flows(tempfile::NamedTempFile);

impl Flows {
    fn new(text: &str) -> Self {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        Self(file)
    }

    fn check(&self, output: &str) -> Output {
        let path: PathBuf = self.0.path().to_owned();
        let path = path.to_str().expect("UTF-8");
        whydrop(&["check", "-f", "-", "--flows", path, "-o", output], CLUSTER)
    }
}

#[test]
fn check_compares_in_input_order() {
    let flows = Flows::new(
        "- {from: frontend/pod-a, to: backend/pod-b, port: 8080, protocol: TCP, expect: deny}\n\
         - {from: node/worker-1, to: backend/pod-b, port: 8080, expect: allow}\n\
         - {from: 203.0.113.7, to: backend/svc/pod-b, port: 80, expect: allow}\n",
    );
    let output = flows.check("json");
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let answers: Vec<_> = lines
        .iter()
        .map(|line| (line["from"].as_str(), line["expect"].as_str(), line["effective"].as_str()))
        .collect();
    assert_eq!(
        answers,
        [
            (Some("frontend/pod-a"), Some("deny"), Some("deny")),
            (Some("node/worker-1"), Some("allow"), Some("allow")),
            (Some("203.0.113.7"), Some("allow"), Some("deny")),
        ]
    );
    assert_eq!(lines[1]["verdict"]["exempt"], "local-node");
    assert_eq!(lines[1]["verdict"]["ingress"]["decision"], "denied");
    let text = stdout(&flows.check("text"));
    assert!(text.ends_with("3 flows, 1 differ\n"), "{text}");
    assert!(text.contains("DIFFERS 203.0.113.7 -> backend/svc/pod-b:80/TCP  deny, expected allow"));
}

#[test]
fn bad_flows_are_told_by_number_and_field() {
    for (text, expected) in [
        (
            "- {from: a/b, to: c/d, port: 80, expect: maybe}",
            "flow 1 (line 1): expect: expected allow, deny or some, found \"maybe\"",
        ),
        (
            "# the first\n- {from: a/b, to: c/d, port: 80, expect: deny, also: 1}",
            "flow 1 (line 2): also: no such field; there are from, to, port, protocol, expect",
        ),
        (
            "- {form: a/b, to: c/d, port: 80, expect: deny}",
            "flow 1 (line 1): form: no such field; is it from?",
        ),
        (
            "- {from: a/b, to: c/d, port: true, expect: deny}",
            "port: expected a number or a name, found true",
        ),
        (
            "- from",
            "flow 1 (line 1): expected the fields from, to, port, protocol, expect, found \"from\"",
        ),
        ("from: a/b", "expected a list of flows, found fields"),
        (
            "- {from: a/b/c/d, to: backend/pod-b, port: 80, expect: deny}",
            "flow 1 (line 1): from: expected",
        ),
        (
            "- {from: a/b, to: backend/pod-b, port: 80, expect: deny}",
            "flow 1 (line 1): from: no pod b in namespace a, of which nothing is known",
        ),
        ("- {from: a/b, to: c/d, port: 80, protocol: tcp, expect: deny}", "protocol: expected TCP"),
        ("- {from: a/b, to: c/d, port: 0, expect: deny}", "port: expected 1 to 65535"),
        ("{", "not YAML"),
    ] {
        let output = Flows::new(text).check("text");
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(stderr(&output).contains(expected), "{text}: {}", stderr(&output));
    }
}

#[test]
fn wrong_use_exits_with_2_and_says_what_was_expected() {
    for (arguments, expected) in [
        (flow("explain", "a/b/c/d", "backend/pod-b", "80"), "--from: expected [NAMESPACE/]POD"),
        (flow("explain", "a/b", "c/d", "80/XYZ"), "expected TCP, UDP or SCTP"),
        (flow("explain", "a/b", "c/d", "99999"), "expected a port from 1 to 65535"),
        (
            flow("explain", "frontend/absent", "backend/pod-b", "80"),
            "--from: no pod absent in namespace frontend; there is: pod-a\n",
        ),
        (flow("explain", "node/absent", "backend/pod-b", "80"), "--from: no node absent; there "),
        (
            flow("explain", "backend/svc/pod-b", "backend/pod-b", "80"),
            "--from: a Service opens no connections; name a pod or a workload behind it, such as \
             backend/pod-b\n",
        ),
        (vec!["explain", "--from", "a/b"], "--to"),
        (vec!["explode"], "unrecognized subcommand"),
    ] {
        let output = whydrop(&arguments, CLUSTER);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn a_kubeconfig_that_cannot_be_used_exits_with_2_and_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    let (broken, empty, dead) = (path("broken"), path("empty"), path("dead"));
    std::fs::write(&broken, "clusters: [").expect("write");
    std::fs::write(&empty, "apiVersion: v1\nkind: Config\n").expect("write");
    let server = "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\n\
                  contexts: [{name: c, context: {cluster: c, user: u}}]\n\
                  users: [{name: u, user: {token: t}}]\ncurrent-context: c\n";
    std::fs::write(&dead, server).expect("write");
    for (arguments, expected) in [
        (vec!["--kubeconfig", "/nonexistent"], "whydrop: /nonexistent does not exist\n"),
        (vec!["--kubeconfig", &broken], "unclosed bracket"),
        (vec!["--kubeconfig", &empty], "empty names no current context: choose one by --context"),
        (
            vec!["--kubeconfig", &dead, "--context", "other"],
            "dead has no context \"other\"; there is: c\n",
        ),
        (
            vec!["--kubeconfig", &dead],
            "whydrop: cannot reach the API server https://127.0.0.1:1 (context c): connection refused\n",
        ),
        (vec!["--kubeconfig", &dead, "-f", "-"], "cannot be used with"),
    ] {
        let flow = ["explain", "--from", "a/b", "--to", "c/d", "--port", "80"];
        let arguments: Vec<&str> = flow.into_iter().chain(arguments).collect();
        let output = whydrop(&arguments, "");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn without_any_cluster_it_is_said_how_to_name_one() {
    let home = tempfile::tempdir().expect("a folder");
    let run = |kubeconfig: &str| {
        let mut explain = std::process::Command::new(env!("CARGO_BIN_EXE_whydrop"));
        explain.args(["explain", "--from", "a/b", "--to", "c/d", "--port", "80"]);
        explain.env("HOME", home.path()).env("KUBECONFIG", kubeconfig);
        stderr(&explain.env_remove("KUBERNETES_SERVICE_HOST").output().expect("it runs"))
    };
    let how =
        "and this is no pod. Name one by --kubeconfig or $KUBECONFIG, or ask manifests with -f\n";
    assert_eq!(run(""), format!("whydrop: no cluster: ~/.kube/config does not exist, {how}"));
    assert_eq!(
        run("/nonexistent"),
        format!("whydrop: no cluster: $KUBECONFIG names /nonexistent, which does not exist, {how}")
    );
}

#[test]
fn bad_manifests_exit_with_2_all_at_once() {
    let bad = format!("{CLUSTER}---\nkind: [\n---\napiVersion: v1\nkind: Pod\nmetadata: {{}}\n");
    let output = whydrop(&flow("explain", "frontend/pod-a", "backend/pod-b", "80"), &bad);
    assert_eq!(output.status.code(), Some(2));
    let stderr = stderr(&output);
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
    assert!(stderr.contains("standard input, document 2"), "{stderr}");
    assert!(stderr.contains("metadata.name: expected a name, found none"), "{stderr}");
}

#[test]
fn schema_prints_a_schema() {
    let output = whydrop(&["schema"], "");
    assert_eq!(output.status.code(), Some(0));
    let schema: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert!(jsonschema::meta::is_valid(&schema));
}

#[test]
fn view_says_what_it_cannot_view() {
    let view = |input: &str| whydrop(&["view"], input);
    let nothing = view("");
    assert_eq!(nothing.status.code(), Some(0));
    assert!(stdout(&nothing).starts_with("0 incidents, 0 open"), "{}", stdout(&nothing));
    let text = view("2026-01-02T03:04:05Z AGENT node/worker-1 ready\n");
    assert_eq!(text.status.code(), Some(2));
    assert_eq!(
        stderr(&text),
        "whydrop: -: expected records of --log-format json, found none in 1 line\n"
    );
    let other = view("{\"schema\":\"whydrop/v2\",\"kind\":\"drop\"}\n");
    assert_eq!(other.status.code(), Some(2));
    assert!(stderr(&other).contains("schema: expected whydrop/v1, found whydrop/v2"));
    for (path, why) in [("/nowhere/log", "No such file"), ("/", "found a folder")] {
        let missing = whydrop(&["view", path], "");
        assert_eq!(missing.status.code(), Some(2));
        let error = stderr(&missing);
        assert!(error.starts_with(&format!("whydrop: {path}: ")) && error.contains(why), "{error}");
    }
}

/// A line of an agent's log, of an incident with this id.
fn incident_line(id: &str) -> String {
    let snapshot = include_str!("snapshots/incidents__incidents_as_json.snap");
    let (_, json) = snapshot.split_once("\n---\n").expect("a snapshot");
    let mut record: Value = serde_json::from_str(json).expect("JSON");
    record["id"] = id.into();
    record.to_string()
}

#[test]
fn report_makes_a_page_of_what_can_be_read() {
    let lines = format!(
        "a message\n{}\n{}\n{{\"schema\":\"whydrop/v1\",\"kind\n",
        incident_line("aaaa000000000000"),
        incident_line("bbbb000000000000")
    );
    let page = whydrop(&["report"], &lines);
    assert_eq!(page.status.code(), Some(0), "{}", stderr(&page));
    assert!(stdout(&page).starts_with("<!DOCTYPE html>"));
    assert!(stdout(&page).contains("1 line that begins as a record"));
    assert_eq!(stdout(&page).matches("<article").count(), 2);

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("page.html");
    let path = file.to_str().expect("UTF-8");
    let one = whydrop(&["report", "-", "--incident", "bbbb", "-o", path], &lines);
    assert_eq!((one.status.code(), stdout(&one).as_str()), (Some(0), ""), "{}", stderr(&one));
    let written = std::fs::read_to_string(&file).expect("a page");
    assert_eq!(written.matches("<article").count(), 1);
}

#[test]
fn report_says_what_it_misses() {
    let fails = |arguments: &[&str], input: &str| {
        let output = whydrop(arguments, input);
        assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
        assert_eq!(stdout(&output), "");
        stderr(&output)
    };
    let none = fails(&["report"], "2026-01-02T03:04:05Z AGENT node/a ready\n");
    assert!(none.contains("standard input: expected records"), "{none}");
    assert!(none.contains("found none in 1 line,"), "{none}");
    let absent = fails(&["report", "/absent.ndjson"], "");
    assert!(absent.contains("/absent.ndjson: No such file"), "{absent}");
    let lines = incident_line("aaaa000000000000");
    let other = fails(&["report", "--incident", "bbbb"], &lines);
    assert!(other.contains("no incident bbbb") && other.contains("aaaa000000000000"), "{other}");
    let nowhere = fails(&["report", "-o", "/absent/page.html"], &lines);
    assert!(nowhere.contains("/absent/page.html"), "{nowhere}");
}
