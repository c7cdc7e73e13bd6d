//! What a guest prints on its second serial line: one JSON object in a line.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// The kernel's release.
    Release(String),
    /// A program was verified.
    Walked(Walked),
    /// An agent got ready.
    Ready(Ready),
    /// A scenario was played, or a test was run.
    Case(Case),
    /// A test was not run, since this kernel has not what it is about.
    LeftOut(LeftOut),
    /// The guest cannot go on, and why.
    Broke(String),
    /// All is done.
    End,
}

/// What the verifier did to load a program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Walked {
    /// The program.
    pub program: String,
    /// How many instructions it walked, counted each time; none where it refused.
    pub instructions: Option<u64>,
    /// How long that took.
    pub time: Duration,
    /// Why it refused.
    pub refusal: Option<String>,
}

/// What an agent said when it got ready.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ready {
    /// From its start on.
    pub after: Duration,
    /// What it cannot do, as its record has it.
    pub cannot: Vec<String>,
    /// How it is attached to the pods' veths.
    pub hook: Option<Hook>,
}

/// How programs are attached to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// Links of the kernel's own, from Linux 6.6 on.
    Tcx,
    /// Filters at a queueing discipline.
    Clsact,
}

impl Hook {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// A test that was not run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// What it takes.
    pub why: String,
}

/// What came of a scenario, or a test.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Case {
    /// The scenario's folder, or the test with its program.
    pub name: String,
    /// How long it took.
    pub took: Duration,
    /// What went otherwise, if anything.
    pub failure: Option<String>,
    /// What the kernel said of the first packet that was dropped: the reason, and where.
    pub drop: Option<(Option<String>, Option<String>)>,
}
