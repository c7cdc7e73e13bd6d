//! The lab itself: it leaves nothing behind, however a test ends.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::Command,
};

use whydrop_tests::{
    play::scenario::{Scenario, scenarios},
    world::{
        lab::Lab,
        namespace::{Namespace, checked, sweep},
    },
};

fn exists(namespace: &str) -> bool {
    Path::new("/run/netns").join(namespace).exists()
}

#[test]
fn a_panic_leaves_no_namespace_behind() {
    let scenario = Scenario::read(&scenarios().join("other-node")).expect("a scenario");
    let mut names = Vec::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::build(&scenario).expect("a lab");
        for who in ["node", "outside", "frontend/pod-a", "backend/pod-b"] {
            names.push(lab.origin(who).expect(who).namespace.name().to_owned());
        }
        assert!(names.iter().all(|name| exists(name)));
        panic!("as a failed assertion would");
    }));
    assert!(panicked.is_err());
    assert_eq!(names.len(), 4);
    for name in names {
        assert!(!exists(&name), "{name} is left");
    }
}

#[test]
fn what_a_killed_run_left_is_swept_up_and_nothing_else() {
    let mut ended = Command::new("true").spawn().expect("a process");
    ended.wait().expect("its end");
    let left = format!("whydrop-{}-0-node", ended.id());
    let foreign = format!("other-{}-0-node", ended.id());
    for name in [&left, &foreign] {
        checked(Command::new("ip").args(["netns", "add", name])).expect(name);
    }
    let ours = Namespace::create(u32::MAX, "kept").expect("a namespace");
    sweep();
    let found = [&left, &foreign, ours.name()].map(exists);
    checked(Command::new("ip").args(["netns", "delete", &foreign])).expect("clean up");
    assert_eq!(found, [false, true, true]);
}
