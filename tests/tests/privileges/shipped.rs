//! The agent as `deploy/` has it run, in what a container comes to: its capabilities, a root file system that
//! cannot be written, the folders that are mounted, the service account's token.

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;
use whydrop_tests::{
    repository,
    world::{
        World as _,
        agent::{Agent, binary},
        netns::{NAME, Node},
    },
};

/// What a kubelet and a container runtime do before the program starts: mounts that only it sees.
const CONTAINER: &str = r#"set -e
mount -t tmpfs none /run
mkdir -p /run/secrets/kubernetes.io/serviceaccount
mount --bind "$1" /run/secrets/kubernetes.io/serviceaccount
mount -t tmpfs none /var/lib
mkdir /var/lib/whydrop
mount --bind "$2" /var/lib/whydrop
mount -o remount,bind,ro /
shift 2
exec "$@"
"#;

/// What a kubelet calls the folder that the service account's files lead to. It is replaced when one changes.
const CURRENT: &str = "..data";

/// What `deploy/kustomize/base` says of the agent's container, and what is mounted into it.
pub(crate) struct Shipped {
    container: Value,
    account: TempDir,
    state: TempDir,
}

impl Shipped {
    pub(crate) fn new(node: &Node) -> Self {
        let path = repository("deploy/kustomize/base/daemonset.yaml");
        let text = fs::read_to_string(path).expect("the DaemonSet");
        let set: Value = serde_saphyr::from_str(&text).expect("YAML");
        let pod = &set["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsUser"], 0, "the tests' user");
        let shipped = Self {
            container: pod["containers"][0].clone(),
            account: tempfile::tempdir().expect("a folder"),
            state: tempfile::tempdir().expect("a folder"),
        };
        let account = shipped.account.path();
        for name in ["token", "ca.crt", "namespace"] {
            symlink(format!("{CURRENT}/{name}"), account.join(name)).expect("a link");
        }
        shipped.renew_account(node);
        shipped
    }

    /// Puts a token of its own into the service account's folder, as a kubelet does: the files that are open
    /// stay what they are, and the folder that they are in is another.
    pub(crate) fn renew_account(&self, node: &Node) -> String {
        let server = node.server().expect("a server");
        let token = server.service_account_token("whydrop", "whydrop").expect("a token");
        let account = self.account.path();
        let folder = tempfile::Builder::new().prefix("..").tempdir_in(account).expect("a folder");
        fs::write(folder.path().join("token"), &token).expect("the token");
        fs::write(folder.path().join("ca.crt"), server.authority()).expect("the authority");
        fs::write(folder.path().join("namespace"), "whydrop").expect("the namespace");
        let name = folder.keep();
        symlink(name.file_name().expect("a name"), account.join("new")).expect("a link");
        fs::rename(account.join("new"), account.join(CURRENT)).expect("in place");
        token
    }

    /// The capabilities that the container adds to none.
    pub(crate) fn capabilities(&self) -> Vec<String> {
        let capabilities = &self.container["securityContext"]["capabilities"];
        assert_eq!(capabilities["drop"], serde_json::json!(["ALL"]));
        let added = capabilities["add"].as_array().expect("a list").iter();
        added.map(|name| name.as_str().expect("a name").to_lowercase()).collect()
    }

    /// Starts it on the node, and waits until it is ready.
    pub(crate) fn start(&self, node: &Node) -> Agent {
        self.start_by(node, &[])
    }

    /// The same by way of a program and its arguments, which has the privileges of the container.
    pub(crate) fn start_by(&self, node: &Node, by: &[PathBuf]) -> Agent {
        let mut command = self.command(node, by);
        let mut agent = Agent::spawn(&mut command).expect("it starts");
        agent.wait_ready().unwrap_or_else(|error| panic!("{error:#}"));
        agent
    }

    /// What is in the folder of the node that it may write.
    pub(crate) fn state(&self) -> Vec<String> {
        let there = fs::read_dir(self.state.path()).expect("the folder").flatten();
        there.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    fn command(&self, node: &Node, by: &[PathBuf]) -> Command {
        assert_eq!(self.container["securityContext"]["allowPrivilegeEscalation"], false);
        let bounding = ["-all".to_owned()].into_iter();
        let bounding =
            bounding.chain(self.capabilities().into_iter().map(|name| format!("+{name}")));
        let bounding = bounding.collect::<Vec<_>>().join(",");
        let mut command = node.network(NAME).expect("the node").command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", CONTAINER, "sh"]);
        command.arg(self.account.path()).arg(self.state.path());
        command.args(["setpriv", "--pdeathsig", "KILL", "--no-new-privs", "--inh-caps=-all"]);
        command.arg(format!("--bounding-set={bounding}")).arg("--");
        command.args(by).arg(binary().expect("whydrop"));
        let arguments = self.container["args"].as_array().expect("arguments");
        command.args(arguments.iter().map(|argument| argument.as_str().expect("text")));
        command.args(["--log-format", "json", "--node-name", NAME]);
        let server = node.server().expect("a server").server();
        let (host, port) = server
            .strip_prefix("https://")
            .and_then(|server| server.rsplit_once(':'))
            .expect("an address");
        command.env("HOME", "/").env_remove("KUBECONFIG").stdin(Stdio::null());
        command.env("KUBERNETES_SERVICE_HOST", host).env("KUBERNETES_SERVICE_PORT", port);
        command
    }
}
