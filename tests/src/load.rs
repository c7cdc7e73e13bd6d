//! Loads, and what they cost: packets for the agent, records for collectors.

pub mod bench;
pub mod otlp;
