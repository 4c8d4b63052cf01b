//! EndpointSlices and Endpoints of Services (E-2 to E-4): what is wanted, and the fewest writes that get there.
//!
//! Pure functions over wire objects. They know nothing of queues, caches and staleness (E25, E26): the controllers
//! call them with what they see and write what comes back. Hints follow `trafficDistribution` (E27), or the topology
//! (E28).

mod legacy;
mod mirror;
mod pack;
mod pod;
mod topology;

use std::collections::{BTreeMap, BTreeSet};

use dyad_net::IpFamily;
use serde_json::{Map, Value, json};

use crate::{names, selector::LabelSelector, wire};

pub use legacy::{ENDPOINTS_MANAGED_BY_LABEL, endpoints};
pub use mirror::{Mirrored, mirror};
pub use topology::{Node, Nodes, Notice};

/// The label that names a slice's Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The label that names who keeps a slice.
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// The label of slices and Endpoints whose Service has no cluster address.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// The name the keeper of the slices of Services with a selector goes by.
pub const CONTROLLER: &str = "endpointslice-controller.k8s.io";
/// The name the keeper of the slices of hand-made Endpoints goes by.
pub const MIRRORING_CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
/// When what a slice says last changed, for those who measure how long that took.
const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Most endpoints in a slice, unless configured otherwise (E19).
pub const MAX_PER_SLICE: usize = 100;

/// What to write so that the slices say what is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SliceChanges {
    /// New slices, with `generateName`.
    pub create: Vec<Value>,
    /// Slices to replace; name, UID and resourceVersion are those of the slice as it was given.
    pub update: Vec<Value>,
    /// Slices to remove, as they were given.
    pub delete: Vec<Value>,
    /// Names of selected pods that were left out because their node is unknown: try again later (E14).
    pub skipped: Vec<String>,
    /// What to tell the Service's users about hints (E28).
    pub notices: Vec<Notice>,
}

impl SliceChanges {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.create.is_empty() && self.update.is_empty() && self.delete.is_empty()
    }

    fn extend(&mut self, other: Self) {
        self.create.extend(other.create);
        self.update.extend(other.update);
        self.delete.extend(other.delete);
        self.skipped.extend(other.skipped);
        self.notices.extend(other.notices);
    }

    /// Turns a removal and a creation into one update of the removed slice, where it may be reused (E21).
    fn reuse(&mut self, may_reuse: impl Fn(&Value) -> bool) {
        let mut kept = Vec::new();
        for old in std::mem::take(&mut self.delete) {
            let family = wire::text(&old, "addressType");
            let fits = |new: &Value| wire::text(new, "addressType") == family;
            match self.create.iter().rposition(fits).filter(|_| may_reuse(&old)) {
                Some(position) => {
                    let mut slice = self.create.remove(position);
                    let mut meta = wire::at(&old, &["metadata"]).clone();
                    for key in ["labels", "annotations", "ownerReferences"] {
                        wire::copy(&mut meta, wire::at(&slice, &["metadata"]), key);
                    }
                    wire::set(&mut slice, "metadata", meta);
                    self.update.push(slice);
                }
                None => kept.push(old),
            }
        }
        self.delete = kept;
    }

    /// Says when the change was triggered, on everything that is written (E23).
    fn trigger(&mut self, trigger: Option<&str>) {
        for slice in self.create.iter_mut().chain(&mut self.update) {
            set_trigger(slice, trigger);
        }
    }
}

fn set_trigger(object: &mut Value, trigger: Option<&str>) {
    let meta = wire::child(object, "metadata");
    let annotations = wire::child(meta, "annotations");
    match trigger {
        Some(time) => wire::set(annotations, TRIGGER_ANNOTATION, time),
        None => wire::remove(annotations, TRIGGER_ANNOTATION),
    }
    if wire::is_empty(annotations) {
        wire::remove(meta, "annotations");
    }
}

/// The changes that make the slices of a Service those it should have (E10 to E24).
///
/// `pods` are those of the Service's namespace, selected or not; `nodes` are all that are known; `existing` are the slices labelled with the Service's name. `trigger` is when what led here happened, RFC
/// 3339 with fractions, if known. A Service without selector has no changes (E10). Run again on the result, there
/// is nothing to change.
pub fn desired(
    service: &Value,
    pods: &[Value],
    nodes: &Nodes,
    existing: &[Value],
    trigger: Option<&str>,
    max_per_slice: usize,
) -> SliceChanges {
    let mut changes = SliceChanges::default();
    if !has_selected_endpoints(service) {
        return changes;
    }
    let ours = |slice: &&Value| managed_by(slice) == CONTROLLER;
    let families = address_types(service);
    let (kept, left): (Vec<&Value>, Vec<&Value>) = existing.iter().filter(ours).partition(|slice| {
        IpFamily::from_name(wire::text(slice, "addressType")).is_some_and(|family| families.contains(&family))
    });
    let selector = LabelSelector::from_map(wire::at(service, &["spec", "selector"]));
    let pods: Vec<&Value> =
        pods.iter().filter(|pod| selector.matches(wire::at(pod, &["metadata", "labels"]))).collect();
    for family in families {
        let existing =
            kept.iter().copied().filter(|slice| wire::text(slice, "addressType") == family.as_str());
        changes.extend(of_family(service, &pods, nodes, existing, family, max_per_slice));
    }
    // The other family's slices are never turned into ours (E13), so they are added last.
    changes.delete.extend(left.into_iter().cloned());
    if wire::has(wire::at(service, &["metadata"]), "deletionTimestamp") {
        changes.create.clear();
    }
    changes.trigger(trigger);
    changes.skipped.sort_unstable();
    changes.skipped.dedup();
    changes
}

/// E12, E18, E20, E21.
fn of_family<'a>(
    service: &Value,
    pods: &[&Value],
    nodes: &Nodes,
    existing: impl Iterator<Item = &'a Value>,
    family: IpFamily,
    max_per_slice: usize,
) -> SliceChanges {
    let mut changes = SliceChanges::default();
    let existing: Vec<&Value> = existing.collect();
    let by_topology = topology::wanted(service);
    let mut groups: BTreeMap<String, pack::Group<'_>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| pod::is_endpoint(pod, true)) {
        let ports = pod::ports(service, pod);
        let group = groups.entry(port_key(&ports)).or_insert_with(|| pack::Group::new(ports, by_topology));
        let node = wire::text(wire::at(pod, &["spec"]), "nodeName");
        let zone = nodes.zone(node);
        if zone.is_none() && !wire::flag(wire::at(service, &["spec"]), "publishNotReadyAddresses") {
            changes.skipped.push(wire::text(wire::at(pod, &["metadata"]), "name").to_owned());
            continue;
        }
        if let Some(endpoint) = pod::endpoint(service, pod, zone, family) {
            group.want(endpoint);
        }
    }
    for slice in &existing {
        let key = port_key(wire::list(slice, "ports"));
        match groups.get_mut(&key).filter(|_| is_owned(slice, service)) {
            Some(group) => group.have(slice),
            None => changes.delete.push((*slice).clone()),
        }
    }
    let labels = labels(service);
    for group in groups.into_values() {
        changes
            .extend(group.pack(&labels, max_per_slice, |ports| new_slice(service, family, ports, &labels)));
    }
    // Hints are those of all groups together.
    if by_topology {
        let name = |slice: &Value| wire::text(wire::at(slice, &["metadata"]), "name").to_owned();
        let touched: BTreeSet<String> = changes.update.iter().chain(&changes.delete).map(name).collect();
        let unchanged: Vec<&Value> =
            existing.iter().copied().filter(|slice| !touched.contains(&name(slice))).collect();
        topology::assign(nodes, &mut changes, &unchanged, family.as_str());
    } else {
        topology::notice_removal(service, &mut changes, &existing, family.as_str());
    }
    if changes.delete.len() == existing.len() && changes.create.is_empty() {
        let placeholder = new_slice(service, family, &[], &labels);
        match changes.delete.as_slice() {
            [only] if is_placeholder(only, &placeholder, service) => changes.delete.clear(),
            _ => changes.create.push(placeholder),
        }
    }
    changes.reuse(|slice| is_owned(slice, service));
    changes
}

/// Whether the slices of a Service follow from its pods (E10).
fn has_selected_endpoints(service: &Value) -> bool {
    let spec = wire::at(service, &["spec"]);
    wire::text(spec, "type") != "ExternalName" && !wire::is_empty(wire::at(spec, &["selector"]))
}

/// E11.
fn address_types(service: &Value) -> BTreeSet<IpFamily> {
    let spec = wire::at(service, &["spec"]);
    let listed: BTreeSet<IpFamily> =
        wire::texts(spec, "ipFamilies").filter_map(IpFamily::from_name).collect();
    if !listed.is_empty() {
        return listed;
    }
    match dyad_net::parse_ip_sloppy(wire::text(spec, "clusterIP")) {
        Some(ip) => BTreeSet::from([IpFamily::from(ip)]),
        None => BTreeSet::from(IpFamily::BOTH),
    }
}

/// The value of the label that names a slice's keeper.
fn managed_by(slice: &Value) -> &str {
    wire::text(wire::at(slice, &["metadata", "labels"]), MANAGED_BY_LABEL)
}

fn is_headless(service: &Value) -> bool {
    matches!(wire::text(wire::at(service, &["spec"]), "clusterIP"), "" | "None")
}

fn is_owned(slice: &Value, service: &Value) -> bool {
    let uid = wire::text(wire::at(service, &["metadata"]), "uid");
    wire::list(wire::at(slice, &["metadata"]), "ownerReferences").iter().any(|owner| {
        (wire::text(owner, "uid"), wire::text(owner, "kind"), wire::text(owner, "apiVersion"))
            == (uid, "Service", "v1")
    })
}

fn is_placeholder(slice: &Value, placeholder: &Value, service: &Value) -> bool {
    let labels = |slice: &Value| wire::at(slice, &["metadata", "labels"]).clone();
    is_owned(slice, service)
        && wire::list(slice, "endpoints").is_empty()
        && wire::list(slice, "ports").is_empty()
        && labels(slice) == labels(placeholder)
}

/// E22: the Service's labels, save for reserved ones, and ours.
fn labels(service: &Value) -> Value {
    let meta = wire::at(service, &["metadata"]);
    let reserved = [SERVICE_NAME_LABEL, MANAGED_BY_LABEL, HEADLESS_LABEL];
    let mut labels: Map<String, Value> = wire::entries(meta, "labels")
        .filter(|(key, _)| !reserved.contains(key))
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect();
    labels.insert(SERVICE_NAME_LABEL.to_owned(), wire::text(meta, "name").into());
    labels.insert(MANAGED_BY_LABEL.to_owned(), CONTROLLER.into());
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), "".into());
    }
    labels.into()
}

/// E22.
fn new_slice(service: &Value, family: IpFamily, ports: &[Value], labels: &Value) -> Value {
    let meta = wire::at(service, &["metadata"]);
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": generate_name(wire::text(meta, "name")),
            "namespace": wire::text(meta, "namespace"),
            "labels": labels,
            "ownerReferences": [owner(service, "Service")],
        },
        "addressType": family.as_str(),
        "endpoints": [],
        "ports": ports,
    })
}

fn owner(object: &Value, kind: &str) -> Value {
    let meta = wire::at(object, &["metadata"]);
    json!({
        "apiVersion": "v1",
        "kind": kind,
        "name": wire::text(meta, "name"),
        "uid": wire::text(meta, "uid"),
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// The name and a dash, or without it where that makes no name.
fn generate_name(name: &str) -> String {
    // The server adds letters, so the dash is not the end.
    if names::dns1123_subdomain(&format!("{name}-a")).is_empty() {
        format!("{name}-")
    } else {
        name.to_owned()
    }
}

/// What tells port lists apart, whatever order they are in.
fn port_key(ports: &[Value]) -> String {
    let mut keys: Vec<String> = ports
        .iter()
        .map(|port| {
            let protocol = wire::text(port, "protocol");
            let protocol = if protocol.is_empty() { "TCP" } else { protocol };
            let number = wire::int(port, "port").map_or_else(String::new, |port| port.to_string());
            json!([wire::text(port, "name"), protocol, number, wire::text(port, "appProtocol")]).to_string()
        })
        .collect();
    keys.sort_unstable();
    keys.join(",")
}

#[cfg(test)]
mod tests;
