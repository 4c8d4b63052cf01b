//! Zone hints in proportion to the CPU of zones (E28): the annotation `service.kubernetes.io/topology-mode: Auto`.
//!
//! Every zone gets a share of the ready endpoints that fits its share of the allocatable CPU, its own endpoints first. Slices
//! that are not written anyway keep their hints as long as no zone has more than leaves enough for the others. Each family
//! is computed by itself.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{SliceChanges, wire};

/// How much more than its share an endpoint may get.
const OVERLOAD: f64 = 0.2;
/// Annotations that turn it on; the first that is there counts.
const ANNOTATIONS: [&str; 2] =
    ["service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"];

/// What slices need to know of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its zone, `""` if it has none.
    pub zone: String,
    /// Allocatable CPU in thousandths.
    pub cpu_millis: u64,
    /// Whether it takes pods: ready, and no node of the control plane.
    pub counts: bool,
}

/// All nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Nodes {
    nodes: BTreeMap<String, Node>,
    /// Allocatable CPU in thousandths by zone; nothing if a node lacks one or the other, or fewer than two zones have any.
    cpu: Option<BTreeMap<String, u64>>,
}

impl Nodes {
    /// The zone of a node, `""` if it has none; `None` if the node is unknown.
    pub(super) fn zone(&self, node: &str) -> Option<&str> {
        self.nodes.get(node).map(|node| node.zone.as_str())
    }
}

impl FromIterator<(String, Node)> for Nodes {
    fn from_iter<I: IntoIterator<Item = (String, Node)>>(nodes: I) -> Self {
        let nodes: BTreeMap<String, Node> = nodes.into_iter().collect();
        let mut cpu = BTreeMap::new();
        let counted = || nodes.values().filter(|node| node.counts);
        for node in counted() {
            let sum: &mut u64 = cpu.entry(node.zone.clone()).or_default();
            *sum = sum.saturating_add(node.cpu_millis);
        }
        let complete = counted().all(|node| !node.zone.is_empty() && node.cpu_millis > 0);
        let cpu = (complete && cpu.len() > 1).then_some(cpu);
        Self { nodes, cpu }
    }
}

/// Something that users are told about a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether something is not as it was asked for.
    pub warning: bool,
    /// In one word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Whether a Service asks for hints by topology.
pub(super) fn wanted(service: &Value) -> bool {
    let annotations = wire::at(service, &["metadata", "annotations"]);
    let mode = ANNOTATIONS.into_iter().find_map(|key| annotations.get(key)?.as_str());
    matches!(mode, Some("Auto" | "auto"))
}

/// What a zone should have, in endpoints.
struct Share {
    least: usize,
    most: usize,
    ideal: f64,
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of endpoints and thousandths of CPUs are small, and shares are between 0 and the count"
)]
fn shares(nodes: &Nodes, count: usize) -> Result<BTreeMap<&str, Share>, String> {
    let Some(cpu) = &nodes.cpu else {
        return Err(
            "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"
                .into(),
        );
    };
    let counts = format!("({count} endpoints, {} zones)", cpu.len());
    if cpu.len() > count {
        return Err(format!("Insufficient number of endpoints {counts}"));
    }
    let total: f64 = cpu.values().map(|cpu| *cpu as f64).sum();
    let mut shares = BTreeMap::new();
    for (zone, cpu) in cpu {
        let ideal = *cpu as f64 / total * count as f64;
        let least = (ideal / (1.0 + OVERLOAD)).ceil();
        shares.insert(zone.as_str(), Share { least: least as usize, most: 0, ideal: ideal.max(least) });
    }
    let least: usize = shares.values().map(|share| share.least).sum();
    let spare = count.checked_sub(least).ok_or_else(|| {
        format!(
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold {counts}"
        )
    })?;
    for share in shares.values_mut() {
        share.most = share.least + spare;
    }
    Ok(shares)
}

/// Puts hints into the slices of one family, or takes them out where there can be none.
///
/// `unchanged` are the slices that are not written so far; those whose hints have to change are added to the updates.
pub(super) fn assign(nodes: &Nodes, changes: &mut SliceChanges, unchanged: &[&Value], family: &str) {
    let had_hints = changes.update.iter().chain(unchanged.iter().copied()).any(has_hints);
    let slices = changes.create.iter().chain(&changes.update).chain(unchanged.iter().copied());
    let count = slices.flat_map(ready).count();
    let assigned = shares(nodes, count).and_then(|shares| {
        let mut given: BTreeMap<String, usize> = BTreeMap::new();
        let mut rewritten = Vec::new();
        for slice in unchanged {
            match kept(slice, &given, &shares) {
                Some(hints) => {
                    hints.into_iter().for_each(|(zone, count)| *given.entry(zone).or_default() += count);
                }
                None => rewritten.push((*slice).clone()),
            }
        }
        let written = changes.create.iter_mut().chain(&mut changes.update).chain(&mut rewritten);
        let mut open: Vec<&mut Value> =
            written.flat_map(|slice| wire::items_mut(slice, "endpoints")).collect();
        own_zones(&mut open, &mut given)?;
        redistribute(&mut open, &mut given, &shares);
        Ok(rewritten)
    });
    let told = |warning, reason, what: &str| Notice {
        warning,
        reason,
        message: format!("{what}, addressType: {family}"),
    };
    match assigned {
        Ok(rewritten) => {
            let unlike = |slice: &Value| !unchanged.contains(&slice);
            changes.update.extend(rewritten.into_iter().filter(unlike));
            if !had_hints {
                let what = "Topology Aware Hints has been enabled";
                changes.notices.push(told(false, "TopologyAwareHintsEnabled", what));
            }
        }
        Err(why) => {
            remove(changes, unchanged);
            changes.notices.push(told(true, "TopologyAwareHintsDisabled", &why));
        }
    }
}

/// Tells that hints which nothing asks for any more go away.
pub(super) fn notice_removal(service: &Value, changes: &mut SliceChanges, existing: &[&Value], family: &str) {
    let distribution = wire::text(wire::at(service, &["spec"]), "trafficDistribution");
    if distribution.is_empty() && existing.iter().copied().any(has_hints) {
        let message = format!("Topology Aware Hints has been disabled, addressType: {family}");
        changes.notices.push(Notice { warning: true, reason: "TopologyAwareHintsDisabled", message });
    }
}

fn is_ready(endpoint: &Value) -> bool {
    wire::flag(wire::at(endpoint, &["conditions"]), "ready")
}

fn ready(slice: &Value) -> impl Iterator<Item = &Value> {
    wire::list(slice, "endpoints").iter().filter(|endpoint| is_ready(endpoint))
}

fn hinted(endpoint: &Value) -> impl Iterator<Item = &str> {
    wire::list(wire::at(endpoint, &["hints"]), "forZones").iter().map(|zone| wire::text(zone, "name"))
}

fn has_hints(slice: &Value) -> bool {
    wire::list(slice, "endpoints").iter().any(|endpoint| hinted(endpoint).next().is_some())
}

fn hint(endpoint: &mut Value, zone: &str) {
    wire::set(endpoint, "hints", json!({ "forZones": [{ "name": zone }] }));
}

/// The hints of a slice by zone, if it can stay as it is beside those given already.
fn kept(
    slice: &Value,
    given: &BTreeMap<String, usize>,
    shares: &BTreeMap<&str, Share>,
) -> Option<BTreeMap<String, usize>> {
    let mut hints: BTreeMap<String, usize> = BTreeMap::new();
    for endpoint in ready(slice) {
        hinted(endpoint).next()?;
        for zone in hinted(endpoint) {
            shares.get(zone)?;
            *hints.entry(zone.to_owned()).or_default() += 1;
        }
    }
    let fits = hints.iter().all(|(zone, count)| {
        let most = shares.get(zone.as_str()).map_or(0, |share| share.most);
        count + given.get(zone).copied().unwrap_or(0) <= most
    });
    fits.then_some(hints)
}

/// Hints every endpoint to its own zone to begin with.
fn own_zones(open: &mut [&mut Value], given: &mut BTreeMap<String, usize>) -> Result<(), String> {
    for endpoint in open {
        if !is_ready(endpoint) {
            wire::remove(endpoint, "hints");
            continue;
        }
        let zone = wire::text(endpoint, "zone").to_owned();
        if zone.is_empty() {
            return Err("One or more endpoints do not have a zone specified".into());
        }
        hint(endpoint, &zone);
        *given.entry(zone).or_default() += 1;
    }
    Ok(())
}

/// Moves hints from zones that have too many to those that have too few.
#[expect(clippy::cast_precision_loss, reason = "counts of endpoints are small")]
fn redistribute(
    open: &mut [&mut Value],
    given: &mut BTreeMap<String, usize>,
    shares: &BTreeMap<&str, Share>,
) {
    let count = |given: &BTreeMap<String, usize>, zone: &str| given.get(zone).copied().unwrap_or(0);
    loop {
        let over = |zone: &str, share: &Share| count(given, zone) as f64 - share.ideal;
        let furthest = |sign: f64| {
            let by_distance = shares.iter().map(|(zone, share)| (*zone, sign * over(zone, share)));
            // Of equals the first by name.
            by_distance.rev().max_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, distance)| *distance > 0.0)
        };
        let (Some((from, too_many)), Some((to, too_few))) = (furthest(1.0), furthest(-1.0)) else { return };
        let worth = too_many >= 0.5 && too_few >= 0.5 && (too_many >= 1.0 || too_few >= 1.0);
        // Where rounding would leave a zone overloaded, one that can spare an endpoint gives it.
        let needed = || {
            let poor = shares.iter().find(|(zone, share)| count(given, zone) < share.least)?.0;
            let spare = |zone: &str, share: &Share| count(given, zone).checked_sub(share.least + 1);
            let rich = shares.iter().rev().max_by_key(|(zone, share)| spare(zone, share))?;
            spare(rich.0, rich.1).map(|_| (*rich.0, *poor))
        };
        let Some((from, to)) = (if worth { Some((from, to)) } else { needed() }) else { return };
        let own = |endpoint: &&mut &mut Value| {
            is_ready(endpoint) && wire::text(endpoint, "zone") == from && hinted(endpoint).eq([from])
        };
        let Some(endpoint) = open.iter_mut().find(own) else { return };
        hint(endpoint, to);
        *given.entry(from.to_owned()).or_default() -= 1;
        *given.entry(to.to_owned()).or_default() += 1;
    }
}

/// Takes all hints out.
fn remove(changes: &mut SliceChanges, unchanged: &[&Value]) {
    let hinted = unchanged
        .iter()
        .filter(|slice| wire::list(slice, "endpoints").iter().any(|endpoint| wire::has(endpoint, "hints")));
    changes.update.extend(hinted.map(|slice| (*slice).clone()));
    for slice in changes.create.iter_mut().chain(&mut changes.update) {
        wire::items_mut(slice, "endpoints").for_each(|endpoint| wire::remove(endpoint, "hints"));
    }
}
