//! The edge to the kernel: loads and attaches the eBPF programs, and turns what they report into
//! [`Observation`](whydrop_core::observation::Observation)s.
//!
//! ```text
//!  kernel ─ ring, counts ─▶ Observations ─▶ Observation     next(), turn()
//!  kernel ─ rtnetlink ────▶ Interfaces   ─▶ Change          next(); attaches and detaches
//!  kernel ─ table ────────▶ Successes    ─▶ last answers    last_of(), since(), all()
//!  kernel ─ conntrack ────▶ Connections  ─▶ ConntrackNews   look()
//! ```
//!
//! Nothing in here spawns a task; the owner of a [`Probe`] drives its parts.

mod btf;
mod capabilities;
mod claim;
mod clock;
mod config;
mod connections;
mod counters;
mod decode;
mod error;
mod filters;
mod interfaces;
mod kernel;
mod load;
mod log;
mod names;
mod netlink;
mod observations;
mod part;
mod probe;
mod senders;
mod successes;
mod sys;
mod topology;
mod walk;

pub use capabilities::{Kept, give_up};
pub use claim::Claim;
pub use clock::{Boot, Clock, SinceBoot};
pub use config::{Attach, Config};
pub use connections::{Connections, ConntrackNews};
pub use counters::{ByKind, Cost, KERNEL_DROP, KINDS, Totals};
pub use decode::{event_of, tally_of};
pub use error::Error;
pub use interfaces::{Change, Interfaces, LOOKED_AT, Unwatched};
pub use load::{Hook, Programs};
pub use observations::Observations;
pub use part::{Part, PartState};
pub use probe::Probe;
pub use senders::{KnownAddresses, Senders};
pub use successes::{ANSWERS_MAX, Answered, Answers, LOOKED_UP_MAX, Successes};
pub use topology::Topology;
pub use walk::{Walk, Walked, walk};
