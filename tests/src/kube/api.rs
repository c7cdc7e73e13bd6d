//! An API server with its etcd: objects, watches, rights and tokens, and no node.
//!
//! Without controllers nothing happens to objects by itself: a pod stays as it was written, and its
//! status is set with `--subresource=status`. A namespace that is deleted stays, terminating.

use std::{fs, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    daemon::{Daemon, Lifetime, Place, Spawner},
    kubeconfig,
    kubectl::Kubectl,
    parts,
    pki::{Authority, Holder, service_account_keys},
    ports,
    wait::{Look, until},
};

/// Two to four seconds alone; several start side by side on two busy cores.
const READY_WAIT: Duration = Duration::from_secs(60);
/// The longest that one question may take.
const ANSWER_WAIT: &str = "5";

/// The controllers that act on objects alone. Left out are those that act on nodes, for there is
/// none: they would remove the pods.
const CONTROLLERS: &str = "namespace-controller,serviceaccount-controller,\
    serviceaccount-token-controller,root-ca-certificate-publisher-controller,\
    endpointslice-controller,endpoints-controller,clusterrole-aggregation-controller,\
    garbage-collector-controller,deployment-controller,replicaset-controller,daemonset-controller";

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
    /// Where it listens, on that place's loopback.
    pub place: Place,
    /// How long it runs.
    pub lifetime: Lifetime,
    /// The folder of its state, which is to be empty; nothing for one that goes with the server.
    pub folder: Option<PathBuf>,
    /// Who has a token from the start, besides the administrator.
    pub users: Vec<User>,
    /// Whether controllers act on objects; pods then need their service account.
    pub controllers: bool,
    /// More flags for the API server.
    pub flags: Vec<String>,
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
    folder: PathBuf,
    /// Removes the folder, where it is the server's own.
    _temporary: Option<tempfile::TempDir>,
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
        let temporary = match settings.folder {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("whydrop-api-").tempdir()?),
        };
        let folder = settings.folder.clone().or_else(|| Some(temporary.as_ref()?.path().into()));
        let folder = folder.context("a folder for the state")?;
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let authority = Authority::new()?;
        let mut api = Self {
            controllers: None,
            apiserver: None,
            etcd: None,
            spawner: Spawner::new(settings.place.clone(), settings.lifetime)?,
            ports: ports::free(&settings.place)?,
            authority: authority.certificate().to_owned(),
            token: secret()?,
            settings,
            folder,
            _temporary: temporary,
        };
        api.write_state(&authority)?;
        api.launch_etcd()?;
        api.start_apiserver()?;
        if api.settings.controllers {
            api.start_controllers()?;
        }
        Ok(api)
    }

    /// Its URL.
    pub fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports[0])
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
        self.folder.join("admin.kubeconfig")
    }

    /// Writes a kubeconfig called `name` for whoever has this token.
    pub fn kubeconfig_for(&self, name: &str, token: &str) -> Result<PathBuf> {
        let path = self.folder.join(format!("{name}.kubeconfig"));
        kubeconfig::write(&path, &self.server(), &self.authority, token)?;
        Ok(path)
    }

    /// kubectl as the administrator.
    pub fn kubectl(&self) -> Result<Kubectl> {
        Kubectl::new(&self.spawner, &self.kubeconfig())
    }

    /// kubectl as whoever has this token.
    pub fn kubectl_for(&self, name: &str, token: &str) -> Result<Kubectl> {
        Kubectl::new(&self.spawner, &self.kubeconfig_for(name, token)?)
    }

    /// A token of a service account that is there, issued by the API server (`TokenRequest`).
    pub fn service_account_token(&self, namespace: &str, name: &str) -> Result<String> {
        let token = self.kubectl()?.run(["create", "token", name, "--namespace", namespace])?;
        Ok(token.trim().to_owned())
    }

    /// Asks for a path such as `/api/v1/pods` as whoever has this token.
    pub fn get(&self, path: &str, token: &str) -> Result<Answer> {
        let mut curl = self.spawner.command("curl");
        // Not the user's settings; the status in the last line.
        curl.args(["-q", "--silent", "--max-time", ANSWER_WAIT, "--write-out", "\n%{http_code}"]);
        curl.arg("--cacert").arg(self.folder.join("ca.crt"));
        curl.arg("--header").arg(format!("Authorization: Bearer {token}"));
        curl.arg(self.server() + path).stdout(Stdio::piped()).stderr(Stdio::null());
        let output = self.spawner.spawn(curl)?.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').context("curl printed no status")?;
        Ok(Answer { status: status.parse()?, body: body.to_owned() })
    }

    /// The process ids of its servers, for whoever measures or watches them.
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

    fn write_state(&self, authority: &Authority) -> Result<()> {
        let folder = &self.folder;
        let names = ["localhost", "127.0.0.1", "kubernetes", "kubernetes.default.svc", "10.96.0.1"];
        authority.issue(folder, "apiserver", &Holder::Server(&names))?;
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

    fn launch_etcd(&mut self) -> Result<()> {
        let [_, client, peer] = self.ports.map(|port| format!("http://127.0.0.1:{port}"));
        let mut etcd = self.spawner.serving(parts::ETCD.program()?);
        etcd.arg("--data-dir").arg(self.folder.join("etcd"));
        // What a crash of the machine would cost is nothing here: what counts is a fast start.
        etcd.args(["--name=lab", "--unsafe-no-fsync"]);
        etcd.arg(format!("--listen-client-urls={client}"));
        etcd.arg(format!("--advertise-client-urls={client}"));
        etcd.arg(format!("--listen-peer-urls={peer}"));
        etcd.arg(format!("--initial-advertise-peer-urls={peer}"));
        etcd.arg(format!("--initial-cluster=lab={peer}"));
        self.etcd = Some(Daemon::start(&self.spawner, &self.folder, "etcd", etcd)?);
        Ok(())
    }

    fn launch_apiserver(&self) -> Result<Daemon> {
        let [port, etcd, _] = self.ports;
        let mut server = self.spawner.serving(parts::APISERVER.program()?);
        let file = |flag, name| {
            let mut argument = std::ffi::OsString::from(flag);
            argument.push(self.folder.join(name));
            argument
        };
        server.arg(format!("--etcd-servers=http://127.0.0.1:{etcd}"));
        server.arg(format!("--secure-port={port}"));
        // A loopback address is no endpoint that the `kubernetes` Service could have.
        server.args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"]);
        server.arg("--endpoint-reconciler-type=none");
        server.arg(file("--cert-dir=", "."));
        server.arg(file("--tls-cert-file=", "apiserver.crt"));
        server.arg(file("--tls-private-key-file=", "apiserver.key"));
        server.arg(file("--client-ca-file=", "ca.crt"));
        server.arg(file("--token-auth-file=", "tokens.csv"));
        server.args(["--authorization-mode=RBAC", "--anonymous-auth=false"]);
        server.arg("--service-account-issuer=https://kubernetes.default.svc");
        server.arg(file("--service-account-key-file=", "sa.pub"));
        server.arg(file("--service-account-signing-key-file=", "sa.key"));
        server.args(["--service-cluster-ip-range=10.96.0.0/16", "--allow-privileged=true"]);
        server.args(["--profiling=false", "--shutdown-delay-duration=0s"]);
        if !self.settings.controllers {
            // Nobody would make the ServiceAccount that it wants each pod to have.
            server.arg("--disable-admission-plugins=ServiceAccount");
        }
        server.args(&self.settings.flags);
        Daemon::start(&self.spawner, &self.folder, "kube-apiserver", server)
    }

    /// Only once the API server is ready: the controller manager ends where its rights are not
    /// there yet.
    fn start_controllers(&mut self) -> Result<()> {
        let mut manager = self.spawner.serving(parts::CONTROLLER_MANAGER.program()?);
        for flag in ["--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig"] {
            manager.arg(flag).arg(self.kubeconfig());
        }
        manager.args(["--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=0"]);
        manager.arg("--service-account-private-key-file").arg(self.folder.join("sa.key"));
        manager.arg("--root-ca-file").arg(self.folder.join("ca.crt"));
        manager.arg("--use-service-account-credentials=true");
        manager.arg(format!("--controllers={CONTROLLERS}"));
        let name = "kube-controller-manager";
        self.controllers = Some(Daemon::start(&self.spawner, &self.folder, name, manager)?);
        self.wait_service_account("default", "default")
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

/// A line of the file of static tokens: token, name, id, groups.
fn line(name: &str, token: &str, groups: &[impl AsRef<str>]) -> String {
    let groups: Vec<&str> = groups.iter().map(AsRef::as_ref).collect();
    format!("{token},{name},{name},\"{}\"\n", groups.join(","))
}

/// A token that nobody guesses.
fn secret() -> Result<String> {
    /// 128 bits.
    const BYTES: usize = 16;

    let mut bytes = [0; BYTES];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}
