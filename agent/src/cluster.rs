//! The edge to the cluster: where its objects come from.

pub mod decode;
pub mod manifests;
