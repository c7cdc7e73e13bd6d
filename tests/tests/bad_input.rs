//! What the agent says to input that it cannot use: a clear message and exit code 2.
//!
//! What it can go on with, and does, are scenarios: `unknown-kind`, `pod-without-address`,
//! `broken-change`, `interface-vanishes`.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;
use whydrop_tests::{
    play::scenario::scenarios,
    world::{agent::binary, namespace::Namespace},
};

/// Long enough for an agent to see that it cannot work; `timeout` ends one that goes on with 124.
const SECONDS: &str = "20";

const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: worker-1}\n";

/// A folder of manifests.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        fs::write(folder.path().join(name), text).expect(name);
    }
    folder
}

/// A policy with one ingress rule.
fn policy(rule: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: broken, namespace: shop}}
spec:
  podSelector: {{}}
  ingress:
    - {rule}
"
    )
}

/// Runs the agent in a namespace of its own, by way of `before` (a program and its arguments).
fn agent(before: &[&str], arguments: &[&str]) -> Output {
    static RUN: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let run = RUN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let namespace = Namespace::create(run, "node").expect("a namespace");
    let mut command = namespace.command("timeout");
    command.arg(SECONDS).args(before).arg(binary().expect("whydrop")).arg("agent");
    command.args(arguments).output().expect("whydrop agent")
}

fn agent_over(before: &[&str], manifests: &Path) -> Output {
    let manifests = manifests.to_str().expect("a path");
    agent(before, &["--node-name", "worker-1", "--log-format", "json", "--manifests", manifests])
}

/// Exit code 2, these words on standard error, and no record of being ready.
fn assert_refused(output: &Output, words: &[&str]) {
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(2), "exit code; standard error:\n{err}");
    for word in words {
        assert!(err.contains(word), "no {word:?} in standard error:\n{err}");
    }
    assert!(!out.contains("\"ready\""), "it got ready:\n{out}");
    assert!(!err.contains("panicked"), "{err}");
}

#[test]
fn a_folder_with_no_manifests() {
    let empty = folder(&[]);
    assert_refused(
        &agent_over(&[], empty.path()),
        &["no manifests", &empty.path().to_string_lossy()],
    );
}

#[test]
fn a_folder_that_is_not_there() {
    let folder = folder(&[]);
    let missing = folder.path().join("missing");
    assert_refused(&agent_over(&[], &missing), &["missing"]);
}

#[test]
fn broken_yaml_is_named_with_its_place() {
    let folder = folder(&[("node.yaml", NODE), ("broken.yaml", "kind: Pod\nmetadata: {name: [\n")]);
    assert_refused(&agent_over(&[], folder.path()), &["broken.yaml"]);
}

#[test]
fn an_invalid_cidr_is_named_with_its_field() {
    let rule = "{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}";
    let folder = folder(&[("node.yaml", NODE), ("policies.yaml", &policy(rule))]);
    assert_refused(&agent_over(&[], folder.path()), &["policies.yaml", "cidr", "10.0.0.0/33"]);
}

#[test]
fn an_invalid_port_is_named_with_its_field() {
    let rule = "{ports: [{port: 70000}]}";
    let folder = folder(&[("node.yaml", NODE), ("policies.yaml", &policy(rule))]);
    assert_refused(&agent_over(&[], folder.path()), &["policies.yaml", "port", "70000"]);
}

#[test]
fn an_unknown_flag() {
    assert_refused(&agent(&[], &["--manifest", "."]), &["--manifest"]);
}

#[test]
fn no_privilege() {
    // Root without a single capability, as in a container that was given none.
    let powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"];
    let manifests = scenarios().join("frontend-to-backend/manifests");
    assert_refused(&agent_over(&powerless, &manifests), &["CAP_BPF", "CAP_NET_ADMIN"]);
}

#[test]
fn no_btf() {
    // A kernel built without CONFIG_DEBUG_INFO_BTF has no such folder.
    let hide = "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"";
    let without = ["unshare", "--mount", "sh", "-c", hide, "sh"];
    let manifests = scenarios().join("frontend-to-backend/manifests");
    assert_refused(&agent_over(&without, &manifests), &["/sys/kernel/btf/vmlinux"]);
}

#[test]
fn a_kernel_too_old_for_a_tracepoint() {
    // This kernel's own type information, but for the name of the tracepoint.
    let (known, unknown) = (b"\0btf_trace_kfree_skb\0", b"\0btf_trace_kfree_old\0");
    let mut types = fs::read("/sys/kernel/btf/vmlinux").expect("type information");
    let place = types.windows(known.len()).position(|bytes| bytes == known);
    let place = place.expect("the tracepoint's name");
    types[place..place + unknown.len()].copy_from_slice(unknown);
    let older = tempfile::NamedTempFile::new().expect("a file");
    fs::write(older.path(), types).expect("write");
    let replace = "mount --bind \"$0\" /sys/kernel/btf/vmlinux && exec \"$@\"";
    let path = older.path().to_str().expect("a path");
    let before = ["unshare", "--mount", "sh", "-c", replace, path];
    let manifests = scenarios().join("frontend-to-backend/manifests");
    let output = agent_over(&before, &manifests);
    assert_refused(&output, &["this kernel has no tracepoint kfree_skb"]);
}

#[test]
fn other_commands_refuse_the_same() {
    let folder = folder(&[("node.yaml", NODE), ("broken.yaml", "kind: Pod\nmetadata: {name: [\n")]);
    for command in ["explain", "fix"] {
        let output = Command::new("timeout")
            .arg(SECONDS)
            .arg(binary().expect("whydrop"))
            .args([command, "--from", "10.0.0.1", "--to", "10.0.0.2", "--port", "80", "-f"])
            .arg(folder.path())
            .output()
            .expect(command);
        assert_refused(&output, &["broken.yaml"]);
    }
}

#[test]
fn a_rule_of_what_is_muted_that_makes_no_sense_is_named() {
    let manifests = folder(&[("node.yaml", NODE)]);
    let rules =
        folder(&[("mute.yaml", "- {name: scan, source: {namespace: ops}}\n- {name: all}\n")]);
    let file = rules.path().join("mute.yaml");
    let (manifests, file) =
        (manifests.path().to_str().expect("a path"), file.to_str().expect("one"));
    let output = agent(&[], &["--node-name", "worker-1", "--manifests", manifests, "--mute", file]);
    assert_refused(&output, &["mute.yaml, rule 2 (all): expected source, destination, port"]);
}
