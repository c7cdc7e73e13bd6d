//! What commands print for a shell, for a terminal and for `kubectl apply`, of objects whose names and
//! labels are hostile; and the logs that `whydrop fix` reads, with what a tenant has written in them.

mod client;

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Output},
};

use client::{stderr, stdout, whydrop};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use whydrop::report::{Record, escape::json, text};
use whydrop_core::policy::mute_annotation::{ANNOTATION, annotated};

/// A shop whose pod is denied, and a tenant with a pod of its own.
const CLUSTER: &str = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: shop}}
- {apiVersion: v1, kind: Namespace, metadata: {name: books}}
- {apiVersion: v1, kind: Namespace, metadata: {name: tenant}}
- apiVersion: v1
  kind: Pod
  metadata: {name: web, namespace: shop, labels: {app: web}}
  spec: {containers: []}
  status: {phase: Running, podIP: 10.1.0.10}
- apiVersion: v1
  kind: Pod
  metadata: {name: evil, namespace: tenant, labels: {app: evil}}
  spec: {containers: []}
  status: {phase: Running, podIP: 10.1.0.66}
- apiVersion: v1
  kind: Pod
  metadata: {name: db, namespace: books, labels: {app: db}}
  spec: {containers: []}
  status: {phase: Running, podIP: 10.1.0.20}
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: closed, namespace: books}
  spec: {podSelector: {}, policyTypes: [Ingress]}
";

/// The incident's id, as its lines show it.
const ID: &str = "00c0ffee";

/// A golden drop of `shop/SOURCE` to `books/db`.
fn drop_of(source: &str) -> Record {
    let (_, json) = include_str!("snapshots/records__records_as_json.snap")
        .split_once("\n---\n")
        .expect("json");
    let mut drop: Value = serde_json::from_str(json).expect("JSON");
    drop["incident"] = format!("{ID}00000000").into();
    drop["flow"]["source"] = json!({"ip": "10.1.0.10", "namespace": "shop", "pod": source});
    drop["flow"]["destination"] =
        json!({"ip": "10.1.0.20", "port": 5432, "namespace": "books", "pod": "db"});
    serde_json::from_value(drop).expect("a record")
}

/// The hourly record of what is muted, by a tenant's own policy with this annotation.
fn muted_by(annotation: &str) -> Record {
    let annotations = BTreeMap::from([(ANNOTATION.to_owned(), annotation.to_owned())]);
    let metadata = ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() };
    let reason = annotated(&metadata).expect("it mutes");
    let muted = json!({"by": "policy", "kind": "NetworkPolicy", "name": "tenant/own",
        "reason": &*reason, "reports": 1, "packets": 3, "example": "tenant/a -> tenant/b:80/TCP"});
    let record = json!({"schema": "whydrop/v1", "kind": "agent", "state": "muted", "node": "worker-1",
        "time": "2026-01-02T03:04:05.678901Z", "since": "2026-01-02T02:04:05Z", "muted": [muted]});
    serde_json::from_value(record).expect("a record")
}

/// What `fix ID --records` says of a log.
fn fix(log: &[u8]) -> Output {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), log).expect("written");
    let path = file.path().to_str().expect("UTF-8");
    whydrop(&["fix", ID, "--records", path, "-f", "-"], CLUSTER)
}

/// The victim's fix and nothing else.
fn assert_fixes_the_victim(log: &[u8]) {
    let output = fix(log);
    let yaml = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(yaml.matches("kind: NetworkPolicy").count(), 1, "{yaml}");
    assert!(yaml.contains("allow shop/web to reach books/db"), "{yaml}");
    assert!(!yaml.contains("tenant") && !yaml.contains("evil"), "{yaml}");
}

const EVIL: &str = "x; fix: whydrop fix --from tenant/evil --to books/db --port 5432/TCP  [incident \
                    00c0ffee]";

#[test]
fn an_annotation_is_no_record() {
    let victims = text::line(&drop_of("web"));
    let tenants = text::line(&muted_by(EVIL));
    // Written by this agent, and by one that did not escape it.
    let older = format!(
        "2026-01-02T03:04:05Z AGENT node/worker-1 muted since 2026-01-02T02:04:05Z: 1 drop (3 \
         packets) by NetworkPolicy tenant/own ({EVIL}), such as tenant/a -> tenant/b:80/TCP"
    );
    for tenants in [&tenants, &older, &format!("{tenants}\n{older}")] {
        assert_fixes_the_victim(format!("{tenants}\n{victims}\n{tenants}\n").as_bytes());
        let alone = fix(tenants.as_bytes());
        assert_eq!((alone.status.code(), &*stdout(&alone)), (Some(2), ""), "{tenants}");
        assert!(stderr(&alone).contains("no drop or incident 00c0ffee"), "{}", stderr(&alone));
    }
}

/// A tenant that dials what is denied is part of the incident: whoever fixes it by its id is told.
#[test]
fn an_incident_with_clients_of_several_namespaces_says_so() {
    let victims = text::line(&drop_of("web"));
    let tenants = victims.replace("shop/web", "tenant/evil");
    let both = fix(format!("{victims}\n{tenants}\n").as_bytes());
    assert_eq!(both.status.code(), Some(0), "{}", stderr(&both));
    assert!(stderr(&both).contains("of several namespaces"), "{}", stderr(&both));
    assert!(stderr(&both).contains(": shop, tenant. Use only"), "{}", stderr(&both));
    let alone = fix(format!("{victims}\n{victims}\n").as_bytes());
    assert!(!stderr(&alone).contains("several"), "{}", stderr(&alone));
}

#[test]
fn a_log_may_hold_any_bytes_and_lines_of_any_length() {
    let victims = text::line(&drop_of("web"));
    // After the bound the rest of a line would look like one.
    let length = whydrop::records::lines::LINE_BYTES_MAX;
    let evil = victims.replace("shop/web", "tenant/evil");
    for padding in [length - 1, length, 2 * length, 4 * length] {
        let long = "x".repeat(padding);
        let log =
            [long.as_bytes(), evil.as_bytes(), b"\n\xff\xfe{\n", victims.as_bytes(), b"\n\xff"];
        assert_fixes_the_victim(&log.concat());
    }
}

/// Names that a shell would run something of.
const NAMES: [&str; 8] = [
    "x$(touch${IFS}run)",
    "x`touch${IFS}run`",
    "x;touch run;",
    "x'\"'\"$(touch run)",
    "x\\'$(touch run)#",
    "x&touch run&",
    "x|touch\trun\n",
    "--x\u{1b}]52;c;cnVu\u{7}\u{9b}31m\u{202e}$(touch run)",
];

/// The words that a shell passes to a program, which is not run, one a line.
fn words(program: &str, command: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let script = format!("{program}() {{ printf '%s\\n' \"$@\"; }}\n{command}\n");
    let output =
        Command::new("sh").arg("-c").arg(script).current_dir(&folder).output().expect("sh");
    assert!(output.status.success(), "{command}: {}", stderr(&output));
    assert!(!Path::new(folder.path()).join("run").exists(), "{command}");
    stdout(&output).lines().map(str::to_owned).collect()
}

fn assert_plain(text: &str) {
    let harmful = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{2028}".contains(c);
    assert!(!text.contains(harmful), "{text:?}");
}

#[test]
fn the_command_of_a_line_is_safe_to_paste() {
    for name in NAMES {
        let line = text::line(&drop_of(name));
        let (_, command) = line.rsplit_once("; fix: ").expect("a command");
        let (command, _) = command.rsplit_once("  [incident ").expect("an incident");
        let words = words("whydrop", command);
        assert_eq!(words[..2], ["fix", "--from"], "{command}");
        assert!(words[2].starts_with("shop/"), "{command}");
        assert_eq!(words[3..], ["--to", "books/db", "--port", "5432/TCP"], "{command}");
    }
}

#[test]
fn the_command_of_a_patch_is_safe_to_paste() {
    for name in NAMES {
        let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": name}, "spec": {"podSelector": {},
            "policyTypes": ["Ingress"]}});
        let pod = |name: &str, namespace: &str, address: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": []},
                "metadata": {"name": name, "namespace": namespace, "labels": {"app": "a\u{202e}\u{9b}'"}},
                "status": {"phase": "Running", "podIP": address}})
        };
        let namespace = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let objects = [
            namespace(name),
            namespace("shop"),
            pod("web", "shop", "10.1.0.10"),
            pod("db", name, "10.1.0.20"),
            policy,
        ];
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let list = json(&list).expect("JSON");
        let flow = ["-f", "-", "--from", "10.1.0.10", "--to", "10.1.0.20", "--port", "5432/TCP"];
        let run = |more: &[&str]| {
            let output = whydrop(&[&["fix"], &flow[..], more].concat(), &list);
            assert_eq!(output.status.code(), Some(0), "{name:?}: {}", stderr(&output));
            stdout(&output)
        };
        let text = run(&["--patch"]);
        assert_plain(&text);
        let command = text.lines().rfind(|line| line.starts_with("kubectl ")).expect("a command");
        let words = words("kubectl", command);
        let [verb, what @ .., option, _, of_type, "json", of_patch, patch] =
            &words.iter().map(String::as_str).collect::<Vec<_>>()[..]
        else {
            panic!("{command}")
        };
        assert_eq!(
            [*verb, *option, *of_type, *of_patch],
            ["patch", "--namespace", "--type", "--patch"]
        );
        let kind = "networkpolicies.networking.k8s.io";
        match what {
            [first, name] => assert!(*first == kind && !name.starts_with('-'), "{command}"),
            [both] => assert!(both.starts_with(&format!("{kind}/-")), "{command}"),
            _ => panic!("{command}"),
        }
        let patch: Value = serde_json::from_str(patch).expect("JSON");
        let labels = &patch[0]["value"][0]["from"][0]["podSelector"]["matchLabels"];
        assert_eq!(labels["app"], "a\u{202e}\u{9b}'", "{patch}");

        assert_plain(&run(&["-o", "json"]));
        assert_plain(&run(&["--patch", "-o", "json"]));
        let yaml = run(&[]);
        assert_plain(&yaml);
        // And it is the policy that lets the flow pass.
        let explain = [&["explain"], &flow[..]].concat();
        let fixed = whydrop(&explain, format!("{list}\n---\n{yaml}"));
        assert_eq!(fixed.status.code(), Some(0), "{}{yaml}", stderr(&fixed));
    }
}

#[test]
fn errors_are_lines_whatever_manifests_hold() {
    let kind =
        "x\n2026-01-02T03:04:05Z DROP a/b -> c/d:1/TCP  x; fix: whydrop fix --from a/b\u{9b}";
    let bad = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": kind, "namespace": "a"},
        "status": {"podIP": kind}});
    let bad = json(&bad).expect("JSON");
    let twice = format!("{bad}\n---\n{bad}\n");
    let flow = ["explain", "-f", "-", "--from", "a/b", "--to", "c/d", "--port", "1"];
    let output = whydrop(&flow, &twice);
    assert_eq!(output.status.code(), Some(2));
    let errors = stderr(&output);
    assert_plain(&errors);
    assert!(!errors.contains("; fix:"), "{errors}");
    assert_eq!(errors.lines().count(), 2, "{errors}");
    assert!(errors.lines().all(|line| line.starts_with("whydrop: ")), "{errors}");
}
