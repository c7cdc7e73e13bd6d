use serde_json::json;
use whydrop_core::cluster::Snapshot;

use super::*;
use crate::play::differential::{
    Features,
    generate::services::{Sort, State},
    snapshot,
};

const ALL: Features = Features { end_port: true, egress_names: true, calico: true };

fn served(seed: u64) -> (Served, Vec<Expectation>) {
    let served = Served::generate(seed, ALL);
    let expected = expectations(&served, &objects(&served));
    (served, expected)
}

fn objects(served: &Served) -> Snapshot {
    snapshot(&served.objects()).expect("objects")
}

/// What somebody does that does as whydrop answers.
fn done(expected: &[Expectation]) -> (Vec<Vec<Outcome>>, Vec<Value>) {
    let outcomes = |expected: &Expectation| {
        let Expectation { may, must, .. } = expected;
        let first = must.first().or(may.first()).copied();
        let mut outcomes: Vec<Outcome> = first.into_iter().chain(first).collect();
        outcomes.extend(must);
        outcomes
    };
    let outcomes: Vec<Vec<Outcome>> = expected.iter().map(outcomes).collect();
    let silent = expected.iter().zip(&outcomes).filter(|(_, own)| own.contains(&Outcome::Silent));
    let dropped: BTreeSet<&Denial> = silent.filter_map(|(own, _)| own.reported.first()).collect();
    let records = dropped.into_iter().enumerate().map(|(number, denial)| denial.record(number));
    (outcomes, records.collect())
}

#[test]
fn a_seed_makes_one_cluster_and_every_sort_is_in_the_first_seeds() {
    /// So many of a real run are enough for each.
    const SEEDS: u64 = 20;

    let mut sorts = BTreeSet::new();
    for seed in 0..SEEDS {
        let served = Served::generate(seed, ALL);
        assert_eq!(served, Served::generate(seed, ALL));
        sorts.extend(served.sorts());
    }
    let missing: Vec<&Sort> = Sort::ALL.iter().filter(|sort| !sorts.contains(sort)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_answers_are_of_every_kind_and_none_is_left_open() {
    let (mut tally, mut several) = (Tally::default(), 0);
    for seed in 0..30 {
        let (served, expected) = served(seed);
        let (outcomes, records) = done(&expected);
        let compared = compare(&served, &expected, &outcomes, &[records]);
        tally += compared.unwrap_or_else(|difference| panic!("{difference:#}"));
        several += expected.iter().filter(|own| own.must.len() > 1).count();
    }
    let Tally { answered, dropped, rejected, reported, .. } = tally;
    for count in [answered, dropped, rejected, reported, several] {
        assert!(count > 100, "{tally:?}, {several} with several outcomes");
    }
}

#[test]
fn what_slices_say_is_known_without_them() {
    let mut compared = 0;
    for seed in 0..30 {
        let (served, with) = served(seed);
        let mut objects = served.objects();
        objects.retain(|object| object["kind"] != "EndpointSlice");
        let without = expectations(&served, &snapshot(&objects).expect("objects"));
        for ((probe, with), without) in served.probes().iter().zip(with).zip(without) {
            let service = &served.services[probe.frontend.service];
            if service.is_known_without_slices() {
                let Frontend { to, .. } = probe.frontend;
                assert_eq!(with, without, "seed {seed}, {:?} -> {to}: {service:?}", probe.client);
                compared += 1;
            }
        }
    }
    assert!(compared > 1000, "{compared}");
}

/// A case in which there is each kind of answer.
fn mixed() -> (Served, Vec<Expectation>) {
    let is_mixed = |(_, expected): &(Served, Vec<Expectation>)| {
        let is_dropped =
            |own: &Expectation| own.must.contains(&Outcome::Silent) && !own.reported.is_empty();
        expected.iter().any(is_dropped)
            && expected.iter().any(|own| own.is_sticky && own.may.len() > 1)
            && expected.iter().any(|own| own.must.len() > 1)
    };
    (0..500).map(served).find(is_mixed).expect("a mixed case")
}

#[test]
fn every_kind_of_difference_is_found_and_shown_with_its_seed() {
    let (served, expected) = mixed();
    let (outcomes, records) = done(&expected);
    compare(&served, &expected, &outcomes, std::slice::from_ref(&records)).expect("no difference");
    let difference = |expected: &[Expectation], outcomes: &[Vec<Outcome>], records: &[Value]| {
        let records = [records.to_vec()];
        let text = compare(&served, expected, outcomes, &records).expect_err("a difference");
        let text = text.to_string();
        assert!(text.contains(&format!("seed {}:", served.case.seed)), "{text}");
        text
    };

    let mut other = outcomes.clone();
    other[0].push(Outcome::Failed(std::io::ErrorKind::Other));
    assert!(difference(&expected, &other, &records).contains("is not of the answer"));

    let several = expected.iter().position(|own| own.must.len() > 1).expect("one");
    let mut fewer = outcomes.clone();
    let last = fewer[several].pop().expect("one");
    assert!(fewer[several].iter().all(|outcome| *outcome != last));
    assert!(difference(&expected, &fewer, &records).contains("never came"));

    let sticky = expected.iter().position(|own| own.is_sticky && own.may.len() > 1).expect("one");
    let mut wandering = outcomes.clone();
    wandering[sticky].extend(&expected[sticky].may);
    assert!(difference(&expected, &wandering, &records).contains("did not stay"));

    assert!(difference(&expected, &outcomes, &[]).contains("was not reported"));
    let mut again = records[0].clone();
    again["id"] = "another".into();
    let twice = [records.clone(), vec![again]].concat();
    assert!(difference(&expected, &outcomes, &twice).contains("under 2 names"));

    for (pointer, value) in [
        ("/flow/source/ip", json!("192.0.2.1")),
        ("/flow/destination/port", json!(1)),
        ("/cause/policy/name", json!("another")),
        ("/cause/direction", json!("sideways")),
    ] {
        let mut invented = records[0].clone();
        *invented.pointer_mut(pointer).expect(pointer) = value;
        let more = [records.clone(), vec![invented]].concat();
        assert!(difference(&expected, &outcomes, &more).contains("blamed"), "{pointer}");
    }

    let mut undecided = expected.clone();
    undecided[0].is_undecided = true;
    assert!(difference(&undecided, &outcomes, &records).contains("leaves it open"));
}

#[test]
fn what_the_command_answers_otherwise_is_found() {
    let (served, expected) = mixed();
    let line = |own: &Expectation| match own.is_error {
        true => json!({ "error": "no such port" }),
        false => json!({
            "effective": own.effective.to_string(), "cause": { "class": own.class.to_string() },
        }),
    };
    let lines: Vec<Value> = expected.iter().map(line).collect();
    let compared = compare_answers(&served, &expected, &lines).expect("no difference");
    assert_eq!((compared, served.flows().as_array().map(Vec::len)), (lines.len(), Some(compared)));
    for pointer in ["/effective", "/cause/class", "/error"] {
        let mut other = lines.clone();
        let changed = other.iter_mut().find_map(|line| line.pointer_mut(pointer)).expect(pointer);
        *changed = Value::Null;
        let difference = compare_answers(&served, &expected, &other).expect_err("a difference");
        assert!(difference.to_string().contains("answers otherwise"), "{difference}");
    }
}

#[test]
fn pods_are_in_every_state() {
    let states = (0..20).flat_map(|seed| Served::generate(seed, ALL).pods);
    let states: Vec<State> = states.map(|placed| placed.state).collect();
    for state in [State::Ready, State::NotReady, State::Ending, State::Ended] {
        assert!(states.contains(&state), "{state:?}");
    }
}
