//! What a flow is for, where that needs another fix than its class suggests.
//!
//! Each is recognised from the objects and the addresses alone: what a name only looks like says
//! nothing. [`RECOGNISED`] is the table; where several would do, the first is it.

mod callers;
mod look_up;
mod mesh;
mod words;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use super::Situation;
use crate::{
    cluster::{
        Snapshot,
        known_address::Purpose,
        object::{Probe, Service, TrafficPolicy},
        profile::{Blocks, Translation},
        resolve::{Endpoint, Holder},
    },
    flow::Direction,
    verdict::{Decision, Question, Verdict, evaluate},
};
use callers::{Awaited, Monitored};
pub(super) use look_up::to_look_up;
pub(super) use mesh::carried;

/// The port of an API server on its node, where nothing says another: kubeadm's, and most others'.
const API_PORT: u16 = 6443;

const DNS_PORT: u16 = 53;

/// The source of the kubelet's probes in Istio's ambient mesh (`DefaultHostProbeSNATIP`).
const MESH_PROBE: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 7, 127));

/// The port of ztunnel, which carries the connections of an ambient mesh (HBONE).
const HBONE: u16 = 15008;

/// What a situation is recognised by.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) question: &'a Question,
    pub(super) verdict: &'a Verdict,
    /// The address and port that the client dialled.
    pub(super) dialled: (IpAddr, u16),
    /// Whether it was dialled as a Service's, and what arrives is a backend's.
    pub(super) is_translated: bool,
    /// Whether nothing was seen of it: it is only asked what would happen.
    pub(super) is_asked: bool,
}

/// A situation, with what its sentence says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Trap {
    /// To the API server.
    ApiServer(ApiServer),
    /// From the API server, to what objects of its own name.
    ApiServerCalls(Vec<Awaited>),
    /// Between pods of an ambient mesh: what policies say of the port that its packets go to.
    Mesh(Tunnel),
    /// The kubelet's probe of a pod of an ambient mesh, with the source that this gives it.
    MeshProbe(Probe, IpAddr),
    /// To the metadata service of a cloud.
    Metadata(IpAddr),
    /// To the node-local cache of the cluster's DNS. It is a look-up, as others are.
    NodeDns(IpAddr),
    /// To a port that a pod, or a monitor, asks Prometheus to scrape.
    Scrape(Monitored),
    /// From a node, to a pod of a Service for which nodes replace the source.
    NodeSource(Arc<Service>),
    /// A pod that reaches itself through its Service.
    Hairpin(Arc<Service>),
}

/// The API server as a destination.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ApiServer {
    /// The address and port of its Service, if they are known.
    pub(super) service: Option<(IpAddr, u16)>,
    /// Its own addresses and ports.
    pub(super) endpoints: Vec<(IpAddr, u16)>,
    /// Whether the engine judges egress by them, or by the Service's address.
    pub(super) egress: Translation,
    /// Whether they are nodes', and no `ipBlock` of the engine matches nodes.
    pub(super) is_beyond_blocks: bool,
}

/// The port to which the packets of an ambient mesh go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tunnel {
    /// It was that port which was asked about, or to which packets were dropped.
    Denied,
    /// Another one was, which policies allow; they deny that one.
    DeniedBeside,
    /// Another one was, and policies deny both.
    BothDenied,
    /// Another one was, which policies deny; they allow that one.
    AllowedBeside,
}

/// How a situation is recognised.
type Recognise = fn(&Scene<'_>) -> Option<Trap>;

const RECOGNISED: &[Recognise] = &[
    to_api_server,
    callers::from_api_server,
    to_metadata,
    to_node_dns,
    mesh::tunnel,
    mesh::probe,
    to_itself,
    callers::scrape,
    behind_node,
];

/// Which situation it is.
pub(super) fn trap(scene: &Scene<'_>) -> Option<Trap> {
    RECOGNISED.iter().find_map(|recognise| recognise(scene))
}

impl Trap {
    /// The same without what it says.
    pub(super) const fn situation(&self) -> Situation {
        match self {
            Self::ApiServer(_) => Situation::ApiServer,
            Self::ApiServerCalls(_) => Situation::ApiServerCalls,
            Self::Mesh(_) => Situation::Mesh,
            Self::MeshProbe(..) => Situation::MeshProbe,
            Self::Metadata(_) => Situation::Metadata,
            Self::NodeDns(_) => Situation::Dns,
            Self::Scrape(_) => Situation::Scrape,
            Self::NodeSource(_) => Situation::NodeSource,
            Self::Hairpin(_) => Situation::Hairpin,
        }
    }

    /// Whether it is worth knowing of a flow that no policy denies as well.
    pub(super) const fn is_beside_the_verdict(&self) -> bool {
        matches!(self, Self::Mesh(Tunnel::DeniedBeside) | Self::MeshProbe(..) | Self::Hairpin(_))
    }
}

impl Scene<'_> {
    fn denies(&self, direction: Direction) -> bool {
        self.verdict.denied_directions().any(|denied| denied == direction)
    }

    /// What policies would say of the same flow with other ends or another port.
    fn with(&self, change: impl FnOnce(&mut Question)) -> Decision {
        let mut question = self.question.clone();
        change(&mut question);
        evaluate(self.snapshot, &question).decision()
    }
}

fn to_api_server(scene: &Scene<'_>) -> Option<Trap> {
    let Scene { snapshot, question, .. } = scene;
    if !scene.denies(Direction::Egress) {
        return None;
    }
    let endpoints = snapshot.api_server_endpoints();
    let service = snapshot.api_server();
    let dialled = snapshot.resolve(scene.dialled.0, None).holder;
    let is_service = matches!(&dialled, Holder::Service(service) if service.is_api_server());
    let address = question.destination.address;
    let is_endpoint = address.is_some_and(|address| endpoints.contains(&(address, question.port)));
    let port_of_endpoints = endpoints.first().map_or(API_PORT, |(_, port)| *port);
    let is_control_plane = match &question.destination.holder {
        Holder::Node(node) => node.is_of_control_plane() && question.port == port_of_endpoints,
        _ => false,
    };
    if !(is_service || is_endpoint || is_control_plane) {
        return None;
    }
    let own = address.filter(|_| !is_service).map(|address| (address, question.port));
    let endpoints = match endpoints.is_empty() {
        true => own.into_iter().collect(),
        false => endpoints,
    };
    let service = service.and_then(|service| {
        let address = service.cluster_addresses.first()?;
        Some((*address, service.ports.first()?.port))
    });
    let profile = snapshot.profile();
    let is_node = |(address, _): &(IpAddr, u16)| {
        matches!(snapshot.resolve(*address, None).holder, Holder::Node(_))
    };
    let is_beyond_blocks = profile.blocks == Blocks::OutsideOnly && endpoints.iter().any(is_node);
    let egress = profile.egress;
    Some(Trap::ApiServer(ApiServer { service, endpoints, egress, is_beyond_blocks }))
}

fn to_metadata(scene: &Scene<'_>) -> Option<Trap> {
    let address = of_purpose(&scene.question.destination, Purpose::Metadata)?;
    scene.denies(Direction::Egress).then_some(Trap::Metadata(address))
}

fn to_node_dns(scene: &Scene<'_>) -> Option<Trap> {
    let address = of_purpose(&scene.question.destination, Purpose::NodeDns)?;
    (scene.question.port == DNS_PORT).then_some(Trap::NodeDns(address))
}

/// The address of an end, if it is known to be for this.
fn of_purpose(end: &Endpoint, purpose: Purpose) -> Option<IpAddr> {
    let known = end.known_address().filter(|known| known.purpose == purpose);
    end.address.filter(|_| known.is_some())
}

fn to_itself(scene: &Scene<'_>) -> Option<Trap> {
    let (source, destination) = (scene.question.source.pod()?, scene.question.destination.pod()?);
    let is_same = (&source.namespace, &source.name) == (&destination.namespace, &destination.name);
    // Of what is only asked it is worth knowing where policies decide.
    let is_exempt = scene.is_asked && scene.verdict.exempt.is_some();
    if !is_same || !scene.is_translated || is_exempt {
        return None;
    }
    match scene.snapshot.resolve(scene.dialled.0, None).holder {
        Holder::Service(service) => Some(Trap::Hairpin(service)),
        _ => None,
    }
}

/// A node that is not the pod's own: what it sends by itself is seldom for pods.
fn behind_node(scene: &Scene<'_>) -> Option<Trap> {
    let Holder::Node(node) = &scene.question.source.holder else { return None };
    let pod = scene.question.destination.pod()?;
    if pod.node.as_ref() == Some(&node.name) || !scene.denies(Direction::Ingress) {
        return None;
    }
    let replaces_source = |service: &&Arc<Service>| {
        service.external_policy == TrafficPolicy::Cluster
            && callers::is_behind(service, pod)
            && service.ports.iter().any(|port| {
                let is_entered = port.node_port.is_some() || !service.balancers.is_empty();
                is_entered && callers::is_target(pod, &port.target, scene.question.port)
            })
    };
    let services = scene.snapshot.services().filter(replaces_source);
    services.min_by(|a, b| a.name.cmp(&b.name)).map(|service| Trap::NodeSource(service.clone()))
}
