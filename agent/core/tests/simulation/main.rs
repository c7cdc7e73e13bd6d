//! A simulator over the docket: a small cluster in virtual time, whose pods, policies and clients come
//! and go, and a check of all that is reported against what truly happened to every packet.
//!
//! ```text
//! seed ─▶ plan ─▶ run ─┬─▶ cluster (API server, endpoints) ──watch, look-ups──▶ agent (Docket)
//!                      ├─▶ network (clients, kube-proxy, network plugin) ─▶ kernel ──ring──▲
//!                      └─▶ every packet's fate ─▶ check ◀── reports ◀──────────────────────┘
//! ```
//!
//! A run is its seed's: the same on any machine. What a run shows to be wrong is cut down to what it takes
//! and shown as a story; what is known to be wrong is in [`known::KNOWN`], with a seed that shows it.
//!
//! `WHYDROP_SIMULATION_SEEDS` says how many seeds each world is played with (`200`), or which (`156..157`).

mod agent;
mod check;
mod cluster;
mod kernel;
mod known;
mod network;
mod objects;
mod plan;
mod policies;
mod random;
mod run;
mod story;
mod time;

use std::{collections::BTreeMap, env, ops::Range};

use check::{Check, Fault, When};
use known::KNOWN;
use plan::{Dimensions, Plan};

/// How many seeds a world is played with: all worlds together take some twenty seconds.
const SEEDS: u64 = 30;

/// What runs of one name have.
struct World {
    name: &'static str,
    of: Dimensions,
}

const PLAIN: Dimensions = Dimensions {
    changes: false,
    churn: false,
    services: false,
    no_endpoints: false,
    slow_answers: false,
    other_node: false,
    look_ups: false,
};
const SERVICES: Dimensions = Dimensions { services: true, ..PLAIN };
const OTHER_NODE: Dimensions = Dimensions { other_node: true, ..SERVICES };
const EVERYTHING: Dimensions = Dimensions {
    changes: true,
    churn: true,
    services: true,
    no_endpoints: true,
    slow_answers: true,
    other_node: true,
    look_ups: true,
};

/// One dimension after the other, then all of them.
const WORLDS: &[World] = &[
    World { name: "plain", of: PLAIN },
    World { name: "changes", of: Dimensions { changes: true, ..PLAIN } },
    World { name: "churn", of: Dimensions { churn: true, ..PLAIN } },
    World { name: "slow answers", of: Dimensions { slow_answers: true, ..PLAIN } },
    World { name: "Services", of: SERVICES },
    World { name: "no endpoints", of: Dimensions { no_endpoints: true, ..SERVICES } },
    World { name: "another node", of: OTHER_NODE },
    World { name: "look-ups", of: Dimensions { look_ups: true, ..OTHER_NODE } },
    World { name: "everything", of: EVERYTHING },
];

/// Seeds beyond [`SEEDS`] that a fault was found by, each of another kind: they are played with the others.
const FOUND: &[(&str, &[u64])] = &[
    ("changes", &[270]),
    ("churn", &[189, 445]),
    ("slow answers", &[136]),
    ("look-ups", &[290]),
    (
        "everything",
        &[
            31, 32, 57, 64, 83, 100, 117, 133, 144, 156, 223, 229, 248, 260, 271, 361, 381, 387,
            400, 412, 465,
        ],
    ),
];

fn world(name: &str) -> &'static World {
    WORLDS.iter().find(|world| world.name == name).expect("a world")
}

/// Whether a kind of fault is known to be in a world.
fn is_known(of: Dimensions, kind: (Check, When)) -> bool {
    KNOWN.iter().any(|known| known.kind == kind && of.has(world(known.world).of))
}

/// Which seeds each world is played with.
#[expect(clippy::disallowed_methods, reason = "the core reads no environment; its tests may")]
fn seeds() -> Range<u64> {
    let Ok(seeds) = env::var("WHYDROP_SIMULATION_SEEDS") else { return 0..SEEDS };
    let number = |text: &str| text.parse().expect("a number of seeds, or FIRST..END");
    match seeds.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => 0..number(&seeds),
    }
}

/// Plays a world, and fails with a story of each kind of fault that is not known.
fn play(name: &str) {
    play_seeds(name, seeds());
}

fn play_seeds(name: &str, seeds: impl IntoIterator<Item = u64>) {
    let of = world(name).of;
    let mut kinds: BTreeMap<(Check, When), (u64, Fault)> = BTreeMap::new();
    for seed in seeds {
        let faults = check::faults(&run::play(&Plan::of(seed, of))).into_iter();
        for fault in faults.filter(|fault| !is_known(of, fault.kind())) {
            kinds.entry(fault.kind()).or_insert((seed, fault));
        }
    }
    let stories = kinds.into_values().map(|(seed, fault)| {
        let smallest = story::smallest(&Plan::of(seed, of), &fault);
        format!("{name}, seed {seed}, {:?}:\n{}\n", fault.kind(), story::story(&smallest))
    });
    let stories: Vec<String> = stories.collect();
    assert!(stories.is_empty(), "{} kinds of faults\n{}", stories.len(), stories.join("\n"));
}

#[test]
fn nothing_but_clients_and_servers() {
    play("plain");
}

#[test]
fn policies_change() {
    play("changes");
}

#[test]
fn pods_come_and_go() {
    play("churn");
}

#[test]
fn answers_take_their_time() {
    play("slow answers");
}

#[test]
fn services_have_several_backends() {
    play("Services");
}

#[test]
fn services_have_no_endpoint() {
    play("no endpoints");
}

#[test]
fn some_pods_are_another_nodes() {
    play("another node");
}

#[test]
fn others_are_looked_up() {
    play("look-ups");
}

#[test]
fn all_at_once() {
    play("everything");
}

#[test]
fn what_was_wrong_once_is_right() {
    for (name, seeds) in FOUND {
        play_seeds(name, seeds.iter().copied());
    }
}

#[test]
fn a_run_is_its_seeds() {
    for seed in 0..5 {
        let plan = Plan::of(seed, EVERYTHING);
        assert_eq!(story::story(&plan), story::story(&plan));
    }
}

/// What no longer fails is to be taken out, so that it cannot come back unseen.
#[test]
fn what_is_known_to_be_wrong_still_is() {
    let is_gone = |known: &&known::Known| {
        let plan = Plan::of(known.seed, world(known.world).of);
        !check::faults(&run::play(&plan)).iter().any(|fault| fault.kind() == known.kind)
    };
    let gone = KNOWN.iter().filter(is_gone);
    let gone: Vec<String> =
        gone.map(|k| format!("{} {}: {:?}: {}", k.world, k.seed, k.kind, k.why)).collect();
    assert!(gone.is_empty(), "no longer wrong:\n{}", gone.join("\n"));
}
