//! From observations to drops, in virtual time: scripted attempts, and any order, repetition and
//! loss of what is seen of them.

use std::{net::IpAddr, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use whydrop_core::{
    correlate::{
        Correlated, Correlator, Drop, EvidenceLevel, FLOWS_PER_SOURCE_MAX, IDLE, REPORT_INTERVAL,
    },
    flow::{Flow, Protocol},
    observation::{AttemptId, DropReason, Fact, Observation, Rejection, Sender},
};

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 10));
const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 20));
const SERVICE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 7));

/// Milliseconds after the script's start.
fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_767_323_045_000 + ms).expect("a time")
}

fn millis(duration: SignedDuration) -> i64 {
    i64::try_from(duration.as_millis()).expect("a duration of a test")
}

fn attempt(source_port: u16) -> AttemptId {
    let sequence = u32::from(source_port) * 7919;
    AttemptId { protocol: Protocol::Tcp, source: CLIENT, source_port, sequence, foreign: None }
}

fn flow() -> Flow {
    Flow { source: CLIENT, destination: SERVER, port: 8080, protocol: Protocol::Tcp }
}

fn seen(source_port: u16, ms: i64, fact: Fact) -> Observation {
    Observation {
        at: at(ms),
        first: at(0),
        attempt: Some(attempt(source_port)),
        packets: 1,
        flow: flow(),
        dialled: None,
        sender: Sender::default(),
        entered: Some(7),
        delivered: false,
        fact,
    }
}

fn netfilter() -> Fact {
    Fact::KernelDrop {
        reason: DropReason { number: 12, name: Arc::from("NETFILTER_DROP") },
        location: Some(Arc::from("nft_do_chain")),
        interface: 7,
    }
}

fn counted(ms: i64, packets: u64, fact: Fact) -> Observation {
    Observation { attempt: None, packets, ..seen(0, ms, fact) }
}

/// The observation as a veth saw it that the Service's address was dialled at.
fn dialled(mut observation: Observation) -> Observation {
    match observation.fact {
        Fact::KernelDrop { .. } => observation.dialled = Some((SERVICE, 80)),
        _ => observation.flow = Flow { destination: SERVICE, port: 80, ..observation.flow },
    }
    observation
}

/// Plays observations at their times with a tick at every deadline, up to `until`.
fn play(observations: &[Observation], until: i64) -> (Correlator, Vec<(Timestamp, Correlated)>) {
    let mut correlator = Correlator::default();
    let mut reported = Vec::new();
    let tick_until = |correlator: &mut Correlator, reported: &mut Vec<_>, end: Timestamp| {
        while let Some(due) = correlator.deadline().filter(|due| *due <= end) {
            let now = due.max(at(0));
            reported.extend(correlator.tick(now).into_iter().map(|c| (now, c)));
        }
    };
    for observation in observations {
        tick_until(&mut correlator, &mut reported, observation.at);
        correlator.observe(observation);
    }
    tick_until(&mut correlator, &mut reported, at(until));
    (correlator, reported)
}

fn drops(reported: &[(Timestamp, Correlated)]) -> Vec<(i64, &Drop)> {
    let ms = |time: &Timestamp| millis(time.duration_since(at(0)));
    reported
        .iter()
        .filter_map(|(time, correlated)| match correlated {
            Correlated::Drop(drop) => Some((ms(time), drop)),
            _ => None,
        })
        .collect()
}

#[test]
fn what_goes_on_after_it_was_counted_apart_is_another_drop_in_its_time() {
    let interval = millis(REPORT_INTERVAL);
    let mut correlator = Correlator::default();
    correlator.observe(&seen(40000, 0, netfilter()));
    let reported = correlator.tick(at(2_000));
    let [Correlated::Drop(first)] = reported.as_slice() else { panic!("{reported:?}") };
    assert_eq!(first.unreported_packets(), 1);
    // Two more while it was judged: they belong to it, and are counted with the next report of it.
    correlator.observe(&counted(2_100, 2, netfilter()));
    correlator.conclude(first);
    let reported = correlator.tick(at(2_200));
    let [Correlated::Drop(rest)] = reported.as_slice() else { panic!("{reported:?}") };
    assert_eq!(
        (rest.id, rest.evidence.kernel_packets(), rest.unreported_packets()),
        (first.id, 3, 2)
    );
    correlator.conclude(rest);

    // It goes on: nothing before its time, and then with evidence of its own alone.
    correlator.observe(&seen(40001, 5_000, netfilter()));
    assert_eq!(correlator.tick(at(interval)), []);
    let reported = correlator.tick(at(interval + 2_500));
    let [Correlated::Drop(next)] = reported.as_slice() else { panic!("{reported:?}") };
    assert_ne!(next.id, first.id);
    assert_eq!((next.evidence.kernel_packets(), next.unreported_packets()), (1, 1));
}

#[test]
fn a_connect_that_goes_on_after_it_was_told_is_one_attempt() {
    // As Linux sends them: four SYNs a second apart, judged two at a time and then one by one.
    let mut script = vec![seen(40000, 0, netfilter())];
    for second in 1..4 {
        script.push(seen(40000, second * 1_000, Fact::Retransmitted));
        script.push(seen(40000, second * 1_000, netfilter()));
    }
    let (_, reported) = play(&script, millis(REPORT_INTERVAL) + 5_000);
    let packets: Vec<u64> =
        drops(&reported).iter().map(|(_, drop)| drop.evidence.packets()).collect();
    assert_eq!(packets, [2, 4]);
}

#[test]
fn the_second_syn_that_dies_is_told_at_once() {
    let script = [
        seen(40000, 0, netfilter()),
        seen(40000, 1000, Fact::Retransmitted),
        seen(40000, 1000, netfilter()),
    ];
    let (_, reported) = play(&script, 5_000);
    let drops = drops(&reported);
    assert_eq!(drops.len(), 1);
    let (ms, drop) = drops[0];
    assert_eq!(ms, 1250);
    assert_eq!(drop.evidence.level(), EvidenceLevel::KernelDrop);
    assert_eq!(drop.evidence.packets(), 2);
    assert_eq!(drop.flow, flow());
}

/// Nothing says that the first SYN was dropped: the second may be what its destination has already.
#[test]
fn a_second_syn_that_is_dropped_alone_waits_for_the_answer_to_the_first() {
    let second = [seen(40000, 1000, Fact::Retransmitted), seen(40000, 1000, netfilter())];
    let (_, reported) = play(&second, 10_000);
    assert_eq!(drops(&reported)[0].0, 2500);
    // The first is known to be dropped, and the second only counted.
    let first = [seen(40000, 0, netfilter()), seen(40000, 1000, Fact::Retransmitted)];
    let (_, reported) = play(&first, 10_000);
    assert_eq!(drops(&reported)[0].0, 1250);
}

#[test]
fn a_rejection_and_silence_are_two_drops_of_a_flow_by_turns() {
    let icmp = Rejection::Icmp { v6: false, kind: 3, code: 3 };
    let script = [
        seen(40000, 0, Fact::Rejected(icmp)),
        seen(40001, 2_000, netfilter()),
        seen(40001, 3_000, netfilter()),
        seen(40002, 5_000, Fact::Rejected(icmp)),
        seen(40003, 8_000, netfilter()),
        seen(40003, 9_000, netfilter()),
        // Of a connect that was dropped and is then rejected.
        seen(40003, 12_000, Fact::Rejected(icmp)),
    ];
    let (_, reported) = play(&script, 100_000);
    let drops = drops(&reported);
    let interval = millis(REPORT_INTERVAL);
    let reports: Vec<_> =
        drops.iter().map(|(ms, d)| (*ms, d.evidence.level(), d.evidence.packets())).collect();
    assert_eq!(
        reports,
        [
            (250, EvidenceLevel::Rejected, 1),
            (3_250, EvidenceLevel::KernelDrop, 2),
            (250 + interval, EvidenceLevel::Rejected, 3),
            (3_250 + interval, EvidenceLevel::KernelDrop, 4),
        ]
    );
    assert_eq!((drops[0].1.id, drops[1].1.id), (drops[2].1.id, drops[3].1.id));
    assert_ne!(drops[0].1.id, drops[1].1.id);
    assert_eq!(drops[3].1.evidence.rejected, None);
}

/// It was dialled when nothing was behind the Service: no backend ever had that packet.
#[test]
fn what_was_rejected_at_a_service_is_not_its_backends() {
    let icmp = Rejection::Icmp { v6: false, kind: 3, code: 3 };
    let script = [
        dialled(seen(40000, 0, Fact::Rejected(icmp))),
        dialled(seen(40001, 5_000, netfilter())),
        dialled(seen(40001, 6_000, netfilter())),
    ];
    let (_, reported) = play(&script, 20_000);
    let drops = drops(&reported);
    let flows: Vec<_> = drops.iter().map(|(ms, drop)| (*ms, drop.flow.destination)).collect();
    assert_eq!(flows, [(250, SERVICE), (6_250, SERVER)]);
}

#[test]
fn what_no_report_had_yet_has_its_own_time() {
    let script = [
        seen(40000, 0, netfilter()),
        seen(40000, 1_000, netfilter()),
        seen(40001, 20_000, netfilter()),
        seen(40001, 21_000, netfilter()),
    ];
    let (_, reported) = play(&script, 100_000);
    let latest = drops(&reported).into_iter().map(|(_, drop)| drop.evidence.latest());
    assert_eq!(latest.collect::<Vec<_>>(), [at(0)..=at(1_000), at(20_000)..=at(21_000)]);
}

#[test]
fn an_attempt_that_is_answered_is_none() {
    let script = [
        seen(40000, 0, netfilter()),
        seen(40000, 1000, Fact::Retransmitted),
        seen(40000, 1003, Fact::AnsweredLate),
    ];
    let (correlator, reported) = play(&script, 200_000);
    assert_eq!(drops(&reported), []);
    assert_eq!(correlator.account().recovered, 1);
}

#[test]
fn counters_of_an_answered_flow_are_forgiven() {
    let overflow = || Fact::KernelDrop {
        reason: DropReason { number: 99, name: Arc::from("TCP_LISTEN_OVERFLOW") },
        location: None,
        interface: 7,
    };
    let script = [
        seen(40000, 0, overflow()),
        seen(40000, 1001, Fact::AnsweredLate),
        counted(1500, 5, overflow()),
    ];
    let (correlator, reported) = play(&script, 200_000);
    assert_eq!(drops(&reported), []);
    assert_eq!(correlator.account().recovered, 6);
}

#[test]
fn a_connect_that_the_application_gave_up_at_once_is_none() {
    let (_, reported) = play(&[seen(40000, 250, Fact::Failed { errno: 0 })], 200_000);
    assert_eq!(drops(&reported), []);
}

#[test]
fn a_retransmission_in_vain_is_unanswered() {
    let script =
        [seen(40000, 1000, Fact::Retransmitted), seen(40000, 3000, Fact::Failed { errno: 0 })];
    let (_, reported) = play(&script, 10_000);
    let drops = drops(&reported);
    assert_eq!(drops[0].1.evidence.level(), EvidenceLevel::Unanswered);
    assert_eq!(drops[0].1.evidence.packets(), 2);
}

#[test]
fn a_reject_rule_is_a_rejection() {
    let icmp = Rejection::Icmp { v6: false, kind: 3, code: 13 };
    let script = [
        seen(40000, 0, Fact::Rejected(icmp)),
        seen(40000, 0, netfilter()),
        seen(40000, 1, Fact::Failed { errno: 113 }),
    ];
    let (_, reported) = play(&script, 5_000);
    let drops = drops(&reported);
    assert_eq!(drops.len(), 1);
    assert_eq!(drops[0].1.evidence.level(), EvidenceLevel::Rejected);
    assert_eq!(drops[0].0, 251);
}

#[test]
fn a_service_address_and_its_translation_are_one() {
    let script = [
        dialled(seen(40000, 0, netfilter())),
        dialled(seen(40000, 1000, Fact::Retransmitted)),
        dialled(seen(40000, 1000, netfilter())),
        dialled(counted(1500, 3, Fact::Retransmitted)),
    ];
    let (_, reported) = play(&script, 200_000);
    let drops = drops(&reported);
    let ids: std::collections::BTreeSet<_> = drops.iter().map(|(_, drop)| drop.id).collect();
    assert_eq!(ids.len(), 1, "{drops:#?}");
    assert_eq!(drops[0].1.flow, flow());
    assert_eq!(drops[0].1.dialled, Some((SERVICE, 80)));
}

#[test]
fn what_was_only_seen_as_it_was_dialled_is_of_no_backend() {
    let script = [
        dialled(seen(40000, 1000, Fact::Retransmitted)),
        dialled(seen(40001, 5000, netfilter())),
        dialled(seen(40001, 6000, netfilter())),
    ];
    let (_, reported) = play(&script, 120_000);
    let drops = drops(&reported);
    let [(_, unknown), (_, backend)] = drops.as_slice() else { panic!("{drops:#?}") };
    assert_eq!((unknown.flow.destination, unknown.evidence.packets()), (SERVICE, 2));
    assert_eq!(unknown.evidence.level(), EvidenceLevel::Unanswered);
    assert_eq!((backend.flow, backend.evidence.packets()), (flow(), 2));
    assert_ne!(unknown.id, backend.id);
}

#[test]
fn a_flow_that_goes_on_dying_is_told_once_in_an_interval_by_one_name() {
    let script: Vec<_> = (0..100_u16)
        .flat_map(|n| {
            let ms = i64::from(n) * 1_300;
            [seen(40_000 + n, ms, netfilter()), seen(40_000 + n, ms + 1_000, netfilter())]
        })
        .collect();
    let mut script = script;
    script.sort_by_key(|observation| observation.at);
    let (_, reported) = play(&script, 400_000);
    let drops = drops(&reported);
    assert!(drops.windows(2).all(|pair| pair[1].0 - pair[0].0 >= millis(REPORT_INTERVAL)));
    assert!(drops.windows(2).all(|pair| pair[0].1.id == pair[1].1.id));
    assert_eq!(drops.last().expect("a drop").1.evidence.packets(), 200);
    assert!((3..=4).contains(&drops.len()), "{}", drops.len());
}

#[test]
fn a_flow_that_has_been_quiet_is_another_drop_when_it_dies_again() {
    let later = millis(IDLE) + 10_000;
    let script = [
        seen(40000, 0, netfilter()),
        seen(40000, 1000, netfilter()),
        seen(40001, later, netfilter()),
        seen(40001, later + 1000, netfilter()),
    ];
    let (_, reported) = play(&script, later + 5_000);
    let drops = drops(&reported);
    assert_eq!(drops.len(), 2);
    assert_ne!(drops[0].1.id, drops[1].1.id);
    assert_eq!(drops[1].1.evidence.packets(), 2);
}

#[test]
fn a_copy_that_is_freed_after_the_answer_to_another_is_no_drop() {
    let script = [
        seen(40000, 1_000, Fact::Retransmitted),
        seen(40000, 1_200, Fact::AnsweredLate),
        seen(40000, 2_200, netfilter()),
    ];
    let (correlator, reported) = play(&script, 20_000);
    assert!(drops(&reported).is_empty(), "{reported:?}");
    assert_eq!((correlator.account().observed, correlator.account().recovered), (1, 1));
}

#[test]
fn a_backend_that_is_dialled_in_several_ways_is_dropped_in_each() {
    let by = |source_port: u16, ms: i64, dialled: Option<(IpAddr, u16)>| Observation {
        dialled,
        ..seen(source_port, ms, netfilter())
    };
    let mut script = Vec::new();
    let ways = [Some((SERVICE, 80)), Some((SERVICE, 30_080)), None];
    for (port, way) in (40_000..).zip(ways) {
        // Who dials the flow itself is seen to, by the second SYN.
        script.push(by(port, 0, way));
        script.push(seen(port, 1_000, Fact::Retransmitted));
        if let Some((destination, port)) = way {
            let last = script.last_mut().expect("a sign");
            last.flow = Flow { destination, port, ..flow() };
        }
        script.push(by(port, 1_000, way));
    }
    let (_, reported) = play(&script, 30_000);
    let drops = drops(&reported);
    let dialled: Vec<_> = drops.iter().map(|(_, drop)| drop.dialled).collect();
    assert_eq!(dialled.len(), 3, "{dialled:?}");
    assert!(ways.iter().all(|way| dialled.contains(way)), "{dialled:?}");
    assert!(drops.iter().all(|(_, drop)| drop.flow == flow() && drop.evidence.packets() == 2));
}

/// What is reported of two SYNs that are dropped, after two others and an answer at this time.
fn reported_after_an_answer(answered: i64) -> Vec<Drop> {
    let before = [seen(40000, 0, netfilter()), seen(40000, 1_000, netfilter())];
    let (mut correlator, reported) = play(&before, 2_000);
    assert_eq!(drops(&reported).len(), 1);
    let dropped = [seen(40001, 12_000, netfilter()), seen(40001, 13_000, netfilter())];
    assert_eq!(correlator.attempted_again(&dropped[0]), [(flow(), None)].into());
    correlator.worked(&flow(), at(answered));
    for observation in &dropped {
        correlator.observe(observation);
    }
    let reported = correlator.tick(at(14_000)).into_iter();
    reported
        .filter_map(|correlated| match correlated {
            Correlated::Drop(drop) => Some(drop),
            _ => None,
        })
        .collect()
}

#[test]
fn a_flow_that_worked_in_between_is_another_drop_at_once() {
    let reported = reported_after_an_answer(11_000);
    assert_eq!(reported.len(), 1, "{reported:?}");
    assert_eq!(reported[0].evidence.kernel_packets(), 2, "nothing of the first is in it");
    assert_eq!(reported_after_an_answer(4_000), [], "it goes on, and is reported in its time");
}

#[test]
fn a_scan_is_folded_and_counted() {
    let scan: Vec<_> = (1..=1000_u16)
        .map(|port| {
            let mut observation = seen(port, 0, netfilter());
            observation.flow.port = port;
            observation
        })
        .collect();
    let (correlator, reported) = play(&scan, 10_000);
    assert_eq!(drops(&reported).len(), FLOWS_PER_SOURCE_MAX);
    let folded: u64 = reported
        .iter()
        .filter_map(|(_, correlated)| match correlated {
            Correlated::Folded(folded) => Some(folded.packets),
            _ => None,
        })
        .sum();
    assert_eq!(folded, 1000 - FLOWS_PER_SOURCE_MAX as u64);
    assert_eq!(correlator.account().folded, folded);
}

#[test]
fn counters_whose_event_was_lost_are_told_as_well() {
    let (_, reported) = play(&[counted(1000, 9, netfilter())], 10_000);
    let drops = drops(&reported);
    assert_eq!(drops.len(), 1);
    assert_eq!(drops[0].1.evidence.packets(), 9);
}

/// Anything that can be seen of a few attempts of a few flows, within the time that one of them
/// stays pending.
#[test]
fn what_is_not_clear_yet_is_told_in_the_end() {
    let scan = (0..100).map(|flow| Observation {
        flow: Flow { port: 9000 + flow, ..self::flow() },
        ..seen(40_000 + flow, 0, netfilter())
    });
    let mut correlator = Correlator::default();
    for observation in scan {
        correlator.observe(&observation);
    }
    assert_eq!(correlator.tick(at(1)), []);
    let reported = correlator.flush(at(1));
    let packets = reported.iter().map(|reported| match reported {
        Correlated::Drop(drop) => drop.evidence.kernel_packets(),
        Correlated::Folded(folded) => folded.packets,
        Correlated::Answered { .. } => 0,
    });
    assert_eq!(packets.sum::<u64>(), 100);
    assert_eq!(correlator.undecided(), 0);
    assert_eq!(correlator.flush(at(2)), []);
}

fn observation() -> impl Strategy<Value = Observation> {
    let fact = prop_oneof![
        4 => Just(netfilter()),
        3 => Just(Fact::Retransmitted),
        1 => Just(Fact::Failed { errno: 110 }),
        1 => Just(Fact::Failed { errno: 0 }),
        1 => Just(Fact::Rejected(Rejection::Reset)),
        1 => Just(Fact::Rejected(Rejection::Icmp { v6: false, kind: 3, code: 13 })),
        1 => Just(Fact::AnsweredLate),
    ];
    (0..6_u16, 0..1000_i64, fact).prop_map(|(attempt, ms, fact)| {
        let mut observation = seen(40_000 + attempt, ms, fact);
        // One attempt has one destination.
        observation.flow.port = 8080 + attempt % 3;
        observation
    })
}

/// What is reported in the end, without regard to order.
fn outcome(observations: &[Observation]) -> (Vec<Drop>, whydrop_core::correlate::Account) {
    let mut correlator = Correlator::default();
    for observation in observations {
        correlator.observe(observation);
    }
    let seen = correlator.tick(at(0) + SignedDuration::from_secs(30));
    let mut drops: Vec<_> = seen
        .into_iter()
        .filter_map(|correlated| match correlated {
            Correlated::Drop(drop) => Some(drop),
            _ => None,
        })
        .collect();
    drops.sort_by_key(|drop| (drop.flow, drop.id));
    (drops, correlator.account())
}

/// An answer ends an attempt, so what is seen of it after the answer is seen of another.
fn unanswered(observations: Vec<Observation>) -> Vec<Observation> {
    observations.into_iter().filter(|o| o.fact != Fact::AnsweredLate).collect()
}

proptest! {
    #[test]
    fn order_leaves_no_trace(
        (seen, shuffled) in proptest::collection::vec(observation(), 1..40)
            .prop_map(unanswered)
            .prop_flat_map(|seen| (Just(seen.clone()), Just(seen).prop_shuffle()))
    ) {
        prop_assert_eq!(outcome(&seen), outcome(&shuffled));
    }

    #[test]
    fn what_is_told_twice_counts_once(
        seen in proptest::collection::vec(observation(), 1..40).prop_map(unanswered)
    ) {
        // As many signs as are remembered of one attempt.
        let seen: Vec<_> = seen.into_iter().take(16).collect();
        let twice: Vec<_> = seen.iter().chain(&seen).cloned().collect();
        prop_assert_eq!(outcome(&seen), outcome(&twice));
    }

    #[test]
    fn every_dropped_packet_is_somewhere(
        seen in proptest::collection::vec(observation(), 1..60)
    ) {
        let (drops, account) = outcome(&seen);
        let in_drops: u64 = drops.iter().map(|drop| drop.evidence.kernel_packets()).sum();
        let accounted = in_drops + account.recovered + account.folded + account.shed;
        prop_assert_eq!(account.observed, accounted);
    }

    #[test]
    fn nothing_is_left_undecided_in_the_end(
        seen in proptest::collection::vec(observation(), 1..60), cut in 0..60_usize
    ) {
        let mut correlator = Correlator::default();
        let mut drops = std::collections::BTreeMap::new();
        let (early, late) = seen.split_at(cut.min(seen.len()));
        for observation in early {
            correlator.observe(observation);
        }
        let mut correlated = correlator.tick(at(1500));
        for observation in late {
            correlator.observe(observation);
        }
        correlated.extend(correlator.flush(at(1500)));
        for correlated in correlated {
            if let Correlated::Drop(drop) = correlated {
                // The latest report of a flow has the sum.
                drops.insert(drop.id, drop.evidence.kernel_packets());
            }
        }
        let account = correlator.account();
        let accounted =
            drops.values().sum::<u64>() + account.recovered + account.folded + account.shed;
        prop_assert_eq!(correlator.undecided(), 0);
        prop_assert_eq!(account.observed, accounted);
    }

    #[test]
    fn what_is_lost_is_never_made_up_for(
        seen in proptest::collection::vec(observation(), 1..40).prop_map(unanswered),
        lost in proptest::collection::vec(any::<bool>(), 40),
    ) {
        let kept: Vec<_> =
            seen.iter().zip(&lost).filter(|(_, lost)| !**lost).map(|(o, _)| o.clone()).collect();
        let all = outcome(&seen).0;
        for drop in outcome(&kept).0 {
            // Where a rejection was lost, it is silence.
            let whole = all.iter().filter(|other| other.flow == drop.flow);
            let packets: u64 = whole.map(|whole| whole.evidence.kernel_packets()).sum();
            prop_assert!(packets >= drop.evidence.kernel_packets());
        }
    }
}
