//! Which interfaces are pods', and which addresses the kernel routes to them: kept up to date from
//! what rtnetlink reports, without asking it anything.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use super::netlink::{Link, Message, Route};

/// The interfaces of the agent's network namespace, as far as they concern pods.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// All links, by index.
    links: BTreeMap<u32, Link>,
    /// Routes that lead to a veth.
    routes: BTreeSet<Route>,
    /// The host's own addresses, and how many interfaces have each.
    local: HashMap<IpAddr, usize>,
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
    /// not one that a route leads through to a gateway: that is an uplink.
    pub(crate) fn pods(&self) -> BTreeSet<u32> {
        let uplinks: BTreeSet<u32> = self
            .routes
            .iter()
            .flat_map(|route| &route.hops)
            .filter(|(_, has_gateway)| *has_gateway)
            .map(|(index, _)| *index)
            .collect();
        self.links
            .iter()
            .filter(|(index, link)| link.is_veth && link.is_elsewhere && !uplinks.contains(index))
            .map(|(index, _)| *index)
            .collect()
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
            }
            Message::Address { address, added: true, .. } => {
                *self.local.entry(address).or_default() += 1;
            }
            Message::Address { address, added: false, .. } => {
                if let Some(count) = self.local.get_mut(&address) {
                    *count -= 1;
                    if *count == 0 {
                        self.local.remove(&address);
                    }
                }
            }
            Message::Route { route, added } => {
                let concerns_pods = route.is_unicast
                    && route
                        .hops
                        .iter()
                        .any(|(index, _)| self.links.get(index).is_some_and(|link| link.is_veth));
                if !added {
                    self.routes.remove(&route);
                } else if concerns_pods {
                    self.routes.insert(route);
                }
            }
        }
    }

    fn forget_routes(&mut self, index: u32) {
        self.routes.retain(|route| route.hops.iter().all(|(hop, _)| *hop != index));
    }
}

impl Route {
    /// The one address it is for.
    fn host(&self) -> Option<IpAddr> {
        self.destination.filter(|address| self.prefix == if address.is_ipv4() { 32 } else { 128 })
    }

    fn leads_directly(&self, index: u32) -> bool {
        self.hops.contains(&(index, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, is_veth: bool, is_elsewhere: bool) -> Message {
        let link = Link { name: format!("if{index}"), is_veth, is_elsewhere, is_up: true };
        Message::Link { index, link }
    }

    fn route(destination: Option<&str>, prefix: u8, index: u32, has_gateway: bool) -> Route {
        Route {
            table: 254,
            is_unicast: true,
            destination: destination.map(|text| text.parse().unwrap()),
            prefix,
            tos: 0,
            priority: 0,
            hops: vec![(index, has_gateway)],
        }
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
        let via = route(None, 0, 3, true);
        let mut topology = topology([
            link(2, true, true),
            link(3, true, true),
            link(4, true, false),
            link(5, false, true),
            added(route(Some("10.1.0.10"), 32, 2, false)),
            added(via.clone()),
        ]);
        assert_eq!(topology.pods(), BTreeSet::from([2]));
        topology.apply(Message::Route { route: via, added: false });
        assert_eq!(topology.pods(), BTreeSet::from([2, 3]));
        topology.apply(Message::LinkGone { index: 2 });
        assert_eq!(topology.pods(), BTreeSet::from([3]));
    }

    #[test]
    fn host_routes_say_whose_an_address_is() {
        let address: IpAddr = "10.1.0.10".parse().unwrap();
        let mut topology = topology([
            link(2, true, true),
            added(route(Some("10.1.0.10"), 32, 2, false)),
            added(route(Some("10.1.0.0"), 24, 2, false)),
        ]);
        assert_eq!(topology.addresses(2).collect::<Vec<_>>(), [address]);
        assert_eq!(topology.routed().collect::<Vec<_>>(), [address]);
        let down = Link { name: "if2".into(), is_veth: true, is_elsewhere: true, is_up: false };
        topology.apply(Message::Link { index: 2, link: down });
        assert_eq!(topology.addresses(2).count(), 0);
    }

    #[test]
    fn an_address_on_two_interfaces_stays_with_one_of_them() {
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let change = |index, added| Message::Address { index, address, added };
        let mut topology = topology([change(1, true), change(2, true), change(1, false)]);
        assert!(topology.is_local(address));
        topology.apply(change(2, false));
        assert!(!topology.is_local(address));
    }
}
