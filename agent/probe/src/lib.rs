//! The edge to the kernel: loads and attaches the eBPF programs, and makes what they tell into
//! [`Observation`](whydrop_core::observation::Observation)s.
//!
//! ```text
//!  kernel ─ ring, counts ─▶ Observations ─▶ Observation     next(), turn()
//!  kernel ─ rtnetlink ────▶ Interfaces   ─▶ Change          next(); attaches and detaches
//!  kernel ─ table ────────▶ Successes    ─▶ last answers    last(), since(), all()
//!  kernel ─ conntrack ────▶ Connections  ─▶ Happened        look()
//! ```
//!
//! Nothing in here spawns a task; whoever owns a [`Probe`] drives its parts.

mod btf;
mod capabilities;
mod clock;
mod connections;
mod counters;
mod decode;
mod error;
mod filters;
mod interfaces;
mod kernel;
mod load;
mod log;
mod netlink;
mod observations;
mod successes;
mod sys;
mod topology;

use std::{fmt, path::PathBuf};

pub use clock::{Boot, SinceBoot};
pub use connections::{Connections, Happened};
pub use counters::{ByKind, Cost, KERNEL_DROP, KINDS, Totals};
pub use error::Error;
pub use interfaces::{Change, Interfaces};
pub use load::{Hook, Programs};
pub use observations::Observations;
pub use successes::{ANSWERS_MAX, Answered, Answers, LOOKED_UP_MAX, Successes};
pub use topology::Topology;

/// Names of the programs: in the object, in the kernel, and of filters at clsact.
pub(crate) const FROM_POD: &str = "whydrop_from_pod";
pub(crate) const TO_POD: &str = "whydrop_to_pod";
pub(crate) const KFREE_SKB: &str = "whydrop_kfree_skb";
pub(crate) const SOCK_STATE: &str = "whydrop_sock_state";

/// How to attach to interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// tcx from Linux 6.6 on, clsact before.
    #[default]
    Auto,
    /// tcx.
    Tcx,
    /// A clsact queueing discipline, and filters.
    Clsact,
}

impl fmt::Display for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// What the probe can be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the kernel describes its types.
    pub btf: PathBuf,
    /// How to attach to interfaces.
    pub attach: Attach,
}

impl Default for Config {
    fn default() -> Self {
        Self { btf: PathBuf::from(kernel::BTF), attach: Attach::default() }
    }
}

/// A part of the probe, and whether it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which part.
    pub name: &'static str,
    /// Whether it works.
    pub state: State,
}

/// Whether a part of the probe works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It works.
    Active,
    /// This kernel has no such thing, and why that is.
    Unavailable(String),
    /// It ought to work and does not, and why.
    Failed(String),
}

/// Everything attached. The parts are apart so that each can be waited for on its own.
pub struct Probe {
    /// Which parts work.
    pub parts: Vec<Part>,
    /// What the programs observe.
    pub observations: Observations,
    /// Which interfaces they observe. Dropping this detaches everything.
    pub interfaces: Interfaces,
    /// When flows last got an answer.
    pub successes: Successes,
    /// Whether the kernel has room for new connections, and what it finds invalid.
    pub connections: Connections,
}

impl Probe {
    /// Loads the programs, attaches them, and attaches to the interfaces of this thread's network
    /// namespace. To be called within a runtime that has I/O and time.
    pub fn start(config: &Config) -> Result<Self, Error> {
        let mut programs = Programs::load(config)?;
        programs.attach();
        programs.start(config.attach)
    }
}
