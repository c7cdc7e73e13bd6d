//! Denials that are lifted: what was dropped before stays what it was, and no incident comes of it.

use std::collections::BTreeSet;

use whydrop_core::{
    cluster::{
        Cluster,
        object::{Key, Object},
    },
    incident::Happened,
    observation::Fact,
};

use super::stage::{DB, NODE, Stage, Step, WEB, connect, deny, flow, seen, settings, shop};
use crate::build::policy_key;

/// Steps at their milliseconds.
type Steps = Vec<(i64, Step)>;

fn both() -> Vec<Key> {
    vec![policy_key("shop", "deny"), policy_key("shop", "deny-too")]
}

fn denying_twice() -> Cluster {
    let mut cluster = shop();
    cluster.apply(Object::Policy(deny("deny")), None);
    cluster.apply(Object::Policy(deny("deny-too")), None);
    cluster
}

/// A client that connects every second from 0 s on, each time with two SYNs, and a node that does: the
/// last SYN comes then.
fn clients(last: i64) -> Vec<(i64, Step)> {
    let mut steps = Vec::new();
    for (nth, from) in (0_u16..).zip([WEB, NODE]) {
        let starts = (0..last).step_by(1_000);
        for (attempt, start) in (40_000 + nth * 1_000..).zip(starts) {
            let syn = || Step::Dropped { from, to: DB, port: 5432, attempt };
            steps.push((start, syn()));
            steps.push(((start + 1_000).min(last), syn()));
        }
    }
    steps
}

/// Plays what clients see until the last SYN, with what happens besides.
fn play(last: i64, besides: Vec<(i64, Step)>, until: i64) -> Stage {
    let mut steps = clients(last);
    steps.extend(besides);
    steps.sort_by_key(|(time, _)| *time);
    Stage::play(denying_twice(), settings(), steps, until)
}

/// Each drop is of one class, of both policies and of one incident, which opens once and ends.
fn stays_what_it_was(name: &str, stage: &Stage) {
    let incidents: BTreeSet<_> =
        stage.drops.iter().map(|judged| judged.judgement.diagnosis.incident()).collect();
    let responsible: BTreeSet<usize> =
        stage.drops.iter().map(|judged| judged.judgement.diagnosis.responsible().len()).collect();
    assert_eq!(responsible, [2].into(), "{name}: {:#?}", stage.lines);
    assert_eq!(incidents.len(), 1, "{name}: {:#?}", stage.lines);
    let told: BTreeSet<_> = stage.incidents().map(|change| change.incident.id).collect();
    assert!(told.len() <= 1, "{name}: {:#?}", stage.lines);
    let came_back =
        |change: &&whydrop_core::incident::IncidentChange| change.happened == Happened::Reopened;
    assert_eq!(stage.incidents().find(came_back).map(|_| ()), None, "{name}");
}

fn works(from: u8, at: i64) -> (i64, Step) {
    (at, Step::Works { from, to: DB })
}

#[test]
fn the_tail_of_what_two_policies_denied_stays_theirs_once_both_are_gone() {
    let gone = |at| (at, Step::Delete(both()));
    let one_by_one = |first: i64, then: i64| {
        let [one, other] = <[Key; 2]>::try_from(both()).expect("two");
        vec![(first, Step::Delete(vec![one])), (then, Step::Delete(vec![other]))]
    };
    let stories: Vec<(&str, i64, Steps)> = vec![
        ("deleted after the last packet", 10_000, vec![gone(10_500)]),
        ("much later", 10_000, vec![gone(40_000)]),
        ("as the plugin takes a moment", 10_000, vec![gone(9_600)]),
        ("and it works", 10_000, vec![gone(10_500), works(WEB, 11_000), works(NODE, 11_000)]),
        (
            "the plugin takes a moment, and it works",
            10_000,
            vec![gone(9_600), works(WEB, 10_800), works(NODE, 10_800)],
        ),
        ("one just before the last packet and one just after", 10_000, one_by_one(9_950, 10_050)),
        ("both just before", 10_000, one_by_one(9_900, 9_950)),
        ("both just after", 10_000, one_by_one(10_050, 10_100)),
    ];
    for (name, last, besides) in stories {
        let stage = play(last, besides, 200_000);
        // When it opened, and what came after that.
        assert_eq!(stage.drops.len(), 4, "{name}: {:#?}", stage.lines);
        stays_what_it_was(name, &stage);
    }
}

#[test]
fn so_it_does_where_the_agent_stops_in_between() {
    for (name, deleted, stops) in [
        ("before it is told", 10_050, 10_100),
        ("once it is", 10_050, 12_000),
        ("while the plugin catches up", 9_600, 10_050),
    ] {
        let besides = vec![(deleted, Step::Delete(both())), (stops, Step::Flush)];
        let stage = play(10_000, besides, stops);
        assert_eq!(stage.drops.len(), 4, "{name}: {:#?}", stage.lines);
        stays_what_it_was(name, &stage);
    }
}

#[test]
fn a_filter_that_goes_on_for_long_is_out_of_sync_all_the_same() {
    let stage = play(100_000, vec![(30_000, Step::Delete(both()))], 200_000);
    let classes: Vec<_> =
        stage.drops.iter().map(|judged| judged.judgement.diagnosis.cause.class.name()).collect();
    assert_eq!(classes[..2], ["default-deny", "default-deny"]);
    assert_eq!(classes[classes.len() - 2..], ["out-of-sync", "out-of-sync"]);
}

#[test]
fn what_was_dropped_before_is_judged_as_of_then_whatever_follows_it() {
    let timed_out = Fact::Failed { errno: 110 };
    // The next attempt gets no answer, which nothing here explains; the same one ends, much later.
    let stories: [(Fact, u16, &[&str]); 2] =
        [(Fact::Retransmitted, 40_001, &["not-policy"]), (timed_out, 40_000, &[])];
    for (fact, attempt, others) in stories {
        let later = {
            let fact = fact.clone();
            move |now| seen(now, flow(WEB, DB), Some(attempt), 1, fact.clone())
        };
        let mut steps = connect(0, WEB, DB);
        steps.push((3_000, Step::Dropped { from: WEB, to: DB, port: 5432, attempt: 40_000 }));
        steps.push((20_000, Step::Delete(both())));
        steps.push((40_000, Step::Seen(Box::new(later))));
        let stage = Stage::play(denying_twice(), settings(), steps, 200_000);
        let classes: Vec<_> = stage
            .drops
            .iter()
            .map(|judged| judged.judgement.diagnosis.cause.class.name())
            .collect();
        let expected = [&["default-deny"; 2], others].concat();
        assert_eq!(classes, expected, "{fact:?}: {:#?}", stage.lines);
        if others.is_empty() {
            stays_what_it_was("judged as of then", &stage);
        }
    }
}

/// One connect, denied by a policy and then by another: each report has packets of one of them, and those
/// near the change make no report of their own.
#[test]
fn a_report_names_the_policies_that_were_in_force_when_its_packets_were_dropped() {
    let syn = |at| (at, Step::Dropped { from: WEB, to: DB, port: 5432, attempt: 40_000 });
    let one_for_the_other = |gone: i64, comes: i64| {
        let delete = (gone, Step::Delete(vec![policy_key("shop", "deny")]));
        vec![delete, (comes, Step::Apply(Object::Policy(deny("deny-too"))))]
    };
    let (old, new) = ("deny", "deny-too");
    for (name, gone, comes, expected) in [
        ("clear of both", 5_000, 5_000, vec![(2, old), (1, old), (1, new), (1, new)]),
        ("created and then deleted", 5_020, 5_000, vec![(2, old), (1, old), (1, new), (1, new)]),
        ("deleted and then created", 5_000, 5_200, vec![(2, old), (1, old), (1, new), (1, new)]),
        ("soon after a packet", 3_500, 3_500, vec![(2, old), (3, new)]),
        ("soon before one", 6_500, 6_500, vec![(2, old), (2, old), (1, new)]),
    ] {
        let mut cluster = shop();
        cluster.apply(Object::Policy(deny(old)), None);
        let mut steps: Steps = [0, 1_000, 3_000, 7_000, 15_000].map(syn).into();
        steps.extend(one_for_the_other(gone, comes));
        steps.sort_by_key(|(time, _)| *time);
        let stage = Stage::play(cluster, settings(), steps, 200_000);
        let mut packets = 0;
        let reports = stage.drops.iter().map(|judged| {
            let drop = &judged.drop;
            packets += drop.unreported_packets();
            let policies = judged.judgement.diagnosis.responsible();
            (drop.unreported_packets(), policies[0].reference.name.to_string())
        });
        let reports: Vec<(u64, String)> = reports.collect();
        let expected: Vec<_> =
            expected.into_iter().map(|(count, policy)| (count, policy.to_owned())).collect();
        assert_eq!(reports, expected, "{name}: {:#?}", stage.lines);
        assert_eq!(packets, 5, "{name}");
    }
}
