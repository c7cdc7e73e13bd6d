//! Calico as far as it enforces policies: its network plugin, its definitions, and Felix. No
//! operator, no Typha, no BGP.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    api::Api,
    cache,
    daemon::{Daemon, Spawner},
    parts,
    wait::{Look, until},
};

/// The Go module that has it.
const MODULE: &str = "github.com/projectcalico/calico";
/// How long Felix may take until the kernel has what the API server says.
const SYNC_WAIT: Duration = Duration::from_secs(60);
/// Where Felix says whether it has.
const HEALTH_PORT: &str = "9099";

/// Copies the definitions of Calico's own objects out of the Go module, once.
pub(super) fn provide_definitions() -> Result<()> {
    cache::provide(&definitions()?, |new| {
        let mut go = parts::go("calico");
        let output = go.args(["list", "-m", "-f", "{{.Dir}}", MODULE]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let folder = PathBuf::from(String::from_utf8(output.stdout)?.trim());
        let folder = folder.join("libcalico-go/config/crd");
        let files = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        let mut files: Vec<PathBuf> = files.flatten().map(|entry| entry.path()).collect();
        files.sort();
        let texts: Vec<String> = files.iter().map(fs::read_to_string).collect::<Result<_, _>>()?;
        Ok(fs::write(new, texts.join("\n---\n"))?)
    })
    .context("take Calico's definitions out of its module")?;
    Ok(())
}

fn definitions() -> Result<PathBuf> {
    let pin = fs::read(parts::module("calico").join("go.sum"))?;
    Ok(cache::folder()?.join("calico").join(format!("{}.yaml", cache::key([&*pin]))))
}

/// The network plugin, as containerd's list of plugins has it.
pub(super) fn plugin(node: &str, folder: &Path) -> Value {
    json!({
        "type": "calico",
        "datastore_type": "kubernetes",
        "nodename": node,
        "nodename_file_optional": true,
        "mtu": 1500,
        "log_level": "info",
        "log_file_path": folder.join("calico-cni.log"),
        "ipam": { "type": "host-local", "subnet": "usePodCidr" },
        "policy": { "type": "k8s" },
        "kubernetes": { "kubeconfig": folder.join("admin.kubeconfig") },
    })
}

/// Applies what the plugin and Felix ask the API server for before the first pod.
pub fn install(api: &Api) -> Result<()> {
    let kubectl = api.kubectl()?;
    let path = definitions()?;
    let text = fs::read_to_string(&path).with_context(|| {
        format!("{}: `cargo xtask lab build node` makes it, once", path.display())
    })?;
    kubectl.apply(&text)?;
    let established = ["clusterinformations", "felixconfigurations"]
        .map(|name| format!("crd/{name}.crd.projectcalico.org"));
    let mut wait = vec!["wait", "--for=condition=Established", "--timeout=30s"];
    wait.extend(established.iter().map(String::as_str));
    kubectl.run(wait)?;
    let information = json!({
        "apiVersion": "crd.projectcalico.org/v1",
        "kind": "ClusterInformation",
        "metadata": { "name": "default" },
        "spec": {
            "datastoreReady": true,
            "clusterGUID": "lab",
            "calicoVersion": parts::CALICO_VERSION,
        },
    });
    kubectl.apply(&information.to_string())?;
    Ok(())
}

/// Which rules Felix writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// Those of nftables, through iptables' own words (`iptables-nft`).
    #[default]
    Nft,
    /// Those of the older iptables.
    Legacy,
}

/// Felix on one node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Felix<'a> {
    /// The node's name.
    pub(crate) node: &'a str,
    /// The node's address, with its prefix.
    pub(crate) address: &'a str,
    /// What it writes.
    pub(crate) backend: Backend,
    /// Whether it governs IPv6 as well.
    pub(crate) ipv6: bool,
    /// Starts processes where the node is.
    pub(crate) spawner: &'a Spawner,
    /// Where its log goes.
    pub(crate) folder: &'a Path,
}

impl Felix<'_> {
    /// Gives the API server the node's address, starts Felix, and waits until it is in sync.
    ///
    /// `wrap` makes the command of a program that serves.
    pub(crate) fn start(
        &self,
        api: &Api,
        wrap: impl FnOnce(&Spawner, PathBuf) -> Command,
    ) -> Result<Daemon> {
        let address = format!("projectcalico.org/IPv4Address={}", self.address);
        api.kubectl()?.run(["annotate", "--overwrite", "node", self.node, &address])?;
        let mut felix = wrap(self.spawner, parts::FELIX.program()?);
        felix.env("KUBECONFIG", api.kubeconfig()).env("FELIX_FELIXHOSTNAME", self.node);
        felix.env("FELIX_HEALTHPORT", HEALTH_PORT).envs([
            ("DATASTORE_TYPE", "kubernetes"),
            ("FELIX_DATASTORETYPE", "kubernetes"),
            (
                "FELIX_IPTABLESBACKEND",
                match self.backend {
                    Backend::Nft => "NFT",
                    Backend::Legacy => "Legacy",
                },
            ),
            ("FELIX_IPV6SUPPORT", if self.ipv6 { "true" } else { "false" }),
            // It would call out.
            ("FELIX_USAGEREPORTINGENABLED", "false"),
            ("FELIX_LOGFILEPATH", "none"),
            ("FELIX_LOGSEVERITYFILE", "none"),
            ("FELIX_LOGSEVERITYSYS", "none"),
            ("FELIX_LOGSEVERITYSCREEN", "Info"),
            // Without cgo it has no eBPF; asked to clean up after it, it would end.
            ("FELIX_BPFENABLED", "false"),
            ("FELIX_XDPENABLED", "false"),
            ("FELIX_DebugSkipCTLBCleanup", "true"),
            ("FELIX_IPINIPENABLED", "false"),
            ("FELIX_VXLANENABLED", "false"),
            ("FELIX_WIREGUARDENABLED", "false"),
            // As the usual installers set it: what a pod sends to its node is for its egress
            // policies to decide.
            ("FELIX_DEFAULTENDPOINTTOHOSTACTION", "ACCEPT"),
            ("FELIX_HEALTHENABLED", "true"),
            ("FELIX_HEALTHHOST", "127.0.0.1"),
        ]);
        let name = format!("calico-felix-{}", self.node);
        let mut felix = Daemon::start(self.spawner, self.folder, &name, felix)?;
        let synced = until("Felix in sync", SYNC_WAIT, || {
            felix.check()?;
            let mut curl = self.spawner.command("curl");
            curl.args(["-q", "--silent", "--max-time", "5", "--fail"]);
            curl.arg(format!("http://127.0.0.1:{HEALTH_PORT}/readiness"));
            curl.stdout(Stdio::null()).stderr(Stdio::null());
            let status = self.spawner.spawn(curl)?.wait()?;
            Ok(if status.success() {
                Look::Seen(())
            } else {
                Look::NotYet(format!("curl: {status}"))
            })
        });
        synced.with_context(|| felix.tail())?;
        Ok(felix)
    }
}
