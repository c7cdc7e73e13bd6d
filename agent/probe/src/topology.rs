//! Which interfaces are pods', and which addresses the kernel routes to them: kept up to date from
//! what rtnetlink reports, without asking it anything.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use super::netlink::{Hop, Link, Message, Own, Route};

/// The interfaces of the agent's network namespace, as far as they concern pods.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// All links, by index.
    links: BTreeMap<u32, Link>,
    /// Routes that lead to a veth.
    routes: BTreeSet<Route>,
    /// The host's own addresses, and how many interfaces have each.
    local: HashMap<IpAddr, usize>,
    /// The networks that interfaces are in, by an address of their own that somebody has set.
    networks: BTreeSet<(u32, IpAddr, u8)>,
}

impl Topology {
    /// The interface's name.
    pub fn name(&self, index: u32) -> Option<&str> {
        self.links.get(&index).map(|link| link.name.as_str())
    }

    /// All interfaces, by index, with their names.
    pub fn links(&self) -> impl Iterator<Item = (u32, &str)> {
        self.links.iter().map(|(index, link)| (*index, link.name.as_str()))
    }

    /// The addresses of the host's own interfaces.
    pub fn local(&self) -> impl Iterator<Item = IpAddr> {
        self.local.keys().copied()
    }

    /// Whether one of the host's interfaces has this address.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.local.contains_key(&address)
    }

    /// The addresses that the kernel routes to this interface, each on its own: the pod's, where
    /// the network plugin routes rather than bridges.
    pub fn addresses(&self, index: u32) -> impl Iterator<Item = IpAddr> {
        self.routes.iter().filter(move |route| route.leads_directly(index)).filter_map(Route::host)
    }

    /// The addresses that the kernel routes, each on its own, to a veth.
    pub fn routed(&self) -> impl Iterator<Item = IpAddr> {
        self.routes.iter().filter_map(Route::host)
    }

    /// The host's side of every pod's veth.
    ///
    /// Not a pair of veths within this namespace, which a network plugin may have for itself; and
    /// not an uplink.
    pub(crate) fn pods(&self) -> BTreeSet<u32> {
        let uplinks = self.uplinks();
        self.ends_elsewhere().filter(|index| !uplinks.contains(index)).collect()
    }

    /// The interfaces by which packets come into the node from outside.
    pub(crate) fn outward(&self) -> impl Iterator<Item = u32> {
        let uplinks = self.uplinks();
        let cards = self.links.iter().filter(|(_, link)| link.leads_out && !link.is_veth);
        let mut all: BTreeSet<u32> = cards.map(|(index, _)| *index).collect();
        all.extend(self.ends_elsewhere().filter(|index| uplinks.contains(index)));
        all.into_iter()
    }

    /// Whether it is a veth to another namespace that is taken for an uplink.
    pub(crate) fn is_uplink(&self, index: u32) -> bool {
        self.ends_elsewhere().any(|other| other == index) && self.uplinks().contains(&index)
    }

    fn ends_elsewhere(&self) -> impl Iterator<Item = u32> {
        self.links.iter().filter(|(_, link)| link.is_veth && link.is_elsewhere).map(|(i, _)| *i)
    }

    /// Interfaces by which a gateway is reached that is in a network of the node's own there.
    ///
    /// A gateway alone makes no uplink. A pod that advertises itself as a router is one, and so is one
    /// that a route leads through, such as a VPN's: but the node is in no network with its pods, where
    /// the network plugin routes; and where it bridges, no route leads to a veth.
    fn uplinks(&self) -> BTreeSet<u32> {
        let set = self.routes.iter().filter(|route| !route.is_advertised);
        let hops = set.flat_map(|route| &route.hops);
        hops.filter(|hop| self.is_out_of_node(hop)).map(|hop| hop.index).collect()
    }

    fn is_out_of_node(&self, hop: &Hop) -> bool {
        let Some(gateway) = hop.gateway else { return false };
        let mut networks = self.networks.iter().filter(|(index, ..)| *index == hop.index);
        // A router's address on the link says of no network; that the node is in one there has to do.
        let is_of_link = is_of_link(gateway);
        networks.any(|(_, own, prefix)| is_of_link || is_in(gateway, *own, *prefix))
    }

    /// Takes in a change, or a part of a listing.
    pub(crate) fn apply(&mut self, message: Message) {
        match message {
            Message::Filter(_) => {}
            Message::Link { index, link } => {
                // The kernel takes routes away with an interface, and does not always say so.
                if !link.is_up {
                    self.forget_routes(index);
                }
                self.links.insert(index, link);
            }
            Message::LinkGone { index } => {
                self.links.remove(&index);
                self.forget_routes(index);
                self.networks.retain(|(of, ..)| *of != index);
            }
            Message::Address { index, address: own, added: true } => {
                *self.local.entry(own.address).or_default() += 1;
                if own.is_of_network() {
                    self.networks.insert((index, own.address, own.prefix));
                }
            }
            Message::Address { index, address: own, added: false } => {
                self.networks.remove(&(index, own.address, own.prefix));
                if let Some(count) = self.local.get_mut(&own.address) {
                    *count -= 1;
                    if *count == 0 {
                        self.local.remove(&own.address);
                    }
                }
            }
            Message::Route { route, added } => {
                let concerns_pods = route.is_unicast
                    && route
                        .hops
                        .iter()
                        .any(|hop| self.links.get(&hop.index).is_some_and(|link| link.is_veth));
                if !added {
                    self.routes.remove(&route);
                } else if concerns_pods {
                    self.routes.insert(route);
                }
            }
        }
    }

    fn forget_routes(&mut self, index: u32) {
        self.routes.retain(|route| route.hops.iter().all(|hop| hop.index != index));
    }
}

impl Route {
    /// The one address it is for.
    fn host(&self) -> Option<IpAddr> {
        self.destination.filter(|address| self.prefix == bits(*address))
    }

    fn leads_directly(&self, index: u32) -> bool {
        self.hops.contains(&Hop { index, gateway: None })
    }
}

impl Own {
    /// Whether there is a network with others in it that are reached by this interface.
    fn is_of_network(self) -> bool {
        self.is_set && !is_of_link(self.address) && self.prefix < bits(self.address)
    }
}

/// Whether an address has a meaning on its link alone.
fn is_of_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Whether an address is in the network of another.
fn is_in(address: IpAddr, other: IpAddr, prefix: u8) -> bool {
    let number = |address| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    let others = u32::from(bits(other).saturating_sub(prefix));
    let network = |address| number(address).checked_shr(others).unwrap_or(0);
    address.is_ipv4() == other.is_ipv4() && network(address) == network(other)
}

const fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, is_veth: bool, is_elsewhere: bool) -> Message {
        let link = Link {
            name: format!("if{index}"),
            is_veth,
            is_elsewhere,
            is_up: true,
            leads_out: false,
        };
        Message::Link { index, link }
    }

    fn route(destination: Option<&str>, prefix: u8, index: u32, gateway: Option<&str>) -> Route {
        Route {
            table: 254,
            is_unicast: true,
            destination: destination.map(|text| text.parse().unwrap()),
            prefix,
            tos: 0,
            priority: 0,
            is_advertised: false,
            hops: vec![Hop { index, gateway: gateway.map(|text| text.parse().unwrap()) }],
        }
    }

    fn own(index: u32, address: &str, prefix: u8) -> Message {
        let address = Own { address: address.parse().unwrap(), prefix, is_set: true };
        Message::Address { index, address, added: true }
    }

    fn topology(messages: impl IntoIterator<Item = Message>) -> Topology {
        let mut topology = Topology::default();
        messages.into_iter().for_each(|message| topology.apply(message));
        topology
    }

    fn added(route: Route) -> Message {
        Message::Route { route, added: true }
    }

    #[test]
    fn an_uplink_is_no_pod_as_long_as_a_gateway_is_behind_it() {
        let via = route(None, 0, 3, Some("172.18.0.1"));
        let mut topology = topology([
            link(2, true, true),
            link(3, true, true),
            link(4, true, false),
            link(5, false, true),
            own(3, "172.18.0.2", 16),
            added(route(Some("10.1.0.10"), 32, 2, None)),
            added(via.clone()),
        ]);
        assert_eq!(topology.pods(), BTreeSet::from([2]));
        assert_eq!([2, 3, 4].map(|index| topology.is_uplink(index)), [false, true, false]);
        topology.apply(Message::Route { route: via, added: false });
        assert_eq!(topology.pods(), BTreeSet::from([2, 3]));
        topology.apply(Message::LinkGone { index: 2 });
        assert_eq!(topology.pods(), BTreeSet::from([3]));
    }

    /// Each as it is on a node whose plugin routes to pods, with an address of the node's for the pod
    /// to send to; what a pod can bring about, and what it cannot.
    #[test]
    fn a_gateway_makes_an_uplink_only_in_a_network_of_the_node() {
        let vpn = || route(Some("10.200.0.0"), 16, 2, Some("10.1.0.10"));
        let of_link = |is_advertised| Route { is_advertised, ..route(None, 0, 2, Some("fe80::2")) };
        let made = |address: &str| {
            let address = Own { address: address.parse().unwrap(), prefix: 64, is_set: false };
            Message::Address { index: 2, address, added: true }
        };
        for (what, messages, is_uplink) in [
            ("a pod's VPN", vec![own(2, "169.254.1.1", 32), added(vpn())], false),
            (
                "the same, of a plugin that routes by an address of the pods'",
                { vec![own(2, "10.1.0.1", 32), added(vpn())] },
                false,
            ),
            (
                "another network than the gateway's",
                { vec![own(2, "172.18.0.2", 16), added(vpn())] },
                false,
            ),
            ("a router's advertisement", vec![own(2, "fe80::1", 64), added(of_link(true))], false),
            ("the same with a prefix", vec![made("2001:db8::9"), added(of_link(true))], false),
            (
                "a prefix that a pod advertises beside a route of the plugin's",
                { vec![made("2001:db8::9"), added(of_link(false))] },
                false,
            ),
            (
                "a route by the other end of the link",
                { vec![own(2, "fe80::1", 64), added(of_link(false))] },
                false,
            ),
            (
                "a default route that is set",
                { vec![own(2, "2001:db8::9", 64), added(of_link(false))] },
                true,
            ),
            (
                "that of a bridge of containers",
                { vec![own(2, "172.18.0.2", 16), added(route(None, 0, 2, Some("172.18.0.1")))] },
                true,
            ),
        ] {
            let topology = topology([link(2, true, true)].into_iter().chain(messages));
            assert_eq!(topology.is_uplink(2), is_uplink, "{what}");
            assert_eq!(topology.pods().contains(&2), !is_uplink, "{what}");
        }
    }

    #[test]
    fn host_routes_say_whose_an_address_is() {
        let address: IpAddr = "10.1.0.10".parse().unwrap();
        let mut topology = topology([
            link(2, true, true),
            added(route(Some("10.1.0.10"), 32, 2, None)),
            added(route(Some("10.1.0.0"), 24, 2, None)),
        ]);
        assert_eq!(topology.addresses(2).collect::<Vec<_>>(), [address]);
        assert_eq!(topology.routed().collect::<Vec<_>>(), [address]);
        let down = Link {
            name: "if2".into(),
            is_veth: true,
            is_elsewhere: true,
            is_up: false,
            leads_out: false,
        };
        topology.apply(Message::Link { index: 2, link: down });
        assert_eq!(topology.addresses(2).count(), 0);
    }

    #[test]
    fn an_address_on_two_interfaces_stays_with_one_of_them() {
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let own = Own { address, prefix: 24, is_set: true };
        let change = |index, added| Message::Address { index, address: own, added };
        let mut topology = topology([change(1, true), change(2, true), change(1, false)]);
        assert!(topology.is_local(address));
        topology.apply(change(2, false));
        assert!(!topology.is_local(address));
    }
}
