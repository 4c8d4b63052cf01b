//! What a cluster is asked to be: command-line flags and kind's `Cluster` file (v1alpha4).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};
pub use dyad_controllers::Selection;
use dyad_net::{IpFamily, IpNet};
use serde_json::Value;

use crate::audit::AuditSpec;
use crate::paths::check_name;
use crate::spec::{Dataplane, MAX_NODES, NodeSpec, Shape};

/// The families of a cluster, as `--ip-family` and `networking.ipFamily` name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// One family.
    Single(IpFamily),
    /// Both; the order comes from the ranges.
    Dual,
}

impl std::str::FromStr for Families {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ipv4" => Ok(Self::Single(IpFamily::V4)),
            "ipv6" => Ok(Self::Single(IpFamily::V6)),
            "dual" => Ok(Self::Dual),
            other => Err(format!("{other:?} is not an IP family: use ipv4, ipv6 or dual")),
        }
    }
}

/// A cluster's wishes, checked, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Its name.
    pub name: String,
    /// Pod ranges, primary family first.
    pub pod_ranges: Vec<IpNet>,
    /// Service ranges, primary family first.
    pub service_ranges: Vec<IpNet>,
    /// The nodes.
    pub nodes: Vec<NodeSpec>,
    /// Where the API server listens on the host.
    pub api_addresses: Vec<IpAddr>,
    /// Its port there; `None` for any free one.
    pub api_port: Option<u16>,
    /// Search domains for pods.
    pub dns_search: Vec<String>,
    /// What carries Services on the nodes.
    pub dataplane: Dataplane,
    /// What nodes bring along.
    pub shape: Shape,
    /// What is to be installed on the nodes: values, as a file of `dyad install`.
    pub install: Option<String>,
    /// The audit log of the API server.
    pub audit: Option<AuditSpec>,
    /// Which controllers run beside it.
    pub controllers: Selection,
}

/// What the command line says; it wins over the file.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--name`.
    pub name: Option<String>,
    /// `--nodes`.
    pub nodes: Option<usize>,
    /// `--ip-family`.
    pub families: Option<Families>,
    /// `--dataplane`.
    pub dataplane: Dataplane,
    /// `--controllers`.
    pub controllers: Selection,
    /// `--install`, with the values that were chosen.
    pub install: Option<String>,
}

const DEFAULT_NODES: usize = 3;

/// A cluster's name when nothing gives one.
pub const DEFAULT_NAME: &str = "local";

/// Merges the file (its text) and the flags; the second value are warnings about fields that do nothing here.
pub fn resolve(file: Option<&str>, flags: &Flags) -> Result<(ClusterConfig, Vec<String>)> {
    let mut warnings = Vec::new();
    let file = match file {
        Some(text) => parse(text, &mut warnings)?,
        None => File::default(),
    };
    let families = match flags.families.or(file.families) {
        Some(families) => families,
        // kind's own default is ipv4; ours is what this project is about, unless the ranges say otherwise.
        None => implied(&file)?.unwrap_or(Families::Dual),
    };
    let pod_ranges = ranges("networking.podSubnet", &file.pod_subnet, families, default_pod_range)?;
    let service_ranges =
        ranges("networking.serviceSubnet", &file.service_subnet, families, default_service_range)?;
    let (pod_ranges, service_ranges) = one_order(&file, pod_ranges, service_ranges)?;
    check_sizes(&pod_ranges, &service_ranges)?;
    let name = flags.name.clone().or(file.name).unwrap_or_else(|| DEFAULT_NAME.into());
    check_name(&name)?;
    let nodes = match (flags.nodes, file.nodes) {
        (Some(count), _) => plain_nodes(count),
        // As kind does, which also keeps nodes apart from the processes beside them.
        (None, Some(nodes)) => {
            nodes.into_iter().map(|node| NodeSpec { name: format!("{name}-{}", node.name), ..node }).collect()
        }
        (None, None) => plain_nodes(DEFAULT_NODES),
    };
    if nodes.len() > MAX_NODES {
        bail!(
            "{} nodes are more than one machine's node network holds ({MAX_NODES}): ask for fewer",
            nodes.len()
        );
    }
    let primary = pod_ranges.first().map(|range| IpFamily::from(*range));
    let config = ClusterConfig {
        name,
        pod_ranges,
        service_ranges,
        nodes,
        api_addresses: match file.api_address {
            Some(ip) => vec![ip],
            None => {
                // The first one is the kubeconfig's.
                let mut loopbacks = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
                loopbacks.sort_by_key(|ip: &IpAddr| Some(IpFamily::from(*ip)) != primary);
                loopbacks
            }
        },
        api_port: file.api_port,
        dns_search: file.dns_search,
        dataplane: flags.dataplane,
        shape: match (file.without_cni, file.without_proxy) {
            _ if flags.install.is_some() => Shape::Bare,
            (false, _) => Shape::Whole,
            (true, false) => Shape::Proxy,
            (true, true) => Shape::Bare,
        },
        install: flags.install.clone(),
        audit: file.audit,
        controllers: flags.controllers.clone(),
    };
    Ok((config, warnings))
}

/// What the file holds, field by field, before defaults.
#[derive(Debug, Default)]
struct File {
    name: Option<String>,
    families: Option<Families>,
    pod_subnet: Vec<String>,
    service_subnet: Vec<String>,
    api_port: Option<u16>,
    api_address: Option<IpAddr>,
    dns_search: Vec<String>,
    nodes: Option<Vec<NodeSpec>>,
    audit: Option<AuditSpec>,
    without_cni: bool,
    without_proxy: bool,
}

fn parse(text: &str, warnings: &mut Vec<String>) -> Result<File> {
    let root: Value = serde_saphyr::from_str(text).context("the file is not YAML")?;
    let root = root.as_object().context("the file holds no Cluster object")?;
    let kind = root.get("kind").and_then(Value::as_str).unwrap_or_default();
    let version = root.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if (kind, version) != ("Cluster", "kind.x-k8s.io/v1alpha4") {
        bail!(
            "expected kind: Cluster, apiVersion: kind.x-k8s.io/v1alpha4, not kind: {kind:?}, apiVersion: {version:?}"
        );
    }
    let mut file = File::default();
    for (key, value) in root {
        match key.as_str() {
            "kind" | "apiVersion" => {}
            "name" => file.name = Some(text_of("name", value)?),
            "networking" => networking(value, &mut file, warnings)?,
            "nodes" => file.nodes = Some(nodes(value, warnings)?),
            "apiServer" => file.audit = AuditSpec::parse(value, warnings)?,
            other => warnings.push(ignored(other)),
        }
    }
    if file.without_proxy && !file.without_cni {
        warnings.push(
            "networking.kubeProxyMode 'none' is ignored without networking.disableDefaultCNI: true, as the built-in \
             network is one with what carries Services"
                .into(),
        );
    }
    Ok(file)
}

fn networking(value: &Value, file: &mut File, warnings: &mut Vec<String>) -> Result<()> {
    for (key, value) in value.as_object().context("networking: expected a map")? {
        let field = format!("networking.{key}");
        match key.as_str() {
            "ipFamily" => {
                file.families =
                    Some(text_of(&field, value)?.parse().map_err(|why| anyhow::anyhow!("{field}: {why}"))?);
            }
            "podSubnet" => file.pod_subnet = list_of(&field, value)?,
            "serviceSubnet" => file.service_subnet = list_of(&field, value)?,
            "dnsSearch" => file.dns_search = list_of(&field, value)?,
            "apiServerPort" => {
                // kind: 0 and -1 both ask for a free port, in different ways.
                file.api_port = match value.as_i64() {
                    Some(0 | -1) => None,
                    Some(port) => Some(
                        u16::try_from(port)
                            .with_context(|| format!("{field}: {port} is not a port (1 to 65535)"))?,
                    ),
                    None => bail!("{field}: {value} is not a port (1 to 65535)"),
                };
            }
            "apiServerAddress" => {
                let text = text_of(&field, value)?;
                let ip = text.parse().with_context(|| format!("{field}: {text:?} is not an IP address"))?;
                file.api_address = Some(ip);
            }
            "disableDefaultCNI" => {
                let flag = value.as_bool();
                file.without_cni =
                    flag.with_context(|| format!("{field}: expected true or false, not {value}"))?;
            }
            // What carries Services is told by --dataplane, whatever a proxy would do it with.
            "kubeProxyMode" => file.without_proxy = text_of(&field, value)? == "none",
            _ => warnings.push(ignored(&field)),
        }
    }
    Ok(())
}

fn nodes(value: &Value, warnings: &mut Vec<String>) -> Result<Vec<NodeSpec>> {
    let list = value.as_array().context("nodes: expected a list")?;
    let mut nodes = Vec::new();
    let mut count = BTreeMap::new();
    for (index, item) in list.iter().enumerate() {
        let field = format!("nodes[{index}]");
        let item = item.as_object().with_context(|| format!("{field}: expected a map"))?;
        let mut role = "control-plane".to_owned();
        let mut labels = BTreeMap::new();
        for (key, value) in item {
            match key.as_str() {
                "role" => role = text_of(&format!("{field}.role"), value)?,
                "labels" => {
                    for (label, value) in
                        value.as_object().with_context(|| format!("{field}.labels: expected a map"))?
                    {
                        labels.insert(label.clone(), text_of(&format!("{field}.labels.{label}"), value)?);
                    }
                }
                other => warnings.push(ignored(&format!("{field}.{other}"))),
            }
        }
        let wrong = dyad_model::meta::validate_labels(&serde_json::json!(labels), &format!("{field}.labels"));
        if let Some(error) = wrong.first() {
            bail!("{error}");
        }
        if !matches!(role.as_str(), "control-plane" | "worker") {
            bail!("{field}.role: {role:?} is not a role: use control-plane or worker");
        }
        let number: &mut usize = count.entry(role.clone()).or_default();
        *number += 1;
        let name = if *number == 1 { role.clone() } else { format!("{role}{number}") };
        let control_plane_taint = role == "control-plane";
        if control_plane_taint {
            labels.entry("node-role.kubernetes.io/control-plane".into()).or_default();
        }
        nodes.push(NodeSpec { name, labels, control_plane_taint });
    }
    // As kind does: without workers, pods may run beside the control plane.
    if nodes.iter().all(|node| node.control_plane_taint) {
        nodes.iter_mut().for_each(|node| node.control_plane_taint = false);
    }
    Ok(nodes)
}

fn plain_nodes(count: usize) -> Vec<NodeSpec> {
    (1..=count)
        .map(|number| NodeSpec {
            name: format!("node{number}"),
            labels: BTreeMap::new(),
            control_plane_taint: false,
        })
        .collect()
}

fn ignored(field: &str) -> String {
    format!("{field} has no meaning for a Dyad cluster and is ignored")
}

fn text_of(field: &str, value: &Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        other => bail!("{field}: expected a string, not {other}"),
    }
}

/// A list of strings, or one string with commas.
fn list_of(field: &str, value: &Value) -> Result<Vec<String>> {
    let parts = match value {
        Value::Null => Vec::new(),
        Value::Array(items) => items.iter().map(|item| text_of(field, item)).collect::<Result<_>>()?,
        other => text_of(field, other)?.split(',').map(str::to_owned).collect::<Vec<_>>(),
    };
    Ok(parts.into_iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect())
}

fn default_pod_range(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "10.244.0.0/16",
        IpFamily::V6 => "fd00:10:244::/56",
    }
}

fn default_service_range(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "10.96.0.0/16",
        IpFamily::V6 => "fd00:10:96::/112",
    }
}

/// What the ranges say about the families when nothing else does.
fn implied(file: &File) -> Result<Option<Families>> {
    for (field, list) in
        [("networking.podSubnet", &file.pod_subnet), ("networking.serviceSubnet", &file.service_subnet)]
    {
        match list.as_slice() {
            [] => {}
            [one] => return Ok(Some(Families::Single(parse_range(field, one)?.into()))),
            _ => return Ok(Some(Families::Dual)),
        }
    }
    Ok(None)
}

fn parse_range(field: &str, text: &str) -> Result<IpNet> {
    let range: IpNet =
        text.parse().with_context(|| format!("{field}: {text:?} is not a CIDR, e.g. 10.244.0.0/16"))?;
    if range != range.trunc() {
        bail!("{field}: {text:?} has bits set beyond the prefix length: did you mean {}?", range.trunc());
    }
    Ok(range)
}

fn ranges(
    field: &str,
    given: &[String],
    families: Families,
    default: fn(IpFamily) -> &'static str,
) -> Result<Vec<IpNet>> {
    let mut parsed = given.iter().map(|text| parse_range(field, text)).collect::<Result<Vec<_>>>()?;
    match families {
        Families::Single(family) => match parsed.as_slice() {
            [] => parsed.push(default(family).parse()?),
            [one] if IpFamily::from(*one) == family => {}
            [one] => bail!("{field}: expected an {family} CIDR for the {family} family, not {one}"),
            _ => bail!("{field}: only one CIDR allowed for single-stack networking, not {}", given.join(",")),
        },
        Families::Dual => match parsed.as_slice() {
            [] => {
                parsed =
                    IpFamily::BOTH.iter().map(|family| default(*family).parse()).collect::<Result<_, _>>()?
            }
            // One range of two: the other family gets its default and stands second.
            [one] => parsed.push(default(IpFamily::from(*one).other()).parse()?),
            [a, b] if IpFamily::from(*a) != IpFamily::from(*b) => {}
            _ => bail!(
                "{field}: expected at most one CIDR of each family for dual-stack networking, not {}",
                given.join(",")
            ),
        },
    }
    Ok(parsed)
}

/// Both lists in one order: the one that is written out decides, and two that disagree are an error.
fn one_order(
    file: &File,
    mut pods: Vec<IpNet>,
    mut services: Vec<IpNet>,
) -> Result<(Vec<IpNet>, Vec<IpNet>)> {
    let (Some(pod), Some(service)) = (pods.first(), services.first()) else { return Ok((pods, services)) };
    if IpFamily::from(*pod) != IpFamily::from(*service) {
        match (file.pod_subnet.is_empty(), file.service_subnet.is_empty()) {
            (true, _) => pods.reverse(),
            (_, true) => services.reverse(),
            (false, false) => bail!(
                "networking.podSubnet starts with {pod} and networking.serviceSubnet with {service}: \
                 give both in one order, the primary family first"
            ),
        }
    }
    Ok((pods, services))
}

fn check_sizes(pods: &[IpNet], services: &[IpNet]) -> Result<()> {
    for range in pods {
        let (node_mask, family) = (node_mask((*range).into()), IpFamily::from(*range));
        if range.prefix_len() > node_mask {
            bail!("networking.podSubnet: {range} is smaller than one node's /{node_mask} of {family}");
        }
        if family == IpFamily::V6 && node_mask - range.prefix_len() > 16 {
            bail!(
                "networking.podSubnet: {range} is more than 16 bits larger than one node's /{node_mask}: use /48 or longer"
            );
        }
    }
    for range in services {
        let host_bits = IpFamily::from(*range).bits() - range.prefix_len();
        if host_bits < 4 {
            bail!("networking.serviceSubnet: {range} is too small: it needs at least 16 addresses");
        }
        if host_bits > 64 {
            bail!("networking.serviceSubnet: {range} is too large: at most 64 host bits, so /64 or longer");
        }
    }
    for pod in pods {
        for service in services {
            if pod.contains(service) || service.contains(pod) {
                bail!("networking.podSubnet {pod} overlaps networking.serviceSubnet {service}");
            }
        }
    }
    Ok(())
}

/// Prefix length of one node's pod range, as kube-controller-manager defaults it (rule D2).
pub const fn node_mask(family: IpFamily) -> u8 {
    match family {
        IpFamily::V4 => 24,
        IpFamily::V6 => 64,
    }
}

#[cfg(test)]
mod tests;
