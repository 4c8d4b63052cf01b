//! What becomes of a definition once it is written: its names are accepted, or are somebody else's, and it is established.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{FINALIZER, items, structural, text};

/// The name that a definition has to have.
pub(super) fn full_name(definition: &Value) -> String {
    let spec = &definition["spec"];
    format!("{}.{}", text(&spec["names"], "plural"), text(spec, "group"))
}

/// A condition of a definition.
pub fn condition<'a>(definition: &'a Value, kind: &str) -> Option<&'a Value> {
    items(&definition["status"]["conditions"]).iter().find(|condition| condition["type"] == kind)
}

fn is_true(definition: &Value, kind: &str) -> bool {
    condition(definition, kind).is_some_and(|condition| condition["status"] == "True")
}

/// Whether the resource of a definition is served.
pub fn is_established(definition: &Value) -> bool {
    is_true(definition, "Established")
}

/// The names under which it is.
pub fn accepted(definition: &Value) -> &Value {
    &definition["status"]["acceptedNames"]
}

/// Sets a condition; it keeps its time if it says the same as before.
pub fn set_condition(
    definition: &mut Value,
    kind: &str,
    (status, reason, message): (&str, &str, &str),
    now: &str,
) {
    let conditions = &mut definition["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(list) = conditions.as_array_mut() else { return };
    let Some(known) = list.iter_mut().find(|condition| condition["type"] == kind) else {
        list.push(json!({
            "type": kind, "status": status, "lastTransitionTime": now, "reason": reason, "message": message,
        }));
        return;
    };
    if known["status"] != status {
        known["lastTransitionTime"] = now.into();
    }
    known["status"] = status.into();
    known["reason"] = reason.into();
    known["message"] = message.into();
}

/// Marks a definition as being deleted: it stays until its objects are gone.
pub fn mark_deleted(definition: &mut Value, now: &str) {
    let meta = &mut definition["metadata"];
    meta["deletionTimestamp"] = now.into();
    match meta["finalizers"].as_array_mut() {
        Some(list) if list.iter().any(|finalizer| finalizer == FINALIZER) => {}
        Some(list) => list.push(FINALIZER.into()),
        None => meta["finalizers"] = json!([FINALIZER]),
    }
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    set_condition(definition, "Terminating", ("True", "InstanceDeletionPending", message), now);
}

/// A definition with the status that it should have, `all` being every definition there is.
pub fn settle(definition: &Value, all: &[Value], now: &str) -> Value {
    let mut new = definition.clone();
    if definition["spec"]["names"] != *accepted(definition) {
        settle_names(&mut new, all, now);
    }
    settle_structure(&mut new, now);
    settle_approval(&mut new, now);
    if is_true(&new, "NamesAccepted") && !is_established(&new) {
        let established = ("True", "InitialNamesAccepted", "the initial names have been accepted");
        set_condition(&mut new, "Established", established, now);
    }
    new
}

fn settle_names(new: &mut Value, all: &[Value], now: &str) {
    let group = new["spec"]["group"].clone();
    let (mut resources, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for names in all.iter().filter(|other| other["spec"]["group"] == group).map(accepted) {
        resources.extend([text(names, "plural"), text(names, "singular")]);
        resources.extend(items(&names["shortNames"]).iter().filter_map(Value::as_str));
        kinds.extend([text(names, "kind"), text(names, "listKind")]);
    }
    let wanted = new["spec"]["names"].clone();
    let before = accepted(new).clone();
    let mut names = before.clone();
    let mut conflict = None;
    let used =
        |name: &str, set: &BTreeSet<&str>| set.contains(name).then(|| format!("{name:?} is already in use"));
    for (key, reason, set) in [
        ("plural", "PluralConflict", &resources),
        ("singular", "SingularConflict", &resources),
        ("shortNames", "ShortNamesConflict", &resources),
        ("kind", "KindConflict", &kinds),
        ("listKind", "ListKindConflict", &kinds),
    ] {
        if wanted[key] == before[key] {
            continue;
        }
        let why = match &wanted[key] {
            Value::Array(list) => {
                let others = list.iter().filter(|name| !items(&before[key]).contains(name));
                let taken = others.filter_map(|name| used(name.as_str().unwrap_or_default(), set));
                let taken: Vec<String> = taken.collect();
                match taken.as_slice() {
                    [] => None,
                    [one] => Some(one.clone()),
                    many => Some(format!("[{}]", many.join(", "))),
                }
            }
            name => name.as_str().and_then(|name| used(name, set)),
        };
        match why {
            Some(why) => conflict = Some((reason, why)),
            None => put(&mut names, key, &wanted[key]),
        }
    }
    put(&mut names, "categories", &wanted["categories"]);
    new["status"]["acceptedNames"] = names;
    match conflict {
        Some((reason, why)) => set_condition(new, "NamesAccepted", ("False", reason, &why), now),
        None => set_condition(new, "NamesAccepted", ("True", "NoConflicts", "no conflicts found"), now),
    }
    if !is_established(new) && !is_true(new, "NamesAccepted") {
        set_condition(new, "Established", ("False", "NotAccepted", "not all names are accepted"), now);
    }
}

fn put(names: &mut Value, key: &str, value: &Value) {
    let Some(map) = names.as_object_mut() else { return };
    match value {
        Value::Null => _ = map.remove(key),
        value => _ = map.insert(key.to_owned(), value.clone()),
    }
}

/// Definitions of older servers may have schemas that are refused today.
fn settle_structure(new: &mut Value, now: &str) {
    const TYPE: &str = "NonStructuralSchema";
    let mut errors = Vec::new();
    for (index, version) in items(&new["spec"]["versions"]).iter().enumerate() {
        let schema = &version["schema"]["openAPIV3Schema"];
        if schema.is_object() {
            errors.extend(structural::validate(
                schema,
                &format!("spec.versions[{index}].schema.openAPIV3Schema"),
            ));
        }
    }
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    match texts.as_slice() {
        [] => {
            if let Some(list) = new["status"]["conditions"].as_array_mut() {
                list.retain(|condition| condition["type"] != TYPE);
            }
        }
        [one] => set_condition(new, TYPE, ("True", "Violations", one), now),
        many => set_condition(new, TYPE, ("True", "Violations", &format!("[{}]", many.join(", "))), now),
    }
}

/// Where the approval of a group of Kubernetes itself is said.
pub(super) const APPROVAL: &str = "api-approved.kubernetes.io";

/// What is said about the approval of a group that needs one: `True` or `False` with a reason; `None` for other groups.
pub(super) fn approval(definition: &Value) -> Option<(&'static str, &'static str, String)> {
    let group = text(&definition["spec"], "group");
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|root| group == *root || group.strip_suffix(root).is_some_and(|rest| rest.ends_with('.')));
    if !protected {
        return None;
    }
    let said = text(&definition["metadata"]["annotations"], APPROVAL);
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    let is_url =
        said.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.starts_with('/'));
    Some(match said {
        "" => (
            "False",
            "MissingAnnotation",
            format!("protected groups must have approval annotation {APPROVAL:?}, {see}"),
        ),
        _ if said.starts_with("unapproved") => {
            ("False", "UnapprovedAnnotation", format!("not approved: {said:?}"))
        }
        _ if is_url => ("True", "ApprovedAnnotation", format!("approved in {said}")),
        _ => (
            "False",
            "InvalidAnnotation",
            format!(
                "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting with \
                 \"unapproved\", {see}"
            ),
        ),
    })
}

fn settle_approval(new: &mut Value, now: &str) {
    if let Some((status, reason, message)) = approval(new) {
        set_condition(new, "KubernetesAPIApprovalPolicyConformant", (status, reason, &message), now);
    }
}
