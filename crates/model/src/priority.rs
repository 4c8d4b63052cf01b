//! PriorityClasses, and what they make of a pod.

use serde_json::Value;

use crate::{Allocator, Context, FieldError, Refusal, Strategy, lifecycle, names, wire};

/// The strategy of PriorityClasses.
pub static PRIORITY_CLASS: PriorityClass = PriorityClass;

const HIGHEST_OF_USERS: i64 = 1_000_000_000;
const PREEMPT: &str = "PreemptLowerPriority";
const GROUP: &str = "scheduling.k8s.io";

/// Classes that are always there, whether stored or not.
const SYSTEM: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

/// See [`PRIORITY_CLASS`].
#[derive(Clone, Copy, Debug)]
pub struct PriorityClass;

impl Strategy for PriorityClass {
    fn default(&self, object: &mut Value) {
        wire::default(object, "preemptionPolicy", PREEMPT);
    }

    fn begin_create(
        &self,
        new: &mut Value,
        cx: &Context<'_>,
        _alloc: &mut dyn Allocator,
    ) -> Result<(), Refusal> {
        only_default(new, cx)
    }

    fn begin_update(
        &self,
        new: &mut Value,
        _old: &Value,
        cx: &Context<'_>,
        _alloc: &mut dyn Allocator,
    ) -> Result<(), Refusal> {
        only_default(new, cx)
    }

    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        // Zero is a value like any other.
        wire::default(new, "value", 0);
        lifecycle::first_generation(new);
    }

    fn prepare_update(&self, new: &mut Value, _old: &Value, _cx: &Context<'_>) {
        wire::default(new, "value", 0);
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let name = wire::text(wire::at(new, &["metadata"]), "name");
        let value = wire::int(new, "value").unwrap_or_default();
        let mut errors = Vec::new();
        if name.starts_with("system-") {
            if let Some(why) = not_of_system(name, value, wire::flag(new, "globalDefault")) {
                let text = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
                );
                errors.push(FieldError::forbidden("metadata.name", text));
            }
        } else if value > HIGHEST_OF_USERS {
            let text = format!("maximum allowed value of a user defined priority is {HIGHEST_OF_USERS}");
            errors.push(FieldError::forbidden("value", text));
        }
        const POLICIES: [&str; 2] = [PREEMPT, "Never"];
        match wire::text(new, "preemptionPolicy") {
            "" => errors.push(FieldError::required("preemptionPolicy", "")),
            policy if POLICIES.contains(&policy) => {}
            policy => errors.push(FieldError::not_supported_in_order("preemptionPolicy", policy, &POLICIES)),
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if !wire::same(new, old, "value") {
            errors.push(FieldError::forbidden("value", "may not be changed in an update."));
        }
        if !wire::same(new, old, "preemptionPolicy") {
            let policy = wire::at(new, &["preemptionPolicy"]).clone();
            errors.push(FieldError::invalid("preemptionPolicy", policy, "field is immutable"));
        }
        errors
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

/// What keeps a class from being one of the system's.
fn not_of_system(name: &str, value: i64, is_default: bool) -> Option<String> {
    match SYSTEM.iter().find(|(known, _)| *known == name) {
        None => Some(format!("{name} is not a known system priority class")),
        Some((_, known)) if *known != value => Some(format!("value of {name} PriorityClass must be {known}")),
        Some(_) if is_default => Some(format!("globalDefault of {name} PriorityClass must be false")),
        Some(_) => None,
    }
}

/// There is one default class, or none.
fn only_default(new: &Value, cx: &Context<'_>) -> Result<(), Refusal> {
    let name = wire::text(wire::at(new, &["metadata"]), "name");
    if !wire::flag(new, "globalDefault") {
        return Ok(());
    }
    let classes = cx.objects.list(GROUP, "PriorityClass", "");
    let mut names = classes
        .iter()
        .filter(|class| wire::flag(class, "globalDefault"))
        .map(|class| wire::text(wire::at(class, &["metadata"]), "name"));
    match names.find(|other| *other != name) {
        None => Ok(()),
        Some(other) => Err(Refusal::Forbidden(format!(
            "PriorityClass {other} is already marked as default. Only one default can exist"
        ))),
    }
}

/// Gives a new pod the priority that follows from its class, or from the default one.
pub(crate) fn admit(spec: &mut Value, cx: &Context<'_>) -> Result<(), Refusal> {
    let classes = cx.objects.list(GROUP, "PriorityClass", "");
    let name = |class: &Value| wire::text(wire::at(class, &["metadata"]), "name").to_owned();
    let wanted = wire::text(spec, "priorityClassName").to_owned();
    let class = match wanted.as_str() {
        // The least of several defaults, which there should not be.
        "" => classes
            .iter()
            .filter(|class| wire::flag(class, "globalDefault"))
            .min_by_key(|class| wire::int(class, "value")),
        wanted => classes.iter().find(|class| name(class) == wanted),
    };
    let system = SYSTEM.iter().find(|(name, _)| *name == wanted);
    let (priority, policy) = match (class, system) {
        (Some(class), _) => {
            if wanted.is_empty() {
                wire::set(spec, "priorityClassName", name(class));
            }
            let policy = wire::text(class, "preemptionPolicy");
            let policy = if policy.is_empty() { PREEMPT } else { policy };
            (wire::int(class, "value").unwrap_or_default(), policy)
        }
        (None, Some((_, priority))) => (*priority, PREEMPT),
        (None, None) if wanted.is_empty() => (0, PREEMPT),
        (None, None) => {
            return Err(Refusal::Forbidden(format!("no PriorityClass with name {wanted} was found")));
        }
    };
    if let Some(given) = wire::int(spec, "priority").filter(|given| *given != priority) {
        return Err(Refusal::Forbidden(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name"
        )));
    }
    let given = wire::text(spec, "preemptionPolicy");
    if !given.is_empty() && given != policy {
        return Err(Refusal::Forbidden(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        )));
    }
    wire::set(spec, "priority", priority);
    wire::set(spec, "preemptionPolicy", policy);
    Ok(())
}

#[cfg(test)]
mod tests;
