//! The examples do what they say.

#[path = "../support/cluster.rs"]
mod cluster;

use cluster::Cluster;

fn families(cluster: &Cluster, service: &str) -> Vec<String> {
    let object = cluster.get(&["service", service]);
    let list = object["spec"]["ipFamilies"].as_array().cloned().unwrap_or_default();
    list.iter().filter_map(|family| family.as_str().map(str::to_owned)).collect()
}

/// Addresses of a Service's endpoints, by family.
fn endpoints(cluster: &Cluster, service: &str, family: &str) -> Vec<String> {
    let slices = cluster.get(&["endpointslices", "-l", &format!("kubernetes.io/service-name={service}")]);
    let slices = slices["items"].as_array().cloned().unwrap_or_default();
    let of_family = slices.iter().filter(|slice| slice["addressType"] == family);
    let endpoints = of_family.flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default());
    endpoints.filter_map(|endpoint| endpoint["addresses"][0].as_str().map(str::to_owned)).collect()
}

#[test]
fn every_example_works() {
    let cluster = Cluster::up("examples", 2, &["--nodes", "2"]);
    if !cluster.has_kubectl() {
        return;
    }
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    cluster.kubectl(&["apply", "-f", examples]);
    for workload in ["deployment/web", "deployment/web-ipv6", "deployment/shop", "daemonset/peer"] {
        cluster.kubectl(&["rollout", "status", workload, "--timeout=60s"]);
    }
    assert_eq!(families(&cluster, "web-single"), ["IPv4"]);
    assert_eq!(families(&cluster, "web-prefer"), ["IPv4", "IPv6"]);
    assert_eq!(families(&cluster, "web-require"), ["IPv6", "IPv4"]);
    assert_eq!(families(&cluster, "web-ipv6"), ["IPv6"]);
    assert_eq!(families(&cluster, "elsewhere"), ["IPv4", "IPv6"]);
    cluster.eventually("every family that a Service has gets its endpoints", || {
        for (service, family, count) in [
            ("web-single", "IPv4", 3),
            ("web-single", "IPv6", 0),
            ("web-require", "IPv4", 3),
            ("web-require", "IPv6", 3),
            ("web-ipv6", "IPv6", 2),
            ("peers", "IPv4", 2),
            ("peers", "IPv6", 2),
            ("elsewhere", "IPv6", 1),
            ("guarded", "IPv4", 1),
            ("guarded", "IPv6", 1),
            ("shop-near", "IPv6", 2),
        ] {
            let found = endpoints(&cluster, service, family);
            if found.len() != count {
                return Err(format!("{service} {family}: {found:?}, expected {count}"));
            }
        }
        Ok(())
    });
    let path = |from: &str| {
        let explained = cluster.dyad(&["explain", "path", from, "svc/guarded", "--name", &cluster.name]);
        cluster::text(&explained.stdout)
    };
    assert!(path("pod/client").contains("delivered"), "{}", path("pod/client"));
    let refused = path("pod/guest");
    assert!(refused.contains("dropped") && refused.contains("guarded"), "{refused}");
    let slices = cluster.get(&["endpointslices", "-l", "kubernetes.io/service-name=shop-near"]);
    for slice in slices["items"].as_array().into_iter().flatten() {
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            assert_eq!(endpoint["hints"]["forNodes"][0]["name"], endpoint["nodeName"], "{slice}");
        }
    }
}
