//! What is printed to be pasted: a shell makes of each command the words that it is to have, and of YAML
//! and JSON comes the value that was written.

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicySpec,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use serde_json::{Value, json};
use whydrop::{
    cluster::manifests::yaml,
    report::{
        escape::{self, shell_word},
        patch::edits_of,
        text::{FlowQuery, fix_by_id},
    },
};
use whydrop_core::{
    cluster::Snapshot,
    flow::Direction,
    policy::{PolicyKind, PolicyRef},
    remedy::{Manifest, patch},
};

use crate::{
    choices::Choices,
    text::{assert_harmless, assert_harmless_lines, words},
};

/// How long a name is at most; the API server's end at 253 characters.
const NAME_BYTES: usize = 64;

/// Names of anything, in every command.
pub(crate) fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let [one, two, three] = [(); 3].map(|()| choices.text(NAME_BYTES));
    let shown = |text: &str| escape::escape(text).into_owned();

    assert_eq!(words(&shell_word(&one)), [shown(&one)]);
    let flow = FlowQuery { from: one.clone(), to: two.clone(), port: three.clone() };
    let mut expected = vec!["whydrop".to_owned(), "fix".to_owned(), "--from".to_owned()];
    expected.extend([shown(&one), "--to".to_owned(), shown(&two)]);
    if !three.is_empty() {
        expected.extend(["--port".to_owned(), shown(&three)]);
    }
    assert_eq!(words(&flow.fix_command()), expected);
    if one.bytes().all(|byte| byte.is_ascii_hexdigit()) && !one.is_empty() {
        assert_eq!(words(&fix_by_id(&one)).len(), 3, "{one:?}");
    }
    for text in [escape::words(&one), escape::phrase(&one), escape::name(&one)] {
        assert_harmless(&text);
        assert!(!text.contains("; fix:") && !text.contains("[incident"), "{text:?}");
    }

    let value =
        json!({ one.clone(): [two.clone(), { three.clone(): one.clone() }], "n": -1, "e": "" });
    assert_written(&value);
    assert_patch([&one, &two, &three], &mut choices);
}

/// A value as JSON and YAML is harmless, and is read as it was.
fn assert_written(value: &Value) {
    let as_json = escape::json(value).expect("JSON");
    assert_harmless(&as_json);
    assert_eq!(serde_json::from_str::<Value>(&as_json).expect("JSON"), *value);
    let as_yaml = escape::yaml(value).expect("YAML");
    assert_harmless_lines(&as_yaml);
    assert_eq!(yaml(&as_yaml, 1).expect("YAML"), *value, "as kubectl reads it: {as_yaml}");
    let read = serde_saphyr::from_str::<Value>(&as_yaml);
    assert_eq!(read.expect("YAML"), *value, "as others read it: {as_yaml}");
}

/// A rule for a policy with these labels, as a command for kubectl.
fn assert_patch([name, namespace, label]: [&String; 3], choices: &mut Choices<'_>) {
    let labels = [(label.clone(), name.clone())].into();
    let selector = LabelSelector { match_labels: Some(labels), ..LabelSelector::default() };
    let peers =
        vec![NetworkPolicyPeer { pod_selector: Some(selector), ..NetworkPolicyPeer::default() }];
    let egress = NetworkPolicyEgressRule { to: Some(peers.clone()), ports: None };
    let ingress = NetworkPolicyIngressRule { from: Some(peers), ports: None };
    let is_egress = choices.byte().is_multiple_of(2);
    let spec = NetworkPolicySpec {
        egress: Some(vec![egress]),
        ingress: Some(vec![ingress]),
        ..NetworkPolicySpec::default()
    };
    let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
    let policy = NetworkPolicy { metadata, spec: Some(spec) };
    assert_written(&serde_json::to_value(&policy).expect("JSON"));
    let edit = patch::Edit {
        policy: PolicyRef {
            kind: PolicyKind::NetworkPolicy,
            namespace: Some(namespace.as_str().into()),
            name: name.as_str().into(),
        },
        api_version: "networking.k8s.io/v1".into(),
        direction: if is_egress { Direction::Egress } else { Direction::Ingress },
        rule: Manifest::Kubernetes(policy),
        has_rules: choices.byte().is_multiple_of(2),
    };
    let patch = patch::Patch {
        edits: vec![edit],
        newly_allowed: 0,
        newly_allowed_paths: Vec::new(),
        after: Snapshot::default(),
    };
    let edits = edits_of(&patch);
    let [edit] = &edits[..] else { panic!("{edits:?}") };
    let words = words(&edit.command);
    let shown = |text: &str| escape::escape(text).into_owned();
    let (resource, rest) = if name.starts_with('-') {
        (format!("networkpolicies.networking.k8s.io/{}", shown(name)), &words[3..])
    } else {
        assert_eq!(words[3], shown(name), "{}", edit.command);
        ("networkpolicies.networking.k8s.io".to_owned(), &words[4..])
    };
    assert_eq!(
        words[..3],
        ["kubectl".to_owned(), "patch".to_owned(), resource],
        "{}",
        edit.command
    );
    let [flag, value, how, json, option, patch] = rest else { panic!("{}", edit.command) };
    let flags = [flag, how, json, option].map(String::as_str);
    assert_eq!(flags, ["--namespace", "--type", "json", "--patch"], "{}", edit.command);
    assert_eq!(*value, shown(namespace), "{}", edit.command);
    let patch: Value = serde_json::from_str(patch).expect("a patch in JSON");
    let added = patch[0]["value"].clone();
    let added = if added.is_array() { added[0].clone() } else { added };
    assert_eq!(added, edit.rule, "{}", edit.command);
}
