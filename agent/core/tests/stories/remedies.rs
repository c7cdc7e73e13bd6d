//! What a remedy is for, what it is made of, and what is asked and what is seen.

use jiff::SignedDuration;
use whydrop_core::{
    cluster::{
        Cluster, Snapshot,
        history::History,
        node_address::NodeAddress,
        object::{Node, Object, Pod},
    },
    diagnosis::{Case, Class, Fate, diagnose},
    incident::{IncidentBook, JudgedDrop, Step},
    judgement::{Judgement, judge},
    observation::IN_POD,
    policy::{
        Action, Layer, Namespaces, Peers, PodPeer, Policy, PolicyKind, Rule, order::Order,
        requirement::Labels, selector::Selector,
    },
    remedy::{Manifest, Remedy, choices::choices, remedy_for_all},
    verdict::{Exemption, evaluate},
};

use crate::build::{
    address, at, between, case, case_of, dropped, dropped_at, equals, ingress, namespace, pod,
    policy_key, rule, workload,
};

const ASK: (&str, &str) = ("shop", "ask");

/// A client in `shop`; namespace `bank`, of which nothing is admitted.
fn closed() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.apply(namespace("shop", &[]), None);
    cluster.apply(namespace("bank", &[]), None);
    cluster.apply(Object::Pod(pod("shop", "ask", 10, &[("app", "ask")])), None);
    let deny = ingress("bank", "closed", Selector::EVERYTHING, Vec::new());
    cluster.apply(Object::Policy(deny), None);
    cluster.history_begins(at(0));
    cluster
}

fn replica(name: &str, last: u8, kind: &str, owner: &str, labels: &[(&str, &str)]) -> Object {
    let workload = Some(workload(kind, owner));
    Object::Pod(Pod { workload, ..pod("bank", name, last, labels) })
}

fn judged(snapshot: &Snapshot, to: &str, port: u16) -> Judgement {
    judge(snapshot, &History::default(), &between(snapshot, ASK, ("bank", to), port))
}

fn found(snapshot: &Snapshot, to: &str) -> Remedy {
    judged(snapshot, to, 5432).remedy.expect("a remedy")
}

/// The labels by which a remedy's first policy selects.
fn selected(remedy: &Remedy) -> Vec<String> {
    let Manifest::Kubernetes(policy) = &remedy.policies[0] else { panic!("{remedy:?}") };
    let selector = policy.spec.as_ref().and_then(|spec| spec.pod_selector.as_ref());
    let labels = selector.and_then(|selector| selector.match_labels.clone()).unwrap_or_default();
    labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
}

/// The networks of its first rule.
fn networks(remedy: &Remedy) -> Vec<String> {
    let Manifest::Kubernetes(policy) = &remedy.policies[0] else { panic!("{remedy:?}") };
    let rules = policy.spec.as_ref().and_then(|spec| spec.ingress.as_ref()).expect("rules");
    let peers = rules[0].from.iter().flatten();
    peers.filter_map(|peer| peer.ip_block.as_ref()).map(|block| block.cidr.clone()).collect()
}

#[test]
#[expect(clippy::type_complexity, reason = "rows of a test")]
fn a_rule_for_one_replica_is_by_labels_that_all_have_and_keep() {
    let cases: [(&str, &str, [&[(&str, &str)]; 3], &[&str]); 5] = [
        (
            "StatefulSet",
            "ledger",
            [
                &[("app", "ledger"), ("apps.kubernetes.io/pod-index", "0"), ("role", "master")],
                &[("app", "ledger"), ("apps.kubernetes.io/pod-index", "1"), ("role", "replica")],
                &[("app", "ledger"), ("apps.kubernetes.io/pod-index", "2"), ("role", "replica")],
            ],
            &["app=ledger"],
        ),
        (
            "Cluster",
            "ledger",
            [
                &[
                    ("cnpg.io/cluster", "ledger"),
                    ("cnpg.io/podRole", "instance"),
                    ("x", "ledger-0"),
                ],
                &[
                    ("cnpg.io/cluster", "ledger"),
                    ("cnpg.io/podRole", "instance"),
                    ("x", "ledger-1"),
                ],
                &[
                    ("cnpg.io/cluster", "ledger"),
                    ("cnpg.io/podRole", "instance"),
                    ("x", "ledger-2"),
                ],
            ],
            &["cnpg.io/cluster=ledger", "cnpg.io/podRole=instance"],
        ),
        (
            // All are of one revision and in one state, for now.
            "StatefulSet",
            "vault",
            [&[
                ("app.kubernetes.io/name", "vault"),
                ("app.kubernetes.io/version", "1.20"),
                ("controller-revision-hash", "vault-7c"),
                ("vault-sealed", "false"),
                ("topology.kubernetes.io/zone", "a"),
            ]; 3],
            &["app.kubernetes.io/name=vault"],
        ),
        (
            // The name of the application does not leave out the other part of it.
            "Deployment",
            "web",
            [&[("app", "shop"), ("component", "web"), ("team", "blue")]; 3],
            &["app=shop", "component=web"],
        ),
        (
            // A role that does not change hands.
            "Deployment",
            "front",
            [&[("role", "frontend"), ("pod-template-hash", "5f")]; 3],
            &["role=frontend"],
        ),
    ];
    for (kind, owner, labels, expected) in cases {
        let mut cluster = closed();
        for (n, labels) in (0..).zip(labels) {
            cluster.apply(replica(&format!("{owner}-{n}"), 20 + n, kind, owner, labels), None);
        }
        let other = &[("app", "shop"), ("component", "worker"), ("team", "blue")];
        cluster.apply(replica("other-0", 40, "Deployment", "other", other), None);
        let snapshot = cluster.snapshot();
        let remedy = found(&snapshot, &format!("{owner}-1"));
        assert_eq!(selected(&remedy), expected, "{owner}");
        let after = remedy.applied(&snapshot);
        for n in 0..3 {
            let case = between(&after, ASK, ("bank", &format!("{owner}-{n}")), 5432);
            assert_eq!(diagnose(&after, &case).cause.class, Class::None, "{owner}-{n}");
        }
        let case = between(&after, ASK, ("bank", "other-0"), 5432);
        assert_eq!(diagnose(&after, &case).cause.class, Class::DefaultDeny);
    }
}

#[test]
fn a_pod_without_a_lasting_label_is_named_by_its_namespace_and_that_is_said() {
    let mut cluster = closed();
    let labels = &[("statefulset.kubernetes.io/pod-name", "db-0")];
    cluster.apply(replica("db-0", 20, "StatefulSet", "db", labels), None);
    let remedy = found(&cluster.snapshot(), "db-0");
    assert_eq!(selected(&remedy), Vec::<String>::new());
    let wide = "no label of its pods lasts, so bank/allow-ask-to-db-5432 selects every pod of its";
    assert!(remedy.summary.contains(wide), "{}", remedy.summary);
}

fn node(name: &str, last: u8, labels: &[(&str, &str)]) -> Object {
    Object::Node(Node {
        name: name.into(),
        labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<Labels>(),
        addresses: vec![NodeAddress::internal(address(last))],
        pod_networks: Vec::new(),
        subnets: Vec::new(),
    })
}

#[test]
fn where_a_node_is_the_client_the_others_are_let_in_as_well() {
    let mut cluster = closed();
    let control_plane = &[("node-role.kubernetes.io/control-plane", "")];
    for (name, last) in [("cp-1", 101), ("cp-2", 102)] {
        cluster.apply(node(name, last, control_plane), None);
    }
    for (name, last) in [("worker-1", 103), ("worker-2", 104)] {
        cluster.apply(node(name, last, &[]), None);
    }
    cluster.apply(Object::Pod(pod("bank", "hook", 20, &[("app", "hook")])), None);
    let snapshot = cluster.snapshot();
    let from = |last: u8| {
        let case = case(address(last), address(20), 8443);
        judge(&snapshot, &History::default(), &case)
    };
    let remedy = from(102).remedy.expect("a remedy");
    assert_eq!(networks(&remedy), ["10.1.0.102/32", "10.1.0.101/32"]);
    assert_eq!(remedy.newly_allowed, 1);
    assert!(
        remedy.summary.contains("the control plane's nodes (cp-1, cp-2)"),
        "{}",
        remedy.summary
    );
    let remedy = from(104).remedy.expect("a remedy");
    assert_eq!(networks(&remedy).len(), 4);
    assert_eq!(remedy.newly_allowed_paths[0].to_string(), "2 nodes to bank/hook");
    // The pod's own node passes, by the specification: nothing was seen that says otherwise.
    let own = from(103);
    let cause = &own.diagnosis.cause;
    assert_eq!(own.diagnosis.verdict.exempt, Some(Exemption::LocalNode));
    assert_eq!((cause.class, cause.direction), (Class::None, None));
    assert!(own.remedy.is_none());
    assert!(cause.text.starts_with("by the specification a node"), "{}", cause.text);
    assert!(cause.text.contains("ingress denied by NetworkPolicy bank/closed"), "{}", cause.text);
    // Unless somebody says that it does not.
    let policed = Case { fate: Fate::Policed, ..case(address(103), address(20), 8443) };
    let policed = diagnose(&snapshot, &policed);
    assert_eq!(policed.cause.class, Class::DefaultDeny);
    assert!(whydrop_core::remedy::remedy(&snapshot, &policed).is_some());
}

/// A rule of the cluster's administrators that denies these pods everything.
fn never(pods: Selector) -> Policy {
    let rule = Rule::new(Action::Deny, Peers::Everyone, Vec::new()).named("no");
    let mut never = ingress("bank", "never", Selector::EVERYTHING, vec![rule]);
    never.reference.kind = PolicyKind::AdminNetworkPolicy;
    never.reference.namespace = None;
    (never.layer, never.order) = (Layer::Admin, Order::of(1));
    never.subject = PodPeer::new(Namespaces::Selected(Selector::EVERYTHING), pods);
    never
}

#[test]
fn one_remedy_is_for_all_packets_or_there_is_none() {
    let mut cluster = closed();
    for (name, last, app) in [("old", 20, "a"), ("new", 21, "b"), ("shut", 22, "c")] {
        cluster.apply(Object::Pod(pod("bank", name, last, &[("app", app)])), None);
    }
    let snapshot = cluster.snapshot();
    let diagnosis = |to| diagnose(&snapshot, &between(&snapshot, ASK, ("bank", to), 5432));
    let both = [diagnosis("old"), diagnosis("new")];
    let remedy = remedy_for_all(&snapshot, &both).expect("a remedy");
    assert_eq!(remedy.policies.len(), 2);
    let after = remedy.applied(&snapshot);
    for diagnosis in &both {
        assert!(evaluate(&after, &diagnosis.question).decision().lets_pass());
    }
    // What a rule denies has no remedy, and so have all three.
    cluster.apply(Object::Policy(never(equals(&[("app", "c")]))), None);
    let snapshot = cluster.snapshot();
    let diagnosis = |to| diagnose(&snapshot, &between(&snapshot, ASK, ("bank", to), 5432));
    assert!(remedy_for_all(&snapshot, &[diagnosis("old"), diagnosis("shut")]).is_err());
}

/// A rule that denies outweighs whatever is added, so it leads.
#[test]
fn an_explicit_denial_leads_before_one_that_no_rule_admits() {
    let mut cluster = closed();
    cluster.apply(Object::Pod(pod("bank", "db", 20, &[("app", "db")])), None);
    let mut out = ingress("shop", "out", Selector::EVERYTHING, Vec::new());
    (out.egress, out.ingress) = (out.ingress, None);
    cluster.apply(Object::Policy(out), None);
    cluster.apply(Object::Policy(never(equals(&[("app", "db")]))), None);
    let judged = judged(&cluster.snapshot(), "db", 5432);
    let cause = &judged.diagnosis.cause;
    assert_eq!(cause.class, Class::ExplicitDeny);
    assert_eq!(
        cause.text,
        "ingress denied by AdminNetworkPolicy never rule 0 \"no\" and egress denied by \
         NetworkPolicy shop/out"
    );
    assert!(judged.remedy.is_none());
}

#[test]
fn a_policy_whose_selector_just_misses_the_pod_is_the_first_choice() {
    let mut cluster = closed();
    let labels = &[("app", "db"), ("app.kubernetes.io/component", "server")];
    cluster.apply(replica("db-0", 20, "StatefulSet", "db", labels), None);
    let admits = rule(Some(&[]), "bank", equals(&[("app", "ask")]), &[5432]);
    let selector = equals(&[("app", "db"), ("component", "server")]);
    cluster.apply(Object::Policy(ingress("bank", "for-db", selector, vec![admits])), None);
    let snapshot = cluster.snapshot();
    let judged = judged(&snapshot, "db-0", 5432);
    assert_eq!(judged.diagnosis.cause.class, Class::DefaultDeny);
    let choices = choices(&snapshot, &judged.diagnosis);
    assert_eq!(
        choices[0].to_string(),
        "NetworkPolicy bank/for-db admits this by ingress rule 0, but does not select bank/db-0: it \
         asks for the label component=server, which the pod lacks; if it was intended for these \
         pods, kubectl -n bank patch statefulset db --type merge --patch \
         '{\"spec\":{\"template\":{\"metadata\":{\"labels\":{\"component\":\"server\"}}}}}' (which \
         replaces the pods) (allows nothing else)"
    );
}

#[test]
fn what_the_pods_own_filter_drops_is_not_put_down_to_the_network_plugin() {
    let mut cluster = Cluster::default();
    cluster.apply(namespace("shop", &[]), None);
    cluster.apply(namespace("bank", &[]), None);
    cluster.apply(Object::Pod(pod("shop", "ask", 10, &[("app", "ask")])), None);
    cluster.apply(Object::Pod(pod("bank", "db", 20, &[("app", "db")])), None);
    let admits = rule(Some(&[]), "bank", Selector::EVERYTHING, &[5432]);
    let open = ingress("bank", "open", Selector::EVERYTHING, vec![admits]);
    cluster.apply(Object::Policy(open), None);
    let snapshot = cluster.snapshot();
    let delivered =
        |interface| dropped_at(interface, true, address(10), address(20), 5432, &[5, 6]);
    // At a device of this node it is the plugin's, or before there is one: an earlier packet of the
    // attempt got through.
    for interface in [5, 0] {
        let drop = delivered(interface);
        assert_eq!(diagnose(&snapshot, &case_of(&drop)).cause.class, Class::OutOfSync);
    }
    let drop = delivered(IN_POD);
    let diagnosis = diagnose(&snapshot, &case_of(&drop));
    assert_eq!(diagnosis.cause.class, Class::NotPolicy);
    assert_eq!(
        diagnosis.cause.text,
        "not policy: it reached the destination pod, whose own netfilter rules dropped it"
    );
}

#[test]
fn what_an_earlier_step_lets_pass_as_well_is_no_step() {
    let mut cluster = closed();
    cluster.apply(Object::Pod(pod("bank", "db", 20, &[("app", "db")])), None);
    for n in 1..4 {
        // Of no workload: a path each.
        let client = pod("shop", &format!("cart-{n}"), 10 + n, &[("app", "cart")]);
        cluster.apply(Object::Pod(client), None);
    }
    let mut book = IncidentBook::default();
    for n in [0, 1, 2, 3] {
        let drop = dropped(address(10 + n), address(20), 5432, &[5, 6]);
        let judgement = judge(&cluster.snapshot(), cluster.history(), &case_of(&drop));
        let judged = JudgedDrop::new(drop, judgement, None);
        book.add(&judged, judged.drop.evidence.last() + SignedDuration::from_secs(1));
    }
    let incident = book.tick(&cluster.snapshot(), at(9)).remove(0).incident;
    let applies = incident.plan.iter().filter(|step| matches!(step, Step::Apply(_)));
    let names: Vec<String> = applies.map(ToString::to_string).collect();
    assert_eq!(names.len(), 2, "{names:#?}");
    assert!(names[0].contains("bank/allow-ask-to-db-5432"), "{names:#?}");
    assert!(names[1].contains("bank/allow-cart-1-to-db-5432"), "{names:#?}");
}

/// Two policies isolate the pod, and either denies: the first one to come made the difference, and is
/// named as the change and as the cause.
#[test]
fn the_cause_and_the_change_are_one_policy() {
    let mut cluster = closed();
    cluster.apply(Object::Pod(pod("bank", "db", 20, &[("app", "db")])), None);
    cluster.delete(&policy_key("bank", "closed"), at(1));
    let mut apply = |name: &str, seconds| {
        let elsewhere = rule(Some(&[("team", "blue")]), "", Selector::EVERYTHING, &[5432]);
        let rules = if name == "closed" { Vec::new() } else { vec![elsewhere] };
        let policy: Policy = ingress("bank", name, Selector::EVERYTHING, rules);
        cluster.apply(Object::Policy(policy), Some(at(seconds)));
    };
    apply("closed", 10);
    apply("for-blue", 20);
    let drop = dropped(address(10), address(20), 5432, &[30, 31]);
    let judgement = judge(&cluster.snapshot(), cluster.history(), &case_of(&drop));
    let change = judgement.changed.lead().expect("a change");
    assert_eq!(change.object.to_string(), "NetworkPolicy bank/closed");
    let cause = &judgement.diagnosis.cause;
    assert_eq!(
        cause.policy.as_ref().map(|p| p.reference.to_string()).as_deref(),
        Some("bank/closed")
    );
    let denied = "ingress denied by NetworkPolicy bank/closed (with bank/for-blue)";
    assert!(cause.text.starts_with(denied), "{}", cause.text);
}

#[test]
fn a_name_that_another_step_has_is_not_taken_again() {
    let mut cluster = closed();
    cluster.apply(Object::Pod(pod("bank", "db", 20, &[("app", "db")])), None);
    cluster.apply(namespace("fair", &[]), None);
    let client = |space: &str, last| {
        let workload = Some(workload("Deployment", "cart"));
        Object::Pod(Pod { workload, ..pod(space, "cart-0", last, &[("app", "cart")]) })
    };
    cluster.apply(client("shop", 11), None);
    cluster.apply(client("fair", 12), None);
    let mut book = IncidentBook::default();
    for last in [11, 12] {
        let drop = dropped(address(last), address(20), 5432, &[5, 6]);
        let judgement = judge(&cluster.snapshot(), cluster.history(), &case_of(&drop));
        let judged = JudgedDrop::new(drop, judgement, None);
        book.add(&judged, judged.drop.evidence.last() + SignedDuration::from_secs(1));
    }
    let incident = book.tick(&cluster.snapshot(), at(9)).remove(0).incident;
    let remedies = incident.plan.iter().filter_map(|step| match step {
        Step::Apply(remedy) => Some(remedy),
        _ => None,
    });
    let names: Vec<_> =
        remedies.flat_map(|r| &r.policies).filter_map(|p| p.metadata().name.clone()).collect();
    assert_eq!(names, ["allow-cart-to-db-5432", "allow-cart-to-db-5432-2"]);
}
