//! A real OpenTelemetry Collector, a real Kafka, and what is sent to them through the agent's own
//! sink.

pub mod collector;
pub mod endpoint;
pub mod events;
pub mod fleet;
pub mod kafka;
pub mod load;
