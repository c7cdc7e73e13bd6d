//! The oldest kernel that is supported, and the one of the Debian that most machines have: both booted
//! in QEMU, with a drop whose policy is named, and an answer that comes late.
//!
//! `cargo xtask kernels` plays more, on more of them.

use whydrop_tests::vm::{
    Course, Ours, Outcome, SMOKE,
    kernel::{Series, TESTED},
    line::Hook,
    play,
};

/// How many instructions the verifier may walk for one program: what it does in well under a second. The
/// kernel's own limit is a million.
const WALKED_MAX: u64 = 60_000;

/// Boots a kernel that `cargo xtask test --all` has fetched.
fn boot(name: &str) -> Outcome {
    assert!(TESTED.contains(&name), "it is not fetched for tests");
    let kernel = Series::named(name).and_then(Series::cached).expect("a kernel");
    let ours = Ours::native().expect("our programs");
    let course = Course { scenarios: SMOKE, tests: &[] };
    let outcome = play(&kernel, &ours, course, |_| ()).expect("a guest");
    assert!(outcome.is_good(), "{outcome:#?}");
    for walked in &outcome.walked {
        let instructions = walked.instructions.unwrap_or_else(|| panic!("{walked:?}"));
        assert!(instructions <= WALKED_MAX, "{walked:?}");
    }
    outcome
}

#[test]
fn linux_5_10_reports_a_drop_and_says_what_it_cannot() {
    let outcome = boot("5.10");
    let ready = outcome.ready.as_ref().expect("an agent");
    assert_eq!(ready.hook, Some(Hook::Clsact));
    let parts: Vec<&str> =
        ready.cannot.iter().map(|text| text.split_once(':').unwrap_or((text, "")).0).collect();
    assert_eq!(parts, ["use drop locations", "use drop reasons"], "{:?}", ready.cannot);
    let drop = outcome.case("frontend-to-backend").and_then(|case| case.drop.clone());
    assert_eq!(drop, Some((Some("NOT_SPECIFIED".to_owned()), None)));
}

#[test]
fn linux_6_1_reports_a_drop_with_reason_and_place() {
    let outcome = boot("6.1");
    let ready = outcome.ready.as_ref().expect("an agent");
    assert_eq!(ready.hook, Some(Hook::Clsact));
    assert_eq!(ready.cannot, Vec::<String>::new());
    let drop = outcome.case("frontend-to-backend").and_then(|case| case.drop.clone());
    let (reason, place) = drop.expect("a drop");
    assert_eq!(reason.as_deref(), Some("NETFILTER_DROP"));
    assert!(place.is_some());
}
