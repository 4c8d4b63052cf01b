//! The node's DNS cache: queries of its pods to the cluster's DNS are answered on the node, without connection tracking.
//!
//! Names of the cluster are asked for each time, so that they are as new as the cluster's DNS has them; what was known is
//! given only when that does not answer. Other names are remembered.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dyad_dns::ask::{Manner, ask};
use dyad_dns::serve::{self, Settings, Source};
use dyad_dns::wire::{Name, Rtype};
use tokio::sync::watch;
use tracing::warn;

use crate::dns;
use crate::spec::ClusterSpec;

/// Between two looks whether the cluster's DNS answers yet, and between two attempts to listen.
const WAIT: Duration = Duration::from_millis(500);

/// Serves until `shutdown` resolves. `intercepts` says whether queries are to be taken here: as soon as the server
/// listens, and the cluster's DNS has answered once.
pub(crate) async fn serve(
    spec: &ClusterSpec,
    intercepts: watch::Sender<bool>,
    shutdown: impl Future<Output = ()>,
) {
    let (own, upstream) = (dns::addresses(spec), dns::upstream_addresses(spec));
    if own.is_empty() || upstream.is_empty() {
        return std::future::pending().await;
    }
    let text = corefile(&upstream);
    let listening = |intercepts: watch::Sender<bool>| {
        move |_: &[SocketAddr]| {
            let (intercepts, upstream) = (intercepts.clone(), upstream.clone());
            tokio::spawn(async move {
                until_answered(upstream).await;
                intercepts.send_replace(true);
            });
        }
    };
    let serving = async {
        loop {
            let settings = Settings {
                source: Source::Text("node cache".into(), text.clone()),
                variables: BTreeMap::new(),
                client: None,
                listen: own.clone(),
                service: None,
                workers: 1,
                rate: None,
                listening: Box::new(listening.clone()(intercepts.clone())),
            };
            if let Err(error) = serve::run(settings, std::future::pending()).await {
                // Pods go on to ask the cluster's DNS itself.
                warn!(%error, "this node has no DNS cache");
            }
            intercepts.send_replace(false);
            tokio::time::sleep(WAIT).await;
        }
    };
    tokio::select! {
        () = serving => {}
        () = shutdown => {}
    }
}

async fn until_answered(upstream: Vec<IpAddr>) {
    let manner = Manner { attempts: 1, patience: WAIT, ..Manner::default() };
    for at in upstream.into_iter().cycle() {
        let asked = tokio::task::spawn_blocking(move || {
            ask(SocketAddr::new(at, 53), &Name::root(), Rtype::NS, manner)
        });
        if asked.await.is_ok_and(|answer| answer.is_ok()) {
            return;
        }
        tokio::time::sleep(WAIT).await;
    }
}

fn corefile(upstream: &[IpAddr]) -> String {
    let upstream = upstream.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let forward = format!("    forward . {upstream}\n");
    format!(
        "cluster.local:53 in-addr.arpa:53 ip6.arpa:53 {{\n    errors\n{forward}    cache 0 {{\n        \
         serve_stale 1h verify\n        servfail 0s\n    }}\n}}\n\
         .:53 {{\n    errors\n{forward}    cache 30 {{\n        serve_stale 1h verify\n    }}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corefile_can_be_read() {
        use dyad_dns::corefile::{Corefile, Disk};
        let text = corefile(&["10.96.0.11".parse().unwrap(), "fd00:10:96::b".parse().unwrap()]);
        let read = Corefile::parse("node cache", &text, &Disk::default()).unwrap();
        let cluster = read.server(53, "web.default.svc.cluster.local.").unwrap();
        assert_eq!(cluster.cache.as_ref().map(|cache| cache.success.max_ttl), Some(0), "always asked for");
        let other = read.server(53, "dual.outside.example.").unwrap();
        assert_eq!(other.cache.as_ref().map(|cache| cache.success.max_ttl), Some(30));
        assert!(read.servers.iter().all(|server| server.forwards[0].to.len() == 2), "both families");
    }
}
