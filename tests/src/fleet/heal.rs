//! The healer in a fleet, as a process: with the rights of its overlay, and an agent's records on
//! its standard input.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Fleet;
use crate::{
    agent::{Agent, binary},
    kube::parts::KUSTOMIZE,
};

/// What of the overlay a process needs: who it is, and what it may do.
const KINDS: [&str; 6] =
    ["Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];

impl Fleet {
    /// Gives the healer's service account the rights of `deploy/kustomize/overlays/heal`; returns
    /// its kubeconfig.
    pub fn admit_healer(&self) -> Result<PathBuf> {
        let overlay =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize/overlays/heal");
        let built = Command::new(KUSTOMIZE.program()?).arg("build").arg(overlay).output()?;
        ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let objects: Vec<Value> = serde_saphyr::from_multiple(&String::from_utf8(built.stdout)?)?;
        let rights = objects
            .iter()
            .filter(|object| object["kind"].as_str().is_some_and(|kind| KINDS.contains(&kind)));
        let rights: Vec<Value> = rights.cloned().collect();
        self.kubectl().apply(&super::stream(&rights)?).context("the healer's rights")?;
        let token = self.api().service_account_token("whydrop", "whydrop-heal")?;
        self.api().kubeconfig_for("healer", &token)
    }

    /// Starts a healer on a node, by what an agent tells.
    pub fn healer(
        &self,
        node: &str,
        agent: &Agent,
        kubeconfig: &Path,
        arguments: &[&str],
    ) -> Result<Agent> {
        let mut command = self.host(node)?.namespace.command("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(binary()?);
        command.args(["heal", "-", "--log-format", "json", "--namespace", "whydrop"]);
        command.arg("--kubeconfig").arg(kubeconfig).args(arguments);
        agent.spawn_reader(&mut command)
    }
}
