//! The cluster of a run as it truly is: what the API server has at which time, and who holds which
//! address on the network.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    policies::{End, Label, Labels, Net},
    time::{Ms, Timeline},
};

/// The agent's node.
pub(crate) const NODE: &str = "worker-1";
pub(crate) const OTHER_NODE: &str = "worker-2";

/// The first addresses of the nodes' pods, in 10.1.0.0/24: the halves of it are their pod networks.
const FIRST_LOCAL: u8 = 10;
pub(crate) const FIRST_REMOTE: u8 = 138;

/// How long an address rests before another pod gets it.
const REST: Ms = 500;

/// A workload of the cast.
pub(crate) struct Deployment {
    pub(crate) namespace: &'static str,
    pub(crate) name: &'static str,
    /// The port that its pods listen on, and which its Service sends to; `None`: it only connects.
    pub(crate) port: Option<u16>,
}

pub(crate) const SERVICE_PORT: u16 = 80;

pub(crate) const WEB: usize = 0;
pub(crate) const BATCH: usize = 1;
pub(crate) const API: usize = 2;
pub(crate) const DB: usize = 3;

/// Who plays: two that connect, and two that are connected to, each behind a Service of its name.
pub(crate) const CAST: [Deployment; 4] = [
    Deployment { namespace: "shop", name: "web", port: None },
    Deployment { namespace: "shop", name: "batch", port: None },
    Deployment { namespace: "back", name: "api", port: Some(8080) },
    Deployment { namespace: "back", name: "db", port: Some(5432) },
];

pub(crate) const NAMESPACES: [&str; 2] = ["shop", "back"];

/// What a run may set on a namespace or a pod to be selected by, beside `app`.
pub(crate) const TEAM: Label = ("team", "front");
pub(crate) const ROLE: Label = ("role", "client");
pub(crate) const CANARY: Label = ("track", "canary");

pub(crate) fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, last])
}

/// The address of a server's Service.
pub(crate) fn service_address(deployment: usize) -> IpAddr {
    let last = u8::try_from(deployment).expect("one of the cast");
    IpAddr::from([10, 96, 0, last])
}

/// A pod, from its beginning to its end.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) deployment: usize,
    pub(crate) slot: usize,
    pub(crate) name: String,
    pub(crate) created: Ms,
    pub(crate) is_local: bool,
    pub(crate) address: u8,
    /// When its network came and went.
    pub(crate) up: Option<Ms>,
    pub(crate) down: Option<Ms>,
    /// As the API server has it.
    pub(crate) states: Timeline<PodState>,
}

/// A pod as the API server has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodState {
    pub(crate) labels: Labels,
    /// Whether its address is known.
    pub(crate) has_address: bool,
    pub(crate) is_ready: bool,
    pub(crate) is_terminating: bool,
}

impl Pod {
    pub(crate) const fn workload(&self) -> &'static Deployment {
        &CAST[self.deployment]
    }

    /// Whether it is on the network then.
    pub(crate) fn is_up(&self, time: Ms) -> bool {
        self.up.is_some_and(|up| up <= time) && self.down.is_none_or(|down| time < down)
    }

    pub(crate) fn id(&self) -> String {
        format!("{}/{}", self.workload().namespace, self.name)
    }
}

/// An endpoint of a Service.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "its conditions are booleans in the API as well")]
pub(crate) struct Endpoint {
    pub(crate) address: u8,
    pub(crate) is_local: bool,
    pub(crate) is_ready: bool,
    pub(crate) is_serving: bool,
    pub(crate) is_terminating: bool,
}

/// The cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) pods: Vec<Pod>,
    pub(crate) namespaces: BTreeMap<&'static str, Timeline<Labels>>,
    pub(crate) policies: BTreeMap<&'static str, Timeline<Net>>,
    /// What is behind the servers' Services.
    pub(crate) slices: BTreeMap<usize, Timeline<Vec<Endpoint>>>,
    /// Whether Services keep to the endpoints of the client's node (`internalTrafficPolicy: Local`).
    pub(crate) keeps_local: bool,
}

/// What becomes of a connection to a Service on a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Course {
    To(u8),
    /// Nobody is behind it: ICMP, port unreachable.
    Rejected,
    /// Nobody of the node is: dropped in silence.
    Dropped,
}

impl Cluster {
    /// The pod in a place, if one is there and not about to end.
    pub(crate) fn in_slot(&self, deployment: usize, slot: usize) -> Option<usize> {
        self.pods.iter().rposition(|pod| {
            (pod.deployment, pod.slot) == (deployment, slot)
                && pod.states.latest().is_some_and(|state| !state.is_terminating)
        })
    }

    /// Who holds an address on the network then.
    pub(crate) fn holder(&self, address: u8, time: Ms) -> Option<usize> {
        self.pods.iter().position(|pod| pod.address == address && pod.is_up(time))
    }

    /// The lowest address of a node that nobody has and that has rested.
    pub(crate) fn free_address(&self, is_local: bool, time: Ms) -> u8 {
        let first = if is_local { FIRST_LOCAL } else { FIRST_REMOTE };
        let is_taken = |address: &u8| {
            self.pods.iter().any(|pod| {
                let has_it = pod.up.is_some() && pod.address == *address;
                has_it && pod.down.is_none_or(|down| time < down + REST)
            })
        };
        (first..=u8::MAX).find(|address| !is_taken(address)).expect("a few pods")
    }

    /// What is behind a Service by the pods as the API server has them now.
    pub(crate) fn endpoints(&self, deployment: usize) -> Vec<Endpoint> {
        let of_it = self.pods.iter().filter(|pod| pod.deployment == deployment);
        let endpoint = |pod: &Pod| {
            let state = pod.states.latest().filter(|state| state.has_address)?;
            Some(Endpoint {
                address: pod.address,
                is_local: pod.is_local,
                is_ready: state.is_ready && !state.is_terminating,
                is_serving: state.is_ready,
                is_terminating: state.is_terminating,
            })
        };
        of_it.filter_map(endpoint).collect()
    }

    /// What kube-proxy of a node makes of a connection then; `salt` is its chance.
    pub(crate) fn course(&self, service: usize, is_local: bool, salt: usize, time: Ms) -> Course {
        let none = Vec::new();
        let slice = self.slices.get(&service).and_then(|slice| slice.enforced_at(time));
        let endpoints = slice.unwrap_or(&none);
        let usable = |of_node: bool| -> Vec<u8> {
            let mut ready = endpoints.clone();
            ready.retain(|own| !of_node || own.is_local == is_local);
            if ready.iter().any(|own| own.is_ready) {
                ready.retain(|own| own.is_ready);
            } else {
                ready.retain(|own| own.is_serving && own.is_terminating);
            }
            ready.iter().map(|own| own.address).collect()
        };
        let (all, own) = (usable(false), usable(self.keeps_local));
        match (all.is_empty(), own.is_empty()) {
            (true, _) => Course::Rejected,
            (false, true) => Course::Dropped,
            (false, false) => Course::To(own[salt % own.len()]),
        }
    }

    /// The pod that the network plugin knows under an address then, of two the latest, as it knows it.
    pub(crate) fn enforced_end(&self, address: u8, time: Ms) -> Option<End<'_>> {
        let known = self.pods.iter().filter(|pod| pod.address == address).filter_map(|pod| {
            let state = pod.states.enforced_at(time).filter(|state| state.has_address)?;
            Some((pod.states.enforced_since(time), pod, state))
        });
        let (_, pod, state) = known.max_by_key(|(since, ..)| *since)?;
        let namespace = pod.workload().namespace;
        let of = self.namespaces[namespace].enforced_at(time)?;
        Some(End { namespace, of, labels: &state.labels })
    }

    /// The policies that the network plugin enforces then.
    pub(crate) fn enforced_policies(&self, time: Ms) -> Vec<&Net> {
        self.policies.values().filter_map(|policy| policy.enforced_at(time)).collect()
    }
}
