//! Policies that are not read: which flows they leave open, and which they cannot touch.

use std::{net::IpAddr, sync::Arc};

use serde_json::{Value, json};
use whydrop_core::{
    cluster::{
        Cluster,
        node_address::NodeAddress,
        object::{Node, Object},
    },
    flow::{Direction, Protocol},
    kinds,
    verdict::{Decision, Question, SeenBy, Verdict, evaluate},
};

use crate::build::{address, ingress, labels, namespace, pod};

/// Namespaces shop and other; in shop web, and db, which a `NetworkPolicy` denies everything; node
/// worker-1.
fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.apply(namespace("shop", &[("team", "blue")]), None);
    cluster.apply(namespace("other", &[]), None);
    cluster.apply(Object::Pod(pod("shop", "web", 10, &[("app", "web")])), None);
    cluster.apply(Object::Pod(pod("shop", "db", 20, &[("app", "db")])), None);
    cluster.apply(Object::Pod(pod("other", "job", 30, &[("app", "job")])), None);
    let nothing = ingress("shop", "nothing", crate::build::equals(&[("app", "db")]), Vec::new());
    cluster.apply(Object::Policy(nothing), None);
    let node = Node {
        name: "worker-1".into(),
        labels: labels(&[("role", "worker")]),
        addresses: vec![NodeAddress::internal(address(1))],
        pod_networks: Vec::new(),
        subnets: Vec::new(),
    };
    cluster.apply(Object::Node(node), None);
    cluster
}

const WEB: u8 = 10;
const DB: u8 = 20;
const JOB: u8 = 30;
const NODE: u8 = 1;
/// Outside the cluster.
const OUTSIDE: u8 = 200;

fn verdict(object: &Value, from: u8, to: u8) -> Verdict {
    let text = |field: &str| object[field].as_str().expect("a type");
    let unread = kinds::unread(text("apiVersion"), text("kind"), object).expect("one not read");
    let mut cluster = cluster();
    cluster.set_unread([Arc::new(unread)]);
    let snapshot = cluster.snapshot();
    let end = |last: u8| -> IpAddr {
        if last == OUTSIDE { [203, 0, 113, 9].into() } else { address(last) }
    };
    let question = Question {
        source: snapshot.resolve(end(from), None),
        destination: snapshot.resolve(end(to), None),
        port: 5432,
        protocol: Protocol::Tcp,
        seen_by: SeenBy::Both,
    };
    evaluate(&snapshot, &question)
}

/// An object of a namespace, or with an empty one of the cluster.
#[expect(clippy::needless_pass_by_value, reason = "callers write the value where they call")]
fn object(api_version: &str, kind: &str, namespace: &str, spec: Value) -> Value {
    let mut metadata = json!({ "name": "p" });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec })
}

/// What a direction comes to: `allow`, `deny` or, left open, `?`.
fn comes_to(verdict: &Verdict, direction: Direction) -> &'static str {
    match verdict.direction(direction).decision {
        Decision::Allowed | Decision::NotIsolated => "allow",
        Decision::Denied => "deny",
        Decision::Unknown => "?",
    }
}

/// An object, a flow, and what egress and ingress of it come to.
type Row = (Value, (u8, u8), (&'static str, &'static str));

fn hold(rows: &[Row]) {
    for (object, (from, to), (egress, ingress)) in rows {
        let verdict = verdict(object, *from, *to);
        let found = (comes_to(&verdict, Direction::Egress), comes_to(&verdict, Direction::Ingress));
        assert_eq!(found, (*egress, *ingress), "{from} to {to}: {object}");
    }
}

#[test]
fn of_cilium_one_that_selects_an_end_may_turn_it_and_no_other() {
    let cnp = |namespace: &str, spec: Value| {
        object("cilium.io/v2", "CiliumNetworkPolicy", namespace, spec)
    };
    let ccnp = |spec: Value| object("cilium.io/v2", "CiliumClusterwideNetworkPolicy", "", spec);
    let of = |label: &str, app: &str| json!({ "matchLabels": { label: app } });
    let everybody = json!([{ "fromEndpoints": [{}] }]);
    hold(&[
        // Its rules are one set with Kubernetes': they may allow what is denied.
        (
            cnp("shop", json!({ "endpointSelector": of("app", "db"), "ingress": everybody })),
            (WEB, DB),
            ("allow", "?"),
        ),
        (
            cnp("shop", json!({ "endpointSelector": of("k8s:app", "db"), "ingress": everybody })),
            (WEB, DB),
            ("allow", "?"),
        ),
        (
            cnp("shop", json!({ "endpointSelector": {}, "ingress": everybody })),
            (WEB, DB),
            ("allow", "?"),
        ),
        // A lock-down, and rules that deny: what is denied stays so.
        (
            cnp("shop", json!({ "endpointSelector": {}, "ingress": [{}] })),
            (WEB, DB),
            ("allow", "deny"),
        ),
        (
            cnp("shop", json!({ "endpointSelector": {}, "ingressDeny": everybody })),
            (WEB, DB),
            ("allow", "deny"),
        ),
        (
            cnp("shop", json!({ "endpointSelector": {}, "ingress": [{}] })),
            (DB, WEB),
            ("allow", "?"),
        ),
        // Without isolating, it can only allow.
        (
            cnp(
                "shop",
                json!({ "endpointSelector": {}, "ingress": everybody, "enableDefaultDeny": { "ingress": false } }),
            ),
            (DB, WEB),
            ("allow", "allow"),
        ),
        // Another pod, another namespace, another direction.
        (
            cnp("shop", json!({ "endpointSelector": of("app", "cache"), "ingress": everybody })),
            (WEB, DB),
            ("allow", "deny"),
        ),
        (
            cnp("other", json!({ "endpointSelector": {}, "ingress": everybody })),
            (WEB, DB),
            ("allow", "deny"),
        ),
        (
            cnp("shop", json!({ "endpointSelector": {}, "egress": [{ "toEntities": ["world"] }] })),
            (JOB, WEB),
            ("allow", "allow"),
        ),
        (
            cnp("shop", json!({ "endpointSelector": {}, "egress": [{ "toEntities": ["world"] }] })),
            (WEB, JOB),
            ("?", "allow"),
        ),
        // What is no part of an identity, or from elsewhere, may be so.
        (
            cnp(
                "shop",
                json!({ "endpointSelector": of("pod-template-hash", "1"), "ingress": everybody }),
            ),
            (WEB, DB),
            ("allow", "?"),
        ),
        (
            cnp(
                "shop",
                json!({ "endpointSelector": of("app.kubernetes.io/name", "x"), "ingress": everybody }),
            ),
            (WEB, DB),
            ("allow", "deny"),
        ),
        // Of the cluster: by namespace, by its labels, by service account; or nodes.
        (
            ccnp(
                json!({ "endpointSelector": of("k8s:io.kubernetes.pod.namespace", "shop"), "ingress": everybody }),
            ),
            (WEB, DB),
            ("allow", "?"),
        ),
        (
            ccnp(
                json!({ "endpointSelector": of("io.kubernetes.pod.namespace", "other"), "ingress": everybody }),
            ),
            (WEB, DB),
            ("allow", "deny"),
        ),
        (
            ccnp(
                json!({ "endpointSelector": of("io.cilium.k8s.namespace.labels.team", "blue"), "ingress": everybody }),
            ),
            (WEB, DB),
            ("allow", "?"),
        ),
        (
            ccnp(
                json!({ "endpointSelector": of("io.cilium.k8s.policy.serviceaccount", "ci"), "ingress": everybody }),
            ),
            (WEB, DB),
            ("allow", "deny"),
        ),
        (
            ccnp(json!({ "nodeSelector": of("role", "worker"), "ingress": everybody })),
            (WEB, DB),
            ("allow", "deny"),
        ),
        (
            ccnp(json!({ "nodeSelector": of("role", "worker"), "ingress": everybody })),
            (JOB, NODE),
            ("allow", "?"),
        ),
        (
            ccnp(json!({ "nodeSelector": of("role", "gate"), "ingress": everybody })),
            (JOB, NODE),
            ("allow", "allow"),
        ),
    ]);
    let several = json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": { "name": "p", "namespace": "shop" },
        "specs": [
            { "endpointSelector": of("app", "cache"), "ingress": everybody },
            { "endpointSelector": of("app", "db"), "ingress": everybody },
        ],
    });
    hold(&[(several, (WEB, DB), ("allow", "?"))]);
}

#[test]
fn of_antrea_tiers_before_and_after_kubernetes_policies() {
    let acnp = |spec: Value| object("crd.antrea.io/v1beta1", "ClusterNetworkPolicy", "", spec);
    let anp = |spec: Value| object("crd.antrea.io/v1beta1", "NetworkPolicy", "shop", spec);
    let of = |app: &str| json!([{ "podSelector": { "matchLabels": { "app": app } } }]);
    hold(&[
        (
            acnp(json!({ "appliedTo": of("db"), "ingress": [{ "action": "Allow" }] })),
            (WEB, DB),
            ("allow", "?"),
        ),
        (
            acnp(json!({ "appliedTo": of("db"), "ingress": [{ "action": "Drop" }] })),
            (WEB, DB),
            ("allow", "deny"),
        ),
        (
            acnp(json!({ "appliedTo": of("web"), "ingress": [{ "action": "Drop" }] })),
            (DB, WEB),
            ("allow", "?"),
        ),
        (
            acnp(json!({ "appliedTo": of("web"), "ingress": [{ "action": "Pass" }] })),
            (DB, WEB),
            ("allow", "allow"),
        ),
        (
            acnp(json!({ "ingress": [{ "action": "Allow", "appliedTo": of("db") }] })),
            (WEB, DB),
            ("allow", "?"),
        ),
        (
            acnp(json!({ "appliedTo": [{ "group": "dbs" }], "ingress": [{ "action": "Allow" }] })),
            (WEB, DB),
            ("allow", "?"),
        ),
        (
            acnp(
                json!({ "tier": "baseline", "appliedTo": of("db"), "ingress": [{ "action": "Allow" }] }),
            ),
            (WEB, DB),
            ("allow", "deny"),
        ),
        (
            acnp(
                json!({ "tier": "baseline", "appliedTo": of("web"), "ingress": [{ "action": "Drop" }] }),
            ),
            (DB, WEB),
            ("allow", "?"),
        ),
        (
            acnp(
                json!({ "appliedTo": [{ "namespaceSelector": { "matchLabels": { "team": "red" } } }], "ingress": [{ "action": "Allow" }] }),
            ),
            (WEB, DB),
            ("allow", "deny"),
        ),
        (
            anp(json!({ "appliedTo": of("db"), "egress": [{ "action": "Drop" }] })),
            (DB, WEB),
            ("?", "allow"),
        ),
        (
            anp(json!({ "appliedTo": of("job"), "egress": [{ "action": "Drop" }] })),
            (JOB, WEB),
            ("allow", "allow"),
        ),
    ]);
}

#[test]
fn an_egress_firewall_denies_what_leaves_the_cluster_and_nothing_else() {
    for (api_version, kind) in
        [("k8s.ovn.org/v1", "EgressFirewall"), ("network.openshift.io/v1", "EgressNetworkPolicy")]
    {
        let of = |rules: Value| object(api_version, kind, "shop", json!({ "egress": rules }));
        let deny = |to: Value| json!({ "type": "Deny", "to": to });
        let all = of(json!([deny(json!({ "cidrSelector": "0.0.0.0/0" }))]));
        hold(&[
            (all.clone(), (WEB, OUTSIDE), ("?", "allow")),
            (all.clone(), (WEB, NODE), ("?", "allow")),
            (all.clone(), (JOB, OUTSIDE), ("allow", "allow")),
            (all.clone(), (WEB, JOB), ("allow", "allow")),
            (all, (WEB, DB), ("allow", "deny")),
            (
                of(json!([deny(json!({ "cidrSelector": "198.51.100.0/24" }))])),
                (WEB, OUTSIDE),
                ("allow", "allow"),
            ),
            (
                of(json!([deny(json!({ "dnsName": "example.com" }))])),
                (WEB, OUTSIDE),
                ("?", "allow"),
            ),
            (
                of(json!([{ "type": "Allow", "to": { "cidrSelector": "0.0.0.0/0" } }])),
                (WEB, OUTSIDE),
                ("allow", "allow"),
            ),
            // By its metadata alone it is known where it is.
            (
                json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": "default", "namespace": "shop" } }),
                (WEB, OUTSIDE),
                ("?", "allow"),
            ),
        ]);
    }
}

#[test]
fn cluster_network_policies_stand_before_or_after_kubernetes() {
    for api_version in [
        "policy.networking.k8s.io/v1beta1",
        "policy.networking.k8s.io/v1alpha2",
        "networking.k8s.aws/v1alpha1",
    ] {
        let of = |tier: &str, subject: Value, action: &str| {
            let from = json!([{ "namespaces": {} }]);
            let rules = json!([{ "action": action, "from": from }]);
            let spec = json!({ "tier": tier, "priority": 1, "subject": subject, "ingress": rules });
            object(api_version, "ClusterNetworkPolicy", "", spec)
        };
        let shop = || json!({ "namespaces": { "matchLabels": { "team": "blue" } } });
        let red = json!({ "namespaces": { "matchLabels": { "team": "red" } } });
        let web = json!({ "pods": { "namespaceSelector": {}, "podSelector": { "matchLabels": { "app": "web" } } } });
        hold(&[
            (of("Admin", shop(), "Accept"), (WEB, DB), ("allow", "?")),
            (of("Admin", shop(), "Deny"), (WEB, DB), ("allow", "deny")),
            (of("Admin", shop(), "Pass"), (DB, WEB), ("allow", "allow")),
            (of("Admin", red, "Accept"), (WEB, DB), ("allow", "deny")),
            (of("Admin", web.clone(), "Accept"), (WEB, DB), ("allow", "deny")),
            (of("Baseline", shop(), "Accept"), (WEB, DB), ("allow", "deny")),
            (of("Baseline", web, "Deny"), (DB, WEB), ("allow", "?")),
        ]);
    }
}

#[test]
fn those_of_clouds_and_of_nodes() {
    let anp = |spec: Value| {
        object("networking.k8s.aws/v1alpha1", "ApplicationNetworkPolicy", "shop", spec)
    };
    let db = || json!({ "matchLabels": { "app": "db" } });
    let fqdn = |pods: Value| {
        object(
            "networking.gke.io/v1alpha1",
            "FQDNNetworkPolicy",
            "shop",
            json!({ "podSelector": pods, "egress": [{ "matches": [{ "name": "example.com" }] }] }),
        )
    };
    let host = |node: &str| {
        object(
            "projectcalico.org/v3",
            "HostEndpoint",
            "",
            json!({ "node": node, "interfaceName": "*" }),
        )
    };
    hold(&[
        (anp(json!({ "podSelector": db(), "ingress": [{}] })), (WEB, DB), ("allow", "?")),
        (
            anp(json!({ "podSelector": db(), "policyTypes": ["Ingress"] })),
            (WEB, DB),
            ("allow", "deny"),
        ),
        (anp(json!({ "podSelector": db(), "policyTypes": ["Egress"] })), (DB, WEB), ("?", "allow")),
        (
            anp(json!({ "podSelector": db(), "policyTypes": ["Egress"] })),
            (WEB, DB),
            ("allow", "deny"),
        ),
        (fqdn(db()), (DB, OUTSIDE), ("?", "allow")),
        (fqdn(db()), (WEB, OUTSIDE), ("allow", "allow")),
        (fqdn(db()), (WEB, DB), ("allow", "deny")),
        // What a node receives; the pod's own side is certain.
        (host("worker-1"), (WEB, NODE), ("allow", "?")),
        (host("worker-2"), (WEB, NODE), ("allow", "allow")),
        (host("worker-1"), (WEB, DB), ("allow", "deny")),
    ]);
}

#[test]
fn what_decides_nothing_of_a_first_packet_leaves_the_verdict_alone() {
    let rows = [
        ("k8s.cni.cncf.io/v1beta1", "MultiNetworkPolicy", "shop"),
        ("security.istio.io/v1", "AuthorizationPolicy", "shop"),
        ("policy.linkerd.io/v1beta3", "Server", "shop"),
        ("policy.linkerd.io/v1alpha1", "AuthorizationPolicy", "shop"),
        ("k8s.ovn.org/v1", "AdminPolicyBasedExternalRoute", ""),
    ];
    for (api_version, kind, namespace) in rows {
        let one = || object(api_version, kind, namespace, json!({}));
        hold(&[
            (one(), (WEB, DB), ("allow", "deny")),
            (one(), (DB, WEB), ("allow", "allow")),
            (one(), (WEB, OUTSIDE), ("allow", "allow")),
        ]);
    }
}

#[test]
fn an_unread_policy_is_named_once_and_many_as_a_number() {
    let cnp = |name: &str| {
        let metadata = json!({ "name": name, "namespace": "shop" });
        let object = json!({ "metadata": metadata });
        Arc::new(kinds::unread("cilium.io/v2", "CiliumNetworkPolicy", &object).expect("unread"))
    };
    let sentences = |names: &[&str]| -> Vec<String> {
        let mut cluster = cluster();
        cluster.set_unread(names.iter().map(|name| cnp(name)));
        let snapshot = cluster.snapshot();
        let question = Question {
            source: snapshot.resolve(address(DB), None),
            destination: snapshot.resolve(address(WEB), None),
            port: 80,
            protocol: Protocol::Tcp,
            seen_by: SeenBy::Both,
        };
        let verdict = evaluate(&snapshot, &question);
        verdict.unknowns().map(ToString::to_string).collect()
    };
    assert_eq!(sentences(&["a"]), ["CiliumNetworkPolicy shop/a may decide"]);
    assert_eq!(
        sentences(&["a", "b"]),
        ["CiliumNetworkPolicy shop/a and CiliumNetworkPolicy shop/b may decide"]
    );
    let many = sentences(&["a", "b", "c", "d", "e", "f"]);
    assert!(many[0].ends_with("CiliumNetworkPolicy shop/d and 2 more may decide"), "{many:?}");
    assert_eq!(many.len(), 1);
}

#[test]
fn objects_that_could_not_be_listed_may_be_anywhere_they_can_be() {
    let row = kinds::named("k8s.ovn.org/v1", "EgressFirewall").expect("a row");
    let mut cluster = cluster();
    cluster.set_unread([Arc::new(row.unlisted(None))]);
    let snapshot = cluster.snapshot();
    let ask = |to: IpAddr| {
        let question = Question {
            source: snapshot.resolve(address(JOB), None),
            destination: snapshot.resolve(to, None),
            port: 80,
            protocol: Protocol::Tcp,
            seen_by: SeenBy::Both,
        };
        evaluate(&snapshot, &question)
    };
    let outside = ask([203, 0, 113, 9].into());
    assert_eq!(
        *outside.egress.unknown,
        ["EgressFirewall objects, which could not be listed, may decide".into()]
    );
    assert_eq!(ask(address(WEB)).decision(), Decision::NotIsolated);
}

#[test]
fn a_malformed_policy_may_decide_for_those_whom_its_selector_may_select() {
    let malformed = |selector: Value| {
        let spec = json!({ "podSelector": selector, "ingress": "all" });
        object("networking.k8s.io/v1", "NetworkPolicy", "shop", spec)
    };
    hold(&[
        (malformed(json!({ "matchLabels": { "app": "db" } })), (WEB, DB), ("allow", "?")),
        (malformed(json!({ "matchLabels": { "app": "cache" } })), (WEB, DB), ("allow", "deny")),
        (malformed(json!({ "matchLabels": 1 })), (WEB, DB), ("?", "?")),
    ]);
}
