//! Records to a real OpenTelemetry Collector, through the sink of the agent: what arrives, who may
//! send, and that nothing is lost unseen whatever happens to either side.

mod agent;
mod arrival;
mod failure;
mod gateway;

use std::time::Duration;

/// How long an event may take to arrive, on a busy machine.
const ARRIVAL: Duration = Duration::from_secs(30);
