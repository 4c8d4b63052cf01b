//! The environment of a container (B20, B21, B23), its command line, and the downward API. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, Service};

/// Where values come from.
pub(crate) struct Sources<'a> {
    /// The pod.
    pub(crate) pod: &'a Pod,
    /// The pod's addresses, primary first.
    pub(crate) pod_ips: &'a [IpAddr],
    /// The node's addresses, primary first.
    pub(crate) host_ips: &'a [IpAddr],
    /// The ConfigMaps that the container names, by name.
    pub(crate) config_maps: &'a BTreeMap<String, BTreeMap<String, String>>,
    /// The Secrets that the container names, by name.
    pub(crate) secrets: &'a BTreeMap<String, BTreeMap<String, String>>,
    /// What the node can give, for containers without limits.
    pub(crate) allocatable: &'a BTreeMap<String, String>,
    /// Services whose addresses go into the environment.
    pub(crate) services: &'a [Service],
}

/// The environment: service links first, then `envFrom`, then `env`, later ones replacing earlier ones; `$(NAME)` in
/// values refers to what stands before.
pub(crate) fn environment(
    container: &Container,
    sources: &Sources<'_>,
) -> Result<Vec<(String, String)>, String> {
    let mut links: BTreeMap<String, String> = BTreeMap::new();
    sources.services.iter().for_each(|service| links.extend(service_links(service)));
    let mut env = Environment::default();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let named = source.config_map_ref.as_ref().map(|from| ("configmap", &from.name, from.optional));
        let named =
            named.or_else(|| source.secret_ref.as_ref().map(|from| ("secret", &from.name, from.optional)));
        let Some((kind, name, optional)) = named else { continue };
        match sources.object(kind).get(name) {
            Some(data) => {
                data.iter().for_each(|(key, value)| env.set(&format!("{prefix}{key}"), value.clone()))
            }
            None if optional == Some(true) => {}
            None => return Err(format!("{kind} {name:?} not found")),
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => {
                let text = variable.value.as_deref().unwrap_or_default();
                Some(expand(text, |name| env.get(name).or_else(|| links.get(name).map(String::as_str))))
            }
            Some(from) => {
                let key = from
                    .config_map_key_ref
                    .as_ref()
                    .map(|key| ("configmap", &key.name, &key.key, key.optional));
                let key = key.or_else(|| {
                    from.secret_key_ref.as_ref().map(|key| ("secret", &key.name, &key.key, key.optional))
                });
                if let Some((kind, name, key, optional)) = key {
                    match sources.object(kind).get(name).map(|data| data.get(key)) {
                        Some(Some(value)) => Some(value.clone()),
                        _ if optional == Some(true) => None,
                        Some(None) => return Err(format!("couldn't find key {key} in {kind} {name:?}")),
                        None => return Err(format!("{kind} {name:?} not found")),
                    }
                } else if let Some(field) = &from.field_ref {
                    Some(field_value(field, sources)?)
                } else if let Some(field) = &from.resource_field_ref {
                    let divisor = field.divisor.as_ref().map(|quantity| quantity.0.as_str());
                    Some(resource_value(container, &field.resource, divisor, sources)?)
                } else {
                    None
                }
            }
        };
        if let Some(value) = value {
            env.set(&variable.name, value);
        }
    }
    // The pod's own variables win over links of the same name.
    let links = links.into_iter().filter(|(name, _)| env.get(name).is_none());
    Ok(links.collect::<Vec<_>>().into_iter().chain(env.list).collect())
}

impl Sources<'_> {
    fn object(&self, kind: &str) -> &BTreeMap<String, BTreeMap<String, String>> {
        if kind == "secret" { self.secrets } else { self.config_maps }
    }
}

/// Names and values in the order they were first set.
#[derive(Default)]
struct Environment {
    list: Vec<(String, String)>,
}

impl Environment {
    fn get(&self, name: &str) -> Option<&str> {
        self.list.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn set(&mut self, name: &str, value: String) {
        match self.list.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.list.push((name.to_owned(), value)),
        }
    }
}

/// Replaces `$(NAME)` by its value; `$$` is a dollar sign, and what is not known stays as it is.
pub(crate) fn expand<'a>(text: &str, value: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix("$(").and_then(|inner| inner.split_once(')')) {
            match value(name) {
                Some(value) => expanded.push_str(value),
                None => expanded.push_str(&rest[..rest.len() - after.len()]),
            }
            rest = after;
        } else {
            expanded.push('$');
            rest = &rest[1..];
        }
    }
    expanded.push_str(rest);
    expanded
}

/// Words of a command line with variables replaced.
pub(crate) fn expand_words(words: Option<&Vec<String>>, env: &[(String, String)]) -> Vec<String> {
    let value = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    words.into_iter().flatten().map(|word| expand(word, value)).collect()
}

/// The value of a `fieldRef` (B20, B21).
pub(crate) fn field_value(field: &ObjectFieldSelector, sources: &Sources<'_>) -> Result<String, String> {
    let (meta, path) = (&sources.pod.metadata, field.field_path.as_str());
    let spec = sources.pod.spec.as_ref();
    let joined = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string).unwrap_or_default();
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    Ok(match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => all_pairs(meta.labels.as_ref()),
        "metadata.annotations" => all_pairs(meta.annotations.as_ref()),
        "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "status.podIP" => first(sources.pod_ips),
        "status.podIPs" => joined(sources.pod_ips),
        "status.hostIP" => first(sources.host_ips),
        "status.hostIPs" => joined(sources.host_ips),
        _ => {
            let key = |kind: &str| path.strip_prefix(kind)?.strip_prefix("['")?.strip_suffix("']");
            if let Some(key) = key("metadata.labels") {
                text(meta.labels.as_ref().and_then(|labels| labels.get(key)))
            } else if let Some(key) = key("metadata.annotations") {
                text(meta.annotations.as_ref().and_then(|annotations| annotations.get(key)))
            } else {
                return Err(format!("fieldPath {path:?} is not supported"));
            }
        }
    })
}

/// All labels or annotations, as they stand in a downward API file.
fn all_pairs(pairs: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = pairs
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", serde_json::json!(value)))
        .collect();
    lines.join("\n")
}

/// The value of a `resourceFieldRef`: limits default to what the node can give; rounded up to the divisor.
pub(crate) fn resource_value(
    container: &Container,
    resource: &str,
    divisor: Option<&str>,
    sources: &Sources<'_>,
) -> Result<String, String> {
    let (kind, name) =
        resource.split_once('.').ok_or_else(|| format!("resource {resource:?} is not supported"))?;
    let given = container.resources.as_ref().and_then(|resources| match kind {
        "limits" => resources.limits.as_ref(),
        "requests" => resources.requests.as_ref(),
        _ => None,
    });
    let given = given.and_then(|list| list.get(name)).map(|quantity| quantity.0.as_str());
    let fallback = if kind == "limits" { sources.allocatable.get(name).map(String::as_str) } else { None };
    let millis = |text: &str| {
        dyad_model::quantity::Quantity::parse(text)
            .map(|quantity| quantity.millis())
            .ok_or_else(|| format!("{text:?} is not a quantity"))
    };
    let value = millis(given.or(fallback).unwrap_or("0"))?;
    let divisor = match divisor {
        None | Some("" | "0") => 1000,
        Some(text) => millis(text)?.max(1),
    };
    Ok(value.div_ceil(divisor).to_string())
}

/// The variables that tell of a Service: its primary address only; bare in `_HOST` and `_ADDR`, in brackets in
/// URLs (B23).
fn service_links(service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let Some(ip) = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()) else {
        return Vec::new();
    };
    let name = service.metadata.name.as_deref().unwrap_or_default().to_uppercase().replace('-', "_");
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return Vec::new() };
    let url = |port: &k8s_openapi::api::core::v1::ServicePort| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
        let at = std::net::SocketAddr::new(ip, u16::try_from(port.port).unwrap_or_default());
        (protocol.clone(), format!("{protocol}://{at}"))
    };
    let mut links = vec![
        (format!("{name}_SERVICE_HOST"), ip.to_string()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
        (format!("{name}_PORT"), url(first).1),
    ];
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let port_name = port_name.to_uppercase().replace('-', "_");
            links.push((format!("{name}_SERVICE_PORT_{port_name}"), port.port.to_string()));
        }
        let (protocol, url) = url(port);
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
        links.push((prefix.clone(), url));
        links.push((format!("{prefix}_PROTO"), protocol));
        links.push((format!("{prefix}_PORT"), port.port.to_string()));
        links.push((format!("{prefix}_ADDR"), ip.to_string()));
    }
    links
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    fn run(container: Value, services: &[Service]) -> Result<Vec<(String, String)>, String> {
        let pod: Pod = typed(json!({
            "metadata": {"name": "web-0", "namespace": "ns", "uid": "u", "labels": {"app": "web"}, "annotations": {"a/b": "c"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "sa", "containers": []},
        }));
        let maps = BTreeMap::from([("m".to_owned(), BTreeMap::from([("K".to_owned(), "v".to_owned())]))]);
        let sources = Sources {
            pod: &pod,
            pod_ips: &ips(&["10.244.1.5", "fd00::5"]),
            host_ips: &ips(&["192.0.2.1", "2001:db8::1"]),
            config_maps: &maps,
            secrets: &BTreeMap::new(),
            allocatable: &BTreeMap::from([("cpu".to_owned(), "2".to_owned())]),
            services,
        };
        environment(&typed(container), &sources)
    }

    fn field(path: &str) -> Value {
        json!({"name": "c", "env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}}]})
    }

    #[test]
    fn b20_b21_field_refs() {
        for (path, want) in [
            ("metadata.name", "web-0"),
            ("metadata.namespace", "ns"),
            ("metadata.uid", "u"),
            ("metadata.labels['app']", "web"),
            ("metadata.labels['none']", ""),
            ("metadata.annotations['a/b']", "c"),
            ("spec.nodeName", "n1"),
            ("spec.serviceAccountName", "sa"),
            ("status.podIP", "10.244.1.5"),
            ("status.podIPs", "10.244.1.5,fd00::5"),
            ("status.hostIP", "192.0.2.1"),
            ("status.hostIPs", "192.0.2.1,2001:db8::1"),
        ] {
            assert_eq!(run(field(path), &[]), Ok(vec![("X".into(), want.into())]), "{path}");
        }
        assert!(run(field("spec.hostname"), &[]).is_err());
    }

    #[test]
    fn later_values_replace_earlier_ones_and_may_use_them() {
        let env = run(
            json!({"name": "c",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}, {"configMapRef": {"name": "x", "optional": true}}],
            "env": [
                {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(P_K)-$(NO)-$$(A)-$"},
                {"name": "P_K", "value": "new"}, {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "K"}}},
                {"name": "D", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}},
                {"name": "E", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
            ]}),
            &[],
        );
        let want = [("P_K", "new"), ("A", "1"), ("B", "1-v-$(NO)-$(A)-$"), ("C", "v"), ("E", "2000")];
        assert_eq!(env.unwrap(), want.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (container, want) in [
            (json!({"name": "c", "envFrom": [{"configMapRef": {"name": "x"}}]}), "configmap \"x\" not found"),
            (
                json!({"name": "c", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
                "secret \"s\" not found",
            ),
            (
                json!({"name": "c", "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]}),
                "couldn't find key k in configmap \"m\"",
            ),
        ] {
            assert_eq!(run(container, &[]), Err(want.to_owned()));
        }
    }

    #[test]
    fn b23_service_links_use_the_primary_address() {
        let service: Service = typed(json!({
            "metadata": {"name": "my-web"},
            "spec": {"clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.96.0.1"], "ports": [{"name": "http", "port": 80}]},
        }));
        let headless: Service =
            typed(json!({"metadata": {"name": "h"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}));
        let env = run(
            json!({"name": "c", "env": [{"name": "MY_WEB_PORT", "value": "mine"}]}),
            &[service, headless],
        )
        .unwrap();
        let mut want = vec![
            ("MY_WEB_PORT", "mine"),
            ("MY_WEB_SERVICE_HOST", "fd00::1"),
            ("MY_WEB_SERVICE_PORT", "80"),
            ("MY_WEB_SERVICE_PORT_HTTP", "80"),
            ("MY_WEB_PORT_80_TCP", "tcp://[fd00::1]:80"),
            ("MY_WEB_PORT_80_TCP_PROTO", "tcp"),
            ("MY_WEB_PORT_80_TCP_PORT", "80"),
            ("MY_WEB_PORT_80_TCP_ADDR", "fd00::1"),
        ];
        want.sort();
        let mut env: Vec<(&str, &str)> =
            env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        env.sort();
        assert_eq!(env, want);
    }
}
