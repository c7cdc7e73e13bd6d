//! The healer in a fleet, as a process: with the rights of its overlay, and an agent's records on
//! its standard input.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Fleet;
use crate::{
    kube::parts::KUSTOMIZE,
    repository,
    world::{
        World as _,
        agent::{Agent, whydrop},
        manifest::documents,
        namespace::checked,
    },
};

/// What of the overlay a process needs: who it is, and what it may do.
const KINDS: [&str; 6] =
    ["Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];

impl Fleet {
    /// Gives the healer's service account the rights of `deploy/kustomize/overlays/heal`; returns
    /// its kubeconfig.
    pub fn admit_healer(&self) -> Result<PathBuf> {
        let overlay = repository("deploy/kustomize/overlays/heal");
        let built = checked(Command::new(KUSTOMIZE.program()?).arg("build").arg(overlay))?;
        let objects: Vec<Value> = serde_saphyr::from_multiple(&built)?;
        let rights = objects
            .iter()
            .filter(|object| object["kind"].as_str().is_some_and(|kind| KINDS.contains(&kind)));
        self.kubectl.apply(&documents(rights)).context("the healer's rights")?;
        let token = self.api.service_account_token("whydrop", "whydrop-heal")?;
        self.api.kubeconfig_for("healer", &token)
    }

    /// Starts a healer on a node, by what an agent reports.
    pub fn healer(
        &self,
        node: &str,
        agent: &Agent,
        kubeconfig: &Path,
        arguments: &[&str],
    ) -> Result<Agent> {
        let mut command = whydrop(&self.network(node)?)?;
        command.args(["heal", "-", "--log-format", "json", "--namespace", "whydrop"]);
        command.arg("--kubeconfig").arg(kubeconfig).args(arguments);
        agent.spawn_reader(&mut command)
    }
}
