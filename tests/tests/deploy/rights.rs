//! What the service accounts may do: as a real API server says, and of kinds that it does not have, as
//! the roles say.

use std::fs;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::{Value, json};
use whydrop_tests::{
    kube::{
        api::{Api, Settings},
        kubectl::Kubectl,
    },
    repository,
};

use crate::{
    base, chart, gateway, heal_overlay, metrics_overlay, of_kind, otlp_overlay,
    self_policy_overlay, values::other_chart,
};

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

    agent_may(&kubectl);
    healer_may(&kubectl);
}

/// Whether a service account may do something in a namespace, as the API server says, which knows
/// best.
fn may(kubectl: &Kubectl, namespace: &str, account: &str, verb: &str, resource: &str) -> bool {
    let account = format!("--as=system:serviceaccount:whydrop:{account}");
    let question = ["auth", "can-i", verb].into_iter().chain(resource.split(' '));
    let asked = kubectl.output(question.chain(["-n", namespace, &account]));
    String::from_utf8_lossy(&asked.expect("kubectl").stdout).trim() == "yes"
}

/// Nobody but the agent has its account.
fn agent_may(kubectl: &Kubectl) {
    let may = |verb: &str, resource: &str| may(kubectl, "backend", "whydrop", verb, resource);
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
}

/// The healer changes policies of namespaces, and nothing else; it hears the agents alone.
fn healer_may(kubectl: &Kubectl) {
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
        let may = may(kubectl, namespace, "whydrop-heal", verb, resource);
        assert_eq!(may, yes, "in {namespace} the healer may {verb} {resource}");
    }
}

#[test]
fn the_agent_may_write_events_and_read_what_it_judges_by() {
    let role: ClusterRole = of_kind("ClusterRole");
    for PolicyRule { verbs, resources, resource_names, .. } in role.rules.expect("rules") {
        let resources = resources.unwrap_or_default();
        // The one by which EKS Auto Mode enforces policies.
        if resources == ["configmaps"] {
            assert_eq!(resource_names.unwrap_or_default(), ["amazon-vpc-cni"]);
            assert_eq!(verbs, ["get"]);
            continue;
        }
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
        let PolicyRule { verbs, resources, resource_names, .. } = rule;
        let writes = verbs.iter().any(|verb| !["get", "list"].contains(&verb.as_str()));
        let resources = resources.unwrap_or_default();
        let of_default_tier = resources == ["tier.networkpolicies"]
            && resource_names.as_deref() == Some(&["default".to_owned(), "default.*".to_owned()]);
        let may = resources == ["networkpolicies"] || resources == ["events"] || of_default_tier;
        assert!(!writes || may, "{verbs:?} on {resources:?}");
        assert!(!verbs.iter().any(|verb| verb == "*" || verb == "update"), "{verbs:?}");
    }
}
