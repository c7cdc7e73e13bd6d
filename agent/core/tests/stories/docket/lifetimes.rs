//! Pods that begin and end while their packets are dropped, and addresses that change hands.

use jiff::Timestamp;
use whydrop_core::{
    cluster::{
        Cluster, Interface,
        object::{Finished, Object, Pod},
    },
    diagnosis::{Class, Situation, SituationKind},
    incident::{JudgedDrop, Severity},
    observation::{DropReason, Fact, Observation, Sender},
    policy::selector::Selector,
};

use super::stage::{
    DB, Stage, Step, WEB, connect, deny, flow, ms, netfilter, old, seen, settings, shop,
};
use crate::build::{address, equals, ingress, pod, pod_key, policy_key, rule, workload};

const FRONT: u8 = 41;
const ADDRESS: u8 = 40;

/// Steps at their milliseconds.
type Steps = Vec<(i64, Step)>;

fn delete(name: &str) -> Step {
    let key = pod_key("shop", name);
    Step::Change(Box::new(move |cluster: &mut Cluster, now| cluster.delete(&key, now)))
}

fn apply(pod: Pod) -> Step {
    Step::Change(Box::new(move |cluster: &mut Cluster, now| {
        cluster.apply(Object::Pod(pod.clone()), Some(now));
    }))
}

/// A veth by which a pod's packets enter the node, as it is seen to appear.
fn appears(addresses: &[u8]) -> Step {
    let addresses: Vec<_> = addresses.iter().map(|last| address(*last)).collect();
    Step::Change(Box::new(move |cluster: &mut Cluster, now| {
        let interface =
            Interface { name: "cali7".into(), addresses: addresses.clone(), since: Some(now) };
        cluster.set_interface(7, Some(interface));
    }))
}

fn entered(from: u8, to: u8, attempt: u16) -> Step {
    Step::Seen(Box::new(move |now: Timestamp| Observation {
        sender: Sender::default(),
        entered: Some(7),
        ..seen(now, flow(from, to), Some(attempt), 1, netfilter())
    }))
}

/// Dials each second with a connect of its own, from one time to another.
fn dials(from: u8, to: u8, times: std::ops::Range<i64>) -> Vec<(i64, Step)> {
    let starts = times.clone().step_by(1_000).zip(41_000_u16..);
    let connects = starts.flat_map(|(start, attempt)| {
        [start, start + 900].map(|at| (at, entered(from, to, attempt)))
    });
    connects.filter(|(at, _)| *at < times.end).collect()
}

fn play(cluster: Cluster, mut steps: Vec<(i64, Step)>, until: i64) -> Stage {
    steps.sort_by_key(|(time, _)| *time);
    Stage::play(cluster, settings(), steps, until)
}

fn situations(stage: &Stage) -> Vec<Option<SituationKind>> {
    let situation = |judged: &std::sync::Arc<JudgedDrop>| {
        judged.judgement.diagnosis.cause.situation.map(Situation::kind)
    };
    stage.drops.iter().map(situation).collect()
}

fn texts(stage: &Stage) -> Vec<&str> {
    stage.drops.iter().map(|judged| judged.judgement.diagnosis.cause.text.as_str()).collect()
}

#[test]
fn an_address_that_goes_to_another_pod_keeps_its_drops_with_the_one_that_had_it() {
    let mut cluster = shop();
    let last_holder =
        old(Pod { uid: Some("a".into()), ..pod("shop", "old3", ADDRESS, &[("app", "old")]) });
    cluster.apply(Object::Pod(last_holder), None);
    let deny_old = ingress("shop", "deny-old", equals(&[("app", "old")]), Vec::new());
    cluster.apply(Object::Policy(deny_old), None);
    // Whole seconds, as the API server writes them; the pod had no address before it was seen.
    let heir = |created: i64, started: Option<i64>| Pod {
        uid: Some("b".into()),
        created: Some(ms(created)),
        started: started.map(ms),
        ..pod("shop", "new3", ADDRESS, &[("app", "new")])
    };
    for (name, last, gone, new) in [
        ("a second later", 11_000, 11_400, heir(12_000, Some(12_000))),
        ("in the same second", 11_200, 11_400, heir(11_000, Some(11_000))),
        ("of one that waited for it", 11_000, 11_400, heir(-60_000, Some(12_000))),
        ("of one that was denied to the end", 11_400, 11_200, heir(12_000, None)),
    ] {
        let mut steps = dials(WEB, ADDRESS, 0..last);
        steps.push((last, entered(WEB, ADDRESS, 49_000)));
        steps.push((gone, delete("old3")));
        steps.push((12_900, apply(new)));
        steps.push((13_500, Step::Works { from: WEB, to: ADDRESS }));
        let stage = play(cluster_of(&cluster), steps, 200_000);
        assert_eq!(stage.drops.len(), 2, "{name}: {:#?}", stage.lines);
        for line in stage.said(&["drop"]) {
            assert!(
                line.contains("drop shop/web -> shop/old3:5432/TCP default-deny"),
                "{name}: {line}"
            );
        }
        assert!(stage.incidents().all(|change| change.incident.text.contains("shop/old3")));
    }
}

/// Another cluster of the same objects.
fn cluster_of(cluster: &Cluster) -> Cluster {
    let mut other = shop();
    let snapshot = cluster.snapshot();
    snapshot.pods().for_each(|pod| other.apply(Object::Pod(Pod::clone(pod)), None));
    snapshot.policies().iter().for_each(|policy| {
        other.apply(Object::Policy(whydrop_core::policy::Policy::clone(policy)), None);
    });
    other
}

#[test]
fn what_goes_on_at_an_address_that_nobody_has_any_more_is_another_drop_of_the_pod() {
    let mut cluster = shop();
    cluster.apply(Object::Policy(deny("deny")), None);
    // Denied for a minute, then its pod goes, and it is dialled for two more.
    let mut steps = dials(WEB, DB, 0..180_000);
    steps.push((65_000, delete("db")));
    let stage = play(cluster, steps, 300_000);
    let classes: Vec<_> =
        stage.drops.iter().map(|judged| judged.judgement.diagnosis.cause.class).collect();
    let (denied, ended): (Vec<Class>, Vec<Class>) =
        classes.iter().copied().partition(|class| class.is_denial());
    // It is cut where the pod goes, and within some seconds it may still be the pod's.
    assert!((3..=4).contains(&denied.len()) && !ended.is_empty(), "{:#?}", stage.lines);
    let first = denied.len();
    assert_eq!(classes[..3], [Class::DefaultDeny; 3], "what was denied to it in its last minute");
    assert_eq!(situations(&stage)[first], Some(SituationKind::End));
    let text = &texts(&stage)[first];
    assert!(text.contains("shop/db is gone since 03:05:10"), "{text}");
}

/// A client that policies govern and admit, and a server of which the same is true.
fn admitted() -> Cluster {
    let mut cluster = shop();
    let admits = rule(None, "shop", equals(&[("app", "front")]), &[5432]);
    let allow = ingress("shop", "allow-front", Selector::EVERYTHING, vec![admits]);
    cluster.apply(Object::Policy(allow), None);
    cluster.apply(Object::Pod(front()), None);
    cluster
}

fn front() -> Pod {
    let workload = Some(workload("Deployment", "front"));
    old(Pod {
        uid: Some("f".into()),
        workload,
        ..pod("shop", "front-1", FRONT, &[("app", "front")])
    })
}

#[test]
fn the_last_packets_of_a_pod_that_is_going_are_no_fault_of_its_plugin() {
    let terminating = || apply(Pod { terminating: Some(ms(9_000)), ..front() });
    let finished =
        || apply(Pod { finished: Some(Finished::Succeeded), addresses: Vec::new(), ..front() });
    let going = "a network plugin takes a pod's rules and routes away as it ends";
    let stories: Vec<(&str, Steps, &str)> = vec![
        ("grace 0", vec![(9_900, delete("front-1"))], "shop/front-1 is gone since 03:04:14"),
        ("forced, and seen late", vec![(10_900, delete("front-1"))], "is gone since 03:04:15"),
        (
            "graceful",
            vec![(9_100, terminating()), (20_000, delete("front-1"))],
            "was being deleted since 03:04:14",
        ),
        (
            "graceful, and over by then",
            vec![(9_100, terminating()), (11_000, delete("front-1"))],
            "was being deleted since 03:04:14 and is gone since 03:04:16",
        ),
        (
            "its namespace goes",
            vec![
                (9_700, Step::Delete(vec![policy_key("shop", "allow-front")])),
                (9_800, delete("front-1")),
                (9_900, delete("db")),
            ],
            "is gone since 03:04:14",
        ),
        ("its Job finished", vec![(9_900, finished())], "has finished, at 03:04:14"),
    ];
    for (name, besides, said) in stories {
        let mut steps = dials(FRONT, DB, 10_000..12_500);
        // Its veth comes back to the node for a moment, and is seen anew.
        steps.push((9_950, appears(&[])));
        steps.extend(besides);
        let stage = play(admitted(), steps, 100_000);
        assert!(!stage.drops.is_empty(), "{name}");
        for (judged, text) in stage.drops.iter().zip(texts(&stage)) {
            let cause = &judged.judgement.diagnosis.cause;
            assert_eq!(cause.class, Class::NotPolicy, "{name}: {text}");
            assert_eq!(
                cause.situation.map(Situation::kind),
                Some(SituationKind::End),
                "{name}: {text}"
            );
            assert!(text.contains(said) && text.ends_with(going), "{name}: {text}");
            assert!(!text.contains("programmed"), "{name}: {text}");
        }
        for change in stage.incidents() {
            assert_eq!(change.incident.assessment.severity, Severity::Info, "{name}");
            let plan = change.incident.plan.iter().map(ToString::to_string).collect::<Vec<_>>();
            let plan = plan.join("; ");
            assert!(!plan.contains("restart") && !plan.contains("wait for"), "{name}: {plan}");
        }
    }
}

#[test]
fn nor_is_what_was_sent_to_one() {
    let server = || old(Pod { uid: Some("s".into()), ..pod("shop", "db", DB, &[("app", "db")]) });
    let mut cluster = admitted();
    cluster.delete(&pod_key("shop", "db"), ms(-1_000_000));
    cluster.apply(Object::Pod(server()), None);
    let mut steps = dials(FRONT, DB, 10_000..12_500);
    steps.push((9_500, delete("db")));
    // Nobody has the address for long.
    steps.extend(dials(FRONT, DB, 200_000..202_500));
    let stage = play(cluster, steps, 300_000);
    assert_eq!(situations(&stage), [Some(SituationKind::End); 4], "{:#?}", texts(&stage));
}

#[test]
fn what_policies_deny_a_pod_that_is_going_is_denied() {
    let mut cluster = admitted();
    cluster.apply(
        Object::Policy(ingress("shop", "allow-front", Selector::EVERYTHING, Vec::new())),
        None,
    );
    let mut steps = dials(FRONT, DB, 10_000..11_500);
    steps.push((9_900, delete("front-1")));
    let stage = play(cluster, steps, 100_000);
    assert!(
        stage.said(&["drop"])[0].contains("shop/front-1 -> shop/db:5432/TCP default-deny"),
        "{:#?}",
        stage.lines
    );
    assert_eq!(situations(&stage)[0], None);
}

#[test]
fn what_was_dropped_long_before_a_pod_ends_is_not_put_down_to_its_end() {
    let mut steps = dials(FRONT, DB, 10_000..16_000);
    steps.push((15_000, delete("front-1")));
    let stage = play(admitted(), steps, 14_500);
    assert_eq!(situations(&stage), [None]);
    let class = stage.drops[0].judgement.diagnosis.cause.class;
    assert_eq!(class, Class::OutOfSync);
}

/// A pod whose veth appears at 1 s, and whose address is seen at 2 s.
fn newcomer(created: i64) -> Vec<(i64, Step)> {
    let pod = Pod { created: Some(ms(created)), ..front() };
    vec![
        (500, delete("front-1")),
        (800, apply(Pod { uid: Some("n".into()), addresses: Vec::new(), ..pod.clone() })),
        (1_000, appears(&[FRONT])),
        (2_000, apply(Pod { uid: Some("n".into()), ..pod })),
    ]
}

#[test]
fn a_start_is_over_after_its_first_moments() {
    for created in [0, -300_000] {
        let mut steps = newcomer(created);
        steps.extend(dials(FRONT, DB, 4_500..160_000));
        let stage = play(admitted(), steps, 160_000);
        let situations = situations(&stage);
        assert_eq!(situations[0], Some(SituationKind::Start), "{:#?}", texts(&stage));
        assert!(texts(&stage)[0].contains("was 3.5 s old"), "{}", texts(&stage)[0]);
        assert_eq!(situations[1..], [None, None], "{:#?}", texts(&stage));
        for text in &texts(&stage)[1..] {
            assert!(
                text.contains("the CNI has not caught up") && !text.contains("s old"),
                "{text}"
            );
        }
        let last = stage.incidents().next_back().expect("an incident");
        assert!(last.incident.assessment.severity > Severity::Info, "{:#?}", stage.lines);
    }
}

#[test]
fn an_interface_that_is_seen_anew_is_no_start_of_its_pod() {
    let mut steps = vec![(9_950, appears(&[FRONT]))];
    steps.extend(connect(10_000, FRONT, DB).into_iter().map(|(at, _)| (at, entered(FRONT, DB, 1))));
    let stage = play(admitted(), steps, 20_000);
    assert_eq!(situations(&stage), [None]);
    assert_eq!(stage.drops[0].judgement.diagnosis.cause.class, Class::OutOfSync);
}

/// What is denied stays so, and what has no route any more is another matter, however few it is of.
#[test]
fn what_follows_a_pod_that_has_gone_is_explained_by_itself() {
    let no_route = |now| {
        let reason = DropReason { number: 60, name: "IP_INNOROUTES".into() };
        let location = Some("ip_rcv_finish_core".into());
        let fact = Fact::KernelDrop { reason, location, interface: 5 };
        seen(now, flow(WEB, DB), Some(40_000), 1, fact)
    };
    let mut cluster = shop();
    cluster.apply(Object::Policy(deny("deny")), None);
    let mut steps = connect(0, WEB, DB);
    steps.push((70_000, delete("db")));
    steps.push((72_000, Step::Seen(Box::new(no_route))));
    let stage = play(cluster, steps, 100_000);
    let classes: Vec<_> =
        stage.drops.iter().map(|judged| judged.judgement.diagnosis.cause.class).collect();
    assert_eq!(classes, [Class::DefaultDeny, Class::NotPolicy], "{:#?}", stage.lines);
}
