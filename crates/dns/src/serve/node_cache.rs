//! `nodecache`: queries that this node's pods and processes send to the cluster's DNS are answered here.
//!
//! The addresses are claimed on `lo`, and UDP to them is delivered there without connection tracking for as long as this
//! process lives ([`Interception`]). What egress policies say of the way to the cluster's DNS does not concern queries
//! that never go there; where a policy has to see them, the node's agent takes them in our place, and spares such pods.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use dyad_links::Handle;
use dyad_nft::Interception;
use tracing::{info, warn};

use crate::corefile::Corefile;

/// How long answers may be on their way when queries go elsewhere again.
const ANSWERS: Duration = Duration::from_secs(2);

/// What is intercepted.
#[derive(Default)]
pub(super) struct NodeCache {
    addresses: BTreeSet<IpAddr>,
    interception: Option<Interception>,
}

/// The addresses a Corefile wants to be taken over.
pub(super) fn wanted(corefile: &Corefile) -> BTreeSet<IpAddr> {
    let blocks = corefile.servers.iter().filter_map(|server| server.nodecache.as_ref());
    blocks.flat_map(|cache| cache.addresses.iter().copied()).collect()
}

impl NodeCache {
    /// Gives this node the addresses, so that they can be listened on.
    pub(super) fn claim(wanted: &BTreeSet<IpAddr>) -> dyad_links::Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let mut links = Handle::open()?;
        let lo = links.index("lo")?;
        wanted.iter().try_for_each(|ip| links.claim_address(lo, *ip))
    }

    /// Takes queries to these addresses from now on, and to no others. Without the rights or the kernel for it they go
    /// on to the cluster's DNS, and a line in the log says why.
    pub(super) fn take(&mut self, wanted: BTreeSet<IpAddr>) {
        if self.addresses == wanted && (self.interception.is_some() || wanted.is_empty()) {
            return;
        }
        self.interception = None;
        self.release(&wanted);
        if !wanted.is_empty() {
            match Interception::open(&wanted, &BTreeSet::new()) {
                Ok(interception) => {
                    info!(addresses = ?wanted, "queries of this node are taken");
                    self.interception = Some(interception);
                }
                Err(error) => warn!(%error, "queries of this node go to the cluster's DNS"),
            }
        }
        self.addresses = wanted;
    }

    /// Lets queries go to the cluster's DNS again, while earlier ones are still answered.
    pub(super) async fn end(&mut self) {
        if let Some(interception) = &mut self.interception {
            match interception.pause() {
                Ok(()) => tokio::time::sleep(ANSWERS).await,
                Err(error) => warn!(%error, "queries on their way may be lost"),
            }
        }
        self.interception = None;
    }

    /// Takes back what was claimed and is not wanted any more.
    pub(super) fn release(&mut self, wanted: &BTreeSet<IpAddr>) {
        let gone: Vec<IpAddr> = self.addresses.difference(wanted).copied().collect();
        if gone.is_empty() {
            return;
        }
        let released = Handle::open().and_then(|mut links| {
            let lo = links.index("lo")?;
            gone.iter().try_for_each(|ip| links.delete_address(lo, (*ip).into()))
        });
        if let Err(error) = released {
            warn!(%error, addresses = ?gone, "addresses could not be given back");
        }
    }
}
