//! whydrop: which policy ate my packet, since when, and what one rule fixes it.

pub mod agent;
mod chain;
pub mod cluster;
pub mod command;
pub mod heal;
pub mod http;
pub mod mute;
pub mod page;
pub mod probe;
pub mod records;
pub mod report;
pub mod sink;
pub mod state;
pub mod view;
