//! A look at a cluster before anything is installed: its families and ranges, where its API is, and what does already what
//! Dyad would do.

use std::net::IpAddr;

use dyad_net::{IpFamily, IpNet, parse_cidr_sloppy};
use kube::Client;
use kube::api::ListParams;
use serde_json::Value;

use crate::kinds::{self, Kind};
use crate::{Endpoint, Error, Facts, MANAGED_BY, MANAGER, Values, api, record};

mod others;

pub use others::{Other, Part};

/// The annotation of a kube-proxy that was made to run nowhere, with who did it.
pub const REPLACED_BY: &str = "dyad.io/replaced-by";
/// The label that no node has, by which it runs nowhere.
pub const NOWHERE: &str = "dyad.io/kube-proxy";
/// The label by which a namespace refuses pods.
pub(crate) const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
/// The oldest Kubernetes whose EndpointSlices, probes and tokens are as needed.
const OLDEST: u32 = 29;

/// What a cluster is.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// The API server's version, as `v1.36.0`.
    pub version: String,
    /// How many nodes there are.
    pub nodes: usize,
    /// The families of nodes and pods, primary first.
    pub families: Vec<IpFamily>,
    /// The ranges of pods, where something says them.
    pub pod_ranges: Vec<IpNet>,
    /// The ranges of cluster IPs.
    pub service_ranges: Vec<IpNet>,
    /// Addresses of the API server that need no Service, the best one first.
    pub api: Vec<Endpoint>,
    /// What does already what Dyad would do.
    pub others: Vec<Other>,
    /// Whether the namespace is there.
    pub has_namespace: bool,
    /// The level of pod security that it enforces, if it says one.
    pub pod_security: Option<String>,
    /// Whether ClusterNetworkPolicy is defined by somebody else.
    pub has_cluster_policies: bool,
    /// What was installed before.
    pub record: Option<record::Record>,
}

impl Survey {
    /// Looks at the cluster, for an installation in `namespace`.
    pub async fn take(client: &Client, namespace: &str) -> Result<Self, Error> {
        let version = client.apiserver_version().await.map_err(api("ask for the API server's version"))?;
        let nodes = list(client, kinds::NODE, "").await?;
        let service_ranges = service_ranges(client).await?;
        let kubernetes = get(client, kinds::SERVICE, "default", "kubernetes").await?.unwrap_or_default();
        let daemon_sets = list(client, kinds::DAEMON_SET, "").await?;
        let dns = get(client, kinds::SERVICE, "kube-system", "kube-dns").await?;
        let proxy_config =
            get(client, kinds::CONFIG_MAP, "kube-system", "kube-proxy").await?.unwrap_or_default();
        let kubeadm =
            get(client, kinds::CONFIG_MAP, "kube-system", "kubeadm-config").await?.unwrap_or_default();
        let info = get(client, kinds::CONFIG_MAP, "kube-public", "cluster-info").await?.unwrap_or_default();
        let slices = list(client, kinds::ENDPOINT_SLICE, "kubernetes.io/service-name=kubernetes").await?;
        let crd = get(client, kinds::CRD, "", "clusternetworkpolicies.policy.networking.k8s.io").await?;
        let is_built_in = crd.is_none() && has_kind(client, "policy.networking.k8s.io").await;
        let is_foreign = crd.is_some_and(|one| one["metadata"]["labels"][MANAGED_BY] != MANAGER);
        let families = families(&nodes, &kubernetes);
        let place = get(client, kinds::NAMESPACE, "", namespace).await?;
        let enforced = place.as_ref().and_then(|one| one["metadata"]["labels"][ENFORCE].as_str());
        Ok(Self {
            pod_security: enforced.map(str::to_owned),
            version: version.git_version,
            nodes: nodes.len(),
            pod_ranges: pod_ranges(&kubeadm, &proxy_config, &families),
            service_ranges,
            api: endpoints(&info, &proxy_config, &slices, &families),
            others: others::find(&daemon_sets, dns.as_ref()),
            has_namespace: place.is_some(),
            has_cluster_policies: is_foreign || is_built_in,
            record: record::read(client, namespace).await?,
            families,
        })
    }

    /// What the objects depend on.
    pub fn facts(&self, namespace: &str, version: &str) -> Facts {
        let tenth = |range: &IpNet| match range.network() {
            IpAddr::V4(ip) => IpAddr::V4((u32::from(ip).wrapping_add(10)).into()),
            IpAddr::V6(ip) => IpAddr::V6((u128::from(ip).wrapping_add(10)).into()),
        };
        // They are those of the cluster DNS that is there.
        let are_taken = self.others.iter().any(|other| other.part == Part::Dns);
        Facts {
            namespace: namespace.into(),
            makes_namespace: !self.has_namespace,
            version: version.into(),
            pod_ranges: self.pod_ranges.clone(),
            dns_ips: self.service_ranges.iter().filter(|_| !are_taken).map(tenth).collect(),
            api: self.api.first().cloned(),
            has_cluster_policies: self.has_cluster_policies,
        }
    }

    /// What should be known before these values are installed.
    pub fn notes(&self, values: &Values) -> Vec<String> {
        let mut notes = Vec::new();
        if minor(&self.version).is_some_and(|minor| minor < OLDEST) {
            notes.push(format!(
                "the API server is {}: Dyad is tested with 1.{OLDEST} and newer",
                self.version
            ));
        }
        if self.api.is_empty() && values.api.host.is_empty() && values.proxy.enabled {
            notes.push(
                "no address of the API server is known that needs no Service: agents can't start where nothing else \
                 carries Services; give one with --set api.host=ADDRESS"
                    .into(),
            );
        }
        if let Some(level) = self.pod_security.as_ref().filter(|level| *level != "privileged") {
            notes.push(format!(
                "the namespace enforces the pod security level {level}, by which agents are refused: label it \
                 {ENFORCE}=privileged"
            ));
        }
        notes.extend(self.others.iter().filter_map(|other| other.note(values)));
        notes
    }

    /// Why these values can't be installed as things are; what `allowed` says may be replaced.
    pub fn check(&self, values: &Values, allowed: Allowed) -> Result<(), Error> {
        let reasons: Vec<String> =
            self.others.iter().filter_map(|other| other.refusal(values, allowed)).collect();
        if reasons.is_empty() { Ok(()) } else { Err(Error::Refused(reasons.join("; "))) }
    }
}

/// What somebody has said may be replaced.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed {
    /// kube-proxy is made to run nowhere.
    pub replace_kube_proxy: bool,
    /// Another CNI may stay where it is.
    pub other_cni: bool,
}

/// An object, `None` if there is none, or no such kind.
pub(crate) async fn get(
    client: &Client,
    kind: Kind,
    namespace: &str,
    name: &str,
) -> Result<Option<Value>, Error> {
    let found = kind.api(client, namespace).get_opt(name).await;
    let found = found.map_err(api(format!("look at {} {name}", kind.kind)))?;
    Ok(found.map(|one| serde_json::to_value(one).unwrap_or_default()))
}

/// All objects of a kind that a selector of labels takes.
pub(crate) async fn list(client: &Client, kind: Kind, selector: &str) -> Result<Vec<Value>, Error> {
    let params = ListParams::default().labels(selector);
    match kind.all(client).list(&params).await {
        Ok(found) => {
            Ok(found.items.into_iter().map(|one| serde_json::to_value(one).unwrap_or_default()).collect())
        }
        // A kind that the API server does not have has no objects.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(source) => Err(api(format!("list {}", kind.plural))(source)),
    }
}

async fn has_kind(client: &Client, group: &str) -> bool {
    client.list_api_groups().await.is_ok_and(|all| all.groups.iter().any(|one| one.name == group))
}

async fn service_ranges(client: &Client) -> Result<Vec<IpNet>, Error> {
    let mut found = list(client, kinds::SERVICE_CIDR, "").await?;
    // The first one made is the one of the API server's flags.
    found.sort_by_key(|one| one["metadata"]["name"] != "kubernetes");
    let cidrs = found.first().map(|one| texts(&one["spec"]["cidrs"])).unwrap_or_default();
    Ok(cidrs.iter().filter_map(|text| parse_cidr_sloppy(text)).map(|(_, range)| range).collect())
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// By the nodes' pod ranges, else by their addresses, else by the Service of the API.
fn families(nodes: &[Value], kubernetes: &Value) -> Vec<IpFamily> {
    let of = |ips: Vec<&str>| -> Vec<IpFamily> {
        let mut families = Vec::new();
        for text in ips {
            let ip: Option<IpAddr> = text.split('/').next().and_then(|ip| ip.parse().ok());
            if let Some(family) = ip.map(IpFamily::from).filter(|family| !families.contains(family)) {
                families.push(family);
            }
        }
        families
    };
    let addresses = |node: &Value| -> Vec<String> {
        let all = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
        let internal = all.iter().filter(|one| one["type"] == "InternalIP");
        internal.filter_map(|one| one["address"].as_str().map(str::to_owned)).collect()
    };
    let by_ranges = nodes.iter().map(|node| of(texts(&node["spec"]["podCIDRs"])));
    let by_addresses = nodes.iter().map(|node| of(addresses(node).iter().map(String::as_str).collect()));
    let most = by_ranges
        .chain(by_addresses)
        .fold(Vec::new(), |most: Vec<IpFamily>, one| if one.len() > most.len() { one } else { most });
    if most.is_empty() { of(texts(&kubernetes["spec"]["clusterIPs"])) } else { most }
}

/// The text behind `key:` in a text that is YAML, or holds YAML with nothing else of that name.
fn setting<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let lines = text.lines().map(str::trim);
    let value = lines.filter_map(|line| line.strip_prefix(key)?.strip_prefix(':')).next()?;
    let value = value.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then_some(value)
}

/// As kubeadm was told, else as kube-proxy was.
fn pod_ranges(kubeadm: &Value, proxy: &Value, families: &[IpFamily]) -> Vec<IpNet> {
    let said = |config: &Value, file: &str, key: &str| {
        config["data"][file].as_str().and_then(|text| setting(text, key)).map(str::to_owned)
    };
    let text = said(kubeadm, "ClusterConfiguration", "podSubnet")
        .or_else(|| said(proxy, "config.conf", "clusterCIDR"));
    let text = text.unwrap_or_default();
    let mut ranges: Vec<IpNet> =
        text.split(',').filter_map(|part| parse_cidr_sloppy(part.trim())).map(|(_, range)| range).collect();
    ranges.sort_by_key(|range| families.iter().position(|family| *family == IpFamily::from(*range)));
    ranges
}

/// Where who joins is told to go, where kube-proxy goes, and where the API servers say they are.
fn endpoints(info: &Value, proxy: &Value, slices: &[Value], families: &[IpFamily]) -> Vec<Endpoint> {
    let server = |config: &Value, file: &str| {
        config["data"][file].as_str().and_then(|text| setting(text, "server")).and_then(endpoint)
    };
    let mut found: Vec<Endpoint> =
        [server(info, "kubeconfig"), server(proxy, "kubeconfig.conf")].into_iter().flatten().collect();
    let mut slices: Vec<&Value> =
        slices.iter().filter(|one| one["metadata"]["namespace"] == "default").collect();
    slices.sort_by_key(|one| {
        let is_of = |family: &IpFamily| one["addressType"] == family.as_str();
        families.iter().position(is_of).unwrap_or(usize::MAX)
    });
    for slice in slices {
        let port =
            slice["ports"][0]["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(6443);
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        let hosts = endpoints.flat_map(|one| texts(&one["addresses"]));
        found.extend(hosts.map(|host| Endpoint { host: host.to_owned(), port }));
    }
    found.retain(|one| !is_loopback(&one.host));
    found
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
}

/// Host and port of `https://HOST:PORT`.
fn endpoint(url: &str) -> Option<Endpoint> {
    let rest = url.strip_prefix("https://")?.split('/').next()?;
    let (host, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, port.strip_prefix(':'))
        }
        None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Some(443), |port| port.parse().ok())?;
    (!host.is_empty()).then(|| Endpoint { host: host.to_owned(), port })
}

/// The minor number of `v1.36.0`.
fn minor(version: &str) -> Option<u32> {
    let text = version.trim_start_matches('v').split('.').nth(1)?;
    text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests;
