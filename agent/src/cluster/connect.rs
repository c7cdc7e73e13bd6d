//! A client of the API server, by what `kubectl` would use.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

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

/// Connects: from a kubeconfig where there is one, else as the pod this runs in.
///
/// # Errors
/// A kubeconfig that cannot be read or does not have the context; where there is none, and this is
/// not a pod.
pub async fn connect(args: &KubeArgs) -> anyhow::Result<Client> {
    let options = KubeConfigOptions { context: args.context.clone(), ..Default::default() };
    let config = match &args.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)?;
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            config.with_context(|| path.display().to_string())?
        }
        None if args.context.is_some() => Config::from_kubeconfig(&options).await?,
        None => Config::infer().await.context(
            "no cluster to ask: expected a kubeconfig (--kubeconfig, $KUBECONFIG or \
             ~/.kube/config) or a pod's service account",
        )?,
    };
    Ok(Client::try_from(config)?)
}
