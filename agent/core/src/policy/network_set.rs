//! Calico's network sets.
//!
//! Semantics: <https://docs.tigera.io/calico/latest/reference/resources/networkset>.

use std::{fmt, sync::Arc};

use ipnet::IpNet;

use super::requirement::Labels;

/// A `NetworkSet`, or, without a namespace, a `GlobalNetworkSet` of Calico's: addresses that its
/// policies select by labels, as if they were pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSet {
    /// Namespace.
    pub namespace: Option<Arc<str>>,
    /// Name.
    pub name: Arc<str>,
    /// Labels.
    pub labels: Labels,
    /// The addresses.
    pub networks: Vec<IpNet>,
}

impl fmt::Display for NetworkSet {
    /// `NetworkSet shop/partners`, `GlobalNetworkSet partners`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "NetworkSet {namespace}/{}", self.name),
            None => write!(f, "GlobalNetworkSet {}", self.name),
        }
    }
}
