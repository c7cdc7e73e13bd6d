//! Addresses that have a meaning of their own, whichever cluster it is: loopback, and link-local and
//! other fixed addresses at which a cloud, a DNS cache or a mesh answers or from which it asks.
//!
//! One table. What is further up is more special: the first line that holds an address counts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// What policies have to do with packets from or to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Judged {
    /// They judge them as of any address.
    Yes,
    /// They never see them: no packet to it leaves its pod.
    Never,
    /// No first packet of a connection has it, or what engines make of it is defined nowhere.
    No,
}

/// What an address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The host itself.
    Loopback,
    /// No host, or many.
    NoHost,
    /// DNS on the pod's own node.
    NodeDns,
    /// What a cloud says of the machine, or its credentials.
    Metadata,
    /// The source of the kubelet's probes, as a mesh rewrites them.
    MeshProbe,
    /// The next hop of pods, which answers nothing but ARP or neighbour discovery.
    Gateway,
    /// The source of what a node sends to Services.
    HostMasquerade,
    /// A cloud's own service.
    Cloud,
    /// The link that the sender is on.
    Link,
}

/// An address, or a network of them, with a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownAddress {
    first: IpAddr,
    prefix: u8,
    /// What it is for.
    pub purpose: Purpose,
    /// What policies have to do with it.
    pub judged: Judged,
    /// What it is, to be read after `ADDRESS is`.
    pub what: &'static str,
}

impl KnownAddress {
    const fn of(first: IpAddr, prefix: u8, purpose: Purpose, what: &'static str) -> Self {
        let judged = match purpose {
            Purpose::Loopback => Judged::Never,
            Purpose::NoHost => Judged::No,
            _ => Judged::Yes,
        };
        Self { first, prefix, purpose, judged, what }
    }

    /// Whether it is a service's that may be an address of an interface on each node: of a DNS cache, of an
    /// agent of a cloud's, of a mesh.
    pub fn is_alike_on_nodes(&self) -> bool {
        matches!(self.purpose, Purpose::NodeDns | Purpose::Metadata | Purpose::MeshProbe)
    }

    fn holds(&self, address: IpAddr) -> bool {
        IpNet::new(self.first, self.prefix).is_ok_and(|network| network.contains(&address))
    }
}

/// What is known of an address beforehand.
pub fn known_address(address: IpAddr) -> Option<&'static KnownAddress> {
    let address = address.to_canonical();
    TABLE.iter().find(|known| known.holds(address))
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(groups: [u16; 8]) -> IpAddr {
    let mut bits = 0;
    let mut place = 0;
    while place < groups.len() {
        bits = bits << 16 | groups[place] as u128;
        place += 1;
    }
    IpAddr::V6(Ipv6Addr::from_bits(bits))
}

const TABLE: &[KnownAddress] = &[
    // RFC 1122, 3.2.1.3; RFC 4291, 2.5.3.
    KnownAddress::of(v4(127, 0, 0, 0), 8, Purpose::Loopback, "loopback, the pod or host itself"),
    KnownAddress::of(
        v6([0, 0, 0, 0, 0, 0, 0, 1]),
        128,
        Purpose::Loopback,
        "loopback, the pod or host itself",
    ),
    // RFC 1122, 3.2.1.3; RFC 4291, 2.5.2. A connect to it is one to loopback (net/ipv4/route.c,
    // `ip_route_output_key_hash_rcu`).
    KnownAddress::of(
        v4(0, 0, 0, 0),
        32,
        Purpose::NoHost,
        "no address of a packet: Linux connects to the pod or host itself instead",
    ),
    KnownAddress::of(
        v6([0; 8]),
        128,
        Purpose::NoHost,
        "no address of a packet: Linux connects to the pod or host itself instead",
    ),
    // RFC 919; RFC 5771; RFC 4291, 2.7.
    KnownAddress::of(v4(255, 255, 255, 255), 32, Purpose::NoHost, "the broadcast address"),
    KnownAddress::of(v4(224, 0, 0, 0), 4, Purpose::NoHost, "a multicast address"),
    KnownAddress::of(v6([0xff00, 0, 0, 0, 0, 0, 0, 0]), 8, Purpose::NoHost, "a multicast address"),
    // kubernetes: cluster/addons/dns/nodelocaldns; GKE, RKE2, kubeadm guides.
    KnownAddress::of(
        v4(169, 254, 20, 10),
        32,
        Purpose::NodeDns,
        "where the node-local DNS cache of the pod's own node listens",
    ),
    // kubespray: roles/kubespray_defaults, `nodelocaldns_ip`.
    KnownAddress::of(
        v4(169, 254, 25, 10),
        32,
        Purpose::NodeDns,
        "where the node-local DNS cache of the pod's own node listens (kubespray)",
    ),
    // talos: pkg/machinery/constants, `HostDNSAddress`.
    KnownAddress::of(
        v4(169, 254, 116, 108),
        32,
        Purpose::NodeDns,
        "where the DNS resolver of the pod's own node listens (Talos)",
    ),
    // https://cloud.google.com/kubernetes-engine/docs/how-to/network-policy, "network policy and
    // Workload Identity": what is sent to 169.254.169.254 arrives there, on ports 987 and 988.
    KnownAddress::of(
        v4(169, 254, 169, 252),
        32,
        Purpose::Metadata,
        "GKE's metadata server on the pod's own node (Workload Identity)",
    ),
    // AWS, Azure, Google Cloud, OpenStack, Oracle, DigitalOcean and others alike.
    KnownAddress::of(
        v4(169, 254, 169, 254),
        32,
        Purpose::Metadata,
        "the cloud's metadata service of the pod's own node",
    ),
    // https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
    KnownAddress::of(
        v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]),
        128,
        Purpose::Metadata,
        "the metadata service of AWS, of the pod's own node",
    ),
    // https://cloud.google.com/compute/docs/metadata/querying-metadata
    KnownAddress::of(
        v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]),
        128,
        Purpose::Metadata,
        "the metadata service of Google Cloud, of the pod's own node",
    ),
    // https://www.alibabacloud.com/help/en/ecs/user-guide/view-instance-metadata
    KnownAddress::of(
        v4(100, 100, 100, 200),
        32,
        Purpose::Metadata,
        "the metadata service of Alibaba Cloud, of the pod's own node",
    ),
    // https://docs.aws.amazon.com/eks/latest/userguide/pod-id-agent-setup.html
    KnownAddress::of(
        v4(169, 254, 170, 23),
        32,
        Purpose::Metadata,
        "the EKS Pod Identity agent of the pod's own node",
    ),
    KnownAddress::of(
        v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23]),
        128,
        Purpose::Metadata,
        "the EKS Pod Identity agent of the pod's own node",
    ),
    // https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-iam-roles.html
    KnownAddress::of(
        v4(169, 254, 170, 2),
        32,
        Purpose::Metadata,
        "the credentials endpoint of AWS for containers",
    ),
    // https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/set-time.html
    KnownAddress::of(v4(169, 254, 169, 123), 32, Purpose::Cloud, "the time service of AWS"),
    // https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
    KnownAddress::of(
        v4(168, 63, 129, 16),
        32,
        Purpose::Cloud,
        "Azure itself: its DNS, and the source of its load balancers' health probes",
    ),
    // istio: cni/pkg/nodeagent/options.go, `DefaultHostProbeSNATIP`.
    KnownAddress::of(
        v4(169, 254, 7, 127),
        32,
        Purpose::MeshProbe,
        "the source that Istio's ambient mode gives to the kubelet's probes",
    ),
    KnownAddress::of(
        v6([0xfd16, 0x9254, 0x7127, 0x1337, 0xffff, 0xffff, 0xffff, 0xffff]),
        128,
        Purpose::MeshProbe,
        "the source that Istio's ambient mode gives to the kubelet's probes",
    ),
    // calico: cni-plugin/pkg/dataplane/linux; the plugin of AWS has the same.
    KnownAddress::of(
        v4(169, 254, 1, 1),
        32,
        Purpose::Gateway,
        "the next hop of pods with Calico or the plugin of AWS, where nothing listens",
    ),
    // ovn-kubernetes: go-controller/pkg/config/config.go, `V4HostMasqueradeIP`; the second since the
    // subnet was made larger.
    KnownAddress::of(
        v4(169, 254, 169, 2),
        32,
        Purpose::HostMasquerade,
        "the source that OVN-Kubernetes gives to what a node itself sends to Services",
    ),
    KnownAddress::of(
        v4(169, 254, 0, 2),
        32,
        Purpose::HostMasquerade,
        "the source that OVN-Kubernetes gives to what a node itself sends to Services",
    ),
    // RFC 3927; RFC 4291, 2.5.6.
    KnownAddress::of(
        v4(169, 254, 0, 0),
        16,
        Purpose::Link,
        "a link-local address, which never leaves the node that the pod runs on",
    ),
    KnownAddress::of(
        v6([0xfe80, 0, 0, 0, 0, 0, 0, 0]),
        10,
        Purpose::Link,
        "a link-local address, which never leaves the link that the sender is on",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> Option<(Purpose, Judged)> {
        known_address(address.parse().unwrap()).map(|known| (known.purpose, known.judged))
    }

    #[test]
    fn the_most_special_meaning_counts() {
        for (address, purpose) in [
            ("127.0.0.1", Purpose::Loopback),
            ("127.0.0.53", Purpose::Loopback),
            ("::1", Purpose::Loopback),
            ("::ffff:127.0.0.1", Purpose::Loopback),
            ("0.0.0.0", Purpose::NoHost),
            ("::", Purpose::NoHost),
            ("224.0.0.251", Purpose::NoHost),
            ("ff02::1", Purpose::NoHost),
            ("169.254.20.10", Purpose::NodeDns),
            ("169.254.25.10", Purpose::NodeDns),
            ("169.254.169.254", Purpose::Metadata),
            ("fd00:ec2::254", Purpose::Metadata),
            ("169.254.7.127", Purpose::MeshProbe),
            ("fd16:9254:7127:1337:ffff:ffff:ffff:ffff", Purpose::MeshProbe),
            ("169.254.1.1", Purpose::Gateway),
            ("169.254.3.4", Purpose::Link),
            ("fe80::1", Purpose::Link),
        ] {
            assert_eq!(of(address).map(|(purpose, _)| purpose), Some(purpose), "{address}");
        }
        for address in ["10.0.0.1", "198.51.100.7", "fd00::1", "2001:db8::1"] {
            assert_eq!(of(address), None, "{address}");
        }
    }

    #[test]
    fn only_what_no_policy_sees_is_not_judged() {
        assert_eq!(of("127.0.0.1").map(|(_, judged)| judged), Some(Judged::Never));
        assert_eq!(of("255.255.255.255").map(|(_, judged)| judged), Some(Judged::No));
        assert_eq!(of("169.254.169.254").map(|(_, judged)| judged), Some(Judged::Yes));
    }

    #[test]
    fn no_line_hides_another() {
        for (place, known) in TABLE.iter().enumerate() {
            let first = TABLE.iter().position(|other| other.holds(known.first));
            assert_eq!(first, Some(place), "{}", known.what);
            assert!(IpNet::new(known.first, known.prefix).is_ok(), "{}", known.what);
        }
    }
}
