//! The Endpoints of a Service: its first family only, and without room for more than a thousand (E-4).

use std::collections::BTreeMap;

use dyad_net::IpFamily;
use serde_json::{Value, json};

use super::{HEADLESS_LABEL, has_selected_endpoints, is_headless, pod, set_trigger, wire};
use crate::readiness;
use crate::selector::LabelSelector;

/// Most addresses in one Endpoints (E63).
const CAPACITY: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// The label of Endpoints that says which controller writes them.
pub const ENDPOINTS_MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";

/// Addresses by IP and the UID of what they belong to, with the whole address and whether it is ready.
type Addresses = BTreeMap<(String, String), (Value, bool)>;

/// The Endpoints of a Service as they should be written, or nothing if they are as they should be (E60 to E64).
///
/// `pods` are those of the Service's namespace, selected or not; `existing` is the object of the Service's name.
pub fn endpoints(
    service: &Value,
    pods: &[Value],
    existing: Option<&Value>,
    trigger: Option<&str>,
) -> Option<Value> {
    if !has_selected_endpoints(service) {
        return None;
    }
    let spec = wire::at(service, &["spec"]);
    let selector = LabelSelector::from_map(wire::at(spec, &["selector"]));
    let publish = wire::flag(spec, "publishNotReadyAddresses");
    let mut by_port: BTreeMap<Option<String>, Addresses> = BTreeMap::new();
    for pod in pods {
        let selected = selector.matches(wire::at(pod, &["metadata", "labels"]));
        if !selected || !pod::is_endpoint(pod, publish) {
            continue;
        }
        let family = family(service, pod);
        let Some(address) = address(service, pod, family) else { continue };
        let ready = publish || readiness::is_ready(service, pod, family);
        let mut add = |port: Option<String>| insert(by_port.entry(port).or_default(), &address, ready);
        if wire::list(spec, "ports").is_empty() {
            if is_headless(service) {
                add(None);
            }
        } else {
            pod::ports(service, pod).iter().for_each(|port| add(Some(canonical_port(port).to_string())));
        }
    }
    let mut subsets = repack(by_port);
    let truncated = truncate(&mut subsets);
    let mut object = existing.cloned().unwrap_or_else(|| json!({ "apiVersion": "v1", "kind": "Endpoints" }));
    let meta = wire::child(&mut object, "metadata");
    let service_meta = wire::at(service, &["metadata"]);
    wire::copy(meta, service_meta, "name");
    wire::copy(meta, service_meta, "namespace");
    let mut labels = wire::at(service_meta, &["labels"]).clone();
    wire::map_mut(&mut labels).remove(HEADLESS_LABEL);
    if is_headless(service) {
        wire::set(&mut labels, HEADLESS_LABEL, "");
    }
    wire::set(&mut labels, ENDPOINTS_MANAGED_BY_LABEL, CONTROLLER);
    wire::set(meta, "labels", labels);
    let annotations = wire::child(meta, "annotations");
    if truncated {
        wire::set(annotations, OVER_CAPACITY, "truncated");
    } else {
        wire::remove(annotations, OVER_CAPACITY);
    }
    if wire::is_empty(annotations) {
        wire::remove(meta, "annotations");
    }
    let unchanged = existing.is_some_and(|existing| {
        canonical(existing) == subsets
            && wire::at(existing, &["metadata"]) == wire::at(&object, &["metadata"])
    });
    if unchanged {
        return None;
    }
    if subsets.is_empty() {
        wire::remove(&mut object, "subsets");
    } else {
        wire::set(&mut object, "subsets", subsets);
    }
    set_trigger(&mut object, trigger);
    Some(object)
}

/// The subsets of Endpoints, repacked so that addresses of one port set are together (E62).
pub(super) fn canonical(endpoints: &Value) -> Vec<Value> {
    let mut by_port: BTreeMap<Option<String>, Addresses> = BTreeMap::new();
    for subset in wire::list(endpoints, "subsets") {
        let ports = wire::list(subset, "ports").iter().map(|port| Some(canonical_port(port).to_string()));
        let mut ports: Vec<Option<String>> = ports.collect();
        if ports.is_empty() {
            ports.push(None);
        }
        for port in ports {
            let addresses = by_port.entry(port).or_default();
            for (list, ready) in [("addresses", true), ("notReadyAddresses", false)] {
                wire::list(subset, list).iter().for_each(|address| insert(addresses, address, ready));
            }
        }
    }
    repack(by_port)
}

/// Adds an address; one that is both ready and not is not.
fn insert(addresses: &mut Addresses, address: &Value, ready: bool) {
    let uid = wire::text(wire::at(address, &["targetRef"]), "uid").to_owned();
    let entry =
        addresses.entry((wire::text(address, "ip").to_owned(), uid)).or_insert((address.clone(), ready));
    entry.1 &= ready;
}

fn canonical_port(port: &Value) -> Value {
    let mut port = port.clone();
    wire::default_zero(&mut port, "protocol", "TCP");
    if wire::text(&port, "name").is_empty() {
        wire::remove(&mut port, "name");
    }
    port
}

fn repack(by_port: BTreeMap<Option<String>, Addresses>) -> Vec<Value> {
    let mut groups: BTreeMap<String, (Addresses, Vec<Value>)> = BTreeMap::new();
    for (port, addresses) in by_port {
        let key: Vec<_> = addresses.iter().map(|(key, (_, ready))| (key, ready)).collect();
        let key = format!("{key:?}");
        let group = groups.entry(key).or_insert_with(|| (addresses, Vec::new()));
        // It was a port before it was a key.
        group.1.extend(port.and_then(|port| serde_json::from_str(&port).ok()));
    }
    let subsets = groups.into_values().map(|(addresses, ports)| {
        let (ready, not_ready): (Vec<_>, Vec<_>) = addresses.into_values().partition(|(_, ready)| *ready);
        let mut subset = json!({});
        for (key, list) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
            let list: Vec<Value> = list.into_iter().map(|(address, _)| address).collect();
            if !list.is_empty() {
                wire::set(&mut subset, key, list);
            }
        }
        if !ports.is_empty() {
            wire::set(&mut subset, "ports", ports);
        }
        subset
    });
    subsets.collect()
}

/// The Service's first family.
fn family(service: &Value, pod: &Value) -> IpFamily {
    let spec = wire::at(service, &["spec"]);
    let first = wire::texts(spec, "ipFamilies").next().and_then(IpFamily::from_name);
    first
        .or_else(|| dyad_net::parse_ip_sloppy(wire::text(spec, "clusterIP")).map(IpFamily::from))
        .or_else(|| {
            dyad_net::parse_ip_sloppy(wire::text(wire::at(pod, &["status"]), "podIP")).map(IpFamily::from)
        })
        .unwrap_or(IpFamily::V4)
}

/// The pod's first address of that family (E60).
fn address(service: &Value, pod: &Value, family: IpFamily) -> Option<Value> {
    let mut address = json!({ "ip": pod::addresses(pod, family).next()?, "targetRef": pod::target(pod) });
    let node = wire::text(wire::at(pod, &["spec"]), "nodeName");
    for (key, value) in [("nodeName", node), ("hostname", pod::hostname(service, pod).unwrap_or_default())] {
        if !value.is_empty() {
            wire::set(&mut address, key, value);
        }
    }
    Some(address)
}

/// Cuts down to what fits, ready addresses first and every subset by its share (E63). True if anything was cut.
fn truncate(subsets: &mut [Value]) -> bool {
    let total =
        |subsets: &[Value], list: &str| subsets.iter().map(|subset| wire::list(subset, list).len()).sum();
    let ready: usize = total(subsets, "addresses");
    let not_ready: usize = total(subsets, "notReadyAddresses");
    if ready + not_ready <= CAPACITY {
        return false;
    }
    let (list, count, room) = if ready > CAPACITY {
        ("addresses", ready, CAPACITY)
    } else {
        ("notReadyAddresses", not_ready, CAPACITY - ready)
    };
    let mut left = room;
    for subset in subsets {
        let addresses = wire::list(subset, list);
        let share = (addresses.len() * room).div_ceil(count).min(left);
        let kept = addresses.iter().take(share).cloned().collect::<Vec<_>>();
        left -= kept.len();
        if kept.is_empty() {
            wire::remove(subset, list);
        } else {
            wire::set(subset, list, kept);
        }
        if list == "addresses" {
            wire::remove(subset, "notReadyAddresses");
        }
    }
    true
}
