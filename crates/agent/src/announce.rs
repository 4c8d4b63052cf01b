//! Says on the Node which data plane runs there and whose queries of DNS it answers, for `dyad status`, `dyad explain` and
//! everybody else.

use std::net::IpAddr;

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use std::time::Duration;
use tokio::sync::watch;
use tracing::warn;

use crate::Status;
use crate::config::Ipam;
use crate::objects::NodeObject;

/// The annotation: `ebpf`, or `nftables` and why.
pub const DATAPLANE: &str = "dyad.io/dataplane";

/// The annotation: the addresses whose queries of DNS over UDP the node answers itself; absent while it does not.
pub const DNS_CACHE: &str = "dyad.io/dns-cache";

/// The annotation by which `dyad controllers` gives a node its pod ranges: with commas between them, those of the primary
/// family first.
pub const POD_CIDRS: &str = "dyad.io/pod-cidrs";

/// The annotation by which a node asks `dyad controllers` for more ranges: how many of a family it should have (`IPv4=2`).
pub const POD_CIDRS_WANTED: &str = "dyad.io/pod-cidrs-wanted";

/// The annotation: the ranges this node's pods have their addresses from, those of the primary family first; absent where
/// that is what `spec.podCIDRs` says.
pub const POD_RANGES: &str = "dyad.io/pod-ranges";

/// The annotation: the node's addresses as the agent has chosen them, one of each family.
pub const NODE_ADDRESSES: &str = "dyad.io/node-addresses";

/// The annotation by which somebody else chooses them, where the node has these; with commas between them.
pub const NODE_ADDRESS_OVERRIDE: &str = "dyad.io/node-address-override";

/// The annotation: what on the machine stands in the way, a JSON list of texts; absent if there is nothing.
pub const WARNINGS: &str = "dyad.io/warnings";

/// The annotation: the public key, in base64, of who is sent what is encrypted by WireGuard.
pub const WIREGUARD_PUBLIC_KEY: &str = "dyad.io/wireguard-public-key";

/// The annotation: the UDP port where that is.
pub const WIREGUARD_LISTEN_PORT: &str = "dyad.io/wireguard-port";

/// How soon is tried again what the API did not take, or did not tell of.
const RETRY: Duration = Duration::from_secs(5);

/// What a Node object says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcement {
    /// Which data plane runs.
    pub dataplane: Option<String>,
    /// The addresses whose queries it answers.
    pub dns_cache: Option<String>,
    /// The addresses that were chosen.
    pub addresses: Option<String>,
    /// The ranges that pods have their addresses from.
    pub ranges: Option<String>,
    /// How many ranges the node asks for.
    pub wanted: Option<String>,
    /// What stands in the way.
    pub warnings: Option<String>,
    /// The key others encrypt with what they send there.
    pub wireguard_key: Option<String>,
    /// The port they send it to.
    pub wireguard_port: Option<String>,
}

impl Announcement {
    fn of(status: &Status, intercept: &[IpAddr], ipam: Ipam) -> Self {
        let has_own = ipam != Ipam::Kubernetes && !status.pod_ranges.is_empty();
        Self {
            dataplane: Some(status.dataplane.clone()),
            dns_cache: status.intercepts.then(|| joined(intercept)),
            addresses: (!status.chosen.is_empty()).then(|| joined(&status.chosen)),
            wanted: status.wanted.clone(),
            ranges: has_own.then(|| joined(&status.pod_ranges)),
            warnings: (!status.warnings.is_empty()).then(|| json!(status.warnings).to_string()),
            wireguard_key: status.wireguard.as_ref().map(|(key, _)| key.clone()),
            wireguard_port: status.wireguard.as_ref().map(|(_, port)| port.to_string()),
        }
    }
}

fn joined<T: ToString>(all: &[T]) -> String {
    all.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// Keeps the annotations current, for ever.
pub(crate) async fn keep(
    client: Client,
    node: String,
    intercept: Vec<IpAddr>,
    ipam: Ipam,
    mut status: watch::Receiver<Status>,
) {
    let resource = ApiResource::erase::<NodeObject>(&());
    let nodes: Api<DynamicObject> = Api::all_with(client, &resource);
    let mut has_complained = false;
    loop {
        // Only once the Node has been seen can be told what it says.
        let differs =
            |status: &Status| status.synced && status.announced != Announcement::of(status, &intercept, ipam);
        let seen = status.wait_for(differs).await;
        let Ok(wanted) = seen.map(|status| Announcement::of(&status, &intercept, ipam)) else {
            return std::future::pending().await;
        };
        let annotations = json!({
            DATAPLANE: wanted.dataplane,
            DNS_CACHE: wanted.dns_cache,
            NODE_ADDRESSES: wanted.addresses,
            POD_RANGES: wanted.ranges,
            POD_CIDRS_WANTED: wanted.wanted,
            WARNINGS: wanted.warnings,
            WIREGUARD_PUBLIC_KEY: wanted.wireguard_key,
            WIREGUARD_LISTEN_PORT: wanted.wireguard_port,
        });
        let patch = json!({"metadata": {"annotations": annotations}});
        let params = PatchParams { field_manager: Some("dyad-agent".to_owned()), ..PatchParams::default() };
        match nodes.patch_metadata(&node, &params, &Patch::Merge(&patch)).await {
            Ok(_) => {
                has_complained = false;
                // Word of it comes with the watch.
                let heard = status.wait_for(|status| status.announced == wanted);
                let _ = tokio::time::timeout(RETRY, heard).await;
            }
            Err(error) => {
                if !std::mem::replace(&mut has_complained, true) {
                    warn!(%error, "can't say on the Node what runs there; will try again");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
