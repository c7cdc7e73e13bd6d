//! whydrop: which policy ate my packet, since when, and what one rule fixes it.
//!
//! The rooms are crates of their own; this one puts them together into the program. The agent and
//! the healer run on Linux; what reads a cluster, manifests or records builds anywhere.

#[cfg(target_os = "linux")]
pub mod agent;
pub mod command;
#[cfg(target_os = "linux")]
pub mod heal;
#[cfg(target_os = "linux")]
pub mod mute;
#[cfg(target_os = "linux")]
pub mod state;

pub use whydrop_kube as cluster;
#[cfg(target_os = "linux")]
pub use whydrop_probe as probe;
pub use whydrop_reader::{page, view};
pub use whydrop_report::{self as report, records};
#[cfg(target_os = "linux")]
pub use whydrop_sink as sink;
