//! The edge to the cluster: where its objects come from.

#![forbid(unsafe_code)]

pub mod agent_logs;
pub mod api_error;
pub mod connect;
pub mod decode;
mod documents;
#[cfg(feature = "folder")]
pub mod folder;
pub mod live;
pub mod manifests;
pub mod resource;
mod sections;
#[cfg(feature = "folder")]
pub mod source;
pub mod update;
mod yaml;
