//! What is muted, found, noted and cut off, and what becomes of everything in the end.

use whydrop_core::{
    cluster::{
        Addresses,
        object::{Key, Object},
    },
    docket::{Account, PENDING_MAX},
    flow::{Flow, Protocol},
    mute::{EndFilter, Rule},
    policy::Policy,
};

use super::stage::{
    DB, NODE, REMOTE, Stage, Step, WEB, connect, deny, ms, muting, netfilter, reaching, seen,
    settings, shop, shop_of_own_node,
};
use crate::build::{address, policy_key};

fn key(name: &str) -> Key {
    policy_key("shop", name)
}

fn policy(name: &str, mute: Option<&str>) -> Step {
    Step::Apply(Object::Policy(Policy { mute: mute.map(Into::into), ..deny(name) }))
}

#[test]
fn a_denial_that_is_expected_is_counted_until_it_is_not() {
    let mut steps = vec![(0, policy("deny", Some("by design")))];
    steps.extend(connect(100, WEB, DB));
    steps.push((3_000, Step::Counted { from: WEB, to: DB, packets: 2 }));
    steps.push((20_000, policy("deny", None)));
    steps.push((30_000, Step::Dropped { from: WEB, to: DB, port: 5432, attempt: 40_001 }));
    steps.push((100_000, Step::Flush));
    let stage = Stage::play(shop(), settings(), steps, 100_000);
    // Not before a minute after the one that was counted, and with its own packet alone.
    assert_eq!(
        stage.said(&["drop", "muted"]),
        [
            "1350 muted by NetworkPolicy shop/deny",
            "61350 drop shop/web -> shop/db:5432/TCP default-deny since deny created",
            "100000 muted since 1350: 1 reports, 2 packets by NetworkPolicy shop/deny",
        ]
    );
}

#[test]
fn a_rule_about_a_source_mutes_what_it_attempts_in_bulk() {
    let rule = Rule {
        name: "scanners".into(),
        reason: "".into(),
        source: EndFilter { workload: Some("web".into()), ..EndFilter::default() },
        destination: EndFilter::default(),
        ports: None,
        protocol: None,
        causes: Vec::new(),
    };
    for (settings, said) in
        [(muting(rule), "muted by rule scanners"), (settings(), "folded 10.1.0.10")]
    {
        let mut steps = Vec::new();
        for port in 1..100 {
            steps.push((0, Step::Dropped { from: WEB, to: DB, port, attempt: port }));
        }
        let stage = Stage::play(shop(), settings, steps, 10_000);
        assert_eq!(stage.said(&["folded", "muted"]), [format!("1500 {said}")]);
    }
}

#[test]
fn a_flow_that_should_not_work_is_found_once() {
    let mut steps = vec![(0, policy("deny", None))];
    for second in 1..60 {
        steps.push((second * 1_000, Step::Works { from: WEB, to: DB }));
    }
    let stage = Stage::play(shop(), settings(), steps, 120_000);
    assert_eq!(
        stage.said(&["finding"]),
        ["18000 finding shop/web -> shop/db:5432/TCP answered at 15000"]
    );
}

#[test]
fn a_note_waits_until_it_can_say_how_bad_the_incident_is() {
    let mut steps = vec![(0, policy("deny", None))];
    steps.extend(connect(0, WEB, DB));
    let stage = Stage::play(shop(), settings(), steps, 10_000);
    let said = stage.said(&["drop", "incident", "note"]);
    let [drop, incident, note] = said.as_slice() else { panic!("{said:#?}") };
    assert!(drop.starts_with("1250 drop"), "{drop}");
    assert_eq!(*incident, "4000 incident Opened info");
    assert_eq!(*note, "4000 note on web of info incident");

    // In the end it waits no more, whichever came first.
    let mut steps = vec![(0, policy("deny", None))];
    steps.extend(connect(0, WEB, DB));
    steps.push((1_100, Step::Flush));
    let stage = Stage::play(shop(), settings(), steps, 1_100);
    let said = stage.said(&["drop", "note"]);
    let [note, drop] = said.as_slice() else { panic!("{said:#?}") };
    assert_eq!(*note, "1100 note on web of unreported incident");
    assert!(drop.starts_with("1100 drop"), "{drop}");
}

#[test]
fn an_incident_is_over_once_its_flow_works() {
    let mut steps = vec![(0, policy("deny", None))];
    steps.extend(connect(0, WEB, DB));
    steps.push((30_000, Step::Delete(vec![key("deny")])));
    steps.push((31_000, Step::Works { from: WEB, to: DB }));
    let stage = Stage::play(shop(), settings(), steps, 200_000);
    let said = stage.said(&["incident"]);
    let last = said.last().expect("an incident");
    assert!(last.contains("Resolved(Passes"), "{said:#?}");
}

#[test]
fn the_agents_own_path_is_watched() {
    let nodes_own = |stage: &mut Stage| {
        let local = [address(NODE)].into();
        let addresses = Addresses { local, ..Addresses::default() };
        stage.cluster.set_addresses(&"worker-1".into(), addresses);
    };
    let mut cluster = shop();
    let remote = super::stage::remote();
    cluster.apply(remote, None);
    let mut stage = Stage::new(cluster, reaching("collector", REMOTE, 4317));
    nodes_own(&mut stage);
    let at = |stage: &mut Stage, time, step| {
        stage.until(time);
        stage.step(step);
    };
    // Policies over it cut it off, are reported again where others do, and set it free.
    at(&mut stage, 1_500, policy("deny", None));
    at(&mut stage, 70_000, policy("deny-too", None));
    at(&mut stage, 80_500, Step::Delete(vec![key("deny"), key("deny-too")]));
    // Something that is no policy drops what this node sends it: once in ten minutes.
    for (start, source_port) in [(100_000, 1), (200_000, 2), (800_000, 3)] {
        let (from, to, port) = (NODE, REMOTE, 4317);
        at(&mut stage, start, Step::Dropped { from, to, port, attempt: source_port });
    }
    // What others send it is not the agent's.
    at(&mut stage, 1_600_000, Step::Dropped { from: DB, to: REMOTE, port: 4317, attempt: 4 });
    stage.until(1_700_000);
    assert_eq!(
        stage.said(&["cut off", "reconnected"]),
        [
            "2000 cut off from collector by shop/deny",
            "71000 cut off from collector by shop/deny-too",
            "81000 reconnected",
            "101500 cut off from collector: NETFILTER_DROP",
            "801500 cut off from collector: NETFILTER_DROP",
        ]
    );
}

#[test]
fn what_is_to_be_looked_up_for_the_own_path_is_asked_first() {
    let mut cluster = shop_of_own_node();
    cluster.apply(Object::Policy(deny("deny")), None);
    let mut stage = Stage::new(cluster, reaching("collector", REMOTE, 4317));
    stage.until(3_000);
    assert!(stage.looked_up.contains(&address(REMOTE).into()));
    assert_eq!(stage.said(&["cut off"]), [""; 0]);
    stage.step(Step::LookedUp(REMOTE, Some(super::stage::remote())));
    stage.until(6_000);
    assert_eq!(stage.said(&["cut off"]), ["5000 cut off from collector by shop/deny"]);
}

#[test]
fn what_finds_the_queue_full_is_decided_at_once() {
    const MORE: usize = 5;
    let mut stage = Stage::new(shop(), settings());
    let flows = (0..PENDING_MAX + MORE).map(|n| {
        // Forty a source, who is somebody different each time.
        let (source, port) = (n / 40, u16::try_from(n % 40).expect("below 40"));
        let [high, low] = u16::try_from(source).expect("some dozens").to_be_bytes();
        let source = [10, 9, high, low].into();
        (Flow { source, destination: address(DB), port, protocol: Protocol::Tcp }, port)
    });
    for (flow, port) in flows {
        stage.see(&seen(ms(0), flow, Some(port), 1, netfilter()));
    }
    stage.until(1_500);
    assert_eq!(stage.said(&["drop"]).len(), MORE);
    assert_eq!(stage.docket.decided_early(), 5);
    assert_eq!(stage.docket.pending(), (0, PENDING_MAX));
    stage.until(3_500);
    assert_eq!(stage.said(&["drop"]).len(), PENDING_MAX + MORE);
    assert_eq!(stage.docket.pending(), (0, 0));
    let all = u64::try_from(PENDING_MAX + MORE).expect("a few");
    let Account { observed, reported, undecided, .. } = stage.docket.account();
    assert_eq!((observed, reported, undecided), (all, all, 0));
}

#[test]
fn in_the_end_nothing_waits_at_whatever_stage_it_was() {
    let mut cluster = shop_of_own_node();
    cluster.apply(Object::Policy(deny("deny")), None);
    let looked_up = |stage: &mut Stage, last| stage.step(Step::LookedUp(last, None));
    let mut stage = Stage::new(cluster, settings());
    let dropped = |from, to, attempt| Step::Dropped { from, to, port: 5432, attempt };
    // Waits for the cluster: nothing denies what pods send elsewhere.
    looked_up(&mut stage, 99);
    stage.step(dropped(WEB, 99, 1));
    stage.step(dropped(WEB, 99, 1));
    // Waits for a look-up, as does an answer, of which nothing can be said.
    stage.step(dropped(REMOTE, DB, 2));
    stage.step(Step::AnsweredFirst { from: 98, to: DB });
    stage.until(1_600);
    assert_eq!(stage.docket.pending(), (2, 1));
    // Is open, and has just begun.
    stage.step(Step::Counted { from: REMOTE, to: DB, packets: 3 });
    stage.step(dropped(WEB, DB, 3));
    assert_eq!(stage.said(&["drop"]), [""; 0]);
    stage.step(Step::Flush);
    assert_eq!(
        stage.said(&["drop", "finding"]),
        [
            "1600 drop shop/web -> shop/db:5432/TCP default-deny",
            "1600 drop 10.1.0.30 -> shop/db:5432/TCP default-deny",
            "1600 drop 10.1.0.30 -> shop/db:5432/TCP default-deny",
            "1600 drop shop/web -> 10.1.0.99:5432/TCP not-policy",
        ]
    );
    let Account { observed, reported, undecided, .. } = stage.docket.account();
    assert_eq!((observed, reported, undecided), (6, 6, 0));
    assert_eq!(stage.docket.pending(), (0, 0));
}

#[test]
fn what_concerns_no_pod_is_counted_apart() {
    let mut stage = Stage::new(shop(), settings());
    let elsewhere = |last: u8| [192, 0, 2, last].into();
    let flow =
        Flow { source: elsewhere(1), destination: elsewhere(2), port: 22, protocol: Protocol::Tcp };
    stage.see(&seen(ms(0), flow, Some(1), 1, netfilter()));
    stage.until(5_000);
    assert_eq!(stage.said(&["drop"]), [""; 0]);
    assert_eq!(stage.docket.account().of_no_pod, 1);
}
