//! A simulator of tenants who try to have the healer open a hole, or to keep it from healing others:
//! they dial what is denied, are young and many, forge answers, cut themselves off, consent, and write
//! policies that look like the healer's. The agent's core, the healer and the proof of its remedies are
//! the real ones; what truly was is known to the run alone.
//!
//! ```text
//! seed ─▶ plan ─▶ run ─┬─▶ clients ─▶ policies as enforced ─▶ kernel ─▶ agent (Docket) ─▶ healer ─┐
//!                      │      └─▶ what truly passed ─▶ holes, what is lost ◀── policies ◀─────────┘
//!                      └─▶ tenants: pods, forged answers, policies of their own
//! ```
//!
//! The rules that it holds are those of `docs/security.md`. `WHYDROP_TENANTS_SEEDS` says how many seeds
//! are played.

mod agent;
#[expect(dead_code, reason = "shared with the simulator of a small cluster, which uses all of it")]
#[path = "../simulation/kernel.rs"]
mod kernel;
mod plan;
#[path = "../simulation/random.rs"]
mod random;
mod run;
#[expect(dead_code, reason = "shared with the simulator of a small cluster, which uses all of it")]
#[path = "../simulation/time.rs"]
mod time;
mod world;

use std::{collections::BTreeSet, env};

use plan::Plan;
use run::play;

/// How many seeds are played.
const SEEDS: u64 = 20;

#[expect(clippy::disallowed_methods, reason = "the core reads no environment; its tests may")]
fn seeds() -> u64 {
    let seeds = env::var("WHYDROP_TENANTS_SEEDS").ok();
    seeds.map_or(SEEDS, |seeds| seeds.parse().expect("a number of seeds"))
}

#[test]
fn tenants_open_no_hole_and_keep_nobody_from_what_is_theirs() {
    let (mut faults, mut refused) = (Vec::new(), BTreeSet::new());
    let (mut rightful, mut healed, mut tenants) = (0, 0, 0);
    for seed in 0..seeds() {
        let plan = Plan::of(seed);
        let outcome = play(&plan);
        for fault in outcome.holes.iter().chain(&outcome.lost) {
            faults.push(format!("seed {seed}: {fault}"));
        }
        rightful += usize::from(plan.is_rightful);
        for (client, count) in outcome.healed {
            *if client == world::SHOP { &mut healed } else { &mut tenants } += count;
        }
        refused.extend(outcome.refused);
    }
    let shown = faults.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(faults.is_empty(), "{} faults\n{shown}", faults.len());
    // They have tried, and what they had by right was healed as well.
    assert!(healed >= rightful && rightful > 0 && tenants > 0, "{rightful} {healed} {tenants}");
    let tried = ["denial older", "never worked", "no consent", "worked too little"];
    let missing: Vec<_> = tried.iter().filter(|why| !refused.contains(*why)).collect();
    assert!(missing.is_empty(), "nobody tried what is refused as {missing:?}: {refused:?}");
}

#[test]
fn a_run_is_its_seeds() {
    for seed in 0..3 {
        assert_eq!(play(&Plan::of(seed)), play(&Plan::of(seed)));
    }
}
