//! What the API says, reduced to what the node needs.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dyad_net::IpNet;
use dyad_program::{EndpointSlice, Service, wire};
use futures::{TryStreamExt, pin_mut};
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use tokio::sync::watch;
use tracing::warn;

/// Namespace and name.
pub(crate) type Name = (String, String);

/// A node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Node {
    /// Its InternalIPs.
    pub(crate) ips: Vec<IpAddr>,
    /// Its pod ranges.
    pub(crate) pod_ranges: Vec<IpNet>,
}

impl Node {
    fn from_value(value: &Value) -> Option<Self> {
        let list = |pointer: &str| value.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
        let internal = list("/status/addresses").filter(|address| address["type"] == "InternalIP");
        Some(Self {
            ips: internal.filter_map(|address| address["address"].as_str()?.parse().ok()).collect(),
            pod_ranges: list("/spec/podCIDRs").filter_map(|cidr| cidr.as_str()?.parse().ok()).collect(),
        })
    }
}

/// One kind's objects, and whether the first complete list has arrived.
pub(crate) struct Table<T> {
    pub(crate) rows: BTreeMap<Name, T>,
    pub(crate) complete: bool,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), complete: false }
    }
}

/// Everything the node needs to know.
pub(crate) struct View {
    pub(crate) services: Mutex<Table<Service>>,
    pub(crate) slices: Mutex<Table<EndpointSlice>>,
    pub(crate) nodes: Mutex<Table<Node>>,
    changes: watch::Sender<u64>,
}

impl Default for View {
    fn default() -> Self {
        Self {
            services: Mutex::default(),
            slices: Mutex::default(),
            nodes: Mutex::default(),
            changes: watch::channel(0).0,
        }
    }
}

impl View {
    /// Tells of every change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether everything has been listed once: before that, what is missing may only not have arrived yet.
    pub(crate) fn is_complete(&self) -> bool {
        fn complete<T>(table: &Mutex<Table<T>>) -> bool {
            table.lock().expect("nothing panics here").complete
        }
        complete(&self.services) && complete(&self.slices) && complete(&self.nodes)
    }
}

/// A watch that runs for ever.
type Watch = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The watches that keep a view current.
pub(crate) fn watches(client: &Client, view: &Arc<View>) -> [Watch; 3] {
    let resource = |group: &str, kind: &str, plural: &str| ApiResource {
        group: group.into(),
        version: "v1".into(),
        api_version: if group.is_empty() { "v1".into() } else { format!("{group}/v1") },
        kind: kind.into(),
        plural: plural.into(),
    };
    [
        Box::pin(follow(
            client.clone(),
            resource("", "Service", "services"),
            view.clone(),
            |view| &view.services,
            |object| Some(wire::service_from_value(object).ok()??.1),
        )),
        Box::pin(follow(
            client.clone(),
            resource("discovery.k8s.io", "EndpointSlice", "endpointslices"),
            view.clone(),
            |view| &view.slices,
            |object| Some(wire::slice_from_value(object).ok()??.1),
        )),
        Box::pin(follow(
            client.clone(),
            resource("", "Node", "nodes"),
            view.clone(),
            |view| &view.nodes,
            Node::from_value,
        )),
    ]
}

/// First and longest wait after a watch was interrupted.
const WAITS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

async fn follow<T: PartialEq>(
    client: Client,
    resource: ApiResource,
    view: Arc<View>,
    table: fn(&View) -> &Mutex<Table<T>>,
    read: fn(&Value) -> Option<T>,
) {
    let stream = watcher(Api::<DynamicObject>::all_with(client, &resource), watcher::Config::default());
    pin_mut!(stream);
    let mut listing = BTreeMap::new();
    let mut wait = WAITS.0;
    // An object that can't be read counts as one that is not there.
    let row = |object: DynamicObject| {
        let name = (object.namespace().unwrap_or_default(), object.name_any());
        (name, serde_json::to_value(object).ok().and_then(|value| read(&value)))
    };
    loop {
        let event = match stream.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                warn!(kind = resource.kind, %error, "watch interrupted; the kernel goes on with what it has");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(WAITS.1);
                continue;
            }
        };
        wait = WAITS.0;
        let changed = {
            let mut table = table(&view).lock().expect("nothing panics here");
            match event {
                Event::Init => {
                    listing.clear();
                    false
                }
                Event::InitApply(object) => {
                    let (name, row) = row(object);
                    listing.extend(row.map(|row| (name, row)));
                    false
                }
                Event::InitDone => {
                    let changed = !table.complete || table.rows != listing;
                    (table.rows, table.complete) = (std::mem::take(&mut listing), true);
                    changed
                }
                Event::Apply(object) => match row(object) {
                    (name, Some(row)) => {
                        let same = table.rows.get(&name) == Some(&row);
                        table.rows.insert(name, row);
                        !same
                    }
                    (name, None) => table.rows.remove(&name).is_some(),
                },
                Event::Delete(object) => table.rows.remove(&row(object).0).is_some(),
            }
        };
        if changed {
            view.changes.send_modify(|count| *count += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_are_read_with_both_families() {
        let node = json!({
            "spec": {"podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64", "nonsense"]},
            "status": {"addresses": [
                {"type": "InternalIP", "address": "172.30.1.11"},
                {"type": "Hostname", "address": "node1"},
                {"type": "InternalIP", "address": "fd00:172:30:1::b"},
            ]},
        });
        let expected = Node {
            ips: vec!["172.30.1.11".parse().unwrap(), "fd00:172:30:1::b".parse().unwrap()],
            pod_ranges: vec!["10.244.1.0/24".parse().unwrap(), "fd00:10:244:1::/64".parse().unwrap()],
        };
        assert_eq!(Node::from_value(&node), Some(expected));
        assert_eq!(Node::from_value(&json!({})), Some(Node::default()));
    }
}
