//! How long the stages of demo and test may take, on two cores: CONTRIBUTING lists them, and each run
//! prints what it took beside them. What takes longer is said to, and is no failure.

use std::time::Duration;

/// A stage, or a whole job.
pub(crate) struct Budget {
    /// As CONTRIBUTING lists it.
    pub(crate) name: &'static str,
    /// Seconds where nothing is fetched or built yet.
    pub(crate) cold: u64,
    /// Seconds where everything is.
    pub(crate) warm: u64,
}

const fn budget(name: &'static str, cold: u64, warm: u64) -> Budget {
    Budget { name, cold, warm }
}

// In the order of a run.
pub(crate) const TOOLCHAIN: Budget = budget("the Rust toolchain", 20, 0);
/// Some small ones, and the LLVM that bpf-linker is compiled with.
pub(crate) const PACKAGES: Budget = budget("Debian packages", 55, 0);
pub(crate) const BPF_LINKER: Budget = budget("bpf-linker", 45, 0);
pub(crate) const PROGRAMS: Budget = budget("building the programs", 160, 10);
pub(crate) const PLAY: Budget = budget("playing the scenario", 20, 20);
pub(crate) const API: Budget = budget("building Kubernetes' API server", 580, 0);
pub(crate) const DEPLOY: Budget =
    budget("building Helm and kustomize, fetching Prometheus", 140, 0);
pub(crate) const OTLP: Budget =
    budget("building OpenTelemetry's Collector, fetching Kafka", 145, 0);
pub(crate) const NODE: Budget = budget("building Kubernetes' node, Calico and CoreDNS", 430, 0);
pub(crate) const CILIUM: Budget = budget("building Cilium's agent", 290, 0);
pub(crate) const KERNELS: Budget = budget("fetching two kernels", 20, 0);
pub(crate) const NEXTEST: Budget = budget("cargo-nextest", 120, 0);
pub(crate) const DENY: Budget = budget("cargo-deny", 80, 0);
pub(crate) const LINTS: Budget = budget("lints", 120, 10);
/// All together; each has its own in `lint.rs`.
#[cfg(test)]
pub(crate) const CRATES: Budget = budget("each crate alone", 115, 20);
pub(crate) const MAIN_TESTS_BUILD: Budget = budget("building the tests of the main path", 450, 15);
pub(crate) const ALL_TESTS_BUILD: Budget = budget("building all tests", 540, 20);
pub(crate) const IMAGE: Budget = budget("building the image's program", 240, 5);
/// It attaches SBOM, provenance and signatures to the image.
pub(crate) const SUPPLY: Budget = budget("building whydrop-supply", 60, 2);
pub(crate) const MAIN_TESTS: Budget = budget("the tests of the main path", 315, 315);
pub(crate) const OTHER_TESTS: Budget = budget("all other tests", 690, 690);

pub(crate) const DEMO: Budget = budget("`cargo xtask demo`", 300, 45);
pub(crate) const TEST: Budget = budget("`cargo xtask test`", 1200, 360);
pub(crate) const TEST_ALL: Budget = budget("`cargo xtask test --all`", 3600, 1500);

impl Budget {
    /// What a whole job took, beside what it may take.
    pub(crate) fn verdict(&self, time: Duration) -> String {
        let [cold, warm] = [self.cold, self.warm].map(Duration::from_secs);
        let (name, took) = (self.name.trim_matches('`'), seconds(time));
        let (cold_text, warm_text) = (seconds(cold), seconds(warm));
        match time.checked_sub(cold) {
            Some(over) if over.as_secs() > 0 => format!(
                "{name}: {took}, {} over its budget of {cold_text} where nothing is built yet",
                seconds(over)
            ),
            _ if time <= warm => {
                format!("{name}: {took}; budget {warm_text} where everything is built")
            }
            _ => format!(
                "{name}: {took}; budget {cold_text} where nothing is built yet, {warm_text} where \
                 everything is"
            ),
        }
    }
}

/// What a stage took, beside what it may take.
pub(crate) fn beside(time: Duration, budget: Duration) -> String {
    match time.checked_sub(budget) {
        Some(over) if over.as_secs() > 0 => {
            format!("{}, {} over its budget of {}", seconds(time), seconds(over), seconds(budget))
        }
        _ => format!("{}; budget {}", seconds(time), seconds(budget)),
    }
}

/// A duration for people: `45 s`, `2 min 5 s`.
pub(crate) fn seconds(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=99 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: [&Budget; 4] = [&TOOLCHAIN, &PACKAGES, &BPF_LINKER, &PROGRAMS];
    /// What is built beside the rest, one after the other.
    const BESIDE: [&Budget; 6] = [&API, &DEPLOY, &OTLP, &NODE, &CILIUM, &KERNELS];
    const STAGES: [&Budget; 13] = [
        &PLAY,
        &NEXTEST,
        &DENY,
        &LINTS,
        &CRATES,
        &MAIN_TESTS_BUILD,
        &ALL_TESTS_BUILD,
        &IMAGE,
        &SUPPLY,
        &MAIN_TESTS,
        &OTHER_TESTS,
        &DEMO,
        &TEST,
    ];

    /// Seconds of stages one after the other.
    fn sum(stages: &[&Budget], of: impl Fn(&Budget) -> u64) -> u64 {
        stages.iter().map(|stage| of(stage)).sum()
    }

    #[test]
    fn the_stages_of_a_job_fit_into_it() {
        for of in [|budget: &Budget| budget.cold, |budget: &Budget| budget.warm] {
            let before = sum(&BEFORE, of);
            assert!(before + of(&PLAY) <= of(&DEMO));
            let here = sum(&[&NEXTEST, &MAIN_TESTS_BUILD], of);
            assert!(before + here.max(of(&API)) + of(&MAIN_TESTS) <= of(&TEST));
            let here = [&NEXTEST, &DENY, &LINTS, &CRATES, &ALL_TESTS_BUILD, &IMAGE, &SUPPLY];
            let waited_for = sum(&here, of).max(sum(&BESIDE, of));
            let tests = of(&MAIN_TESTS) + of(&OTHER_TESTS);
            assert!(before + waited_for + tests <= of(&TEST_ALL));
        }
    }

    #[test]
    fn contributing_lists_every_budget() {
        let contributing = include_str!("../../CONTRIBUTING.md");
        for Budget { name, cold, warm } in
            BEFORE.iter().chain(&BESIDE).chain(&STAGES).chain(&[&TEST_ALL])
        {
            let [cold, warm] = [*cold, *warm].map(|time| seconds(Duration::from_secs(time)));
            let row = format!("| {name} | {cold} | {warm} |");
            assert!(contributing.contains(&row), "expected the row {row}");
        }
    }

    #[test]
    fn what_is_over_its_budget_is_said_to_be() {
        let minute = Duration::from_secs(60);
        assert_eq!(beside(minute, minute), "60 s; budget 60 s");
        assert_eq!(beside(minute * 2, minute), "2 min 0 s, 60 s over its budget of 60 s");
        let said = |minutes: u32| TEST.verdict(minute * minutes);
        assert_eq!(
            said(5),
            "cargo xtask test: 5 min 0 s; budget 6 min 0 s where everything is built"
        );
        assert_eq!(
            said(19),
            "cargo xtask test: 19 min 0 s; budget 20 min 0 s where nothing is built yet, 6 min 0 s \
             where everything is"
        );
        assert_eq!(
            said(21),
            "cargo xtask test: 21 min 0 s, 60 s over its budget of 20 min 0 s where nothing is \
             built yet"
        );
    }
}
