//! The property of a remedy: of every denied packet of the conformance and field clusters, asked as an
//! address, a pod, a workload and a Service, what `fix` prints, read again, lets every packet pass that
//! the question stands for; and where it prints nothing, it says why, and that is so.
//!
//! Read again by the agent's own decoder without the lab, and by kubectl and a real API server with it.

mod conformance;
mod dump;
mod field;
mod forms;
mod property;

use dump::Dump;
use property::Tally;

/// Asks everything of these clusters, and holds what `fix` prints against them.
fn hold(dumps: impl IntoIterator<Item = Dump>) -> Tally {
    let mut tally = Tally::default();
    for dump in dumps {
        for variant in forms::all(&dump) {
            for printed in property::printed(&variant, &mut tally) {
                let after = dump::with_text(&variant.snapshot, &printed.text);
                property::passes(&variant.snapshot, &after, &printed, &mut tally);
            }
        }
    }
    tally
}

fn check(dumps: impl IntoIterator<Item = Dump>) {
    let tally = hold(dumps);
    tally.assert();
}

#[test]
fn network_policies_of_random_clusters() {
    check(conformance::dumps("np.jsonl"));
}

#[test]
fn admin_policies_of_random_clusters() {
    check(conformance::dumps("anp.jsonl"));
}

#[test]
fn well_known_traps() {
    check(conformance::dumps("traps.jsonl"));
}

#[test]
fn calico_policies_of_random_clusters() {
    check(conformance::dumps("calico.jsonl"));
}

#[test]
fn what_people_report() {
    check(field::dumps());
}
