//! The fields that field selectors can name (J53).

use serde_json::Value;

use dyad_model::selector::FieldSelector;

/// A field that objects can be selected by.
#[derive(Debug)]
pub(crate) struct Selectable {
    /// As the client names it, which is also where it is.
    label: &'static str,
    read: fn(&Value) -> String,
}

/// The values of an object's selectable fields; those that are empty are left out.
pub(crate) type Selected = Box<[(&'static str, Box<str>)]>;

/// Reads the field at a dotted path, as a string or `true`/`false`/number.
macro_rules! field {
    ($path:literal) => {
        Selectable { label: $path, read: |object| text(object, $path) }
    };
}

/// Reads a flag, which counts as false when it is not there.
macro_rules! flag {
    ($path:literal) => {
        Selectable {
            label: $path,
            read: |object| {
                let value = text(object, $path);
                if value.is_empty() { "false".to_owned() } else { value }
            },
        }
    };
}

/// Reads a number, which counts as 0 when it is not there.
macro_rules! count {
    ($label:literal, $path:literal) => {
        Selectable {
            label: $label,
            read: |object| {
                let value = text(object, $path);
                if value.is_empty() { "0".to_owned() } else { value }
            },
        }
    };
}

const CERTIFICATE_SIGNING_REQUESTS: &[Selectable] = &[field!("spec.signerName")];

const PODS: &[Selectable] = &[
    field!("spec.nodeName"),
    field!("spec.restartPolicy"),
    field!("spec.schedulerName"),
    field!("spec.serviceAccountName"),
    flag!("spec.hostNetwork"),
    field!("status.phase"),
    field!("status.podIP"),
    field!("status.nominatedNodeName"),
];
const EVENTS: &[Selectable] = &[
    field!("involvedObject.kind"),
    field!("involvedObject.namespace"),
    field!("involvedObject.name"),
    field!("involvedObject.uid"),
    field!("involvedObject.apiVersion"),
    field!("involvedObject.resourceVersion"),
    field!("involvedObject.fieldPath"),
    field!("reason"),
    field!("reportingComponent"),
    Selectable {
        label: "source",
        read: |event| match text(event, "source.component") {
            source if source.is_empty() => text(event, "reportingComponent"),
            source => source,
        },
    },
    field!("type"),
];
const SERVICES: &[Selectable] = &[field!("spec.clusterIP"), field!("spec.type")];
const NODES: &[Selectable] = &[flag!("spec.unschedulable")];
const SECRETS: &[Selectable] = &[field!("type")];
const NAMESPACES: &[Selectable] = &[field!("status.phase")];
const JOBS: &[Selectable] = &[count!("status.successful", "status.succeeded")];
const REPLICATION_CONTROLLERS: &[Selectable] = &[count!("status.replicas", "status.replicas")];

/// The fields of a kind, besides `metadata.name` and `metadata.namespace`, which every kind has.
pub(crate) fn of(group: &str, kind: &str) -> &'static [Selectable] {
    match (group, kind) {
        ("", "Pod") => PODS,
        ("", "Event") => EVENTS,
        ("", "Service") => SERVICES,
        ("", "Node") => NODES,
        ("", "Secret") => SECRETS,
        ("", "Namespace") => NAMESPACES,
        ("", "ReplicationController") => REPLICATION_CONTROLLERS,
        ("batch", "Job") => JOBS,
        ("certificates.k8s.io", "CertificateSigningRequest") => CERTIFICATE_SIGNING_REQUESTS,
        _ => &[],
    }
}

/// Reads the fields of an object.
pub(crate) fn read(fields: &[Selectable], object: &Value) -> Selected {
    fields
        .iter()
        .map(|field| (field.label, (field.read)(object).into_boxed_str()))
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

/// Whether every field of a selector can be selected by; the error is the message of the 400.
pub(crate) fn check(fields: &[Selectable], selector: &FieldSelector) -> Result<(), String> {
    for term in &selector.terms {
        let name = term.field.as_str();
        if matches!(name, "metadata.name" | "metadata.namespace") || fields.iter().any(|f| f.label == name) {
            continue;
        }
        return Err(if fields.is_empty() {
            format!("{name:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        } else {
            format!("field label not supported: {name}")
        });
    }
    Ok(())
}

/// The same for a kind that was defined.
pub(crate) fn check_names(known: &[&str], namespaced: bool, selector: &FieldSelector) -> Result<(), String> {
    for term in &selector.terms {
        let name = term.field.as_str();
        let of_every_kind = name == "metadata.name" || (namespaced && name == "metadata.namespace");
        if !of_every_kind && !known.contains(&name) {
            return Err(format!("field label not supported: {name}"));
        }
    }
    Ok(())
}

fn text(object: &Value, path: &str) -> String {
    let value = path.split('.').try_fold(object, |value, key| value.get(key));
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
        Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn j53_fields_are_read_as_selectors_compare_them() {
        let pod = json!({"spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        let selected = read(PODS, &pod);
        let value = |label: &str| selected.iter().find(|(l, _)| *l == label).map(|(_, v)| &**v);
        assert_eq!(value("spec.nodeName"), Some("n1"));
        assert_eq!(value("spec.hostNetwork"), Some("false"));
        assert_eq!(value("status.podIP"), None);
        let event = json!({"reportingComponent": "kubelet"});
        assert!(read(EVENTS, &event).contains(&("source", "kubelet".into())));
    }

    #[test]
    fn j53_other_fields_are_refused_by_name() {
        let selector = FieldSelector::parse("spec.nodeName=a,spec.color=red").unwrap();
        assert_eq!(check(PODS, &selector).unwrap_err(), "field label not supported: spec.color");
        let selector = FieldSelector::parse("spec.x=a").unwrap();
        assert_eq!(
            check(&[], &selector).unwrap_err(),
            "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
    }
}
