//! The processes of a control plane: their files and flags.

use std::{ffi::OsString, fs};

use anyhow::Result;

use super::Api;
use crate::kube::{
    daemon::Daemon,
    parts,
    pki::{Authority, Holder, service_account_keys},
};

/// The addresses of Services.
const SERVICES: &str = "10.96.0.0/16";
/// The first of them, which is that of the API server.
const SERVICE: &str = "10.96.0.1";
/// The addresses of pods, a /24 of them for each node.
pub(in crate::kube) const PODS: &str = "10.244.0.0/16";

/// The controllers that act on objects alone. Left out are those that act on nodes, for there is
/// none: they would remove the pods.
const CONTROLLERS: &str = "namespace-controller,serviceaccount-controller,\
    serviceaccount-token-controller,root-ca-certificate-publisher-controller,\
    endpointslice-controller,endpoints-controller,clusterrole-aggregation-controller,\
    garbage-collector-controller,deployment-controller,replicaset-controller,daemonset-controller";

impl Api {
    pub(super) fn write_state(&self, authority: &Authority) -> Result<()> {
        let folder = self.folder();
        let address = self.address().to_string();
        let mut names = vec!["localhost", "127.0.0.1", "kubernetes", "kubernetes.default.svc"];
        names.extend([SERVICE, &address]);
        authority.issue(folder, "apiserver", &Holder::Server(&names))?;
        if let Some(node) = &self.settings.node {
            authority.issue(folder, "kubelet", &Holder::Server(&[&node.name, &address]))?;
            let group = "system:masters";
            authority.issue(folder, "apiserver-kubelet", &Holder::Client { group })?;
        }
        service_account_keys(folder)?;
        fs::write(folder.join("ca.crt"), &self.authority)?;
        let mut tokens = line("admin", &self.token, &["system:masters"]);
        for user in &self.settings.users {
            tokens += &line(&user.name, &user.token, &user.groups);
        }
        fs::write(folder.join("tokens.csv"), tokens)?;
        self.kubeconfig_for("admin", &self.token)?;
        Ok(())
    }

    pub(super) fn launch_etcd(&mut self) -> Result<()> {
        let [_, client, peer] = self.ports.map(|port| format!("http://127.0.0.1:{port}"));
        let mut etcd = self.spawner.serving(parts::ETCD.program()?);
        etcd.arg("--data-dir").arg(self.folder().join("etcd"));
        // What a crash of the machine would cost is nothing here: what counts is a fast start.
        etcd.args(["--name=lab", "--unsafe-no-fsync"]);
        etcd.arg(format!("--listen-client-urls={client}"));
        etcd.arg(format!("--advertise-client-urls={client}"));
        etcd.arg(format!("--listen-peer-urls={peer}"));
        etcd.arg(format!("--initial-advertise-peer-urls={peer}"));
        etcd.arg(format!("--initial-cluster=lab={peer}"));
        self.etcd = Some(Daemon::start(&self.spawner, self.folder(), "etcd", etcd)?);
        Ok(())
    }

    pub(super) fn launch_apiserver(&self) -> Result<Daemon> {
        let [port, etcd, _] = self.ports;
        let mut server = self.spawner.serving(parts::APISERVER.program()?);
        let file = |flag, name| {
            let mut argument = OsString::from(flag);
            argument.push(self.folder().join(name));
            argument
        };
        server.arg(format!("--etcd-servers=http://127.0.0.1:{etcd}"));
        server.arg(format!("--secure-port={port}"));
        server.arg(format!("--advertise-address={}", self.address()));
        if self.settings.node.is_some() {
            server.arg("--authorization-mode=Node,RBAC");
            server.arg("--enable-admission-plugins=NodeRestriction");
            // For logs, exec and port-forward, which the API server fetches from the kubelet.
            server.arg(file("--kubelet-client-certificate=", "apiserver-kubelet.crt"));
            server.arg(file("--kubelet-client-key=", "apiserver-kubelet.key"));
            server.arg(file("--kubelet-certificate-authority=", "ca.crt"));
            server.arg("--kubelet-preferred-address-types=InternalIP");
        } else {
            server.arg("--authorization-mode=RBAC");
            server.arg(format!("--bind-address={}", self.address()));
            if self.settings.address.is_none() {
                // A loopback address is no endpoint that the `kubernetes` Service could have.
                server.arg("--endpoint-reconciler-type=none");
            }
        }
        server.arg(file("--cert-dir=", "."));
        server.arg(file("--tls-cert-file=", "apiserver.crt"));
        server.arg(file("--tls-private-key-file=", "apiserver.key"));
        server.arg(file("--client-ca-file=", "ca.crt"));
        server.arg(file("--token-auth-file=", "tokens.csv"));
        server.arg("--anonymous-auth=false");
        server.arg("--service-account-issuer=https://kubernetes.default.svc");
        server.arg(file("--service-account-key-file=", "sa.pub"));
        server.arg(file("--service-account-signing-key-file=", "sa.key"));
        server.arg(format!("--service-cluster-ip-range={SERVICES}"));
        server.arg("--allow-privileged=true");
        server.args(["--profiling=false", "--shutdown-delay-duration=0s"]);
        if !self.settings.controllers {
            // Nobody would make the ServiceAccount that it wants each pod to have.
            server.arg("--disable-admission-plugins=ServiceAccount");
        }
        server.args(&self.settings.flags);
        Daemon::start(&self.spawner, self.folder(), "kube-apiserver", server)
    }

    /// Only once the API server is ready: the controller manager ends where its rights are not
    /// there yet.
    pub(super) fn launch_controllers(&mut self) -> Result<()> {
        let mut manager = self.spawner.serving(parts::CONTROLLER_MANAGER.program()?);
        for flag in ["--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig"] {
            manager.arg(flag).arg(self.kubeconfig());
        }
        manager.args(["--leader-elect=false", "--bind-address=127.0.0.1"]);
        manager.arg("--service-account-private-key-file").arg(self.folder().join("sa.key"));
        manager.arg("--root-ca-file").arg(self.folder().join("ca.crt"));
        manager.arg("--use-service-account-credentials=true");
        if self.settings.node.is_some() {
            manager.args(["--allocate-node-cidrs=true", "--cluster-cidr", PODS]);
            manager.args(["--service-cluster-ip-range", SERVICES]);
            // Its default would be made on the machine's own disk.
            manager.arg("--flex-volume-plugin-dir=/var/lib/kubelet/volumeplugins");
        } else {
            // Without a port: loopback is shared with everyone else who runs one.
            manager.arg("--secure-port=0").arg(format!("--controllers={CONTROLLERS}"));
        }
        let name = "kube-controller-manager";
        self.controllers = Some(Daemon::start(&self.spawner, self.folder(), name, manager)?);
        Ok(())
    }
}

/// A line of the file of static tokens: token, name, id, groups.
fn line(name: &str, token: &str, groups: &[impl AsRef<str>]) -> String {
    let groups: Vec<&str> = groups.iter().map(AsRef::as_ref).collect();
    format!("{token},{name},{name},\"{}\"\n", groups.join(","))
}
