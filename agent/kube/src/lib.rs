//! The edge to the cluster: where its objects come from.

#![forbid(unsafe_code)]

pub mod agents;
pub mod chain;
pub mod connect;
pub mod decode;
pub mod folder;
pub mod live;
pub mod manifests;
pub mod source;
