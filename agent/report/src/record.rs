//! A line of the record stream, of whatever kind.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    heal::HealRecord,
    incident::IncidentRecord,
    schema::{AgentRecord, DropRecord},
};

/// A line of the record stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Record {
    /// A flow is dropped, or a policy is not enforced.
    Drop(Box<DropRecord>),
    /// One cause with many drops begins, goes on or is over.
    Incident(Box<IncidentRecord>),
    /// The healer did something about an incident, or says why not.
    Heal(Box<HealRecord>),
    /// What the agent reports about itself.
    Agent(Box<AgentRecord>),
}

impl From<HealRecord> for Record {
    fn from(record: HealRecord) -> Self {
        Self::Heal(Box::new(record))
    }
}
