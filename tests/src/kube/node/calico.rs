//! Calico as far as it enforces policies: its network plugin, its definitions, and Felix. No
//! operator, no Typha, no BGP.

use std::{fs, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{ADDRESS, NAME, Site};
use crate::kube::{
    api::Api,
    cache,
    daemon::Daemon,
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
pub(in crate::kube) fn provide_definitions() -> Result<()> {
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
pub(super) fn plugin(site: &Site<'_>) -> Value {
    json!({
        "type": "calico",
        "datastore_type": "kubernetes",
        "nodename": NAME,
        "nodename_file_optional": true,
        "mtu": 1500,
        "log_level": "info",
        "log_file_path": site.folder.join("calico-cni.log"),
        "ipam": { "type": "host-local", "subnet": "usePodCidr" },
        "policy": { "type": "k8s" },
        "kubernetes": { "kubeconfig": site.folder.join("admin.kubeconfig") },
    })
}

/// Applies what the plugin and Felix ask the API server for before the first pod.
pub(super) fn install(api: &Api) -> Result<()> {
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

/// Starts Felix on a node that is ready, and waits until it is in sync.
pub(super) fn start_felix(site: &Site<'_>, api: &Api) -> Result<Daemon> {
    let address = format!("projectcalico.org/IPv4Address={ADDRESS}/24");
    api.kubectl()?.run(["annotate", "node", NAME, &address])?;
    let mut felix = site.spawner.serving(parts::FELIX.program()?);
    felix.env("KUBECONFIG", api.kubeconfig()).env("FELIX_FELIXHOSTNAME", NAME);
    felix.env("FELIX_HEALTHPORT", HEALTH_PORT).envs([
        ("DATASTORE_TYPE", "kubernetes"),
        ("FELIX_DATASTORETYPE", "kubernetes"),
        ("FELIX_IPTABLESBACKEND", "NFT"),
        ("FELIX_IPV6SUPPORT", "false"),
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
        // The kubelet's probes come in.
        ("FELIX_DEFAULTENDPOINTTOHOSTACTION", "ACCEPT"),
        ("FELIX_HEALTHENABLED", "true"),
        ("FELIX_HEALTHHOST", "127.0.0.1"),
    ]);
    let mut felix = Daemon::start(site.spawner, site.folder, "calico-felix", felix)?;
    let synced = until("Felix in sync", SYNC_WAIT, || {
        felix.check()?;
        let mut curl = site.spawner.command("curl");
        curl.args(["-q", "--silent", "--max-time", "5", "--fail"]);
        curl.arg(format!("http://127.0.0.1:{HEALTH_PORT}/readiness"));
        curl.stdout(Stdio::null()).stderr(Stdio::null());
        let status = site.spawner.spawn(curl)?.wait()?;
        Ok(if status.success() { Look::Seen(()) } else { Look::NotYet(format!("curl: {status}")) })
    });
    synced.with_context(|| felix.tail())?;
    Ok(felix)
}
