use serde_json::json;

use super::*;
use crate::Chosen;

fn node(ranges: &[&str], addresses: &[&str]) -> Value {
    let addresses: Vec<Value> =
        addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    json!({"spec": {"podCIDRs": ranges}, "status": {"addresses": addresses}})
}

#[test]
fn families_are_told_in_their_order() {
    use IpFamily::{V4, V6};
    let kubernetes = json!({"spec": {"clusterIPs": ["10.96.0.1"]}});
    for (nodes, want) in [
        (vec![node(&["fd00::/64", "10.0.0.0/24"], &["192.0.2.1"])], &[V6, V4][..]),
        (vec![node(&["10.0.0.0/24", "fd00::/64"], &[])], &[V4, V6]),
        (vec![node(&["fd00::/64"], &["2001:db8::1"])], &[V6]),
        (vec![node(&[], &["192.0.2.1", "2001:db8::1"])], &[V4, V6]),
        (vec![node(&["10.0.0.0/24"], &[]), node(&["10.0.1.0/24", "fd00::/64"], &[])], &[V4, V6]),
        (vec![], &[V4]),
    ] {
        assert_eq!(families(&nodes, &kubernetes), want, "{nodes:?}");
    }
}

#[test]
fn ranges_of_pods_are_what_kubeadm_or_kube_proxy_was_told() {
    let kubeadm = json!({"data": {"ClusterConfiguration": "networking:\n  dnsDomain: a\n  podSubnet: 10.244.0.0/16,fd00::/56\n"}});
    let proxy = json!({"data": {"config.conf": "bindAddress: ::\nclusterCIDR: \"10.1.0.0/16\"\n"}});
    let texts = |kubeadm: &Value, proxy: &Value, families: &[IpFamily]| -> Vec<String> {
        pod_ranges(kubeadm, proxy, families).iter().map(ToString::to_string).collect()
    };
    assert_eq!(texts(&kubeadm, &proxy, &[IpFamily::V6, IpFamily::V4]), ["fd00::/56", "10.244.0.0/16"]);
    assert_eq!(texts(&Value::Null, &proxy, &[IpFamily::V4]), ["10.1.0.0/16"]);
    assert!(
        texts(&json!({"data": {"ClusterConfiguration": "podSubnet: \"\""}}), &Value::Null, &[]).is_empty()
    );
}

#[test]
fn the_api_is_where_nodes_reach_it() {
    let info = |server: &str| json!({"data": {"kubeconfig": format!("clusters:\n- cluster:\n    server: {server}\n")}});
    let slice = |kind: &str, ip: &str| json!({"metadata": {"namespace": "default"}, "addressType": kind, "ports": [{"port": 6443}], "endpoints": [{"addresses": [ip]}]});
    let slices = [slice("IPv4", "192.0.2.6"), slice("IPv6", "2001:db8::6")];
    let found = |info: &Value, families: &[IpFamily]| -> Vec<String> {
        let found = endpoints(info, &Value::Null, &slices, families);
        found.iter().map(|one| format!("{} {}", one.host, one.port)).collect()
    };
    use IpFamily::{V4, V6};
    assert_eq!(found(&info("https://api.example:6444"), &[V4])[0], "api.example 6444");
    assert_eq!(found(&info("https://[2001:db8::7]"), &[V4])[0], "2001:db8::7 443");
    assert_eq!(found(&info("https://127.0.0.1:6443"), &[V4]), ["192.0.2.6 6443", "2001:db8::6 6443"]);
    assert_eq!(found(&Value::Null, &[V6, V4])[0], "2001:db8::6 6443");
    for text in ["http://a", "https://", "https://a:b", "https://[::1"] {
        assert_eq!(endpoint(text), None, "{text}");
    }
}

fn daemon_set(namespace: &str, name: &str) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name}})
}

#[test]
fn what_others_do_is_not_done_twice_by_mistake() {
    let sets = [
        daemon_set("kube-system", "kube-proxy"),
        daemon_set("kube-flannel", "kube-flannel-ds"),
        daemon_set("a", "netdata"),
    ];
    let dns = daemon_set("kube-system", "kube-dns");
    let survey = Survey { others: others::find(&sets, Some(&dns)), ..Survey::default() };
    assert_eq!(survey.others.len(), 3);
    let check = |set: &str, allowed: Allowed| {
        let mut chosen = Chosen::default();
        chosen.set(set).unwrap();
        survey.check(&chosen.values().unwrap(), allowed).map_err(|error| error.to_string())
    };
    let all = Allowed { replace_kube_proxy: true, other_cni: true };
    let refused = check("dns.enabled=true", Allowed::default()).unwrap_err();
    for part in [
        "--replace-kube-proxy",
        "--set cni.enabled=false",
        "Flannel (daemonset kube-flannel/kube-flannel-ds)",
        "dns.service=NAME",
    ] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    assert_eq!(check("proxy.enabled=false,cni.enabled=false", Allowed::default()), Ok(()));
    assert_eq!(check("proxy.enabled=true", all), Ok(()));
    assert!(check("dns.enabled=true", all).is_err(), "names have one Service");
    assert_eq!(check("dns.enabled=true,dns.service=dyad-dns", all), Ok(()));
    let ranges = vec!["10.96.0.0/16".parse().unwrap(), "fd00::/112".parse().unwrap()];
    let survey = Survey { service_ranges: ranges, ..survey };
    assert!(survey.facts("a", "1").dns_ips.is_empty(), "the other DNS has them");
    let alone = Survey { others: Vec::new(), ..survey.clone() }.facts("a", "1");
    assert_eq!(alone.dns_ips.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.96.0.10", "fd00::a"]);
    let notes = survey.notes(&Values::default()).join("\n");
    assert!(notes.contains("kube-proxy --cleanup") && notes.contains("api.host"), "{notes}");
    let mut ours = daemon_set("kube-system", "cilium");
    ours["metadata"]["labels"] = json!({PART: "dyad"});
    assert!(others::find(&[ours], None).is_empty());
    let mut parked = daemon_set("kube-system", "kube-proxy");
    parked["metadata"]["annotations"] = json!({REPLACED_BY: MANAGER});
    let survey = Survey { others: others::find(&[parked], None), ..Survey::default() };
    assert!(survey.check(&Values::default(), Allowed::default()).is_ok(), "done before");
}

const PART: &str = crate::PART_OF;

#[test]
fn a_namespace_that_would_refuse_agents_is_told_of() {
    for (level, told) in [(None, false), (Some("privileged"), false), (Some("baseline"), true)] {
        let survey = Survey { pod_security: level.map(str::to_owned), ..Survey::default() };
        let notes = survey.notes(&Values::default()).join("\n");
        assert_eq!(
            notes.contains("pod-security.kubernetes.io/enforce=privileged"),
            told,
            "{level:?}: {notes}"
        );
    }
}

#[test]
fn versions_are_read_as_vendors_write_them() {
    for (version, want) in
        [("v1.36.0", Some(36)), ("v1.29+", Some(29)), ("v1.28.5-gke.1", Some(28)), ("", None), ("v1.x", None)]
    {
        assert_eq!(minor(version), want, "{version}");
    }
    let old = Survey { version: "v1.27.3".into(), ..Survey::default() };
    assert!(old.notes(&Values::default())[0].contains("v1.27.3"));
}
