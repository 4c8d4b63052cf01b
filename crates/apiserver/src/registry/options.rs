//! What the query string and the body of a request say about how to do it.

use dyad_model::selector::{FieldSelector, LabelSelector};
use dyad_model::{ErrorType, FieldError};
use serde_json::Value;

use super::resource::Served;
use super::stored::Selection;
use crate::http::query::{Query, parse_version};
use crate::status::{About, ApiError};

/// Requirements of a selector, each of which every object and event is compared with. The values of one count for nothing.
const SELECTOR_MAX: usize = 1000;

/// Options of list and watch.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListOptions {
    pub(crate) selection: Selection,
    /// `None` if absent or empty.
    pub(crate) resource_version: Option<u64>,
    pub(crate) version_match: VersionMatch,
    /// Objects on a page; 0 for all.
    pub(crate) limit: usize,
    /// The continue token, empty for the first page.
    pub(crate) token: String,
    pub(crate) bookmarks: bool,
    pub(crate) initial_events: Option<bool>,
    pub(crate) timeout_secs: Option<u64>,
}

/// How `resourceVersion` is meant (J22).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum VersionMatch {
    #[default]
    Unset,
    Exact,
    NotOlderThan,
}

impl ListOptions {
    /// Reads and checks the options of a list or a watch; a name narrows it to one object.
    pub(crate) fn parse(
        served: &Served,
        query: &Query,
        (namespace, name): (&str, &str),
        watch: bool,
    ) -> Result<Self, ApiError> {
        let bad = |error: &dyn std::fmt::Display| ApiError::bad_request(error.to_string());
        let labels = LabelSelector::parse(query.get("labelSelector")).map_err(|e| bad(&e))?;
        let mut fields = FieldSelector::parse(query.get("fieldSelector")).map_err(|e| bad(&e))?;
        if labels.len().max(fields.terms.len()) > SELECTOR_MAX {
            return Err(bad(&format!(
                "a selector has at most {SELECTOR_MAX} requirements: ask more than once"
            )));
        }
        if let Some(view) = served.row.view {
            for term in &mut fields.terms {
                let stored = (view.stored_field)(&term.field)
                    .ok_or_else(|| bad(&format!("field label not supported: {}", term.field)))?;
                stored.clone_into(&mut term.field);
            }
        }
        served.check_selector(&fields).map_err(|e| bad(&e))?;
        if !name.is_empty() {
            if fields.required("metadata.name").is_some_and(|wanted| wanted != name) {
                return Err(ApiError::bad_request(format!(
                    "fieldSelector metadata.name doesn't match requested name: {name}"
                )));
            }
            let only = FieldSelector::parse(&format!("metadata.name={name}")).map_err(|e| bad(&e))?;
            fields.terms.extend(only.terms);
        }
        let resource_version = match query.get("resourceVersion") {
            "" => None,
            text => Some(parse_version(text).map_err(|why| {
                // A watch learns of it too late for a better answer.
                if watch {
                    ApiError::unknown(why)
                } else {
                    ApiError::bad_request(format!("invalid resource version: {why}"))
                }
            })?),
        };
        let initial_events = match query.get("sendInitialEvents") {
            "" => None,
            _ => Some(query.flag("sendInitialEvents")),
        };
        let token = query.get("continue").to_owned();
        let version_match = query.get("resourceVersionMatch");
        check_match(query, version_match, watch, initial_events)?;
        if !watch && !token.is_empty() && resource_version.is_some_and(|rev| rev != 0) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        Ok(Self {
            selection: Selection { namespace: namespace.to_owned(), labels, fields },
            resource_version,
            version_match: match version_match {
                "Exact" => VersionMatch::Exact,
                "NotOlderThan" => VersionMatch::NotOlderThan,
                _ => VersionMatch::Unset,
            },
            // What any state will do for is given out whole (J22).
            limit: match query.number("limit")? {
                Some(limit) if resource_version != Some(0) || !token.is_empty() => {
                    usize::try_from(limit).unwrap_or(0)
                }
                _ => 0,
            },
            token,
            bookmarks: query.flag("allowWatchBookmarks"),
            initial_events,
            timeout_secs: query.number("timeoutSeconds")?.and_then(|secs| u64::try_from(secs).ok()),
        })
    }
}

/// Rules J22, J29 and J30 on which of these go together.
fn check_match(query: &Query, wanted: &str, watch: bool, initial: Option<bool>) -> Result<(), ApiError> {
    const MATCH: &str = "resourceVersionMatch";
    let mut errors = Vec::new();
    let mut forbid = |field: &str, why: &str| errors.push(FieldError::forbidden(field, why));
    let mut unsupported = None;
    if watch {
        if initial.is_some() && wanted != "NotOlderThan" {
            forbid(MATCH, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        if !wanted.is_empty() {
            if initial.is_none() {
                forbid(
                    MATCH,
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                );
            }
            if wanted != "NotOlderThan" {
                unsupported = Some(FieldError::not_supported(MATCH, wanted, &["NotOlderThan"]));
            }
        }
    } else {
        if !wanted.is_empty() {
            if query.get("resourceVersion").is_empty() {
                forbid(MATCH, "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if !matches!(wanted, "Exact" | "NotOlderThan") {
                let known = ["Exact", "NotOlderThan", ""];
                unsupported = Some(FieldError::not_supported_in_order(MATCH, wanted, &known));
            }
            if wanted == "Exact" && query.get("resourceVersion") == "0" {
                forbid(MATCH, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
            }
        }
        if initial.is_some() {
            forbid("sendInitialEvents", "sendInitialEvents is forbidden for list");
        }
    }
    if !wanted.is_empty() && !query.get("continue").is_empty() {
        forbid(MATCH, "resourceVersionMatch is forbidden when continue is provided");
    }
    errors.extend(unsupported);
    if errors.is_empty() { Ok(()) } else { Err(invalid_options("ListOptions", &errors)) }
}

fn invalid_options(kind: &str, errors: &[FieldError]) -> ApiError {
    ApiError::invalid(About { group: "meta.k8s.io", resource: "", kind, name: "" }, errors)
}

/// What is done about fields that the schema does not know, or that occur twice (J43).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// Options of create, update and patch.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
    /// The name that the client writes under (J45).
    pub(crate) manager: String,
    /// Whether what is applied is taken from others.
    pub(crate) force: bool,
}

/// What the options are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Create,
    Update,
    Patch,
    /// A patch that applies a configuration.
    Apply,
}

impl Write {
    fn kind(self) -> &'static str {
        match self {
            Self::Create => "CreateOptions",
            Self::Update => "UpdateOptions",
            Self::Patch | Self::Apply => "PatchOptions",
        }
    }
}

impl WriteOptions {
    /// `agent` is what the client says it is, and its name unless it gives another.
    pub(crate) fn parse(query: &Query, write: Write, agent: &str) -> Result<Self, ApiError> {
        let mut errors = Vec::new();
        let manager = query.get("fieldManager");
        match write {
            Write::Apply if manager.is_empty() => {
                errors.push(FieldError::required("fieldManager", "is required for apply patch"));
            }
            Write::Patch if !query.get("force").is_empty() => {
                errors.push(FieldError::forbidden("force", "may not be specified for non-apply patch"));
            }
            _ => {}
        }
        errors.extend(field_manager(manager));
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let field_validation = match query.get("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                errors.push(FieldError::not_supported(
                    "fieldValidation",
                    other,
                    &["", "Ignore", "Strict", "Warn"],
                ));
                FieldValidation::Warn
            }
        };
        if !errors.is_empty() {
            return Err(invalid_options(write.kind(), &errors));
        }
        let manager = if manager.is_empty() { agent_name(agent) } else { manager.to_owned() };
        Ok(Self { dry_run, field_validation, manager, force: query.flag("force") })
    }

    /// Those of what the server itself writes.
    pub(crate) fn of_server() -> Self {
        Self { manager: "kube-apiserver".to_owned(), ..Self::default() }
    }
}

/// The longest name of a manager, in bytes.
const MANAGER_MAX: usize = 128;

/// The name in a `User-Agent`: what stands before the first slash.
fn agent_name(agent: &str) -> String {
    let mut name = String::new();
    let given = agent.split('/').next().unwrap_or_default();
    for character in given.chars().filter(|character| !character.is_control()) {
        if name.len() + character.len_utf8() > MANAGER_MAX {
            break;
        }
        name.push(character);
    }
    name
}

/// The errors of the name that a client writes under (J45).
fn field_manager(manager: &str) -> Vec<FieldError> {
    const FIELD: &str = "fieldManager";
    let mut errors = Vec::new();
    if manager.len() > MANAGER_MAX {
        let text = "may not be more than 128 bytes";
        errors.push(FieldError::new(ErrorType::TooLong, FIELD, Value::Null, text));
    }
    for (position, character) in manager.char_indices().filter(|(_, character)| character.is_control()) {
        let text = format!("invalid character U+{:04X} (at position {position})", u32::from(character));
        errors.push(FieldError::invalid(FIELD, manager, text));
    }
    errors
}

/// J44: `All`, or nothing.
fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut Vec<FieldError>) -> bool {
    let values: Vec<&str> = values.collect();
    if values.iter().any(|value| *value != "All") {
        errors.push(FieldError::not_supported("dryRun", values.as_slice(), &["All"]));
    }
    !values.is_empty()
}

/// What happens to the objects that an object owns (J50).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// Options of delete, from the body and the query string.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) dry_run: bool,
    /// Negative values have become 1 (J51).
    pub(crate) grace_secs: Option<i64>,
    pub(crate) propagation: Option<Propagation>,
    /// The client used `orphanDependents=false` (J40: 202 while it is not gone).
    pub(crate) accepted_while_pending: bool,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
}

impl DeleteOptions {
    /// `body` is the DeleteOptions object, `Null` if none was sent: then the query string counts.
    pub(crate) fn parse(query: &Query, body: &Value) -> Result<Self, ApiError> {
        let from_query;
        let body = if body.is_null() {
            from_query = serde_json::json!({
                "gracePeriodSeconds": query.number("gracePeriodSeconds")?,
                "propagationPolicy": Some(query.get("propagationPolicy")).filter(|text| !text.is_empty()),
                "orphanDependents": match query.get("orphanDependents") {
                    "" => None,
                    _ => Some(query.flag("orphanDependents")),
                },
                "dryRun": query.all("dryRun").collect::<Vec<_>>(),
            });
            &from_query
        } else {
            body
        };
        let mut errors = Vec::new();
        let orphan = body["orphanDependents"].as_bool();
        let policy = body["propagationPolicy"].as_str();
        if let (Some(_), Some(policy)) = (orphan, policy) {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid("propagationPolicy", policy, why));
        }
        let propagation = match policy {
            None => orphan.map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background }),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some("Orphan") => Some(Propagation::Orphan),
            Some(other) => {
                let supported = ["Foreground", "Background", "Orphan", "nil"];
                errors.push(FieldError::not_supported_in_order("propagationPolicy", other, &supported));
                None
            }
        };
        let dry_run =
            dry_run(body["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str), &mut errors);
        if !errors.is_empty() {
            return Err(invalid_options("DeleteOptions", &errors));
        }
        let precondition = |key: &str| body["preconditions"][key].as_str().map(str::to_owned);
        Ok(Self {
            dry_run,
            grace_secs: body["gracePeriodSeconds"].as_i64().map(|secs| if secs < 0 { 1 } else { secs }),
            propagation,
            accepted_while_pending: orphan == Some(false),
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
        })
    }
}
