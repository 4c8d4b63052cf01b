//! The old document: OpenAPI 2, of all groups in one (rule J5), turned out of those in OpenAPI 3.

use serde_json::{Map, Value, json};

/// One document of many.
pub fn old<'a>(documents: impl IntoIterator<Item = &'a Value>, version: &str) -> Value {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for document in documents {
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            let methods = item.as_object().into_iter().flatten();
            let item: Map<String, Value> = methods
                .map(|(name, part)| {
                    let part = if name == "parameters" { parameters(part).into() } else { operation(part) };
                    (name.clone(), part)
                })
                .collect();
            paths.insert(path.clone(), item.into());
        }
        for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
            let schema = definition(schema);
            match definitions.get_mut(name) {
                Some(known) => add_kinds(known, &schema),
                None => _ = definitions.insert(name.clone(), schema),
            }
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {
            "BearerToken": {
                "description": "Bearer Token authentication",
                "type": "apiKey", "in": "header", "name": "authorization",
            },
        },
        "security": [{"BearerToken": []}],
    })
}

/// What one schema is in several groups (`DeleteOptions`) is said once.
fn add_kinds(known: &mut Value, more: &Value) {
    const KINDS: &str = "x-kubernetes-group-version-kind";
    for kind in more[KINDS].as_array().into_iter().flatten() {
        if let Some(kinds) = known[KINDS].as_array_mut().filter(|kinds| !kinds.contains(kind)) {
            kinds.push(kind.clone());
        }
    }
}

/// A schema in the words of OpenAPI 2, which has neither alternatives nor neighbours of references.
fn definition(schema: &Value) -> Value {
    let Some(fields) = schema.as_object() else { return schema.clone() };
    let mut out = Map::new();
    for (key, value) in fields {
        match key.as_str() {
            "$ref" => {
                let name =
                    value.as_str().unwrap_or_default().replace("#/components/schemas/", "#/definitions/");
                out.insert(key.clone(), name.into());
            }
            "allOf" => out.extend(definition(&value[0]).as_object().cloned().unwrap_or_default()),
            // A number or a text: clients of this document send texts.
            "oneOf" => _ = out.insert("type".to_owned(), "string".into()),
            "properties" => {
                let properties = value.as_object().into_iter().flatten();
                let properties: Map<String, Value> =
                    properties.map(|(name, schema)| (name.clone(), definition(schema))).collect();
                out.insert(key.clone(), properties.into());
            }
            "items" | "additionalProperties" => _ = out.insert(key.clone(), definition(value)),
            _ => _ = out.insert(key.clone(), value.clone()),
        }
    }
    if out.contains_key("$ref") {
        out.remove("default");
    }
    out.into()
}

/// Parameters have no schema of their own.
fn parameters(list: &Value) -> Vec<Value> {
    let plain = |parameter: &Value| {
        let mut out = parameter.as_object().cloned().unwrap_or_default();
        if let Some(Value::Object(schema)) = out.remove("schema") {
            out.extend(schema);
        }
        out.insert("uniqueItems".to_owned(), true.into());
        Value::Object(out)
    };
    list.as_array().into_iter().flatten().map(plain).collect()
}

/// The media types of a body or an answer, and its schema.
fn content(of: &Value) -> (Vec<&String>, Option<Value>) {
    let content: Vec<_> = of["content"].as_object().into_iter().flatten().collect();
    let schema = content.first().map(|(_, body)| definition(&body["schema"]));
    (content.into_iter().map(|(media, _)| media).collect(), schema)
}

fn operation(operation: &Value) -> Value {
    let mut out = operation.as_object().cloned().unwrap_or_default();
    let mut arguments = parameters(&operation["parameters"]);
    let (consumes, body) = content(&operation["requestBody"]);
    out.insert("consumes".to_owned(), if consumes.is_empty() { json!(["*/*"]) } else { json!(consumes) });
    if let Some(schema) = body {
        let required = &operation["requestBody"]["required"];
        let required = required.as_bool().unwrap_or_default();
        arguments.insert(0, json!({"name": "body", "in": "body", "required": required, "schema": schema}));
    }
    out.remove("requestBody");
    if arguments.is_empty() {
        out.remove("parameters");
    } else {
        out.insert("parameters".to_owned(), arguments.into());
    }
    let mut produces: Vec<&String> = Vec::new();
    let mut responses = Map::new();
    for (code, response) in operation["responses"].as_object().into_iter().flatten() {
        let (media, schema) = content(response);
        produces.extend(media.into_iter().filter(|media| !produces.contains(media)).collect::<Vec<_>>());
        let mut plain = json!({"description": response["description"]});
        if let Some(schema) = schema {
            plain["schema"] = schema;
        }
        responses.insert(code.clone(), plain);
    }
    out.insert("produces".to_owned(), json!(produces));
    out.insert("responses".to_owned(), responses.into());
    out.insert("schemes".to_owned(), json!(["https"]));
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::openapi::{Options, built_in};

    #[test]
    fn j5_the_old_document_says_the_same_in_older_words() {
        let documents: Vec<Value> = [("", "v1"), ("apps", "v1")]
            .into_iter()
            .filter_map(|(group, version)| built_in(group, version, Options::default()))
            .collect();
        let old = old(&documents, "v1.36.0");
        assert_eq!(old["swagger"], "2.0");
        let definitions = old["definitions"].as_object().unwrap();
        let port = &definitions["io.k8s.api.core.v1.ServicePort"]["properties"];
        assert_eq!(
            port["targetPort"]["$ref"],
            "#/definitions/io.k8s.apimachinery.pkg.util.intstr.IntOrString"
        );
        let either = &definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
        assert_eq!((&either["type"], &either["format"]), (&json!("string"), &json!("int-or-string")));
        let patch = &old["paths"]["/api/v1/namespaces/{namespace}/services/{name}"]["patch"];
        assert_eq!(patch["parameters"][0]["in"], "body");
        assert!(
            patch["consumes"].as_array().unwrap().contains(&json!("application/strategic-merge-patch+json"))
        );
        assert!(
            patch["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .any(|p| p["name"] == "fieldValidation" && p["type"] == "string")
        );
        let kinds_of_options = &definitions["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"]["x-kubernetes-group-version-kind"];
        assert_eq!(kinds_of_options.as_array().unwrap().len(), 2, "core and apps");
        let text = old.to_string();
        assert!(!text.contains("#/components/") && !text.contains("oneOf") && !text.contains("allOf"));
        // Whatever is referred to is there.
        for part in text.split("#/definitions/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(definitions.contains_key(name), "{name}");
        }
        let rows = kinds::all().iter().filter(|row| matches!(row.group, "" | "apps"));
        assert!(rows.into_iter().all(|row| text.contains(&format!("\"kind\":\"{}\"", row.kind))));
    }
}
