//! The property of a remedy: of every denied packet of the conformance and field clusters, asked as an
//! address, a pod, a workload and a Service, what `fix` prints, read again, lets every packet pass that
//! the question stands for; and where it prints nothing, it says why, and that is so.
//!
//! Read again by whydrop's own decoder without the lab, and by kubectl and a real API server with it. Of
//! each conformance cluster the first asks about every eighth denied packet, the second about every
//! sixteenth; with `WHYDROP_ALL_QUESTIONS=1` both about all, which takes some minutes.

mod command;
mod conformance;
mod dump;
mod field;
mod forms;
mod kubectl;
mod property;

use dump::{Dump, with_text};
use forms::Part;
use property::Tally;

/// About every how manieth denied packet of a conformance cluster is asked.
const EVERY: usize = 8;

/// Asks a part of everything of these clusters, and holds what `fix` prints against them.
fn check(dumps: impl IntoIterator<Item = Dump>, part: Part) {
    let mut tally = Tally::default();
    for dump in dumps {
        for variant in forms::all(&dump, part) {
            for printed in property::printed(&variant, &mut tally) {
                let after = with_text(&variant.snapshot, &printed.text);
                property::passes(&variant.snapshot, &after, &printed, &mut tally);
            }
        }
    }
    tally.assert();
}

#[test]
fn network_policies_of_random_clusters() {
    check(conformance::dumps("np.jsonl"), Part::of(0, EVERY));
}

#[test]
fn admin_policies_of_random_clusters() {
    check(conformance::dumps("anp.jsonl"), Part::of(0, EVERY));
}

#[test]
fn well_known_traps() {
    check(conformance::dumps("traps.jsonl"), Part::of(0, EVERY));
}

#[test]
fn calico_policies_of_random_clusters() {
    check(conformance::dumps("calico.jsonl"), Part::of(0, EVERY));
}

#[test]
fn what_people_report() {
    check(field::dumps(), Part::ALL);
}
