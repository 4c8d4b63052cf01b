//! A schema as it is used: read once from a version of a definition, with its patterns compiled.
//!
//! Whether it may be said at all is the business of [`crate::definition`]; what is read here came through there, or is
//! ignored where it did not.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use crate::format::Format;
use crate::pattern;
use crate::rules::Rule;

/// The types of JSON that a schema can demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// A list.
    Array,
    /// `true` or `false`.
    Boolean,
    /// A number without a fraction.
    Integer,
    /// Any number.
    Number,
    /// A map.
    Object,
    /// A text.
    String,
}

/// What a schema says of maps whose keys are not its properties.
#[derive(Clone, Debug)]
pub(crate) enum Additional {
    /// There may be any, or none.
    Allowed(bool),
    /// They are of this schema.
    Schema(Box<Schema>),
}

/// How a list merges, and which of its elements are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ListType {
    /// It is one value.
    #[default]
    Atomic,
    /// Elements are what they are.
    Set,
    /// Elements are known by these fields.
    Map(Vec<String>),
}

/// A schema.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schema {
    /// The type it demands.
    pub(crate) kind: Option<Type>,
    /// Whether it is an integer or a string.
    pub(crate) int_or_string: bool,
    /// Whether there may be `null`.
    pub(crate) nullable: bool,
    /// Whether what is not declared stays.
    pub(crate) preserve: bool,
    /// Whether it is an object of some kind, with metadata.
    pub(crate) embedded: bool,
    /// What a text, or a number, looks like.
    pub(crate) format: Option<Format>,
    /// What stands for it when it is not there.
    pub(crate) default: Option<Value>,
    /// The values that there may be; all if empty.
    pub(crate) values: Vec<Value>,
    /// What a text matches, and how the definition writes it.
    pub(crate) pattern: Option<(String, Option<Regex>)>,
    /// Bounds of numbers.
    pub(crate) numbers: Numbers,
    /// Bounds of texts, in letters.
    pub(crate) length: Bounds,
    /// Bounds of lists.
    pub(crate) items_count: Bounds,
    /// Bounds of maps.
    pub(crate) properties_count: Bounds,
    /// What elements are.
    pub(crate) items: Option<Box<Schema>>,
    /// Whether no two elements are the same.
    pub(crate) unique: bool,
    /// The fields.
    pub(crate) properties: BTreeMap<String, Schema>,
    /// Fields that have to be there.
    pub(crate) required: Vec<String>,
    /// What all other fields are.
    pub(crate) additional: Option<Additional>,
    /// Schemas that all hold.
    pub(crate) all_of: Vec<Schema>,
    /// Schemas of which one holds, or more.
    pub(crate) any_of: Vec<Schema>,
    /// Schemas of which exactly one holds.
    pub(crate) one_of: Vec<Schema>,
    /// A schema that does not hold.
    pub(crate) not: Option<Box<Schema>>,
    /// How a list merges.
    pub(crate) list: ListType,
    /// Whether a map is one value.
    pub(crate) atomic_map: bool,
    /// Rules in CEL.
    pub(crate) rules: Vec<Rule>,
    /// Whether there are rules here or below.
    pub(crate) has_rules: bool,
}

/// Bounds of numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Numbers {
    /// The largest.
    pub(crate) maximum: Option<f64>,
    /// Whether it has to be smaller.
    pub(crate) exclusive_maximum: bool,
    /// The smallest.
    pub(crate) minimum: Option<f64>,
    /// Whether it has to be larger.
    pub(crate) exclusive_minimum: bool,
    /// What it is a multiple of.
    pub(crate) multiple_of: Option<f64>,
}

/// Bounds of how many there are of something.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bounds {
    /// At least.
    pub(crate) min: Option<i64>,
    /// At most.
    pub(crate) max: Option<i64>,
}

impl Type {
    /// By its name in a schema.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "array" => Self::Array,
            "boolean" => Self::Boolean,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "object" => Self::Object,
            "string" => Self::String,
            _ => return None,
        })
    }

    /// Its name in a schema.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Array => "array",
            Self::Boolean => "boolean",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Object => "object",
            Self::String => "string",
        }
    }
}

impl Schema {
    /// Reads a schema, given the JSON of a JSONSchemaProps.
    pub(crate) fn read(json: &Value) -> Self {
        let flag = |key: &str| json[key] == true;
        let count = |key: &str| json[key].as_i64();
        let bounds = |min: &str, max: &str| Bounds { min: count(min), max: count(max) };
        let list = |key: &str| json[key].as_array().map_or(&[][..], Vec::as_slice);
        let schemas = |key: &str| list(key).iter().map(Self::read).collect::<Vec<_>>();
        let texts =
            |key: &str| list(key).iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
        let properties: BTreeMap<String, Self> = json["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, schema)| (name.clone(), Self::read(schema)))
            .collect();
        let additional = match &json["additionalProperties"] {
            Value::Bool(allowed) => Some(Additional::Allowed(*allowed)),
            schema @ Value::Object(_) => Some(Additional::Schema(Box::new(Self::read(schema)))),
            _ => None,
        };
        let items = json["items"].is_object().then(|| Box::new(Self::read(&json["items"])));
        let kind = json["type"].as_str().and_then(Type::named);
        let rules: Vec<Rule> = list("x-kubernetes-validations").iter().map(Rule::read).collect();
        let below = properties.values().any(|schema| schema.has_rules)
            || items.as_ref().is_some_and(|schema| schema.has_rules)
            || matches!(&additional, Some(Additional::Schema(schema)) if schema.has_rules);
        Self {
            kind,
            int_or_string: flag("x-kubernetes-int-or-string"),
            nullable: flag("nullable"),
            preserve: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            format: json["format"].as_str().and_then(|name| Format::of(name, kind)),
            default: json.get("default").filter(|default| !default.is_null()).cloned(),
            values: list("enum").to_vec(),
            pattern: json["pattern"]
                .as_str()
                .filter(|pattern| !pattern.is_empty())
                .map(|pattern| (pattern.to_owned(), pattern::compile(pattern).ok())),
            numbers: Numbers {
                maximum: json["maximum"].as_f64(),
                exclusive_maximum: flag("exclusiveMaximum"),
                minimum: json["minimum"].as_f64(),
                exclusive_minimum: flag("exclusiveMinimum"),
                multiple_of: json["multipleOf"].as_f64(),
            },
            length: bounds("minLength", "maxLength"),
            items_count: bounds("minItems", "maxItems"),
            properties_count: bounds("minProperties", "maxProperties"),
            unique: flag("uniqueItems"),
            required: texts("required"),
            all_of: schemas("allOf"),
            any_of: schemas("anyOf"),
            one_of: schemas("oneOf"),
            not: json["not"].is_object().then(|| Box::new(Self::read(&json["not"]))),
            list: match json["x-kubernetes-list-type"].as_str() {
                Some("set") => ListType::Set,
                Some("map") => ListType::Map(texts("x-kubernetes-list-map-keys")),
                _ => ListType::Atomic,
            },
            atomic_map: json["x-kubernetes-map-type"] == "atomic",
            has_rules: below || !rules.is_empty(),
            rules,
            properties,
            additional,
            items,
        }
    }

    /// What a field is, if it is declared.
    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or(match &self.additional {
            Some(Additional::Schema(schema)) => Some(&**schema),
            _ => None,
        })
    }
}
