//! Which engine enforces: what it changes of a flow.

use std::net::IpAddr;

use serde_json::{Value, json};
use whydrop_core::{
    cluster::{Cluster, Snapshot, object::Object, profile::Engine},
    diagnosis::{Class, diagnose},
    flow::Protocol,
    kinds,
    verdict::{
        Decision, Question, SeenBy, evaluate,
        remarks::{Remark, remarks},
    },
};

use crate::build::{address, case, namespace, pod};

/// Pods shop/web and shop/db and node n1, which db runs on; policies as they are written.
fn cluster(engine: &str, policies: &[Value]) -> Snapshot {
    let mut cluster = Cluster::default();
    cluster.apply(namespace("shop", &[]), None);
    cluster.apply(namespace("openshift-host-network", &[("host", "yes")]), None);
    for (name, last) in [("web", 10), ("db", 20)] {
        let mut pod = pod("shop", name, last, &[("app", name)]);
        pod.node = Some("n1".into());
        cluster.apply(Object::Pod(pod), None);
    }
    let node = |name: &str, last: u8| {
        json!({
            "metadata": { "name": name },
            "status": { "addresses": [{ "type": "InternalIP", "address": format!("10.1.0.{last}") }] },
        })
    };
    let mut read = |api_version: &str, kind: &str, object: Value| {
        let row = kinds::named(api_version, kind).expect("a kind");
        let object = row.decode(object, api_version).expect("well-formed").expect("read");
        cluster.apply(object, None);
    };
    read("v1", "Node", node("n1", 1));
    read("v1", "Node", node("n2", 2));
    for policy in policies {
        let text = |field: &str| policy[field].as_str().expect("a type");
        read(text("apiVersion"), text("kind"), policy.clone());
    }
    if !engine.is_empty() {
        cluster.give_engine(Engine::read(engine).expect("an engine"));
    }
    cluster.snapshot()
}

#[expect(clippy::needless_pass_by_value, reason = "callers write the value where they call")]
fn policy(spec: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "p", "namespace": "shop" }, "spec": spec,
    })
}

fn question(snapshot: &Snapshot, from: IpAddr, to: IpAddr) -> Question {
    Question {
        source: snapshot.resolve(from, None),
        destination: snapshot.resolve(to, None),
        port: 5432,
        protocol: Protocol::Tcp,
        seen_by: SeenBy::Both,
    }
}

const WEB: u8 = 10;
const DB: u8 = 20;
const N1: u8 = 1;
const N2: u8 = 2;

/// Whether a flow passes, what is exempt included.
fn passes(engine: &str, policies: &[Value], from: u8, to: u8) -> bool {
    let snapshot = cluster(engine, policies);
    let verdict = evaluate(&snapshot, &question(&snapshot, address(from), address(to)));
    verdict.exempt.is_some() || verdict.decision().lets_pass()
}

#[test]
fn engines_differ_in_whom_a_block_matches() {
    let block = || {
        [policy(json!({
            "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Egress"],
            "egress": [{ "to": [{ "ipBlock": { "cidr": "10.0.0.0/8" } }] }],
        }))]
    };
    for (engine, expected) in [
        ("", true),
        ("calico", true),
        ("ovn-kubernetes", true),
        ("antrea", true),
        ("cilium", false),
        ("cilium@1.18", false),
        ("gke", false),
    ] {
        assert_eq!(passes(engine, &block(), WEB, DB), expected, "a pod, {engine}");
        assert_eq!(passes(engine, &block(), WEB, N2), expected, "a node, {engine}");
    }
    let snapshot = cluster("cilium", &block());
    let outside = question(&snapshot, address(WEB), [10, 200, 0, 1].into());
    assert!(evaluate(&snapshot, &outside).decision().lets_pass());
    // Said where it decided, and nowhere else.
    let inside = question(&snapshot, address(WEB), address(DB));
    let said: Vec<String> = remarks(&snapshot, &inside).iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        ["ipBlock matches no pod and no node of the cluster, with Cilium (by --engine)"]
    );
    assert_eq!(remarks(&snapshot, &outside), []);
    // The nearest miss is the block, and no remedy is made of it that would not help.
    let judged = diagnose(&snapshot, &case(address(WEB), address(DB), 5432));
    assert_eq!(judged.cause.class, Class::IpBlockMismatch);
    // Without an engine it is a remark.
    let snapshot = cluster("", &block());
    let said = remarks(&snapshot, &question(&snapshot, address(WEB), address(DB)));
    let [Remark::OtherEngines { engines, .. }] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!(*engines, ["Cilium", "GKE Dataplane V2"]);
}

#[test]
fn engines_differ_in_a_pods_own_node() {
    let nothing = || [policy(json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] }))];
    for (engine, to_node) in [
        ("", true),
        ("weave", true),
        ("aws-vpc-cni", true),
        ("azure-npm", true),
        ("calico", false),
        ("cilium", false),
        ("antrea", false),
        ("ovn-kubernetes", false),
        ("kube-router", false),
    ] {
        assert!(passes(engine, &nothing(), N1, DB), "{engine}: from the node");
        assert_eq!(passes(engine, &nothing(), DB, N1), to_node, "{engine}: to the node");
        assert!(!passes(engine, &nothing(), N2, DB), "{engine}: from another node");
    }
}

#[test]
fn engines_differ_in_what_a_pod_sends_to_itself_through_a_service() {
    let nothing = || [policy(json!({ "podSelector": {}, "policyTypes": ["Ingress"] }))];
    for (engine, expected) in [("", true), ("cilium", true), ("calico", false)] {
        let snapshot = cluster(engine, &nothing());
        let direct = question(&snapshot, address(DB), address(DB));
        let through = Question { seen_by: SeenBy::Hairpin, ..direct.clone() };
        assert!(
            evaluate(&snapshot, &direct).exempt.is_some(),
            "{engine}: it does not leave the pod"
        );
        assert_eq!(evaluate(&snapshot, &through).exempt.is_some(), expected, "{engine}");
    }
    // Without an engine it is a remark.
    let snapshot = cluster("", &nothing());
    let through =
        Question { seen_by: SeenBy::Hairpin, ..question(&snapshot, address(DB), address(DB)) };
    let said: Vec<String> = remarks(&snapshot, &through).iter().map(ToString::to_string).collect();
    let expected =
        "it would be denied where what a pod sends to itself through a Service is policed";
    assert!(said.iter().any(|said| said.contains(expected)), "{said:?}");
}

#[test]
fn engines_differ_in_rules_of_a_direction_that_the_types_leave_out() {
    let undeclared = || {
        [policy(json!({
            "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Ingress"],
            "ingress": [{}], "egress": [{ "to": [{ "podSelector": { "matchLabels": { "app": "cache" } } }] }],
        }))]
    };
    for (engine, expected) in [
        ("", true),
        ("calico", true),
        ("ovn-kubernetes", true),
        ("cilium", false),
        ("antrea", false),
    ] {
        assert_eq!(passes(engine, &undeclared(), WEB, DB), expected, "{engine}");
    }
}

#[test]
fn openshift_counts_nodes_that_connect_as_pods_of_a_namespace() {
    let from_hosts = || {
        [policy(json!({
            "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{ "from": [{ "namespaceSelector": { "matchLabels": { "host": "yes" } } }] }],
            "egress": [{ "to": [{ "namespaceSelector": { "matchLabels": { "host": "yes" } } }] }],
        }))]
    };
    assert!(passes("openshift", &from_hosts(), N2, DB));
    assert!(!passes("calico", &from_hosts(), N2, DB) && !passes("", &from_hosts(), N2, DB));
    // It is who connects that counts so.
    assert!(!passes("openshift", &from_hosts(), DB, N2));
}

#[test]
fn an_admin_policy_is_not_blamed_where_nobody_enforces_it() {
    let deny = || {
        [json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "AdminNetworkPolicy",
            "metadata": { "name": "corp" },
            "spec": {
                "priority": 5, "subject": { "namespaces": {} },
                "ingress": [{ "action": "Deny", "from": [{ "namespaces": {} }] }],
            },
        })]
    };
    for (engine, expected) in [
        ("", false),
        ("calico@3.30", false),
        ("ovn-kubernetes", false),
        ("calico", false),
        ("calico@3.32", true),
        ("calico@3.28", true),
        ("cilium", true),
        ("antrea", true),
        ("gke", true),
    ] {
        assert_eq!(passes(engine, &deny(), WEB, DB), expected, "{engine}");
    }
    let said = |engine: &str| -> Vec<String> {
        let snapshot = cluster(engine, &deny());
        let question = question(&snapshot, address(WEB), address(DB));
        remarks(&snapshot, &question).iter().map(ToString::to_string).collect()
    };
    assert!(said("calico@3.32").contains(
        &"AdminNetworkPolicy corp is not in force: Calico 3.32 does not enforce it (by --engine)".to_owned()
    ));
    assert!(said("antrea").iter().any(|said| said.contains("does not enforce it by default")));
    let unknown = said("").join("\n");
    assert!(
        unknown.contains("Calico before 3.29") && unknown.contains("Calico from 3.32 on"),
        "{unknown}"
    );
}

#[test]
fn an_engine_that_enforces_nothing_lets_pass_what_policies_deny() {
    let nothing = || [policy(json!({ "podSelector": {} }))];
    for (engine, said) in
        [("flannel", "enforces none of them"), ("eks-auto", "before it is set up to")]
    {
        let snapshot = cluster(engine, &nothing());
        let judged = diagnose(&snapshot, &case(address(WEB), address(DB), 5432));
        assert_eq!(judged.cause.class, Class::NotEnforced, "{engine}");
        assert_eq!(judged.verdict.decision(), Decision::Denied);
        assert!(judged.cause.text.contains(said), "{}", judged.cause.text);
        assert!(
            judged.cause.text.contains("ingress denied by NetworkPolicy shop/p"),
            "{}",
            judged.cause.text
        );
        // What no policy denies passes without a word.
        let other = diagnose(&cluster(engine, &[]), &case(address(WEB), address(DB), 5432));
        assert_eq!(other.cause.class, Class::None);
    }
}
