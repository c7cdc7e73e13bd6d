//! An API server with its etcd: objects, watches, rights and tokens, and no node.
//!
//! Without controllers nothing happens to objects by itself: a pod stays as it was written, and its
//! status is set with `--subresource=status`. A namespace that is deleted stays, terminating.

pub(super) mod launch;

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    daemon::{Daemon, Lifetime, Place, Spawner},
    kubeconfig,
    kubectl::Kubectl,
    pki::Authority,
    ports,
    state::State,
    wait::{Look, until},
};
use crate::{repository, world::manifest};

/// Two to four seconds alone; several start side by side on two busy cores.
const READY_WAIT: Duration = Duration::from_secs(60);
/// The longest that one question may take.
const ANSWER_WAIT: &str = "5";

/// Somebody whom the API server knows by a token from the start.
#[derive(Debug, Clone)]
pub struct User {
    /// The name, such as `system:serviceaccount:default:agent`.
    pub name: String,
    /// The groups, such as `system:masters`.
    pub groups: Vec<String>,
    /// What it shows as its bearer token.
    pub token: String,
}

/// How an API server is to be.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Where it runs. It listens on that place's loopback,
    pub place: Place,
    /// or at this address of its, for others to reach.
    pub address: Option<Ipv4Addr>,
    /// How long it runs.
    pub lifetime: Lifetime,
    /// The folder of its state, which is to be empty; nothing for one that goes with the server.
    pub folder: Option<PathBuf>,
    /// Who has a token from the start, besides the administrator.
    pub users: Vec<User>,
    /// Whether controllers act on objects; pods then need their service account.
    pub controllers: bool,
    /// The node that it is on, where it has one: its place. It then listens for the node and its
    /// pods too, and every controller runs.
    pub node: Option<Served>,
    /// More flags for the API server.
    pub flags: Vec<String>,
}

/// A node, as its API server knows it.
#[derive(Debug, Clone)]
pub struct Served {
    /// Its name.
    pub name: String,
    /// Its address, which is the API server's as well.
    pub address: Ipv4Addr,
}

/// A running API server; everything of it ends when this is dropped.
#[derive(Debug)]
pub struct Api {
    // In the order in which they end.
    controllers: Option<Daemon>,
    apiserver: Option<Daemon>,
    etcd: Option<Daemon>,
    spawner: Spawner,
    settings: Settings,
    ports: [u16; 3],
    authority: String,
    token: String,
    /// The agent's kubeconfig, once it has its rights.
    admitted: Mutex<Option<PathBuf>>,
    state: State,
}

/// What the API server answers to one question.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status; 0 where nobody answers.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Api {
    /// Starts one and waits until it is ready.
    ///
    /// # Errors
    ///
    /// That a program is not built (`cargo xtask lab build`), or how a process failed, with the end
    /// of its log.
    pub fn start(settings: Settings) -> Result<Self> {
        let state = State::new(settings.folder.as_deref())?;
        let authority = Authority::new()?;
        let mut api = Self {
            controllers: None,
            apiserver: None,
            etcd: None,
            spawner: Spawner::new(settings.place.clone(), settings.lifetime)?,
            ports: match settings.node {
                // Those that everybody knows: nobody else is in the node's network.
                Some(_) => [6443, 2379, 2380],
                None => ports::free(&settings.place)?,
            },
            authority: authority.certificate().to_owned(),
            token: secret()?,
            admitted: Mutex::default(),
            settings,
            state,
        };
        api.write_state(&authority)?;
        api.launch_etcd()?;
        api.start_apiserver()?;
        if api.settings.controllers {
            api.launch_controllers()?;
            // On a node there is other work to do while they start.
            if api.settings.node.is_none() {
                api.wait_service_account("default", "default")?;
            }
        }
        Ok(api)
    }

    /// Its URL.
    pub fn server(&self) -> String {
        format!("https://{}:{}", self.address(), self.ports[0])
    }

    fn folder(&self) -> &Path {
        self.state.folder()
    }

    fn address(&self) -> Ipv4Addr {
        let node = self.settings.node.as_ref().map(|node| node.address);
        node.or(self.settings.address).unwrap_or(Ipv4Addr::LOCALHOST)
    }

    /// The certificate of its authority, PEM.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The administrator's token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder().join("admin.kubeconfig")
    }

    /// Writes a kubeconfig called `name` for anyone who has this token.
    pub fn kubeconfig_for(&self, name: &str, token: &str) -> Result<PathBuf> {
        let path = self.folder().join(format!("{name}.kubeconfig"));
        kubeconfig::write(&path, &self.server(), &self.authority, token)?;
        Ok(path)
    }

    /// kubectl as the administrator.
    pub fn kubectl(&self) -> Result<Kubectl> {
        Kubectl::new(&self.spawner, &self.kubeconfig())
    }

    /// kubectl as anyone who has this token.
    pub fn kubectl_for(&self, name: &str, token: &str) -> Result<Kubectl> {
        Kubectl::new(&self.spawner, &self.kubeconfig_for(name, token)?)
    }

    /// A token of a service account that is there, issued by the API server (`TokenRequest`).
    pub fn service_account_token(&self, namespace: &str, name: &str) -> Result<String> {
        let token = self.kubectl()?.run(["create", "token", name, "--namespace", namespace])?;
        Ok(token.trim().to_owned())
    }

    /// Gives the agent's service account the rights of `deploy/`, once; returns its kubeconfig.
    pub fn admit_agent(&self) -> Result<PathBuf> {
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kubeconfig) = &*admitted {
            return Ok(kubeconfig.clone());
        }
        let rights = repository("deploy/kustomize/base/rbac.yaml");
        let rights = fs::read_to_string(&rights).with_context(|| rights.display().to_string())?;
        let place = manifest::namespace("whydrop");
        self.kubectl()?.apply(&format!("{place}\n---\n{rights}")).context("the agent's rights")?;
        let token = self.service_account_token("whydrop", "whydrop")?;
        let kubeconfig = self.kubeconfig_for("agent", &token)?;
        *admitted = Some(kubeconfig.clone());
        Ok(kubeconfig)
    }

    /// Applies objects, and then what they have of a status.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        self.kubectl()?.apply(manifests)?;
        self.apply_status(&serde_saphyr::from_multiple::<Value>(manifests)?)
    }

    /// Applies what objects that are there have of a status.
    pub fn apply_status(&self, objects: &[Value]) -> Result<()> {
        let statuses: Vec<Value> = objects.iter().filter_map(manifest::status).collect();
        if !statuses.is_empty() {
            let apply = ["--server-side", "--subresource=status", "--force-conflicts"];
            self.kubectl()?.apply_with(&apply, &manifest::documents(&statuses))?;
        }
        Ok(())
    }

    /// Asks for a path such as `/api/v1/pods` as anyone who has this token.
    pub fn get(&self, path: &str, token: &str) -> Result<Answer> {
        let mut curl = self.spawner.command("curl");
        // Not the user's settings; the status in the last line.
        curl.args(["-q", "--silent", "--max-time", ANSWER_WAIT, "--write-out", "\n%{http_code}"]);
        curl.arg("--cacert").arg(self.folder().join("ca.crt"));
        curl.arg("--header").arg(format!("Authorization: Bearer {token}"));
        curl.arg(self.server() + path).stdout(Stdio::piped()).stderr(Stdio::null());
        let output = self.spawner.spawn(curl)?.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').context("curl printed no status")?;
        Ok(Answer { status: status.parse()?, body: body.to_owned() })
    }

    /// The process ids of its servers, for anyone who measures or watches them.
    pub fn pids(&self) -> Vec<u32> {
        let all = [&self.etcd, &self.apiserver, &self.controllers];
        all.into_iter().flatten().map(Daemon::pid).collect()
    }

    /// Stops the API server alone, as a crash does: etcd goes on, and clients lose their watches.
    pub fn stop_apiserver(&mut self) -> Result<()> {
        self.apiserver.take().map_or(Ok(()), Daemon::stop)
    }

    /// Starts the API server again, at the same address and with the same objects, and waits.
    pub fn start_apiserver(&mut self) -> Result<()> {
        ensure!(self.apiserver.is_none(), "the API server runs");
        self.apiserver = Some(self.launch_apiserver()?);
        self.wait_ready()
    }

    /// Stops etcd alone, as a crash does: the API server goes on, and answers nothing that it must ask etcd for.
    pub fn stop_etcd(&mut self) -> Result<()> {
        self.etcd.take().map_or(Ok(()), Daemon::stop)
    }

    /// Starts etcd again, with what it held, and waits until the API server is ready.
    pub fn start_etcd(&mut self) -> Result<()> {
        ensure!(self.etcd.is_none(), "etcd runs");
        self.launch_etcd()?;
        self.wait_ready()
    }

    /// Waits until the API server says that it is ready, and the first namespaces are made.
    pub fn wait_ready(&mut self) -> Result<()> {
        until("ready API server", READY_WAIT, || {
            for daemon in [&mut self.etcd, &mut self.apiserver].into_iter().flatten() {
                daemon.check()?;
            }
            for path in ["/readyz", "/api/v1/namespaces/default"] {
                let answer = self.get(path, &self.token)?;
                if answer.status != 200 {
                    let Answer { status, body } = answer;
                    return Ok(Look::NotYet(format!("{path}: {status} {body}")));
                }
            }
            Ok(Look::Seen(()))
        })
        .with_context(|| self.apiserver.as_ref().map(Daemon::tail).unwrap_or_default())
    }

    /// Waits until the controllers have made a service account, without which pods are refused.
    pub fn wait_service_account(&mut self, namespace: &str, name: &str) -> Result<()> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}");
        until("ServiceAccount", READY_WAIT, || {
            self.controllers.as_mut().map_or(Ok(()), Daemon::check)?;
            let Answer { status, body } = self.get(&path, &self.token)?;
            Ok(if status == 200 {
                Look::Seen(())
            } else {
                Look::NotYet(format!("{status} {body}"))
            })
        })
    }
}

/// A token that nobody guesses.
fn secret() -> Result<String> {
    /// 128 bits.
    const BYTES: usize = 16;

    let mut bytes = [0; BYTES];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}
