use std::collections::BTreeSet;

use serde_json::Value;

use super::{claims, container, scheduling, security, volume};
use crate::{FieldError, addresses, meta, names, wire};

/// Most name servers a pod may have.
const NAMESERVERS_MAX: usize = 3;
/// Most search domains a pod may have.
const SEARCHES_MAX: usize = 32;
/// Longest list of search domains, in bytes with the spaces between them.
const SEARCH_LIST_MAX: usize = 2048;

/// Every error of a pod template at `field`.
pub(crate) fn validate_template(template: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = validate_template_meta(template, field);
    let spec = wire::at(template, &["spec"]);
    errors.extend(validate_pod_spec(spec, &format!("{field}.spec"), false));
    if !wire::list(spec, "ephemeralContainers").is_empty() {
        let text = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(format!("{field}.spec.ephemeralContainers"), text));
    }
    errors
}

/// The errors of the labels and annotations of a pod template at `field`.
pub(crate) fn validate_template_meta(template: &Value, field: &str) -> Vec<FieldError> {
    let metadata = wire::at(template, &["metadata"]);
    let mut errors = meta::validate_labels(wire::at(metadata, &["labels"]), &format!("{field}.labels"));
    let annotations = wire::at(metadata, &["annotations"]);
    errors.extend(meta::validate_annotations(annotations, &format!("{field}.annotations")));
    errors
}

/// Every error of a pod specification at `field`, of a Pod or of a template.
pub(crate) fn validate_pod_spec(spec: &Value, field: &str, is_pod: bool) -> Vec<FieldError> {
    let at = |key: &str| format!("{field}.{key}");
    let mut errors = Vec::new();
    let mut volumes = BTreeSet::new();
    errors.extend(volume::validate_volumes(spec, &at("volumes"), &mut volumes));
    errors.extend(claims::validate_claims(spec, &at("resourceClaims")));
    errors.extend(container::validate_containers(spec, field, &volumes));
    errors.extend(container::validate_ephemeral(spec, field, &volumes));
    if wire::flag(spec, "hostNetwork") {
        errors.extend(container::validate_host_network(spec, &at("containers"), is_pod));
    }
    errors.extend(one_of(spec, field, "restartPolicy", &["Always", "OnFailure", "Never"]));
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    errors.extend(one_of(spec, field, "dnsPolicy", &policies));
    errors.extend(meta::validate_labels(wire::at(spec, &["nodeSelector"]), &at("nodeSelector")));
    errors.extend(security::validate_pod(spec, &at("securityContext")));
    errors.extend(validate_host_users(spec, field));
    errors.extend(scheduling::validate_affinity(wire::at(spec, &["affinity"]), &at("affinity")));
    errors.extend(validate_dns(spec, &at("dnsConfig")));
    for (index, gate) in wire::list(spec, "readinessGates").iter().enumerate() {
        let field = at(&format!("readinessGates[{index}].conditionType"));
        errors.extend(names::check(names::qualified_name, field, wire::text(gate, "conditionType")));
    }
    errors.extend(scheduling::validate_gates(spec, &at("schedulingGates")));
    errors.extend(scheduling::validate_spread(spec, &at("topologySpreadConstraints")));
    errors.extend(validate_texts(spec, field));
    errors.extend(validate_numbers(spec, field));
    errors.extend(scheduling::validate_tolerations(wire::list(spec, "tolerations"), &at("tolerations")));
    for (index, alias) in wire::list(spec, "hostAliases").iter().enumerate() {
        let field = at(&format!("hostAliases[{index}]"));
        errors.extend(addresses::legacy_ip(&format!("{field}.ip"), wire::text(alias, "ip"), &[]));
        for (index, name) in wire::texts(alias, "hostnames").enumerate() {
            errors.extend(names::check(
                names::dns1123_subdomain,
                format!("{field}.hostnames[{index}]"),
                name,
            ));
        }
    }
    match wire::at(spec, &["os"]) {
        Value::Null => {}
        os => match wire::text(os, "name") {
            "" => errors.push(FieldError::required(at("os.name"), "")),
            "linux" | "windows" => {}
            name => errors.push(FieldError::not_supported(at("os"), name, &["linux", "windows"])),
        },
    }
    if wire::has(spec, "preemptionPolicy") {
        errors.extend(one_of(spec, field, "preemptionPolicy", &["PreemptLowerPriority", "Never"]));
    }
    errors
}

/// The errors of a required field with a fixed set of values.
pub(super) fn one_of(object: &Value, field: &str, key: &str, values: &[&str]) -> Option<FieldError> {
    match wire::text(object, key) {
        "" => Some(FieldError::required(format!("{field}.{key}"), "")),
        value if values.contains(&value) => None,
        value => Some(FieldError::not_supported_in_order(format!("{field}.{key}"), value, values)),
    }
}

/// Names that refer to something, where they are set.
fn validate_texts(spec: &Value, field: &str) -> Vec<FieldError> {
    let rules: [(&str, names::Rule); 6] = [
        ("serviceAccountName", names::dns1123_subdomain),
        ("nodeName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
        ("priorityClassName", names::dns1123_subdomain),
        ("runtimeClassName", names::dns1123_subdomain),
    ];
    let mut errors = Vec::new();
    for (key, rule) in rules {
        let value = wire::text(spec, key);
        if !value.is_empty() {
            errors.extend(names::check(rule, format!("{field}.{key}"), value));
        }
    }
    if wire::has(spec, "hostnameOverride") {
        let field = format!("{field}.hostnameOverride");
        let name = wire::text(spec, "hostnameOverride");
        for other in ["setHostnameAsFQDN", "hostNetwork"] {
            if wire::flag(spec, other) {
                errors.push(FieldError::forbidden(
                    &field,
                    format!("may not be specified when {other} is true"),
                ));
            }
        }
        if name.len() > 64 {
            errors.push(meta::too_long(&field, 64));
        }
        errors.extend(names::check(names::dns1123_subdomain, field, name));
    }
    errors
}

fn validate_numbers(spec: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let range = 1..=i64::from(i32::MAX);
    if let Some(seconds) = wire::int(spec, "activeDeadlineSeconds").filter(|seconds| !range.contains(seconds))
    {
        let text = names::between(1, i64::from(i32::MAX));
        errors.push(FieldError::invalid(format!("{field}.activeDeadlineSeconds"), seconds, text));
    }
    errors
}

/// A pod with users of its own can't share what the host's users own.
fn validate_host_users(spec: &Value, field: &str) -> Vec<FieldError> {
    if wire::at(spec, &["hostUsers"]) != &Value::Bool(false) {
        return Vec::new();
    }
    let shared = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|key| wire::flag(spec, key));
    shared
        .map(|key| {
            // Kubernetes spells two of them like its Go fields.
            let key = if key == "hostNetwork" { key.to_owned() } else { key.replacen('h', "H", 1) };
            FieldError::forbidden(format!("{field}.{key}"), "when `hostUsers` is false")
        })
        .collect()
}

fn validate_dns(spec: &Value, field: &str) -> Vec<FieldError> {
    let config = wire::at(spec, &["dnsConfig"]);
    if wire::text(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            return vec![FieldError::required(field, "must provide `dnsConfig` when `dnsPolicy` is None")];
        }
        if wire::list(config, "nameservers").is_empty() {
            let text = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return vec![FieldError::required(format!("{field}.nameservers"), text)];
        }
    }
    let mut errors = Vec::new();
    let (servers, searches) = (format!("{field}.nameservers"), format!("{field}.searches"));
    let mut exceeds = |field: &str, key: &str, text: String| {
        errors.push(FieldError::invalid(field, wire::at(config, &[key]).clone(), text));
    };
    if wire::list(config, "nameservers").len() > NAMESERVERS_MAX {
        exceeds(&servers, "nameservers", format!("must not have more than {NAMESERVERS_MAX} nameservers"));
    }
    let list = wire::texts(config, "searches").collect::<Vec<_>>();
    if list.len() > SEARCHES_MAX {
        exceeds(&searches, "searches", format!("must not have more than {SEARCHES_MAX} search paths"));
    }
    if list.join(" ").len() > SEARCH_LIST_MAX {
        let text = format!(
            "must not have more than {SEARCH_LIST_MAX} characters (including spaces) in the search list"
        );
        exceeds(&searches, "searches", text);
    }
    for (index, server) in wire::texts(config, "nameservers").enumerate() {
        errors.extend(addresses::legacy_ip(&format!("{servers}[{index}]"), server, &[]));
    }
    for (index, search) in list.into_iter().enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        errors.extend(names::check(names::search_domain, format!("{searches}[{index}]"), search));
    }
    for (index, option) in wire::list(config, "options").iter().enumerate() {
        if wire::text(option, "name").is_empty() {
            errors.push(FieldError::required(format!("{field}.options[{index}]"), "must not be empty"));
        }
    }
    errors
}
