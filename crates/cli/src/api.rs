//! The way to a cluster's API: that of a local cluster, or that of a kubeconfig context.

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
