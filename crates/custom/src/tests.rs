//! Properties of what schemas make of objects, with random schemas and random objects, and readers of outside bytes given
//! bytes that are nearly right.

use dyad_model::{ClusterNet, Context, NoObjects, Strategy};
use dyad_net::parse_range_list;
use serde_json::{Value, json};

use crate::old::Old;
use crate::schema::Schema;
use crate::{DEFINITION, Version, defaults, lists, prune, settle, validate};

mod random;
mod reference;
mod rules;

use random::Random;

/// Schemas and objects that are tried.
const ROUNDS: u64 = 2000;
const NOW: &str = "2026-01-02T03:04:05Z";

/// The circumstances of a request.
pub(crate) fn with_context<T>(subresource: &str, with: impl FnOnce(&Context<'_>) -> T) -> T {
    let cluster =
        ClusterNet { service_ranges: parse_range_list("10.96.0.0/16").unwrap(), node_ports: 30000..=32767 };
    with(&Context { objects: &NoObjects, cluster: &cluster, subresource, now: NOW })
}

/// A definition with this schema.
pub(crate) fn definition(schema: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "foos.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "foos", "kind": "Foo"},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}},
            ],
        },
    })
}

/// A definition as the server reads it; what is none is refused before anybody looks at it.
fn read(definition: &Value) -> Option<Value> {
    let fields = dyad_schema::fields::Schema::for_kind(crate::GROUP, "v1", crate::KIND).unwrap();
    Some(fields.check_and_normalize(definition).ok()?.object)
}

/// Every error of a definition that is new.
pub(crate) fn errors_of(definition: Value) -> Vec<String> {
    let mut definition = read(&definition).expect("it has the fields of a definition");
    with_context("", |cx| {
        DEFINITION.default(&mut definition);
        DEFINITION.prepare_create(&mut definition, cx);
        DEFINITION.validate_create(&definition, cx).iter().map(ToString::to_string).collect()
    })
}

#[test]
fn pruning_and_defaulting_come_to_rest() {
    for seed in 0..ROUNDS {
        let mut random = Random(seed);
        let json = random.schema(3);
        let schema = Schema::read(&json);
        let mut object = random.object(&json, 3);
        prune::prune(&mut object, &schema);
        assert_eq!(prune::prune(&mut object.clone(), &schema), [""; 0], "{seed}: {json}");
        prune::prune_nulls(&mut object, Some(&schema));
        let mut again = object.clone();
        prune::prune_nulls(&mut again, Some(&schema));
        assert_eq!(again, object, "{seed}: {json}");
        defaults::default(&mut object, &schema);
        let mut again = object.clone();
        defaults::default(&mut again, &schema);
        assert_eq!(again, object, "{seed}: {json}");
    }
}

#[test]
fn validation_agrees_with_a_slow_reference() {
    let (mut valid, mut wrong) = (0, 0);
    for seed in 0..ROUNDS {
        let mut random = Random(seed);
        let json = random.schema(3);
        let schema = Schema::read(&json);
        let object = random.object(&json, 3);
        let errors = validate::validate(&object, &schema, "", Old::NONE);
        let expected = reference::is_valid(&object, &json);
        assert_eq!(errors.is_empty(), expected, "{seed}: {json}\n{object}\n{errors:?}");
        if expected {
            valid += 1
        } else {
            wrong += 1
        }
        // What stays as it was is not refused again.
        assert!(validate::validate(&object, &schema, "", Old::of(&object)).is_empty());
    }
    assert!(valid > 150 && wrong > 150, "{valid} valid, {wrong} wrong");
}

#[test]
fn any_definition_and_any_object_are_answered() {
    let mut accepted = 0;
    for seed in 0..ROUNDS / 4 {
        let mut random = Random(seed);
        let schema = random.schema(3);
        let mut definition = definition(schema.clone());
        if seed % 2 == 0 {
            random.damage(&mut definition);
        }
        let Some(definition) = read(&definition) else { continue };
        let is_right = errors_of(definition.clone()).is_empty();
        accepted += u64::from(is_right);
        let _ = settle(&definition, std::slice::from_ref(&definition), NOW);
        let version = Version::read(&definition, &definition["spec"]["versions"][0]);
        let mut object = random.object(&schema, 3);
        random.damage(&mut object);
        if !object.is_object() {
            continue;
        }
        let Ok(decoded) = version.decode(object.clone()) else { continue };
        with_context("", |cx| {
            let _ = version.validate_create(&decoded.object, cx);
            let _ = version.validate_update(&decoded.object, &object, cx);
            let _ = version.warnings(&decoded.object, Some(&object), cx);
        });
        let mut shown = decoded.object;
        version.show(&mut shown);
        let once = shown.clone();
        version.show(&mut shown);
        assert!(!is_right || shown == once, "{seed}");
    }
    assert!(accepted > 20, "{accepted} definitions were accepted");
}

#[test]
fn elements_that_are_there_twice_are_named_once() {
    let schema = Schema::read(&json!({
        "properties": {
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "map": {
                "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"],
                "items": {"type": "object"},
            },
        },
    }));
    let object = json!({"set": ["x", "y", "x", "x"], "map": [{"a": 1}, {"a": 1, "b": 2}, {"a": 1}]});
    let errors: Vec<String> = lists::validate(&object, &schema).iter().map(ToString::to_string).collect();
    assert_eq!(errors, ["map[2]: Duplicate value: {\"a\":1}", "set[2]: Duplicate value: \"x\""]);
}

#[test]
fn undeclared_fields_go_and_are_named() {
    let schema = Schema::read(&json!({
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {
                    "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
                    "free": {
                        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                        "properties": {"strict": {"type": "object"}},
                    },
                    "object": {"type": "object", "x-kubernetes-embedded-resource": true},
                },
            },
        },
    }));
    let mut object = json!({
        "apiVersion": "v", "kind": "K", "metadata": {"odd": 1}, "x": 1,
        "spec": {
            "list": [{"a": "b"}, {"c": "d"}], "free": {"y": {"z": 1}, "strict": {"q": 1}},
            "object": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}},
        },
    });
    assert_eq!(
        prune::prune(&mut object, &schema),
        ["spec.free.strict.q", "spec.list[1].c", "spec.object.spec", "x"]
    );
    assert_eq!(object["spec"]["free"], json!({"y": {"z": 1}, "strict": {}}));
    assert_eq!(
        object["spec"]["object"],
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}})
    );
}

#[test]
fn schemas_are_structural() {
    #[rustfmt::skip]
    let cases = [
        (json!({"type": "object"}), ""),
        (json!({}), "type: Required value: must not be empty at the root"),
        (json!({"type": "array", "items": {"type": "string"}}), "type: Invalid value: \"array\": must be object at the root"),
        (json!({"type": "object", "additionalProperties": {"type": "string"}}), "additionalProperties: Forbidden: must not be used at the root"),
        (json!({"type": "object", "properties": {"a": {"type": "array"}}}), "properties[a].items: Required value: must be specified"),
        (json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "["}}}), "properties[a].pattern: Invalid value: \"[\": must be a valid regular expression"),
        (json!({"type": "object", "anyOf": [{"properties": {"b": {"minimum": 1}}}]}), "properties[b]: Required value: because it is defined in"),
        (json!({"type": "object", "properties": {"a": {"type": "string", "allOf": [{"type": "string"}]}}}), "allOf[0].type: Forbidden: must be empty to be structural"),
        (json!({"type": "object", "properties": {"a": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}}), ""),
        (json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}), "properties[metadata]: Forbidden: must not specify anything other than name and generateName"),
        (json!({"type": "object", "properties": {"a": {"type": "object", "x-kubernetes-embedded-resource": true}}}), "properties[a].properties: Required value"),
        (json!({"type": "object", "properties": {"a": {"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}}}), "x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map"),
        (json!({"type": "object", "properties": {"a": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}}), "items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys"),
        (json!({"type": "object", "properties": {"a": {"type": "string", "default": 1}}}), "properties[a].default: Invalid value: \"integer\": "),
        (json!({"type": "object", "properties": {"a": {"type": "object", "default": {"b": 1}}}}), "properties[a].default: Invalid value: {\"b\":1}: must not have unknown fields"),
        (json!({"type": "object", "properties": {"a": {"type": "string", "uniqueItems": true}}}), "uniqueItems: Forbidden"),
        (json!({"type": "object", "properties": {"a": {"$ref": "x", "type": "string"}}}), "$ref: Forbidden: $ref is not supported"),
        (json!({"type": "object", "nullable": true}), "openAPIV3Schema.nullable: Forbidden: nullable cannot be true at the root"),
    ];
    for (schema, why) in cases {
        let errors = errors_of(definition(schema.clone()));
        if why.is_empty() {
            assert_eq!(errors, [""; 0], "{schema}");
        } else {
            assert!(errors.iter().any(|error| error.contains(why)), "{schema}\n{errors:?}\n{why}");
        }
    }
}
