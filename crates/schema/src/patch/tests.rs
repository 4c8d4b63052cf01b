use serde_json::json;

use super::*;

fn schema(group: &str, kind: &str) -> Schema {
    Schema::for_kind(group, "v1", kind).unwrap()
}

fn normalized(schema: &Schema, object: &Value) -> Value {
    schema.check_and_normalize(object).unwrap().object
}

fn strategic(schema: &Schema, original: &Value, patch: &Value) -> Result<Value, PatchError> {
    let original = normalized(schema, original);
    apply(schema, PatchType::Strategic, &original, patch.to_string().as_bytes())?.require_strict()
}

fn service() -> Value {
    json!({"metadata": {"name": "a", "labels": {"x": "1"}, "finalizers": ["f1", "f2"]}, "spec": {"type": "ClusterIP",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080},
                  {"name": "https", "port": 443, "protocol": "TCP", "targetPort": 8443}]}})
}

/// J42, one row per directive and merge key.
#[test]
fn strategic_merge_obeys_its_rules() {
    let port = |port: u16| json!({"name": format!("p{port}"), "port": port, "targetPort": port});
    let rows = [
        (
            "J42 lists merge by key",
            json!({"spec": {"ports": [{"port": 443, "targetPort": 9443}, {"name": "p1", "port": 1, "targetPort": 1}]}}),
            "/spec/ports",
            json!([{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080},
                {"name": "https", "port": 443, "protocol": "TCP", "targetPort": 9443}, port(1)]),
        ),
        (
            "J42 $patch: delete of an element",
            json!({"spec": {"ports": [{"$patch": "delete", "port": 80}]}}),
            "/spec/ports",
            json!([{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 8443}]),
        ),
        (
            "J42 $patch: replace as an element",
            json!({"spec": {"ports": [port(1), {"$patch": "replace"}, port(2)]}}),
            "/spec/ports",
            json!([port(1), port(2)]),
        ),
        (
            "J42 $patch: replace of a map",
            json!({"metadata": {"labels": {"$patch": "replace", "y": "2"}}}),
            "/metadata/labels",
            json!({"y": "2"}),
        ),
        (
            "J42 $patch: delete of a map, which is then empty and left out",
            json!({"metadata": {"labels": {"$patch": "delete"}}}),
            "/metadata/labels",
            Value::Null,
        ),
        (
            "J42 $setElementOrder",
            json!({"spec": {"$setElementOrder/ports": [{"port": 443}, {"port": 2}, {"port": 80}], "ports": [port(2)]}}),
            "/spec/ports",
            json!([{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 8443}, port(2),
                {"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]),
        ),
        (
            "J42 $setElementOrder keeps what only the server knows",
            json!({"spec": {"$setElementOrder/ports": [{"port": 9}, {"port": 443}], "ports": [port(9)]}}),
            "/spec/ports",
            json!([port(9), {"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080},
                {"name": "https", "port": 443, "protocol": "TCP", "targetPort": 8443}]),
        ),
        (
            "J42 primitive lists merge as sets",
            json!({"metadata": {"finalizers": ["f3", "f1"]}}),
            "/metadata/finalizers",
            json!(["f3", "f1", "f2"]),
        ),
        (
            "J42 $deleteFromPrimitiveList",
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["f1", "other"]}}),
            "/metadata/finalizers",
            json!(["f2"]),
        ),
        (
            "J42 atomic lists are replaced",
            json!({"spec": {"clusterIPs": ["10.0.0.1", "fd00::1"]}}),
            "/spec/clusterIPs",
            json!(["10.0.0.1", "fd00::1"]),
        ),
        ("null removes", json!({"metadata": {"labels": {"x": null}}}), "/metadata/labels", Value::Null),
        (
            "null in new content is dropped",
            json!({"metadata": {"annotations": {"a": null, "b": ""}}}),
            "/metadata/annotations",
            json!({"b": ""}),
        ),
    ];
    for (rule, patch, at, want) in rows {
        let patched = strategic(&schema("", "Service"), &service(), &patch).unwrap();
        assert_eq!(patched.pointer(at).cloned().unwrap_or_default(), want, "{rule}");
    }
}

/// J42: two ports with one number collide; upstream merges into the first.
#[test]
fn merge_keys_that_are_not_unique_merge_into_the_first() {
    let original = json!({"spec": {"ports": [
        {"name": "tcp", "port": 53, "protocol": "TCP"}, {"name": "udp", "port": 53, "protocol": "UDP"}]}});
    let patch = json!({"spec": {"ports": [{"port": 53, "name": "x"}]}});
    let patched = strategic(&schema("", "Service"), &original, &patch).unwrap();
    assert_eq!(
        patched["spec"]["ports"],
        json!([{"name": "x", "port": 53, "protocol": "TCP", "targetPort": 0},
            {"name": "udp", "port": 53, "protocol": "UDP", "targetPort": 0}])
    );
}

/// B35: how a kubelet writes two addresses of one type.
#[test]
fn node_addresses_are_replaced_whole() {
    let node = schema("", "Node");
    let original = json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.9"},
        {"type": "Hostname", "address": "old"}]}});
    let both =
        json!([{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "InternalIP", "address": "fd00::1"}]);
    let mut elements = both.as_array().unwrap().clone();
    elements.push(json!({"$patch": "replace"}));
    let patched = strategic(&node, &original, &json!({"status": {"addresses": elements}})).unwrap();
    assert_eq!(patched["status"]["addresses"], both);
    // Without the directive both merge into one element: the known corruption.
    let patched = strategic(&node, &original, &json!({"status": {"addresses": both}})).unwrap();
    assert_eq!(
        patched["status"]["addresses"],
        json!([{"type": "InternalIP", "address": "fd00::1"}, {"type": "Hostname", "address": "old"}])
    );
}

/// J42: `$retainKeys`, as `kubectl apply` sends it for strategies and volumes.
#[test]
fn retain_keys_clears_the_rest() {
    let deployment = schema("apps", "Deployment");
    let original = json!({"spec": {"selector": {}, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
        "template": {"spec": {"containers": [], "volumes": [{"name": "v", "emptyDir": {}}]}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"},
        "template": {"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]}}}});
    let patched = strategic(&deployment, &original, &patch).unwrap();
    assert_eq!(patched["spec"]["strategy"], json!({"type": "Recreate"}));
    assert_eq!(
        patched["spec"]["template"]["spec"]["volumes"],
        json!([{"name": "v", "configMap": {"name": "c"}}])
    );
    let wrong = json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}});
    assert_eq!(
        strategic(&deployment, &original, &wrong),
        Err(PatchError::BadRequest("invalid patch format of retainKeys".to_owned()))
    );
}

#[test]
fn malformed_strategic_patches_get_upstream_s_answers() {
    #[rustfmt::skip]
    let rows = [
        (json!({"spec": {"ports": [{"name": "x"}]}}), PatchError::Internal("map: map[name:x] does not contain declared merge key: port".to_owned())),
        (json!({"spec": {"$patch": "merge"}}), PatchError::Internal("unknown patch type: merge in map: map[$patch:merge]".to_owned())),
        (json!({"spec": {"ports": [{"port": 1, "$patch": "merge"}]}}), PatchError::Internal("merging lists cannot yet be specified in the patch".to_owned())),
        (json!({"spec": {"ports": [[]]}}), PatchError::Rejected { detail: "lists of lists are not supported".to_owned() }),
        (json!({"metadata": {"$deleteFromPrimitiveList": []}}), PatchError::BadRequest("invalid patch format of primitive list".to_owned())),
        (json!({"spec": {"$setElementOrder": []}}), PatchError::BadRequest("invalid patch format of setElementOrder list".to_owned())),
        (json!([]), PatchError::BadRequest("json: cannot unmarshal array into Go value of type map[string]interface {}".to_owned())),
        (json!({"spec": {"ports": [{"port": "x"}]}}), PatchError::Invalid { value: "map[spec:map[ports:[map[port:x]]]]".to_owned(), detail: "unrecognized type: int32".to_owned() }),
        (json!({"spec": {"type": 1}}), PatchError::Invalid { value: "map[spec:map[type:1]]".to_owned(), detail: "cannot convert int64 to v1.ServiceType".to_owned() }),
        (json!({"spec": 1}), PatchError::Invalid { value: "map[spec:1]".to_owned(), detail: "cannot restore struct from: int64".to_owned() }),
        (json!({"spec": {"x": 1}}), PatchError::Invalid { value: "map[spec:map[x:1]]".to_owned(), detail: "strict decoding error: unknown field \"spec.x\"".to_owned() }),
    ];
    for (patch, want) in rows {
        assert_eq!(strategic(&schema("", "Service"), &service(), &patch), Err(want), "{patch}");
    }
}

/// RFC 7386 appendix A, the rows whose document and patch are objects.
#[test]
fn merge_patch_by_the_rfc() {
    let rows = [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ];
    for (original, patch, want) in rows {
        let patched = apply_untyped(PatchType::Merge, &original, patch.to_string().as_bytes()).unwrap();
        assert_eq!(patched.object, want, "{original} {patch}");
    }
}

/// RFC 6902, and what upstream's implementation makes of its edges.
#[test]
fn json_patch_by_the_rfc() {
    let original = json!({"a": {"b/c": [1, 2, 3], "~": 0}, "n": null});
    let rows = [
        (json!([{"op": "add", "path": "/a/b~1c/1", "value": 9}]), json!([1, 9, 2, 3])),
        (json!([{"op": "add", "path": "/a/b~1c/-", "value": 9}]), json!([1, 2, 3, 9])),
        (json!([{"op": "add", "path": "/a/b~1c/-1", "value": 9}]), json!([1, 2, 3, 9])),
        (json!([{"op": "remove", "path": "/a/b~1c/0"}]), json!([2, 3])),
        (json!([{"op": "remove", "path": "/a/b~1c/-1"}]), json!([1, 2])),
        (json!([{"op": "replace", "path": "/a/b~1c/0", "value": [4]}]), json!([[4], 2, 3])),
        (json!([{"op": "move", "from": "/a/b~1c/0", "path": "/a/b~1c/2"}]), json!([2, 3, 1])),
        (json!([{"op": "copy", "from": "/a/~0", "path": "/a/b~1c/0"}]), json!([0, 1, 2, 3])),
        (
            json!([{"op": "test", "path": "/n", "value": null}, {"op": "test", "path": "/none", "value": null}]),
            json!([1, 2, 3]),
        ),
        (json!([{"op": "replace", "path": "", "value": {"a": {"b/c": 1}}}]), json!(1)),
        (
            json!([{"op": "replace", "path": "/x", "value": 1}, {"op": "test", "path": "/x", "value": 1}]),
            json!([1, 2, 3]),
        ),
    ];
    for (patch, want) in rows {
        let patched = apply_untyped(PatchType::Json, &original, patch.to_string().as_bytes()).unwrap();
        assert_eq!(patched.object["a"]["b/c"], want, "{patch}");
    }
    #[rustfmt::skip]
    let refused = [
        (json!([{"op": "test", "path": "/a", "value": 1}]), "testing value /a failed: test failed"),
        (json!([{"op": "remove", "path": "/x"}]), "error in remove for path: '/x': Unable to remove nonexistent key: x: missing value"),
        (json!([{"op": "add", "path": "/x/y", "value": 1}]), "add operation does not apply: doc is missing path: /x/y: missing value"),
        (json!([{"op": "add", "path": "/a/b~1c/9", "value": 1}]), "error in add for path: '/a/b~1c/9': Unable to access invalid index: 9: invalid index referenced"),
        (json!([{"op": "add", "path": "/n/x", "value": 1}]), "add operation does not apply: doc is missing path: /n/x: missing value"),
        (json!([{"op": "jump", "path": "/a"}]), "Unexpected kind: jump"),
        (json!([{"op": "add", "value": 1}]), "add operation failed to decode path: missing value"),
        (json!([{"op": "replace", "path": "", "value": 1}]), "replace operation value must be object or array"),
    ];
    for (patch, want) in refused {
        assert_eq!(
            apply_untyped(PatchType::Json, &original, patch.to_string().as_bytes()),
            Err(PatchError::Rejected { detail: want.to_owned() }),
            "{patch}"
        );
    }
}

#[test]
fn json_patches_have_limits() {
    let many = json!(vec![json!({"op": "test", "path": "/x", "value": null}); MAX_JSON_PATCH_OPERATIONS + 1]);
    let error = apply_untyped(PatchType::Json, &json!({}), many.to_string().as_bytes()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001"
    );
    // Doubling forty times.
    let double = json!(vec![json!({"op": "copy", "from": "/a", "path": "/a/-"}); 40]);
    let error =
        apply_untyped(PatchType::Json, &json!({"a": ["x"]}), double.to_string().as_bytes()).unwrap_err();
    assert!(matches!(error, PatchError::Rejected { .. }), "{error:?}");
}

/// J43: strict errors of patches are an invalid value of the field `patch`.
#[test]
fn strict_errors_of_patches() {
    let service = schema("", "Service");
    let original = normalized(&service, &json!({"metadata": {"name": "a"}}));
    let patch = br#"{"spec":{"x":1,"type":"NodePort","type":"ClusterIP"}}"#;
    let patched = apply(&service, PatchType::Merge, &original, patch).unwrap();
    assert_eq!(patched.strict, ["duplicate field \"spec.type\"", "unknown field \"spec.x\""]);
    assert_eq!(patched.object["spec"], json!({"type": "ClusterIP"}));
    let PatchError::Invalid { detail, .. } = patched.require_strict().unwrap_err() else {
        panic!("not invalid")
    };
    assert_eq!(detail, "strict decoding error: duplicate field \"spec.type\", unknown field \"spec.x\"");

    let patch = br#"[{"op":"add","path":"/spec/y","value":1,"z":1}]"#;
    let patched = apply(&service, PatchType::Json, &original, patch).unwrap();
    assert_eq!(patched.strict, ["json patch unknown field \"[0].z\"", "unknown field \"spec.y\""]);

    let error = apply(&service, PatchType::Merge, &original, br#"{"spec":{"ports":"x"}}"#).unwrap_err();
    let PatchError::Invalid { detail, .. } = error else { panic!("not invalid") };
    assert_eq!(
        detail,
        "json: cannot unmarshal string into Go struct field ServiceSpec.spec.ports of type []v1.ServicePort"
    );
}

#[test]
fn bodies_that_are_no_patches() {
    let service = schema("", "Service");
    #[rustfmt::skip]
    let rows = [
        (PatchType::Merge, "{", "error decoding patch: unexpected end of JSON input"),
        (PatchType::Merge, "[]", "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"),
        (PatchType::Merge, "null", "Invalid JSON Patch"),
        (PatchType::Json, "{}", "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"),
        (PatchType::Json, "[1]", "error decoding patch: json: cannot unmarshal number into Go value of type handlers.jsonPatchOp"),
        (PatchType::Strategic, "x", "invalid character 'x' looking for beginning of value"),
    ];
    for (kind, body, want) in rows {
        let error = apply(&service, kind, &json!({}), body.as_bytes()).unwrap_err();
        assert_eq!(error, PatchError::BadRequest(want.to_owned()), "{body}");
    }
    assert_eq!(apply_untyped(PatchType::Strategic, &json!({}), b"{}"), Err(PatchError::Unsupported));
}

mod property {
    use proptest::prelude::*;

    use super::*;

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0..9).prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn object() -> impl Strategy<Value = Value> {
        prop::collection::btree_map("[a-d]", tree(), 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    /// The merge patch that leads from one object to the other.
    fn difference(from: &Value, to: &Value) -> Value {
        let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
        let removed =
            from.keys().filter(|name| !to.contains_key(*name)).map(|name| (name.clone(), Value::Null));
        let changed =
            to.iter().filter(|(name, value)| from.get(*name) != Some(value)).map(|(name, value)| {
                (
                    name.clone(),
                    from.get(name).map_or_else(|| value.clone(), |before| difference(before, value)),
                )
            });
        Value::Object(removed.chain(changed).collect())
    }

    proptest! {
        #[test]
        fn a_merge_patch_of_the_difference_leads_there(from in object(), to in object()) {
            let patch = difference(&from, &to).to_string();
            let patched = apply_untyped(PatchType::Merge, &from, patch.as_bytes()).unwrap();
            prop_assert_eq!(patched.object, to);
        }

        #[test]
        fn any_strategic_patch_is_answered(patch in tree(), service in any::<bool>()) {
            // Letters stand for names that exist, so that merging reaches deep.
            let text = patch.to_string().replace("\"a\":", "\"spec\":").replace("\"b\":", "\"ports\":")
                .replace("\"c\":", "\"$patch\":").replace("\"d\":", "\"$setElementOrder/ports\":");
            let (group, kind) = if service { ("", "Service") } else { ("networking.k8s.io", "NetworkPolicy") };
            let schema = schema(group, kind);
            let original = normalized(&schema, &json!({"spec": {}}));
            _ = apply(&schema, PatchType::Strategic, &original, text.as_bytes());
        }
    }
}
