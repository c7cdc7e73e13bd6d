//! A path is what a packet took: of a Service, the answers of one backend are not another's.

use std::collections::BTreeSet;

use whydrop_core::{
    cluster::{
        Cluster,
        object::{
            EndpointSlice, Object, Pod, Service, ServicePort, SliceEndpoint, SlicePort, TargetPort,
        },
    },
    correlate::DropId,
    flow::Protocol,
    incident::{Happened, Resolution},
    observation::Fact,
};

use super::stage::{Stage, Step, WEB, flow, ms, netfilter, old, seen, settings, shop};
use crate::build::{address, equals, ingress, pod, policy_key};

/// The Service `shop/half`, and its backends.
const HALF: u8 = 200;
const GOOD: u8 = 21;
const BAD: u8 = 22;
const OTHER: u8 = 23;

/// The shop with a Service of these backends on a node, of which a policy of long ago denies
/// [`BAD`].
fn half(node: &str, backends: &[u8]) -> Cluster {
    let mut cluster = shop();
    for last in backends {
        let name = format!("half-{last}");
        let backend = pod("shop", &name, *last, &[("app", "half"), ("name", &name)]);
        cluster.apply(Object::Pod(old(Pod { node: Some(node.into()), ..backend })), None);
    }
    let bad = equals(&[("name", "half-22")]);
    cluster.apply(Object::Policy(ingress("shop", "deny-bad", bad, Vec::new())), None);
    let port = ServicePort {
        name: "".into(),
        protocol: Protocol::Tcp,
        port: 5432,
        target: TargetPort::Number(5432),
        node_port: None,
    };
    cluster.apply(
        Object::Service(Service {
            namespace: "shop".into(),
            name: "half".into(),
            cluster_addresses: vec![address(HALF)],
            selector: [("app".into(), "half".into())].into(),
            ports: vec![port],
            ..Service::default()
        }),
        None,
    );
    cluster.apply(slice(backends), None);
    cluster
}

fn slice(backends: &[u8]) -> Object {
    Object::EndpointSlice(EndpointSlice {
        namespace: "shop".into(),
        name: "half-1".into(),
        service: Some("half".into()),
        endpoints: backends.iter().map(|last| SliceEndpoint::ready(address(*last))).collect(),
        ports: vec![SlicePort { name: "".into(), port: 5432, protocol: Protocol::Tcp }],
    })
}

/// What becomes of one connect to the Service.
#[derive(Clone, Copy)]
enum Lands {
    /// This backend answers, on this node or on another one.
    Answers(u8),
    /// At a backend on this node; both SYNs are dropped.
    Dropped(u8),
    /// At a backend on another node, which is not seen here.
    Lost,
    /// At one on this node, which drops the first SYN; the second is answered by the other.
    Rescued(u8, u8),
}

/// A client that dials the Service once in two seconds.
fn dial(stage: &mut Stage, start: i64, attempt: u16, lands: Lands) {
    let dialled = flow(WEB, HALF);
    let translated = |fact, now, to| {
        let mut observation = seen(ms(now), flow(WEB, to), Some(attempt), 1, fact);
        observation.dialled = Some((address(HALF), 5432));
        observation
    };
    stage.until(start);
    match lands {
        Lands::Answers(to) => {
            stage.step(Step::Works { from: WEB, to: HALF });
            let pod = stage.cluster.snapshot().resolve(address(to), None);
            if pod.pod().and_then(|pod| pod.node.as_deref()) == Some("worker-1") {
                stage.step(Step::Works { from: WEB, to });
            }
        }
        Lands::Dropped(to) => {
            stage.see(&translated(netfilter(), start, to));
            stage.until(start + 1_000);
            let again = seen(ms(start + 1_000), dialled, Some(attempt), 1, Fact::Retransmitted);
            stage.see(&again);
            stage.see(&translated(netfilter(), start + 1_000, to));
        }
        Lands::Rescued(to, other) => {
            stage.see(&translated(netfilter(), start, to));
            stage.until(start + 1_000);
            stage.see(&seen(ms(start + 1_000), dialled, Some(attempt), 1, Fact::Retransmitted));
            stage.step(Step::Works { from: WEB, to: other });
            stage.step(Step::Works { from: WEB, to: HALF });
            stage.see(&seen(ms(start + 1_000), dialled, Some(attempt), 1, Fact::AnsweredLate));
        }
        Lands::Lost => {
            stage.until(start + 1_000);
            stage.see(&seen(ms(start + 1_000), dialled, Some(attempt), 1, Fact::Retransmitted));
            stage.until(start + 1_900);
            stage.see(&seen(
                ms(start + 1_900),
                dialled,
                Some(attempt),
                1,
                Fact::Failed { errno: 110 },
            ));
        }
    }
}

/// So many connects in turn, two seconds each, from then on.
fn dial_in_turn(stage: &mut Stage, start: i64, connects: u16, turn: &[Lands]) {
    for n in 0..connects {
        let lands = turn[usize::from(n) % turn.len()];
        dial(stage, start + i64::from(n) * 2_000, 40_000 + n, lands);
    }
}

fn ids(stage: &Stage) -> BTreeSet<DropId> {
    stage.drops.iter().map(|judged| judged.drop.id).collect()
}

fn happened(stage: &Stage) -> Vec<Happened> {
    let turns = stage.changes.iter().map(|(_, change)| change.happened);
    turns.filter(|happened| *happened != Happened::Updated).collect()
}

/// `half/b` is denied since before it existed, `half/a` answers: the one does not speak for the other.
#[test]
fn what_one_backend_answers_clears_no_other() {
    let mut stage = Stage::new(half("worker-1", &[GOOD, BAD]), settings());
    let turn =
        [Lands::Dropped(BAD), Lands::Answers(GOOD), Lands::Answers(GOOD), Lands::Answers(GOOD)];
    dial_in_turn(&mut stage, 1_000, 300, &turn);
    assert_eq!(happened(&stage), [Happened::Opened], "{:#?}", stage.said(&["incident"]));
    assert_eq!(ids(&stage).len(), 1, "{:#?}", stage.said(&["drop"]));
    assert!((9..=11).contains(&stage.drops.len()), "{}", stage.drops.len());
    for judged in &stage.drops {
        assert_eq!(judged.worked, None);
    }
    let (_, last) = stage.changes.last().expect("an update");
    assert!(!last.incident.text.contains("worked until"), "{}", last.incident.text);
    assert!(last.incident.text.contains("half-22"), "{}", last.incident.text);

    // The policy goes, and the backend itself answers.
    stage.until(600_000);
    stage.step(Step::Delete(vec![policy_key("shop", "deny-bad")]));
    dial(&mut stage, 602_000, 50_000, Lands::Answers(GOOD));
    stage.until(606_000);
    assert_eq!(happened(&stage), [Happened::Opened]);
    dial(&mut stage, 607_000, 50_001, Lands::Answers(BAD));
    stage.until(800_000);
    let passes = Happened::Resolved(Resolution::Passes { at: ms(607_000) });
    assert_eq!(happened(&stage), [Happened::Opened, passes]);
}

/// Of three, of which one answers, one is denied and one works seldom.
#[test]
fn of_three_backends_one_is_cut_off() {
    let mut stage = Stage::new(half("worker-1", &[GOOD, BAD, OTHER]), settings());
    let turn = [Lands::Answers(GOOD), Lands::Dropped(BAD), Lands::Answers(OTHER)];
    dial_in_turn(&mut stage, 1_000, 100, &turn);
    assert_eq!((happened(&stage), ids(&stage).len()), (vec![Happened::Opened], 1));
    let (_, last) = stage.changes.last().expect("an update");
    assert_eq!(last.incident.affected.len(), 1);
    // It is taken out of the Service and deleted: nobody can try it any more.
    stage.cluster.apply(slice(&[GOOD, OTHER]), Some(ms(201_000)));
    stage.step(Step::Delete(vec![crate::build::pod_key("shop", "half-22")]));
    dial_in_turn(&mut stage, 202_000, 60, &[Lands::Answers(GOOD), Lands::Answers(OTHER)]);
    assert_eq!(happened(&stage), [Happened::Opened, Happened::Resolved(Resolution::Gone)]);
}

/// On another node neither what drops nor who answers is seen: that somebody does is no end of it.
#[test]
fn of_backends_elsewhere_an_answer_is_an_end_only_where_nothing_is_dropped_any_more() {
    let mut stage = Stage::new(half("worker-2", &[GOOD, BAD]), settings());
    dial_in_turn(&mut stage, 1_000, 90, &[Lands::Lost, Lands::Answers(GOOD), Lands::Answers(GOOD)]);
    assert_eq!(happened(&stage), [Happened::Opened], "{:#?}", stage.said(&["incident"]));
    assert_eq!(ids(&stage).len(), 1, "{:#?}", stage.said(&["drop"]));
    // From then on all answer.
    dial_in_turn(&mut stage, 181_000, 90, &[Lands::Answers(GOOD)]);
    let [Happened::Opened, Happened::Resolved(Resolution::Passes { at })] = happened(&stage)[..]
    else {
        panic!("{:#?}", stage.said(&["incident"]))
    };
    assert!(at > ms(177_000), "{at}");
}

/// There is one backend alone, so that who answers for the Service is it.
#[test]
fn a_backend_elsewhere_that_is_the_only_one_answers_for_itself() {
    let mut stage = Stage::new(half("worker-2", &[BAD]), settings());
    stage.step(Step::Works { from: WEB, to: HALF });
    dial_in_turn(&mut stage, 1_000, 10, &[Lands::Lost]);
    assert_eq!(happened(&stage), [Happened::Opened]);
    assert_eq!(stage.drops[0].worked.map(|worked| worked.last), Some(ms(0)));
    dial(&mut stage, 21_000, 50_000, Lands::Answers(BAD));
    stage.until(23_000);
    let passes = Happened::Resolved(Resolution::Passes { at: ms(21_000) });
    assert_eq!(happened(&stage), [Happened::Opened, passes]);
}

/// An answer that is older than what is behind the Service now may have been another's.
#[test]
fn an_answer_of_a_backend_that_is_no_more_is_not_that_of_the_one_that_is_left() {
    let mut stage = Stage::new(half("worker-2", &[GOOD, BAD]), settings());
    dial_in_turn(&mut stage, 1_000, 10, &[Lands::Lost, Lands::Answers(GOOD)]);
    // It answers last what is dialled next; after that the other is left alone.
    dial(&mut stage, 21_000, 50_000, Lands::Answers(GOOD));
    stage.until(22_500);
    stage.cluster.apply(slice(&[BAD]), Some(ms(22_500)));
    stage.until(26_000);
    dial_in_turn(&mut stage, 26_000, 10, &[Lands::Lost]);
    assert_eq!((happened(&stage), ids(&stage).len()), (vec![Happened::Opened], 1));
}

/// A client that stays with the backend that it got first: the one that is denied for good.
#[test]
fn who_sticks_to_the_backend_that_is_denied_is_cut_off_whoever_answers_others() {
    let mut stage = Stage::new(half("worker-1", &[GOOD, BAD]), settings());
    for n in 0..60_u16 {
        let start = 1_000 + i64::from(n) * 2_000;
        dial(&mut stage, start, 40_000 + n, Lands::Dropped(BAD));
        stage.step(Step::Works { from: super::stage::DB, to: HALF });
        stage.step(Step::Works { from: super::stage::DB, to: GOOD });
    }
    assert_eq!((happened(&stage), ids(&stage).len()), (vec![Happened::Opened], 1));
}

/// The attempt that was dropped at one backend is answered by another, once it has been reported: that
/// is no answer of the first.
#[test]
fn a_late_answer_of_another_backend_does_not_make_the_drop_work_again() {
    let mut stage = Stage::new(half("worker-1", &[GOOD, BAD]), settings());
    dial(&mut stage, 1_000, 40_000, Lands::Dropped(BAD));
    stage.until(6_000);
    stage.step(Step::Works { from: WEB, to: HALF });
    let late = seen(ms(6_000), flow(WEB, HALF), Some(40_000), 1, Fact::AnsweredLate);
    stage.see(&late);
    dial_in_turn(&mut stage, 8_000, 60, &[Lands::Dropped(BAD)]);
    assert_eq!((happened(&stage), ids(&stage).len()), (vec![Happened::Opened], 1));
    assert_eq!(stage.drops.last().expect("a drop").drop.evidence.answered, None);
}

/// A client that tries again lands on the backend that answers: it is slow, and nothing of it fails.
#[test]
fn a_backend_whose_clients_are_answered_by_another_is_reported_with_its_share() {
    let mut stage = Stage::new(half("worker-1", &[GOOD, BAD]), settings());
    stage.step(Step::Works { from: WEB, to: HALF });
    let turn = [Lands::Rescued(BAD, GOOD), Lands::Answers(GOOD), Lands::Answers(GOOD)];
    dial_in_turn(&mut stage, 1_000, 60, &turn);
    stage.until(140_000);
    assert_eq!((happened(&stage), ids(&stage).len()), (vec![Happened::Opened], 1));
    let shares: Vec<_> = stage.drops.iter().map(|judged| judged.share.expect("a share")).collect();
    // What was answered before it was reported first is not known to be of that time.
    assert_eq!((shares[0].needed_again, shares[0].connects), (1, None), "{shares:?}");
    let last = shares.last().expect("a report");
    let all = last.connects.expect("known by then");
    assert!(last.needed_again >= 10 && last.needed_again * 3 <= all + 3, "{shares:?}");
    for judged in &stage.drops {
        assert_eq!(judged.worked, None, "the other one worked");
        assert_eq!(judged.drop.evidence.kernel_packets(), judged.drop.evidence.rescued());
    }
}

/// The same backend answers the second SYN: it was slow to be let in, and drops nothing by now.
#[test]
fn what_the_same_backend_answers_in_the_end_is_no_drop_of_it() {
    let mut stage = Stage::new(half("worker-1", &[GOOD, OTHER]), settings());
    dial(&mut stage, 1_000, 40_000, Lands::Rescued(OTHER, OTHER));
    stage.until(100_000);
    assert_eq!(stage.drops.len(), 0, "{:#?}", stage.lines);
}
