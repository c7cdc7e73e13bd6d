//! Where records go. Each sink owns its queue, its retry and its bound.

pub mod events;
pub mod log;
pub mod metrics;
pub mod otlp;
