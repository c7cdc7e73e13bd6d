//! The lab: a node and its pods made of network namespaces, and scenarios played in it.

pub mod agent;
pub mod bench;
pub mod browser;
pub mod cluster;
pub mod differential;
pub mod expect;
pub mod fleet;
pub mod hint;
pub mod kube;
pub mod lab;
pub mod marker;
pub mod netns;
pub mod otlp;
pub mod play;
pub mod scenario;
pub mod story;
