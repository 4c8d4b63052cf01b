//! `x-kubernetes-validations`: rules in CEL. They are read and run by the `cel` crate, with the functions of Kubernetes
//! from `kube-cel`; which values they see, what is bounded and what is said is decided here.

use std::sync::{Arc, OnceLock};

use dyad_model::{ErrorType, FieldError};
use serde_json::Value;

use crate::old::Old;
use crate::schema::{Additional, Schema};

mod check;
mod culprit;
mod meter;
mod program;
mod values;

use program::{Budget, Failure, Program};

/// A rule.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    rule: String,
    message: String,
    message_expression: String,
    reason: Option<String>,
    field_path: String,
    optional_old_self: bool,
    /// Compiled when it is first asked for.
    compiled: Arc<OnceLock<Compiled>>,
}

type Compiled = (Result<Program, String>, Option<Result<Program, String>>);

impl Rule {
    /// Reads a rule of a definition.
    pub(crate) fn read(json: &Value) -> Self {
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        Self {
            rule: text("rule"),
            message: text("message"),
            message_expression: text("messageExpression"),
            reason: json["reason"].as_str().map(str::to_owned),
            field_path: text("fieldPath"),
            optional_old_self: json["optionalOldSelf"] == true,
            compiled: Arc::default(),
        }
    }

    fn compiled(&self) -> &Compiled {
        self.compiled.get_or_init(|| {
            let message = (!self.message_expression.trim().is_empty())
                .then(|| Program::compile(self.message_expression.trim()));
            (Program::compile(self.rule.trim()), message)
        })
    }

    /// The rule as errors about it show it.
    fn shown(&self) -> &str {
        if self.message.is_empty() { self.rule.trim() } else { self.message.trim() }
    }

    fn error(&self, path: &str, value: &Value, detail: String) -> FieldError {
        let shown = |error: FieldError| {
            if value.is_object() || value.is_array() { error.without_value() } else { error }
        };
        match self.reason.as_deref() {
            Some("FieldValueForbidden") => FieldError::forbidden(path, detail),
            Some("FieldValueRequired") => FieldError::required(path, detail),
            Some("FieldValueDuplicate") => shown(FieldError::duplicate(path, value.clone())),
            _ => shown(FieldError::invalid(path, value.clone(), detail)),
        }
    }
}

/// Asks every rule of a schema about an object, and what it was before.
pub(crate) fn validate(new: &Value, old: Option<&Value>, schema: &Schema) -> Vec<FieldError> {
    let mut asker = Asker { errors: Vec::new(), budget: Budget::of_request(), over: false };
    let old = old.map_or(Old::NONE, Old::of);
    asker.value(new, schema, "", (old, old.is(new)), true);
    asker.errors
}

struct Asker {
    errors: Vec<FieldError>,
    budget: Budget,
    /// Whether nothing more is asked.
    over: bool,
}

impl Asker {
    /// `same` is whether this value, or what it is in if it cannot be told apart, is what it was.
    fn value(
        &mut self,
        value: &Value,
        schema: &Schema,
        path: &str,
        (old, same): (Old<'_>, bool),
        root: bool,
    ) {
        if !schema.has_rules || value.is_null() || self.over {
            return;
        }
        if !schema.rules.is_empty() {
            self.rules(value, schema, path, (old, same), root);
        }
        let below = |old: Old<'_>, value: &Value| match old.value() {
            Some(before) => before == value,
            None => same,
        };
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    if let Some(property) = schema.properties.get(key) {
                        let old = old.key(key, path);
                        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                        self.value(value, property, &path, (old, below(old, value)), false);
                    } else if let Some(Additional::Schema(of_values)) = &schema.additional {
                        let old = old.key(key, path);
                        let path = format!("{path}[{key}]");
                        self.value(value, of_values, &path, (old, below(old, value)), false);
                    }
                }
            }
            Value::Array(items) => {
                let Some(of_items) = &schema.items else { return };
                for (index, item) in items.iter().enumerate() {
                    let old = old.item(schema, item);
                    let path = format!("{path}[{index}]");
                    self.value(item, of_items, &path, (old, below(old, item)), false);
                }
            }
            _ => {}
        }
    }

    fn rules(
        &mut self,
        value: &Value,
        schema: &Schema,
        path: &str,
        (old, same): (Old<'_>, bool),
        root: bool,
    ) {
        let at = if path.is_empty() { "<nil>" } else { path };
        let of_type = schema.kind.map_or("", |kind| kind.name());
        let scope = values::Scope::new(value, old.value(), schema, root);
        for rule in &schema.rules {
            let invalid = |detail: String| FieldError::invalid(at, of_type, detail);
            let (compiled, message) = rule.compiled();
            let program = match compiled {
                Ok(program) => program,
                Err(why) => {
                    self.errors.push(invalid(format!("rule compile error: {why}")));
                    continue;
                }
            };
            // Transitions are judged if there is something before, and what stays as it was is not judged again.
            let transition = program.uses("oldSelf");
            if (transition && old.value().is_none() && !rule.optional_old_self) || (!transition && same) {
                continue;
            }
            let shown = rule.shown();
            match program.run(&scope, rule.optional_old_self, &mut self.budget) {
                Ok(values::Answer::Bool(true)) => {}
                Ok(values::Answer::Bool(false)) => {
                    let said = message.as_ref().and_then(|message| message.as_ref().ok());
                    let said = said.and_then(|program| {
                        program.run(&scope, rule.optional_old_self, &mut self.budget).ok()
                    });
                    let detail = match said {
                        Some(values::Answer::Text(text)) if is_message(&text) => text.trim().to_owned(),
                        _ if rule.message.is_empty() => format!("failed rule: {shown}"),
                        _ => shown.to_owned(),
                    };
                    let field = program::child(path, &rule.field_path);
                    self.errors.push(rule.error(&field, value, detail));
                }
                Ok(values::Answer::Text(_) | values::Answer::Other) => {
                    let why = format!("'no such overload': a rule says true or false: {shown}");
                    self.errors.push(invalid(why));
                }
                Err(Failure::Budget) => {
                    let why = "validation failed due to running out of cost budget, no further validation rules will be \
                               run";
                    self.errors.push(invalid(why.to_owned()));
                    self.over = true;
                    return;
                }
                Err(Failure::Other(why)) => {
                    self.errors.push(invalid(format!("{why} evaluating rule: {shown}")));
                }
            }
        }
    }
}

/// What an expression says is a message if it is one line of some length.
fn is_message(text: &str) -> bool {
    const LONGEST: usize = 5 << 10;
    !text.trim().is_empty() && text.len() <= LONGEST && !text.trim().contains(['\n', '\r'])
}

/// The schema of the field that the `fieldPath` of a rule names, in the JSON of the schema that the rule is of.
pub(crate) fn field_of<'a>(schema: &'a Value, path: &str) -> Option<&'a Value> {
    let steps = program::steps(path)?;
    steps.iter().try_fold(schema, |schema, step| {
        let property = schema["properties"].get(step);
        property.or_else(|| schema.get("additionalProperties").filter(|schema| schema.is_object()))
    })
}

/// Every error of the rules in the JSON of a schema.
pub(crate) fn compile_all(json: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    compile_below(json, path, None, true, &mut errors);
    errors
}

/// `lost` is the path within which what was before cannot be told.
fn compile_below(json: &Value, path: &str, lost: Option<&str>, root: bool, errors: &mut Vec<FieldError>) {
    for (index, rule) in json["x-kubernetes-validations"].as_array().into_iter().flatten().enumerate() {
        compile_rule(rule, json, &format!("{path}.x-kubernetes-validations[{index}]"), (lost, root), errors);
    }
    let atomic = json["x-kubernetes-map-type"] == "atomic";
    let of_fields = lost.or(atomic.then_some(path));
    for (name, property) in json["properties"].as_object().into_iter().flatten() {
        compile_below(property, &format!("{path}.properties[{name}]"), of_fields, false, errors);
    }
    if json["additionalProperties"].is_object() {
        let path = format!("{path}.additionalProperties");
        compile_below(&json["additionalProperties"], &path, lost, false, errors);
    }
    if json["items"].is_object() {
        let known = json["x-kubernetes-list-type"] == "map";
        let of_items = lost.or((!known).then_some(path));
        compile_below(&json["items"], &format!("{path}.items"), of_items, false, errors);
    }
}

fn compile_rule(
    json: &Value,
    schema: &Value,
    path: &str,
    (lost, root): (Option<&str>, bool),
    errors: &mut Vec<FieldError>,
) {
    let rule = Rule::read(json);
    let mut invalid = |key: &str, detail: String| {
        errors.push(FieldError::new(ErrorType::Invalid, format!("{path}.{key}"), json.clone(), detail));
    };
    let of_schema = Schema::read(schema);
    let mut transition = false;
    match rule.compiled().0.as_ref().map_err(Clone::clone).and_then(|program| {
        transition = program.uses("oldSelf");
        check::check(program, &of_schema, root)
    }) {
        Ok(()) => {}
        Err(why) => invalid("rule", format!("compilation failed: {why}")),
    }
    if let Some(Err(why)) = &rule.compiled().1 {
        invalid("messageExpression", format!("messageExpression compilation failed: {why}"));
    }
    match (transition, lost) {
        (true, Some(within)) => {
            let detail =
                format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {within}");
            errors.push(FieldError::invalid(format!("{path}.rule"), rule.rule.as_str(), detail));
        }
        (false, _) if !json["optionalOldSelf"].is_null() => {
            let detail = "may not be set if oldSelf is not used in rule";
            let value = json["optionalOldSelf"].clone();
            errors.push(FieldError::invalid(format!("{path}.optionalOldSelf"), value, detail));
        }
        _ => {}
    }
}
