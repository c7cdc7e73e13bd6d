//! kube-proxy, which leads what is sent to a Service to its pods.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use serde_json::json;

use super::{
    api::launch::PODS,
    daemon::{Daemon, Spawner},
    parts,
};

/// By which rules it leads packets there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Those of iptables, which it writes through `iptables-nft`.
    #[default]
    Iptables,
    /// Those of nftables, in a table of its own.
    Nftables,
}

/// Starts it on a node, as the user that the kubeconfig names; its files lie in `folder`.
///
/// `wrap` makes the command of a program that serves.
pub(crate) fn start(
    spawner: &Spawner,
    folder: &Path,
    node: &str,
    kubeconfig: &Path,
    mode: Mode,
    wrap: impl FnOnce(&Spawner, PathBuf) -> Command,
) -> Result<Daemon> {
    let configuration = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": match mode {
            Mode::Iptables => "iptables",
            Mode::Nftables => "nftables",
        },
        "clientConnection": { "kubeconfig": kubeconfig },
        "clusterCIDR": PODS,
        // The tables of connections belong to the machine.
        "conntrack": {
            "maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
        },
        "oomScoreAdj": 0,
    });
    let name = format!("kube-proxy-{node}");
    let path = folder.join(format!("{name}.json"));
    fs::write(&path, configuration.to_string())?;
    let mut proxy = wrap(spawner, parts::PROXY.program()?);
    proxy.arg("--config").arg(path).args(["--hostname-override", node]);
    Daemon::start(spawner, folder, &name, proxy)
}
