//! Columns of Services, Endpoints, EndpointSlices, Ingresses, policies and addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::workload::selector;
use super::{AGE, Column, NAME, NONE, first_three, items, joined, labels, name, number, or, text};

pub(crate) const SERVICE: &[Column] = &[
    NAME,
    Column::text("Type", "How the service is reached.", |service, _| text(&service["spec"]["type"]).into()),
    Column::text(
        "Cluster-IP",
        "Addresses inside the cluster, of every family, the primary one first.",
        |service, _| joined(items(&service["spec"]["clusterIPs"]).iter().map(text)).into(),
    ),
    Column::text("External-IP", "Addresses outside the cluster.", |service, _| external_ip(service).into()),
    Column::text("Port(s)", "Ports, with the node port after a colon.", |service, _| {
        let ports = items(&service["spec"]["ports"]).iter().map(|port| {
            let protocol = text(&port["protocol"]);
            match (number(&port["port"]), number(&port["nodePort"])) {
                (port, 0) => format!("{port}/{protocol}"),
                (port, node_port) => format!("{port}:{node_port}/{protocol}"),
            }
        });
        let ports: Vec<String> = ports.collect();
        joined(ports.iter().map(String::as_str)).into()
    }),
    AGE,
    Column::text("Selector", "Labels of the pods behind it.", |service, _| {
        labels(&service["spec"]["selector"]).into()
    })
    .wide(),
];

pub(crate) const ENDPOINTS: &[Column] = &[
    NAME,
    Column::text("Endpoints", "Addresses and ports behind the service.", |endpoints, _| {
        let subsets = items(&endpoints["subsets"]);
        if subsets.is_empty() {
            return NONE.into();
        }
        first_three(subsets.iter().flat_map(subset_endpoints)).into()
    }),
    AGE,
];

pub(crate) const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    Column::text("AddressType", "Family of the addresses in it.", |slice, _| {
        text(&slice["addressType"]).into()
    }),
    Column::text("Ports", "Ports of every endpoint in it.", |slice, _| {
        let ports =
            items(&slice["ports"]).iter().map(|port| match (port["port"].as_i64(), port["name"].as_str()) {
                (Some(port), _) => port.to_string(),
                (None, Some(name)) => name.to_owned(),
                (None, None) => "*".to_owned(),
            });
        or(&first_three(ports), "<unset>").into()
    }),
    Column::text("Endpoints", "Addresses in it.", |slice, _| {
        let endpoints = items(&slice["endpoints"]).iter();
        let addresses =
            endpoints.flat_map(|endpoint| items(&endpoint["addresses"])).map(|a| text(a).to_owned());
        or(&first_three(addresses), "<unset>").into()
    }),
    AGE,
];

pub(crate) const INGRESS: &[Column] = &[
    NAME,
    Column::text("Class", "The IngressClass that is to serve it.", |ingress, _| {
        ingress["spec"]["ingressClassName"].as_str().unwrap_or(NONE).into()
    }),
    Column::text("Hosts", "Host names it answers to.", |ingress, _| {
        hosts(items(&ingress["spec"]["rules"])).into()
    }),
    Column::text("Address", "Addresses it is reached at.", |ingress, _| {
        load_balancer(&ingress["status"]["loadBalancer"]).into_iter().collect::<Vec<_>>().join(",").into()
    }),
    Column::text("Ports", "Ports it is reached at.", |ingress, _| {
        if items(&ingress["spec"]["tls"]).is_empty() { "80" } else { "80, 443" }.into()
    }),
    AGE,
];

pub(crate) const INGRESS_CLASS: &[Column] = &[
    Column::text(NAME.name, NAME.description, |class, _| {
        match text(&class["metadata"]["annotations"]["ingressclass.kubernetes.io/is-default-class"]) {
            "true" => format!("{} (default)", name(class)).into(),
            _ => name(class).into(),
        }
    })
    .identifying(),
    Column::text("Controller", "Who serves it.", |class, _| text(&class["spec"]["controller"]).into()),
    Column::text("Parameters", "Object with more settings.", |class, _| {
        let parameters = &class["spec"]["parameters"];
        let (kind, name) = (text(&parameters["kind"]), text(&parameters["name"]));
        match parameters["apiGroup"].as_str() {
            _ if parameters.is_null() => NONE.into(),
            Some(group) => format!("{kind}.{group}/{name}").into(),
            None => format!("{kind}/{name}").into(),
        }
    }),
    AGE,
];

pub(crate) const NETWORK_POLICY: &[Column] = &[
    NAME,
    Column::text("Pod-Selector", "Which pods it applies to.", |policy, _| {
        selector(&policy["spec"]["podSelector"])
    }),
    AGE,
];

pub(crate) const CLUSTER_NETWORK_POLICY: &[Column] = &[
    NAME,
    Column::text("Tier", "Whether it comes before or after NetworkPolicies.", |policy, _| {
        text(&policy["spec"]["tier"]).into()
    }),
    Column::text("Priority", "Its place within its tier, lowest first.", |policy, _| {
        number(&policy["spec"]["priority"]).to_string().into()
    }),
    AGE,
];

pub(crate) const SERVICE_CIDR: &[Column] = &[
    NAME,
    Column::text("CIDRs", "Ranges that addresses of services come from.", |range, _| {
        items(&range["spec"]["cidrs"]).iter().map(text).collect::<Vec<_>>().join(",").into()
    }),
    AGE,
];

pub(crate) const IP_ADDRESS: &[Column] = &[
    NAME,
    Column::text("ParentRef", "The object that has the address.", |address, _| {
        let parent = &address["spec"]["parentRef"];
        if parent.is_null() {
            return NONE.into();
        }
        let (group, resource) = (text(&parent["group"]), text(&parent["resource"]));
        let mut path = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        path.make_ascii_lowercase();
        for part in [text(&parent["namespace"]), text(&parent["name"])] {
            if !part.is_empty() {
                path.push('/');
                path.push_str(part);
            }
        }
        path.into()
    }),
    AGE,
];

fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let external = items(&spec["externalIPs"]).iter().map(text);
    match text(&spec["type"]) {
        "ClusterIP" | "NodePort" => joined(external),
        "LoadBalancer" => {
            let balanced = load_balancer(&service["status"]["loadBalancer"]);
            let all: Vec<&str> = balanced.into_iter().chain(external).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => text(&spec["externalName"]).to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// Addresses or host names of a load balancer, sorted.
fn load_balancer(status: &Value) -> BTreeSet<&str> {
    let places = items(&status["ingress"]).iter();
    places
        .map(|place| or(text(&place["ip"]), text(&place["hostname"])))
        .filter(|place| !place.is_empty())
        .collect()
}

/// Every address with every port; addresses alone if there are no ports, as some headless services have it.
fn subset_endpoints(subset: &Value) -> Vec<String> {
    let addresses = items(&subset["addresses"]).iter().map(|address| text(&address["ip"]));
    let ports = items(&subset["ports"]);
    if ports.is_empty() {
        return addresses.map(str::to_owned).collect();
    }
    let with_port = |port: i64| addresses.clone().map(move |address| endpoint(address, port));
    ports.iter().flat_map(|port| with_port(number(&port["port"]))).collect()
}

fn endpoint(address: &str, port: i64) -> String {
    match (address.parse::<IpAddr>(), u16::try_from(port)) {
        (Ok(address), Ok(port)) => SocketAddr::new(address, port).to_string(),
        _ => format!("{address}:{port}"),
    }
}

/// Up to three host names; the rest counts rules, named or not, as Kubernetes has it.
fn hosts(rules: &[Value]) -> String {
    let named = |rule: &&Value| !text(&rule["host"]).is_empty();
    let shown: Vec<&str> = rules.iter().filter(named).take(3).map(|rule| text(&rule["host"])).collect();
    let third = rules.iter().enumerate().filter(|(_, rule)| named(rule)).nth(2).map(|(index, _)| index);
    match third {
        _ if shown.is_empty() => "*".to_owned(),
        Some(third) if third + 1 < rules.len() => {
            format!("{} + {} more...", shown.join(","), rules.len() - 3)
        }
        _ => shown.join(","),
    }
}
