//! Where records go. Each sink owns its queue, its retry and its bound; the agent knows them only as
//! [`Sink`]s, and goes through all of them.

#![forbid(unsafe_code)]

pub mod events;
mod host;
pub mod http;
pub mod log;
pub mod metrics;
mod note;
pub mod otlp;
mod outgoing;
mod reading;
mod sink;
mod sinks;

pub use host::AgentHost;
pub use note::Note;
pub use outgoing::Outgoing;
pub use reading::{Kind, Loss, Number, Queue, Reading, SinkReadings, Values};
pub use sink::Sink;
pub use sinks::{Options, Sinks};
