//! Changes of type, of the singular and the plural, and of what depends on them.

use serde_json::{Value, json};

use super::world::{Held, World, families};

#[test]
fn submitting_a_manifest_again_changes_nothing() {
    let manifests = [
        json!({"ports": [{"port": 80}]}),
        json!({"ports": [{"port": 80}], "ipFamilyPolicy": "RequireDualStack"}),
        json!({"clusterIP": "None", "ports": [{"port": 80}]}),
        json!({"type": "ExternalName", "externalName": "example.net"}),
        json!({"type": "NodePort", "ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]}),
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]}),
    ];
    for manifest in manifests {
        let mut world = World::v4v6();
        let first = world.put("s", manifest.clone()).unwrap();
        let held = world.held.clone();
        let again = world.put("s", manifest.clone()).unwrap();
        assert_eq!(first, again, "A31, A32, A33: {manifest}");
        assert_eq!(held, world.held, "A31, A32, A33: {manifest}");
    }
}

/// What a body says of the two fields, and what comes of it; the stored Service has 10.96.0.1 and fd00:10:96::1.
#[test]
fn singular_and_plural() {
    #[rustfmt::skip]
    let both = ["10.96.0.1", "fd00:10:96::1"];
    let cases = [
        ("A34", json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:10:96::1"]}), Ok(both)),
        ("A35", json!({"clusterIP": "10.96.0.1"}), Ok(both)),
        ("A31, most often got wrong 1: clearing is a no-op", json!({}), Ok(both)),
        (
            "A31 A37",
            json!({"clusterIPs": ["10.96.0.1"]}),
            Err(
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary \
             cluster IP",
            ),
        ),
        (
            "A38",
            json!({"clusterIP": "10.96.9.9"}),
            Err(
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary \
             cluster IP",
            ),
        ),
        (
            "A39",
            json!({"clusterIP": "10.96.9.9", "clusterIPs": ["10.96.0.1", "fd00:10:96::9"]}),
            Err(
                "spec.clusterIPs: Invalid value: [\"10.96.0.1\",\"fd00:10:96::9\"]: first value must match `clusterIP`",
            ),
        ),
        (
            "A41",
            json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:10:96::9"]}),
            Err(
                "spec.clusterIPs[1]: Invalid value: [\"10.96.0.1\",\"fd00:10:96::9\"]: may not change once set",
            ),
        ),
    ];
    for (rule, fields, want) in cases {
        let mut world = World::v4v6();
        world.put("s", json!({"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]})).unwrap();
        let mut body = json!({"ports": [{"port": 80}]});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let got = world.put("s", body);
        match want {
            Ok(ips) => assert_eq!(families(&got.unwrap()).2, ips, "{rule}"),
            Err(error) => assert_eq!(got.unwrap_err(), [error], "{rule}"),
        }
        world.check();
    }
    // A36: only towards ExternalName is there anything to clear.
    let mut world = World::v4v6();
    world.put("s", json!({"ports": [{"port": 80}]})).unwrap();
    let cleared = json!({"type": "ExternalName", "externalName": "example.net", "clusterIP": null});
    assert_eq!(world.patch("s", cleared).unwrap()["spec"].get("clusterIPs"), None, "A36");
    assert_eq!(world.held, Held::default(), "A36");
}

/// Every pair of types, there and back, by a patch of the type alone where that is enough.
#[test]
fn all_types_become_all_others() {
    let kinds = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    for from in kinds {
        for to in kinds {
            let mut world = World::v4v6();
            let spec =
                |kind: &str| json!({"type": kind, "externalName": "example.net", "ports": [{"port": 80}]});
            world.put("s", spec(from)).unwrap();
            let object = world.patch("s", json!({"type": to})).unwrap();
            let mut fresh = World::v4v6();
            let direct = fresh.put("s", spec(to)).unwrap();
            assert_eq!(object["spec"], direct["spec"], "A110 to A114: {from} to {to}");
            assert_eq!(world.held, fresh.held, "A123: {from} to {to}");
            world.delete("s");
        }
    }
}

#[test]
fn headless_becomes_external_name_and_back() {
    let mut world = World::v4v6();
    world.put("s", json!({"clusterIP": "None", "selector": {"a": "b"}})).unwrap();
    let external = world.patch("s", json!({"type": "ExternalName", "externalName": "example.net"})).unwrap();
    assert_eq!(external["spec"].get("clusterIP"), None, "A110");
    let back = world.patch("s", json!({"type": "ClusterIP", "clusterIP": "None"})).unwrap();
    assert_eq!(families(&back), ("SingleStack", vec!["IPv4"], vec!["None"]), "A44");
    // Only a round trip through ExternalName exchanges the families (A72).
    world.patch("s", json!({"type": "ExternalName"})).unwrap();
    let other =
        json!({"type": "ClusterIP", "ipFamilies": ["IPv6"], "ports": [{"port": 80}], "clusterIP": null});
    assert_eq!(families(&world.patch("s", other).unwrap()).1, ["IPv6"], "A72");
}

#[test]
fn fields_the_client_changed_are_not_wiped() {
    for (rule, old, patch, want) in [
        (
            "A110",
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            json!({"type": "ExternalName", "externalName": "a.b", "ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"}),
            vec![
                "spec.ipFamilies: Forbidden: may not be set for ExternalName services",
                "spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services",
            ],
        ),
        (
            "A111",
            json!({"type": "NodePort"}),
            json!({"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 30007}]}),
            vec!["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (
            "A112",
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}),
            json!({"externalTrafficPolicy": "Cluster", "healthCheckNodePort": 30007}),
            vec![
                "spec.healthCheckNodePort: Invalid value: 30007: may only be set when `type` is 'LoadBalancer' and \
                 `externalTrafficPolicy` is 'Local'",
            ],
        ),
        (
            "A113",
            json!({"type": "LoadBalancer", "loadBalancerClass": "a/b"}),
            json!({"type": "ClusterIP", "loadBalancerClass": "a/c", "allocateLoadBalancerNodePorts": false}),
            vec![
                "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
                "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'",
                "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ],
        ),
        (
            "A114",
            json!({"type": "NodePort"}),
            json!({"type": "ClusterIP", "externalTrafficPolicy": "Local"}),
            vec![
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ],
        ),
        (
            "A116",
            json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8"]}),
            json!({"type": "ClusterIP"}),
            vec!["spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"],
        ),
    ] {
        let mut world = World::v4v6();
        let mut spec = json!({"ports": [{"port": 80}]});
        spec.as_object_mut().unwrap().extend(old.as_object().unwrap().clone());
        world.put("s", spec).unwrap();
        assert_eq!(world.patch("s", patch).unwrap_err(), want, "{rule}");
        world.check();
    }
}

#[test]
fn what_depends_on_being_reachable_goes_with_it() {
    let mut world = World::v4v6();
    let object = world.put("s", json!({"externalIPs": ["192.0.2.1"], "ports": [{"port": 80}]})).unwrap();
    assert_eq!(object["spec"]["externalTrafficPolicy"], "Cluster", "A6");
    let object = world.patch("s", json!({"externalIPs": null})).unwrap();
    assert_eq!(object["spec"].get("externalTrafficPolicy"), None, "A114");
    // A116: the rest stays.
    let spec = json!({
        "type": "LoadBalancer", "loadBalancerIP": "192.0.2.9", "externalName": "example.net",
        "selector": {"a": "b"}, "ports": [{"port": 80}]
    });
    world.put("s", spec).unwrap();
    let object = world.patch("s", json!({"type": "ExternalName"})).unwrap();
    assert_eq!(
        object["spec"],
        json!({
            "type": "ExternalName", "loadBalancerIP": "192.0.2.9", "externalName": "example.net",
            "selector": {"a": "b"}, "sessionAffinity": "None",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]
        }),
        "A110 to A116, A12"
    );
}

#[test]
fn what_may_not_change() {
    let mut world = World::v4v6();
    let spec = json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "loadBalancerClass": "a/b", "ports": [{"port": 80}]
    });
    world.put("s", spec).unwrap();
    assert_eq!(
        world.patch("s", json!({"loadBalancerClass": "a/c"})).unwrap_err(),
        ["spec.loadBalancerClass: Invalid value: \"a/c\": may not change once set"],
        "A70"
    );
    assert_eq!(
        world.patch("s", json!({"loadBalancerClass": null})).unwrap_err(),
        ["spec.loadBalancerClass: Invalid value: null: may not change once set"],
        "A70"
    );
    assert_eq!(
        world.patch("s", json!({"healthCheckNodePort": 30777})).unwrap_err(),
        ["spec.healthCheckNodePort: Forbidden: field is immutable"],
        "A71"
    );
}

#[test]
fn old_values_are_not_looked_at_again() {
    let mut world = World::v4v6();
    world.put("s", json!({"type": "LoadBalancer", "ports": [{"port": 80}]})).unwrap();
    // As an older server may have stored them.
    let stored = world.objects.get_mut("s").unwrap();
    stored["spec"]["externalIPs"] = json!(["010.1.1.1"]);
    stored["spec"]["loadBalancerSourceRanges"] = json!(["10.0.0.1/8"]);
    stored["metadata"]["annotations"] = json!({});
    world.patch("s", json!({"externalName": "x"})).expect("P4");
    assert_eq!(
        world.patch(
            "s",
            json!({"externalIPs": ["010.1.1.1", "010.1.1.2"], "loadBalancerSourceRanges": [" 10.0.0.1/8"]})
        ),
        Err(vec!["spec.externalIPs[1]: Invalid value: \"010.1.1.2\": must not have leading 0s".to_owned()]),
        "P4"
    );
}

#[test]
fn status_is_written_through_its_own_door() {
    let mut world = World::v4v6();
    let spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
    let with_status = json!({"spec": spec, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    let object = world.put_object("s", with_status.clone()).unwrap();
    assert_eq!(object["status"], json!({"loadBalancer": {}}), "status is not the client's on create");
    let object = world.put_object("s", with_status).unwrap();
    assert_eq!(object["status"], json!({"loadBalancer": {}}), "nor on update");
    let ingress = |entries: Value| json!({"loadBalancer": {"ingress": entries}});
    let object =
        world.put_status("s", ingress(json!([{"ip": "192.0.2.1"}, {"hostname": "lb.example.net"}]))).unwrap();
    assert_eq!(
        object["status"],
        ingress(json!([{"ip": "192.0.2.1", "ipMode": "VIP"}, {"hostname": "lb.example.net"}])),
        "A9"
    );
    assert_eq!(object["spec"]["type"], "LoadBalancer", "the spec is not written through the status");
    let object = world.patch("s", json!({"selector": {"a": "b"}})).unwrap();
    assert_eq!(object["status"]["loadBalancer"]["ingress"][0]["ip"], "192.0.2.1", "status stays on update");
    let object = world.patch("s", json!({"type": "NodePort"})).unwrap();
    assert_eq!(object["status"], json!({"loadBalancer": {}}), "A115");
    for (entries, want) in [
        (
            json!([{"ip": "192.0.2.1"}]),
            vec![
                "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'",
            ],
        ),
        (json!([]), vec![]),
    ] {
        assert_eq!(world.put_status("s", ingress(entries)).err().unwrap_or_default(), want, "A105");
    }
    world.patch("s", json!({"type": "LoadBalancer"})).unwrap();
    let bad = json!([
        {"ip": "x"}, {"ipMode": "VIP"}, {"ip": "192.0.2.1", "ipMode": "Nope"}, {"hostname": "192.0.2.1"}, {"hostname": "A"}
    ]);
    assert_eq!(
        world.put_status("s", ingress(bad)).unwrap_err(),
        [
            "status.loadBalancer.ingress[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or \
             2001:db8::ffff)",
            "status.loadBalancer.ingress[1].ipMode: Forbidden: may not be specified when `ip` is not set",
            "status.loadBalancer.ingress[2].ipMode: Unsupported value: \"Nope\": supported values: \"Proxy\", \"VIP\"",
            "status.loadBalancer.ingress[3].hostname: Invalid value: \"192.0.2.1\": must be a DNS name, not an IP address",
            "status.loadBalancer.ingress[4].hostname: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of \
             lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
             'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ],
        "A105"
    );
}
