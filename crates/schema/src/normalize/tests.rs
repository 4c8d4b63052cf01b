use serde_json::{Map, json};

use super::*;

fn service() -> Schema {
    Schema::for_kind("", "v1", "Service").unwrap()
}

fn normalized(group: &str, kind: &str, object: Value) -> Value {
    Schema::for_kind(group, "v1", kind).unwrap().check_and_normalize(&object).unwrap().object
}

/// J15: what is empty is left out, what may not be left out is there.
#[test]
fn a_round_trip_through_go() {
    let rows = [
        (
            "",
            "Service",
            json!({"kind": "Service", "metadata": {"name": "a", "labels": {}, "creationTimestamp": null}, "spec": {
                "clusterIP": "", "ports": [{"port": 80, "nodePort": 0, "targetPort": null}], "selector": null,
                "allocateLoadBalancerNodePorts": false}}),
            json!({"kind": "Service", "metadata": {"name": "a"}, "spec": {
                "ports": [{"port": 80, "targetPort": 0}], "allocateLoadBalancerNodePorts": false},
                "status": {"loadBalancer": {}}}),
        ),
        (
            "apps",
            "Deployment",
            json!({"metadata": {"name": "a"}, "spec": {"replicas": 0, "selector": null, "minReadySeconds": 0,
                "template": {"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": 1, "memory": "1024Mi"}}}]}}}}),
            json!({"metadata": {"name": "a"}, "spec": {"replicas": 0, "selector": null, "strategy": {},
                "template": {"metadata": {}, "spec": {"containers": [
                    {"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}}}, "status": {}}),
        ),
        (
            "",
            "Pod",
            json!({"spec": {"containers": null}, "status": {"conditions": [{"type": "Ready", "status": "True",
                "lastTransitionTime": "2024-01-01T02:00:00+02:00"}]}}),
            json!({"metadata": {}, "spec": {"containers": null}, "status": {"conditions": [{"type": "Ready", "status": "True",
                "lastProbeTime": null, "lastTransitionTime": "2024-01-01T00:00:00Z"}]}}),
        ),
        (
            "",
            "Secret",
            json!({"data": {"a": "YQ==", "b": null, "c": ""}, "stringData": {}}),
            json!({"metadata": {}, "data": {"a": "YQ==", "b": "", "c": ""}}),
        ),
        ("", "ConfigMap", json!({"data": {"a": null}}), json!({"metadata": {}, "data": {"a": ""}})),
        ("rbac.authorization.k8s.io", "Role", json!({"rules": []}), json!({"metadata": {}, "rules": null})),
        (
            "coordination.k8s.io",
            "Lease",
            json!({"spec": {"renewTime": "2024-01-01T00:00:00.000001Z"}}),
            json!({"metadata": {}, "spec": {"renewTime": "2024-01-01T00:00:00.000001Z"}}),
        ),
        (
            "discovery.k8s.io",
            "EndpointSlice",
            json!({"addressType": "IPv6", "endpoints": [{"addresses": ["::1"], "conditions": {"ready": false}}], "ports": []}),
            json!({"metadata": {}, "addressType": "IPv6",
                "endpoints": [{"addresses": ["::1"], "conditions": {"ready": false}}], "ports": null}),
        ),
    ];
    for (group, kind, object, want) in rows {
        assert_eq!(normalized(group, kind, object), want, "{kind}");
    }
}

/// J43: the words of Go's decoder.
#[test]
fn wrong_types_are_refused_in_go_s_words() {
    #[rustfmt::skip]
    let rows = [
        (json!({"spec": {"ports": [{"port": "http"}]}}), "json: cannot unmarshal string into Go struct field ServicePort.spec.ports.port of type int32"),
        (json!({"spec": {"ports": [{"port": 1.5}]}}), "json: cannot unmarshal number 1.5 into Go struct field ServicePort.spec.ports.port of type int32"),
        (json!({"spec": {"ports": [{"port": 3000000000u32}]}}), "json: cannot unmarshal number 3000000000 into Go struct field ServicePort.spec.ports.port of type int32"),
        (json!({"spec": {"ports": [{"protocol": 6}]}}), "json: cannot unmarshal number into Go struct field ServicePort.spec.ports.protocol of type v1.Protocol"),
        (json!({"spec": {"ports": {}}}), "json: cannot unmarshal object into Go struct field ServiceSpec.spec.ports of type []v1.ServicePort"),
        (json!({"spec": []}), "json: cannot unmarshal array into Go struct field Service.spec of type v1.ServiceSpec"),
        (json!({"spec": {"selector": {"a": 1}}}), "json: cannot unmarshal number into Go struct field ServiceSpec.spec.selector of type string"),
        (json!({"spec": {"clusterIPs": "10.0.0.1"}}), "json: cannot unmarshal string into Go struct field ServiceSpec.spec.clusterIPs of type []string"),
        (json!({"spec": {"publishNotReadyAddresses": "true"}}), "json: cannot unmarshal string into Go struct field ServiceSpec.spec.publishNotReadyAddresses of type bool"),
        (json!({"spec": {"ports": [{"targetPort": true}]}}), "json: cannot unmarshal bool into Go struct field ServicePort.spec.ports.targetPort of type int32"),
        (json!({"metadata": {"name": 1}}), "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.name of type string"),
        (json!({"metadata": {"labels": ["a"]}}), "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type map[string]string"),
        (json!({"metadata": {"creationTimestamp": "now"}}), r#"parsing time "now" as "2006-01-02T15:04:05Z07:00": cannot parse "now" as "2006""#),
    ];
    for (object, want) in rows {
        assert_eq!(
            service().check_and_normalize(&object),
            Err(DecodeError::Type(want.to_owned())),
            "{object}"
        );
    }
    let error = service().decode(br#"{"spec":{"type":1}}"#).unwrap_err();
    assert_eq!(
        error.bad_request("Service", "v1", b""),
        "Service in version \"v1\" cannot be handled as a Service: json: cannot unmarshal number into Go struct \
         field ServiceSpec.spec.type of type v1.ServiceType"
    );
}

/// J43: unknown and duplicate fields, in the order of the body.
#[test]
fn strict_errors_name_the_path() {
    let body = br#"{"kind":"Service","zz":1,"spec":{"x":{"deep":1},"type":"ClusterIP","type":"NodePort",
        "ports":[{"port":1},{"port":2,"Port":3,"port":4}],"selector":{"a":"b","a":"c"}},"Metadata":{}}"#;
    let decoded = service().decode(body).unwrap();
    assert_eq!(
        decoded.strict,
        [
            "unknown field \"zz\"",
            "unknown field \"spec.x\"",
            "duplicate field \"spec.type\"",
            "unknown field \"spec.ports[1].Port\"",
            "duplicate field \"spec.ports[1].port\"",
            "duplicate field \"spec.selector.a\"",
            "unknown field \"Metadata\"",
        ]
    );
    assert_eq!(decoded.object["spec"]["type"], "NodePort");
    assert_eq!(decoded.object["spec"]["ports"][1]["port"], 4);
    assert!(decoded.object.get("zz").is_none());
    assert_eq!(
        strict_message(&decoded.strict[..2]),
        "strict decoding error: unknown field \"zz\", unknown field \"spec.x\""
    );
}

#[test]
fn strict_errors_are_reported_once_and_not_without_end() {
    let twice = service().decode(br#"{"a":1,"a":2}"#).unwrap();
    assert_eq!(twice.strict, ["unknown field \"a\""]);
    let many: Map<String, Value> = (0..500).map(|index| (format!("x{index}"), Value::Null)).collect();
    assert_eq!(service().check_and_normalize(&Value::Object(many)).unwrap().strict.len(), 100);
}

#[test]
fn duplicates_are_found_without_a_schema() {
    let body = br#"{"a":{"b":1,"b":2,"c":[{"d":1},{"d":1,"d":2}]},"a":3}"#;
    assert_eq!(
        find_duplicates(body).unwrap(),
        ["duplicate field \"a.b\"", "duplicate field \"a.c[1].d\"", "duplicate field \"a\""]
    );
    assert!(find_duplicates(br#"{"a":1}"#).unwrap().is_empty());
}

#[test]
fn bad_json_is_refused_in_go_s_words() {
    #[rustfmt::skip]
    let rows = [
        ("", "unexpected end of JSON input"),
        ("{", "unexpected end of JSON input"),
        ("{\"a\":", "unexpected end of JSON input"),
        ("kind: Service", "invalid character 'k' looking for beginning of value"),
        ("{a:1}", "invalid character 'a' looking for beginning of object key string"),
        ("{\"a\" 1}", "invalid character '1' after object key"),
        ("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
        ("{\"a\":[1 2]}", "invalid character '2' after array element"),
        ("{} x", "invalid character 'x' after top-level value"),
    ];
    for (body, want) in rows {
        assert_eq!(
            service().decode(body.as_bytes()),
            Err(DecodeError::Unrecognized(want.to_owned())),
            "{body}"
        );
    }
    let reader = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
    #[rustfmt::skip]
    let messages = [
        ("", "unexpected end of JSON input (<empty>)".to_owned()),
        ("kind: Service", "invalid character 'k' looking for beginning of value (6b696e643a2053657276696365)".to_owned()),
        ("{\"spec\": {\"a\": 1, \"bbbbbbbbbbbbbbbb\"", "unexpected end of JSON input ({\"spec\": {\"a\": 1, \"bbbbbbbbbbb ...)".to_owned()),
        ("[]", format!("json: cannot unmarshal array into Go value of type {reader} (5b5d)")),
        ("{\"spec\":1,\"kind\":2}", "json: cannot unmarshal number into Go struct field .kind of type string ({\"spec\":1,\"kind\":2})".to_owned()),
    ];
    for (body, want) in messages {
        let error = service().decode(body.as_bytes()).unwrap_err();
        assert_eq!(
            error.bad_request("Service", "v1", body.as_bytes()),
            format!(
                "the object provided is unrecognized (must be of type Service): couldn't get version/kind; json \
                 parse error: {want}"
            )
        );
    }
}

mod property {
    use proptest::prelude::*;

    use super::*;

    /// Any JSON that a client might send in place of a Service, half of it with names that exist.
    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-3i64..70000).prop_map(Value::from),
            "[a-z0-9.:]{0,6}".prop_map(Value::from),
            Just(Value::from("2024-01-01T00:00:00+01:00")),
        ];
        let name = prop::sample::select(vec![
            "metadata",
            "spec",
            "status",
            "ports",
            "port",
            "targetPort",
            "name",
            "labels",
            "selector",
            "clusterIPs",
            "conditions",
            "containers",
            "resources",
            "limits",
            "type",
            "lastTransitionTime",
            "x",
        ]);
        leaf.prop_recursive(5, 40, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map(name.clone().prop_map(str::to_owned), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn normalizing_twice_is_normalizing_once(object in tree(), kind in prop::sample::select(vec!["Service", "Pod", "Node", "Secret"])) {
            let schema = Schema::for_kind("", "v1", kind).unwrap();
            if let Ok(once) = schema.check_and_normalize(&object) {
                let twice = schema.check_and_normalize(&once.object).unwrap();
                prop_assert_eq!(&twice.object, &once.object);
                prop_assert!(twice.strict.is_empty());
                let bytes = serde_json::to_vec(&once.object).unwrap();
                prop_assert_eq!(schema.decode(&bytes).unwrap().object, once.object);
            }
        }
    }
}
