//! The records that whydrop writes: `whydrop/v1`, one JSON object a line. Every sink writes the same,
//! and readers read them back.

#![forbid(unsafe_code)]

mod convert;
pub mod escape;
pub mod explanation;
pub mod heal;
pub mod hubble;
pub mod incident;
pub mod patch;
mod record;
pub mod records;
mod reporter;
mod schema;
pub mod text;
mod time;
mod word;
pub mod yaml;

pub use convert::{cause_of, flow_of, paths_of, remedy_of, verdict_of};
pub use record::Record;
pub use reporter::{HealReporter, Reporter};
pub use schema::{
    AgentKind, AgentRecord, AgentState, Cause, Changed, DirectionVerdict, DropKind, DropRecord,
    End, Evidence, Flow, MutedDrops, NearestMiss, ObjectRef, Remedy, RuleRef, SCHEMA, Schema,
    Service, Verdict, Workload,
};
pub use time::Time;
pub use whydrop_core::{
    correlate::EvidenceLevel,
    diagnosis::SituationKind,
    flow::Direction,
    policy::LayerKind,
    verdict::{Decision, Exemption},
};
pub use word::Word;
