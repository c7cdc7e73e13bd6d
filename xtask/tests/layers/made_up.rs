//! That the checks find what they are there for, in houses made up for it.

use crate::house::{House, Target};

const TARGETS: &[Target] = &[
    Target { name: "whydrop_low", root: "low/lib.rs", rooms: &["ground"], has_no_circles: true },
    Target {
        name: "whydrop_high",
        root: "high/lib.rs",
        rooms: &["cellar", "attic"],
        has_no_circles: true,
    },
];

/// What is in each file where a test does not say otherwise: nothing is wrong with it.
const SOUND: &[(&str, &str)] = &[
    ("low/lib.rs", "pub mod ground;"),
    ("low/ground.rs", "pub struct Stone;"),
    ("high/lib.rs", "pub mod attic;\npub mod cellar;"),
    ("high/cellar.rs", "use whydrop_low::ground::Stone;\npub struct Wine(Stone);"),
    ("high/attic.rs", "mod beam;\nmod roof;\npub use beam::Beam;\nfn f() { roof::g() }"),
    (
        "high/attic/beam.rs",
        "use crate::cellar::Wine;\npub struct Beam(Wine);\nimpl super::T for Beam {}",
    ),
    (
        "high/attic/roof.rs",
        "//! `use crate::nothing;`\nuse super::Beam;\nfn g() { let _ = \"super::x\"; }",
    ),
];

fn faults(changed: &[(&str, &str)]) -> Vec<String> {
    let text = |path: &str| {
        let files = changed.iter().chain(SOUND);
        files.clone().find(|(of, _)| *of == path).map(|(_, text)| (*text).to_owned())
    };
    let house = House::read(TARGETS, &text);
    [house.problems.clone(), house.out_of_order(), house.circles()].concat()
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    assert_eq!(faults(&[]), Vec::<String>::new());
}

#[test]
fn a_room_that_uses_one_below_it_is_found() {
    for (text, used) in [
        ("\nuse crate::attic::Beam;", "crate::attic::Beam"),
        ("\nuse crate::{attic::{Beam as Plank}};", "crate::attic::Beam"),
        ("\nfn f(_: crate::attic::Beam) {}", "crate::attic::Beam"),
        ("\nfn f() { println!(\"{}\", crate::attic::Beam) }", "crate::attic::Beam"),
        ("\nuse super::attic::Beam;", "super::attic::Beam"),
    ] {
        let found = faults(&[("high/cellar.rs", text)]);
        // Through what the attic passes on, it is the beam that is used.
        let arrow = "whydrop_high::cellar is below whydrop_high::attic::beam";
        assert_eq!(found[0], format!("high/cellar.rs:2: {used}: {arrow}"), "{text:?}");
        // The beam uses the cellar, so that this makes them a circle as well.
        assert!(found[1].starts_with("a circle in whydrop_high:"), "{text:?}");
    }
}

#[test]
fn a_crate_that_uses_one_below_it_is_found() {
    let found = faults(&[("low/ground.rs", "use whydrop_high::cellar::Wine;")]);
    let arrow = "low/ground.rs:1: whydrop_high::cellar::Wine";
    assert_eq!(found, [format!("{arrow}: whydrop_low::ground is below whydrop_high::cellar")]);
}

#[test]
fn a_circle_within_a_room_is_found_through_what_its_parent_passes_on() {
    let beam = "use super::roof::Tile;";
    let found = faults(&[("high/attic/beam.rs", beam)]);
    assert_eq!(found.len(), 1, "{found:?}");
    for part in ["whydrop_high::attic", "beam.rs:1: super::roof::Tile", "roof.rs:2: super::Beam"] {
        assert!(found[0].contains(part), "{found:?}");
    }
}

#[test]
fn what_tests_use_is_no_arrow_and_what_other_modules_of_a_file_use_is_one() {
    let tests = "#[cfg(test)]\nmod tests { use crate::attic::Beam; }";
    assert_eq!(faults(&[("high/cellar.rs", tests)]), Vec::<String>::new());
    let inner = "mod inner { use super::super::attic::Beam; use super::Wine; }\nstruct Wine;";
    let found = faults(&[("high/cellar.rs", inner)]);
    assert!(found[0].starts_with("high/cellar.rs:1: super::attic::Beam: "), "{found:?}");
    let own = "mod inner { use super::Wine; }\nstruct Wine;";
    assert_eq!(faults(&[("high/cellar.rs", own)]), Vec::<String>::new());
}

#[test]
fn a_room_that_is_not_listed_is_found_and_so_is_one_that_is_not_there() {
    let found = faults(&[("high/lib.rs", "pub mod attic;\npub mod shed;"), ("high/shed.rs", "")]);
    assert!(found.contains(&"high/lib.rs: shed is not listed".to_owned()), "{found:?}");
    assert!(found.contains(&"high/lib.rs: cellar is not there".to_owned()), "{found:?}");
}

#[test]
fn a_file_that_is_not_there_or_not_rust_is_named() {
    assert_eq!(
        faults(&[("low/lib.rs", "pub mod ground; mod lost;")])[0],
        "low/lost.rs: no such file"
    );
    assert!(faults(&[("low/ground.rs", "fn f( {")])[0].starts_with("low/ground.rs: "));
}
