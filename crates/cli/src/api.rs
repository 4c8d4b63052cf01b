//! The way to a cluster's API: that of a local cluster, or that of a kubeconfig context.

use std::path::Path;

use anyhow::{Context, Result};
use dyad_cluster::paths::{ClusterDir, check_name};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// A client for `context` of the user's kubeconfig, or for the local cluster `name` if there is none.
pub(crate) async fn connect(name: &str, context: Option<&str>) -> Result<Client> {
    let kubeconfig = match context {
        Some(_) => Kubeconfig::read().context("can't read the kubeconfig")?,
        None => {
            check_name(name)?;
            let file = ClusterDir::of(name)?.kubeconfig();
            Kubeconfig::read_from(&file).with_context(|| {
                format!("there is no cluster {name:?} (`dyad up --name {name}` makes one)")
            })?
        }
    };
    let choice = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &choice).await.context("the kubeconfig context")?;
    Ok(Client::try_from(config)?)
}

/// A client for `context` of a kubeconfig file, or of the user's; of its current context if none is named.
pub(crate) async fn client(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Client> {
    let read = match kubeconfig {
        Some(path) => {
            Kubeconfig::read_from(path).with_context(|| format!("--kubeconfig {}", path.display()))?
        }
        None => Kubeconfig::read()
            .context("can't read the kubeconfig (--kubeconfig, KUBECONFIG or ~/.kube/config)")?,
    };
    let choice = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let config =
        kube::Config::from_custom_kubeconfig(read, &choice).await.context("the kubeconfig context")?;
    Ok(Client::try_from(config)?)
}

/// One thread, which is enough for who asks one thing after the other.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("can't start")
}
