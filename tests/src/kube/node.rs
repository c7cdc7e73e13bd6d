//! A whole cluster of one node: the control plane of [`api`](super::api), a kubelet with containerd,
//! kube-proxy, and a pod network. Pods run, probes probe, policies drop.
//!
//! The node has network, mount, host name and process namespaces of its own, and everything of it
//! is a process in them. So it ends whole, when the first of these processes is killed: with its
//! pods, its interfaces, its mounts. What remains are its control groups, removed after it.
//!
//! The kernel is the machine's. Programs that trace it see the machine's processes too.

pub mod cilium;
pub mod inside;
mod services;

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use self::services::Services;
use super::{
    api::{self, Api, Served, launch::PODS},
    calico::{self, Backend, Felix},
    cgroups::{self, Groups},
    daemon::{Daemon, Entry, Lifetime, Place, Spawner, record},
    debian,
    image::Image,
    proxy,
    state::State,
    wait::{Look, until},
};
use crate::world::{
    Objects, Pod, World,
    agent::beside,
    manifest,
    namespace::{Network, checked},
};

/// The node's name in the cluster.
pub const NAME: &str = "lab-node";
/// The node's address.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 31, 99, 2);
/// The address of the world outside, in the network namespace `outside` of the node.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(172, 31, 99, 1);
/// The image with a shell for pods, `imagePullPolicy: Never`.
pub const BUSYBOX: &str = "localhost/busybox:1";

/// What the first process of a node is called among those that were started.
pub(super) const FIRST: &str = "inside";

/// How long the namespaces may take.
const INSIDE_WAIT: Duration = Duration::from_secs(20);
/// How long a node may take to be ready: about ten seconds alone, more beside others.
const READY_WAIT: Duration = Duration::from_secs(90);

/// What connects pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PodNetwork {
    /// Calico's plugin, and Felix, which enforces NetworkPolicies with iptables: what a policy does
    /// not allow is dropped in silence.
    #[default]
    Calico,
    /// A veth and a route for each pod; nobody enforces policies.
    Plain,
}

/// How a node is to be.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What connects its pods.
    pub network: PodNetwork,
    /// By which rules its kube-proxy leads packets.
    pub proxy: proxy::Mode,
    /// How long it runs.
    pub lifetime: Lifetime,
    /// The folder of its state, which is to be empty; nothing for one that goes with the node.
    pub folder: Option<PathBuf>,
    /// Who has a token from the start, besides the administrator.
    pub users: Vec<api::User>,
}

/// A running node; everything of it ends when this is dropped.
#[derive(Debug)]
pub struct Node {
    // In the order in which they end: first what would only complain that the rest is gone.
    services: Services,
    api: Api,
    spawner: Spawner,
    holder: Holder,
    groups: Groups,
    state: State,
}

/// The first process of the node.
#[derive(Debug)]
struct Holder {
    /// It, by its id on the machine.
    first: Entry,
    lifetime: Lifetime,
    /// The program that made the namespaces, and waits.
    _daemon: Daemon,
}

/// Where the parts of a node are started.
struct Site<'a> {
    folder: &'a Path,
    spawner: &'a Spawner,
}

impl Node {
    /// Starts one and waits until it is ready for pods.
    ///
    /// # Errors
    ///
    /// That a program is not built (`cargo xtask lab build node`), or how a process failed, with
    /// the end of its log.
    pub fn start(settings: &Settings) -> Result<Self> {
        Self::start_reporting(settings, |_, _| {})
    }

    /// The same, and reports of each stage how long after the start it was reached.
    pub fn start_reporting(
        settings: &Settings,
        mut reached: impl FnMut(&str, Duration),
    ) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "a node needs root: namespaces and pods");
        let started = Instant::now();
        let mut reached = |what: &str| reached(what, started.elapsed());
        cgroups::sweep();
        let state = State::new(settings.folder.as_deref())?;
        let folder = state.folder();
        let groups = Groups::create(&role(settings.lifetime), settings.lifetime)?;
        let holder = Holder::start(folder, settings.lifetime)?;
        let place = Place::Process(holder.first.pid);
        let spawner = Spawner::new(place.clone(), settings.lifetime)?;
        let site = Site { folder, spawner: &spawner };
        site.connect_outside()?;
        reached("namespaces");

        let (api, containerd) = std::thread::scope(|scope| {
            let runtime = scope.spawn(|| services::start_containerd(&site, settings.network));
            let api = Api::start(api::Settings {
                place,
                address: None,
                lifetime: settings.lifetime,
                folder: Some(folder.to_owned()),
                users: [services::users(), settings.users.clone()].concat(),
                controllers: true,
                node: Some(Served { name: NAME.into(), address: ADDRESS }),
                flags: vec![],
            });
            (api, runtime.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let mut services = Services::default();
        services.containerd = Some(containerd?);
        let mut api = api?;
        reached("API server and containerd with images");

        services.start(&site, &api, &groups, settings.proxy)?;
        if settings.network == PodNetwork::Calico {
            calico::install(&api)?;
        }
        wait_ready(&mut services, &api)?;
        reached("node Ready");
        if settings.network == PodNetwork::Calico {
            let felix = Felix {
                node: NAME,
                address: &format!("{ADDRESS}/24"),
                backend: Backend::Nft,
                ipv6: false,
                spawner: &spawner,
                folder,
            };
            services.felix = Some(felix.start(&api, Spawner::serving)?);
            reached("Felix in sync");
        }
        // Without it no pod is admitted.
        api.wait_service_account("default", "default")?;
        reached("default ServiceAccount");
        Ok(Self { services, api, spawner, holder, groups, state })
    }

    /// Runs a program on the node to its end, and returns what it printed; `["ip", "netns", "exec",
    /// "outside", ...]` is outside of it.
    pub fn run_on_node(&self, arguments: &[&str]) -> Result<String> {
        self.site().run(arguments)
    }

    /// Starts a command that [`Node::command`] made.
    pub fn spawn(&self, command: Command) -> Result<Child> {
        self.spawner.spawn(command)
    }

    /// A command for [`Node::spawn`]: in the node's namespaces, all of them.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.spawner.command(program)
    }

    /// Gives the node an image; pods name it, with `imagePullPolicy: Never`.
    pub fn import(&self, image: &Image) -> Result<()> {
        self.site().import(image)
    }

    /// Gives the node the images of an archive.
    pub fn import_archive(&self, archive: &Path) -> Result<()> {
        self.site().import_archive(archive)
    }

    /// The network of the world outside.
    pub fn outside(&self) -> Network {
        Network::at(self.holder.networks().join("outside"))
    }

    /// The folder of its state, where the logs are.
    pub fn folder(&self) -> &Path {
        self.state.folder()
    }

    /// The end of the kubelet's log, which says most about a pod that does not start.
    pub fn kubelet_tail(&self) -> String {
        self.services.kubelet_tail()
    }

    /// The process ids of its servers, the first process of the node first.
    pub fn pids(&self) -> Vec<u32> {
        [vec![self.holder.first.pid], self.api.pids(), self.services.pids()].concat()
    }

    /// Its control groups, as a path below each hierarchy.
    pub fn control_groups(&self) -> String {
        self.groups.root()
    }

    fn site(&self) -> Site<'_> {
        Site { folder: self.state.folder(), spawner: &self.spawner }
    }
}

impl World for Node {
    fn nodes(&self) -> Vec<String> {
        vec![NAME.to_owned()]
    }

    /// What runs there alone has the machine's files and processes, as an agent outside of the
    /// cluster.
    fn network(&self, node: &str) -> Result<Network> {
        ensure!(node == NAME, "no node {node}");
        Ok(self.holder.network())
    }

    fn objects(&self) -> Objects<'_> {
        Objects::Server(&self.api)
    }

    fn apply(&mut self, manifests: &str) -> Result<()> {
        self.kubectl()?.apply(manifests)?;
        Ok(())
    }

    /// With a shell in place of its containers.
    fn run(&mut self, manifest: &Value) -> Result<Pod> {
        let mut manifest = manifest.clone();
        manifest["spec"]["terminationGracePeriodSeconds"] = 1.into();
        manifest["spec"]["containers"] = json!([{
            "name": "c", "image": BUSYBOX, "imagePullPolicy": "Never",
            "command": ["sleep", "infinity"],
        }]);
        let key = manifest::key(&manifest)?;
        let (namespace, name) = manifest::parts(&key)?;
        let pod = format!("pod/{name}");
        let kubectl = self.kubectl()?;
        kubectl.apply(&manifest.to_string())?;
        let wait = ["wait", &pod, "-n", namespace, "--for=condition=Ready", "--timeout=60s"];
        kubectl.run(wait).with_context(|| self.kubelet_tail())?;
        self.pod(&key)
    }

    fn pod(&self, key: &str) -> Result<Pod> {
        let (namespace, name) = manifest::parts(key)?;
        let pod = self.kubectl()?.json(["get", "pod", name, "-n", namespace, "-o", "json"])?;
        let ips = pod["status"]["podIPs"].as_array().into_iter().flatten();
        let addresses: Vec<IpAddr> = ips.filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect();
        let address = addresses.first().with_context(|| format!("{key} has no address"))?;
        // The runtime gives networks names of its own.
        for entry in fs::read_dir(self.holder.networks())? {
            let network = Network::at(entry?.path());
            let shown = checked(network.command("ip").args(["-oneline", "address"]));
            if shown.is_ok_and(|shown| shown.contains(&format!(" {address}/"))) {
                return Ok(Pod { key: key.to_owned(), network, addresses });
            }
        }
        bail!("no network has the address {address} of {key}")
    }
}

/// Removes what a detached node has left, once its processes were killed.
pub(super) fn remove_detached() -> Result<()> {
    Groups::of_detached(&role(Lifetime::Detached)).remove()
}

/// What the control groups are called: those of a node that goes with its process by that.
fn role(lifetime: Lifetime) -> String {
    /// Numbers the nodes of one process.
    static NODES: AtomicU32 = AtomicU32::new(0);

    match lifetime {
        Lifetime::Owner => {
            format!("{}-{}", std::process::id(), NODES.fetch_add(1, Ordering::Relaxed))
        }
        Lifetime::Detached => "lab".into(),
    }
}

fn wait_ready(services: &mut Services, api: &Api) -> Result<()> {
    until("ready node", READY_WAIT, || {
        services.check()?;
        let answer = api.get(&format!("/api/v1/nodes/{NAME}"), api.token())?;
        let node: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let conditions = &node["status"]["conditions"];
        let mut all = conditions.as_array().into_iter().flatten();
        let ready =
            all.any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        Ok(if ready {
            Look::Seen(())
        } else {
            Look::NotYet(format!("{} {conditions}", answer.status))
        })
    })
    .with_context(|| services.kubelet_tail())
}

impl Holder {
    fn start(folder: &Path, lifetime: Lifetime) -> Result<Self> {
        let here = Spawner::new(Place::Here, lifetime)?;
        let mut unshare = here.serving("unshare");
        // Killing it kills the first process inside, and that all others.
        unshare.args(["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child"]);
        unshare.args(["--propagation", "private", "--"]);
        unshare.arg(beside("whydrop-lab")?).arg("inside").arg(folder).arg(NAME);
        let mut daemon = Daemon::start(&here, folder, "node", unshare)?;
        let pid = until("namespaces", INSIDE_WAIT, || {
            daemon.check()?;
            Ok(match fs::read_to_string(folder.join(inside::READY)) {
                Ok(pid) => Look::Seen(pid),
                Err(error) => Look::NotYet(error.to_string()),
            })
        })?;
        let first = record(folder, FIRST, pid.parse().context("a process id")?)?;
        Ok(Self { first, lifetime, _daemon: daemon })
    }
}

impl Holder {
    /// The node's own network.
    fn network(&self) -> Network {
        Network::at(format!("/proc/{}/ns/net", self.first.pid))
    }

    /// Where the node keeps the networks of its pods.
    fn networks(&self) -> PathBuf {
        format!("/proc/{}/root/run/netns", self.first.pid).into()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Owner {
            // It is over only when all others in there are. Where that fails, killing the program
            // outside comes next.
            let _ = self.first.end();
        }
    }
}

impl Site<'_> {
    /// A world outside: a network namespace that is named in the node alone.
    fn connect_outside(&self) -> Result<()> {
        self.run(&["ip", "netns", "add", "outside"])?;
        self.ip(
            &["ip", "-batch", "-"],
            &format!(
                "link set lo up\n\
                 link add eth0 type veth peer name eth0 netns outside\n\
                 addr add {ADDRESS}/24 dev eth0\n\
                 link set eth0 up\n\
                 route add default via {OUTSIDE}\n"
            ),
        )?;
        self.ip(
            &["ip", "-n", "outside", "-batch", "-"],
            &format!(
                "link set lo up\n\
                 addr add {OUTSIDE}/24 dev eth0\n\
                 link set eth0 up\n\
                 route add {PODS} via {ADDRESS}\n"
            ),
        )
    }

    fn ip(&self, arguments: &[&str], lines: &str) -> Result<()> {
        let mut command = self.spawner.command(arguments[0]);
        command.args(&arguments[1..]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawner.spawn(command)?;
        let written =
            child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(lines.as_bytes()));
        finished(arguments, &child.wait_with_output()?)?;
        Ok(written?)
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.spawner.command(arguments[0]);
        command.args(&arguments[1..]).stdout(Stdio::piped()).stderr(Stdio::piped());
        finished(arguments, &self.spawner.spawn(command)?.wait_with_output()?)
    }

    fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let program = debian::NODE.file("usr/bin/ctr")?;
        let program = program.to_string_lossy();
        // Where the kubelet's images and containers are.
        self.run(&[&[&*program, "--namespace", "k8s.io"], arguments].concat())
    }

    fn import(&self, image: &Image) -> Result<()> {
        let archive = tempfile::Builder::new().suffix(".tar").tempfile_in(self.folder)?;
        image.write(archive.path())?;
        self.import_archive(archive.path())
    }

    fn import_archive(&self, archive: &Path) -> Result<()> {
        self.ctr(&["images", "import", &archive.to_string_lossy()])?;
        Ok(())
    }
}

fn finished(arguments: &[&str], output: &Output) -> Result<String> {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    ensure!(output.status.success(), "{}: {}\n{out}{err}", arguments.join(" "), output.status);
    Ok(out)
}
