//! Nodes with routes between them, on each of which a real Felix enforces what a real API server
//! says. Pods are network namespaces: only the tests run programs in them.
//!
//! ```text
//!   pod ns               node ns               fabric ns            node ns               pod ns
//!   eth0 ── cali… (Felix, kube-proxy, agent) eth0 ── worker-1 (API server) worker-2 ── eth0 …
//! ```
//!
//! A pod's end of things is as Calico's network plugin leaves it: a veth with the name that Felix
//! looks for, a /32, and a link-local gateway for which proxy ARP answers.

mod heal;
mod host;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use self::host::Host;
use super::{
    Objects, Pod, World,
    cluster::Cluster,
    lab::connect_pod,
    manifest,
    namespace::{Namespace, Network, sweep},
};
use crate::kube::{
    api::{self, Api},
    calico::{self, Backend},
    daemon::Place,
    kubectl::Kubectl,
    proxy,
};

/// Where the API server is.
const FABRIC: Ipv4Addr = Ipv4Addr::new(192, 168, 70, 1);

/// Numbers the fleets of one process.
static RUN: AtomicU32 = AtomicU32::new(0);

/// How a fleet is to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// What Felix writes.
    pub backend: Backend,
    /// Whether kube-proxy leads what is sent to a Service to its pods.
    pub services: bool,
    /// By which rules it does.
    pub proxy: proxy::Mode,
    /// Whether Felix governs IPv6 as well.
    pub ipv6: bool,
}

/// Running nodes and their API server; everything of it ends when this is dropped.
#[derive(Debug)]
pub struct Fleet {
    settings: Settings,
    // In the order in which they end.
    hosts: Vec<Host>,
    pods: BTreeMap<String, (Namespace, Vec<IpAddr>)>,
    kubectl: Kubectl,
    api: Api,
    fabric: Namespace,
    folder: tempfile::TempDir,
    run: u32,
    /// How many pods there have been.
    made: usize,
}

impl Fleet {
    /// Starts the nodes that manifests describe, with their pods, and waits until each Felix is in
    /// sync. Everything else in the manifests is applied as it is.
    pub fn start(settings: Settings, manifests: &str) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "nodes need root: network namespaces");
        sweep();
        let run = RUN.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::tempdir()?;
        let cluster = Cluster::parse(manifests)?;
        let fabric = Namespace::create(run, "fabric")?;
        fabric.ip(&format!("link set lo up\naddr add {FABRIC}/32 dev lo\n"))?;
        fabric.set(&[("ipv4/ip_forward", "1")])?;
        let api = Api::start(api::Settings {
            place: Place::Network(fabric.name().to_owned()),
            address: Some(FABRIC),
            // Webhooks are called at their pods: no kube-proxy is where the API server is.
            flags: vec!["--enable-aggregator-routing=true".to_owned()],
            ..api::Settings::default()
        })?;
        let kubectl = api.kubectl()?;
        calico::install(&api)?;
        api.admit_agent()?;
        let hosts = cluster.nodes.iter().map(|node| Host::new(run, node, &fabric));
        let hosts = hosts.collect::<Result<_>>()?;
        let mut fleet = Self {
            settings,
            hosts,
            pods: BTreeMap::new(),
            kubectl,
            api,
            fabric,
            folder,
            run,
            made: 0,
        };
        fleet.apply(manifests)?;
        for host in &mut fleet.hosts {
            host.start_felix(settings, &fleet.api, fleet.folder.path())?;
            if settings.services {
                host.start_proxy(settings.proxy, &fleet.api, fleet.folder.path())?;
            }
        }
        Ok(fleet)
    }

    /// Starts Felix again on a node, and waits until it is in sync.
    pub fn start_felix(&mut self, node: &str) -> Result<()> {
        let Self { settings, hosts, api, folder, .. } = self;
        let host = hosts.iter_mut().find(|host| host.name == node);
        let host = host.with_context(|| format!("no node {node}"))?;
        host.start_felix(*settings, api, folder.path())
    }

    /// Takes a pod away, and its interface with it.
    pub fn remove(&mut self, key: &str) -> Result<()> {
        let (namespace, name) = manifest::parts(key)?;
        self.pods.remove(key).with_context(|| format!("no pod {key}"))?;
        // With its namespace the interface would go some time later.
        let link = format!("link delete {}\n", interface(key));
        ensure!(self.hosts.iter().any(|host| host.namespace.ip(&link).is_ok()), "no link of {key}");
        let delete = ["delete", "pod", name, "-n", namespace, "--grace-period=0", "--force"];
        self.kubectl.run(delete)?;
        Ok(())
    }

    /// Deletes an object.
    pub fn delete(&self, object: &Value) -> Result<()> {
        let file = tempfile::NamedTempFile::new_in(self.folder.path())?;
        std::fs::write(file.path(), object.to_string())?;
        self.kubectl.run(["delete", "-f", &file.path().to_string_lossy()])?;
        Ok(())
    }

    /// A node by its name.
    pub fn host(&self, name: &str) -> Result<&Host> {
        self.hosts.iter().find(|host| host.name == name).with_context(|| format!("no node {name}"))
    }

    /// The same, to stop and start what runs there.
    pub fn host_mut(&mut self, name: &str) -> Result<&mut Host> {
        let mut hosts = self.hosts.iter_mut();
        hosts.find(|host| host.name == name).with_context(|| format!("no node {name}"))
    }

    /// The pods whose `namespace/name` begins like this.
    pub fn pods_like(&self, beginning: &str) -> Vec<String> {
        self.pods.keys().filter(|key| key.starts_with(beginning)).cloned().collect()
    }

    /// What lies between the nodes and beyond them: where the API server is, and the rest of the world.
    pub fn outside(&self) -> &Network {
        self.fabric.network()
    }

    /// Runs `CoreDNS` in a node's network, as a cache of its own would: at the address of those.
    pub fn resolve_names(&mut self, node: &str) -> Result<()> {
        let Self { hosts, api, folder, .. } = self;
        let host = hosts.iter_mut().find(|host| host.name == node);
        host.with_context(|| format!("no node {node}"))?.start_names(api, folder.path())
    }

    /// Where logs are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl World for Fleet {
    fn nodes(&self) -> Vec<String> {
        self.hosts.iter().map(|host| host.name.clone()).collect()
    }

    fn network(&self, node: &str) -> Result<Network> {
        Ok(self.host(node)?.namespace.network().clone())
    }

    fn objects(&self) -> Objects<'_> {
        Objects::Server(&self.api)
    }

    /// Objects with their status; the pods among them are run as the kubelet would. How far Felix is
    /// cannot be seen.
    fn apply(&mut self, manifests: &str) -> Result<()> {
        for pod in Cluster::parse(manifests)?.pods {
            if self.pods.contains_key(&pod.key) {
                continue;
            }
            let host = self.host(&pod.node).with_context(|| format!("of pod {}", pod.key))?;
            let namespace = Namespace::create(self.run, &format!("pod{}", self.made))?;
            connect_pod(&host.namespace, &namespace, &pod, &interface(&pod.key))?;
            host.route_to(&pod, &self.fabric)?;
            self.made += 1;
            self.pods.insert(pod.key, (namespace, pod.addresses));
        }
        let mut objects: Vec<Value> = serde_saphyr::from_multiple(manifests)?;
        objects.iter_mut().for_each(annotate);
        self.api.apply(&manifest::documents(&objects))
    }

    /// On the first node.
    fn run(&mut self, manifest: &Value) -> Result<Pod> {
        let host = self.hosts.first().context("no node")?;
        let pods = host.pods.with_context(|| format!("{} has no podCIDR", host.name))?;
        let held: Vec<&IpAddr> = self.pods.values().flat_map(|(_, addresses)| addresses).collect();
        let mut free = pods.hosts().skip(1).filter(|address| !held.contains(&address));
        let address = free.next().context("no address is left")?;
        let node = host.name.clone();
        self.run_at(manifest, &node, address)
    }

    fn pod(&self, key: &str) -> Result<Pod> {
        let (namespace, addresses) = self.pods.get(key).with_context(|| format!("no pod {key}"))?;
        let network = namespace.network().clone();
        Ok(Pod { key: key.to_owned(), network, addresses: addresses.clone() })
    }

    fn kubectl(&self) -> Result<Kubectl> {
        Ok(self.kubectl.clone())
    }
}

/// The host's end of a pod's veth as Calico names it: `cali` and the beginning of a hash
/// (libcalico-go/lib/backend/k8s/conversion, `VethNameForWorkload`).
pub fn interface(pod: &str) -> String {
    use sha1::{Digest, Sha1};

    /// As many hex digits as fit an interface's name (15) beside the prefix.
    const DIGITS: usize = 11;

    let digest = Sha1::digest(pod.replacen('/', ".", 1).as_bytes());
    let mut name = String::from("cali");
    for byte in digest {
        // Writing to a String does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    name.truncate("cali".len() + DIGITS);
    name
}

/// What Calico's plugin would note on a pod: Felix takes its addresses from there.
fn annotate(object: &mut Value) {
    if object["kind"] != "Pod" || object["spec"]["hostNetwork"] == true {
        return;
    }
    let ips = object["status"]["podIPs"].as_array().cloned().unwrap_or_default();
    let network = |ip: &Value| {
        let ip = ip["ip"].as_str().unwrap_or_default();
        format!("{ip}/{}", if ip.contains(':') { 128 } else { 32 })
    };
    let networks: Vec<String> = ips.iter().map(network).collect();
    if let Some(first) = networks.first() {
        object["metadata"]["annotations"]["cni.projectcalico.org/podIP"] = json!(first);
        let all = json!(networks.join(","));
        object["metadata"]["annotations"]["cni.projectcalico.org/podIPs"] = all;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_named_as_calico_names_them() {
        // printf default.back | sha1sum; a real Felix was seen to look for it.
        assert_eq!(interface("default/back"), "cali10af0023aec");
    }
}
