use serde_json::Value;

use super::container::port_number;
use crate::{FieldError, names, wire};

/// The errors of a container's three probes.
pub(super) fn validate_probes(container: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = wire::at(container, &[name]);
        if probe.is_null() {
            continue;
        }
        let field = format!("{field}.{name}");
        errors.extend(validate_handler(probe, &field));
        let numbers = [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ];
        for key in numbers {
            if let Some(number) = wire::int(probe, key).filter(|number| *number < 0) {
                let text = "must be greater than or equal to 0";
                errors.push(FieldError::invalid(format!("{field}.{key}"), number, text));
            }
        }
        let grace = wire::int(probe, "terminationGracePeriodSeconds");
        let grace_field = format!("{field}.terminationGracePeriodSeconds");
        if let Some(seconds) = grace.filter(|seconds| *seconds <= 0) {
            errors.push(FieldError::invalid(grace_field.as_str(), seconds, "must be greater than 0"));
        }
        if name == "readinessProbe" {
            if let Some(seconds) = grace {
                errors.push(FieldError::invalid(grace_field, seconds, "must not be set for readinessProbes"));
            }
        } else if let Some(threshold) =
            wire::int(probe, "successThreshold").filter(|threshold| *threshold != 1)
        {
            errors.push(FieldError::invalid(format!("{field}.successThreshold"), threshold, "must be 1"));
        }
    }
    errors
}

/// The errors of what runs after the start and before the stop of a container.
pub(super) fn validate_lifecycle(container: &Value, spec: &Value, field: &str) -> Vec<FieldError> {
    let lifecycle = wire::at(container, &["lifecycle"]);
    let hooks = ["postStart", "preStop"].into_iter().filter(|hook| wire::has(lifecycle, hook));
    hooks
        .flat_map(|hook| {
            let (handler, field) = (wire::at(lifecycle, &[hook]), format!("{field}.lifecycle.{hook}"));
            let mut errors = validate_handler(handler, &field);
            errors.extend(validate_sleep(handler, spec, &format!("{field}.sleep")));
            errors
        })
        .collect()
}

/// A container sleeps no longer than its pod may take to go.
fn validate_sleep(handler: &Value, spec: &Value, field: &str) -> Option<FieldError> {
    let sleep = Some(wire::at(handler, &["sleep"])).filter(|sleep| !sleep.is_null())?;
    let grace = wire::int(spec, "terminationGracePeriodSeconds")?;
    let seconds = wire::int(sleep, "seconds").unwrap_or_default();
    (!(0..=grace).contains(&seconds)).then(|| {
        let text = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        FieldError::invalid(field, seconds, text)
    })
}

fn validate_handler(handler: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut kinds =
        ["exec", "httpGet", "tcpSocket", "grpc", "sleep"].into_iter().filter(|kind| wire::has(handler, kind));
    let Some(kind) = kinds.next() else {
        return vec![FieldError::required(field, "must specify a handler type")];
    };
    let action = wire::at(handler, &[kind]);
    let action_field = format!("{field}.{kind}");
    match kind {
        "exec" if wire::list(action, "command").is_empty() => {
            errors.push(FieldError::required(format!("{action_field}.command"), ""));
        }
        "httpGet" => errors.extend(validate_http(action, &action_field)),
        "tcpSocket" | "grpc" => errors.extend(port(action, &action_field)),
        _ => {}
    }
    errors.extend(kinds.map(|kind| {
        FieldError::forbidden(format!("{field}.{kind}"), "may not specify more than 1 handler type")
    }));
    errors
}

fn validate_http(action: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if wire::text(action, "path").is_empty() {
        errors.push(FieldError::required(format!("{field}.path"), ""));
    }
    errors.extend(port(action, field));
    let scheme = wire::text(action, "scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.push(FieldError::not_supported(format!("{field}.scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in wire::list(action, "httpHeaders") {
        errors.extend(names::check(
            names::http_header,
            format!("{field}.httpHeaders"),
            wire::text(header, "name"),
        ));
    }
    errors
}

/// A port by number or by name.
fn port(action: &Value, field: &str) -> Vec<FieldError> {
    let field = format!("{field}.port");
    match wire::at(action, &["port"]) {
        Value::String(name) => names::check(names::port_name, field, name),
        number => port_number(&field, number.as_i64().unwrap_or_default()),
    }
}
