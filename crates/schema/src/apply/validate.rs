//! Whether an applied configuration is one of its kind, with the words of Kubernetes.

use serde_json::Value;

use super::set::{Node, Set};
use super::step::Step;
use super::typed::step_of;
use super::types::{Form, Identity, Scalar, Structure, Type, Types};
use crate::patch::go_text;

impl Structure<'_> {
    /// Everything that is wrong with an applied configuration, as one text.
    pub(super) fn check(&self, object: &Value) -> Result<(), String> {
        let mut errors = Vec::new();
        check(self.types, self.root, object, &mut String::new(), &mut errors);
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(one.clone()),
            several => Err(format!("errors:\n  {}", several.join("\n  "))),
        }
    }
}

fn check(types: &Types, of: Type, value: &Value, path: &mut String, errors: &mut Vec<String>) {
    let error = |path: &str, text: &str| match path {
        "" => text.to_owned(),
        path => format!("{path}: {text}"),
    };
    if value.is_null() {
        return;
    }
    match types.at(of).form(Some(value)) {
        Form::Scalar(scalar) => errors.extend(scalar_error(scalar, value).map(|text| error(path, &text))),
        Form::List(list) => {
            let Value::Array(items) = value else {
                errors.push(error(path, &format!("expected list, got {}", go_pointer(value))));
                return;
            };
            let mut seen = Set::default();
            for (at, item) in items.iter().enumerate() {
                let step = match &list.identity {
                    Identity::Atomic => Step::Index(i64::try_from(at).unwrap_or(i64::MAX)),
                    _ => match step_of(types, list, item) {
                        Ok(step) => step,
                        Err(text) => {
                            errors.push(error(path, &format!("element {at}: {text}")));
                            return;
                        }
                    },
                };
                if seen.get(&step).is_some() {
                    errors.push(error(path, &format!("duplicate entries for key {step}")));
                }
                below(types, list.items, item, &step, path, errors);
                seen.add(step, Node::LEAF);
            }
        }
        Form::Map(map) => {
            let Value::Object(fields) = value else {
                errors.push(error(path, &format!("expected map, got {}", go_pointer(value))));
                return;
            };
            for (key, value) in fields {
                let Some(of) = map.of(key) else {
                    errors.push(error(&format!("{path}.{key}"), "field not declared in schema"));
                    return;
                };
                below(types, of, value, &Step::field(key), path, errors);
            }
        }
    }
}

fn below(types: &Types, of: Type, value: &Value, step: &Step, path: &mut String, errors: &mut Vec<String>) {
    let length = path.len();
    path.push_str(&step.to_string());
    check(types, of, value, path, errors);
    path.truncate(length);
}

fn scalar_error(scalar: Scalar, value: &Value) -> Option<String> {
    match (scalar, value) {
        (Scalar::Numeric, Value::Number(_))
        | (Scalar::String, Value::String(_))
        | (Scalar::Boolean, Value::Bool(_))
        | (Scalar::Untyped, Value::Number(_) | Value::String(_) | Value::Bool(_)) => None,
        (Scalar::Numeric, value) => Some(format!("expected numeric (int or float), got {}", go_type(value))),
        (Scalar::String, value) => {
            Some(format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_syntax(value)))
        }
        (Scalar::Boolean, value) => Some(format!("expected boolean, got {}", go_pointer(value))),
        (Scalar::Untyped, value) => Some(format!("expected any scalar, got {}", go_pointer(value))),
    }
}

/// `%T` of what Go reads JSON as.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// `%#v` of what Go reads JSON as.
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::Array(list) => {
            format!("[]interface {{}}{{{}}}", list.iter().map(go_syntax).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let fields: Vec<String> =
                map.iter().map(|(key, value)| format!("{key:?}:{}", go_syntax(value))).collect();
            format!("map[string]interface {{}}{{{}}}", fields.join(", "))
        }
        scalar => scalar.to_string(),
    }
}

/// `%v` of a pointer to a value.
fn go_pointer(value: &Value) -> String {
    format!("&{{{}}}", go_text(value))
}
