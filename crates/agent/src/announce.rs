//! Says on the Node which data plane runs there, for `dyad status` and everybody else.

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use std::time::Duration;
use tokio::sync::watch;
use tracing::warn;

use crate::Status;
use crate::objects::NodeObject;

/// The annotation: `ebpf`, or `nftables` and why.
pub const DATAPLANE: &str = "dyad.io/dataplane";

/// How soon is tried again what the API did not take.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps the annotation current, for ever.
pub(crate) async fn keep(client: Client, node: String, mut status: watch::Receiver<Status>) {
    let resource = ApiResource::erase::<NodeObject>(&());
    let nodes: Api<DynamicObject> = Api::all_with(client, &resource);
    let mut has_complained = false;
    loop {
        // Only once the Node has been seen can be told what it says.
        let differs = |status: &Status| status.synced && status.announced.as_ref() != Some(&status.dataplane);
        let Ok(wanted) = status.wait_for(differs).await.map(|status| status.dataplane.clone()) else {
            return std::future::pending().await;
        };
        let patch = json!({"metadata": {"annotations": {DATAPLANE: wanted}}});
        let params = PatchParams { field_manager: Some("dyad-agent".to_owned()), ..PatchParams::default() };
        match nodes.patch_metadata(&node, &params, &Patch::Merge(&patch)).await {
            // Word of it comes with the watch.
            Ok(_) => has_complained = false,
            Err(error) => {
                if !std::mem::replace(&mut has_complained, true) {
                    warn!(%error, "can't say on the Node which data plane runs; will try again");
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}
