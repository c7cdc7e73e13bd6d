//! Nodes with routes between them, on each of which a real Felix enforces what a real API server
//! says. Pods are network namespaces: nobody runs programs in them but the tests.
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
pub mod story;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use self::host::Host;
use crate::{
    agent::Agent,
    cluster::Cluster,
    kube::{
        api::{self, Api},
        calico::{self, Backend},
        daemon::Place,
        kubectl::Kubectl,
    },
    lab::{
        connect_pod,
        namespace::{Namespace, sweep},
    },
};

/// Where the API server is.
const FABRIC: Ipv4Addr = Ipv4Addr::new(192, 168, 70, 1);

/// Tells the fleets of one process apart.
static RUN: AtomicU32 = AtomicU32::new(0);

/// How a fleet is to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// What Felix writes.
    pub backend: Backend,
    /// Whether kube-proxy leads what is sent to a Service to its pods.
    pub services: bool,
    /// Whether Felix governs IPv6 as well.
    pub ipv6: bool,
}

/// Running nodes and their API server; everything of it ends when this is dropped.
#[derive(Debug)]
pub struct Fleet {
    settings: Settings,
    // In the order in which they end.
    hosts: Vec<Host>,
    pods: BTreeMap<String, Pod>,
    kubectl: Kubectl,
    api: Api,
    fabric: Namespace,
    folder: tempfile::TempDir,
    run: u32,
    /// How many pods there have been.
    made: usize,
}

/// A pod: where it is, and what it is called by.
#[derive(Debug)]
pub struct Pod {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
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
            ..api::Settings::default()
        })?;
        let kubectl = api.kubectl()?;
        calico::install(&api)?;
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
        fleet.run(manifests)?;
        for host in &mut fleet.hosts {
            host.start_felix(settings, &fleet.api, fleet.folder.path())?;
            if settings.services {
                host.start_proxy(&fleet.api, fleet.folder.path())?;
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

    /// Applies objects with their status, and runs the pods among them, as the kubelet would.
    pub fn run(&mut self, manifests: &str) -> Result<()> {
        for pod in Cluster::parse(manifests)?.pods {
            if self.pods.contains_key(&pod.key) {
                continue;
            }
            let host = self.hosts.iter().find(|host| host.name == pod.node);
            let host = host.with_context(|| format!("pod {} is on no node", pod.key))?;
            let namespace = Namespace::create(self.run, &format!("pod{}", self.made))?;
            self.made += 1;
            connect_pod(&host.namespace, &namespace, &pod, &interface(&pod.key))?;
            host.route_to(&pod, &self.fabric)?;
            self.pods.insert(pod.key, Pod { namespace, addresses: pod.addresses });
        }
        let mut objects: Vec<Value> = serde_saphyr::from_multiple(manifests)?;
        objects.iter_mut().for_each(annotate);
        self.kubectl.apply(&stream(&objects)?)?;
        let statuses: Vec<Value> = objects.iter().filter_map(status).collect();
        if !statuses.is_empty() {
            let apply = ["--server-side", "--subresource=status", "--force-conflicts"];
            self.kubectl.apply_with(&apply, &stream(&statuses)?)?;
        }
        Ok(())
    }

    /// Takes a pod away, and its interface with it.
    pub fn remove(&mut self, key: &str) -> Result<()> {
        let (namespace, name) = key.split_once('/').context("NAMESPACE/NAME")?;
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

    /// kubectl as the administrator.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// The API server.
    pub fn api(&self) -> &Api {
        &self.api
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

    /// A pod by `namespace/name`.
    pub fn pod(&self, key: &str) -> Result<&Pod> {
        self.pods.get(key).with_context(|| format!("no pod {key}"))
    }

    /// The pods whose `namespace/name` begins like this.
    pub fn pods_like(&self, beginning: &str) -> Vec<String> {
        self.pods.keys().filter(|key| key.starts_with(beginning)).cloned().collect()
    }

    /// The first address of a pod, with a port.
    pub fn address(&self, key: &str, port: u16) -> Result<SocketAddr> {
        let addresses = &self.pod(key)?.addresses;
        let address = addresses.first().with_context(|| format!("{key} has no address"))?;
        Ok(SocketAddr::new(*address, port))
    }

    /// Tries to connect from a pod for so long; the error's kind where it fails.
    pub fn connect(
        &self,
        from: &str,
        to: SocketAddr,
        patience: Duration,
    ) -> Result<Result<TcpStream, ErrorKind>> {
        self.pod(from)?
            .namespace
            .enter(|| Ok(TcpStream::connect_timeout(&to, patience).map_err(|error| error.kind())))
    }

    /// Starts whydrop's agent on a node, as the administrator, and waits until it is ready.
    pub fn agent(&self, node: &str) -> Result<Agent> {
        let host = self.host(node)?;
        let mut command = host.namespace.command("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(crate::agent::binary()?);
        command.args(["agent", "--log-format", "json", "--node-name", node, "--kubeconfig"]);
        command.arg(self.api.kubeconfig());
        let mut agent = Agent::spawn(&mut command)?;
        agent.wait_ready().with_context(|| agent.stderr())?;
        Ok(agent)
    }

    /// Where logs are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
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

/// An object's status alone, to be applied to the subresource; `None` where it has none.
fn status(object: &Value) -> Option<Value> {
    if !object["status"].is_object() {
        return None;
    }
    let metadata = &object["metadata"];
    let mut name = json!({ "name": metadata["name"] });
    if metadata["namespace"].is_string() {
        name["namespace"] = metadata["namespace"].clone();
    }
    Some(json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"],
        "metadata": name, "status": object["status"],
    }))
}

/// Documents as kubectl reads them: JSON is YAML.
fn stream(objects: &[Value]) -> Result<String> {
    let texts = objects.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    Ok(texts.join("\n---\n"))
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
