//! What runs on a node besides its control plane.

use std::{fs, os::unix::fs::symlink, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{ADDRESS, BUSYBOX, NAME, PodNetwork, Site};
use crate::kube::{
    api::{Api, User},
    calico,
    cgroups::Groups,
    daemon::{Daemon, PATH, Spawner},
    debian, image, parts, proxy,
    wait::{Look, until},
};

/// How long containerd may take to answer.
const CONTAINERD_WAIT: Duration = Duration::from_secs(30);
/// The image that holds a pod's namespaces.
const PAUSE: &str = "localhost/pause:1";
/// The users whose rights Kubernetes has from the start, with the groups that it wants them in; the
/// name of each one's kubeconfig is its last word.
const USERS: &[(&str, &[&str])] = &[
    ("system:kube-scheduler", &[]),
    ("system:kube-proxy", &[]),
    ("system:node:lab-node", &["system:nodes"]),
];

/// The processes, in the order in which they end.
#[derive(Debug, Default)]
pub(super) struct Services {
    pub(super) felix: Option<Daemon>,
    proxy: Option<Daemon>,
    kubelet: Option<Daemon>,
    scheduler: Option<Daemon>,
    pub(super) containerd: Option<Daemon>,
}

/// The tokens of these services. They are distinguished by who has them, not by being secret: nobody
/// else is in the node's network.
pub(super) fn users() -> Vec<User> {
    let user = |&(name, groups): &(&str, &[&str])| User {
        name: name.to_owned(),
        groups: groups.iter().map(|&group| group.to_owned()).collect(),
        token: last_word(name).to_owned(),
    };
    USERS.iter().map(user).collect()
}

fn last_word(name: &str) -> &str {
    name.rsplit(':').next().unwrap_or(name)
}

impl Services {
    /// Starts those that need an API server.
    pub(super) fn start(
        &mut self,
        site: &Site<'_>,
        api: &Api,
        groups: &Groups,
        mode: proxy::Mode,
    ) -> Result<()> {
        let [scheduler, proxy, node] = [0, 1, 2].map(|index| last_word(USERS[index].0));
        self.scheduler = Some(start_scheduler(site, api, scheduler)?);
        self.kubelet = Some(start_kubelet(site, api, node, groups)?);
        let (spawner, kubeconfig) = (site.spawner, api.kubeconfig_for(proxy, proxy)?);
        self.proxy =
            Some(proxy::start(spawner, site.folder, NAME, &kubeconfig, mode, Spawner::serving)?);
        Ok(())
    }

    /// Fails with the end of its log where one of them has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        let all = [&mut self.containerd, &mut self.scheduler, &mut self.kubelet, &mut self.proxy];
        all.into_iter().flatten().try_for_each(Daemon::check)
    }

    /// The end of the kubelet's log, which says most about a pod that does not start.
    pub(super) fn kubelet_tail(&self) -> String {
        self.kubelet.as_ref().map(Daemon::tail).unwrap_or_default()
    }

    /// The process ids.
    pub(super) fn pids(&self) -> Vec<u32> {
        let all = [&self.felix, &self.proxy, &self.kubelet, &self.scheduler, &self.containerd];
        all.into_iter().flatten().map(Daemon::pid).collect()
    }
}

/// Starts containerd, and imports the images that every node has.
pub(super) fn start_containerd(site: &Site<'_>, network: PodNetwork) -> Result<Daemon> {
    let configuration = configure_containerd(site, network)?;
    let program = debian::NODE.file("usr/bin/containerd")?;
    let mut containerd = site.spawner.serving(&program);
    containerd.arg("--config").arg(&configuration);
    // It starts `containerd-shim-runc-v2`, which lies beside it.
    let beside = program.parent().context("a program in a folder")?;
    containerd.env("PATH", format!("{}:{PATH}", beside.display()));
    let mut containerd = Daemon::start(site.spawner, site.folder, "containerd", containerd)?;
    until("containerd", CONTAINERD_WAIT, || {
        containerd.check()?;
        Ok(match site.ctr(&["version"]) {
            Ok(_) => Look::Seen(()),
            Err(error) => Look::NotYet(error.to_string()),
        })
    })?;
    site.import(&image::pause(PAUSE)?)?;
    site.import(&image::busybox(BUSYBOX)?)?;
    Ok(containerd)
}

/// Writes containerd's configuration, and the folders of network plugins that it names.
fn configure_containerd(site: &Site<'_>, network: PodNetwork) -> Result<PathBuf> {
    let configuration = site.folder.join("containerd.toml");
    let plugins = site.folder.join("cni/bin");
    let networks = site.folder.join("cni/net.d");
    fs::create_dir_all(&plugins)?;
    fs::create_dir_all(&networks)?;
    for plugin in ["host-local", "loopback", "portmap", "ptp"] {
        let program = debian::NODE.file(&format!("usr/lib/cni/{plugin}"))?;
        symlink(program, plugins.join(plugin))?;
    }
    if network == PodNetwork::Calico {
        symlink(parts::CALICO.program()?, plugins.join("calico"))?;
    }
    let list = network_list(site, network);
    fs::write(networks.join("10-lab.conflist"), list.to_string())?;
    // `restrict_oom_score_adj`: without CAP_SYS_RESOURCE, which root of a virtual machine may lack,
    // no pod would start.
    let text = format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{runc}"
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{networks}"
"#,
        runc = debian::NODE.file("usr/sbin/runc")?.display(),
        plugins = plugins.display(),
        networks = networks.display(),
    );
    fs::write(&configuration, text)?;
    Ok(configuration)
}

/// What containerd calls for the network of a pod.
fn network_list(site: &Site<'_>, network: PodNetwork) -> Value {
    let ports = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    let plugin = match network {
        PodNetwork::Calico => calico::plugin(NAME, site.folder),
        PodNetwork::Plain => json!({
            "type": "ptp",
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "ranges": [[{ "subnet": NODE_PODS }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
                "dataDir": "/run/cni",
            },
        }),
    };
    json!({ "cniVersion": "0.3.1", "name": "lab", "plugins": [plugin, ports] })
}

/// The node's share of the pods' addresses, which the controllers give to the first node.
const NODE_PODS: &str = "10.244.0.0/24";

/// The address that pods ask for names, as everywhere; somebody answers there once a Service of this
/// address is deployed.
const RESOLVER: &str = "10.96.0.10";

fn start_scheduler(site: &Site<'_>, api: &Api, token: &str) -> Result<Daemon> {
    let kubeconfig = api.kubeconfig_for(token, token)?;
    let mut scheduler = site.spawner.serving(parts::SCHEDULER.program()?);
    for flag in ["--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig"] {
        scheduler.arg(flag).arg(&kubeconfig);
    }
    scheduler.args(["--leader-elect=false", "--bind-address=127.0.0.1"]);
    Daemon::start(site.spawner, site.folder, "kube-scheduler", scheduler)
}

fn start_kubelet(site: &Site<'_>, api: &Api, token: &str, groups: &Groups) -> Result<Daemon> {
    let file = |name: &str| site.folder.join(name);
    let configuration = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": file("ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": file("kubelet.crt"),
        "tlsPrivateKeyFile": file("kubelet.key"),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": groups.root(),
        // Its default would be made on the machine's own disk.
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        // Where the machine has version 1, so has the node.
        "failCgroupV1": false,
        "failSwapOn": false,
        // The machine may allow no more, and then the kubelet would not start.
        "maxOpenFiles": 20_000,
        "oomScoreAdj": 0,
        "clusterDomain": "cluster.local",
        "clusterDNS": [RESOLVER],
        "resolvConf": "/etc/resolv.conf",
        "nodeStatusUpdateFrequency": "5s",
        // A full disk of the machine is not this node's business until the last: a share of a large
        // disk is more than what else is built there leaves.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "100Mi",
            "imagefs.available": "100Mi",
            "nodefs.inodesFree": "1%",
            "imagefs.inodesFree": "1%",
        },
        "imageGCHighThresholdPercent": 100,
    });
    fs::write(file("kubelet.json"), configuration.to_string())?;
    let mut kubelet = site.spawner.serving(parts::KUBELET.program()?);
    kubelet.arg("--config").arg(file("kubelet.json"));
    kubelet.arg("--kubeconfig").arg(api.kubeconfig_for(token, token)?);
    kubelet.args(["--hostname-override", NAME, "--node-ip", &ADDRESS.to_string()]);
    Daemon::start(site.spawner, site.folder, "kubelet", kubelet)
}
