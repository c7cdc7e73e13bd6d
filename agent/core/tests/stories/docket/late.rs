//! Answers that take their time, and refusals beside silence.

use std::net::IpAddr;

use jiff::Timestamp;
use whydrop_core::{
    cluster::object::Object,
    correlate::EvidenceLevel,
    flow::{Flow, Protocol},
    observation::{DropReason, Fact, Observation, Rejection},
};

use super::stage::{
    DB, Stage, Step, WEB, connect, deny, flow, ms, netfilter, old, seen, settings, shop,
};
use crate::build::pod;

/// When Linux sends the SYNs of one connect (RFC 6298).
const SYNS: [i64; 4] = [0, 1_000, 3_000, 7_000];

fn duplicate(v6: bool) -> Fact {
    let place = if v6 { "tcp_v6_rcv" } else { "tcp_v4_rcv.isra.0" };
    Fact::KernelDrop {
        reason: DropReason { number: 2, name: "NOT_SPECIFIED".into() },
        location: Some(place.into()),
        interface: 0,
    }
}

fn v6(last: u8) -> IpAddr {
    format!("fd00::{last}").parse().expect("an address")
}

fn flow_of(is_v6: bool) -> Flow {
    match is_v6 {
        true => Flow { source: v6(WEB), destination: v6(DB), port: 5432, protocol: Protocol::Tcp },
        false => flow(WEB, DB),
    }
}

/// One connect to a server that takes this long to be reached, and this long to be heard.
fn slow(there: i64, back: i64, is_v6: bool) -> Vec<(i64, Step)> {
    let flow = flow_of(is_v6);
    let see = move |delivered: bool, fact: Fact| {
        let seen = move |now: Timestamp| Observation {
            delivered,
            first: ms(0),
            ..seen(now, flow, Some(40_000), 1, fact.clone())
        };
        Step::Seen(Box::new(seen))
    };
    let answered = there + back;
    let mut steps = Vec::new();
    for sent in SYNS.into_iter().skip(1).filter(|sent| *sent < answered) {
        steps.push((sent, see(false, Fact::Retransmitted)));
        // The first has come before it, and waits.
        steps.push((sent + there, see(sent + there < answered, duplicate(is_v6))));
    }
    if answered > 1_000 {
        steps.push((answered, see(false, Fact::AnsweredLate)));
    }
    let first = move |now| seen(now, flow, None, 1, Fact::AnsweredFirst);
    steps.push((answered, Step::Seen(Box::new(first))));
    steps.sort_by_key(|(time, _)| *time);
    steps
}

fn both_families() -> whydrop_core::cluster::Cluster {
    let mut cluster = shop();
    for (name, last) in [("web", WEB), ("db", DB)] {
        let mut pod = old(pod("shop", name, last, &[("app", name)]));
        pod.addresses.push(v6(last));
        cluster.apply(Object::Pod(pod), None);
    }
    cluster
}

#[test]
fn what_is_answered_late_is_answered() {
    for is_v6 in [false, true] {
        for delay in (0..=8_000).step_by(200) {
            for (there, back) in [(delay, 5), (5, delay), (delay / 2, delay / 2)] {
                let mut stage = Stage::new(both_families(), settings());
                for (time, step) in slow(there, back, is_v6) {
                    stage.until(time);
                    if time >= there + back {
                        // The kernel's table has the answer as well.
                        stage.answer_of(flow_of(is_v6), there + back);
                    }
                    stage.step(step);
                }
                stage.until(200_000);
                let name = format!("{there} ms there, {back} ms back, IPv6: {is_v6}");
                assert_eq!(stage.said(&["drop", "incident"]), [""; 0], "{name}");
                let account = stage.docket.account();
                assert_eq!((account.answered, account.undecided), (account.observed, 0), "{name}");
            }
        }
    }
}

#[test]
fn what_is_never_answered_is_reported_once_that_is_clear() {
    let retransmitted =
        |now: Timestamp| seen(now, flow(WEB, DB), Some(40_000), 1, Fact::Retransmitted);
    let sent = || SYNS.into_iter().skip(1);
    let attempts =
        || sent().map(|at| (at, Step::Seen(Box::new(retransmitted)))).collect::<Vec<_>>();
    let report = |cluster, steps| {
        let stage = Stage::play(cluster, settings(), steps, 30_000);
        stage.said(&["drop"]).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let lost = "drop shop/web -> shop/db:5432/TCP not-policy";
    assert_eq!(report(shop(), attempts()), [format!("11000 {lost}")]);
    // The client does not wait so long.
    let mut steps = attempts();
    steps.truncate(1);
    let failed =
        |now: Timestamp| seen(now, flow(WEB, DB), Some(40_000), 1, Fact::Failed { errno: 0 });
    steps.push((2_000, Step::Seen(Box::new(failed))));
    assert_eq!(report(shop(), steps), [format!("4250 {lost}")]);
    // What policies deny is not waited for.
    let mut cluster = shop();
    cluster.apply(Object::Policy(deny("deny")), None);
    let denied = "2500 drop shop/web -> shop/db:5432/TCP default-deny";
    assert_eq!(report(cluster, attempts()), [denied]);
}

#[test]
fn a_connect_that_failed_is_none_that_was_late() {
    let failed =
        |now: Timestamp| seen(now, flow(WEB, DB), Some(40_000), 1, Fact::Failed { errno: 0 });
    let mut steps = connect(0, WEB, DB);
    steps.push((1_100, Step::Seen(Box::new(failed))));
    steps.push((2_000, Step::Works { from: WEB, to: DB }));
    let stage = Stage::play(shop(), settings(), steps, 10_000);
    assert_eq!(
        stage.said(&["drop"]),
        ["3350 drop shop/web -> shop/db:5432/TCP not-policy, worked at 2000"]
    );
}

#[test]
fn nor_is_one_that_is_given_up_before_another_works() {
    let failed =
        |now: Timestamp| seen(now, flow(WEB, DB), Some(40_000), 1, Fact::Failed { errno: 0 });
    let mut steps = connect(0, WEB, DB);
    // It is judged by then, and its report waits.
    steps.push((2_000, Step::Seen(Box::new(failed))));
    steps.push((2_900, Step::Works { from: WEB, to: DB }));
    let mut stage = Stage::play(shop(), settings(), steps, 10_000);
    let report = ["3250 drop shop/web -> shop/db:5432/TCP not-policy, worked at 2900"];
    assert_eq!(stage.said(&["drop"]), report);
    // That it was given up is no news.
    stage.until(200_000);
    assert_eq!(stage.said(&["drop"]), report);
    assert_eq!(stage.docket.account().reported, 2);
}

#[test]
fn an_attempt_that_follows_one_that_was_answered_late_is_waited_for_as_well() {
    let again = |at: i64, attempt: u16| {
        let seen = move |now| seen(now, flow(WEB, DB), Some(attempt), 1, Fact::Retransmitted);
        (at, Step::Seen(Box::new(seen)))
    };
    let answered = |at, attempt| (at, Step::AnsweredLate { from: WEB, to: DB, attempt });
    let steps = vec![
        again(1_000, 40_000),
        again(3_000, 40_000),
        answered(5_000, 40_000),
        again(7_000, 40_001),
        // The report of the first waits until 11 s, and goes on with what came since.
        answered(14_000, 40_001),
    ];
    let stage = Stage::play(shop(), settings(), steps, 200_000);
    assert_eq!(stage.said(&["drop", "incident"]), [""; 0], "{:#?}", stage.lines);
}

#[test]
fn what_was_answered_does_not_hold_up_what_is_dropped_next() {
    let mut steps = connect(0, WEB, DB);
    steps.push((2_000, Step::AnsweredLate { from: WEB, to: DB, attempt: 40_000 }));
    steps.push((5_000, Step::Apply(Object::Policy(deny("deny")))));
    let syn = || Step::Dropped { from: WEB, to: DB, port: 5432, attempt: 40_001 };
    steps.push((6_000, syn()));
    steps.push((7_000, syn()));
    let stage = Stage::play(shop(), settings(), steps, 10_000);
    assert_eq!(stage.said(&["drop"]).len(), 1, "{:#?}", stage.lines);
    assert!(
        stage.said(&["drop"])[0].starts_with("7250 drop shop/web -> shop/db:5432/TCP default-deny")
    );
    let account = stage.docket.account();
    assert_eq!((account.answered, account.reported), (2, 2));
}

#[test]
fn a_flow_that_is_rejected_and_then_dropped_is_two() {
    let rejected = |attempt: u16| {
        Step::Seen(Box::new(move |now| {
            let fact = Fact::Rejected(Rejection::Icmp { v6: false, kind: 3, code: 3 });
            seen(now, flow(WEB, DB), Some(attempt), 1, fact)
        }))
    };
    let mut steps = Vec::new();
    // Endpoints are gone for a moment; then a policy denies what goes to them, by turns.
    for turn in 0..20_u16 {
        let start = i64::from(turn) * 2_500;
        match turn % 2 {
            0 => steps.push((start, rejected(50_000 + turn))),
            _ => {
                for at in [start, start + 1_000] {
                    let attempt = 50_000 + turn;
                    steps.push((at, Step::Dropped { from: WEB, to: DB, port: 5432, attempt }));
                }
            }
        }
    }
    let mut cluster = shop();
    cluster.apply(Object::Policy(deny("deny")), None);
    let stage = Stage::play(cluster, settings(), steps, 58_000);
    let reports: Vec<_> = stage.drops.iter().map(|judged| judged.drop.evidence.level()).collect();
    assert_eq!(reports, [EvidenceLevel::Rejected, EvidenceLevel::KernelDrop], "{:#?}", stage.lines);
    assert!(stage.said(&["drop"])[1].starts_with("3750 drop"), "{:#?}", stage.lines);
    let ids = stage.drops.iter().map(|judged| judged.drop.id);
    assert_eq!(ids.collect::<std::collections::BTreeSet<_>>().len(), 2);
    // Each goes on under its own name, once in a minute.
    let mut stage = stage;
    stage.until(200_000);
    assert_eq!(stage.drops.len(), 4, "{:#?}", stage.lines);
    for (first, last) in [(0, 2), (1, 3)] {
        let [first, last] = [first, last].map(|place: usize| &stage.drops[place].drop);
        assert_eq!((first.id, first.evidence.level()), (last.id, last.evidence.level()));
    }
    assert_eq!(stage.drops[3].drop.evidence.kernel_packets(), 20);
}

#[test]
fn counters_of_what_had_arrived_are_no_drop() {
    let counted = |now: Timestamp| {
        let mut fact = duplicate(false);
        if let Fact::KernelDrop { location, .. } = &mut fact {
            *location = None;
        }
        seen(now, flow(WEB, DB), None, 9, fact)
    };
    let arrived = |now: Timestamp| seen(now, flow(WEB, DB), Some(40_000), 1, duplicate(false));
    let steps: Vec<(i64, Step)> =
        vec![(0, Step::Seen(Box::new(arrived))), (900, Step::Seen(Box::new(counted)))];
    let stage = Stage::play(shop(), settings(), steps, 60_000);
    assert_eq!(stage.said(&["drop"]), [""; 0]);
    let account = stage.docket.account();
    assert_eq!((account.observed, account.answered), (10, 10));
    // What a filter drops is one all the same.
    let by_filter = |now: Timestamp| seen(now, flow(WEB, DB), Some(40_000), 1, netfilter());
    let steps: Vec<(i64, Step)> = vec![(0, Step::Seen(Box::new(by_filter)))];
    assert_eq!(Stage::play(shop(), settings(), steps, 60_000).said(&["drop"]).len(), 1);
}
