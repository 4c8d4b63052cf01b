//! The schema of a version as OpenAPI documents have it: with the fields that every object has.

use dyad_schema::kinds::Kind;
use serde_json::{Map, Value, json};

/// Where the documents have metadata.
const META: &str = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1";

/// The schemas of an object and of a list of them, by their names; `row` is what the version is served as, and `schema` the
/// JSON of its schema.
pub(crate) fn schemas(row: &Kind, schema: &Value) -> [(String, Value); 2] {
    let labels: Vec<&str> = row.group.split('.').rev().collect();
    let name = |kind: &str| format!("{}.{}.{kind}", labels.join("."), row.version);
    let of = |kind: &str| json!([{"group": row.group, "version": row.version, "kind": kind}]);
    let mut object = schema.clone();
    if !object.is_object() {
        object = json!({"type": "object"});
    }
    embed(&mut object);
    with_fields(&mut object);
    object["x-kubernetes-group-version-kind"] = of(row.kind);
    let list_kind = row.list_kind();
    let item = format!("#/components/schemas/{}", name(row.kind));
    let mut list = json!({
        "type": "object",
        "description": format!("{list_kind} is a list of {}", row.kind),
        "required": ["items"],
        "properties": {
            "items": {
                "type": "array",
                "items": {"$ref": item},
                "description": format!("List of {}.", row.plural),
            },
        },
    });
    with_fields(&mut list);
    list["properties"]["metadata"] = meta("ListMeta", "Standard list metadata.");
    list["x-kubernetes-group-version-kind"] = of(&list_kind);
    [(name(row.kind), object), (name(&list_kind), list)]
}

fn meta(kind: &str, description: &str) -> Value {
    json!({"allOf": [{"$ref": format!("{META}.{kind}")}], "description": description})
}

/// Puts in what an object of a kind has besides.
fn with_fields(object: &mut Value) {
    let fields = [
        ("apiVersion", json!({"type": "string", "description": "Version of the schema of this object."})),
        ("kind", json!({"type": "string", "description": "What this object is."})),
        ("metadata", meta("ObjectMeta", "Standard object metadata.")),
    ];
    if !object["properties"].is_object() {
        object["properties"] = Value::Object(Map::new());
    }
    for (name, schema) in fields {
        object["properties"][name] = schema;
    }
}

/// Does the same within a schema, where it has objects of other kinds.
fn embed(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for (key, value) in map.iter_mut() {
        match key.as_str() {
            "properties" => {
                value.as_object_mut().into_iter().flatten().for_each(|(_, schema)| embed_in(schema))
            }
            "items" | "additionalProperties" => embed_in(value),
            _ => {}
        }
    }
}

fn embed_in(schema: &mut Value) {
    embed(schema);
    if schema["x-kubernetes-embedded-resource"] == true {
        with_fields(schema);
    }
}
