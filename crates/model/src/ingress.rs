//! Ingresses and IngressClasses.

use serde_json::{Value, json};

use crate::meta::{self, Checks};
use crate::{Context, FieldError, Strategy, addresses, lifecycle, names, wire};

/// The strategy of Ingresses.
pub static INGRESS: Ingress = Ingress;
/// The strategy of IngressClasses.
pub static INGRESS_CLASS: IngressClass = IngressClass;

/// Where the class was before it became a field.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// See [`INGRESS`].
#[derive(Clone, Copy, Debug)]
pub struct Ingress;

impl Strategy for Ingress {
    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        wire::set(new, "status", json!({ "loadBalancer": {} }));
        lifecycle::first_generation(new);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        if lifecycle::keep_other_half(new, old, cx) {
            lifecycle::next_generation_if_spec_changed(new, old);
        }
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = validate_spec(new);
        let class = wire::at(new, &["spec", "ingressClassName"]);
        if let Some(annotation) = wire::at(new, &["metadata", "annotations"]).get(CLASS_ANNOTATION)
            && !class.is_null()
            && annotation != class
        {
            let text = "must match `ingressClassName` when both are specified";
            errors.push(FieldError::invalid(
                format!("annotations.{CLASS_ANNOTATION}"),
                annotation.clone(),
                text,
            ));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if lifecycle::writes_status(cx) { validate_status(new, old) } else { validate_spec(new) }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<String> {
        if lifecycle::writes_status(cx) {
            let ingress =
                wire::list(wire::at(new, &["status", "loadBalancer"]), "ingress").iter().enumerate();
            return ingress
                .filter_map(|(index, entry)| {
                    addresses::ip_warning(
                        &format!("status.loadBalancer.ingress[{index}]"),
                        wire::text(entry, "ip"),
                    )
                })
                .collect();
        }
        let annotated = wire::has(wire::at(new, &["metadata", "annotations"]), CLASS_ANNOTATION);
        if old.is_none() && annotated && !wire::has(wire::at(new, &["spec"]), "ingressClassName") {
            return vec![format!(
                "annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead"
            )];
        }
        Vec::new()
    }

    fn meta_checks(&self, cx: &Context<'_>) -> Checks {
        if cx.subresource.is_empty() { Checks::WHOLE_AND_CHANGE } else { Checks::CHANGE }
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

fn validate_spec(ingress: &Value) -> Vec<FieldError> {
    let spec = wire::at(ingress, &["spec"]);
    let mut errors = Vec::new();
    let (rules, backend) = (wire::list(spec, "rules"), wire::at(spec, &["defaultBackend"]));
    if rules.is_empty() && backend.is_null() {
        let text = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid("spec", wire::at(spec, &["rules"]).clone(), text));
    }
    if !backend.is_null() {
        errors.extend(validate_backend(backend, "spec.defaultBackend"));
    }
    for (index, rule) in rules.iter().enumerate() {
        errors.extend(validate_rule(rule, &format!("spec.rules[{index}]")));
    }
    for (index, tls) in wire::list(spec, "tls").iter().enumerate() {
        let field = format!("spec.tls[{index}]");
        for (index, host) in wire::texts(tls, "hosts").enumerate() {
            errors.extend(names::check(host_rule(host), format!("{field}.hosts[{index}]"), host));
        }
        let secret = wire::text(tls, "secretName");
        if !secret.is_empty() {
            errors.extend(names::check(names::dns1123_subdomain, format!("{field}.secretName"), secret));
        }
    }
    if wire::has(spec, "ingressClassName") {
        let class = wire::text(spec, "ingressClassName");
        errors.extend(names::check(names::dns1123_subdomain, "spec.ingressClassName", class));
    }
    errors
}

fn host_rule(host: &str) -> names::Rule {
    if host.contains('*') { names::wildcard_subdomain } else { names::dns1123_subdomain }
}

fn validate_rule(rule: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let host = wire::text(rule, "host");
    if !host.is_empty() {
        let field = format!("{field}.host");
        if dyad_net::parse_ip_sloppy(host).is_some() {
            errors.push(FieldError::invalid(field.as_str(), host, "must be a DNS name, not an IP address"));
        }
        errors.extend(names::check(host_rule(host), field, host));
    }
    let http = wire::at(rule, &["http"]);
    if !http.is_null() {
        let list = format!("{field}.http.paths");
        let paths = wire::list(http, "paths");
        if paths.is_empty() {
            errors.push(FieldError::required(list.as_str(), ""));
        }
        for (index, path) in paths.iter().enumerate() {
            errors.extend(validate_path(path, &format!("{list}[{index}]")));
        }
    }
    errors
}

fn validate_path(entry: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = wire::text(entry, "path");
    let invalid = |text: String| FieldError::invalid(format!("{field}.path"), path, text);
    let kind = wire::text(entry, "pathType");
    if !wire::has(entry, "pathType") {
        return vec![FieldError::required(format!("{field}.pathType"), "pathType must be specified")];
    }
    match kind {
        "Exact" | "Prefix" => {
            if !path.starts_with('/') {
                errors.push(invalid("must be an absolute path".to_owned()));
            }
            let sequences =
                ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|part| path.contains(part));
            errors.extend(sequences.map(|part| invalid(format!("must not contain '{part}'"))));
            let ends = ["/..", "/."].into_iter().filter(|end| path.ends_with(end));
            errors.extend(ends.map(|end| invalid(format!("cannot end with '{end}'"))));
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !path.starts_with('/') {
                errors.push(invalid("must be an absolute path".to_owned()));
            }
        }
        kind => {
            let known = ["Exact", "ImplementationSpecific", "Prefix"];
            errors.push(FieldError::not_supported(format!("{field}.pathType"), kind, &known));
        }
    }
    errors.extend(validate_backend(wire::at(entry, &["backend"]), &format!("{field}.backend")));
    errors
}

fn validate_backend(backend: &Value, field: &str) -> Vec<FieldError> {
    let (resource, service) = (wire::at(backend, &["resource"]), wire::at(backend, &["service"]));
    match (resource.is_null(), service.is_null()) {
        (false, false) => {
            vec![FieldError::invalid(field, "", "cannot set both resource and service backends")]
        }
        (false, true) => validate_reference(resource, &format!("{field}.resource")),
        (true, false) => {
            let mut errors = Vec::new();
            match wire::text(service, "name") {
                "" => errors.push(FieldError::required(format!("{field}.service.name"), "")),
                name => {
                    errors.extend(names::check(names::dns1123_label, format!("{field}.service.name"), name))
                }
            }
            let port = wire::at(service, &["port"]);
            let (name, number) = (wire::text(port, "name"), wire::int(port, "number").unwrap_or_default());
            match (name, number) {
                ("", 0) => errors.push(FieldError::required(field, "port name or number is required")),
                ("", number) => {
                    let field = format!("{field}.service.port.number");
                    let problems = names::port_number(number).into_iter();
                    errors.extend(problems.map(|text| FieldError::invalid(field.as_str(), number, text)));
                }
                (name, 0) => {
                    errors.extend(names::check(names::port_name, format!("{field}.service.port.name"), name));
                }
                _ => errors.push(FieldError::invalid(field, "", "cannot set both port name & port number")),
            }
            errors
        }
        (true, true) => vec![FieldError::invalid(field, "", "resource or service backend is required")],
    }
}

/// A reference to something by group, kind and name.
fn validate_reference(reference: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if wire::has(reference, "apiGroup") {
        let group = wire::text(reference, "apiGroup");
        errors.extend(names::check(names::dns1123_subdomain, format!("{field}.apiGroup"), group));
    }
    for key in ["kind", "name"] {
        match wire::text(reference, key) {
            "" => errors.push(FieldError::required(format!("{field}.{key}"), "")),
            value => errors.extend(names::check(names::path_segment, format!("{field}.{key}"), value)),
        }
    }
    errors
}

fn validate_status(new: &Value, old: &Value) -> Vec<FieldError> {
    const LIST: &str = "status.loadBalancer.ingress";
    let entries = |object| wire::list(wire::at(object, &["status", "loadBalancer"]), "ingress").iter();
    let old: Vec<&str> = entries(old).map(|entry| wire::text(entry, "ip")).collect();
    let mut errors = Vec::new();
    for (index, entry) in entries(new).enumerate() {
        let (ip, hostname) = (wire::text(entry, "ip"), wire::text(entry, "hostname"));
        if !ip.is_empty() {
            errors.extend(addresses::legacy_ip(&format!("{LIST}[{index}].ip"), ip, &old));
        }
        if !hostname.is_empty() {
            let field = format!("{LIST}[{index}].hostname");
            errors.extend(names::check(names::dns1123_subdomain, field.as_str(), hostname));
            if dyad_net::parse_ip_sloppy(hostname).is_some() {
                errors.push(FieldError::invalid(field, hostname, "must be a DNS name, not an IP address"));
            }
        }
    }
    errors
}

/// See [`INGRESS_CLASS`].
#[derive(Clone, Copy, Debug)]
pub struct IngressClass;

impl Strategy for IngressClass {
    fn default(&self, object: &mut Value) {
        if let Some(parameters) =
            object.pointer_mut("/spec/parameters").filter(|parameters| parameters.is_object())
        {
            wire::default(parameters, "scope", "Cluster");
        }
    }

    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        lifecycle::first_generation(new);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _cx: &Context<'_>) {
        lifecycle::next_generation_if_spec_changed(new, old);
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        const FIELD: &str = "spec.controller";
        const LIMIT: usize = 250;
        let spec = wire::at(new, &["spec"]);
        let controller = wire::text(spec, "controller");
        let mut errors = Vec::new();
        if controller.len() > LIMIT {
            errors.push(meta::too_long(FIELD, LIMIT));
        }
        errors.extend(names::domain_prefixed(FIELD, controller));
        let parameters = wire::at(spec, &["parameters"]);
        if !parameters.is_null() {
            errors.extend(validate_reference(parameters, "spec.parameters"));
            errors.extend(validate_scope(parameters));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (new_spec, old_spec) = (wire::at(new, &["spec"]), wire::at(old, &["spec"]));
        if !wire::same(new_spec, old_spec, "controller") {
            let controller = wire::text(new_spec, "controller");
            errors.push(FieldError::invalid("spec.controller", controller, "field is immutable"));
        }
        errors.extend(self.validate_create(new, cx));
        errors
    }

    fn meta_checks(&self, _cx: &Context<'_>) -> Checks {
        Checks::WHOLE_AND_CHANGE
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

fn validate_scope(parameters: &Value) -> Vec<FieldError> {
    const NAMESPACE: &str = "spec.parameters.namespace";
    let namespace = wire::at(parameters, &["namespace"]);
    match wire::text(parameters, "scope") {
        "Namespace" if namespace.is_null() => {
            vec![FieldError::required(NAMESPACE, "`parameters.scope` is set to 'Namespace'")]
        }
        "Namespace" => names::check(names::dns1123_label, NAMESPACE, wire::text(parameters, "namespace")),
        "Cluster" if namespace.is_null() => Vec::new(),
        "Cluster" => vec![FieldError::forbidden(NAMESPACE, "`parameters.scope` is set to 'Cluster'")],
        scope => vec![FieldError::not_supported("spec.parameters.scope", scope, &["Cluster", "Namespace"])],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, created, updated};

    fn ingress(spec: Value) -> Value {
        json!({"metadata": {"name": "i"}, "spec": spec})
    }

    fn with_path(path: Value) -> Value {
        json!({"rules": [{"http": {"paths": [path]}}]})
    }

    #[test]
    fn specifications() {
        let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
        let rows = [
            ("default backend", json!({"defaultBackend": backend}), vec![]),
            ("path", with_path(json!({"path": "/", "pathType": "Prefix", "backend": backend})), vec![]),
            (
                "nothing",
                json!({}),
                vec!["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"],
            ),
            (
                "hosts are names",
                json!({"rules": [{"host": "10.0.0.1"}, {"host": "*.example.com"}, {"host": "foo.*.com"}]}),
                vec![
                    "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
                    "spec.rules[2].host: Invalid value: \"foo.*.com\": a wildcard DNS-1123 subdomain must start with '*.', followed \
                     by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with \
                     an alphanumeric character (e.g. '*.example.com', regex used for validation is \
                     '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
            (
                "path type",
                with_path(json!({"path": "/", "backend": backend})),
                vec!["spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"],
            ),
            (
                "odd path",
                with_path(json!({"path": "a//b/..", "pathType": "Exact", "backend": backend})),
                vec![
                    "spec.rules[0].http.paths[0].path: Invalid value: \"a//b/..\": must be an absolute path",
                    "spec.rules[0].http.paths[0].path: Invalid value: \"a//b/..\": must not contain '//'",
                    "spec.rules[0].http.paths[0].path: Invalid value: \"a//b/..\": cannot end with '/..'",
                ],
            ),
            (
                "two ports",
                json!({"defaultBackend": {"service": {"name": "s", "port": {"number": 80, "name": "p"}}}}),
                vec!["spec.defaultBackend: Invalid value: \"\": cannot set both port name & port number"],
            ),
            (
                "no backend",
                json!({"defaultBackend": {}}),
                vec!["spec.defaultBackend: Invalid value: \"\": resource or service backend is required"],
            ),
        ];
        for (row, spec, wanted) in rows {
            let (object, errors) = created(&INGRESS, ingress(spec));
            assert_eq!(errors, wanted, "{row}");
            assert_eq!(
                (&object["metadata"]["generation"], &object["status"]),
                (&json!(1), &json!({"loadBalancer": {}}))
            );
        }
    }

    #[test]
    fn statuses_hold_addresses_of_both_families() {
        let old = ingress(json!({}));
        let with_status = |list: Value| {
            let mut object = old.clone();
            object["status"] = json!({"loadBalancer": {"ingress": list}});
            object
        };
        let both = with_status(json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"hostname": "a.example.com"}]));
        assert_eq!(updated(&INGRESS, both, &old, "status").1, Vec::<String>::new());
        let odd = with_status(json!([{"ip": "x"}, {"hostname": "10.0.0.1"}]));
        assert_eq!(updated(&INGRESS, odd, &old, "status").1.len(), 2);
    }

    #[test]
    fn classes() {
        let class = |spec: Value| ingress(spec);
        let (object, errors) = created(
            &INGRESS_CLASS,
            class(json!({"controller": "a.io/b", "parameters": {"kind": "K", "name": "n"}})),
        );
        assert_eq!((errors, &object["spec"]["parameters"]["scope"]), (vec![], &json!("Cluster")));
        assert_eq!(created(&INGRESS_CLASS, class(json!({}))).1, ["spec.controller: Required value"]);
        assert_eq!(
            created(&INGRESS_CLASS, class(json!({"controller": "a"}))).1,
            [
                "spec.controller: Invalid value: \"a\": must be a domain-prefixed path (such as \"acme.io/foo\")"
            ]
        );
        let old = class(json!({"controller": "a.io/b"}));
        assert_eq!(
            updated(&INGRESS_CLASS, class(json!({"controller": "a.io/c"})), &old, "").1,
            ["spec.controller: Invalid value: \"a.io/c\": field is immutable"]
        );
        let mut annotated = ingress(json!({}));
        annotated["metadata"]["annotations"] = json!({ CLASS_ANNOTATION: "x" });
        assert_eq!(INGRESS.warnings(&annotated, None, &context("")).len(), 1);
    }
}
