//! Services from a seed: one of each [`Face`], with pods of the case and others behind them, on two
//! nodes.
//!
//! Left out is what kube-proxy takes no part in (`ExternalName`), hints, and dual stack: the API server
//! of a fleet gives out addresses of one family.

mod endpoints;
mod rollout;
mod sorts;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use serde_json::{Value, json};

use crate::play::random::Random;

pub use self::sorts::Sort;
use super::{Case, Chance, DNS, Features, PORTS};
use crate::world::manifest::running;

/// The nodes of such a cluster.
pub const NODES: [CaseNode; 2] = [
    CaseNode { name: "node-1", address: Ipv4Addr::new(192, 168, 71, 2), third: 1 },
    CaseNode { name: "node-2", address: Ipv4Addr::new(192, 168, 72, 2), third: 2 },
];
/// Somebody outside of the cluster, who listens as the pods do: where a fleet's API server is.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 70, 1);
/// What addresses of `externalIPs` are from; clients outside reach them through the first node.
pub const EXTERNAL: &str = "198.51.100.0/24";
/// What addresses of load balancers are from; clients outside reach them through the first node.
pub const BALANCERS: &str = "203.0.113.0/24";
/// The last byte of the first pod's address; that of the others follows.
const FIRST_POD: u8 = 8;
/// Ports that Services have, most of them others than those of the pods.
const SERVICE_PORTS: [u16; 4] = [80, 81, 443, 9000];
/// A port that no Service has.
const MISSING_PORT: u16 = 7;
/// The ports of nodes that a cluster gives out begin here,
const NODE_PORTS: u16 = 30_000;
/// a case has as many of them,
const NODE_PORTS_OF_CASE: u16 = 40;
/// and so many cases have others than each other (the range ends at 32767).
const CASES_APART: u64 = 60;
/// A second name for a port, which only some pods have: `main` is everybody's.
const SIDE: &str = "side";
/// Ranges of clients that a balancer's Service may take connections from.
const SOURCE_RANGES: [&str; 4] =
    ["10.244.1.0/24", "10.244.2.0/24", "192.168.70.0/24", "192.168.71.0/24"];
/// What an `ipBlock` of a case names: nodes, the outside, and addresses of Services, to which no packet
/// goes that policies see, unless nothing is behind them.
const BLOCKS: [&str; 5] =
    ["192.168.71.2/32", "192.168.72.2/32", "192.168.70.0/24", "192.168.0.0/16", "10.96.0.0/16"];

/// A node of a case.
#[derive(Debug, PartialEq, Eq)]
pub struct CaseNode {
    /// Its name.
    pub name: &'static str,
    /// Its address.
    pub address: Ipv4Addr,
    /// The third byte of its pods' addresses.
    third: u8,
}

impl CaseNode {
    /// Where its pods' addresses are from.
    pub fn pods(&self) -> String {
        format!("10.244.{}.0/24", self.third)
    }
}

/// Whether an endpoint may be used, as the endpoint slice controller sees its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is ready.
    Ready,
    /// It is not, or not any more.
    NotReady,
    /// It is being deleted, and is ready as long as that lasts.
    Ending,
    /// It is being deleted, and is not ready.
    Ended,
}

impl State {
    /// Whether its pod has the condition `Ready`.
    pub const fn serves(self) -> bool {
        matches!(self, Self::Ready | Self::Ending)
    }

    /// Whether its pod is being deleted.
    pub const fn is_ending(self) -> bool {
        matches!(self, Self::Ending | Self::Ended)
    }
}

/// Where a pod of the case is, and how it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Its node.
    pub node: &'static CaseNode,
    /// Its address.
    pub address: Ipv4Addr,
    /// How it is.
    pub state: State,
}

/// By what a Service is there for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// An address inside the cluster.
    Cluster,
    /// A port of all nodes besides.
    NodePort,
    /// `externalIPs` besides.
    External,
    /// Addresses of a load balancer besides.
    Balancer,
    /// Its name alone.
    Headless,
}

/// Those of the Services of a case, in order.
const FACES: [Face; 6] =
    [Face::Cluster, Face::NodePort, Face::External, Face::Balancer, Face::Headless, Face::Cluster];

/// What says which endpoints a Service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// Its selector; the slices are the controller's.
    Selector,
    /// Slices that a person wrote.
    Slices,
    /// `Endpoints`; the slices are the mirroring controller's.
    Endpoints,
}

/// A Service that is to be, and what is behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseService {
    /// By what it is there.
    pub face: Face,
    /// Its manifest, with its status.
    pub manifest: Value,
    /// Its slices.
    pub slices: Vec<Value>,
    /// `Endpoints` of its name.
    pub endpoints: Option<Value>,
    source: Source,
    behind: Vec<Behind>,
}

/// An endpoint of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Behind {
    /// The number of the pod that it is, if it is one.
    pod: Option<usize>,
    address: Ipv4Addr,
    node: Option<&'static CaseNode>,
    state: State,
}

/// A port of a Service, as its manifest is to have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    name: &'static str,
    number: u16,
    protocol: &'static str,
    target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Number(u16),
    Name(&'static str),
}

/// A cluster with Services, and all that is asked of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Served {
    /// The cluster without them.
    pub case: Case,
    /// Where its pods are, in their order.
    pub pods: Vec<Placed>,
    /// The Services.
    pub services: Vec<CaseService>,
}

/// By what a client dials a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Its cluster address.
    Cluster,
    /// Its cluster address, and a port that it does not have.
    MissingPort,
    /// A port of this node's address.
    NodePort(usize),
    /// One of its `externalIPs`.
    External,
    /// An address of its load balancer.
    Balancer,
    /// An address of a balancer that no node translates.
    OwnBalancer,
    /// Its name, which stands for this address among others.
    Headless,
}

/// An address and port by which a Service is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frontend {
    /// The number of the Service.
    pub service: usize,
    /// By what.
    pub by: By,
    /// What is dialled.
    pub to: SocketAddr,
    /// Whether over UDP.
    pub is_udp: bool,
}

/// Who dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// The pod of this number.
    Pod(usize),
    /// The node of this number.
    Node(usize),
    /// Somebody outside.
    Outside,
}

impl Served {
    /// The cluster of a seed: the same one, whenever and wherever. Its pods and policies are those of
    /// [`Case::generate`], with a policy about addresses besides.
    pub fn generate(seed: u64, features: Features) -> Self {
        let mut case = Case::generate(seed, features);
        // Other numbers than those that the case was made of.
        let mut chance = Chance { random: Random::new(!seed), features };
        let pods = (0..).take(case.pods.len()).map(|number| chance.place(number)).collect();
        if chance.random.is_one_in(2) {
            let policy = chance.policy_of_addresses(&case);
            case.policies.push(policy);
        }
        for pod in &mut case.pods {
            if chance.random.is_one_in(2) {
                let ports = &mut pod.manifest["spec"]["containers"][0]["ports"];
                let side = json!({ "name": SIDE, "containerPort": PORTS[2] });
                ports.as_array_mut().into_iter().for_each(|ports| ports.push(side.clone()));
            }
        }
        let mut served = Self { case, pods, services: Vec::new() };
        for (number, face) in (0..).zip(FACES) {
            let service = chance.service(&mut served, number, face);
            served.services.push(service);
        }
        served
    }

    /// The namespaces and the pods as they run, without what deleting them adds.
    pub fn running(&self) -> Vec<Value> {
        let pods = self.case.pods.iter().zip(&self.pods);
        pods.map(|(pod, placed)| {
            let mut pod = running(pod.manifest.clone(), placed.node.name, &[placed.address.into()]);
            let ready = if placed.state.serves() { "True" } else { "False" };
            pod["status"]["conditions"] = json!([{ "type": "Ready", "status": ready }]);
            pod
        })
        .collect()
    }

    /// Everything of the Services: themselves, slices and `Endpoints`.
    pub fn services(&self) -> Vec<Value> {
        let all = self.services.iter();
        all.flat_map(|service| {
            let slices = service.slices.iter().chain(&service.endpoints);
            [&service.manifest].into_iter().chain(slices).cloned()
        })
        .collect()
    }

    /// Everything, as manifests.
    pub fn objects(&self) -> Vec<Value> {
        let mut pods = self.running();
        for (pod, placed) in pods.iter_mut().zip(&self.pods) {
            if placed.state.is_ending() {
                pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
        }
        let nodes = NODES.iter().map(CaseNode::manifest).collect();
        let Case { namespaces, policies, .. } = &self.case;
        [nodes, namespaces.clone(), pods, self.services(), policies.clone()].concat()
    }

    /// Everything by which the Services can be dialled.
    pub fn frontends(&self) -> Vec<Frontend> {
        let services = self.services.iter().enumerate();
        services.flat_map(|(number, service)| service.frontends(number)).collect()
    }

    /// Who dials: all pods, all nodes, and somebody outside.
    pub fn clients(&self) -> Vec<Client> {
        let pods = (0..self.pods.len()).map(Client::Pod);
        pods.chain((0..NODES.len()).map(Client::Node)).chain([Client::Outside]).collect()
    }

    /// A client's address.
    pub fn address_of(&self, client: Client) -> IpAddr {
        match client {
            Client::Pod(number) => self.pods[number].address,
            Client::Node(number) => NODES[number].address,
            Client::Outside => OUTSIDE,
        }
        .into()
    }

    /// A client, for a person and for whydrop's commands.
    pub fn name_of(&self, client: Client) -> String {
        match client {
            Client::Pod(number) => {
                let pod = &self.case.pods[number];
                format!("{}/{}", pod.namespace, pod.name)
            }
            Client::Node(_) | Client::Outside => self.address_of(client).to_string(),
        }
    }
}

impl CaseNode {
    /// Its manifest.
    pub fn manifest(&self) -> Value {
        crate::world::manifest::node(self.name, &self.pods(), self.address.into())
    }
}

impl Frontend {
    /// Whether a client can send there at all. Only pods ask resolvers: of a datagram that its own
    /// filter rejects or drops a node hears the same (EPERM).
    pub const fn is_reached_by(&self, client: Client) -> bool {
        let is_from_outside = matches!(client, Client::Outside);
        let is_inside =
            matches!(self.by, By::Cluster | By::MissingPort | By::OwnBalancer | By::Headless);
        let is_pod = matches!(client, Client::Pod(_));
        (is_pod || !self.is_udp) && !(is_from_outside && is_inside)
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.is_udp { "UDP" } else { "TCP" };
        write!(f, "{}/{protocol} (svc-{}, {:?})", self.to, self.service, self.by)
    }
}

impl Chance {
    fn place(&mut self, number: u8) -> Placed {
        let node = &NODES[self.random.below(NODES.len())];
        let address = Ipv4Addr::new(10, 244, node.third, FIRST_POD + number);
        let state = match self.random.below(8) {
            0 => State::NotReady,
            1 => State::Ending,
            2 => State::Ended,
            _ => State::Ready,
        };
        Placed { node, address, state }
    }

    /// A policy about addresses that are no pods': what a node sends in its own name matches no selector.
    fn policy_of_addresses(&mut self, case: &Case) -> Value {
        let namespaces: Vec<&str> = case.pods.iter().map(|pod| pod.namespace).collect();
        let metadata =
            json!({ "name": "of-addresses", "namespace": self.random.one_of(&namespaces) });
        let mut spec = json!({ "podSelector": self.pods() });
        let block = json!({ "ipBlock": { "cidr": self.random.one_of(&BLOCKS) } });
        let (kind, rules, peers) = match self.random.is_one_in(2) {
            true => ("Ingress", "ingress", "from"),
            false => ("Egress", "egress", "to"),
        };
        spec["policyTypes"] = json!([kind]);
        let all_pods = json!({ "namespaceSelector": {} });
        spec[rules] = match self.random.is_one_in(2) {
            true => json!([{ peers: [block] }]),
            false => json!([{ peers: [block, all_pods] }]),
        };
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": metadata, "spec": spec,
        })
    }

    fn service(&mut self, served: &mut Served, number: u8, face: Face) -> CaseService {
        let namespace = served.case.pods[self.random.below(served.case.pods.len())].namespace;
        let source = match self.random.below(5) {
            0 => Source::Slices,
            1 => Source::Endpoints,
            _ => Source::Selector,
        };
        let publishes = source == Source::Selector && self.random.is_one_in(4);
        let behind = self.behind(served, number, namespace, source);
        let ports = self.ports(source);
        let mut spec = json!({ "ports": ports_of_spec(served.case.seed, number, face, &ports) });
        if source == Source::Selector {
            spec["selector"] = json!({ label(number): "true" });
        }
        if publishes {
            spec["publishNotReadyAddresses"] = true.into();
        }
        self.add_face(&mut spec, served.case.seed, number, face);
        let mut manifest = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": format!("svc-{number}"), "namespace": namespace },
            "spec": spec,
        });
        if face == Face::Balancer {
            let ingress = [
                json!({ "ip": balancer(served.case.seed, number) }),
                json!({ "ip": own_balancer(number), "ipMode": "Proxy" }),
            ];
            manifest["status"] = json!({ "loadBalancer": { "ingress": ingress } });
        }
        let mut service =
            CaseService { face, manifest, slices: Vec::new(), endpoints: None, source, behind };
        service.write_endpoints(&served.case, &ports);
        if source == Source::Selector && face != Face::Headless && self.random.is_one_in(4) {
            service.write_stale_endpoints(&served.pods, &ports);
        }
        service
    }

    /// What is behind a Service; pods that its selector is to select get its label.
    fn behind(
        &mut self,
        served: &mut Served,
        number: u8,
        namespace: &str,
        source: Source,
    ) -> Vec<Behind> {
        let is_own = |pod: usize| served.case.pods[pod].namespace == namespace;
        let is_any = source != Source::Selector;
        let pods: Vec<usize> =
            (0..served.pods.len()).filter(|pod| is_any || is_own(*pod)).collect();
        let is_unready = |pod: &usize| served.pods[*pod].state != State::Ready;
        let chosen: Vec<usize> = match self.random.below(8) {
            0 => Vec::new(),
            1 | 2 => pods.iter().copied().filter(is_unready).collect(),
            3 | 4 => pods,
            _ => pods.iter().copied().filter(|_| !self.random.is_one_in(3)).collect(),
        };
        if source == Source::Selector {
            for pod in &chosen {
                let labels = &mut served.case.pods[*pod].manifest["metadata"]["labels"];
                labels[label(number)] = "true".into();
            }
        }
        let of_pod = |pod: usize| {
            let Placed { node, address, state } = served.pods[pod];
            Behind { pod: Some(pod), address, node: Some(node), state }
        };
        let mut behind: Vec<Behind> = chosen.into_iter().map(of_pod).collect();
        if source != Source::Selector && self.random.is_one_in(2) {
            let state = State::Ready;
            behind.push(Behind { pod: None, address: OUTSIDE, node: None, state });
        }
        behind
    }

    fn ports(&mut self, source: Source) -> Vec<Wanted> {
        let target = match self.random.below(4) {
            0 if source == Source::Selector => Target::Name("main"),
            1 if source == Source::Selector => Target::Name(SIDE),
            _ => Target::Number(self.random.one_of(&PORTS)),
        };
        let number = self.random.one_of(&SERVICE_PORTS);
        let mut ports = vec![Wanted { name: "first", number, protocol: "TCP", target }];
        match self.random.below(4) {
            0 => {
                let target = Target::Number(DNS);
                ports.push(Wanted { name: "dns", number: DNS, protocol: "UDP", target });
            }
            1 => {
                let target = Target::Number(self.random.one_of(&PORTS));
                ports.push(Wanted { name: "second", number: 8000, protocol: "TCP", target });
            }
            _ => {}
        }
        ports
    }

    fn add_face(&mut self, spec: &mut Value, seed: u64, number: u8, face: Face) {
        spec["clusterIP"] = match face {
            Face::Headless => "None".into(),
            _ => format!("10.96.{}.{}", 1 + apart(seed), 10 + number).into(),
        };
        if face == Face::Headless {
            return;
        }
        spec["type"] = match face {
            Face::NodePort => "NodePort",
            Face::Balancer => "LoadBalancer",
            Face::Cluster | Face::External | Face::Headless => "ClusterIP",
        }
        .into();
        if face == Face::External {
            spec["externalIPs"] = json!([external(seed, number)]);
        }
        if face == Face::Balancer && self.random.is_one_in(2) {
            let ranges = [self.random.one_of(&SOURCE_RANGES), self.random.one_of(&SOURCE_RANGES)];
            spec["loadBalancerSourceRanges"] = json!(ranges);
        }
        if self.random.is_one_in(3) {
            spec["internalTrafficPolicy"] = "Local".into();
        }
        if face != Face::Cluster && self.random.is_one_in(2) {
            spec["externalTrafficPolicy"] = "Local".into();
        }
        if self.random.is_one_in(5) {
            spec["sessionAffinity"] = "ClientIP".into();
        }
    }
}

/// The label by which a Service selects.
fn label(number: u8) -> String {
    format!("behind-{number}")
}

/// Which of the numbers a seed has by which one cluster after the other keeps addresses and ports of its
/// own: what is left of the last one is not taken for this one's.
fn apart(seed: u64) -> u16 {
    u16::try_from(seed % CASES_APART).unwrap_or_default()
}

fn external(seed: u64, number: u8) -> Ipv4Addr {
    of_case([198, 51, 100], seed, number)
}

fn balancer(seed: u64, number: u8) -> Ipv4Addr {
    of_case([203, 0, 113], seed, number)
}

/// The balancer's own: nobody has it.
fn own_balancer(number: u8) -> Ipv4Addr {
    of_case([192, 0, 2], 0, number)
}

/// Two Services of a case have such addresses, of a network each.
fn of_case([a, b, c]: [u8; 3], seed: u64, number: u8) -> Ipv4Addr {
    let apart = u8::try_from(apart(seed)).unwrap_or_default();
    Ipv4Addr::new(a, b, c, 10 + 3 * apart + number % 3)
}

fn ports_of_spec(seed: u64, number: u8, face: Face, ports: &[Wanted]) -> Vec<Value> {
    let given = 3 * u16::from(number);
    (0..)
        .zip(ports)
        .map(|(index, port)| {
            let target = match port.target {
                Target::Number(number) => json!(number),
                Target::Name(name) => json!(name),
            };
            let mut entry = json!({
                "name": port.name, "port": port.number, "protocol": port.protocol,
                "targetPort": target,
            });
            if matches!(face, Face::NodePort | Face::Balancer) {
                let of_case = NODE_PORTS_OF_CASE * apart(seed);
                entry["nodePort"] = (NODE_PORTS + of_case + given + index).into();
            }
            entry
        })
        .collect()
}
