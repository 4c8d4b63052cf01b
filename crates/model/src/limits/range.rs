//! LimitRanges: defaults and bounds of what a container, a pod and a claim may ask for.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::resource_name;
use crate::quantity::Quantity;
use crate::{Context, FieldError, Refusal, Strategy, names, pod_spec, wire};

/// The strategy of LimitRanges.
pub static LIMIT_RANGE: LimitRange = LimitRange;

/// Says on a pod what was filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// See [`LIMIT_RANGE`].
#[derive(Clone, Copy, Debug)]
pub struct LimitRange;

impl Strategy for LimitRange {
    fn default(&self, object: &mut Value) {
        for limit in wire::items_mut(wire::child(object, "spec"), "limits") {
            default_limit(limit);
        }
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut kinds = std::collections::BTreeSet::new();
        for (index, limit) in wire::list(wire::at(new, &["spec"]), "limits").iter().enumerate() {
            let field = format!("spec.limits[{index}]");
            let kind = wire::text(limit, "type");
            let at = format!("{field}.type");
            let problems = names::check(names::qualified_name, at.as_str(), kind);
            if problems.is_empty()
                && !kind.contains('/')
                && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim")
            {
                let text = "must be a standard limit type or fully qualified";
                errors.push(FieldError::invalid(at.as_str(), kind, text));
            }
            errors.extend(problems);
            if !kinds.insert(kind) {
                errors.push(FieldError::duplicate(at, kind));
            }
            errors.extend(validate_limit(limit, kind, &field));
        }
        errors
    }

    fn validate_update(&self, new: &Value, _old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        self.validate_create(new, cx)
    }

    fn meta_checks(&self, _cx: &Context<'_>) -> crate::meta::Checks {
        crate::meta::Checks { change: false, ..crate::meta::Checks::WHOLE_AND_CHANGE }
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

/// Containers that name no limit get the greatest one, and no request the limit or the least one.
fn default_limit(limit: &mut Value) {
    if wire::text(limit, "type") != "Container" {
        return;
    }
    for (target, source) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
        let filled: Map<String, Value> =
            wire::entries(limit, source).map(|(name, value)| (name.to_owned(), value.clone())).collect();
        if filled.is_empty() && !wire::has(limit, target) {
            // Kubernetes makes the map, and leaves it out again where it is empty.
            continue;
        }
        let target = wire::child(limit, target);
        filled.into_iter().for_each(|(name, value)| wire::default(target, &name, value));
    }
}

fn quantities(limit: &Value, key: &str) -> BTreeMap<String, (String, Quantity)> {
    let entries = wire::entries(limit, key);
    entries.filter_map(|(name, value)| Some((name.to_owned(), read(value)?))).collect()
}

fn read(value: &Value) -> Option<(String, Quantity)> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let quantity = Quantity::parse(&text)?;
    Some((text, quantity))
}

fn validate_limit(limit: &Value, kind: &str, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut names_of = |key: &str| {
        for (name, _) in wire::entries(limit, key) {
            let field = format!("{field}.{key}[{name}]");
            errors.extend(match kind {
                "Pod" | "Container" => pod_spec::validate_resource_name(name, &field),
                _ => resource_name(name, &field),
            });
        }
    };
    names_of("max");
    names_of("min");
    if kind != "Pod" {
        names_of("default");
        names_of("defaultRequest");
    }
    for key in ["default", "defaultRequest"] {
        if kind == "Pod" && !wire::is_empty(wire::at(limit, &[key])) {
            let text = "may not be specified when `type` is 'Pod'";
            errors.push(FieldError::forbidden(format!("{field}.{key}"), text));
        }
    }
    let (min, max) = (quantities(limit, "min"), quantities(limit, "max"));
    if kind == "PersistentVolumeClaim" && !min.contains_key("storage") && !max.contains_key("storage") {
        let text = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(FieldError::required(format!("{field}.limits"), text));
    }
    for (name, _) in wire::entries(limit, "maxLimitRequestRatio") {
        let field = format!("{field}.maxLimitRequestRatio[{name}]");
        errors.extend(match kind {
            "Pod" | "Container" => pod_spec::validate_resource_name(name, &field),
            _ => resource_name(name, &field),
        });
    }
    errors.extend(validate_order(limit, kind, field, &min, &max));
    errors
}

type Quantities = BTreeMap<String, (String, Quantity)>;

/// The least is not more than the greatest, with the defaults between them.
fn validate_order(
    limit: &Value,
    kind: &str,
    field: &str,
    min: &Quantities,
    max: &Quantities,
) -> Vec<FieldError> {
    let of_kind = |key: &str| if kind == "Pod" { BTreeMap::new() } else { quantities(limit, key) };
    let (default, request) = (of_kind("default"), of_kind("defaultRequest"));
    let ratios = quantities(limit, "maxLimitRequestRatio");
    let mut names: Vec<&String> =
        [min, max, &default, &request, &ratios].into_iter().flat_map(BTreeMap::keys).collect();
    names.sort_unstable();
    names.dedup();
    let mut errors = Vec::new();
    for name in names {
        let all = [
            (min.get(name), "min value"),
            (max.get(name), "max value"),
            (default.get(name), "default"),
            (request.get(name), "default request value"),
        ];
        // Which must not be more than which, where that is told, and what Kubernetes shows.
        let rules = [
            (0, 1, "min", 0, "min value", "max value"),
            (0, 3, "defaultRequest", 3, "min value", "default request value"),
            (3, 1, "defaultRequest", 3, "default request value", "max value"),
            (3, 2, "defaultRequest", 3, "default request value", "default limit value"),
            (0, 2, "default", 0, "min value", "default value"),
            (2, 1, "default", 1, "default value", "max value"),
        ];
        for (lesser, greater, key, shown, lesser_name, greater_name) in rules {
            let (Some((low, low_value)), Some((high, high_value))) = (all[lesser].0, all[greater].0) else {
                continue;
            };
            if low_value > high_value {
                let text = format!("{lesser_name} {low} is greater than {greater_name} {high}");
                let shown = all[shown].0.map_or(low, |(text, _)| text);
                errors.push(FieldError::invalid(format!("{field}.{key}[{name}]"), shown.as_str(), text));
            }
        }
        if let Some((text, ratio)) = ratios.get(name) {
            errors.extend(validate_ratio(text, *ratio, (min.get(name), max.get(name)), field, name));
        }
        let overcommit = !name.contains('/') && !name.starts_with("hugepages-");
        if let (Some((limit, limit_value)), Some((asked, asked_value))) =
            (default.get(name), request.get(name))
            && !overcommit
            && limit_value != asked_value
        {
            let text = format!("default value {limit} must equal to defaultRequest value {asked} in {name}");
            let field = format!("{field}.defaultRequest[{name}]");
            errors.push(FieldError::invalid(field, asked.as_str(), text));
        }
    }
    errors
}

type Bound<'a> = Option<&'a (String, Quantity)>;

fn validate_ratio(
    text: &str,
    ratio: Quantity,
    (min, max): (Bound<'_>, Bound<'_>),
    field: &str,
    name: &str,
) -> Vec<FieldError> {
    let field = format!("{field}.maxLimitRequestRatio[{name}]");
    let mut errors = Vec::new();
    if ratio.millis() < 1000 {
        errors.push(FieldError::invalid(field.as_str(), text, format!("ratio {text} is less than 1")));
    }
    if let (Some((_, min)), Some((_, max))) = (min, max) {
        let (most, ratio) = (of(*max, *min), ratio.millis() as f64 / 1000.0);
        if ratio > most {
            let detail = format!("ratio {text} is greater than max/min = {most:.6}");
            errors.push(FieldError::invalid(field, text, detail));
        }
    }
    errors
}

fn of(part: Quantity, whole: Quantity) -> f64 {
    part.millis() as f64 / whole.millis() as f64
}

/// Fills in what the namespace's LimitRanges say of containers, and refuses what they forbid.
pub(crate) fn admit_pod(pod: &mut Value, cx: &Context<'_>) -> Result<(), Refusal> {
    let namespace = wire::text(wire::at(pod, &["metadata"]), "namespace").to_owned();
    let ranges = cx.objects.list("", "LimitRange", &namespace);
    for range in &ranges {
        fill_in(pod, range);
    }
    for range in &ranges {
        let mut errors = Vec::new();
        for limit in wire::list(wire::at(range, &["spec"]), "limits") {
            let spec = wire::at(pod, &["spec"]);
            match wire::text(limit, "type") {
                "Container" => {
                    for list in ["containers", "initContainers"] {
                        for container in wire::list(spec, list) {
                            errors.extend(check(limit, wire::at(container, &["resources"])));
                        }
                    }
                }
                "Pod" => errors.extend(check(limit, &pod_spec::total_resources(spec))),
                _ => {}
            }
        }
        refuse(errors)?;
    }
    Ok(())
}

/// Refuses a claim that the namespace's LimitRanges forbid.
pub(crate) fn admit_claim(claim: &Value, cx: &Context<'_>) -> Result<(), Refusal> {
    let namespace = wire::text(wire::at(claim, &["metadata"]), "namespace");
    let asked = quantities(wire::at(claim, &["spec", "resources"]), "requests");
    for range in cx.objects.list("", "LimitRange", namespace) {
        let limits = wire::list(wire::at(&range, &["spec"]), "limits").iter();
        let mut errors = Vec::new();
        for limit in limits.filter(|limit| wire::text(limit, "type") == "PersistentVolumeClaim") {
            for (name, least) in quantities(limit, "min") {
                errors.extend(too_little("PersistentVolumeClaim", &name, &least, asked.get(&name), None));
            }
            for (name, (most, value)) in quantities(limit, "max") {
                let start = format!("maximum {name} usage per PersistentVolumeClaim is {most}");
                match asked.get(&name) {
                    None => errors.push(format!("{start}.  No request is specified")),
                    Some((text, asked)) if *asked > value => {
                        errors.push(format!("{start}, but request is {text}"));
                    }
                    Some(_) => {}
                }
            }
        }
        refuse(errors)?;
    }
    Ok(())
}

/// Go shows several errors in brackets, and equal ones once.
fn refuse(mut errors: Vec<String>) -> Result<(), Refusal> {
    let mut seen = Vec::new();
    errors.retain(|error| {
        let new = !seen.contains(error);
        seen.push(error.clone());
        new
    });
    match errors.len() {
        0 => Ok(()),
        1 => Err(Refusal::Forbidden(errors.remove(0))),
        _ => Err(Refusal::Forbidden(format!("[{}]", errors.join(", ")))),
    }
}

fn fill_in(pod: &mut Value, range: &Value) {
    let mut requests = Map::new();
    let mut limits = Map::new();
    for limit in wire::list(wire::at(range, &["spec"]), "limits") {
        if wire::text(limit, "type") == "Container" {
            let add = |into: &mut Map<String, Value>, key: &str| {
                into.extend(wire::entries(limit, key).map(|(name, value)| (name.to_owned(), value.clone())));
            };
            add(&mut requests, "defaultRequest");
            add(&mut limits, "default");
        }
    }
    let mut said = Vec::new();
    let spec = wire::child(pod, "spec");
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        for container in wire::items_mut(spec, list) {
            let name = wire::text(container, "name").to_owned();
            for (key, word, defaults) in [("requests", "request", &requests), ("limits", "limit", &limits)] {
                let given = wire::at(container, &["resources", key]);
                let missing: Vec<&String> = defaults.keys().filter(|name| !wire::has(given, name)).collect();
                if missing.is_empty() {
                    continue;
                }
                let target = wire::child(wire::child(container, "resources"), key);
                missing.iter().for_each(|name| wire::set(target, name, defaults[*name].clone()));
                let missing: Vec<&str> = missing.into_iter().map(String::as_str).collect();
                said.push(format!("{} {word} for {what} {name}", missing.join(", ")));
            }
        }
    }
    if !said.is_empty() {
        let annotations = wire::child(wire::child(pod, "metadata"), "annotations");
        wire::set(annotations, ANNOTATION, format!("LimitRanger plugin set: {}", said.join("; ")));
    }
}

/// What a limit has against requests and limits.
fn check(limit: &Value, resources: &Value) -> Vec<String> {
    let kind = wire::text(limit, "type");
    let (asked, granted) = (quantities(resources, "requests"), quantities(resources, "limits"));
    let mut errors = Vec::new();
    for (name, least) in quantities(limit, "min") {
        errors.extend(too_little(kind, &name, &least, asked.get(&name), granted.get(&name)));
    }
    for (name, (most, value)) in quantities(limit, "max") {
        let start = format!("maximum {name} usage per {kind} is {most}");
        match (granted.get(&name), asked.get(&name)) {
            (None, _) => errors.push(format!("{start}.  No limit is specified")),
            (Some((text, granted)), _) if *granted > value => {
                errors.push(format!("{start}, but limit is {text}"));
            }
            (_, Some((text, asked))) if *asked > value => {
                errors.push(format!("{start}, but request is {text}"))
            }
            _ => {}
        }
    }
    for (name, (most, value)) in quantities(limit, "maxLimitRequestRatio") {
        let start = format!("{name} max limit to request ratio per {kind} is {most}");
        let positive =
            |map: &Quantities| map.get(&name).map(|(_, value)| *value).filter(|value| value.is_positive());
        match (positive(&asked), positive(&granted)) {
            (None, _) => errors.push(format!("{start}, but no request is specified or request is 0")),
            (_, None) => errors.push(format!("{start}, but no limit is specified or limit is 0")),
            (Some(asked), Some(granted)) => {
                let ratio = of(granted, asked);
                if ratio * 1000.0 > value.millis() as f64 {
                    errors.push(format!("{start}, but provided ratio is {ratio:.6}"));
                }
            }
        }
    }
    errors
}

fn too_little(
    kind: &str,
    name: &str,
    (least, value): &(String, Quantity),
    asked: Option<&(String, Quantity)>,
    granted: Option<&(String, Quantity)>,
) -> Option<String> {
    let start = format!("minimum {name} usage per {kind} is {least}");
    match (asked, granted) {
        (None, _) => Some(format!("{start}.  No request is specified")),
        (Some((text, asked)), _) if asked < value => Some(format!("{start}, but request is {text}")),
        (_, Some((text, granted))) if granted < value => Some(format!("{start}, but limit is {text}")),
        _ => None,
    }
}
