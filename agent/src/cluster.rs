//! The edge to the cluster: where its objects come from.

pub mod decode;
pub mod folder;
pub mod manifests;
