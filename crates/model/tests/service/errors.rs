//! What is refused on create, and how it is said.

use serde_json::{Value, json};

use super::world::World;

const V4V6: &str = "v4v6";
const V4: &str = "v4";

struct Row {
    rule: &'static str,
    cluster: &'static str,
    spec: Value,
    want: &'static [&'static str],
}

fn row(rule: &'static str, cluster: &'static str, spec: Value, want: &'static [&'static str]) -> Row {
    Row { rule, cluster, spec, want }
}

fn assert_rows(rows: Vec<Row>) {
    for Row { rule, cluster, spec, want } in rows {
        let mut world = World::of(cluster);
        let got = world.put("s", spec.clone()).map(drop).err().unwrap_or_default();
        assert_eq!(got, want, "{rule} on {cluster}: {spec}");
        assert!(want.is_empty() || world.held == Default::default(), "{rule}: something is still held");
    }
}

#[test]
fn families_and_addresses_that_do_not_go_together() {
    let port = json!([{"port": 80}]);
    assert_rows(vec![
        row(
            "A20 A30, most often got wrong 1",
            V4V6,
            json!({"ports": port, "clusterIPs": ["10.96.1.1"]}),
            &[
                "spec.clusterIPs: Invalid value: [\"10.96.1.1\"]: must be empty when `clusterIP` is not specified",
            ],
        ),
        row(
            "A30",
            V4V6,
            json!({"ports": port, "clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.2"]}),
            &["spec.clusterIPs: Invalid value: [\"10.96.1.2\"]: first value must match `clusterIP`"],
        ),
        row(
            "A22 A24, most often got wrong 2",
            V4V6,
            json!({
                "ports": port, "ipFamilies": ["IPv4", "IPv6"], "clusterIP": "10.96.1.1",
                "clusterIPs": ["10.96.1.1", "fd00:10:96::1"]
            }),
            &[
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when \
                 multiple cluster IPs are specified",
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when \
                 multiple IP families are specified",
            ],
        ),
        row(
            "A25",
            V4,
            json!({"ports": port, "clusterIP": "fd00:10:96::1"}),
            &[
                "spec.clusterIPs[0]: Invalid value: [\"fd00:10:96::1\"]: IPv6 is not configured on this cluster",
            ],
        ),
        row(
            "A26: nothing further runs",
            V4,
            json!({
                "ports": port, "clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1", "fd00:10:96::1"],
                "ipFamilyPolicy": "RequireDualStack"
            }),
            &[
                "spec.clusterIPs[1]: Invalid value: [\"10.96.1.1\",\"fd00:10:96::1\"]: IPv6 is not configured on this \
               cluster",
            ],
        ),
        row(
            "A28",
            V4,
            json!({"ports": port, "ipFamilies": ["IPv6"], "ipFamilyPolicy": "RequireDualStack"}),
            &[
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack \
                 services",
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
            ],
        ),
        row(
            "A28 A29, most often got wrong 5",
            V4,
            json!({"ports": port, "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack"}),
            &["spec.ipFamilies[1]: Invalid value: \"IPv6\": not configured on this cluster"],
        ),
        row(
            "A50 A51 A52",
            V4V6,
            json!({"ports": port, "ipFamilies": ["IPv5", "IPv4", "IPv4"], "ipFamilyPolicy": "Both"}),
            &[
                "spec.ipFamilies[0]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\"",
                "spec.ipFamilies[2]: Duplicate value: \"IPv4\"",
                "spec.ipFamilyPolicy: Unsupported value: \"Both\": supported values: \"PreferDualStack\", \
                 \"RequireDualStack\", \"SingleStack\"",
            ],
        ),
        row(
            "A52: a policy that is there but empty",
            V4V6,
            json!({"ports": port, "ipFamilyPolicy": ""}),
            &["spec.ipFamilyPolicy: Unsupported value: \"\": supported values: \"PreferDualStack\", \
               \"RequireDualStack\", \"SingleStack\""],
        ),
        row(
            "A53",
            V4V6,
            json!({"ports": port, "clusterIP": "None", "clusterIPs": ["None", "10.96.1.1"]}),
            &[
                "spec.clusterIPs: Invalid value: [\"None\",\"10.96.1.1\"]: 'None' must be the first and only value",
            ],
        ),
        row(
            "A53 A54: what follows is skipped",
            V4V6,
            json!({"ports": port, "clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1", "None"]}),
            &["spec.clusterIPs[1]: Invalid value: \"None\": must be a valid IP address, (e.g. 10.9.8.7 or \
               2001:db8::ffff)"],
        ),
        row(
            "A54, P3",
            V4V6,
            json!({"ports": port, "clusterIP": "010.096.001.001"}),
            &["spec.clusterIPs[0]: Invalid value: \"010.096.001.001\": must not have leading 0s"],
        ),
        row(
            "A54, P3",
            V4V6,
            json!({"ports": port, "clusterIP": "::ffff:10.96.1.1"}),
            &[
                "spec.clusterIPs[0]: Invalid value: \"::ffff:10.96.1.1\": must not be an IPv4-mapped IPv6 address",
            ],
        ),
        row(
            "A55",
            V4V6,
            json!({
                "ports": port, "ipFamilyPolicy": "PreferDualStack", "clusterIP": "10.96.1.1",
                "clusterIPs": ["10.96.1.1", "fd00:10:96::1", "10.96.1.2"]
            }),
            &[
                "spec.clusterIPs: Invalid value: [\"10.96.1.1\",\"fd00:10:96::1\",\"10.96.1.2\"]: may only hold up to 2 \
               values",
            ],
        ),
        row(
            "A56",
            V4V6,
            json!({
                "ports": port, "ipFamilyPolicy": "PreferDualStack", "clusterIP": "10.96.1.1",
                "clusterIPs": ["10.96.1.1", "10.96.1.2"]
            }),
            &[
                "spec.clusterIPs: Invalid value: [\"10.96.1.1\",\"10.96.1.2\"]: may specify no more than one IP for each \
               IP family",
            ],
        ),
        row(
            "A57",
            V4V6,
            json!({
                "ports": port, "ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6", "IPv4"],
                "clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1", "fd00:10:96::1"]
            }),
            &[
                "spec.clusterIPs[0]: Invalid value: \"10.96.1.1\": expected an IPv6 value as indicated by \
                 `ipFamilies[0]`",
                "spec.clusterIPs[1]: Invalid value: \"fd00:10:96::1\": expected an IPv4 value as indicated by \
                 `ipFamilies[1]`",
            ],
        ),
        row(
            "A121, P8, most often got wrong 11: the network address",
            V4V6,
            json!({"ports": port, "ipFamilyPolicy": "PreferDualStack", "clusterIP": "fd00:10:96::"}),
            &[
                "spec.clusterIPs: Invalid value: [\"fd00:10:96::\",\"\"]: failed to allocate IP fd00:10:96::: the provided \
               network does not match the current range",
            ],
        ),
        row(
            "A121, P8, most often got wrong 11: the IPv4 broadcast address",
            V4V6,
            json!({"ports": port, "clusterIP": "10.96.255.255"}),
            &[
                "spec.clusterIPs: Invalid value: [\"10.96.255.255\"]: failed to allocate IP 10.96.255.255: the provided \
               network does not match the current range",
            ],
        ),
        row("P8: the last IPv6 address", V4V6, json!({"ports": port, "clusterIP": "fd00:10:96::ffff"}), &[]),
        row(
            "Q1: families come first, and instead",
            V4,
            json!({"ports": [{"port": 0}], "ipFamilies": ["IPv6"]}),
            &["spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"],
        ),
        row(
            "A89",
            V4V6,
            json!({
                "type": "ExternalName", "clusterIP": "None", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                "externalName": "Bad_Name"
            }),
            &[
                "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
                "spec.ipFamilies: Forbidden: may not be set for ExternalName services",
                "spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services",
                "spec.externalName: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain must consist of lower \
                 case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
                 'example.com', regex used for validation is \
                 '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            ],
        ),
        row("A89", V4V6, json!({"type": "ExternalName"}), &["spec.externalName: Required value"]),
        row("A89", V4V6, json!({"type": "ExternalName", "externalName": "a.example."}), &[]),
    ]);
}

#[test]
fn the_rest_of_the_spec() {
    let port = json!([{"port": 80}]);
    assert_rows(vec![
        row("A80", V4V6, json!({}), &["spec.ports: Required value"]),
        row("A80", V4V6, json!({"clusterIP": "None"}), &[]),
        row(
            "A81",
            V4V6,
            json!({"ports": [{"port": 1}, {"port": 2, "name": "a"}, {"port": 3, "name": "a"}, {"port": 4, "name": "A"}]}),
            &[
                "spec.ports[0].name: Required value",
                "spec.ports[2].name: Duplicate value: \"a\"",
                "spec.ports[3].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case \
                 alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or \
                 '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ],
        ),
        row(
            "A82 A83 A84",
            V4V6,
            json!({"ports": [{"port": 65536, "protocol": "ICMP", "targetPort": "--"}]}),
            &[
                "spec.ports[0].port: Invalid value: 65536: must be between 1 and 65535, inclusive",
                "spec.ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "spec.ports[0].targetPort: Invalid value: \"--\": must contain at least one letter (a-z)",
                "spec.ports[0].targetPort: Invalid value: \"--\": must not contain consecutive hyphens",
                "spec.ports[0].targetPort: Invalid value: \"--\": must not begin or end with a hyphen",
            ],
        ),
        row(
            "A85",
            V4V6,
            json!({"ports": [{"port": 80, "appProtocol": "kubernetes.io/"}]}),
            &[
                "spec.ports[0].appProtocol: Invalid value: \"kubernetes.io/\": name part must be non-empty",
                "spec.ports[0].appProtocol: Invalid value: \"kubernetes.io/\": name part must consist of alphanumeric \
                 characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or \
                 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ],
        ),
        row(
            "A86: port and protocol twice",
            V4V6,
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}),
            &["spec.ports[1]: Duplicate value: \
               {\"AppProtocol\":null,\"Name\":\"\",\"NodePort\":0,\"Port\":80,\"Protocol\":\"TCP\",\"TargetPort\":0}"],
        ),
        row(
            "A86: other protocols",
            V4V6,
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b", "protocol": "UDP"}]}),
            &[],
        ),
        row(
            "A87",
            V4V6,
            json!({"ports": [{"port": 80, "nodePort": 30000}]}),
            &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        row(
            "A88",
            V4V6,
            json!({"ports": port, "type": "NodePort", "clusterIP": "None"}),
            &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
        ),
        row(
            "A88",
            V4V6,
            json!({"ports": port, "type": "LoadBalancer", "clusterIP": "None", "selector": {"a": "b"}}),
            &[
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for LoadBalancer services",
            ],
        ),
        row(
            "A90",
            V4V6,
            json!({"ports": port, "type": "Headless"}),
            &[
                "spec.type: Unsupported value: \"Headless\": supported values: \"ClusterIP\", \"ExternalName\", \
               \"LoadBalancer\", \"NodePort\"",
            ],
        ),
        row(
            "A91",
            V4V6,
            json!({"ports": port, "selector": {"app": "-"}}),
            &[
                "spec.selector: Invalid value: \"-\": a valid label must be an empty string or consist of alphanumeric \
               characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or \
               'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ],
        ),
        row(
            "A92",
            V4V6,
            json!({"ports": port, "sessionAffinity": "Cookie"}),
            &[
                "spec.sessionAffinity: Unsupported value: \"Cookie\": supported values: \"ClientIP\", \"None\"",
            ],
        ),
        row(
            "A92",
            V4V6,
            json!({
                "ports": port, "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}
            }),
            &[
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less \
               than 86400",
            ],
        ),
        row(
            "A93",
            V4V6,
            json!({"ports": port, "externalIPs": ["0.0.0.0", "x", "::1", "fe80::1", "224.0.0.1", "1.1.1.1", "2001:db8::1"]}),
            &[
                "spec.externalIPs[0]: Invalid value: \"0.0.0.0\": may not be unspecified (0.0.0.0)",
                "spec.externalIPs[1]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "spec.externalIPs[2]: Invalid value: \"::1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "spec.externalIPs[3]: Invalid value: \"fe80::1\": may not be in the link-local range (169.254.0.0/16, \
                 fe80::/10)",
                "spec.externalIPs[4]: Invalid value: \"224.0.0.1\": may not be in the link-local multicast range \
                 (224.0.0.0/24, ff02::/10)",
            ],
        ),
        row(
            "A94",
            V4V6,
            json!({"ports": port, "loadBalancerSourceRanges": [" 10.0.0.0/8 ", "10.0.0.1/8"]}),
            &[
                "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
                "spec.LoadBalancerSourceRanges[1]: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the \
                 prefix length",
            ],
        ),
        row(
            "A95 A96",
            V4V6,
            json!({"ports": port, "allocateLoadBalancerNodePorts": false, "loadBalancerClass": "a/b"}),
            &[
                "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
                "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ],
        ),
        row(
            "A96",
            V4V6,
            json!({"ports": port, "type": "LoadBalancer", "loadBalancerClass": "a/b/c"}),
            &[
                "spec.loadBalancerClass: Invalid value: \"a/b/c\": a valid label key must consist of alphanumeric \
               characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or \
               'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with \
               an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
            ],
        ),
        row("A97", V4V6, json!({"ports": port, "type": "LoadBalancer", "loadBalancerIP": "junk"}), &[]),
        row(
            "A98 A99",
            V4V6,
            json!({"ports": port, "externalTrafficPolicy": "Local", "healthCheckNodePort": 30000}),
            &[
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible \
                 services",
                "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and \
                 `externalTrafficPolicy` is 'Local'",
            ],
        ),
        row(
            "A98",
            V4V6,
            json!({"ports": port, "externalTrafficPolicy": "Nope", "externalIPs": ["1.1.1.1"]}),
            &[
                "spec.externalTrafficPolicy: Unsupported value: \"Nope\": supported values: \"Cluster\", \"Local\"",
            ],
        ),
        row(
            "A100",
            V4V6,
            json!({"ports": port, "internalTrafficPolicy": "Nope"}),
            &[
                "spec.internalTrafficPolicy: Unsupported value: \"Nope\": supported values: \"Cluster\", \"Local\"",
            ],
        ),
        row(
            "A101",
            V4V6,
            json!({"ports": port, "trafficDistribution": "Nope"}),
            &["spec.trafficDistribution: Unsupported value: \"Nope\": supported values: \"PreferClose\", \
               \"PreferSameZone\", \"PreferSameNode\""],
        ),
        row("A101", V4V6, json!({"clusterIP": "None", "trafficDistribution": "PreferSameNode"}), &[]),
    ]);
}

#[test]
fn annotations_with_a_meaning() {
    let ranges = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let mut world = World::v4v6();
    let mut put = |annotations: Value, kind: &str| {
        let spec = json!({"type": kind, "ports": [{"port": 80}]});
        world.put_object("s", json!({"metadata": {"annotations": annotations}, "spec": spec})).map(drop)
    };
    assert_eq!(
        put(
            json!({"service.kubernetes.io/topology-mode": "Auto", "service.kubernetes.io/topology-aware-hints": "no"}),
            "ClusterIP"
        ),
        Err(vec![
            "metadata.annotations[service.kubernetes.io/topology-mode]: Invalid value: \"Auto\": must match \
             annotations[service.kubernetes.io/topology-aware-hints] when both are specified"
                .to_owned()
        ]),
        "A102"
    );
    assert_eq!(
        put(json!({ranges: "x"}), "ClusterIP"),
        Err(vec![
            format!(
                "metadata.annotations[{ranges}]: Forbidden: may only be used when `type` is 'LoadBalancer'"
            ),
            format!(
                "metadata.annotations[{ranges}]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or \
                 2001:db8::/64)"
            )
        ]),
        "A94"
    );
    assert_eq!(put(json!({ranges: " 10.0.0.0/8 , fd00::/8 "}), "LoadBalancer"), Ok(()), "A94");
    assert_eq!(put(json!({ranges: ""}), "LoadBalancer"), Ok(()), "A94");
}

#[test]
fn names_are_labels() {
    use dyad_model::{SERVICE, Strategy};
    assert!(SERVICE.validate_name("9-lives").is_empty(), "A103");
    assert_eq!(SERVICE.validate_name("a.b"), ["must not contain dots"], "A103");
    assert_eq!(SERVICE.validate_name(&"a".repeat(64)), ["must be no more than 63 characters"], "A103");
    assert!(SERVICE.create_on_update(), "Q3");
}
