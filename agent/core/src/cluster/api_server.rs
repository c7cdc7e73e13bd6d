//! Where the API server is: its Service, the endpoints of that, and the nodes of the control plane.

use std::{net::IpAddr, sync::Arc};

use super::{
    Name, Snapshot,
    object::{Node, Service},
};

/// The Service that each API server makes for itself and the others
/// (`pkg/controlplane/controller/kubernetesservice`).
const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";

/// By which labels nodes of the control plane are known: kubeadm's and those derived from it, the
/// one before Kubernetes 1.20, and that of RKE.
const CONTROL_PLANE: [&str; 3] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
    "node-role.kubernetes.io/controlplane",
];

/// Namespace and name of the API server's Service.
pub fn service_name() -> Name {
    (NAMESPACE.into(), NAME.into())
}

impl Service {
    /// Whether it is the API server's.
    pub fn is_api_server(&self) -> bool {
        (&*self.namespace, &*self.name) == (NAMESPACE, NAME)
    }
}

impl Node {
    /// Whether it has an API server, by its labels.
    pub fn is_of_control_plane(&self) -> bool {
        CONTROL_PLANE.iter().any(|label| self.labels.contains_key(*label))
    }

    /// Whether it has an API server, by its labels or by where they are listed, see
    /// [`Snapshot::api_server_addresses`].
    pub fn has_api_server(&self, listed: &[IpAddr]) -> bool {
        let is_listed = |address: IpAddr| listed.binary_search(&address).is_ok();
        self.is_of_control_plane() || self.addresses.iter().any(|known| is_listed(known.address))
    }
}

impl Snapshot {
    /// The API server's Service, if it is known.
    pub fn api_server(&self) -> Option<&Arc<Service>> {
        self.service(NAMESPACE, NAME)
    }

    /// The addresses and ports at which API servers answer, sorted.
    pub fn api_server_endpoints(&self) -> Vec<(IpAddr, u16)> {
        let slices = self.api_server().into_iter().flat_map(|service| self.slices(service));
        let mut endpoints: Vec<_> = slices
            .flat_map(|slice| {
                let ports = slice.ports.iter().map(|port| port.port);
                ports.flat_map(|port| slice.ready().map(move |address| (address, port)))
            })
            .collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        endpoints
    }

    /// Whether API servers are listed at this address, ready or not.
    pub fn is_api_server_address(&self, address: IpAddr) -> bool {
        self.api_server_addresses().binary_search(&address).is_ok()
    }

    /// The addresses that API servers are listed at, ready or not, sorted.
    pub fn api_server_addresses(&self) -> Vec<IpAddr> {
        let slices = self.api_server().into_iter().flat_map(|service| self.slices(service));
        let mut addresses: Vec<_> =
            slices.flat_map(|slice| &slice.endpoints).map(|endpoint| endpoint.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }
}
