//! A client of the API server, by what `kubectl` would use.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use hyper::Uri;
use kube::{
    Client, Config,
    config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tokio::net::lookup_host;

use crate::api_error::ApiError;

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
    /// A kubeconfig that cannot be read, or does not have the context.
    #[error("{path}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: KubeconfigError,
    },
    /// The context that is asked for is in none of the usual kubeconfigs.
    #[error(transparent)]
    Context(KubeconfigError),
    /// Nothing says where the API server is.
    #[error(
        "no cluster to ask: expected a kubeconfig (--kubeconfig, $KUBECONFIG or ~/.kube/config) or \
         a pod's service account"
    )]
    Nowhere(#[source] InferConfigError),
    /// What the configuration says cannot be used.
    #[error("{0}")]
    Client(ApiError),
}

/// Connects: from a kubeconfig where there is one, else as the pod this runs in.
///
/// # Errors
/// A kubeconfig that cannot be read or does not have the context; where there is none, and this is
/// not a pod.
pub async fn connect(args: &KubeArgs) -> Result<Client, ConnectError> {
    Client::try_from(config(args).await?).map_err(|error| ConnectError::Client(error.into()))
}

/// How [`connect`] does.
///
/// # Errors
/// As there.
pub async fn config(args: &KubeArgs) -> Result<Config, ConnectError> {
    let options = KubeConfigOptions { context: args.context.clone(), ..Default::default() };
    match &args.kubeconfig {
        Some(path) => {
            let config = async {
                Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await
            };
            let path = path.display().to_string();
            config.await.map_err(|source| ConnectError::File { path, source })
        }
        None if args.context.is_some() => {
            Config::from_kubeconfig(&options).await.map_err(ConnectError::Context)
        }
        None => Config::infer().await.map_err(ConnectError::Nowhere),
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
    lookup_host((host, port)).await.ok()?.next()
}
