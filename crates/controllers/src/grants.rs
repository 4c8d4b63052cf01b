//! Gives nodes pod ranges out of pools, by an annotation of the Node: on clusters whose own ranges are not enough.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use dyad_net::{IpFamily, IpNet};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::cache::Cache;
use crate::leader::{self, Place};
use crate::pods;
use crate::pool::{self, Claimant, Pool};

/// What a node is given: ranges with commas between them, those of the primary family first.
const GIVEN: &str = "dyad.io/pod-cidrs";
/// How many ranges of a family a node asks for: `IPv4=2,IPv6=1`.
const WANTED: &str = "dyad.io/pod-cidrs-wanted";
/// Who the events are from.
const COMPONENT: &str = "dyad-controllers";

/// What is given to whom.
#[derive(Clone, Debug)]
pub struct Grants {
    /// The pools; a node's is the first that is for it.
    pub pools: Vec<Pool>,
    /// What is given to nobody, such as the ranges of Services.
    pub reserved: Vec<IpNet>,
    /// Who we are in the election.
    pub identity: String,
    /// The namespace and the name of the Lease by which one is elected.
    pub lease: (String, String),
    /// Told how it stands.
    pub standing: watch::Sender<Standing>,
}

/// How it stands, for whoever watches over the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether this one works.
    pub leads: bool,
    /// How many nodes there are; of these and what follows only the one that works knows.
    pub nodes: usize,
    /// How many ranges they hold.
    pub ranges: usize,
    /// How many nodes do not get all that they need.
    pub short: usize,
}

impl Standing {
    /// As Prometheus reads it (text format 0.0.4).
    pub fn metrics(&self) -> String {
        let Self { leads, nodes, ranges, short } = *self;
        let gauges = [
            ("leader", "Whether this process is the one that works", usize::from(leads)),
            ("nodes", "Nodes that ranges are given to", nodes),
            ("node_ranges", "Pod ranges that nodes hold", ranges),
            ("nodes_short", "Nodes that do not get all the ranges that they need", short),
        ];
        let gauge = |(name, help, value)| {
            let name = format!("dyad_controllers_{name}");
            format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n")
        };
        gauges.map(gauge).concat()
    }
}

/// Gives ranges until `shutdown` resolves, while this instance leads.
pub async fn run_grants(client: Client, grants: Grants, shutdown: impl Future<Output = ()>) {
    let place = Place { namespace: &grants.lease.0, name: &grants.lease.1 };
    let led = async {
        loop {
            let lease = leader::acquire(&client, place, &grants.identity).await;
            info!(identity = grants.identity, "leading");
            grants.standing.send_replace(Standing { leads: true, ..Standing::default() });
            tokio::select! {
                // Nothing is written after the lease is lost.
                () = leader::keep(&client, place, lease) => warn!("leadership lost; stopping all work"),
                () = work(&client, &grants) => {}
            }
            grants.standing.send_replace(Standing::default());
        }
    };
    tokio::select! {
        () = led => {}
        () = shutdown => leader::release(&client, place, &grants.identity).await,
    }
}

async fn work(client: &Client, grants: &Grants) {
    let nodes = Arc::new(Cache::<Node>::trimmed(|node| {
        node.status = None;
        node.spec = None;
    }));
    let mut tasks = JoinSet::new();
    let (watched, api) = (Arc::clone(&nodes), Api::all(client.clone()));
    tasks.spawn(async move { watched.follow(api).await });
    nodes.wait().await;
    let changed = Arc::new(Notify::new());
    let tell = Arc::clone(&changed);
    // Heartbeats are none.
    nodes.on_change(move |old, new| {
        if old.map(claimant) != new.map(claimant) {
            tell.notify_one();
        }
    });
    let (mut told, mut refused) = (BTreeMap::new(), BTreeMap::new());
    loop {
        if !pass(client, grants, &nodes, &mut told, &mut refused).await {
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            continue;
        }
        changed.notified().await;
    }
}

/// Writes what differs; false if something could not be written. What nodes do not get, and what the API refuses, is told once.
async fn pass(
    client: &Client,
    grants: &Grants,
    nodes: &Cache<Node>,
    told: &mut BTreeMap<String, String>,
    refused: &mut BTreeMap<String, String>,
) -> bool {
    let mut all = nodes.all();
    // Who was there first keeps what others hold, too.
    all.sort_by_key(|node| (node.metadata.creation_timestamp.clone().map(|time| time.0), node.name_any()));
    let claimants: Vec<Claimant> = all.iter().map(|node| claimant(node)).collect();
    let wanted = pool::grant(&grants.pools, &grants.reserved, &claimants);
    grants.standing.send_replace(Standing {
        leads: true,
        nodes: all.len(),
        ranges: wanted.values().map(|grant| grant.ranges.len()).sum(),
        short: wanted.values().filter(|grant| grant.problem.is_some()).count(),
    });
    let api = Api::<Node>::all(client.clone());
    let mut is_done = true;
    for (node, claimant) in all.iter().zip(&claimants) {
        let Some(grant) = wanted.get(&claimant.name) else { continue };
        match &grant.problem {
            None => drop(told.remove(&claimant.name)),
            Some(problem) => {
                let text = problem.to_string();
                if told.insert(claimant.name.clone(), text.clone()).as_ref() != Some(&text) {
                    warn!(node = claimant.name, problem = text, "can't give the node all that it needs");
                    pods::event(client, COMPONENT, &**node, "Warning", "CIDRNotAvailable", &text).await;
                }
            }
        }
        if grant.ranges == claimant.held {
            continue;
        }
        let text = grant.ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        // Only onto the Node that was looked at, not one of the same name that came later.
        let patch = json!({"metadata": {"uid": node.metadata.uid, "annotations": {GIVEN: text}}});
        match api.patch(&claimant.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(written) => {
                refused.remove(&claimant.name);
                info!(node = claimant.name, ranges = text, "ranges given");
                nodes.reaches(&written).await;
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => is_done = false,
            Err(error) => {
                let text = error.to_string();
                // As often as it is tried would be every two seconds.
                if refused.get(&claimant.name) != Some(&text) {
                    warn!(node = claimant.name, %error, "can't give the node its ranges; will be tried again");
                    refused.insert(claimant.name.clone(), text);
                }
                is_done = false;
            }
        }
    }
    is_done
}

/// What counts of a node.
fn claimant(node: &Node) -> Claimant {
    let annotation = |key| node.annotations().get(key).map(String::as_str).unwrap_or_default();
    let wanted = |part: &str| {
        let (family, count) = part.split_once('=')?;
        Some((IpFamily::from_name(family.trim())?, count.trim().parse().ok()?))
    };
    Claimant {
        name: node.name_any(),
        labels: node.labels().clone(),
        held: annotation(GIVEN)
            .split(',')
            .filter_map(|part| part.trim().parse::<IpNet>().ok())
            .map(|range| range.trunc())
            .collect(),
        wanted: annotation(WANTED).split(',').filter_map(wanted).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_it_stands_is_a_gauge_each() {
        let text = Standing { leads: true, nodes: 3, ranges: 7, short: 1 }.metrics();
        assert_eq!(text.lines().filter(|line| line.starts_with("# TYPE dyad_controllers_")).count(), 4);
        for line in ["leader 1", "nodes 3", "node_ranges 7", "nodes_short 1"] {
            assert!(text.contains(&format!("\ndyad_controllers_{line}\n")), "{line}: {text}");
        }
    }

    #[test]
    fn annotations_say_what_a_node_holds_and_asks_for() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {
                "name": "a",
                "labels": {"pool": "gpu"},
                "annotations": {
                    GIVEN: "fd00::/64, 10.0.0.0/24,nonsense",
                    WANTED: "IPv4=3,ipv6=2,IPv6=x",
                },
            },
        }))
        .unwrap();
        let claimant = claimant(&node);
        assert_eq!(claimant.held, ["fd00::/64", "10.0.0.0/24"].map(|range| range.parse().unwrap()));
        assert_eq!(claimant.wanted, [(IpFamily::V4, 3)].into());
        assert_eq!(claimant.labels["pool"], "gpu");
    }
}
