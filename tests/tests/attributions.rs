//! Which change a denial is put down to, over the clusters of the cases: their policies and labels
//! come about one after the other, in any order. The change named is the one across which the
//! verdict turned, as a replay of the sequence shows, and taking it back lets the flow pass.

use std::{fs, net::IpAddr, path::Path};

use jiff::{SignedDuration, Timestamp};
use proptest::{prelude::*, sample::Index, test_runner::TestCaseError};
use serde_json::Value;
use whydrop::cluster::manifests::Manifests;
use whydrop_core::{
    cluster::{
        Cluster, Snapshot,
        history::Change,
        object::{Key, Object},
    },
    diagnosis::{Case, Fate},
    flow::Flow,
    judgement::{Attribution, judge},
    policy::{Action, Peers, Policy, Rule},
    verdict::{Decision, evaluate},
};

/// How many sequences are made of the cases of a file.
const SEQUENCES: u32 = 48;

/// How many probes of a case are judged in a sequence; which ones is up to that.
const PROBES_MAX: usize = 40;

/// How a policy comes about.
#[derive(Clone, Copy, Debug)]
enum Coming {
    /// It is created as it is.
    Created,
    /// It lets everything pass before it is edited.
    Edited,
    /// It is there from the start.
    Older,
}

/// How the objects of a case come about.
#[derive(Clone, Debug)]
struct Sequence {
    case: Index,
    first_probe: Index,
    order: Vec<Index>,
    comings: Vec<Coming>,
    /// Namespaces that had another's labels before.
    relabelled: Vec<Index>,
    /// All of it within one second, instead of a minute apart each.
    is_sudden: bool,
}

fn sequence() -> impl Strategy<Value = Sequence> {
    let coming = prop_oneof![
        4 => Just(Coming::Created),
        2 => Just(Coming::Edited),
        1 => Just(Coming::Older)
    ];
    (
        any::<Index>(),
        any::<Index>(),
        prop::collection::vec(any::<Index>(), 16),
        prop::collection::vec(coming, 16),
        prop::collection::vec(any::<Index>(), 0..3),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(case, first_probe, order, comings, relabelled, is_sudden)| Sequence {
            case,
            first_probe,
            order,
            comings,
            relabelled,
            is_sudden,
        })
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH
        + SignedDuration::from_hours(24 * 365)
        + SignedDuration::from_secs(seconds)
}

fn manifests(case: &Value) -> Manifests {
    let mut manifests = Manifests::default();
    for object in case["objects"].as_array().expect("objects") {
        manifests.read_text("case", &object.to_string());
    }
    assert!(manifests.errors.is_empty(), "{:?}", manifests.errors);
    manifests
}

/// The same policy, with a first rule that lets everything pass.
fn lenient(policy: &Policy) -> Policy {
    let allow = Rule::new(Action::Allow, Peers::Everyone, Vec::new());
    let mut lenient = policy.clone();
    for rules in [&mut lenient.ingress, &mut lenient.egress].into_iter().flatten() {
        rules.insert(0, allow.clone());
    }
    lenient
}

/// A cluster that a sequence has been played in, and its states, the one at the start first.
struct Played {
    cluster: Cluster,
    /// What made each state but the first.
    steps: Vec<(Timestamp, Key)>,
    states: Vec<Snapshot>,
}

impl Played {
    fn apply(&mut self, object: Object, at: Timestamp) {
        let (key, before) = (object.key(), self.cluster.snapshot().revision());
        self.cluster.apply(object, Some(at));
        if self.cluster.snapshot().revision() != before {
            self.steps.push((at, key));
            self.states.push(self.cluster.snapshot());
        }
    }
}

fn play(case: &Value, sequence: &Sequence) -> Played {
    let mut manifests = manifests(case);
    let (mut coming, mut later) = (Vec::new(), Vec::new());
    let mut there = Vec::new();
    for object in std::mem::take(&mut manifests.objects) {
        let how = sequence.comings[coming.len() % sequence.comings.len()];
        match (object, how) {
            (Object::Policy(policy), Coming::Older) => there.push(Object::Policy(policy)),
            (Object::Policy(policy), Coming::Created) => coming.push(Object::Policy(policy)),
            (Object::Policy(policy), Coming::Edited) => {
                there.push(Object::Policy(lenient(&policy)));
                coming.push(Object::Policy(policy));
            }
            (object, _) => there.push(object),
        }
    }
    let namespaces: Vec<usize> =
        (0..there.len()).filter(|n| matches!(there[*n], Object::Namespace(_))).collect();
    for pair in sequence.relabelled.windows(2) {
        let [one, other] = [pair[0].get(&namespaces), pair[1].get(&namespaces)];
        let Object::Namespace(others) = there[*other].clone() else { unreachable!() };
        later.push(there[*one].clone());
        let Object::Namespace(namespace) = &mut there[*one] else { unreachable!() };
        namespace.labels = others.labels;
    }
    for (n, at) in sequence.order.iter().enumerate().take(coming.len()) {
        let rest = coming.len() - n;
        coming.swap(n, n + at.index(rest));
    }
    manifests.objects = there;
    let mut cluster = manifests.cluster();
    cluster.history_begins(at(0));
    let states = vec![cluster.snapshot()];
    let mut played = Played { cluster, steps: Vec::new(), states };
    for (object, minute) in coming.into_iter().chain(later).zip(1..) {
        let minutes = if sequence.is_sudden { 1 } else { minute };
        played.apply(object, at(60 * minutes));
    }
    played
}

fn flow_of(probe: &Value) -> Flow {
    let address = |field: &str| -> IpAddr {
        probe[field].as_str().and_then(|text| text.parse().ok()).expect("an address")
    };
    Flow {
        source: address("src_ip"),
        destination: address("dst_ip"),
        port: u16::try_from(probe["port"].as_u64().expect("port")).expect("a port"),
        protocol: probe["protocol"].as_str().expect("protocol").parse().expect("a protocol"),
    }
}

/// Takes back what was named: each object as it was before the first of its changes since then.
fn without(played: &Played, named: &[Change]) -> Snapshot {
    let mut undone = played.cluster.snapshot();
    for undoable in played.cluster.history().latest_first() {
        let is_named =
            |c: &Change| c.object == undoable.change.object && c.at <= undoable.change.at;
        if named.iter().any(is_named) {
            undoable.undo(&mut undone);
        }
    }
    undone
}

/// What a sequence came to.
#[derive(Default)]
struct Tally {
    denied: usize,
    named: usize,
}

fn check(case: &Value, sequence: &Sequence) -> Result<Tally, TestCaseError> {
    let played = play(case, sequence);
    let snapshot = played.cluster.snapshot();
    let probes = case["probes"].as_array().expect("probes");
    let first = sequence.first_probe.index(probes.len());
    let mut tally = Tally::default();
    for probe in probes.iter().cycle().skip(first).take(probes.len().min(PROBES_MAX)) {
        let flow = flow_of(probe);
        let asked = Case { flow, dialled: None, at: None, fate: Fate::Asked };
        let judgement = judge(&snapshot, played.cluster.history(), &asked);
        if !judgement.diagnosis.cause.class.is_denial() {
            continue;
        }
        tally.denied += 1;
        let question = &judgement.diagnosis.question;
        let is_denied = |state: &Snapshot| evaluate(state, question).decision() == Decision::Denied;
        let denied: Vec<bool> = played.states.iter().map(is_denied).collect();
        let turns = (1..denied.len()).rev().find(|n| denied[*n] && !denied[*n - 1]);
        // What comes within a second is one change: only what it was before that counts.
        let flip = turns.filter(|_| !sequence.is_sudden || !denied[0]);
        let place = format!("{}: {flow}: {:?}", case["id"], judgement.changed);
        match (&judgement.changed, flip) {
            (Attribution::Older { .. }, None) => {}
            (Attribution::Seen { changes: named, .. }, Some(_)) if sequence.is_sudden => {
                tally.named += 1;
                prop_assert!(!is_denied(&without(&played, named)), "{}", place);
                for spared in 0..named.len() {
                    let mut fewer = named.clone();
                    fewer.remove(spared);
                    prop_assert!(is_denied(&without(&played, &fewer)), "{} {}", place, spared);
                }
            }
            (Attribution::Seen { changes: named, .. }, Some(flip)) => {
                tally.named += 1;
                let (at, key) = &played.steps[flip - 1];
                prop_assert_eq!(named.len(), 1, "{}", place);
                prop_assert_eq!((&named[0].at, &named[0].object), (at, key), "{}", place);
            }
            _ => prop_assert!(false, "{}, turned at {:?}", place, flip),
        }
    }
    Ok(tally)
}

fn check_all(file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance").join(file);
    let text = fs::read_to_string(&path).expect("the cases are part of the project");
    let cases: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a case")).collect();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: SEQUENCES,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let total = std::cell::RefCell::new(Tally::default());
    let outcome = runner.run(&sequence(), |sequence| {
        let tally = check(sequence.case.get(&cases), &sequence)?;
        let mut total = total.borrow_mut();
        total.denied += tally.denied;
        total.named += tally.named;
        Ok(())
    });
    let total = total.into_inner();
    outcome.unwrap_or_else(|error| panic!("{error}"));
    let Tally { denied, named } = total;
    assert!(named > 0, "no sequence of {file} names a change, of {denied} denials");
}

#[test]
fn the_change_named_is_the_one_that_made_the_difference() {
    check_all("np.jsonl");
}

#[test]
fn so_it_is_in_every_trap() {
    check_all("traps.jsonl");
}

#[test]
fn so_it_is_across_admin_tiers() {
    check_all("anp.jsonl");
}

#[test]
fn so_it_is_across_tiers_of_calico() {
    check_all("calico.jsonl");
}
