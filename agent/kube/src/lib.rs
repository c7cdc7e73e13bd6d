//! The edge to the cluster: where its objects come from.

#![forbid(unsafe_code)]

pub mod agents;
pub mod chain;
pub mod connect;
pub mod decode;
#[cfg(feature = "folder")]
pub mod folder;
pub mod live;
pub mod manifests;
#[cfg(feature = "folder")]
pub mod source;
