//! A default is a value that its schema would take as it is.

use dyad_model::FieldError;
use serde_json::Value;

use crate::old::Old;
use crate::schema::Schema;
use crate::{embedded, prune, rules, validate};

/// Everything that is wrong with the defaults of a schema, which is structural.
pub(super) fn validate(json: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    walk(&Schema::read(json), path, &mut errors);
    errors
}

fn walk(schema: &Schema, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(default) = &schema.default {
        errors.extend(check(default, schema, &format!("{path}.default")));
    }
    if let Some(of_items) = &schema.items {
        walk(of_items, &format!("{path}.items"), errors);
    }
    for (name, property) in &schema.properties {
        walk(property, &format!("{path}.properties[{name}]"), errors);
    }
}

fn check(default: &Value, schema: &Schema, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    // As the field of an object, so that its own schema prunes it.
    let holder = Schema { properties: [("x".to_owned(), schema.clone())].into(), ..Schema::default() };
    let mut held = serde_json::json!({ "x": default });
    if !prune::prune(&mut held, &holder).is_empty() {
        errors.push(FieldError::invalid(path, default.clone(), "must not have unknown fields"));
    }
    let below = |error: FieldError| {
        let field = match error.field.as_str() {
            "<nil>" | "" => path.to_owned(),
            field => format!("{path}.{}", field.trim_start_matches("x.").trim_start_matches('.')),
        };
        error.at(field)
    };
    let found = embedded::validate(&serde_json::json!({ "x": default }), &holder);
    if !found.is_empty() {
        errors.extend(found.into_iter().map(below));
        return errors;
    }
    let found = validate::validate(default, schema, "", Old::NONE);
    if !found.is_empty() {
        errors.extend(found.into_iter().map(below));
        return errors;
    }
    errors.extend(rules::validate(default, Some(default), schema).into_iter().map(below));
    errors
}
