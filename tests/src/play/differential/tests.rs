use serde_json::json;

use super::*;

const ALL: Features = Features { end_port: true, egress_names: true, calico: true };
const ADDRESSES: [IpAddr; 6] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)),
    IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)),
    IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 3)),
    IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 4)),
    IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 5)),
    IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 6)),
];

fn addresses(case: &Case) -> &'static [IpAddr] {
    &ADDRESSES[..case.pods.len()]
}

/// What an enforcer does that reads the objects as the specification has them.
fn enforced(case: &Case) -> (Vec<Outcome>, Vec<Value>) {
    let snapshot = snapshot(&case.objects(addresses(case))).expect("objects");
    let (mut outcomes, mut records) = (Vec::new(), Vec::new());
    for (number, probe) in case.probes().iter().enumerate() {
        let [from, to] = [probe.from, probe.to].map(|pod| ADDRESSES[pod]);
        let verdict = implied(&snapshot, from, to, probe.port);
        let Some(direction) = verdict.leading_denial() else {
            outcomes.push(Outcome::Connected);
            continue;
        };
        outcomes.push(Outcome::TimedOut);
        let destination = json!({ "ip": to, "port": probe.port });
        records.push(json!({
            "kind": "drop", "id": number.to_string(), "evidence": { "level": "kernel-drop" },
            "flow": { "source": { "ip": from }, "destination": destination },
            "verdict": verdict_of(&verdict),
            "cause": { "policy": {}, "direction": direction.to_string() },
        }));
    }
    (outcomes, records)
}

#[test]
fn a_seed_makes_one_cluster_and_seeds_make_both_kinds_of_attempts() {
    let (mut probes, mut dropped) = (0, 0);
    for seed in 0..50 {
        let case = Case::generate(seed, ALL);
        assert_eq!(case, Case::generate(seed, ALL));
        let (outcomes, records) = enforced(&case);
        let tally = compare(&case, addresses(&case), &outcomes, &records).expect("no difference");
        probes += tally.probes;
        dropped += tally.dropped;
    }
    let share = dropped * 100 / probes;
    assert!((25..75).contains(&share), "{dropped} of {probes} are dropped");
}

#[test]
fn every_kind_of_difference_is_found_and_shown_with_its_seed() {
    let seeds = (0..).map(|seed| Case::generate(seed, ALL));
    let is_mixed = |case: &Case| {
        let (outcomes, _) = enforced(case);
        outcomes.contains(&Outcome::Connected) && outcomes.contains(&Outcome::TimedOut)
    };
    let case = seeds.take(100).find(is_mixed).expect("a mixed case");
    let (outcomes, records) = enforced(&case);
    let connected = outcomes.iter().position(|o| *o == Outcome::Connected).expect("one");
    let first = records[0].clone();
    let difference = |outcomes: &[Outcome], records: &[Value]| {
        let compared = compare(&case, addresses(&case), outcomes, records);
        let text = compared.expect_err("a difference").to_string();
        assert!(text.contains(&format!("seed {}:", case.seed)), "{text}");
        text
    };

    let mut other = outcomes.clone();
    other[connected] = Outcome::TimedOut;
    assert!(difference(&other, &records).contains("did not do what the objects imply"));

    assert!(difference(&outcomes, &records[1..]).contains("was reported 0 times"));
    let mut again = first.clone();
    again["id"] = "another".into();
    let twice = [records.clone(), vec![again]].concat();
    assert!(difference(&outcomes, &twice).contains("was reported 2 times"));

    let Probe { from, to, port } = case.probes()[connected];
    let mut invented = first.clone();
    invented["flow"] = json!({
        "source": { "ip": ADDRESSES[from] },
        "destination": { "ip": ADDRESSES[to], "port": port },
    });
    let invented = [records.clone(), vec![invented]].concat();
    assert!(difference(&outcomes, &invented).contains("it connected, and was reported"));

    let changed = |pointer: &str, value: Value| {
        let mut records = records.clone();
        *records[0].pointer_mut(pointer).expect(pointer) = value;
        difference(&outcomes, &records)
    };
    assert!(changed("/evidence/level", "unanswered".into()).contains("not reported as dropped"));
    let direction = first["cause"]["direction"].as_str().expect("a direction");
    let isolating = format!("/verdict/{direction}/isolating");
    let verdict = format!("another {direction} verdict");
    assert!(changed(&isolating, json!([])).contains(&verdict));
    assert!(changed("/cause/policy", Value::Null).contains("another cause"));
    let stranger = "192.0.2.1".into();
    assert!(changed("/flow/source/ip", stranger).contains("was reported 0 times"));
}
