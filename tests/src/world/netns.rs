//! A node and pods that are network namespaces, and nothing else: no address translation, no policies
//! but the rules that a test loads. Its objects are kept by a folder, or by an API server in its
//! network.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    Objects, Pod, World,
    cluster::Cluster,
    manifest,
    namespace::{Namespace, Network, checked, sweep},
};
use crate::kube::{
    api::{Api, Settings},
    daemon::Place,
};

/// The node's name in the cluster.
pub const NAME: &str = "worker-1";
/// Its address there; no interface holds it.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
/// The addresses of its pods.
const PODS: &str = "10.7.0.0/24";

/// A node and its pods; all are removed when this is dropped.
#[derive(Debug)]
pub struct Node {
    // In the order in which they end.
    kept: Kept,
    pods: Vec<Numbered>,
    namespace: Namespace,
    run: u32,
    /// How many manifests were written.
    written: usize,
    /// By `namespace/name`, the number of the pod that an object describes.
    described: BTreeMap<String, usize>,
}

/// What keeps the objects.
#[derive(Debug)]
enum Kept {
    Folder(TempDir),
    Server(Box<Api>),
}

/// A pod: a namespace with one interface, whose other end is the node's.
#[derive(Debug)]
pub struct Numbered {
    /// Its network.
    pub network: Namespace,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its IPv6 address.
    pub ip6: Ipv6Addr,
}

impl Node {
    /// A node with so many pods, numbered from zero. A folder keeps its objects.
    pub fn new(pods: u8) -> Result<Self> {
        Self::kept_by(pods, |_| Ok(Kept::Folder(tempfile::tempdir()?)))
    }

    /// The same with an API server, which knows the node and gives agents their rights.
    pub fn with_server(pods: u8) -> Result<Self> {
        Self::with_server_of(pods, Settings::default())
    }

    /// The same with a server of these settings, which runs in the node's network.
    pub fn with_server_of(pods: u8, settings: Settings) -> Result<Self> {
        let mut node = Self::kept_by(pods, |namespace| {
            let place = Place::Network(namespace.name().to_owned());
            let api = Api::start(Settings { place, ..settings })?;
            api.admit_agent()?;
            Ok(Kept::Server(Box::new(api)))
        })?;
        node.apply(&manifest::node(NAME, PODS, ADDRESS.into()).to_string())?;
        Ok(node)
    }

    fn kept_by(pods: u8, keep: impl FnOnce(&Namespace) -> Result<Kept>) -> Result<Self> {
        /// Numbers the nodes of one process.
        static RUNS: AtomicU32 = AtomicU32::new(0);

        ensure!(nix::unistd::geteuid().is_root(), "this test needs root: network namespaces");
        sweep();
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace::create(run, "node")?;
        namespace.ip("link set lo up\n")?;
        namespace.set(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        let kept = keep(&namespace)?;
        let (written, described) = (0, BTreeMap::new());
        let mut node = Self { kept, pods: Vec::new(), namespace, run, written, described };
        for _ in 0..pods {
            node.add()?;
        }
        Ok(node)
    }

    /// The node's own namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The API server, to stop and start it.
    pub fn server_mut(&mut self) -> Result<&mut Api> {
        match &mut self.kept {
            Kept::Server(api) => Ok(api),
            Kept::Folder(_) => anyhow::bail!("this node has no API server"),
        }
    }

    /// The pod of this number.
    pub fn nth(&self, number: usize) -> &Numbered {
        &self.pods[number]
    }

    /// The node's side of the veth of the pod of this number.
    pub fn veth(number: usize) -> String {
        format!("veth{number}")
    }

    /// One more pod, as a routing network plugin makes it: a veth, and a route for each address.
    pub fn add(&mut self) -> Result<&Numbered> {
        let number = u8::try_from(self.pods.len()).context("too many pods")?;
        let network = Namespace::create(self.run, &format!("pod{number}"))?;
        let veth = Self::veth(number.into());
        let ip = Ipv4Addr::new(10, 7, 0, 10 + number);
        let ip6 = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 10 + u16::from(number));
        // Made within the pod, so that the node sees a veth whose other end is elsewhere.
        network.ip(&format!(
            "link set lo up\n\
             link add eth0 type veth peer name {veth} netns {node}\n\
             link set eth0 up\n\
             addr add {ip}/32 dev eth0\n\
             addr add {ip6}/128 dev eth0 nodad\n",
            node = self.namespace.name(),
        ))?;
        self.namespace.ip(&format!(
            "link set {veth} up\n\
             addr add 169.254.1.1/32 dev {veth}\n\
             addr add fe80::1/64 dev {veth} nodad\n\
             route add {ip}/32 dev {veth}\n\
             route add {ip6}/128 dev {veth}\n",
        ))?;
        network.ip("route add 169.254.1.1 dev eth0\n\
             route add default via 169.254.1.1 dev eth0\n\
             route add ::/0 via fe80::1 dev eth0\n")?;
        self.pods.push(Numbered { network, ip, ip6 });
        Ok(&self.pods[usize::from(number)])
    }

    /// Takes the last pod away, and its veth with it.
    pub fn remove(&mut self) {
        self.pods.pop();
    }

    /// Loads nftables rules into the node.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.namespace.nft(rules)
    }

    /// Drops what is sent to the pod of this number, as a network plugin would, or no more.
    pub fn stand_in_for(&self, number: usize, passes: bool) -> Result<()> {
        stand_in(&self.namespace, self.nth(number).ip.into(), passes)
    }

    /// A wire to a host that swallows what is routed through it to these networks.
    pub fn uplink(&self, networks: &[&str]) -> Result<Namespace> {
        let beyond = Namespace::create(self.run, "beyond")?;
        beyond.ip(&format!(
            "link add eth0 type veth peer name uplink netns {}\n\
             link set eth0 up\n\
             addr add 192.168.77.1/24 dev eth0\n",
            self.namespace.name()
        ))?;
        self.namespace.ip(&format!("link set uplink up\naddr add {ADDRESS}/24 dev uplink\n"))?;
        for network in networks {
            self.namespace.ip(&format!("route add {network} via 192.168.77.1\n"))?;
        }
        Ok(beyond)
    }

    /// The packets that the first rule with this comment has counted.
    pub fn counted(&self, comment: &str) -> Result<u64> {
        let text = checked(self.namespace.command("nft").args(["list", "ruleset"]))?;
        let rule = text
            .lines()
            .find(|line| line.contains(&format!("comment \"{comment}\"")))
            .with_context(|| format!("no rule with comment {comment} in\n{text}"))?;
        let mut words = rule.split_whitespace().skip_while(|word| *word != "packets").skip(1);
        Ok(words.next().context("the rule has no counter")?.parse()?)
    }

    /// Whose address an object's pod has.
    fn number_of(&self, addresses: &[IpAddr]) -> Option<usize> {
        let holds = |pod: &Numbered| addresses.contains(&pod.ip.into());
        self.pods.iter().position(holds)
    }
}

impl World for Node {
    fn nodes(&self) -> Vec<String> {
        vec![NAME.to_owned()]
    }

    fn network(&self, node: &str) -> Result<Network> {
        ensure!(node == NAME, "no node {node}");
        Ok(self.namespace.network().clone())
    }

    fn objects(&self) -> Objects<'_> {
        match &self.kept {
            Kept::Folder(folder) => Objects::Folder(folder.path()),
            Kept::Server(api) => Objects::Server(api),
        }
    }

    fn apply(&mut self, manifests: &str) -> Result<()> {
        for pod in Cluster::parse(manifests)?.pods.into_iter().filter(|pod| pod.node == NAME) {
            if let Some(number) = self.number_of(&pod.addresses) {
                self.described.insert(pod.key, number);
            }
        }
        match &self.kept {
            Kept::Folder(folder) => {
                self.written += 1;
                manifest::put(folder.path(), &format!("{:03}.yaml", self.written), manifests)
            }
            Kept::Server(api) => api.apply(manifests),
        }
    }

    fn run(&mut self, manifest: &Value) -> Result<Pod> {
        let taken = |number: &usize| self.described.values().any(|other| other == number);
        let number = (0..self.pods.len()).find(|number| !taken(number));
        let ip = match number {
            Some(number) => self.nth(number).ip,
            None => self.add()?.ip,
        };
        self.run_at(manifest, NAME, ip.into())
    }

    fn pod(&self, key: &str) -> Result<Pod> {
        let number = self.described.get(key).with_context(|| format!("no pod {key}"))?;
        let Numbered { network, ip, ip6 } = self.nth(*number);
        let (ip, ip6) = ((*ip).into(), (*ip6).into());
        Ok(Pod {
            key: key.to_owned(),
            network: network.network().clone(),
            addresses: vec![ip, ip6],
        })
    }

    fn stand_in(&mut self, pod: &str, passes: bool) -> Result<()> {
        stand_in(&self.namespace, self.pod(pod)?.address()?, passes)
    }
}

/// What drops in place of a network plugin.
const STAND_IN: &str = "inet stand_in";

/// Drops what a node forwards to an address, or nothing any more. As engines do, it leaves alone what
/// belongs to a connection that is there already, such as answers.
pub(super) fn stand_in(node: &Network, address: IpAddr, passes: bool) -> Result<()> {
    let family = if address.is_ipv4() { "ip" } else { "ip6" };
    let rule = match passes {
        true => String::new(),
        false => format!("{family} daddr {address} ct state new counter drop"),
    };
    // Added so that it is there to be deleted.
    node.nft(&format!(
        "add table {STAND_IN}\n\
         delete table {STAND_IN}\n\
         table {STAND_IN} {{\n\
           chain forward {{\n\
             type filter hook forward priority filter; policy accept;\n\
             {rule}\n\
           }}\n\
         }}\n"
    ))
}
