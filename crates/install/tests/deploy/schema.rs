//! A JSON schema of the chart's values, for Helm: found out by asking what `dyad install` takes, so that both take the same.

use dyad_install::{Chosen, Values};
use serde_json::{Map, Value, json};

/// The schema of all values; `said` knows what a value is, by its name.
pub(crate) fn of_values(said: impl Fn(&str) -> Option<String>) -> Value {
    let defaults = serde_json::to_value(Values::default()).unwrap();
    let mut schema = of("", &defaults, &said);
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    // Helm gives it to charts that are part of others.
    schema["properties"]["global"] = json!({"type": "object"});
    schema
}

/// What is said of a value in this place, nothing if it is taken.
fn refusal(path: &str, value: Value) -> Option<String> {
    let nested = path.rsplit('.').fold(value, |value, name| json!({ name: value }));
    let mut chosen = Chosen::default();
    chosen
        .file(&nested.to_string())
        .and_then(|()| chosen.values().map(drop))
        .err()
        .map(|error| error.to_string())
}

fn takes(path: &str, value: Value) -> bool {
    refusal(path, value).is_none()
}

fn of(path: &str, default: &Value, said: &impl Fn(&str) -> Option<String>) -> Value {
    let mut schema = match default {
        Value::Object(fields) => of_map(path, fields, said),
        Value::Bool(_) => json!({"type": "boolean"}),
        Value::Number(_) => of_number(path),
        Value::String(_) => of_text(path),
        Value::Array(_) => json!({"type": "array", "items": {"type": of_item(path)}}),
        Value::Null => panic!("{path}: no default"),
    };
    if let Some(said) = said(path) {
        schema["description"] = said.into();
    }
    schema
}

fn of_map(path: &str, fields: &Map<String, Value>, said: &impl Fn(&str) -> Option<String>) -> Value {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let is_free = !path.is_empty() && takes(path, json!({"x": "y"}));
    if is_free {
        let is_text = !takes(path, json!({"x": {"y": "z"}}));
        return if is_text {
            json!({"type": "object", "additionalProperties": {"type": "string"}})
        } else {
            json!({"type": "object"})
        };
    }
    let properties: Map<String, Value> =
        fields.iter().map(|(name, default)| (name.clone(), of(&below(name), default, said))).collect();
    let names: Vec<&String> = fields.keys().collect();
    json!({"type": "object", "properties": properties, "required": names, "additionalProperties": false})
}

fn of_number(path: &str) -> Value {
    let least = [-1i64, 0, 1, 1280].into_iter().find(|least| takes(path, json!(least)));
    // Every limit of a type, and one less than the next.
    let most = [u32::MAX.into(), 65_535u64, 255].into_iter().find(|most| takes(path, json!(most)));
    let mut schema = json!({"type": "integer"});
    if takes(path, json!("10%")) {
        // A share.
        schema["type"] = json!(["integer", "string"]);
        return schema;
    }
    schema["minimum"] = least.unwrap_or_else(|| panic!("{path} takes no number")).into();
    schema["maximum"] = most.unwrap_or_else(|| panic!("{path} takes no number")).into();
    schema
}

fn of_text(path: &str) -> Value {
    let nothing = "no such thing";
    let error = refusal(path, json!(nothing)).unwrap_or_default();
    if let Some((_, known)) = error.split_once("expected one of ") {
        let words: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
        return json!({"type": "string", "enum": words});
    }
    // A number is a text where texts belong, as `--set image.tag=1` makes one.
    let mut schema = json!({"type": ["string", "integer"]});
    let pattern = match ["x", "/x", ""].map(|text| takes(path, json!(text))) {
        [false, true, false] => "^/",
        [false, true, true] => "^(/|$)",
        [true, _, false] => ".",
        _ => return schema,
    };
    schema["pattern"] = pattern.into();
    schema
}

/// What a list consists of.
fn of_item(path: &str) -> &'static str {
    let texts = ["x", "10.0.0.0/8", "10.0.0.1"];
    if texts.into_iter().any(|text| takes(path, json!([text])) && !takes(path, json!([{"x": "y"}]))) {
        "string"
    } else {
        "object"
    }
}
