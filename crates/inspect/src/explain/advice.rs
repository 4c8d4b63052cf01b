//! What would change what becomes of a connection, in words.

use std::net::IpAddr;

use dyad_net::{IpFamily, IpNet};
use dyad_program::policy::Flow;
use dyad_program::rule::Direction;
use dyad_program::{Name, Packet, Payload, Stage};
use serde_json::Value;

use super::Fate;
use super::cluster::Cluster;
use super::target::{describe, object_name};

/// With the value `true`, a Service's endpoints are ready in each family by what pods say of that family.
const READINESS: &str = "dyad.io/readiness-per-family";
/// So many pods, or nodes, are named.
const NAMED: usize = 5;

/// For a packet that Services refuse or drop on `node`; `because` is who said so.
pub(super) fn no_way(
    cluster: &Cluster<'_>,
    fate: Fate,
    stage: Stage,
    because: Option<&str>,
    node: &str,
    packet: &Packet,
) -> Vec<String> {
    let family = IpFamily::from(packet.destination);
    let service = because.and_then(|text| text.strip_prefix("Service "));
    let service = service.and_then(|text| text.split_once('/')).map(|(space, name)| Name::new(space, name));
    match (service, stage, fate) {
        (Some(service), Stage::Guard, _) => vec![format!(
            "add {} to spec.loadBalancerSourceRanges of Service {service}; ranges of one family close the other one",
            IpNet::from(packet.source)
        )],
        (Some(service), _, Fate::Dropped) => local_only(cluster, &service, node, packet),
        (Some(service), _, _) => no_endpoints(cluster, &service, family),
        (None, ..) => no_service(cluster, packet),
    }
}

/// For a Service whose policy keeps traffic on a node that has no endpoints.
fn local_only(cluster: &Cluster<'_>, service: &Name, node: &str, packet: &Packet) -> Vec<String> {
    let family = IpFamily::from(packet.destination);
    let is_internal = cluster
        .service(service)
        .is_some_and(|service| service.cluster_ips.iter().any(|(_, ip)| *ip == packet.destination));
    let field = if is_internal { "internalTrafficPolicy" } else { "externalTrafficPolicy" };
    let ready = cluster.endpoints(service).filter(|at| at.ready && IpFamily::from(at.ip) == family);
    let mut nodes: Vec<&str> = ready.filter_map(|at| at.node.as_deref()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let mut advice = vec![format!(
        "run a pod of the Service on {node}, or set spec.{field} of Service {service} to Cluster"
    )];
    if !is_internal && !nodes.is_empty() {
        advice.push(format!("or send it to a node that has endpoints: {}", some(nodes.iter().copied())));
    }
    advice
}

/// For an address of the Service range where nothing listens.
fn no_service(cluster: &Cluster<'_>, packet: &Packet) -> Vec<String> {
    let destination = packet.destination;
    let owner =
        cluster.services().find(|(_, service)| service.cluster_ips.iter().any(|(_, ip)| *ip == destination));
    match (owner, packet.payload) {
        (Some((name, _)), Payload::Echo) => {
            vec![format!("ask for a port of Service {name}: cluster IPs answer nothing else")]
        }
        (Some((name, service)), _) => {
            let ports: Vec<String> = service.ports.iter().map(describe).collect();
            vec![format!("Service {name} has other ports: {}", ports.join(", "))]
        }
        (None, _) => vec!["no Service has this cluster IP: is it that of a Service that was deleted?".into()],
    }
}

/// For a Service that has no endpoints of a family: what is wrong with the pods behind it.
pub(super) fn no_endpoints(cluster: &Cluster<'_>, service: &Name, family: IpFamily) -> Vec<String> {
    let Some(object) = cluster.services.get(service) else { return Vec::new() };
    let Some(selector) = object["spec"]["selector"].as_object().filter(|selector| !selector.is_empty())
    else {
        return vec![format!(
            "Service {service} has no selector: somebody has to write its EndpointSlices of addressType {family}"
        )];
    };
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let words: Vec<String> =
        selector.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    let matches = |pod: &Value| {
        pod["metadata"]["namespace"] == *namespace
            && selector.iter().all(|(key, value)| pod["metadata"]["labels"][key] == *value)
    };
    let pods: Vec<&Value> =
        cluster.pod_objects().map(|(_, object)| object).filter(|pod| matches(pod)).collect();
    if pods.is_empty() {
        return vec![format!(
            "no pod in namespace {namespace} has the labels that Service {service} selects: {}",
            words.join(", ")
        )];
    }
    let has_address = |pod: &&&Value| {
        let listed = pod["status"]["podIPs"].as_array().into_iter().flatten();
        let mut ips = listed.filter_map(|ip| ip["ip"].as_str()?.parse::<IpAddr>().ok());
        ips.any(|ip| IpFamily::from(ip) == family)
    };
    let with_address: Vec<&Value> = pods.iter().filter(has_address).copied().collect();
    if with_address.is_empty() {
        let phases = pods.iter().map(|pod| phase(pod)).collect::<Vec<_>>();
        return vec![format!(
            "no pod that Service {service} selects has an {family} address: {}",
            some(phases.iter().map(String::as_str))
        )];
    }
    let silent: Vec<String> = with_address
        .iter()
        .filter_map(|pod| Some(format!("{} ({})", object_name(pod), silence(pod, family)?)))
        .collect();
    let asks = object["metadata"]["annotations"][READINESS] == "true";
    if asks && !silent.is_empty() {
        return vec![
            format!(
                "no pod that Service {service} selects is ready in {family}: {}",
                some(silent.iter().map(String::as_str))
            ),
            format!(
                "have it listen there; or take the annotation {} from the Service, so that {family} goes by `Ready` again",
                READINESS
            ),
        ];
    }
    let states: Vec<String> = with_address.iter().map(|pod| phase(pod)).collect();
    vec![format!(
        "no pod that Service {service} selects is ready: {}; see `kubectl describe pod`",
        some(states.iter().map(String::as_str))
    )]
}

/// What a pod says that answers its readiness probes in another family, but not in this one.
pub(super) fn silence(pod: &Value, family: IpFamily) -> Option<&str> {
    let conditions = pod["status"]["conditions"].as_array()?;
    let kind = format!("dyad.io/Ready{family}");
    let said =
        conditions.iter().find(|condition| condition["type"] == *kind && condition["status"] == "False")?;
    Some(said["message"].as_str().unwrap_or("its readiness probe fails"))
}

/// A pod with its phase.
fn phase(pod: &Value) -> String {
    let deleted = !pod["metadata"]["deletionTimestamp"].is_null();
    let phase = if deleted { "Terminating" } else { pod["status"]["phase"].as_str().unwrap_or("Pending") };
    format!("{} ({phase})", object_name(pod))
}

fn some<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let all = names.len();
    let named: Vec<&str> = names.take(NAMED).collect();
    let named = named.join(", ");
    match all.checked_sub(NAMED) {
        None | Some(0) => named,
        Some(more) => format!("{named} and {more} more"),
    }
}

/// For a Service without an address of `family`.
pub(super) fn second_family(
    service: &Name,
    spec: &Value,
    family: IpFamily,
    families: &[IpFamily],
) -> Vec<String> {
    if !families.contains(&family) {
        return vec![format!("the cluster has no {family} ranges")];
    }
    let policy = spec["ipFamilyPolicy"].as_str().unwrap_or("SingleStack");
    vec![format!("set spec.ipFamilyPolicy of Service {service} to PreferDualStack: now it is {policy}")]
}

/// For a connection that `because` denies in a direction.
pub(super) fn denied(cluster: &Cluster<'_>, direction: Direction, because: &str, flow: &Flow) -> Vec<String> {
    let (subject, peer, word, preposition, field) = match direction {
        Direction::Ingress => (flow.destination, flow.source, "ingress", "from", "from"),
        Direction::Egress => (flow.source, flow.destination, "egress", "to", "to"),
    };
    let pod = cluster.pod_at(subject).map_or_else(|| subject.to_string(), |(name, _)| name.to_string());
    let ports = match flow.payload {
        Payload::Port(protocol, port) => format!("port {port}/{}", protocol.as_str()),
        Payload::Echo | Payload::Control => "no ports, for echo has none".to_owned(),
    };
    let peer_words = match cluster.pod_at(peer) {
        Some((_, pod)) => {
            let labels: Vec<String> =
                pod.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let labels = if labels.is_empty() { "{}".to_owned() } else { labels.join(",") };
            format!(
                "namespaceSelector kubernetes.io/metadata.name={} with podSelector {labels}",
                pod.namespace
            )
        }
        None => format!("ipBlock {}", IpNet::from(peer)),
    };
    let rule = format!("{word} rule {preposition} {peer_words}, {ports}");
    if because.starts_with("NetworkPolicy ") {
        let namespace = cluster.pod_at(subject).map(|(_, pod)| pod.namespace.to_string()).unwrap_or_default();
        let mut advice = vec![format!(
            "allow it in a NetworkPolicy of namespace {namespace} that selects pod {pod}: an {rule}"
        )];
        if direction == Direction::Ingress && cluster.node_at(peer).is_some() {
            advice.push(format!(
                "{peer} is a node: if the source was replaced on the way, externalTrafficPolicy Local keeps the client's \
                 own address for `{field}`"
            ));
        }
        advice
    } else if because.starts_with("ClusterNetworkPolicy ") {
        vec![format!(
            "a ClusterNetworkPolicy that goes first (a lower priority number) can accept it: an {rule}"
        )]
    } else {
        vec![format!(
            "reach {pod} through a Service of type NodePort or LoadBalancer, or through a host port; or allow it in a \
             NetworkPolicy that selects the pod: an {rule}"
        )]
    }
}
