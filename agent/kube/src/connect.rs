//! A client of the API server, by what `kubectl` would use.

use std::{
    env, fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::Args;
use hyper::Uri;
use kube::{
    Client, Config,
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tokio::{
    net::lookup_host,
    time::{Duration, timeout},
};
use whydrop_core::chain::chain;

use crate::api_error::ApiError;

/// Where `kubectl` looks without `$KUBECONFIG`, from the home folder.
const USUAL: &str = ".kube/config";

/// How long a name server is waited for: as long as the resolver waits for the first of them
/// (`resolv.conf(5)`, `timeout`).
const NAME_WAIT: Duration = Duration::from_secs(5);

/// How many contexts are listed where the one asked for is not among them.
const CONTEXTS_LISTED_MAX: usize = 20;

/// How to reach the API server.
#[derive(Clone, Debug, Default, Args)]
pub struct KubeArgs {
    /// The kubeconfig to use [default: $KUBECONFIG, ~/.kube/config, or the pod's service account]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig to use
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A kubeconfig that is named is not there.
    #[error("{path} does not exist")]
    Absent {
        /// Its path.
        path: String,
    },
    /// A kubeconfig that cannot be read or used.
    #[error("{path}: {why}")]
    File {
        /// Which.
        path: String,
        /// The error and its causes.
        why: String,
    },
    /// The context that is asked for is not there.
    #[error("{path} has no context {name:?}; {}", contexts(.there))]
    Context {
        /// Which kubeconfigs were read.
        path: String,
        /// The context.
        name: String,
        /// Those that are there.
        there: Vec<String>,
    },
    /// The kubeconfig does not say which context is meant.
    #[error("{path} names no current context: choose one by --context; {}", contexts(.there))]
    NoContext {
        /// Which kubeconfigs were read.
        path: String,
        /// Those that are there.
        there: Vec<String>,
    },
    /// Nothing says where the API server is.
    #[error("no cluster: {looked}, and this is no pod. Name one by --kubeconfig or $KUBECONFIG")]
    Nowhere {
        /// What was looked for.
        looked: String,
    },
    /// The pod's service account cannot be used.
    #[error("the pod's service account cannot be used: {0}")]
    Pod(InClusterError),
    /// What the configuration says cannot be used.
    #[error("{0}")]
    Client(ApiError),
}

fn contexts(there: &[String]) -> String {
    let listed = there.iter().take(CONTEXTS_LISTED_MAX).map(String::as_str).collect::<Vec<_>>();
    let more = there.len() - listed.len();
    match (listed.as_slice(), more) {
        ([], _) => "there are none".to_owned(),
        ([only], 0) => format!("there is: {only}"),
        (listed, 0) => format!("there are: {}", listed.join(", ")),
        (listed, more) => format!("there are: {} and {more} more", listed.join(", ")),
    }
}

/// An API server, and what is needed to ask it.
pub struct Target {
    /// How it is asked.
    pub config: Config,
    /// Where it is.
    pub server: Server,
}

/// Where an API server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    url: String,
    context: Option<String>,
}

impl fmt::Display for Server {
    /// `https://10.0.0.1:6443 (context prod)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.trim_end_matches('/'))?;
        match &self.context {
            Some(context) => write!(f, " (context {context})"),
            None => Ok(()),
        }
    }
}

impl Target {
    fn new(config: Config, context: Option<String>) -> Self {
        let url = config.cluster_url.to_string();
        Self { config, server: Server { url, context } }
    }

    /// A client of it.
    ///
    /// # Errors
    /// What the configuration says cannot be used.
    pub fn client(self) -> Result<Client, ConnectError> {
        Client::try_from(self.config).map_err(|error| ConnectError::Client(error.into()))
    }
}

/// How to connect: by a kubeconfig where there is one, else as the pod this runs in.
///
/// # Errors
/// A kubeconfig that cannot be read or does not have the context; where there is none, and this is
/// not a pod.
pub async fn target(args: &KubeArgs) -> Result<Target, ConnectError> {
    let wanted = Kubeconfigs::of(args);
    let Some(kubeconfig) = wanted.read()? else { return in_cluster(&wanted) };
    let path = wanted.shown();
    let there = || kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
    let name = args.context.clone().or_else(|| kubeconfig.current_context.clone());
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return match env::var_os(IN_POD) {
            Some(_) => in_cluster(&wanted),
            None => Err(ConnectError::NoContext { path, there: there() }),
        };
    };
    if !kubeconfig.contexts.iter().any(|context| context.name == name) {
        return Err(ConnectError::Context { path, name, there: there() });
    }
    let options = KubeConfigOptions { context: Some(name.clone()), ..Default::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    let config = config.map_err(|error| ConnectError::File { path, why: chain(&error) })?;
    Ok(Target::new(config, Some(name)))
}

/// What it takes to reach an API server, beside the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The files of a pod's service account.
    ServiceAccount,
    /// Files that a kubeconfig names, wherever they are.
    Files,
    /// Programs that a kubeconfig names, and whatever these need.
    Programs,
}

/// What it takes to reach the API server that [`target`] connects to. A kubeconfig that cannot be read takes
/// files: that it cannot be is said there.
pub fn reach(args: &KubeArgs) -> Reach {
    let Ok(kubeconfig) = Kubeconfigs::of(args).read() else { return Reach::Files };
    let Some(kubeconfig) = kubeconfig else { return Reach::ServiceAccount };
    let users = kubeconfig.auth_infos.iter().filter_map(|user| user.auth_info.as_ref());
    let mut users = users.map(|user| user.exec.is_some() || user.auth_provider.is_some());
    if users.any(|runs| runs) { Reach::Programs } else { Reach::Files }
}

/// The variable by which a pod knows its API server.
const IN_POD: &str = "KUBERNETES_SERVICE_HOST";

fn in_cluster(wanted: &Kubeconfigs) -> Result<Target, ConnectError> {
    match Config::incluster() {
        Ok(mut config) => {
            config.apply_debug_overrides();
            Ok(Target::new(config, None))
        }
        Err(InClusterError::ReadEnvironmentVariable(_)) => {
            Err(ConnectError::Nowhere { looked: wanted.absent() })
        }
        Err(error) => Err(ConnectError::Pod(error)),
    }
}

/// Where kubeconfigs are looked for.
enum Kubeconfigs {
    /// One that is named.
    Named(PathBuf),
    /// Those of `$KUBECONFIG`.
    Listed(Vec<PathBuf>),
    /// The usual one; `None`: there is no home folder.
    Usual(Option<PathBuf>),
}

impl Kubeconfigs {
    fn of(args: &KubeArgs) -> Self {
        if let Some(path) = &args.kubeconfig {
            return Self::Named(path.clone());
        }
        let listed = env::var_os("KUBECONFIG").unwrap_or_default();
        let listed: Vec<_> =
            env::split_paths(&listed).filter(|path| !path.as_os_str().is_empty()).collect();
        match listed.is_empty() {
            true => Self::Usual(env::home_dir().map(|home| home.join(USUAL))),
            false => Self::Listed(listed),
        }
    }

    fn paths(&self) -> &[PathBuf] {
        match self {
            Self::Named(path) => std::slice::from_ref(path),
            Self::Listed(paths) => paths,
            Self::Usual(path) => path.as_slice(),
        }
    }

    /// Which, for a person.
    fn shown(&self) -> String {
        if let Self::Usual(_) = self {
            return format!("~/{USUAL}");
        }
        let paths: Vec<_> = self.paths().iter().map(|path| path.display().to_string()).collect();
        paths.join(", ")
    }

    /// That none of them is there, for a person.
    fn absent(&self) -> String {
        match (self, self.paths().len()) {
            (Self::Usual(None), _) => "there is no home folder with a kubeconfig".to_owned(),
            (Self::Listed(_), 1) => {
                format!("$KUBECONFIG names {}, which does not exist", self.shown())
            }
            (Self::Listed(_), _) => {
                format!("$KUBECONFIG names {}, none of which exists", self.shown())
            }
            _ => format!("{} does not exist", self.shown()),
        }
    }

    /// All that are there as one, as `kubectl` takes them; `None`: none is.
    fn read(&self) -> Result<Option<Kubeconfig>, ConnectError> {
        let mut merged: Option<Kubeconfig> = None;
        for path in self.paths() {
            let shown = || match self {
                Self::Usual(_) => self.shown(),
                _ => path.display().to_string(),
            };
            let unusable = |why| ConnectError::File { path: shown(), why };
            let Some(read) = read(path).map_err(unusable)? else { continue };
            merged = Some(match merged {
                Some(before) => before.merge(read).map_err(|error| unusable(chain(&error)))?,
                None => read,
            });
        }
        match (merged, self) {
            (None, Self::Named(path)) => {
                Err(ConnectError::Absent { path: path.display().to_string() })
            }
            (merged, _) => Ok(merged),
        }
    }
}

/// A kubeconfig; `None`: it is not there.
fn read(path: &Path) -> Result<Option<Kubeconfig>, String> {
    match Kubeconfig::read_from(path) {
        Ok(kubeconfig) => Ok(Some(kubeconfig)),
        Err(KubeconfigError::ReadConfig(error, _)) if error.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(KubeconfigError::ReadConfig(error, _)) => Err(error.to_string()),
        Err(error) => Err(chain(&error)),
    }
}

/// The address at which the API server is dialled; `None`: by way of a proxy, or under a name that
/// nobody knows now.
pub async fn dialled(config: &Config) -> Option<SocketAddr> {
    match config.proxy_url {
        Some(_) => None,
        None => address_of(&config.cluster_url).await,
    }
}

/// The address that a URL stands for; `None`: nobody knows its name now.
pub async fn address_of(url: &Uri) -> Option<SocketAddr> {
    let port = url.port_u16().unwrap_or(if url.scheme_str() == Some("http") { 80 } else { 443 });
    let host = url.host()?.trim_start_matches('[').trim_end_matches(']');
    timeout(NAME_WAIT, lookup_host((host, port))).await.ok()?.ok()?.next()
}
