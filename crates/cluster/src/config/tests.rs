use super::*;

const HEAD: &str = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n";

fn file(body: &str) -> Result<(ClusterConfig, Vec<String>)> {
    resolve(Some(&format!("{HEAD}{body}")), &Flags::default())
}

fn texts(ranges: &[IpNet]) -> Vec<String> {
    ranges.iter().map(ToString::to_string).collect()
}

#[test]
fn the_order_of_the_ranges_gives_the_primary_family() {
    let (v4, v6) = ("10.1.0.0/16", "fd01::/56");
    let (s4, s6) = ("10.96.0.0/16", "fd00:10:96::/112");
    #[rustfmt::skip]
    let cases: [(String, [&str; 2], [&str; 2]); 6] = [
        ("networking: {}".into(),                                   ["10.244.0.0/16", "fd00:10:244::/56"], [s4, s6]),
        (format!("networking: {{podSubnet: \"{v4},{v6}\"}}"),       [v4, v6], [s4, s6]),
        (format!("networking: {{podSubnet: \"{v6}, {v4}\"}}"),      [v6, v4], [s6, s4]),
        (format!("networking: {{podSubnet: [\"{v6}\", \"{v4}\"]}}"), [v6, v4], [s6, s4]),
        (format!("networking: {{ipFamily: dual, podSubnet: \"{v6}\"}}"), [v6, "10.244.0.0/16"], [s6, s4]),
        ("networking: {serviceSubnet: \"fd02::/112,10.2.0.0/16\"}".into(),
                                                                    ["fd00:10:244::/56", "10.244.0.0/16"], ["fd02::/112", "10.2.0.0/16"]),
    ];
    for (body, pods, services) in cases {
        let (config, warnings) = file(&body).unwrap();
        assert_eq!(texts(&config.pod_ranges), pods, "{body}");
        assert_eq!(texts(&config.service_ranges), services, "{body}");
        assert_eq!(warnings, [""; 0], "{body}");
    }
}

#[test]
fn the_api_server_is_asked_at_the_primary_familys_loopback_unless_told_otherwise() {
    for (body, want) in [
        ("networking: {}", &["127.0.0.1", "::1"][..]),
        ("networking: {ipFamily: ipv4}", &["127.0.0.1", "::1"]),
        ("networking: {ipFamily: ipv6}", &["::1", "127.0.0.1"]),
        ("networking: {podSubnet: \"fd01::/56,10.1.0.0/16\"}", &["::1", "127.0.0.1"]),
        ("networking: {apiServerAddress: \"::1\"}", &["::1"]),
        ("networking: {apiServerAddress: 192.0.2.1, ipFamily: ipv6}", &["192.0.2.1"]),
    ] {
        let (config, _) = file(body).unwrap();
        let addresses: Vec<String> = config.api_addresses.iter().map(IpAddr::to_string).collect();
        assert_eq!(addresses, want, "{body}");
    }
}

#[test]
fn refusals_name_the_field_and_the_value() {
    #[rustfmt::skip]
    let cases = [
        ("networking: {ipFamily: ipv5}",                                    &["networking.ipFamily", "ipv5"][..]),
        ("networking: {ipFamily: ipv4, podSubnet: \"fd01::/56\"}",          &["networking.podSubnet", "IPv4", "fd01::/56"]),
        ("networking: {ipFamily: ipv4, podSubnet: \"10.1.0.0/16,fd01::/56\"}", &["only one CIDR allowed"]),
        ("networking: {podSubnet: \"10.1.0.0/16,10.2.0.0/16\"}",            &["networking.podSubnet", "10.2.0.0/16"]),
        ("networking: {podSubnet: \"10.1.0.1/16\"}",                        &["10.1.0.1/16", "10.1.0.0/16"]),
        ("networking: {podSubnet: nonsense}",                               &["networking.podSubnet", "nonsense"]),
        ("networking: {podSubnet: \"10.1.0.0/16,fd01::/56\", serviceSubnet: \"fd02::/112,10.2.0.0/16\"}", &["one order"]),
        ("networking: {podSubnet: \"10.96.0.0/12\"}",                       &["overlaps"]),
        ("networking: {podSubnet: \"fd01::/40\"}",                          &["/48"]),
        ("networking: {apiServerPort: 70000}",                              &["networking.apiServerPort", "70000"]),
        ("networking: {apiServerAddress: here}",                            &["networking.apiServerAddress", "here"]),
        ("nodes: [{role: boss}]",                                           &["nodes[0].role", "boss"]),
        ("nodes: [{labels: {a b: c}}]",                                     &["nodes[0].labels", "a b"]),
        ("nodes: [{labels: {a: \"b c\"}}]",                                 &["nodes[0].labels", "b c"]),
        ("name: Lab",                                                       &["\"Lab\""]),
        ("nodes: 3",                                                        &["nodes"]),
    ];
    for (body, parts) in cases {
        let error = format!("{:#}", file(body).expect_err(body));
        for part in parts {
            assert!(error.contains(part), "{body}: {error:?} lacks {part:?}");
        }
    }
    let error = format!("{:#}", resolve(Some("kind: Pod\napiVersion: v1\n"), &Flags::default()).unwrap_err());
    assert!(error.contains("kind.x-k8s.io/v1alpha4"), "{error}");
}

#[test]
fn each_field_without_meaning_is_named_once() {
    let (_, warnings) = file(
        "featureGates: {A: true}\nnetworking: {kubeProxyMode: none}\n\
         nodes: [{role: worker, image: x, extraMounts: []}]",
    )
    .unwrap();
    let fields: Vec<&str> = warnings.iter().filter_map(|text| text.split(' ').next()).collect();
    assert_eq!(
        fields,
        ["featureGates", "nodes[0].extraMounts", "nodes[0].image", "networking.kubeProxyMode"]
    );
}

#[test]
fn nodes_are_named_and_tainted_as_kind_does() {
    let (config, _) = file(
        "name: lab\nnodes: [{role: control-plane}, {role: worker, labels: {zone: \"a\"}}, {role: worker}]",
    )
    .unwrap();
    let seen: Vec<_> =
        config.nodes.iter().map(|node| (node.name.as_str(), node.control_plane_taint)).collect();
    assert_eq!(seen, [("lab-control-plane", true), ("lab-worker", false), ("lab-worker2", false)]);
    assert_eq!(config.nodes[1].labels["zone"], "a");
    assert!(config.nodes[0].labels.contains_key("node-role.kubernetes.io/control-plane"));

    let (alone, _) = file("nodes: [{}]").unwrap();
    assert!(!alone.nodes[0].control_plane_taint, "the only node runs pods");
}

#[test]
fn flags_win_over_the_file() {
    let flags = Flags {
        name: Some("b".into()),
        nodes: Some(0),
        families: Some(Families::Single(IpFamily::V6)),
        ..Flags::default()
    };
    let (config, _) = resolve(
        Some(&format!("{HEAD}name: a\nnodes: [{{role: worker}}]\nnetworking: {{ipFamily: ipv4}}")),
        &flags,
    )
    .unwrap();
    assert_eq!(config.name, "b");
    assert_eq!(config.nodes, []);
    assert_eq!(texts(&config.pod_ranges), ["fd00:10:244::/56"]);
}

#[test]
fn nodes_bring_along_what_kind_would_give_them() {
    let shape = |networking: &str| file(networking).map(|(config, _)| config.shape);
    for (networking, want) in [
        ("", Shape::Whole),
        ("kubeProxyMode: ipvs", Shape::Whole),
        ("kubeProxyMode: none", Shape::Whole),
        ("disableDefaultCNI: true", Shape::Proxy),
        ("disableDefaultCNI: true, kubeProxyMode: nftables", Shape::Proxy),
        ("disableDefaultCNI: true, kubeProxyMode: none", Shape::Bare),
    ] {
        assert_eq!(shape(&format!("networking: {{{networking}}}")).unwrap(), want, "{networking}");
    }
    let error = shape("networking: {disableDefaultCNI: 1}").unwrap_err();
    assert!(
        format!("{error:#}").contains("networking.disableDefaultCNI: expected true or false"),
        "{error:#}"
    );
}
