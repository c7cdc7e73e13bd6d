//! A node with real pods' network, an API server that describes it, and an agent that asks it.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use whydrop_tests::{
    agent::{Agent, Heard, binary},
    kube::{
        api::{Api, Settings},
        daemon::Place,
        kubectl::Kubectl,
    },
    lab::namespace::{Namespace, sweep},
    netns::Node,
};

/// How long a record may take: a SYN's second retransmission and a look-up.
pub(crate) const RECORD_WAIT: Duration = Duration::from_secs(30);
/// How long a client tries: three SYNs.
const CONNECT_WAIT: Duration = Duration::from_secs(4);
/// The port that policies are about.
pub(crate) const PORT: u16 = 8080;
/// The node's name.
pub(crate) const NODE: &str = "worker-1";

/// Everything a test of the live cluster plays on.
pub(crate) struct Stage {
    pub(crate) kubectl: Kubectl,
    pub(crate) api: Api,
    pub(crate) node: Node,
}

impl Stage {
    /// A node with pods, its API server, and the rights of `deploy/`.
    pub(crate) fn new(pods: u8) -> Self {
        sweep();
        let node = Node::new(pods).expect("a node");
        let place = Place::Network(node.namespace().name().to_owned());
        let api = Api::start(Settings { place, ..Settings::default() }).expect("an API server");
        let kubectl = api.kubectl().expect("kubectl");
        let stage = Self { kubectl, api, node };
        stage.apply(&format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {NODE}}}\nspec: {{podCIDR: 10.7.0.0/24, podCIDRs: [10.7.0.0/24]}}\n"
        ));
        let addresses = json!([{ "type": "InternalIP", "address": "192.168.77.2" }]);
        stage.patch_status("node", NODE, None, &json!({ "addresses": addresses }));
        for namespace in ["frontend", "backend", "whydrop"] {
            stage.run(&["create", "namespace", namespace]);
        }
        stage.run(&["create", "serviceaccount", "whydrop", "-n", "whydrop"]);
        stage.apply(&rights());
        stage
    }

    /// Applies manifests.
    pub(crate) fn apply(&self, manifests: &str) {
        self.kubectl.apply(manifests).expect("applied");
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        self.kubectl.run(arguments.iter().copied()).expect("kubectl")
    }

    /// A pod that runs with an address; on this node behind a veth, if the lab has given it one.
    pub(crate) fn pod(&self, namespace: &str, name: &str, node: &str, address: &str, more: &Value) {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": namespace, "labels": { "app": name } },
            "spec": { "nodeName": node, "containers": [{ "name": "c", "image": "example.com/c" }] },
        });
        if let Some(more) = more.as_object() {
            for (field, value) in more {
                pod["metadata"][field] = value.clone();
            }
        }
        self.apply(&pod.to_string());
        let ips = json!([{ "ip": address }]);
        let status = json!({ "phase": "Running", "podIP": address, "podIPs": ips });
        self.patch_status("pod", name, Some(namespace), &status);
    }

    pub(crate) fn patch_status(
        &self,
        kind: &str,
        name: &str,
        namespace: Option<&str>,
        status: &Value,
    ) {
        let patch = json!({ "status": status }).to_string();
        let mut arguments =
            vec!["patch", kind, name, "--subresource=status", "--type=merge", "-p", &patch];
        if let Some(namespace) = namespace {
            arguments.extend(["-n", namespace]);
        }
        self.run(&arguments);
    }

    /// The story's objects: `frontend/pod-a` and `backend/pod-b`, and policies between them.
    pub(crate) fn frontend_to_backend(&self) {
        let (a, b) = (self.node.pod(0).ip.to_string(), self.node.pod(1).ip.to_string());
        self.pod("frontend", "pod-a", NODE, &a, &Value::Null);
        self.pod("backend", "pod-b", NODE, &b, &Value::Null);
        self.apply(POLICIES);
    }

    /// Drops what goes to a pod, as a network plugin would.
    pub(crate) fn enforce(&self, number: usize) {
        let address = self.node.pod(number).ip;
        self.node
            .nft(&format!(
                "table inet cni {{\n  chain forward {{\n    type filter hook forward priority filter; \
                 policy accept;\n    ip daddr {address} counter drop\n  }}\n}}\n"
            ))
            .expect("rules");
    }

    /// Lets everything through again.
    pub(crate) fn stop_enforcing(&self) {
        self.node.nft("delete table inet cni\n").expect("rules");
    }

    /// A wire to a host that swallows what is routed through it to these networks.
    pub(crate) fn uplink(&self, networks: &[&str]) -> Namespace {
        let beyond = Namespace::create(0, "beyond").expect("a namespace");
        let node = self.node.namespace();
        beyond
            .ip(&format!(
                "link add eth0 type veth peer name uplink netns {}\nlink set eth0 up\n\
                 addr add 192.168.77.1/24 dev eth0\n",
                node.name()
            ))
            .expect("a wire");
        node.ip("link set uplink up\naddr add 192.168.77.2/24 dev uplink\n").expect("an uplink");
        for network in networks {
            node.ip(&format!("route add {network} via 192.168.77.1\n")).expect("a route");
        }
        beyond
    }

    /// Tries to connect from a pod for as long as three SYNs take.
    pub(crate) fn connect(&self, from: usize, to: SocketAddr) -> Result<(), ErrorKind> {
        let connected = self.node.pod(from).namespace.enter(|| {
            Ok(TcpStream::connect_timeout(&to, CONNECT_WAIT).map(drop).map_err(|e| e.kind()))
        });
        connected.expect("the pod's namespace")
    }

    /// The agent's kubeconfig, with the token of its service account.
    pub(crate) fn agents_kubeconfig(&self) -> PathBuf {
        let token = self.api.service_account_token("whydrop", "whydrop").expect("a token");
        self.api.kubeconfig_for("agent", &token).expect("a kubeconfig")
    }

    /// Starts the agent with the rights of its service account, and waits until it is ready.
    pub(crate) fn agent(&self) -> Agent {
        let mut agent = self.agent_command(&[]).expect("the agent starts");
        agent.wait_ready().expect("it gets ready");
        agent
    }

    pub(crate) fn agent_command(&self, arguments: &[&str]) -> Result<Agent> {
        self.agent_as(&self.agents_kubeconfig(), arguments)
    }

    /// Starts the agent as whoever a kubeconfig says.
    pub(crate) fn agent_as(&self, kubeconfig: &Path, arguments: &[&str]) -> Result<Agent> {
        let mut command = self.node.namespace().command("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(binary()?);
        command.args(["agent", "--log-format", "json", "--node-name", NODE, "--kubeconfig"]);
        command.arg(kubeconfig).args(arguments);
        Agent::spawn(&mut command)
    }

    /// Any other command of whydrop's, on the node, as the administrator or another user.
    pub(crate) fn whydrop(
        &self,
        kubeconfig: &PathBuf,
        arguments: &[&str],
    ) -> Result<std::process::Output> {
        let mut command: Command = self.node.namespace().command(binary()?);
        command.args(arguments).arg("--kubeconfig").arg(kubeconfig);
        command.output().context("run whydrop")
    }
}

/// The rights that the agent is deployed with.
fn rights() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join("deploy/kustomize/base/rbac.yaml")).expect("deploy/")
}

/// Whether a record is of a drop towards this pod.
pub(crate) fn is_drop_to(heard: &Heard, pod: &str) -> bool {
    let record = &heard.record;
    record["kind"] == "drop" && record["flow"]["destination"]["pod"] == pod
}

/// The first record of a drop towards this pod.
pub(crate) fn drop_to(agent: &mut Agent, pod: &str) -> Value {
    let heard = agent.wait_for(RECORD_WAIT, |heard| heard.iter().any(|h| is_drop_to(h, pod)));
    heard.unwrap_or_else(|error| panic!("no drop to {pod}: {error:#}"));
    let heard = agent.records().iter().find(|heard| is_drop_to(heard, pod)).expect("the record");
    heard.record.clone()
}

/// The one that is to lead comes last: of several, the latest does.
pub(crate) const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-web, namespace: backend}
spec:
  podSelector: {matchLabels: {app: pod-b}}
  ingress:
    - from: [{namespaceSelector: {matchLabels: {name: frontend}}}]
      ports: [{port: 8080}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny, namespace: backend}
spec: {podSelector: {}, policyTypes: [Ingress]}
";
