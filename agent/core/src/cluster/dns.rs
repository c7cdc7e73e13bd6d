//! The cluster's DNS: its Services, and the cache that may answer on each node in its place.

use std::net::{IpAddr, Ipv4Addr};

use super::{
    Snapshot,
    object::{Pod, Service},
};

/// The port that clients dial.
pub const DNS_PORT: u16 = 53;

/// The namespaces in which distributions keep it, and the names that they give its Service.
const NAMESPACES: [&str; 2] = ["kube-system", "openshift-dns"];
const SERVICES: [&str; 4] = ["kube-dns", "coredns", "rke2-coredns-rke2-coredns", "dns-default"];

/// The label that its Services of the usual names select.
const PODS: (&str, &str) = ("k8s-app", "kube-dns");

/// The address that Kubernetes' manifest of the cache gives it
/// (`cluster/addons/dns/nodelocaldns/nodelocaldns.yaml`).
const CACHE_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 20, 10));

/// By which label that manifest, and those after it, select the cache's pods.
const CACHE_LABEL: (&str, &str) = ("k8s-app", "node-local-dns");

/// The Service by which the cache reaches the pods of the cluster's DNS.
const CACHE_UPSTREAM: (&str, &str) = ("kube-system", "kube-dns-upstream");

impl Service {
    /// Whether it is the cluster's DNS, by the names that distributions use.
    pub fn is_cluster_dns(&self) -> bool {
        NAMESPACES.contains(&&*self.namespace) && SERVICES.contains(&&*self.name)
    }
}

impl Pod {
    /// Whether it is a cache that answers for the cluster's DNS on its node.
    pub fn is_dns_cache(&self) -> bool {
        self.host_network && self.has_label(CACHE_LABEL)
    }

    fn has_label(&self, (key, value): (&str, &str)) -> bool {
        self.labels.get(key).is_some_and(|own| &**own == value)
    }
}

impl Snapshot {
    /// Whether a pod is one of the cluster's DNS: with the label that its Services usually select, or
    /// selected by one of them.
    pub fn is_dns_pod(&self, pod: &Pod) -> bool {
        NAMESPACES.contains(&&*pod.namespace)
            && (pod.has_label(PODS)
                || self.services().any(|s| s.is_cluster_dns() && selects(s, pod)))
    }

    /// The addresses at which a cache on the node answers instead, where there is one, as clients
    /// dial them: what its pods are told to listen on (`-localip`); where that is not known, its
    /// usual address, and those of the DNS Services, which it takes over on its node.
    pub fn dns_cache(&self) -> Vec<IpAddr> {
        let caches: Vec<_> = self.pods().filter(|pod| pod.is_dns_cache()).collect();
        let mut addresses: Vec<IpAddr> =
            caches.iter().flat_map(|pod| &pod.dns_cache_addresses).copied().collect();
        let (namespace, name) = CACHE_UPSTREAM;
        let is_there = !caches.is_empty() || self.service(namespace, name).is_some();
        if addresses.is_empty() && is_there {
            let dns = self.services().filter(|service| service.is_cluster_dns());
            addresses.extend(dns.flat_map(|service| service.addresses()));
            addresses.push(CACHE_ADDRESS);
        }
        addresses.sort();
        addresses.dedup();
        addresses
    }
}

fn selects(service: &Service, pod: &Pod) -> bool {
    service.namespace == pod.namespace && service.selects(&pod.labels)
}
