//! `spec.ports` (A81 to A87).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::choice;
use crate::service::spec::{Port, Spec, kind};
use crate::{FieldError, names};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

fn invalid(field: &str, value: impl Into<Value>, problems: Vec<String>) -> Vec<FieldError> {
    let value = value.into();
    problems.into_iter().map(|text| FieldError::invalid(field, value.clone(), text)).collect()
}

/// What each port must be by itself, and that names differ.
pub(super) fn each(spec: &Spec) -> Vec<FieldError> {
    let mut names_seen = BTreeSet::new();
    let check = |(index, port): (usize, &Port)| {
        let path = format!("spec.ports[{index}]");
        let mut errors = Vec::new();
        let name = port.name.as_str();
        if name.is_empty() {
            if spec.ports.len() > 1 {
                errors.push(FieldError::required(format!("{path}.name"), ""));
            }
        } else {
            errors.extend(invalid(&format!("{path}.name"), name, names::dns1123_label(name)));
            if !names_seen.insert(name.to_owned()) {
                errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
        }
        errors.extend(invalid(&format!("{path}.port"), port.port, names::port_number(port.port)));
        errors.extend(choice(&format!("{path}.protocol"), Some(&port.protocol), &PROTOCOLS));
        let problems = match &port.target_port {
            Value::String(name) => names::port_name(name),
            number => names::port_number(number.as_i64().unwrap_or_default()),
        };
        errors.extend(invalid(&format!("{path}.targetPort"), port.target_port.clone(), problems));
        if let Some(name) = port.app_protocol.as_deref() {
            errors.extend(invalid(&format!("{path}.appProtocol"), name, names::qualified_name(name)));
        }
        errors
    };
    spec.ports.iter().enumerate().flat_map(check).collect()
}

/// What the ports must be together, and with the type.
pub(super) fn together(spec: &Spec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, port) in spec.ports.iter().enumerate() {
        if spec.kind == kind::CLUSTER_IP && port.node_port != 0 {
            let detail = "may not be used when `type` is 'ClusterIP'";
            errors.push(FieldError::forbidden(format!("spec.ports[{index}].nodePort"), detail));
        }
    }
    let mut seen = BTreeSet::new();
    for (index, port) in spec.ports.iter().enumerate() {
        if port.node_port != 0 && !seen.insert((&port.protocol, port.node_port)) {
            errors.push(FieldError::duplicate(format!("spec.ports[{index}].nodePort"), port.node_port));
        }
    }
    let mut seen = BTreeSet::new();
    for (index, port) in spec.ports.iter().enumerate() {
        if !seen.insert((&port.protocol, port.port)) {
            // Upstream prints its own type, with only the two fields that clash.
            let shown = json!({
                "Name": "", "Protocol": port.protocol, "AppProtocol": null, "Port": port.port, "TargetPort": 0,
                "NodePort": 0
            });
            errors.push(FieldError::duplicate(format!("spec.ports[{index}]"), shown));
        }
    }
    errors
}
