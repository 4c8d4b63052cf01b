//! Whether a value is what a schema demands, written for nothing but to be compared with.

use serde_json::Value;

pub(super) fn is_valid(value: &Value, schema: &Value) -> bool {
    let types: Vec<&str> = match schema["x-kubernetes-int-or-string"] == true {
        true => vec!["integer", "string"],
        false => schema["type"].as_str().into_iter().collect(),
    };
    if value.is_null() {
        return (types.is_empty() || schema["nullable"] == true) && in_enum(value, schema);
    }
    let is = |kind: &&str| match *kind {
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    };
    let each = |key: &str| schema[key].as_array().cloned().unwrap_or_default();
    let holding = |key: &str| each(key).iter().filter(|schema| is_valid(value, schema)).count();
    (types.is_empty() || types.iter().any(is))
        && in_enum(value, schema)
        && holding("allOf") == each("allOf").len()
        && (each("anyOf").is_empty() || holding("anyOf") > 0)
        && (each("oneOf").is_empty() || holding("oneOf") == 1)
        && (schema["not"].is_null() || !is_valid(value, &schema["not"]))
        && number(value, schema)
        && text(value, schema)
        && list(value, schema)
        && map(value, schema)
}

fn in_enum(value: &Value, schema: &Value) -> bool {
    schema["enum"].as_array().is_none_or(|values| values.contains(value))
}

fn number(value: &Value, schema: &Value) -> bool {
    let Some(number) = value.as_f64() else { return true };
    let bound = |key: &str| schema[key].as_f64();
    bound("minimum").is_none_or(|min| if schema["exclusiveMinimum"] == true { number > min } else { number >= min })
        && bound("maximum")
            .is_none_or(|max| if schema["exclusiveMaximum"] == true { number < max } else { number <= max })
        // Of a whole number, Kubernetes cuts off what the factor has behind the point.
        && bound("multipleOf").is_none_or(|factor| match value.as_i64() {
            Some(integer) => factor.trunc() > 0.0 && integer % (factor as i64) == 0,
            None => (number / factor).fract() == 0.0,
        })
}

fn within(count: usize, schema: &Value, min: &str, max: &str) -> bool {
    let count = count as u64;
    schema[min].as_u64().is_none_or(|min| count >= min) && schema[max].as_u64().is_none_or(|max| count <= max)
}

fn text(value: &Value, schema: &Value) -> bool {
    let Some(text) = value.as_str() else { return true };
    let letters = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase());
    within(text.chars().count(), schema, "minLength", "maxLength")
        && (schema["pattern"].is_null() || letters(text))
}

fn list(value: &Value, schema: &Value) -> bool {
    let Some(items) = value.as_array() else { return true };
    within(items.len(), schema, "minItems", "maxItems")
        && (schema["items"].is_null() || items.iter().all(|item| is_valid(item, &schema["items"])))
}

fn map(value: &Value, schema: &Value) -> bool {
    let Some(map) = value.as_object() else { return true };
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    within(map.len(), schema, "minProperties", "maxProperties")
        && required.iter().all(|name| map.contains_key(name.as_str().unwrap()))
        && map.iter().all(|(key, value)| match schema["properties"].get(key) {
            Some(property) => is_valid(value, property),
            None => match &schema["additionalProperties"] {
                schema @ Value::Object(_) => is_valid(value, schema),
                _ => true,
            },
        })
}
