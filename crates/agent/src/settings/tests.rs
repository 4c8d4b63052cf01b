//! Settings, by flag and by file.

use std::collections::BTreeMap;

use super::*;

fn config(settings: &Settings) -> Result<(Config, Vec<String>), SettingError> {
    settings.config("node1", &IpFamily::BOTH, &Extras::default())
}

/// What `kubeadm` writes, shortened.
const FILE: &str = r#"
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: 0.0.0.0
clientConnection:
  acceptContentTypes: ""
  burst: 0
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: 65536
  tcpBeLiberal: true
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: 2h30m
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
detectLocalMode: ""
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  masqueradeAll: false
  syncPeriod: 0s
logging:
  verbosity: 0
metricsBindAddress: 0.0.0.0:10249
mode: nftables
nftables:
  masqueradeAll: true
  syncPeriod: 1m0s
  unheardOf: 1
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
windowsRunAsService: false
brandNew: {a: b}
"#;

#[test]
fn a_file_says_what_flags_say() {
    let (settings, mut warnings) = read_file(FILE).unwrap();
    warnings.sort();
    assert_eq!(
        warnings,
        ["unknown field \"brandNew\" is ignored", "unknown field \"nftables.unheardOf\" is ignored"]
    );
    let expected = Settings {
        kubeconfig: Some("/var/lib/kube-proxy/kubeconfig.conf".into()),
        proxy_mode: Some("nftables".into()),
        metrics_bind_address: Some("0.0.0.0:10249".into()),
        cluster_cidr: Some("10.244.0.0/16,fd00:10:244::/56".into()),
        masquerade_all: Some(true),
        sync_period: Some(Duration::from_secs(60)),
        conntrack_min: Some(65536),
        conntrack_tcp_established: Some(Duration::from_secs(9000)),
        conntrack_tcp_be_liberal: Some(true),
        conntrack_udp: Some(Duration::ZERO),
        ..Settings::default()
    };
    assert_eq!(settings, expected);
    let flags =
        Settings { proxy_mode: Some("iptables".into()), conntrack_min: Some(1), ..Settings::default() };
    let both = flags.or(settings);
    assert_eq!((both.proxy_mode.as_deref(), both.conntrack_min), (Some("iptables"), Some(1)), "flags win");
    assert_eq!(both.masquerade_all, Some(true), "and leave the rest");
    let (config, _) = config(&both).unwrap();
    assert_eq!(config.health_timeout, Duration::from_secs(120));
    assert_eq!(config.conntrack.max_per_core, Some(32768));
    assert_eq!(config.metrics, Some("0.0.0.0:10249".parse().unwrap()));
    assert_eq!(config.healthz, Some("0.0.0.0:10256".parse().unwrap()));
}

#[test]
fn a_file_that_makes_no_sense_is_told_where() {
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    for (text, part) in [
        ("kind: Pod\napiVersion: v1", "the file is v1, Pod, not a KubeProxyConfiguration"),
        ("", "without apiVersion"),
        ("a: [", "not YAML"),
        (&format!("{head}conntrack: {{min: -1}}"), "conntrack.min: -1 must be a whole number"),
        (
            &format!("{head}conntrack: {{udpTimeout: soon}}"),
            "conntrack.udpTimeout: \"soon\" must be a duration",
        ),
        (&format!("{head}mode: 1"), "mode: 1 must be a string"),
        (&format!("{head}iptables: {{masqueradeAll: 1}}"), "iptables.masqueradeAll: 1 must be true or false"),
        (&format!("{head}nodePortAddresses: primary"), "nodePortAddresses: \"primary\" must be a list"),
    ] {
        let error = read_file(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn defaults_are_those_of_kube_proxy() {
    let (config, warnings) = config(&Settings::default()).unwrap();
    assert_eq!(config.own_pods, OwnPods::OfCluster);
    assert_eq!(config.node_ports, NodePorts::All);
    assert_eq!(
        (config.routing, config.masquerade_pods, config.masquerade_all),
        (Routing::None, false, false)
    );
    assert!(config.network_policy && !config.open_pods);
    assert_eq!(config.service_ranges, None, "learnt from the API");
    assert_eq!(config.healthz, Some("0.0.0.0:10256".parse().unwrap()));
    assert_eq!(config.metrics, Some("127.0.0.1:10249".parse().unwrap()));
    assert_eq!(config.conntrack.tcp_established, Some(24 * HOUR));
    assert_eq!(config.conntrack.udp, None);
    assert_eq!(warnings.len(), 2, "no pod ranges: {warnings:?}");
    assert_eq!(config.pod_ranges.get(IpFamily::V6), Some(&IpFamily::V6.everything()));
}

#[test]
fn nodes_tell_their_pods_where_the_network_is_ours() {
    for (mode, routing, expected) in [
        (None, Routing::None, OwnPods::OfCluster),
        (None, Routing::Auto, OwnPods::OfNode),
        (Some("ClusterCIDR"), Routing::Auto, OwnPods::OfCluster),
        (Some("NodeCIDR"), Routing::None, OwnPods::OfNode),
    ] {
        let settings = Settings { detect_local_mode: mode.map(str::to_owned), ..Settings::default() };
        let extras = Extras { routing, ..Extras::default() };
        let (config, _) = settings.config("n", &IpFamily::BOTH, &extras).unwrap();
        assert_eq!(config.own_pods, expected, "{mode:?} {routing:?}");
    }
}

#[test]
fn each_setting_is_read_or_refused() {
    type Set = fn(&mut Settings, String);
    let settings: BTreeMap<&str, Set> = BTreeMap::from([
        ("cidr", (|settings, text| settings.cluster_cidr = Some(text)) as Set),
        ("mode", |settings, text| settings.proxy_mode = Some(text)),
        ("local", |settings, text| settings.detect_local_mode = Some(text)),
        ("ports", |settings, text| {
            settings.nodeport_addresses = Some(text.split(',').map(str::to_owned).collect());
        }),
        ("healthz", |settings, text| settings.healthz_bind_address = Some(text)),
    ]);
    for (setting, value, problem) in [
        ("cidr", "10.0.0.0/8", None),
        ("cidr", "fd00::/48,10.0.0.0/8", None),
        (
            "cidr",
            "10.0.0.0/8,11.0.0.0/8",
            Some("--cluster-cidr: \"10.0.0.0/8,11.0.0.0/8\" must be one range of each"),
        ),
        ("cidr", "ten", Some("--cluster-cidr: \"ten\" is no range")),
        ("mode", "ipvs", None),
        ("mode", "kernelspace", Some("--proxy-mode: \"kernelspace\" must be")),
        ("local", "NodeCIDR", None),
        ("local", "BridgeInterface", Some("--detect-local-mode: \"BridgeInterface\" is not supported")),
        ("local", "else", Some("must be ClusterCIDR or NodeCIDR")),
        ("ports", "primary", None),
        ("ports", "192.0.2.0/24,2001:db8::/64", None),
        ("ports", "primary,192.0.2.0/24", Some("can't be both")),
        ("ports", "somewhere", Some("--nodeport-addresses: \"somewhere\" is no range")),
        ("healthz", "[::]:1", None),
        ("healthz", "::1", None),
        ("healthz", ":10256", None),
        ("healthz", "nowhere", Some("--healthz-bind-address: \"nowhere\" is no address")),
    ] {
        let mut of = Settings::default();
        settings[setting](&mut of, value.into());
        match (config(&of), problem) {
            (Ok(_), None) => {}
            (Err(error), Some(problem)) => assert!(error.to_string().contains(problem), "{error}"),
            (result, _) => panic!("{setting} {value}: {result:?}"),
        }
    }
    let with = |value: &str| Settings { healthz_bind_address: Some(value.into()), ..Settings::default() };
    assert_eq!(config(&with("")).unwrap().0.healthz, None);
    assert_eq!(config(&with("0.0.0.0:0")).unwrap().0.healthz, None);
    assert_eq!(
        config(&with("[2001:db8::1]")).unwrap().0.healthz,
        Some("[2001:db8::1]:10256".parse().unwrap())
    );
    let ports = |mode: &str, list: &[&str]| {
        let nodeport_addresses = Some(list.iter().map(|text| (*text).to_owned()).collect());
        let of = Settings { proxy_mode: Some(mode.into()), nodeport_addresses, ..Settings::default() };
        let (config, warnings) = config(&of).unwrap();
        (config.node_ports, warnings.iter().any(|text| text.contains("--nodeport-addresses has no IPv6")))
    };
    assert_eq!(ports("nftables", &[]), (NodePorts::Primary, false));
    assert_eq!(ports("iptables", &[]), (NodePorts::All, false));
    let v4 = "192.0.2.0/24".parse().unwrap();
    assert_eq!(ports("nftables", &["192.0.2.0/24"]), (NodePorts::Ranges(vec![v4]), true));
}

#[test]
fn durations_are_read_as_go_writes_them() {
    for (text, millis) in
        [("0s", 0), ("0", 0), ("1m30s", 90_000), ("24h0m0s", 86_400_000), ("1.5h", 5_400_000), ("250ms", 250)]
    {
        assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
    }
    for text in ["", "s", "1", "-1s", "1d", "1s2", "1e400s"] {
        assert!(duration(text).is_err(), "{text}");
    }
}

#[test]
fn derived_ranges_are_the_clusters_too() {
    use dyad_net::Derivation;
    let derivation =
        |from: &str, to: &str| Derivation::new(from.parse().unwrap(), to.parse().unwrap()).unwrap();
    let of = |cluster: &str, families: &[IpFamily], derivation| {
        let settings = Settings { cluster_cidr: Some(cluster.into()), ..Settings::default() };
        let extras = Extras { ipam: Ipam::Derived(derivation), masquerade_pods: true, ..Extras::default() };
        settings.config("node1", families, &extras)
    };
    let from_v4 = derivation("10.244.0.0/16:24", "fd00:10:244::/48:64");
    for cluster in ["", "10.244.0.0/16", "10.244.0.0/16,fd00:10:244::/48", "fd00::/16,10.0.0.0/8"] {
        let (config, warnings) = of(cluster, &IpFamily::BOTH, from_v4).unwrap();
        assert_eq!(warnings, [""; 0], "{cluster}");
        assert!(config.pod_ranges.iter().all(|(_, range)| range.prefix_len() > 0), "{:?}", config.pod_ranges);
    }
    for (cluster, families, part) in [
        ("", &IpFamily::BOTH[..1], "--derive-to: \"fd00:10:244::/48:64\" is of a family that this machine"),
        ("10.9.0.0/16", &IpFamily::BOTH, "--derive-from: \"10.244.0.0/16:24\" is not in the range"),
        ("fd00:9::/48", &IpFamily::BOTH, "--derive-to: \"fd00:10:244::/48:64\" is not in the range"),
    ] {
        let error = of(cluster, families, from_v4).unwrap_err().to_string();
        assert!(error.starts_with(part), "{cluster}: {error}");
    }
}
