//! whydrop: which policy ate my packet, since when, and what one rule fixes it.
//!
//! Most rooms are crates of their own; this one has the commands and the two tasks that decide, and
//! puts all together into the program.

#![forbid(unsafe_code)]

#[cfg(feature = "agent")]
pub mod agent;
pub mod command;
#[cfg(feature = "agent")]
pub mod confine;
#[cfg(feature = "agent")]
pub mod heal;
#[cfg(feature = "agent")]
pub mod mute;
#[cfg(feature = "agent")]
pub mod state;

pub use whydrop_kube as cluster;
#[cfg(feature = "agent")]
pub use whydrop_probe as probe;
pub use whydrop_reader::{page, view};
pub use whydrop_report::{self as report, records};
#[cfg(feature = "agent")]
pub use whydrop_sink as sink;
