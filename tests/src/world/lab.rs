//! A node and its pods, made of network namespaces and veth pairs.
//!
//! ```text
//!   pod ns            node ns                    outside ns             pod ns of another node
//!   eth0 ─── veth ─── veth0 … (forwards) eth0 ─── node0 (forwards) ─── veth0 … ─── eth0
//! ```
//!
//! A pod has a /32 (or /128) and a link-local gateway that its veth's host end answers for, as with
//! Calico. "Outside" is all that lies behind the node's uplink: the gateway, the rest of the world,
//! the other nodes and their pods. Nothing of it touches the machine's own network.

pub mod client;
pub mod filter;
pub mod packet;
pub mod server;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    Objects, Pod, World,
    cluster::{Cluster, DescribedPod},
    manifest,
    namespace::{Namespace, Network, sweep},
    netns,
};
use crate::play::{
    marker,
    scenario::{ReversePath, Scenario},
};

/// The gateway of every pod, as Calico gives it; nobody holds it, proxy ARP answers.
const GATEWAY_V4: &str = "169.254.1.1";
/// The gateway of every pod, held by the host end of each veth.
const GATEWAY_V6: &str = "fe80::1";
/// The uplink of the node, named as on most machines.
const UPLINK: &str = "eth0";

/// Numbers the labs of one process.
static RUN: AtomicU32 = AtomicU32::new(0);

/// The namespaces of one scenario, removed when dropped.
#[derive(Debug)]
pub struct Lab {
    /// The node on which the agent runs.
    pub node: Namespace,
    outside: Namespace,
    /// By `namespace/name`, with the name of the veth's host end.
    pods: BTreeMap<String, (Namespace, String)>,
    cluster: Cluster,
    node_name: String,
    node_addresses: Vec<IpAddr>,
    outside_addresses: Vec<IpAddr>,
    /// What the agent watches.
    manifests: TempDir,
    run: u32,
    /// How many pods there have been.
    count: usize,
    /// How many manifests were applied without a name of their own.
    applied: usize,
}

/// Where traffic starts: a namespace and, where it matters, the address to send from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'lab> {
    /// The namespace.
    pub namespace: &'lab Namespace,
    /// The address to bind to; `None` leaves it to the kernel.
    pub source: Option<IpAddr>,
}

impl Lab {
    /// Builds what a scenario's manifests describe, and the marker's two pods.
    pub fn build(scenario: &Scenario) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root");
        sweep();
        let manifests = copy(&scenario.folder.join("manifests"))?;
        let mut cluster = Cluster::read(manifests.path())?;
        let run = RUN.fetch_add(1, Ordering::Relaxed);
        let node_addresses = cluster.node(&scenario.node)?.addresses.clone();
        let others = cluster.nodes.iter().filter(|node| node.name != scenario.node);
        let mut outside_addresses = scenario.outside.clone();
        outside_addresses.extend(others.flat_map(|node| &node.addresses));

        let mut lab = Self {
            node: Namespace::create(run, "node")?,
            outside: Namespace::create(run, "outside")?,
            pods: BTreeMap::new(),
            cluster: Cluster::default(),
            node_name: scenario.node.clone(),
            node_addresses,
            outside_addresses,
            manifests,
            run,
            count: 0,
            applied: 0,
        };
        router(&lab.node, scenario.reverse_path)?;
        router(&lab.outside, ReversePath::Off)?;
        lab.connect_node()?;
        cluster.pods.extend(marker::pods(&scenario.node));
        lab.follow(cluster)?;
        lab.put("marker.yaml", &marker::manifest(&scenario.node))?;
        Ok(lab)
    }

    /// The folder that the agent watches.
    pub fn manifests(&self) -> &Path {
        self.manifests.path()
    }

    /// Writes a manifest into that folder.
    pub fn put(&self, name: &str, text: &str) -> Result<()> {
        manifest::put(self.manifests.path(), name, text)
    }

    /// Takes a manifest away from there.
    pub fn take_away(&self, name: &Path) -> Result<()> {
        Ok(fs::remove_file(self.manifests.path().join(name))?)
    }

    /// Makes the pods that the manifests have and the lab has not yet.
    pub fn follow(&mut self, cluster: Cluster) -> Result<()> {
        for pod in cluster.pods {
            if self.pods.contains_key(&pod.key) {
                continue;
            }
            let index = self.count;
            self.count += 1;
            let namespace = Namespace::create(self.run, &format!("pod{index}"))?;
            let veth = format!("veth{index}");
            let local = pod.node == self.node_name;
            let host = if local { &self.node } else { &self.outside };
            connect_pod(host, &namespace, &pod, &veth)?;
            if local {
                self.route_back(&pod)?;
            }
            self.pods.insert(pod.key.clone(), (namespace, veth));
            self.cluster.pods.push(pod);
        }
        Ok(())
    }

    /// Takes a pod's interface away while an agent is attached to it.
    pub fn unplug(&self, pod: &str) -> Result<()> {
        let (_, veth) = self.pods.get(pod).with_context(|| format!("no pod {pod}"))?;
        self.node.ip(&format!("link delete {veth}\n"))
    }

    /// Finds who is called `who`: `namespace/pod`, `node`, `outside`, or an address outside.
    pub fn origin(&self, who: &str) -> Result<Origin<'_>> {
        if let Ok(address) = who.parse() {
            ensure!(self.outside_addresses.contains(&address), "nobody outside holds {address}");
            return Ok(Origin { namespace: &self.outside, source: Some(address) });
        }
        let namespace = match who {
            "node" => &self.node,
            "outside" => &self.outside,
            pod => &self.pods.get(pod).with_context(|| format!("no pod {pod} in the manifests"))?.0,
        };
        Ok(Origin { namespace, source: None })
    }

    /// Resolves `namespace/pod:port`, `node:port`, `address:port` or `[address]:port`.
    pub fn target(&self, to: &str) -> Result<SocketAddr> {
        if let Ok(address) = to.parse() {
            return Ok(address);
        }
        let (who, port) = to.rsplit_once(':').with_context(|| format!("{to} names no port"))?;
        let port = port.parse().with_context(|| format!("{to}: {port} is no port"))?;
        Ok(SocketAddr::new(self.address(who)?, port))
    }

    /// The first address of a pod, or of the node.
    pub fn address(&self, who: &str) -> Result<IpAddr> {
        let addresses = match who {
            "node" => &self.node_addresses,
            pod => &self.cluster.pod(pod)?.addresses,
        };
        addresses.first().copied().with_context(|| format!("{who} holds no address"))
    }

    /// The uplink of the node: its addresses, the gateway outside, and everything held there.
    fn connect_node(&self) -> Result<()> {
        let (node, outside) = (self.node.name(), self.outside.name());
        let links =
            format!("link add {UPLINK} netns {node} type veth peer node0 netns {outside}\n");
        let (mut inside, mut beyond) = (String::new(), String::new());
        for &address in &self.node_addresses {
            let (gateway, prefix) = gateway(address)?;
            writeln!(inside, "address add {address}/{prefix} dev {UPLINK}{}", nodad(address))?;
            writeln!(beyond, "address add {gateway}/{prefix} dev node0{}", nodad(gateway))?;
        }
        for &address in &self.outside_addresses {
            writeln!(beyond, "address add {address} dev lo{}", nodad(address))?;
        }
        for (text, link) in [(&mut inside, UPLINK), (&mut beyond, "node0")] {
            writeln!(text, "link set {link} up")?;
        }
        for &address in &self.node_addresses {
            writeln!(inside, "route add default via {}", gateway(address)?.0)?;
        }
        if !self.node_addresses.iter().any(IpAddr::is_ipv4) {
            // Proxy ARP answers only for what there is a route to.
            writeln!(inside, "route add default dev {UPLINK}")?;
        }
        self.node.ip(&links)?;
        self.node.ip(&inside)?;
        self.outside.ip(&beyond)
    }

    /// The way from outside to a pod of the node.
    fn route_back(&self, pod: &DescribedPod) -> Result<()> {
        let mut routes = String::new();
        for address in &pod.addresses {
            let mut nodes = self.node_addresses.iter();
            if let Some(via) = nodes.find(|node| node.is_ipv4() == address.is_ipv4()) {
                writeln!(routes, "route add {address} via {via}")?;
            }
        }
        self.outside.ip(&routes)
    }
}

impl World for Lab {
    fn nodes(&self) -> Vec<String> {
        vec![self.node_name.clone()]
    }

    fn network(&self, node: &str) -> Result<Network> {
        ensure!(node == self.node_name, "no agent can watch {node}");
        Ok(self.node.network().clone())
    }

    fn objects(&self) -> Objects<'_> {
        Objects::Folder(self.manifests.path())
    }

    fn apply(&mut self, manifests: &str) -> Result<()> {
        self.follow(Cluster::parse(manifests)?)?;
        self.applied += 1;
        self.put(&format!("applied-{:03}.yaml", self.applied), manifests)
    }

    fn run(&mut self, manifest: &Value) -> Result<Pod> {
        let network = self.cluster.pods.iter().find_map(|pod| match pod.addresses.first()? {
            IpAddr::V4(v4) if pod.node == self.node_name => Some(v4.octets()),
            _ => None,
        });
        let [a, b, c, _] = network.context("no pod of this node to take a network from")?;
        let held: Vec<&IpAddr> = self.cluster.pods.iter().flat_map(|pod| &pod.addresses).collect();
        let mut free = (1..u8::MAX).map(|last| IpAddr::from([a, b, c, last]));
        let address =
            free.find(|address| !held.contains(&address)).context("no address is left")?;
        let node = self.node_name.clone();
        self.run_at(manifest, &node, address)
    }

    fn pod(&self, key: &str) -> Result<Pod> {
        let (namespace, _) = self.pods.get(key).with_context(|| format!("no pod {key}"))?;
        let DescribedPod { addresses, .. } = self.cluster.pod(key)?;
        let network = namespace.network().clone();
        Ok(Pod { key: key.to_owned(), network, addresses: addresses.clone() })
    }

    fn stand_in(&mut self, pod: &str, passes: bool) -> Result<()> {
        netns::stand_in(&self.node, self.pod(pod)?.address()?, passes)
    }
}

/// A copy of a folder.
fn copy(folder: &Path) -> Result<TempDir> {
    let copy = tempfile::tempdir()?;
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        fs::copy(entry.path(), copy.path().join(entry.file_name()))?;
    }
    Ok(copy)
}

/// Makes a namespace that forwards, with nothing in the way of packets but what a scenario adds.
pub(crate) fn router(namespace: &Namespace, reverse_path: ReversePath) -> Result<()> {
    let reverse_path = match reverse_path {
        ReversePath::Off => "0",
        ReversePath::Strict => "1",
    };
    quick_addresses(namespace)?;
    namespace.set(&[
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv4/conf/all/rp_filter", reverse_path),
        ("ipv4/conf/default/rp_filter", reverse_path),
    ])
}

/// IPv6 addresses that can be used at once, without waiting for duplicates to complain.
fn quick_addresses(namespace: &Namespace) -> Result<()> {
    namespace.set(&[("ipv6/conf/all/accept_dad", "0"), ("ipv6/conf/default/accept_dad", "0")])?;
    namespace.ip("link set lo up\n")
}

/// A pod's namespace with its veth pair and the routes of both ends.
pub(crate) fn connect_pod(
    host: &Namespace,
    namespace: &Namespace,
    pod: &DescribedPod,
    veth: &str,
) -> Result<()> {
    quick_addresses(namespace)?;
    host.ip(&format!(
        "link add {veth} type veth peer eth0 netns {}\nlink set {veth} up\n",
        namespace.name()
    ))?;
    host.set(&[
        (&format!("ipv4/conf/{veth}/proxy_arp"), "1"),
        // The kernel would wait up to 0.8 s before it answers for another.
        (&format!("ipv4/neigh/{veth}/proxy_delay"), "0"),
    ])?;
    let mut outer = format!("address add {GATEWAY_V6}/64 dev {veth} nodad\n");
    let mut inner = "link set eth0 up\n".to_owned();
    for &address in &pod.addresses {
        writeln!(outer, "route add {address} dev {veth}")?;
        writeln!(inner, "address add {address} dev eth0{}", nodad(address))?;
        if address.is_ipv4() {
            writeln!(inner, "route replace {GATEWAY_V4} dev eth0 scope link")?;
            writeln!(inner, "route replace default via {GATEWAY_V4}")?;
        } else {
            writeln!(inner, "route replace default via {GATEWAY_V6} dev eth0")?;
        }
    }
    host.ip(&outer)?;
    namespace.ip(&inner)
}

/// The gateway of the network that a node's address is in: the first address of its /24 or /64.
fn gateway(node: IpAddr) -> Result<(IpAddr, u8)> {
    let (gateway, prefix) = match node {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            (IpAddr::from([a, b, c, 1]), 24)
        }
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            (IpAddr::from([a, b, c, d, 0, 0, 0, 1]), 64)
        }
    };
    if gateway == node {
        bail!("node address {node} is the one that the lab gives to the gateway");
    }
    Ok((gateway, prefix))
}

fn nodad(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "" } else { " nodad" }
}
