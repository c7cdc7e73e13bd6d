//! One node of a fleet.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use ipnet::IpNet;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{FABRIC, Settings};
use crate::{
    kube::{
        api::Api,
        calico::Felix,
        daemon::{Daemon, Lifetime, Place, Spawner},
        parts, proxy,
    },
    play::scenario::ReversePath,
    world::{
        cluster::{DescribedNode, DescribedPod},
        lab::router,
        namespace::Namespace,
    },
};

/// A node: a namespace that routes, and what runs in it.
#[derive(Debug)]
pub struct Host {
    // In the order in which they end.
    felix: Option<Daemon>,
    proxy: Option<Daemon>,
    names: Option<Daemon>,
    spawner: Spawner,
    /// Its name in the cluster.
    pub name: String,
    /// Its namespace.
    pub namespace: Namespace,
    /// The addresses of its pods.
    pub(super) pods: Option<IpNet>,
    address: Ipv4Addr,
}

impl Host {
    /// A node with its link to the fabric, on which nothing runs yet.
    pub(super) fn new(run: u32, node: &DescribedNode, fabric: &Namespace) -> Result<Self> {
        let v4 = node.addresses.iter().find_map(|address| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        });
        let address = v4.with_context(|| format!("node {} has no IPv4 address", node.name))?;
        let namespace = Namespace::create(run, &node.name)?;
        router(&namespace, ReversePath::Off)?;
        let [a, b, c, _] = address.octets();
        let gateway = Ipv4Addr::new(a, b, c, 1);
        let link = &node.name;
        namespace.ip(&format!(
            "link add eth0 type veth peer name {link} netns {}\n\
             link set eth0 up\n\
             addr add {address}/24 dev eth0\n",
            fabric.name()
        ))?;
        fabric.ip(&format!("link set {link} up\naddr add {gateway}/24 dev {link}\n"))?;
        namespace.ip(&format!("route add default via {gateway}\n"))?;
        let spawner = Spawner::new(Place::Network(namespace.name().to_owned()), Lifetime::Owner)?;
        let name = node.name.clone();
        let pods = node.pods;
        Ok(Self { felix: None, proxy: None, names: None, spawner, name, namespace, pods, address })
    }

    /// The way from everywhere else to a pod of this node.
    pub(super) fn route_to(&self, pod: &DescribedPod, fabric: &Namespace) -> Result<()> {
        let mut routes = String::new();
        for address in pod.addresses.iter().filter(|address| address.is_ipv4()) {
            // What the API server sends has the address that it is known by.
            writeln!(routes, "route replace {address} via {} src {FABRIC}", self.address)?;
        }
        fabric.ip(&routes)
    }

    /// Starts Felix, and waits until it is in sync.
    pub fn start_felix(&mut self, settings: Settings, api: &Api, folder: &Path) -> Result<()> {
        let felix = Felix {
            node: &self.name,
            address: &format!("{}/24", self.address),
            backend: settings.backend,
            ipv6: settings.ipv6,
            spawner: &self.spawner,
            folder,
        };
        self.felix = Some(felix.start(api, apart)?);
        Ok(())
    }

    /// Holds Felix where it is, or lets it go on.
    pub fn signal_felix(&self, signal: Signal) -> Result<()> {
        let felix = self.felix.as_ref().context("Felix does not run")?;
        Ok(kill(Pid::from_raw(i32::try_from(felix.pid())?), signal)?)
    }

    /// Kills Felix; the rules that it has written stay.
    pub fn stop_felix(&mut self) -> Result<()> {
        self.felix.take().map_or(Ok(()), Daemon::stop)
    }

    /// Starts kube-proxy.
    pub(super) fn start_proxy(
        &mut self,
        mode: proxy::Mode,
        api: &Api,
        folder: &Path,
    ) -> Result<()> {
        let (spawner, kubeconfig) = (&self.spawner, api.kubeconfig());
        self.proxy = Some(proxy::start(spawner, folder, &self.name, &kubeconfig, mode, apart)?);
        Ok(())
    }

    /// Starts `CoreDNS`, which knows the cluster's Services, where node-local caches listen.
    pub(super) fn start_names(&mut self, api: &Api, folder: &Path) -> Result<()> {
        // Caches make a link of type dummy for it, of which not every kernel has the module.
        self.namespace.ip(&format!("address add {NODE_DNS}/32 dev lo\n"))?;
        let kubeconfig = api.kubeconfig();
        let corefile = folder.join(format!("Corefile-{}", self.name));
        let names = format!(
            ".:53 {{\n  errors\n  kubernetes cluster.local {{\n    kubeconfig {}\n  }}\n}}\n",
            kubeconfig.display()
        );
        fs::write(&corefile, names)?;
        let mut coredns = self.spawner.serving(parts::COREDNS.program()?);
        coredns.arg("-conf").arg(&corefile);
        let name = format!("coredns-{}", self.name);
        self.names = Some(Daemon::start(&self.spawner, folder, &name, coredns)?);
        Ok(())
    }
}

/// Where node-local caches of the cluster's DNS listen (`cluster/addons/dns/nodelocaldns`).
const NODE_DNS: &str = "169.254.20.10";

/// A program that serves, with a `/run` and a `/sys` of its own: the lock of iptables and what
/// Calico leaves there are not the machine's, and the interfaces that it reads about are the node's.
fn apart(spawner: &Spawner, program: PathBuf) -> Command {
    const MOUNT: &str = "mount -t tmpfs tmpfs /run && mount -t sysfs sysfs /sys && exec \"$@\"";

    let mut command = spawner.serving("unshare");
    command.args(["--mount", "--propagation", "private", "--", "sh", "-c", MOUNT, "sh"]);
    command.arg(program);
    command
}
