//! The rights that `deploy/` grants, and the README's table of kinds, are those of the registry.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use whydrop_core::{
    cluster::object::Kind,
    kinds::{self, KindRow, Role},
};
use whydrop_kube::manifests::yaml;

/// By group and resource, what may be done with it.
type Rights = BTreeMap<(String, String), BTreeSet<String>>;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A template without what Helm fills in: names and labels, which grant nothing.
fn unfilled(template: &str) -> String {
    let mut text = String::new();
    for line in template.lines().filter(|line| !line.starts_with("{{")) {
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("{{") {
            let (filled_in, after) = after.split_once("}}").expect("an end of what is filled in");
            text.push_str(before);
            // What is indented is fields.
            text.push_str(if filled_in.contains("nindent") { "{}" } else { "FILLED-IN" });
            rest = after;
        }
        text.push_str(rest);
        text.push('\n');
    }
    text
}

/// What those cluster roles of a file grant whose names satisfy a condition.
fn granted(path: &str, is_asked_for: impl Fn(&str) -> bool) -> Rights {
    let mut rights = Rights::new();
    for document in unfilled(&read(path)).split("---\n") {
        let object = yaml(document, 1).unwrap_or_else(|error| panic!("{path}: {error}"));
        if object["kind"] != "ClusterRole" {
            continue;
        }
        let role: ClusterRole = serde_json::from_value(object).expect("a ClusterRole");
        if !is_asked_for(&role.metadata.name.unwrap_or_default()) {
            continue;
        }
        for PolicyRule { api_groups, resources, verbs, .. } in role.rules.unwrap_or_default() {
            for group in api_groups.unwrap_or_default() {
                for resource in resources.iter().flatten() {
                    let right = rights.entry((group.clone(), resource.clone())).or_default();
                    right.extend(verbs.iter().cloned());
                }
            }
        }
    }
    assert!(!rights.is_empty(), "{path}: no ClusterRole");
    rights
}

/// What is granted is what the kinds need, and in their groups nothing else is.
fn assert_granted(
    path: &str,
    granted: &Rights,
    needed: impl Fn(&KindRow) -> &'static [&'static str],
) {
    let groups: BTreeSet<&str> = kinds::all().flat_map(KindRow::groups).collect();
    let mut expected = Rights::new();
    for row in kinds::all().filter(|row| !needed(row).is_empty()) {
        let verbs: BTreeSet<String> = needed(row).iter().map(ToString::to_string).collect();
        // Old versions are in other groups, in manifests only: no API server serves them any more.
        let is_asked = |group: &&str| {
            *group == row.group() || (row.role != Role::Template && *group != "extensions")
        };
        for group in row.groups().into_iter().filter(is_asked) {
            expected.insert((group.to_owned(), row.plural.to_owned()), BTreeSet::clone(&verbs));
        }
    }
    for (resource, verbs) in &expected {
        assert_eq!(granted.get(resource), Some(verbs), "{path}: rights on {resource:?}");
    }
    // By which an engine is switched on, and what Calico asks for beside its own kinds.
    let of_engines = |resource: &str| ["configmaps", "tier.networkpolicies"].contains(&resource);
    let of_kinds = granted
        .keys()
        .filter(|(group, resource)| groups.contains(group.as_str()) && !of_engines(resource));
    let more: Vec<_> = of_kinds.filter(|resource| !expected.contains_key(*resource)).collect();
    assert!(more.is_empty(), "{path}: rights that no kind needs: {more:?}");
}

#[test]
fn the_agent_may_follow_each_kind() {
    for path in ["deploy/kustomize/base/rbac.yaml", "deploy/helm/whydrop/templates/rbac.yaml"] {
        assert_granted(path, &granted(path, |_| true), |row| match row.role {
            Role::Given | Role::Remarked => &[],
            // Where a drop cuts an API server off; the others are left to questions.
            Role::Caller => match row.kind {
                "ValidatingWebhookConfiguration"
                | "MutatingWebhookConfiguration"
                | "APIService" => &["list"],
                _ => &[],
            },
            Role::LookedUp => &["list"],
            // A pod's owner's owner, and how many pods a workload has; never what they are made of.
            Role::Template => match row.kind {
                "ReplicaSet" | "Job" | "Deployment" | "StatefulSet" | "DaemonSet" => &["get"],
                _ => &[],
            },
            // Nothing is asked for by its name: tests/tests/privileges has the API server's word for it.
            _ => &["list", "watch"],
        });
    }
}

const HEAL: [&str; 2] =
    ["deploy/kustomize/overlays/heal/rbac.yaml", "deploy/helm/whydrop/templates/heal-rbac.yaml"];

#[test]
fn the_healer_may_read_each_kind() {
    for path in HEAL {
        let granted = granted(path, |role| !role.ends_with("-policies"));
        assert_granted(path, &granted, |row| match row.role {
            Role::Unread => &["list"],
            Role::Given | Role::Template | Role::Remarked | Role::Caller => &[],
            // Those that it writes it reads again.
            _ if row.is_remedy => &["get", "list"],
            _ if row.reads() == Some(Kind::Namespace) => &["get"],
            _ => &["list"],
        });
    }
}

#[test]
fn who_asks_may_read_each_kind() {
    for path in
        ["deploy/kustomize/explain/rbac.yaml", "deploy/helm/whydrop/templates/explain-rbac.yaml"]
    {
        assert_granted(path, &granted(path, |_| true), |row| match row.role {
            Role::Given => &[],
            _ => &["get", "list"],
        });
    }
}

#[test]
fn the_healer_may_write_what_remedies_are_written_as() {
    for path in HEAL {
        let granted = granted(path, |role| role.ends_with("-policies"));
        assert_granted(path, &granted, |row| match row.is_remedy {
            true => &["create", "delete", "patch"],
            false => &[],
        });
    }
}

#[test]
fn the_readme_has_a_line_for_each_kind() {
    let readme = read("README.md");
    let (_, section) = readme.split_once("## Policy kinds\n").expect("a section of kinds");
    let lines = section.lines().skip_while(|line| !line.starts_with("|---"));
    let lines: Vec<&str> = lines.skip(1).take_while(|line| line.starts_with('|')).collect();
    let expected = kinds::all().filter_map(|row| {
        let becomes = match row.role {
            Role::Object | Role::LookedUp | Role::Given | Role::Template | Role::Caller => {
                return None;
            }
            Role::Policy => "evaluated",
            Role::Staged => "reported: what it would deny",
            Role::Unread => "not read: named where it may decide",
            Role::Remarked => "not read: a remark",
        };
        let versions: Vec<_> = row.api_versions.iter().map(|v| format!("`{v}`")).collect();
        Some(format!("| {} | {} | {becomes} |", row.kind, versions.join(", ")))
    });
    assert_eq!(lines, expected.collect::<Vec<_>>());
}

#[test]
fn the_threat_model_says_what_each_right_is_worth() {
    let document = read("docs/security.md");
    let (_, section) = document.split_once("## What a right buys\n").expect("a section of rights");
    let (section, _) = section.split_once("\n## ").expect("an end of it");
    // One row has the policies of all kinds.
    let is_policy = |resource: &str| {
        kinds::all().any(|row| {
            row.plural == resource
                && matches!(row.role, Role::Policy | Role::Staged | Role::Unread)
                && row.kind.ends_with("Policy")
        })
    };
    let paths = ["deploy/kustomize/base/rbac.yaml", HEAL[0]];
    let granted = paths.into_iter().flat_map(|path| granted(path, |_| true).into_keys());
    let resources: BTreeSet<String> = granted.map(|(_, resource)| resource).collect();
    assert!(resources.len() > 20, "{resources:?}");
    let unsaid: Vec<_> = resources
        .iter()
        .filter(|resource| {
            !is_policy(resource) && !section.contains(resource.trim_end_matches('s'))
        })
        .collect();
    assert_eq!(unsaid, Vec::<&String>::new());
}
