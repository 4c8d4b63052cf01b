//! Slices of Endpoints that somebody made for a Service without selector (E-3).

use std::collections::BTreeMap;

use dyad_net::IpFamily;
use serde_json::{Value, json};

use super::{
    MANAGED_BY_LABEL, MIRRORING_CONTROLLER, SERVICE_NAME_LABEL, SliceChanges, TRIGGER_ANNOTATION,
    generate_name, legacy, managed_by, owner, port_key, wire,
};

/// Most addresses taken over from one subset (E41).
const MAX_PER_SUBSET: usize = 1000;
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What to write, and what could not be mirrored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mirrored {
    /// The writes.
    pub changes: SliceChanges,
    /// How many addresses were no addresses: an event `InvalidIPAddress`.
    pub invalid: usize,
    /// How many addresses were too many: an event `TooManyAddressesToMirror`.
    pub surplus: usize,
}

/// The changes that make the mirrored slices those of the Endpoints (E40 to E42).
///
/// `existing` are the slices labelled with the Service's name.
pub fn mirror(endpoints: Option<&Value>, service: Option<&Value>, existing: &[Value]) -> Mirrored {
    let mut mirrored = Mirrored::default();
    let existing: Vec<&Value> =
        existing.iter().filter(|slice| managed_by(slice) == MIRRORING_CONTROLLER).collect();
    let Some(endpoints) = endpoints.filter(|endpoints| is_mirrored(endpoints, service)) else {
        mirrored.changes.delete = existing.into_iter().cloned().collect();
        return mirrored;
    };
    // Per family and port list: the ports as a slice has them, and the endpoints.
    let mut wanted: BTreeMap<(IpFamily, String), (Vec<Value>, Vec<Value>)> = BTreeMap::new();
    for subset in legacy::canonical(endpoints) {
        let ports: Vec<Value> = wire::list(&subset, "ports").iter().map(slice_port).collect();
        let mut room = MAX_PER_SUBSET;
        for (list, ready) in [("addresses", true), ("notReadyAddresses", false)] {
            for address in wire::list(&subset, list) {
                let Some(ip) = dyad_net::parse_ip_sloppy(wire::text(address, "ip")) else {
                    mirrored.invalid += 1;
                    continue;
                };
                if room == 0 {
                    mirrored.surplus += 1;
                    continue;
                }
                room -= 1;
                let group = wanted.entry((IpFamily::from(ip), port_key(&ports)));
                let group = group.or_insert_with(|| (ports.clone(), Vec::new()));
                group.1.push(endpoint(address, &ip.to_string(), ready));
            }
        }
    }
    let mut by_key: BTreeMap<(IpFamily, String), Vec<&Value>> = BTreeMap::new();
    for slice in existing {
        match IpFamily::from_name(wire::text(slice, "addressType")) {
            Some(family) => {
                by_key.entry((family, port_key(wire::list(slice, "ports")))).or_default().push(slice);
            }
            None => mirrored.changes.delete.push(slice.clone()),
        }
    }
    for ((family, key), (ports, list)) in wanted {
        let mut slices = by_key.remove(&(family, key)).unwrap_or_default().into_iter();
        let slice = new_slice(endpoints, family, &ports, list);
        match slices.next() {
            None => mirrored.changes.create.push(slice),
            Some(old) => mirrored.changes.update.extend(changed(old, slice)),
        }
        mirrored.changes.delete.extend(slices.cloned());
    }
    mirrored.changes.delete.extend(by_key.into_values().flatten().cloned());
    mirrored.changes.reuse(|_| true);
    if wire::has(wire::at(endpoints, &["metadata"]), "deletionTimestamp") {
        mirrored.changes.create.clear();
    }
    mirrored
}

/// E40.
fn is_mirrored(endpoints: &Value, service: Option<&Value>) -> bool {
    let meta = wire::at(endpoints, &["metadata"]);
    let skipped =
        wire::text(wire::at(meta, &["labels"]), "endpointslice.kubernetes.io/skip-mirror") == "true";
    let election = wire::has(wire::at(meta, &["annotations"]), "control-plane.alpha.kubernetes.io/leader");
    let by_hand = service.is_some_and(|service| wire::is_empty(wire::at(service, &["spec", "selector"])));
    by_hand && !skipped && !election
}

/// The old slice made to say what the new one says, or nothing if it does.
fn changed(old: &Value, new: Value) -> Option<Value> {
    let mut slice = old.clone();
    let sorted = |slice: &Value| {
        let mut endpoints = wire::list(slice, "endpoints").to_vec();
        endpoints.sort_by_cached_key(Value::to_string);
        endpoints
    };
    if sorted(old) != sorted(&new) {
        wire::copy(&mut slice, &new, "endpoints");
    }
    let meta = wire::child(&mut slice, "metadata");
    for key in ["labels", "annotations", "ownerReferences"] {
        wire::copy(meta, wire::at(&new, &["metadata"]), key);
    }
    (slice != *old).then_some(slice)
}

/// E42.
fn new_slice(endpoints: &Value, family: IpFamily, ports: &[Value], list: Vec<Value>) -> Value {
    let meta = wire::at(endpoints, &["metadata"]);
    let name = wire::text(meta, "name");
    let mut labels = wire::at(meta, &["labels"]).clone();
    wire::set(&mut labels, SERVICE_NAME_LABEL, name);
    wire::set(&mut labels, MANAGED_BY_LABEL, MIRRORING_CONTROLLER);
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": generate_name(name),
            "namespace": wire::text(meta, "namespace"),
            "labels": labels,
            "ownerReferences": [owner(endpoints, "Endpoints")],
        },
        "addressType": family.as_str(),
        "endpoints": list,
        "ports": ports,
    });
    let mut annotations = wire::at(meta, &["annotations"]).clone();
    for key in [TRIGGER_ANNOTATION, LAST_APPLIED] {
        wire::remove(&mut annotations, key);
    }
    if !wire::is_empty(&annotations) {
        wire::set(wire::child(&mut slice, "metadata"), "annotations", annotations);
    }
    slice
}

fn endpoint(address: &Value, ip: &str, ready: bool) -> Value {
    let mut endpoint = json!({ "addresses": [ip], "conditions": { "ready": ready } });
    for key in ["hostname", "nodeName", "targetRef"] {
        wire::copy(&mut endpoint, address, key);
    }
    endpoint
}

fn slice_port(port: &Value) -> Value {
    let mut port = port.clone();
    wire::default(&mut port, "name", "");
    port
}
