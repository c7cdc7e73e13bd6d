//! What whydrop reads from others, held against its properties over any bytes.
//!
//! A target takes bytes, and panics where a property does not hold. `cargo xtask fuzz` lets libFuzzer look
//! for such bytes; what is in `corpus/` is played again by the tests, so that what was found stays found.

#![forbid(unsafe_code)]

mod choices;
mod commands;
mod kernel_records;
mod logs;
mod manifests;
mod otlp_answers;
mod packets;
mod selectors;
mod text;

use std::path::PathBuf;

/// Something that reads what others write.
pub struct Target {
    /// Its name, and that of its folder in `corpus/`.
    pub name: &'static str,
    /// What it holds.
    pub what: &'static str,
    /// Holds one input; panics where a property does not hold.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "kernel-records",
        what: "the programs' events and counts: what their bytes spell, or none",
        run: kernel_records::run,
    },
    Target {
        name: "packets",
        what: "packets, by the programs in the kernel and by another parser",
        run: packets::run,
    },
    Target {
        name: "manifests",
        what: "manifests: nothing lost, and the same in every form",
        run: manifests::run,
    },
    Target {
        name: "selectors",
        what: "selectors: read as written, and as a plain evaluator has them",
        run: selectors::run,
    },
    Target {
        name: "logs",
        what: "lines for view, report, fix and heal: whole records alone, harmless when shown",
        run: logs::run,
    },
    Target {
        name: "commands",
        what: "commands, JSON and YAML that are printed: the words and values that they are to have",
        run: commands::run,
    },
    Target {
        name: "otlp-answers",
        what: "a collector's answers: acknowledged only where it says so",
        run: otlp_answers::run,
    },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Where a target's inputs are.
pub fn corpus(target: &Target) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "corpus", target.name].iter().collect()
}
