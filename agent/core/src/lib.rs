//! The decisions of whydrop, as pure functions over plain data.
//!
//! ```text
//! Observation + Tick ─▶ correlate ─▶ Drop ───────────────┐
//! Objects ─▶ policy ─▶ cluster ─▶ Snapshot ─▶ verdict ──┴▶ diagnosis ─▶ remedy ─▶ judgement ─┐
//!                                                            IncidentChange ◀─ incident ◀────┘
//! docket: facts in, actions out; owns what has state above, and decides when each of it happens
//! ```
//!
//! Nothing here waits, reads a file, a socket or a clock, or fails: what cannot be decided is a
//! value that says why. Time comes in as data.

#![forbid(unsafe_code)]

pub mod answer;
pub mod chain;
pub mod cluster;
pub mod correlate;
pub mod diagnosis;
pub mod docket;
pub mod flow;
mod hash;
pub mod heal;
pub mod incident;
pub mod judgement;
pub mod kinds;
pub mod mute;
pub mod observation;
pub mod own_path;
pub mod policy;
pub mod problem;
pub mod remedy;
pub mod service;
pub mod verdict;
