//! Which nodes a pod fits on, and which of them is best. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use dyad_model::quantity::Quantity;
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use kube::ResourceExt;

use super::relations::Relations;
use crate::pods::controller_of;

/// What runs on each node.
#[derive(Default)]
pub(super) struct Load {
    nodes: HashMap<String, OnNode>,
}

#[derive(Default)]
struct OnNode {
    pods: u64,
    cpu_millis: u64,
    memory_bytes: u64,
    ports: Vec<HostPort>,
    /// Pods by their controller's UID.
    siblings: HashMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq)]
struct HostPort {
    /// The only address, or all of them.
    ip: Option<IpAddr>,
    protocol: String,
    port: i32,
}

impl HostPort {
    fn conflicts(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip.is_none() || other.ip.is_none() || self.ip == other.ip)
    }
}

impl Load {
    /// Counts a pod on a node.
    pub(super) fn add(&mut self, node: &str, pod: &Pod) {
        let entry = self.nodes.entry(node.to_owned()).or_default();
        let (cpu, memory) = requests(pod);
        entry.pods += 1;
        entry.cpu_millis += cpu;
        entry.memory_bytes += memory;
        entry.ports.extend(host_ports(pod));
        if let Some(owner) = controller_of(&pod.metadata) {
            *entry.siblings.entry(owner.uid.clone()).or_default() += 1;
        }
    }
}

fn amount(text: Option<&Text>, milli: bool) -> u64 {
    let quantity = text.and_then(|text| Quantity::parse(&text.0));
    quantity.map_or(0, |quantity| if milli { quantity.millis() } else { quantity.whole() })
}

/// CPU in thousandths and memory in bytes: the sum of the containers, or the largest init container if that is more.
fn requests(pod: &Pod) -> (u64, u64) {
    let Some(spec) = &pod.spec else { return (0, 0) };
    let of = |requests: Option<&BTreeMap<String, Text>>| {
        let get = |name: &str| requests.and_then(|requests| requests.get(name));
        (amount(get("cpu"), true), amount(get("memory"), false))
    };
    let container = |container: &k8s_openapi::api::core::v1::Container| {
        of(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
    };
    let running = spec.containers.iter().map(container).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    let starting = spec
        .init_containers
        .iter()
        .flatten()
        .map(container)
        .fold((0, 0), |a, b| (a.0.max(b.0), a.1.max(b.1)));
    (running.0.max(starting.0), running.1.max(starting.1))
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let spec = pod.spec.iter();
    // Sidecars hold their ports as long as the pod runs.
    let sidecars = spec.clone().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = spec.flat_map(|spec| &spec.containers).chain(sidecars);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                // The unspecified address of either family stands for all addresses, as none does.
                ip: port
                    .host_ip
                    .as_ref()
                    .and_then(|ip| ip.parse().ok())
                    .filter(|ip: &IpAddr| !ip.is_unspecified()),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                port: port.host_port.filter(|port| *port > 0)?,
            })
        })
        .collect()
}

/// Whether a change of a node could let a pod fit that did not.
pub(super) fn differs(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    old.spec != new.spec || old.labels() != new.labels() || allocatable(old) != allocatable(new)
}

/// The best node, or why there is none, in kube-scheduler's words.
pub(super) fn choose(
    pod: &Pod,
    nodes: &[&Node],
    load: &Load,
    relations: &Relations,
) -> Result<String, String> {
    let empty = OnNode::default();
    let mut refusals: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<((u64, u64, u64), String)> = None;
    for node in nodes {
        let name = node.name_any();
        let on_node = load.nodes.get(&name).unwrap_or(&empty);
        let mut refused = refusals_of(pod, node, on_node);
        if refused.is_empty() {
            refused.extend(relations.refusal(node).map(String::from));
        }
        match refused.is_empty() {
            false => refused.into_iter().for_each(|why| *refusals.entry(why).or_default() += 1),
            true => {
                let owner = controller_of(&pod.metadata).map(|owner| owner.uid.as_str()).unwrap_or_default();
                let siblings = on_node.siblings.get(owner).copied().unwrap_or(0);
                // Fewest siblings, then least used, then fewest pods; the name decides between equals.
                let rank = (siblings, used_permille(node, on_node), on_node.pods);
                if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                    best = Some((rank, name));
                }
            }
        }
    }
    best.map(|(_, name)| name).ok_or_else(|| {
        if nodes.is_empty() {
            return "no nodes available to schedule pods".to_owned();
        }
        let reasons: Vec<String> = refusals.iter().map(|(why, count)| format!("{count} {why}")).collect();
        format!("0/{} nodes are available: {}.", nodes.len(), reasons.join(", "))
    })
}

fn allocatable(node: &Node, name: &str, milli: bool) -> Option<u64> {
    let allocatable = node.status.as_ref()?.allocatable.as_ref()?;
    allocatable.get(name).map(|text| amount(Some(text), milli))
}

fn used_permille(node: &Node, on_node: &OnNode) -> u64 {
    let share =
        |used: u64, of: Option<u64>| of.filter(|of| *of > 0).map_or(0, |of| used.saturating_mul(1000) / of);
    share(on_node.cpu_millis, allocatable(node, "cpu", true))
        .max(share(on_node.memory_bytes, allocatable(node, "memory", false)))
}

/// Why a pod can't go to a node; nothing if it can. All that there is too little of is told at once.
fn refusals_of(pod: &Pod, node: &Node, on_node: &OnNode) -> Vec<String> {
    if let Some(why) = refusal(pod, node, on_node) {
        return vec![why];
    }
    let mut short = Vec::new();
    if allocatable(node, "pods", false).is_some_and(|most| on_node.pods >= most) {
        short.push("Too many pods".to_owned());
    }
    let (cpu, memory) = requests(pod);
    let full = |wanted: u64, used: u64, of: Option<u64>| {
        wanted > 0 && of.is_some_and(|of| used.saturating_add(wanted) > of)
    };
    if full(cpu, on_node.cpu_millis, allocatable(node, "cpu", true)) {
        short.push("Insufficient cpu".to_owned());
    }
    if full(memory, on_node.memory_bytes, allocatable(node, "memory", false)) {
        short.push("Insufficient memory".to_owned());
    }
    short
}

fn refusal(pod: &Pod, node: &Node, on_node: &OnNode) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    if unschedulable && !tolerations.iter().any(|toleration| tolerates(toleration, &cordon)) {
        return Some("node(s) were unschedulable".into());
    }
    if let Some(taint) = untolerated(node, tolerations) {
        let value = taint.value.as_deref().unwrap_or_default();
        return Some(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key));
    }
    if !selected(pod, node) {
        return Some("node(s) didn't match Pod's node affinity/selector".into());
    }
    if host_ports(pod).iter().any(|port| on_node.ports.iter().any(|taken| taken.conflicts(port))) {
        return Some("node(s) didn't have free ports for the requested pod ports".into());
    }
    None
}

/// The first taint that keeps pods with these tolerations from being placed.
pub(crate) fn untolerated<'a>(node: &'a Node, tolerations: &[Toleration]) -> Option<&'a Taint> {
    let taints = node.spec.as_ref()?.taints.as_ref()?;
    taints
        .iter()
        .filter(|taint| taint.effect != "PreferNoSchedule")
        .find(|taint| !tolerations.iter().any(|one| tolerates(one, taint)))
}

/// Whether a toleration covers a taint.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let same_value =
        toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match toleration.operator.as_deref().unwrap_or("Equal") {
            "Exists" => true,
            _ => !key.is_empty() && same_value,
        }
}

/// Whether the node selector and the required node affinity of a pod allow a node.
pub(crate) fn selected(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let labels = node.labels();
    let by_selector = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    // Terms are alternatives; requirements of one term all hold.
    by_selector
        && required
            .is_none_or(|selector| selector.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let name = node.name_any();
    let labels = node.labels();
    let expressions = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    let empty = term.match_expressions.as_ref().is_none_or(Vec::is_empty)
        && term.match_fields.as_ref().is_none_or(Vec::is_empty);
    !empty
        && expressions.into_iter().all(|one| requirement(one, labels.get(&one.key).map(String::as_str)))
        && fields
            .into_iter()
            .all(|one| requirement(one, (one.key == "metadata.name").then_some(name.as_str())))
}

fn requirement(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|one| one == value));
    let compare = || -> Option<std::cmp::Ordering> {
        Some(value?.parse::<i64>().ok()?.cmp(&values.first()?.parse::<i64>().ok()?))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare() == Some(std::cmp::Ordering::Greater),
        "Lt" => compare() == Some(std::cmp::Ordering::Less),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, spec: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": "z1"}},
            "spec": spec,
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"}},
        }))
        .unwrap()
    }

    fn pod(spec: Value) -> Pod {
        let mut spec = spec;
        if spec["containers"].is_null() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d"}, "spec": spec})).unwrap()
    }

    fn choose(pod: &Pod, nodes: &[&Node], load: &Load) -> Result<String, String> {
        super::choose(pod, nodes, load, &Relations::of(pod, nodes, &[], &BTreeMap::new()))
    }

    #[test]
    fn filters_refuse_in_known_words() {
        let container = |extra: Value| json!({"containers": [extra]});
        let in_zone = |zone: &str| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]}}}})
        };
        let by_name = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]}}}});
        let tainted = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
        #[rustfmt::skip]
        let cases = [
            (json!({}),                                         json!({}), None),
            (json!({"unschedulable": true}),                    json!({}), Some("unschedulable")),
            (tainted.clone(),                                   json!({}), Some("untolerated taint {k: v}")),
            (tainted.clone(),                                   json!({"tolerations": [{"key": "k", "operator": "Exists"}]}), None),
            (tainted.clone(),                                   json!({"tolerations": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}), None),
            (tainted,                                           json!({"tolerations": [{"key": "k", "value": "other"}]}), Some("untolerated")),
            (json!({"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}), json!({}), None),
            (json!({}),                                         json!({"nodeSelector": {"zone": "z2"}}), Some("affinity/selector")),
            (json!({}),                                         in_zone("z1"), None),
            (json!({}),                                         in_zone("z2"), Some("affinity/selector")),
            (json!({}),                                         by_name, None),
            (json!({}),                                         container(json!({"name": "c", "resources": {"requests": {"cpu": "3"}}})), Some("Insufficient cpu")),
            (json!({}),                                         container(json!({"name": "c", "resources": {"requests": {"memory": "2Gi"}}})), Some("Insufficient memory")),
            (json!({}),                                         container(json!({"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]})), Some("free ports")),
        ];
        let mut load = Load::default();
        load.add("n", &pod(container(json!({"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}))));
        for (node_spec, pod_spec, refused) in cases {
            let node = node("n", node_spec);
            let result = choose(&pod(pod_spec.clone()), &[&node], &load);
            match refused {
                None => assert_eq!(result, Ok("n".into()), "{pod_spec}"),
                Some(part) => {
                    assert!(result.as_ref().is_err_and(|why| why.contains(part)), "{pod_spec}: {result:?}")
                }
            }
        }
    }

    #[test]
    fn host_ports_conflict_by_address_protocol_and_number() {
        let with_port = |port: &Value| pod(json!({"containers": [{"name": "c", "ports": [port]}]}));
        let node = node("n", json!({}));
        #[rustfmt::skip]
        let rows = [
            (json!({"hostPort": 80}),                                  json!({"hostPort": 80}), true),
            (json!({"hostPort": 80}),                                  json!({"hostPort": 81}), false),
            (json!({"hostPort": 80}),                                  json!({"hostPort": 80, "protocol": "UDP"}), false),
            (json!({"hostPort": 80, "hostIP": "10.0.0.1"}),            json!({"hostPort": 80, "hostIP": "10.0.0.2"}), false),
            (json!({"hostPort": 80, "hostIP": "fd00::1"}),             json!({"hostPort": 80, "hostIP": "fd00:0::1"}), true),
            (json!({"hostPort": 80, "hostIP": "10.0.0.1"}),            json!({"hostPort": 80, "hostIP": "fd00::1"}), false),
            (json!({"hostPort": 80, "hostIP": "10.0.0.1"}),            json!({"hostPort": 80}), true),
            (json!({"hostPort": 80, "hostIP": "0.0.0.0"}),             json!({"hostPort": 80, "hostIP": "10.0.0.2"}), true),
            (json!({"hostPort": 80, "hostIP": "::"}),                  json!({"hostPort": 80, "hostIP": "fd00::1"}), true),
            (json!({"containerPort": 80}),                             json!({"containerPort": 80}), false),
        ];
        for (taken, wanted, conflict) in rows {
            for (taken, wanted) in [(&taken, &wanted), (&wanted, &taken)] {
                let mut load = Load::default();
                load.add("n", &with_port(taken));
                assert_eq!(
                    choose(&with_port(wanted), &[&node], &load).is_err(),
                    conflict,
                    "{taken} {wanted}"
                );
            }
        }
        let sidecar = pod(json!({"containers": [{"name": "c"}], "initContainers": [
            {"name": "s", "restartPolicy": "Always", "ports": [{"hostPort": 80}]}, {"name": "i", "ports": [{"hostPort": 81}]}]}));
        let mut load = Load::default();
        load.add("n", &sidecar);
        assert!(choose(&with_port(&json!({"hostPort": 80})), &[&node], &load).is_err(), "a sidecar's");
        assert!(choose(&with_port(&json!({"hostPort": 81})), &[&node], &load).is_ok(), "an init container's");
    }

    #[test]
    fn pods_spread_and_nodes_fill_up() {
        let nodes = [node("a", json!({})), node("b", json!({})), node("c", json!({}))];
        let nodes: Vec<&Node> = nodes.iter().collect();
        let mut load = Load::default();
        let mut chosen = Vec::new();
        let any = pod(json!({}));
        for _ in 0..9 {
            let name = choose(&any, &nodes, &load).unwrap();
            load.add(&name, &any);
            chosen.push(name);
        }
        assert_eq!(chosen[..3], ["a", "b", "c"]);
        assert_eq!(choose(&any, &nodes, &load), Err("0/3 nodes are available: 3 Too many pods.".into()));
        assert_eq!(choose(&any, &[], &load), Err("no nodes available to schedule pods".into()));
    }
}
