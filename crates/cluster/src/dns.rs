//! The cluster's DNS: Service `kube-dns`, Deployment and ConfigMap `coredns` in `kube-system`, named as every cluster has
//! them, so that what people know of them holds here.
//!
//! They are made once, when the cluster is: whoever changes or removes them later keeps what they did.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dyad_apiserver::pki::{self, Pki};
use dyad_net::{IpFamily, IpNet, service_range_contains};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::fabric::OUTSIDE_HOSTS;
use crate::paths::{ClusterDir, write_atomically};
use crate::spec::{ClusterSpec, nth};
use crate::up::Progress;

const NAMESPACE: &str = "kube-system";
/// Name of the Service.
const SERVICE: &str = "kube-dns";
/// Name of the Deployment and of the ConfigMap with the Corefile.
pub(crate) const NAME: &str = "coredns";
/// Name of the Secret with the way to the API.
const ACCESS: &str = "coredns-access";
/// The Service by which the nodes' caches reach the same pods: nobody intercepts that one.
const UPSTREAM: &str = "kube-dns-upstream";
/// The address of a Service range that the DNS has everywhere.
const OFFSET: u32 = 10;
/// That of the Service for the nodes' caches.
const UPSTREAM_OFFSET: u32 = 11;
/// Pods, where there are as many nodes.
const REPLICAS: usize = 2;
/// The prefix of addresses that stand for IPv4; its sum is that of IPv4 alone, so that checksums stay.
const PREF64: &str = "64:ff9b:1:fffe::/96";
/// Between two attempts.
const WAIT: Duration = Duration::from_millis(100);
/// Between two looks at its pods.
const LOOK: Duration = Duration::from_millis(10);

/// The cluster IPs of the DNS, primary family first; none where a range is too small for them, or nothing runs.
pub(crate) fn addresses(spec: &ClusterSpec) -> Vec<IpAddr> {
    at(spec, OFFSET)
}

/// The cluster IPs by which the nodes' caches reach it.
pub(crate) fn upstream_addresses(spec: &ClusterSpec) -> Vec<IpAddr> {
    at(spec, UPSTREAM_OFFSET)
}

/// An address of each Service range.
fn at(spec: &ClusterSpec, offset: u32) -> Vec<IpAddr> {
    if spec.nodes.is_empty() {
        return Vec::new();
    }
    let address = |range: &IpNet| {
        let ip = nth(*range, offset)?.addr();
        service_range_contains(range, ip).then_some(ip)
    };
    spec.service_ranges.iter().map(address).collect::<Option<_>>().unwrap_or_default()
}

/// Makes the objects, unless it was done before; then stays pending.
pub(crate) async fn keep(
    client: &Client,
    dir: &ClusterDir,
    spec: &ClusterSpec,
    pki: &Pki,
) -> std::convert::Infallible {
    let ips = addresses(spec);
    if ips.is_empty() {
        if !spec.nodes.is_empty() {
            warn!("the Service ranges are too small for the cluster DNS: pods have none");
        }
        return std::future::pending().await;
    }
    while let Err(error) = ensure(client, dir, spec, pki, &ips).await {
        warn!("the cluster DNS is not complete: {error:#}");
        tokio::time::sleep(WAIT).await;
    }
    std::future::pending().await
}

async fn ensure(
    client: &Client,
    dir: &ClusterDir,
    spec: &ClusterSpec,
    pki: &Pki,
    ips: &[IpAddr],
) -> Result<()> {
    let access = access(spec, pki)?;
    if dir.dns_is_made().exists() {
        // Certificates run out, and the way to the API may be another than it was.
        let secrets = Api::<Secret>::namespaced(client.clone(), NAMESPACE);
        let patched = secrets.patch(ACCESS, &PatchParams::default(), &Patch::Merge(&access)).await;
        return match patched {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            patched => patched.map(drop).context("Secret"),
        };
    }
    create::<Secret>(client, access).await?;
    create::<ConfigMap>(client, configuration(spec)).await?;
    create::<Service>(client, service(SERVICE, ips)).await?;
    let upstream = upstream_addresses(spec);
    if !upstream.is_empty() {
        create::<Service>(client, service(UPSTREAM, &upstream)).await?;
    }
    create::<Deployment>(client, deployment(spec)).await?;
    write_atomically(&dir.dns_is_made(), b"")?;
    info!(addresses = ?ips, "the cluster DNS is made");
    Ok(())
}

async fn create<K>(client: &Client, object: Value) -> Result<()>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Serialize
        + DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let object = serde_json::from_value::<K>(object)?;
    match Api::<K>::namespaced(client.clone(), NAMESPACE).create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        created => created.map(drop).with_context(|| K::kind(&()).into_owned()),
    }
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "namespace": NAMESPACE, "labels": {"k8s-app": SERVICE}})
}

/// A kubeconfig by which a pod reaches the API at its Service's address: there is no DNS yet that could name it.
fn access(spec: &ClusterSpec, pki: &Pki) -> Result<Value> {
    let range = spec.service_ranges.first().copied().context("no Service range")?;
    let ip = nth(range, 1).context("an empty Service range")?.addr();
    let server = format!("https://{}", SocketAddr::new(ip, 443));
    let kubeconfig = pki::kubeconfig(&spec.context(), &server, pki.ca_pem(), &pki.dns()?);
    Ok(json!({
        "metadata": metadata(ACCESS),
        "stringData": {"kubeconfig": serde_json::to_string_pretty(&kubeconfig)?},
    }))
}

fn configuration(spec: &ClusterSpec) -> Value {
    let families: Vec<IpFamily> = spec.node_ranges.iter().map(|range| IpFamily::from(*range)).collect();
    let upstreams = OUTSIDE_HOSTS.iter().filter(|ip| families.contains(&IpFamily::from(**ip)));
    let upstreams = upstreams.map(ToString::to_string).collect::<Vec<_>>().join(" ");
    // Pods without IPv4 get names made for the translator of this prefix. It is local (RFC 8215), as the well-known one
    // must not carry private and documentation addresses (RFC 6052 section 3.1), the outside's among them.
    let dns64 = if families == [IpFamily::V6] { format!("    dns64 {PREF64}\n") } else { String::new() };
    let corefile = format!(
        ".:53 {{\n    errors\n    health {{\n        lameduck 5s\n    }}\n    ready\n    \
         kubernetes cluster.local in-addr.arpa ip6.arpa {{\n        pods verified\n        \
         fallthrough in-addr.arpa ip6.arpa\n        ttl 30\n    }}\n    prometheus :9153\n    \
         forward . {upstreams}\n    cache 30\n{dns64}    loop\n    reload\n    loadbalance\n}}\n"
    );
    json!({"metadata": metadata(NAME), "data": {"Corefile": corefile}})
}

fn service(name: &str, ips: &[IpAddr]) -> Value {
    let policy = if ips.len() > 1 { "RequireDualStack" } else { "SingleStack" };
    let mut metadata = metadata(name);
    if name == SERVICE {
        // `kubectl cluster-info` shows what has these.
        metadata["labels"]["kubernetes.io/cluster-service"] = "true".into();
        metadata["labels"]["kubernetes.io/name"] = "CoreDNS".into();
    }
    metadata["annotations"] = json!({"prometheus.io/port": "9153", "prometheus.io/scrape": "true"});
    json!({
        "metadata": metadata,
        "spec": {
            "clusterIP": ips[0], "clusterIPs": ips, "ipFamilyPolicy": policy,
            "ipFamilies": ips.iter().map(|ip| IpFamily::from(*ip)).collect::<Vec<_>>(),
            "selector": {"k8s-app": SERVICE},
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                {"name": "metrics", "port": 9153, "protocol": "TCP"},
            ],
        },
    })
}

fn deployment(spec: &ClusterSpec) -> Value {
    let labels = json!({"k8s-app": SERVICE});
    let probe = |path: &str, port: u16| json!({"httpGet": {"path": path, "port": port}, "periodSeconds": 10});
    // Often only until the names are there: probes are most of what an idle cluster does.
    let mut startup = probe("/ready", 8181);
    startup["periodSeconds"] = 1.into();
    startup["failureThreshold"] = 120.into();
    json!({
        "metadata": metadata(NAME),
        "spec": {
            "replicas": REPLICAS.min(spec.nodes.len()),
            "selector": {"matchLabels": labels},
            "strategy": {"rollingUpdate": {"maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "dnsPolicy": "Default",
                    "priorityClassName": "system-cluster-critical",
                    "tolerations": [
                        {"key": "CriticalAddonsOnly", "operator": "Exists"},
                        {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"},
                    ],
                    "containers": [{
                        "name": NAME,
                        "image": "dyad/dns",
                        "args": [
                            "--config-map", format!("{NAMESPACE}/{NAME}"),
                            "--kubeconfig", "/etc/dyad/kubeconfig",
                            "--workers", "1",
                        ],
                        "ports": [
                            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
                            {"name": "metrics", "containerPort": 9153, "protocol": "TCP"},
                        ],
                        "startupProbe": startup,
                        "readinessProbe": probe("/ready", 8181),
                        "livenessProbe": probe("/health", 8080),
                        "volumeMounts": [{"name": "access", "mountPath": "/etc/dyad", "readOnly": true}],
                    }],
                    "volumes": [{"name": "access", "secret": {"secretName": ACCESS}}],
                },
            },
        },
    })
}

/// Waits until all its pods are ready; says what is missing at the end. Nothing is, where somebody has removed it.
pub(crate) async fn wait(
    client: &Client,
    patience: Duration,
    progress: &mut impl FnMut(Progress),
) -> Result<Vec<String>> {
    let deadline = Instant::now() + patience;
    let deployments = Api::<Deployment>::namespaced(client.clone(), NAMESPACE);
    let mut was_there = false;
    loop {
        let found = deployments.get_opt(NAME).await.context("can't read the Deployment of the DNS")?;
        if found.is_none() && was_there {
            return Ok(Vec::new());
        }
        was_there |= found.is_some();
        let counts = found.as_ref().map(|found| {
            let ready = found.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
            (ready, found.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1))
        });
        if let Some((ready, wanted)) = counts
            && ready >= wanted
        {
            progress(Progress::Dns);
            return Ok(Vec::new());
        }
        if Instant::now() >= deadline {
            return Ok(vec![NAME.to_owned()]);
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Dataplane, NodeSpec, Shape};

    fn spec(services: &[&str], nodes: usize) -> ClusterSpec {
        let ranges: Vec<IpNet> = services.iter().map(|text| text.parse().unwrap()).collect();
        let node = |name: usize| NodeSpec {
            name: format!("node{name}"),
            labels: Default::default(),
            control_plane_taint: false,
        };
        ClusterSpec {
            controllers: "*".into(),
            audit: None,
            name: "a".into(),
            pod_ranges: ranges.clone(),
            node_ranges: ranges.clone(),
            service_ranges: ranges,
            nodes: (0..nodes).map(node).collect(),
            api_addresses: Vec::new(),
            api_port: 1,
            api_port_is_fixed: false,
            dns_search: Vec::new(),
            dataplane: Dataplane::Auto,
            shape: Shape::Whole,
            install: None,
            host_is_joined: false,
        }
    }

    #[test]
    fn the_dns_has_the_tenth_address_of_each_range() {
        for (services, nodes, want) in [
            (&["10.96.0.0/16", "fd00:10:96::/112"][..], 3, "10.96.0.10 fd00:10:96::a"),
            (&["fd00:10:96::/112", "10.96.0.0/16"], 1, "fd00:10:96::a 10.96.0.10"),
            (&["fd00:10:96::/112"], 1, "fd00:10:96::a"),
            (&["10.96.0.0/16"], 0, ""),
            (&["10.96.0.0/29"], 1, ""),
            (&["10.96.0.0/16", "fd00:10:96::/126"], 1, ""),
        ] {
            let found: Vec<_> = addresses(&spec(services, nodes)).iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), want, "{services:?}");
        }
    }

    #[test]
    fn the_corefile_can_be_read_in_every_family_set() {
        use dyad_dns::corefile::{Corefile, Disk};
        for (services, dns64) in [
            (&["10.96.0.0/16", "fd00:10:96::/112"][..], false),
            (&["10.96.0.0/16"], false),
            (&["fd00:10:96::/112"], true),
        ] {
            let map = configuration(&spec(services, 1));
            let text = map["data"]["Corefile"].as_str().unwrap();
            let read = Corefile::parse("Corefile", text, &Disk::default()).unwrap();
            assert_eq!(read.servers[0].dns64.is_some(), dns64, "{services:?}");
            assert!(read.notes.is_empty(), "{:?}", read.notes);
        }
    }

    #[test]
    fn objects_are_what_the_api_takes_them_for() {
        let ips = addresses(&spec(&["10.96.0.0/16", "fd00:10:96::/112"], 2));
        let service: Service = serde_json::from_value(service(SERVICE, &ips)).unwrap();
        assert_eq!(service.spec.unwrap().cluster_ips.unwrap().len(), 2);
        let made: Deployment = serde_json::from_value(deployment(&spec(&["10.96.0.0/16"], 1))).unwrap();
        assert_eq!(made.spec.unwrap().replicas, Some(1));
    }
}
