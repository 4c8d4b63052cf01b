//! Defaults, Services of older servers as they are shown, and warnings (P6, A106).

use dyad_model::{Context, SERVICE, Strategy};
use serde_json::{Value, json};

use super::world::World;

#[test]
fn defaults() {
    #[rustfmt::skip]
    let cases = [
        ("A1 A2 A3 A4 A7", json!({"ports": [{"port": 80}]}),
            json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                   "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]})),
        ("A3", json!({"ports": [{"port": 80, "targetPort": ""}, {"port": 81, "targetPort": 0}, {"port": 82, "targetPort": "web"}]}),
            json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "ports": [
                {"port": 80, "protocol": "TCP", "targetPort": 80}, {"port": 81, "protocol": "TCP", "targetPort": 81},
                {"port": 82, "protocol": "TCP", "targetPort": "web"}]})),
        ("A4", json!({"sessionAffinity": "None", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 9}}}),
            json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster"})),
        ("A5", json!({"sessionAffinity": "ClientIP"}),
            json!({"type": "ClusterIP", "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Cluster",
                   "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}})),
        ("A5", json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {}}}),
            json!({"type": "ClusterIP", "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Cluster",
                   "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}})),
        ("A5", json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 9}}}),
            json!({"type": "ClusterIP", "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Cluster",
                   "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 9}}})),
        ("A6", json!({"type": "NodePort"}),
            json!({"type": "NodePort", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                   "externalTrafficPolicy": "Cluster"})),
        ("A6", json!({"externalIPs": ["192.0.2.1"]}),
            json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                   "externalTrafficPolicy": "Cluster", "externalIPs": ["192.0.2.1"]})),
        ("A6 A7", json!({"type": "ExternalName", "externalIPs": ["192.0.2.1"], "internalTrafficPolicy": "Local"}),
            json!({"type": "ExternalName", "sessionAffinity": "None", "internalTrafficPolicy": "Local",
                   "externalIPs": ["192.0.2.1"]})),
        ("A8", json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "publishNotReadyAddresses": true}),
            json!({"type": "LoadBalancer", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                   "externalTrafficPolicy": "Local", "allocateLoadBalancerNodePorts": true,
                   "publishNotReadyAddresses": true})),
        ("A10", json!({"clusterIP": "None"}),
            json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                   "clusterIP": "None"})),
    ];
    for (rule, spec, want) in cases {
        let mut object = json!({"spec": spec});
        SERVICE.default(&mut object);
        assert_eq!(object["spec"], want, "{rule}");
        assert_eq!(object["status"], json!({"loadBalancer": {}}), "{rule}");
        let once = object.clone();
        SERVICE.default(&mut object);
        assert_eq!(object, once, "{rule}: a second time changes nothing");
    }
    let ingress = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "a"}, {"ip": "::1", "ipMode": "Proxy"}]}});
    let mut object = json!({"spec": {"type": "LoadBalancer"}, "status": ingress});
    SERVICE.default(&mut object);
    assert_eq!(
        object["status"]["loadBalancer"]["ingress"],
        json!([{"ip": "192.0.2.1", "ipMode": "VIP"}, {"hostname": "a"}, {"ip": "::1", "ipMode": "Proxy"}]),
        "A9"
    );
}

#[test]
fn services_of_older_servers() {
    #[rustfmt::skip]
    let cases = [
        ("A11 A16", "v6v4", json!({"clusterIP": "10.0.0.1"}), json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]})),
        ("A11 A16", "v4", json!({"clusterIP": "fd00::1"}), json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"],
            "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"]})),
        ("A12", "v4v6", json!({"type": "ExternalName", "internalTrafficPolicy": "Cluster"}), json!({"type": "ExternalName"})),
        ("A13", "v4v6", json!({"clusterIP": "10.0.0.1", "ipFamilies": ["IPv6"]}), json!({"clusterIP": "10.0.0.1",
            "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv6"]})),
        ("A14", "v4v6", json!({"clusterIP": "None"}), json!({"clusterIP": "None", "clusterIPs": ["None"],
            "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]})),
        ("A14", "v6", json!({"clusterIP": "None"}), json!({"clusterIP": "None", "clusterIPs": ["None"],
            "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]})),
        ("A15", "v6v4", json!({"clusterIP": "None", "selector": {"a": "b"}}), json!({"clusterIP": "None",
            "clusterIPs": ["None"], "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"], "selector": {"a": "b"}})),
        ("A17", "v4", json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.0.0.1"]}), json!({"clusterIP": "fd00::1",
            "clusterIPs": ["fd00::1", "10.0.0.1"], "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]})),
    ];
    for (rule, cluster, spec, want) in cases {
        let mut object = json!({"spec": spec});
        SERVICE.decorate(&mut object, &World::of(cluster).cluster);
        assert_eq!(object["spec"], want, "{rule} on {cluster}");
    }
}

/// The old object of an update is what is shown, not what is stored.
#[test]
fn an_old_service_can_be_upgraded() {
    let mut world = World::v4v6();
    world.put("s", json!({"ports": [{"port": 80}]})).unwrap();
    let spec = world.objects.get_mut("s").unwrap()["spec"].as_object_mut().unwrap();
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        spec.remove(field);
    }
    let object = world.patch("s", json!({"ipFamilyPolicy": "PreferDualStack"})).unwrap();
    assert_eq!(object["spec"]["clusterIPs"], json!(["10.96.0.1", "fd00:10:96::1"]), "A11 A16 A47");
}

#[test]
fn warnings() {
    let world = World::v4v6();
    let ask = |object: Value, subresource| {
        let cx = Context {
            objects: &dyad_model::NoObjects,
            cluster: &world.cluster,
            subresource,
            now: "2026-01-01T00:00:00Z",
        };
        SERVICE.warnings(&object, None, &cx)
    };
    #[rustfmt::skip]
    let cases: &[(&str, Value, &[&str])] = &[
        ("P6", json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "sessionAffinity": "None"}), &[]),
        ("P6", json!({"clusterIP": "FD00::1", "clusterIPs": ["FD00::1", "010.0.0.1"], "loadBalancerIP": "::ffff:1.2.3.4",
                      "loadBalancerSourceRanges": ["10.0.0.1/8"]}),
            &["spec.clusterIPs[0]: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")",
              "spec.clusterIPs[1]: non-standard IP address \"010.0.0.1\" is invalid: use \"10.0.0.1\"",
              "spec.loadBalancerIP: non-standard IP address \"::ffff:1.2.3.4\" is invalid: use \"1.2.3.4\"",
              "spec.loadBalancerSourceRanges[0]: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \
               \"10.0.0.0/8\" or \"10.0.0.1/32\"?)"]),
        ("A106", json!({"type": "ClusterIP", "clusterIP": "None", "loadBalancerIP": "192.0.2.1", "externalIPs": ["192.0.2.1"],
                        "sessionAffinity": "ClientIP"}),
            &["spec.loadBalancerIP is ignored for headless services", "spec.externalIPs is ignored for headless services",
              "spec.SessionAffinity is ignored for headless services"]),
        ("A106", json!({"type": "ClusterIP", "externalIPs": ["2001:DB8::1"], "externalName": "x"}),
            &["spec.externalIPs[0]: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")",
              "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
              "spec.externalName is ignored when spec.type is not \"ExternalName\""]),
        ("A106", json!({"type": "ExternalName", "externalIPs": ["192.0.2.1"], "externalName": "x"}),
            &["spec.externalIPs is ignored when spec.type is \"ExternalName\""]),
        ("A101", json!({"trafficDistribution": "PreferClose"}),
            &["spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\""]),
    ];
    for (rule, spec, want) in cases {
        assert_eq!(ask(json!({"spec": spec}), ""), *want, "{rule}: {spec}");
    }
    let hints = json!({"metadata": {"annotations": {"service.kubernetes.io/topology-aware-hints": "Auto"}}});
    assert_eq!(
        ask(hints, ""),
        ["annotation service.kubernetes.io/topology-aware-hints is deprecated, please use \
          service.kubernetes.io/topology-mode instead"]
    );
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "FD00::1"}, {"hostname": "a"}]}}});
    assert_eq!(
        ask(status, "status"),
        [
            "status.loadBalancer.ingress[1]: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")"
        ],
        "P6"
    );
}
