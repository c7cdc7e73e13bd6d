//! A node whose pods Cilium connects, and whose policies it enforces: an API server, Cilium's agent
//! with its eBPF programs, its network plugin, and pods that are network namespaces.
//!
//! There is no kubelet: what it would do for a pod is done here. As with [`Node`](super::Node), everything is
//! a process in namespaces of the node's own, among them those of mounts: what Cilium pins, mounts
//! and writes goes with them.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{ADDRESS, Holder, NAME, Site, finished, role};
use crate::{
    kube::{
        api::{self, Api},
        cache,
        cgroups::{self, Groups},
        daemon::{Daemon, Lifetime, Place, Spawner},
        kubectl::Kubectl,
        parts,
        state::State,
        wait::{Look, until},
    },
    world::{Objects, Pod, World, manifest, namespace::Network},
};

/// The Go module that has it.
const MODULE: &str = "github.com/cilium/cilium";
/// The addresses of this node's pods.
const PODS: &str = "10.244.0.0/24";
/// Where the agent listens, as its plugin expects.
const SOCKET: &str = "/var/run/cilium/cilium.sock";
/// Where the agent finds the control group that it may attach programs to.
const GROUP: &str = "/run/cilium/cgroupv2";
/// What the agent asks the API server for and waits until it knows.
const DEFINITIONS: &[&str] = &[
    "v2/ciliumclusterwidenetworkpolicies",
    "v2/ciliumendpoints",
    "v2/ciliumidentities",
    "v2/ciliumnetworkpolicies",
    "v2/ciliumnodes",
    "v2alpha1/ciliumcidrgroups",
    "v2alpha1/ciliuml2announcementpolicies",
    "v2alpha1/ciliumloadbalancerippools",
    "v2alpha1/ciliumpodippools",
];

/// How long the agent may take to be ready: it compiles its programs.
const READY_WAIT: Duration = Duration::from_secs(90);
/// How long it may take until the kernel has what the API server says.
const SYNC_WAIT: Duration = Duration::from_secs(60);
/// The longest that one question to the agent may take, in seconds.
const ANSWER_WAIT: &str = "10";

/// How packets get to a pod, which decides where a policy drops them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The program at the sender's veth decides for both ends, and hands what may pass to the
    /// receiver's veth itself. Cilium's default.
    Redirected,
    /// The kernel routes to each pod's veth, where another program decides what may enter
    /// (`--enable-endpoint-routes`).
    Routed,
    /// As [`Self::Redirected`], but into the pod itself, past what is at its veth's host side
    /// ("eBPF host routing", which comes with the replacement of kube-proxy).
    Peered,
}

/// A running node; everything of it ends when this is dropped.
#[derive(Debug)]
pub struct Cilium {
    // In the order in which they end.
    agent: Option<Daemon>,
    api: Api,
    spawner: Spawner,
    holder: Holder,
    _groups: Groups,
    state: State,
    delivery: Delivery,
    /// By `namespace/name`.
    pods: BTreeMap<String, Connected>,
}

/// A pod that Cilium's plugin has connected.
#[derive(Debug)]
struct Connected {
    pod: Pod,
    /// What its network is called within the node.
    network: String,
    /// The node's side of its veth.
    veth: String,
}

/// Copies out of the Go module, once, what the agent compiles and what it asks the API server for.
pub(in crate::kube) fn provide_sources() -> Result<()> {
    cache::provide(&sources()?, |new| {
        let mut go = parts::go("cilium");
        let output = go.args(["list", "-m", "-f", "{{.Dir}}", MODULE]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let module = PathBuf::from(String::from_utf8(output.stdout)?.trim());
        fs::create_dir(new)?;
        let mut copy = Command::new("cp");
        copy.args(["--recursive", "--no-preserve=mode"]).arg(module.join("bpf")).arg(new);
        finished(&["cp"], &copy.output()?)?;
        let definitions = module.join("pkg/k8s/apis/cilium.io/client/crds");
        let read = |name| {
            let path = definitions.join(name).with_extension("yaml");
            fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        let texts = DEFINITIONS.iter().map(read).collect::<Result<Vec<_>>>()?;
        Ok(fs::write(new.join("definitions.yaml"), texts.join("\n---\n"))?)
    })
    .context("take Cilium's sources out of its module")?;
    Ok(())
}

/// Shows an empty control group where the agent looks for that of all processes: what it attaches
/// there acts on every process within, and the control groups are the machine's.
fn give_group(site: &Site<'_>, groups: &Groups) -> Result<()> {
    const ALL: &str = "/run/cilium/all";

    site.run(&["mkdir", "--parents", ALL, GROUP])?;
    site.run(&["mount", "-t", "cgroup2", "none", ALL])?;
    site.run(&["mount", "--bind", &format!("{ALL}{}", groups.root()), GROUP])?;
    Ok(())
}

fn sources() -> Result<PathBuf> {
    let pin = fs::read(parts::module("cilium").join("go.sum"))?;
    let names = DEFINITIONS.iter().map(|name| name.as_bytes());
    let key = cache::key(names.chain([&*pin]));
    Ok(cache::folder()?.join("cilium").join(key))
}

impl Cilium {
    /// Starts a node without pods, and waits until the agent is ready.
    ///
    /// # Errors
    ///
    /// That a program is not built (`cargo xtask lab build cilium`), or how a process failed, with
    /// the end of its log.
    pub fn start(delivery: Delivery) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "a node needs root: namespaces and eBPF");
        let state = State::new(None)?;
        let folder = state.folder();
        cgroups::sweep();
        let groups = Groups::create(&role(Lifetime::Owner), Lifetime::Owner)?;
        let holder = Holder::start(folder, Lifetime::Owner)?;
        let place = Place::Process(holder.first.pid);
        let spawner = Spawner::new(place.clone(), Lifetime::Owner)?;
        let site = Site { folder, spawner: &spawner };
        site.connect_outside()?;
        give_group(&site, &groups)?;
        let folder = Some(folder.to_owned());
        let api = Api::start(api::Settings { place, folder, ..api::Settings::default() })?;
        api.admit_agent()?;
        let mut cilium = Self {
            agent: None,
            api,
            spawner,
            holder,
            _groups: groups,
            state,
            delivery,
            pods: BTreeMap::new(),
        };
        cilium.install()?;
        cilium.start_agent()?;
        Ok(cilium)
    }

    /// Runs a program on the node to its end, and returns what it printed.
    pub fn run_on_node(&self, arguments: &[&str]) -> Result<String> {
        self.site().run(arguments)
    }

    /// Describes the node, and defines the kinds that Cilium keeps at the API server.
    fn install(&self) -> Result<()> {
        let kubectl = self.kubectl()?;
        let definitions = sources()?.join("definitions.yaml");
        ensure!(
            definitions.is_file(),
            "{}: `cargo xtask lab build cilium` makes it, once",
            definitions.display()
        );
        let definitions = definitions.to_string_lossy();
        // Applied by the client they are larger than an annotation may be.
        kubectl.run(["apply", "--server-side", "-f", &definitions])?;
        self.api.apply(&manifest::node(NAME, PODS, ADDRESS.into()).to_string())?;
        // What the agent compiles; it writes beside it.
        let library = self.state.folder().join("cilium");
        fs::create_dir(&library)?;
        symlink(sources()?.join("bpf"), library.join("bpf"))?;
        Ok(())
    }

    /// Starts the agent, on what a former one has left in the kernel, and waits until it is ready.
    pub fn start_agent(&mut self) -> Result<()> {
        ensure!(self.agent.is_none(), "the agent runs");
        let mut agent = self.spawner.serving(parts::CILIUM.program()?);
        agent.env("K8S_NODE_NAME", NAME);
        let kubeconfig = self.api.kubeconfig();
        agent.arg(format!("--k8s-kubeconfig-path={}", kubeconfig.display()));
        let library = self.state.folder().join("cilium");
        agent.arg(format!("--lib-dir={}", library.display()));
        agent.arg(format!("--enable-endpoint-routes={}", self.delivery == Delivery::Routed));
        agent.arg(format!("--ipv4-native-routing-cidr={PODS}"));
        let is_peered = self.delivery == Delivery::Peered;
        for flag in ["kube-proxy-replacement", "enable-bpf-masquerade", "enable-ipv4-masquerade"] {
            agent.arg(format!("--{flag}={is_peered}"));
        }
        agent.args([
            "--devices=eth0",
            "--ipam=kubernetes",
            "--routing-mode=native",
            "--enable-ipv6=false",
            "--identity-allocation-mode=crd",
            "--bpf-root=/sys/fs/bpf",
            // Only what enforces policies.
            "--bpf-lb-sock=false",
            "--enable-l7-proxy=false",
            "--enable-hubble=false",
            "--enable-health-checking=false",
            "--enable-endpoint-health-checking=false",
        ]);
        agent.arg(format!("--cgroup-root={GROUP}"));
        let mut agent = Daemon::start(&self.spawner, self.state.folder(), "cilium-agent", agent)?;
        let ready = until("ready Cilium agent", READY_WAIT, || {
            agent.check()?;
            let health = self.ask("/v1/healthz").unwrap_or_default();
            Ok(if health["cilium"]["state"] == "Ok" {
                Look::Seen(health)
            } else {
                Look::NotYet(health["cilium"].to_string())
            })
        });
        let health = ready.with_context(|| agent.tail())?;
        // Where it cannot, it falls back in silence.
        let routing = &health["host-routing"]["mode"];
        let wanted = if is_peered { "BPF" } else { "Legacy" };
        ensure!(routing == wanted, "Cilium's host routing is {health}, not {wanted}");
        self.agent = Some(agent);
        Ok(())
    }

    /// Stops the agent, as a crash does: its programs go on enforcing what they know.
    pub fn stop_agent(&mut self) -> Result<()> {
        self.agent.take().map_or(Ok(()), Daemon::stop)
    }

    /// Makes the network of a pod that the API server knows, as a kubelet has it made.
    fn connect_pod(&self, key: &str) -> Result<Connected> {
        let (namespace, name) = manifest::parts(key)?;
        let uid = ["get", "pod", name, "-n", namespace, "-o", "jsonpath={.metadata.uid}"];
        // Containers and their networks are called by what nobody else is.
        let network = self.kubectl()?.run(uid)?;
        self.run_on_node(&["ip", "netns", "add", &network])?;
        self.run_on_node(&["ip", "-n", &network, "link", "set", "lo", "up"])?;
        let owner =
            format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={network}");
        let connected = self.plugin("ADD", &network, &owner)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let address = text(&connected["ips"][0]["address"]);
        let address = address.split('/').next().unwrap_or_default();
        let address = address.parse().with_context(|| format!("no address in {connected}"))?;
        let veth = text(&connected["interfaces"][0]["name"]);
        let pod = Pod {
            key: key.to_owned(),
            network: Network::at(self.holder.networks().join(&network)),
            addresses: vec![address],
        };
        Ok(Connected { pod, network, veth })
    }

    /// Takes a pod away.
    pub fn remove(&mut self, key: &str) -> Result<()> {
        let pod = self.pods.remove(key).with_context(|| format!("no pod {key}"))?;
        let (namespace, name) = manifest::parts(key)?;
        let delete = ["delete", "pod", name, "-n", namespace, "--grace-period=0", "--force"];
        self.kubectl()?.run(delete)?;
        self.plugin("DEL", &pod.network, "")?;
        self.run_on_node(&["ip", "netns", "delete", &pod.network])?;
        Ok(())
    }

    /// Calls the network plugin, as a container runtime would (CNI specification, section 2).
    fn plugin(&self, command: &str, network: &str, arguments: &str) -> Result<Value> {
        let configuration =
            json!({ "cniVersion": "0.4.0", "name": "cilium", "type": "cilium-cni" });
        let program = parts::CILIUM_CNI.program()?;
        let mut plugin = self.spawner.command(&program);
        plugin.env("CNI_COMMAND", command).env("CNI_CONTAINERID", network);
        plugin.env("CNI_NETNS", format!("/run/netns/{network}")).env("CNI_IFNAME", "eth0");
        plugin.env("CNI_ARGS", arguments).env("CNI_PATH", program.parent().unwrap_or(&program));
        plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut plugin = self.spawner.spawn(plugin)?;
        let mut stdin = plugin.stdin.take().context("a pipe")?;
        stdin.write_all(configuration.to_string().as_bytes())?;
        drop(stdin);
        let printed = finished(&["cilium-cni", command], &plugin.wait_with_output()?)?;
        Ok(serde_json::from_str(&printed).unwrap_or_default())
    }

    /// Waits until the programs of every pod enforce what the API server says now.
    pub fn wait_in_sync(&mut self) -> Result<()> {
        let kubectl = self.kubectl()?;
        let mut agent = self.agent.take().context("no agent runs")?;
        let synced = until("Cilium in sync", SYNC_WAIT, || {
            agent.check()?;
            self.in_sync(&kubectl)
        });
        let synced = synced.with_context(|| agent.tail());
        self.agent = Some(agent);
        synced
    }

    fn in_sync(&self, kubectl: &Kubectl) -> Result<Look<()>> {
        let list = |kind| kubectl.json(["get", kind, "-A", "-o", "json"]);
        let known = self.ask("/v1/policy")?;
        let rules = known["policy"].as_str().unwrap_or_default();
        let policies = list("networkpolicies")?;
        for policy in items(&policies) {
            let uid = policy["metadata"]["uid"].as_str().unwrap_or_default();
            if !rules.contains(uid) {
                return Ok(Look::NotYet(format!("without {}", policy["metadata"]["name"])));
            }
        }
        let imported = rules.matches("\"key\": \"io.cilium.k8s.policy.uid\"").count();
        if imported != items(&policies).count() {
            return Ok(Look::NotYet(format!("{imported} policies")));
        }
        let endpoints = self.ask("/v1/endpoint")?;
        let namespaces = list("namespaces")?;
        let all_namespaces = items(&namespaces);
        for pod in items(&list("pods")?) {
            let text = |field| pod["metadata"][field].as_str().unwrap_or_default();
            let name = text("name");
            let Some(endpoint) = endpoint_of(&endpoints, text("namespace"), name) else {
                return Ok(Look::NotYet(format!("no endpoint of {name}")));
            };
            let status = &endpoint["status"];
            let of = all_namespaces.clone().find(|it| it["metadata"]["name"] == text("namespace"));
            let missing = missing_label(status, pod, of.unwrap_or(&Value::Null));
            if let Some(label) = missing {
                return Ok(Look::NotYet(format!("{name} is without {label}")));
            }
            let realized = &status["policy"]["realized"]["policy-revision"];
            if status["state"] != "ready" || realized.as_i64() < known["revision"].as_i64() {
                return Ok(Look::NotYet(format!(
                    "{name} is {} at {realized} of {}",
                    status["state"], known["revision"]
                )));
            }
        }
        Ok(Look::Seen(()))
    }

    /// Has the programs of a pod compiled, loaded and attached again, and waits until that is done.
    pub fn reattach(&self, key: &str) -> Result<()> {
        /// An option that the programs are compiled with.
        const OPTION: &str = "DropNotification";

        let endpoints = self.ask("/v1/endpoint")?;
        let (namespace, name) = manifest::parts(key)?;
        let endpoint = endpoint_of(&endpoints, namespace, name)
            .with_context(|| format!("no endpoint of {name}"))?;
        let is_on = endpoint["spec"]["options"][OPTION] == "Enabled";
        let value = if is_on { "Disabled" } else { "Enabled" };
        let change = json!({ "options": { OPTION: value } }).to_string();
        let before = self.show_filters(key, "ingress")?;
        let path = format!("/v1/endpoint/{}/config", endpoint["id"]);
        self.call(&path, &["--request", "PATCH", "--json", &change])?;
        until("program attached again", SYNC_WAIT, || {
            let now = self.show_filters(key, "ingress")?;
            Ok(if now == before { Look::NotYet(now) } else { Look::Seen(()) })
        })
    }

    /// The names of the filters at a pod's veth, of what it sends and of what is sent to it, in the
    /// order in which they run.
    pub fn filters(&self, key: &str) -> Result<[Vec<String>; 2]> {
        let names = |hook| -> Result<Vec<String>> {
            let shown = self.show_filters(key, hook)?;
            let words = shown.lines().filter(|line| line.contains(" handle "));
            let names = words.filter_map(|line| line.split(" handle ").nth(1)?.split(' ').nth(1));
            Ok(names.map(str::to_owned).collect())
        };
        Ok([names("ingress")?, names("egress")?])
    }

    fn show_filters(&self, key: &str, hook: &str) -> Result<String> {
        let pod = self.pods.get(key).with_context(|| format!("no pod {key}"))?;
        self.run_on_node(&["tc", "filter", "show", "dev", &pod.veth, hook])
    }

    /// Asks the agent.
    fn ask(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.call(path, &[])?)?)
    }

    fn call(&self, path: &str, arguments: &[&str]) -> Result<String> {
        let mut curl = self.spawner.command("curl");
        curl.args(["-q", "--silent", "--fail-with-body", "--max-time", ANSWER_WAIT]);
        curl.args(["--unix-socket", SOCKET]).args(arguments);
        curl.arg(format!("http://localhost{path}"));
        curl.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self.spawner.spawn(curl)?.wait_with_output()?;
        finished(&["curl", path], &output)
    }

    fn site(&self) -> Site<'_> {
        Site { folder: self.folder(), spawner: &self.spawner }
    }

    /// The folder of its state, where the logs are.
    pub fn folder(&self) -> &Path {
        self.state.folder()
    }
}

impl World for Cilium {
    fn nodes(&self) -> Vec<String> {
        vec![NAME.to_owned()]
    }

    fn network(&self, node: &str) -> Result<Network> {
        ensure!(node == NAME, "no node {node}");
        Ok(self.holder.network())
    }

    fn objects(&self) -> Objects<'_> {
        Objects::Server(&self.api)
    }

    fn apply(&mut self, manifests: &str) -> Result<()> {
        self.kubectl()?.apply(manifests)?;
        self.wait_in_sync()
    }

    /// In a namespace that is there.
    fn run(&mut self, manifest: &Value) -> Result<Pod> {
        let key = manifest::key(manifest)?;
        let mut manifest = manifest.clone();
        manifest["spec"]["nodeName"] = NAME.into();
        // It has no address before the plugin gives it one, and no endpoint to wait for.
        self.kubectl()?.apply(&manifest.to_string())?;
        let connected = self.connect_pod(&key)?;
        let pod = connected.pod.clone();
        self.api.apply_status(&[manifest::running(manifest, NAME, &pod.addresses)])?;
        self.pods.insert(key, connected);
        Ok(pod)
    }

    fn pod(&self, key: &str) -> Result<Pod> {
        let connected = self.pods.get(key).with_context(|| format!("no pod {key}"))?;
        Ok(connected.pod.clone())
    }
}

fn endpoint_of<'a>(endpoints: &'a Value, namespace: &str, name: &str) -> Option<&'a Value> {
    endpoints.as_array()?.iter().find(|endpoint| {
        let identifiers = &endpoint["status"]["external-identifiers"];
        identifiers["k8s-namespace"] == namespace && identifiers["k8s-pod-name"] == name
    })
}

/// A label of a pod or of its namespace that the identity of its endpoint has not.
fn missing_label(status: &Value, pod: &Value, namespace: &Value) -> Option<String> {
    let has = |label: &String| {
        let mut labels = status["identity"]["labels"].as_array().into_iter().flatten();
        labels.any(|known| known == label)
    };
    let spelled = |object: &Value, prefix: &str| -> Vec<String> {
        let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        labels.map(|(key, value)| format!("k8s:{prefix}{key}={}", text(value))).collect()
    };
    let all = [spelled(pod, ""), spelled(namespace, "io.cilium.k8s.namespace.labels.")].concat();
    all.into_iter().find(|label| !has(label))
}

fn items(list: &Value) -> impl Iterator<Item = &Value> + Clone {
    list["items"].as_array().into_iter().flatten()
}
