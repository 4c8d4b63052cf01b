//! From the names of the ends to packets: addresses, ports, and the node they come to first.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dyad_net::IpFamily;
use dyad_program::policy::Pod;
use dyad_program::{Name, Origin, Payload, Port, Protocol, Traffic};
use serde_json::Value;

use super::cluster::{Cluster, name_of};
use super::{End, ExplainError, PortName, Question, advice};

/// Where a connection begins.
pub(super) struct Place {
    /// The node it begins on; `None` outside of the cluster.
    pub(super) node: Option<String>,
    pub(super) origin: Origin,
    ips: Vec<IpAddr>,
}

/// Where a connection goes in one family.
pub(super) enum Aim {
    /// To one of these.
    At {
        targets: Vec<(IpAddr, Payload)>,
        /// The node it comes to first, if it comes from outside.
        entry: Option<String>,
        /// Who says that it is these.
        note: Option<String>,
    },
    /// Nowhere: there is no address of this family.
    Nowhere { why: String, advice: Vec<String> },
}

impl Aim {
    fn at(ip: IpAddr, payload: Payload) -> Self {
        Self::At { targets: vec![(ip, payload)], entry: None, note: None }
    }
}

impl Place {
    pub(super) fn find(cluster: &Cluster<'_>, question: &Question) -> Result<Self, ExplainError> {
        let place = match &question.from {
            End::Pod { namespace, name } => Self::of_pod(find_pod(cluster, namespace, name)?),
            End::Service { .. } => {
                return Err(ExplainError::question(format!(
                    "{} opens no connections: name one of its pods as the source",
                    question.from
                )));
            }
            End::Node(name) => Self::of_node(cluster, name)?,
            End::Outside => Self { node: None, origin: Origin::Link, ips: cluster.settings.outside.clone() },
            End::Address(ip) => match (cluster.pod_at(*ip), cluster.node_at(*ip)) {
                (Some((_, pod)), _) => Self::of_pod(pod),
                (None, Some(node)) => Self::of_node(cluster, node)?,
                (None, None) => Self { node: None, origin: Origin::Link, ips: vec![*ip] },
            },
        };
        if let Some(via) = &question.via {
            if place.node.is_some() {
                return Err(ExplainError::question(format!(
                    "--via {via} is for what comes from outside, but {} is inside of the cluster",
                    question.from
                )));
            }
            Self::of_node(cluster, via)?;
        }
        Ok(place)
    }

    fn of_pod(pod: &Pod) -> Self {
        let origin = if pod.host_network { Origin::Host } else { Origin::Link };
        Self { node: Some(pod.node.to_string()), origin, ips: pod.ips.clone() }
    }

    fn of_node(cluster: &Cluster<'_>, name: &str) -> Result<Self, ExplainError> {
        let Some(node) = cluster.nodes.get(name) else {
            let known: Vec<&str> = cluster.nodes.keys().map(String::as_str).take(10).collect();
            return Err(ExplainError::question(format!(
                "there is no node {name}: there are {}",
                known.join(", ")
            )));
        };
        Ok(Self { node: Some(name.to_owned()), origin: Origin::Host, ips: node.ips.clone() })
    }

    pub(super) fn ip(&self, family: IpFamily) -> Option<IpAddr> {
        of_family(&self.ips, family)
    }
}

fn of_family(ips: &[IpAddr], family: IpFamily) -> Option<IpAddr> {
    ips.iter().copied().find(|ip| IpFamily::from(*ip) == family)
}

fn find_pod<'a>(cluster: &'a Cluster<'_>, namespace: &str, name: &str) -> Result<&'a Pod, ExplainError> {
    let key = Name::new(namespace, name);
    let why = match cluster.pod(&key) {
        Some(pod) if pod.node.is_empty() => format!("pod {key} has no node yet: see `kubectl describe pod`"),
        Some(pod) if pod.ips.is_empty() => {
            format!("pod {key} has no address yet: see `kubectl describe pod`")
        }
        Some(pod) => return Ok(pod),
        None if cluster.pod_object(&key).is_some() => {
            format!("pod {key} is finished: it has no network any more")
        }
        None => format!("there is no pod {key}: name another namespace with -n"),
    };
    Err(ExplainError::question(why))
}

/// Where the connection goes in `family`.
pub(super) fn aim(
    cluster: &Cluster<'_>,
    question: &Question,
    place: &Place,
    family: IpFamily,
) -> Result<Aim, ExplainError> {
    let aim = match &question.to.end {
        End::Service { namespace, name } => {
            to_service(cluster, question, place, family, &Name::new(namespace, name))?
        }
        End::Pod { namespace, name } => {
            let pod = find_pod(cluster, namespace, name)?;
            let payload = payload(question, &question.to.end, Some(pod))?;
            at_address_of(&question.to.end, of_family(&pod.ips, family), family, payload)
        }
        End::Node(name) => {
            let ips = Place::of_node(cluster, name)?.ips;
            let payload = payload(question, &question.to.end, None)?;
            at_address_of(&question.to.end, of_family(&ips, family), family, payload)
        }
        End::Outside => {
            let payload = payload(question, &question.to.end, None)?;
            at_address_of(&question.to.end, of_family(&cluster.settings.outside, family), family, payload)
        }
        End::Address(ip) => {
            let payload = payload(question, &question.to.end, cluster.pod_at(*ip).map(|(_, pod)| pod))?;
            at_address_of(&question.to.end, of_family(&[*ip], family), family, payload)
        }
    };
    Ok(match aim {
        Aim::At { targets, entry: None, note } if place.node.is_none() => {
            let entry = targets.first().and_then(|(ip, _)| entry(cluster, question, *ip, None));
            Aim::At { targets, entry, note }
        }
        aim => aim,
    })
}

fn at_address_of(end: &End, ip: Option<IpAddr>, family: IpFamily, payload: Payload) -> Aim {
    match ip {
        Some(ip) => Aim::at(ip, payload),
        None => Aim::Nowhere { why: format!("{end} has no {family} address"), advice: Vec::new() },
    }
}

/// What is sent to an end that is no Service.
fn payload(question: &Question, end: &End, pod: Option<&Pod>) -> Result<Payload, ExplainError> {
    let protocol = question.protocol;
    match &question.to.port {
        None => match protocol {
            None => Ok(Payload::Echo),
            Some(protocol) => Err(ExplainError::question(format!(
                "{} connections need a port: {end}:PORT",
                protocol.as_str()
            ))),
        },
        Some(PortName::Number(number)) => Ok(Payload::Port(protocol.unwrap_or_default(), *number)),
        Some(PortName::Name(name)) => {
            let ports = pod.map(|pod| pod.named_ports.as_slice()).unwrap_or_default();
            let fits = |of: &Protocol| protocol.is_none_or(|wanted| wanted == *of);
            let found = ports.iter().find(|(named, of, _)| named == name && fits(of));
            found.map(|(_, of, number)| Payload::Port(*of, *number)).ok_or_else(|| {
                ExplainError::question(format!("{end} has no port called {name}: give the port's number"))
            })
        }
    }
}

fn to_service(
    cluster: &Cluster<'_>,
    question: &Question,
    place: &Place,
    family: IpFamily,
    name: &Name,
) -> Result<Aim, ExplainError> {
    let Some(object) = cluster.services.get(name) else {
        return Err(ExplainError::question(format!(
            "there is no Service {name}: name another namespace with -n"
        )));
    };
    let spec = &object["spec"];
    if let Some(alias) = spec["externalName"].as_str().filter(|_| spec["type"] == "ExternalName") {
        return Err(ExplainError::question(format!(
            "Service {name} is an alias for {alias} in DNS: connections go to the addresses of that name"
        )));
    }
    if spec["clusterIP"] == "None" {
        return to_headless(cluster, question, family, name, spec);
    }
    let Some(service) = cluster.service(name) else {
        return Err(ExplainError::question(format!(
            "Service {name} has no cluster IP, or is another proxy's (service.kubernetes.io/service-proxy-name)"
        )));
    };
    let port = port_of(question, name, &service.ports)?;
    let payload = Payload::Port(port.protocol, port.port);
    if place.node.is_some() {
        return Ok(match service.cluster_ips.get(family) {
            Some(ip) => Aim::at(*ip, payload),
            None => Aim::Nowhere {
                why: format!("Service {name} has no {family} address"),
                advice: advice::second_family(name, spec, family, &cluster.families()),
            },
        });
    }
    let outside = service.balancer_ips.iter().chain(&service.external_ips).copied();
    let outside: Vec<IpAddr> = outside.collect();
    let stays = (service.external_traffic == Traffic::Local).then_some(name);
    if let Some(ip) = of_family(&outside, family) {
        let entry = entry(cluster, question, ip, stays);
        return Ok(Aim::At { targets: vec![(ip, payload)], entry, note: None });
    }
    // Of a family without cluster IP, there are no node ports either.
    if let Some(node_port) = port.node_port.filter(|_| service.cluster_ips.get(family).is_some()) {
        let any = family.everything().addr();
        let entry = entry(cluster, question, any, stays);
        let ip = entry.as_ref().and_then(|node| cluster.nodes.get(node)?.ip(family));
        return Ok(match ip {
            Some(ip) => {
                let targets = vec![(ip, Payload::Port(port.protocol, node_port))];
                Aim::At { targets, entry, note: Some(format!("Service {name} has node port {node_port}")) }
            }
            None => Aim::Nowhere { why: format!("no node has an {family} address"), advice: Vec::new() },
        });
    }
    let has_cluster_ip = service.cluster_ips.get(family).is_some();
    Ok(Aim::Nowhere {
        why: format!("Service {name} has no {family} address outside of the cluster, and no node port there"),
        advice: if has_cluster_ip {
            vec![format!("make it a Service of type NodePort or LoadBalancer, or give it spec.externalIPs")]
        } else {
            advice::second_family(name, spec, family, &cluster.families())
        },
    })
}

/// The port that is meant.
fn port_of(question: &Question, name: &Name, ports: &[Port]) -> Result<Port, ExplainError> {
    let protocol = question.protocol;
    let fits = |port: &&Port| protocol.is_none_or(|wanted| wanted == port.protocol);
    let listed = || ports.iter().map(describe).collect::<Vec<_>>().join(", ");
    match &question.to.port {
        None => {
            let fitting: Vec<&Port> = ports.iter().filter(fits).collect();
            match fitting.as_slice() {
                [port] => Ok((*port).clone()),
                _ => Err(ExplainError::question(format!(
                    "which port of Service {name}? It has {}: say svc/NAME:PORT, and --protocol where that is not enough",
                    listed()
                ))),
            }
        }
        Some(PortName::Number(number)) => {
            let found = ports.iter().filter(fits).find(|port| port.port == *number).cloned();
            // A port the Service does not have is refused, which is an answer.
            Ok(found.unwrap_or_else(|| Port {
                name: String::new(),
                protocol: protocol.unwrap_or_default(),
                port: *number,
                node_port: None,
            }))
        }
        Some(PortName::Name(wanted)) => {
            let found = ports.iter().filter(fits).find(|port| port.name == *wanted).cloned();
            found.ok_or_else(|| {
                ExplainError::question(format!(
                    "Service {name} has no port called {wanted}: it has {}",
                    listed()
                ))
            })
        }
    }
}

/// A port as people write it.
pub(super) fn describe(port: &Port) -> String {
    let number = format!("{}/{}", port.port, port.protocol.as_str());
    if port.name.is_empty() { number } else { format!("{} ({number})", port.name) }
}

/// The addresses DNS gives for a headless Service: of its endpoints.
fn to_headless(
    cluster: &Cluster<'_>,
    question: &Question,
    family: IpFamily,
    name: &Name,
    spec: &Value,
) -> Result<Aim, ExplainError> {
    let mut targets = BTreeSet::new();
    let publishes_all = spec["publishNotReadyAddresses"] == true;
    for slice in cluster.slices {
        let service = slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str().unwrap_or_default();
        let namespace = slice["metadata"]["namespace"].as_str().unwrap_or_default();
        if Name::new(namespace, service) != *name || slice["addressType"] != family.as_str() {
            continue;
        }
        let payload = headless_payload(question, name, &slice["ports"])?;
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false || publishes_all);
        let ips = ready.filter_map(|endpoint| endpoint["addresses"][0].as_str()?.parse::<IpAddr>().ok());
        targets.extend(ips.map(|ip| (ip, payload)));
    }
    if targets.is_empty() {
        return Ok(Aim::Nowhere {
            why: format!(
                "DNS has no {family} addresses for headless Service {name}: it has no ready endpoints there"
            ),
            advice: advice::no_endpoints(cluster, name, family),
        });
    }
    let count = targets.len();
    Ok(Aim::At {
        targets: targets.into_iter().collect(),
        entry: None,
        note: Some(format!("Service {name} is headless: DNS gives the addresses of its {count} endpoints")),
    })
}

fn headless_payload(question: &Question, name: &Name, ports: &Value) -> Result<Payload, ExplainError> {
    let ports: Vec<Port> = ports
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|port| {
            Some(Port {
                name: port["name"].as_str().unwrap_or_default().to_owned(),
                protocol: Protocol::from_name(port["protocol"].as_str().unwrap_or("TCP"))?,
                port: u16::try_from(port["port"].as_u64()?).ok()?,
                node_port: None,
            })
        })
        .collect();
    let port = port_of(question, name, &ports)?;
    Ok(Payload::Port(port.protocol, port.port))
}

/// The node that a connection from outside to `ip` comes to. `stays` is a Service that keeps it there: load balancers
/// choose a node with endpoints then.
fn entry(cluster: &Cluster<'_>, question: &Question, ip: IpAddr, stays: Option<&Name>) -> Option<String> {
    if question.via.is_some() {
        return question.via.clone();
    }
    let owner = cluster.node_at(ip).or_else(|| cluster.pod_at(ip).map(|(_, pod)| &*pod.node));
    let family = IpFamily::from(ip);
    let with_endpoints = || {
        let ready = cluster.endpoints(stays?).filter(|at| at.ready && IpFamily::from(at.ip) == family);
        ready.filter_map(|at| at.node.as_deref()).min()
    };
    let any =
        || cluster.nodes.iter().find(|(_, node)| node.ip(family).is_some()).map(|(name, _)| name.as_str());
    owner.or_else(with_endpoints).or_else(any).map(str::to_owned)
}

/// The pod's or the node's name behind an address, for people.
pub(super) fn owner(cluster: &Cluster<'_>, ip: IpAddr) -> (Option<String>, Option<String>) {
    match cluster.pod_at(ip) {
        Some((name, pod)) => (Some(name.to_string()), Some(pod.node.to_string())),
        None => (None, cluster.node_at(ip).map(str::to_owned)),
    }
}

/// The name of a pod object, for lists.
pub(super) fn object_name(object: &Value) -> String {
    name_of(object).to_string()
}
