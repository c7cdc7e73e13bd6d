//! Worlds: nodes that agents watch, with pods that have networks of their own. What is played is the
//! same in all of them; who enforces the policies, and who keeps the objects, is not.
//!
//! | world | enforces policies | keeps objects | |
//! |---|---|---|---|
//! | [`netns::Node`] | rules that a test loads | an API server, or a folder | one node |
//! | [`lab::Lab`] | rules of a scenario | a folder | one node, others beyond its uplink |
//! | [`fleet::Fleet`] | Calico's Felix | an API server | several nodes |
//! | [`kube::node::Node`](crate::kube::node::Node) | Calico | an API server | a node with kubelet and containers |
//! | [`Cilium`](crate::kube::node::cilium::Cilium) | Cilium | an API server | one node |

pub mod account;
pub mod agent;
pub mod cluster;
pub mod fleet;
pub mod lab;
pub mod manifest;
pub mod namespace;
pub mod netns;
pub mod slow;

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use self::{
    agent::{Agent, Source, whydrop},
    namespace::Network,
};
use crate::kube::{
    api::Api,
    kubectl::Kubectl,
    wait::{Look, until},
};

/// How long a client tries: three SYNs, after 0, 1 and 3 s.
pub const CONNECT_WAIT: Duration = Duration::from_secs(4);
/// How long a policy may take from the API server into the kernel.
pub const ENFORCED_WAIT: Duration = Duration::from_secs(20);
/// How long a record may take: a SYN's second retransmission, a look-up, a busy machine.
pub const RECORD_WAIT: Duration = Duration::from_secs(30);

/// A running pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// `namespace/name`.
    pub key: String,
    /// Its network.
    pub network: Network,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Pod {
    /// Its first address.
    pub fn address(&self) -> Result<IpAddr> {
        self.addresses.first().copied().with_context(|| format!("{} has no address", self.key))
    }

    /// Calls `work` on a thread of its own inside; sockets that it makes stay inside for good.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.network.enter(work)
    }
}

/// What keeps the objects of a world.
#[derive(Debug, Clone, Copy)]
pub enum Objects<'w> {
    /// A folder of manifests.
    Folder(&'w Path),
    /// An API server.
    Server(&'w Api),
}

/// A cluster to play on.
pub trait World {
    /// The nodes that an agent can watch, by name.
    fn nodes(&self) -> Vec<String>;

    /// The network of a node.
    fn network(&self, node: &str) -> Result<Network>;

    /// What keeps its objects.
    fn objects(&self) -> Objects<'_>;

    /// Applies objects, and runs pods among them that say where they are. Where the world can see
    /// it, this waits until policies are in force.
    fn apply(&mut self, manifests: &str) -> Result<()>;

    /// Runs a pod of this manifest, which says neither on which node nor with which address.
    fn run(&mut self, manifest: &Value) -> Result<Pod>;

    /// Applies a pod of this manifest as it runs on a node with this address.
    fn run_at(&mut self, manifest: &Value, node: &str, address: IpAddr) -> Result<Pod> {
        let running = manifest::running(manifest.clone(), node, &[address]);
        self.apply(&running.to_string())?;
        self.pod(&manifest::key(manifest)?)
    }

    /// The running pod that is called `namespace/name`.
    fn pod(&self, key: &str) -> Result<Pod>;

    /// Makes what is sent to a pod pass or not, as policies now have it, where nobody enforces them;
    /// there is nothing to do where somebody does.
    fn stand_in(&mut self, _pod: &str, _passes: bool) -> Result<()> {
        Ok(())
    }

    /// Its API server.
    fn server(&self) -> Result<&Api> {
        match self.objects() {
            Objects::Server(api) => Ok(api),
            Objects::Folder(folder) => {
                bail!("no API server: the objects are in {}", folder.display())
            }
        }
    }

    /// kubectl as the administrator.
    fn kubectl(&self) -> Result<Kubectl> {
        self.server()?.kubectl()
    }

    /// Runs kubectl as the administrator to its end, and returns what it printed.
    fn kubectl_run(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl()?.run(arguments.iter().copied())
    }

    /// What its agents read, with the rights that they are deployed with.
    fn source(&self) -> Result<Source> {
        Ok(match self.objects() {
            Objects::Folder(folder) => Source::Manifests(folder.to_owned()),
            Objects::Server(api) => Source::Kubeconfig(api.admit_agent()?),
        })
    }

    /// The command of an agent on a node.
    fn agent_command(&self, node: &str) -> Result<Command> {
        Agent::command(&self.network(node)?, node, &self.source()?)
    }

    /// Starts an agent on a node, and waits until it is ready.
    fn agent(&self, node: &str) -> Result<Agent> {
        let mut agent = Agent::spawn(&mut self.agent_command(node)?)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Runs another command of whydrop's on a node, as the administrator.
    fn whydrop(&self, node: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = whydrop(&self.network(node)?)?;
        command.args(arguments);
        match self.objects() {
            Objects::Folder(folder) => command.arg("-f").arg(folder),
            Objects::Server(api) => command.arg("--kubeconfig").arg(api.kubeconfig()),
        };
        command.output().with_context(|| format!("run {command:?}"))
    }

    /// The first address of a pod, with a port.
    fn address(&self, key: &str, port: u16) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.pod(key)?.address()?, port))
    }

    /// Tries to connect from a pod for so long; the error's kind where it fails.
    fn connect(
        &self,
        from: &str,
        to: SocketAddr,
        patience: Duration,
    ) -> Result<Result<TcpStream, ErrorKind>> {
        let connect = || TcpStream::connect_timeout(&to, patience).map_err(|error| error.kind());
        self.pod(from)?.enter(|| Ok(connect()))
    }

    /// Whether a pod connects, within three SYNs.
    fn connects(&self, from: &str, to: SocketAddr) -> Result<bool> {
        Ok(self.connect(from, to, CONNECT_WAIT)?.is_ok())
    }

    /// Waits until a pod connects, or does not.
    fn wait_connects(&self, from: &str, to: SocketAddr, connects: bool) -> Result<()> {
        until(&format!("connects: {connects}, from {from} to {to}"), ENFORCED_WAIT, || {
            Ok(if self.connects(from, to)? == connects {
                Look::Seen(())
            } else {
                Look::NotYet(format!("connects: {}", !connects))
            })
        })
    }
}
