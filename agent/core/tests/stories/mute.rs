//! Expected denials: what mutes which, and what it does not.

use std::{collections::BTreeMap, sync::Arc};

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use whydrop_core::{
    cluster::{
        Cluster,
        object::{Namespace, Object},
    },
    diagnosis::{Class, Diagnosis, diagnose},
    flow::Protocol,
    incident::{Happened, IncidentBook, JudgedDrop, Resolution},
    judgement::judge,
    mute::{EndFilter, INTERVAL, Muted, MutedBy, OTHERS, Rule, muted, muted_source},
    policy::{
        Policy,
        mute_annotation::{ANNOTATION, REASON_BYTES_MAX, annotated},
        selector::Selector,
    },
};

use crate::build::{address, at, between, case_of, dropped, ingress, namespace, pod, workload};

/// `shop/db` denies everybody, by a policy as given; `ops/scanner-0` of the workload scanner, and
/// `shop/web`, would like to reach it.
fn cluster(policies: impl IntoIterator<Item = Policy>) -> Cluster {
    let mut cluster = Cluster::default();
    cluster.apply(namespace("shop", &[]), None);
    cluster.apply(namespace("ops", &[]), None);
    let mut scanner = pod("ops", "scanner-0", 10, &[]);
    scanner.workload = Some(workload("Job", "scanner"));
    for pod in [scanner, pod("shop", "web", 11, &[]), pod("shop", "db", 20, &[])] {
        cluster.apply(Object::Pod(pod), None);
    }
    for policy in policies {
        cluster.apply(Object::Policy(policy), None);
    }
    cluster
}

fn deny(name: &str, created: i64, mute: Option<&str>) -> Policy {
    let deny = ingress("shop", name, Selector::EVERYTHING, Vec::new());
    Policy { created: Some(at(created)), mute: mute.map(Into::into), ..deny }
}

fn muting(name: &str, reason: &str) -> Object {
    let Object::Namespace(namespace) = namespace(name, &[]) else { unreachable!("a namespace") };
    Object::Namespace(Namespace { mute: Some(reason.into()), ..namespace })
}

fn diagnosis(cluster: &Cluster, from: (&str, &str)) -> Diagnosis {
    let snapshot = cluster.snapshot();
    diagnose(&snapshot, &between(&snapshot, from, ("shop", "db"), 5432))
}

const SCANNER: (&str, &str) = ("ops", "scanner-0");

fn muted_by(cluster: &Cluster, rules: &[Rule]) -> Option<(String, String)> {
    let by = muted(&cluster.snapshot(), rules, &diagnosis(cluster, SCANNER))?;
    Some((by.0.to_string(), by.1.to_string()))
}

fn by_and_reason(by: &str, reason: &str) -> (String, String) {
    (by.to_owned(), reason.to_owned())
}

fn rule(name: &str) -> Rule {
    Rule {
        name: name.into(),
        reason: "".into(),
        source: EndFilter::default(),
        destination: EndFilter::default(),
        ports: None,
        protocol: None,
        causes: Vec::new(),
    }
}

#[test]
fn an_annotation_is_true_or_a_reason() {
    let value = |text: &str| {
        let annotations = BTreeMap::from([(ANNOTATION.to_owned(), text.to_owned())]);
        annotated(&ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() })
    };
    assert_eq!(annotated(&ObjectMeta::default()), None);
    for no in ["", " ", "false"] {
        assert_eq!(value(no), None, "{no:?}");
    }
    assert_eq!(value("true").as_deref(), Some(""));
    assert_eq!(value(" RUNBOOK-12 ").as_deref(), Some("RUNBOOK-12"));
    let long = value(&"é".repeat(500)).expect("a reason");
    assert!(long.len() <= REASON_BYTES_MAX && long.ends_with('é'), "{}", long.len());

    // As Calico's API server stores what it was given.
    let inner = format!(r#"{{"annotations":{{"{ANNOTATION}":"expected"}}}}"#);
    let annotations = BTreeMap::from([("projectcalico.org/metadata".to_owned(), inner)]);
    let metadata = ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() };
    assert_eq!(annotated(&metadata).as_deref(), Some("expected"));
}

#[test]
fn the_policy_that_leads_decides() {
    let by = "NetworkPolicy shop/locked";
    let locked = || deny("locked", 0, Some("no entry"));
    assert_eq!(muted_by(&cluster([deny("locked", 0, None)]), &[]), None);
    assert_eq!(muted_by(&cluster([locked()]), &[]), Some(by_and_reason(by, "no entry")));
    // One that came before changes nothing; one that came after it leads, and is news.
    let before = cluster([deny("old", -10, None), locked()]);
    assert_eq!(muted_by(&before, &[]), Some(by_and_reason(by, "no entry")));
    let after = cluster([locked(), deny("new", 10, None)]);
    assert_eq!(muted_by(&after, &[]), None);
    // It is the policy as it stands that counts.
    let mut cluster = cluster([locked()]);
    let earlier = diagnosis(&cluster, SCANNER);
    cluster.apply(Object::Policy(deny("locked", 0, None)), Some(at(60)));
    assert_eq!(muted(&cluster.snapshot(), &[], &earlier), None);
}

#[test]
fn a_namespace_mutes_what_its_own_policies_deny() {
    let mut cluster = cluster([deny("locked", 0, None)]);
    cluster.apply(muting("ops", ""), None);
    assert_eq!(muted_by(&cluster, &[]), None, "that of those who are denied");
    cluster.apply(muting("shop", ""), None);
    assert_eq!(muted_by(&cluster, &[]), Some(by_and_reason("namespace shop", "")));
}

#[test]
fn what_is_no_denial_is_muted_by_no_annotation() {
    let mut cluster = cluster([deny("locked", 0, Some(""))]);
    cluster.apply(muting("shop", ""), None);
    let snapshot = cluster.snapshot();
    let denied = diagnosis(&cluster, SCANNER);
    for class in [Class::OutOfSync, Class::NotPolicy, Class::CannotTell, Class::NotEnforced] {
        let mut other = denied.clone();
        other.cause.class = class;
        let rules = [Rule { source: ops(), ..rule("ops") }];
        assert_eq!(muted(&snapshot, &rules, &other), None, "{class:?}");
        // Unless somebody says so in as many words.
        let rules = [Rule { causes: vec![class], ..rule("known") }];
        let by = muted(&snapshot, &rules, &other).map(|(by, _)| by);
        assert_eq!(by, Some(MutedBy::Rule("known".into())), "{class:?}");
    }
}

fn ops() -> EndFilter {
    EndFilter { namespace: Some("ops".into()), ..EndFilter::default() }
}

#[test]
fn a_rule_mutes_where_all_of_it_holds() {
    let cluster = cluster([deny("locked", 0, None)]);
    let end = |namespace: &str, workload: &str| EndFilter {
        namespace: Some(namespace.into()),
        workload: Some(workload.into()),
        network: None,
    };
    let network =
        |network: &str| EndFilter { network: network.parse().ok(), ..EndFilter::default() };
    let whole = || Rule {
        source: EndFilter { network: "10.1.0.0/24".parse().ok(), ..end("ops", "scanner") },
        destination: end("shop", "db"),
        ports: Some((5000, 6000)),
        protocol: Some(Protocol::Tcp),
        causes: vec![Class::DefaultDeny],
        ..rule("scan")
    };
    assert_eq!(muted_by(&cluster, &[whole()]), Some(by_and_reason("rule scan", "")));
    for other in [
        Rule { source: end("ops", "other"), ..whole() },
        Rule { source: end("shop", "scanner"), ..whole() },
        Rule { source: network("10.2.0.0/16"), ..whole() },
        Rule { destination: end("shop", "web"), ..whole() },
        Rule { ports: Some((5433, 6000)), ..whole() },
        Rule { protocol: Some(Protocol::Udp), ..whole() },
        Rule { causes: vec![Class::PortMismatch], ..whole() },
    ] {
        assert_eq!(muted_by(&cluster, std::slice::from_ref(&other)), None, "{other:?}");
        // The first that matches counts.
        assert_eq!(muted_by(&cluster, &[other, whole()]), Some(by_and_reason("rule scan", "")));
    }
    // Many flows of one source are not judged one by one: only what is about all of them counts.
    let snapshot = cluster.snapshot();
    let source = |rule: Rule| muted_source(&snapshot, &[rule], address(10)).is_some();
    assert!(source(Rule { source: ops(), ..rule("ops") }));
    assert!(!source(Rule { source: end("shop", "web"), ..rule("web") }));
    assert!(!source(Rule { source: ops(), ports: Some((1, 9)), ..rule("ops") }));
    assert!(!source(Rule { ports: Some((1, 9)), ..rule("ports") }));
}

#[test]
fn what_was_muted_is_told_once_an_hour_and_never_lost() {
    let mut ledger = Muted::default();
    let by = |name: &str| (MutedBy::Rule(name.into()), Arc::<str>::from("expected"));
    assert!(ledger.due(at(0)).is_none() && ledger.take().is_none());
    ledger.add(at(0), by("a"), 3, "first".to_owned());
    ledger.add(at(60), by("a"), 4, "second".to_owned());
    ledger.add(at(70), by("b"), 0, "third".to_owned());
    let hour = INTERVAL.as_secs();
    assert!(ledger.due(at(hour - 1)).is_none());
    let (since, tallies) = ledger.due(at(hour)).expect("an hour has passed");
    assert_eq!(since, at(0));
    let a = &tallies[&by("a").0];
    assert_eq!((a.reports, a.packets, &*a.example, &*a.reason), (2, 7, "second", "expected"));
    assert_eq!(tallies.len(), 2);
    assert!(ledger.due(at(3 * hour)).is_none(), "nothing new");

    for n in 0..1000 {
        ledger.add(at(hour), by(&format!("rule-{n}")), 1, String::new());
    }
    let (_, tallies) = ledger.take().expect("what has not been reported");
    assert_eq!(tallies.values().map(|tally| tally.packets).sum::<u64>(), 1000);
    assert!(tallies.len() < 200 && tallies[&by(OTHERS).0].reports > 800, "{}", tallies.len());
    assert_eq!(ledger.packets(), 1007);
    ledger.add_folded(at(hour), by("a"), 50, String::new());
    let (_, tallies) = ledger.take().expect("what has not been reported");
    assert_eq!((tallies[&by("a").0].packets, ledger.packets()), (50, 1007));
}

#[test]
fn an_incident_whose_flows_are_all_muted_is_over_and_says_why() {
    let cluster = cluster([deny("locked", 0, None)]);
    let snapshot = cluster.snapshot();
    let mut book = IncidentBook::default();
    let dropped = |book: &mut IncidentBook, from: u8, second: i64, is_muted: bool| {
        let drop = dropped(address(from), address(20), 5432, &[second]);
        let judgement = judge(&snapshot, cluster.history(), &case_of(&drop));
        if is_muted {
            return book.mute(&drop.flow);
        }
        let judged = JudgedDrop::new(drop, judgement, None);
        book.add(&judged, at(second) + SignedDuration::from_secs(1));
    };
    let happened = |book: &mut IncidentBook, second: i64| {
        let changes = book.tick(&snapshot, at(second));
        changes.into_iter().map(|change| change.happened).collect::<Vec<_>>()
    };
    dropped(&mut book, 10, 10, false);
    dropped(&mut book, 11, 10, false);
    assert_eq!(happened(&mut book, 14), [Happened::Opened]);
    dropped(&mut book, 10, 70, true);
    assert_eq!(happened(&mut book, 71), [], "one flow is left");
    dropped(&mut book, 11, 72, true);
    assert_eq!(happened(&mut book, 73), [Happened::Resolved(Resolution::Muted)]);
    // Muted no more: it is back.
    dropped(&mut book, 11, 200, false);
    assert_eq!(happened(&mut book, 300), [Happened::Reopened]);

    // What is muted before it was reported is not reported at all.
    let mut book = IncidentBook::default();
    dropped(&mut book, 10, 10, false);
    dropped(&mut book, 10, 11, true);
    assert_eq!(happened(&mut book, 20), []);
    assert_eq!(book.open(), 0);
}
