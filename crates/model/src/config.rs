//! ConfigMaps, Secrets and ServiceAccounts.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::meta::{self, Checks};
use crate::{Context, FieldError, Strategy, names, wire};

/// The strategy of ConfigMaps.
pub static CONFIG_MAP: ConfigMap = ConfigMap;
/// The strategy of Secrets.
pub static SECRET: Secret = Secret;
/// The strategy of ServiceAccounts.
pub static SERVICE_ACCOUNT: ServiceAccount = ServiceAccount;

/// Largest sum of the sizes of all values, in bytes.
const DATA_MAX: usize = 1024 * 1024;

const IMMUTABLE: &str = "field is immutable when `immutable` is set";

/// See [`CONFIG_MAP`].
#[derive(Clone, Copy, Debug)]
pub struct ConfigMap;

impl Strategy for ConfigMap {
    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut size = 0;
        for (key, value) in wire::entries(new, "data") {
            let field = format!("data[{key}]");
            errors.extend(key_errors(key, &field));
            if wire::has(wire::at(new, &["binaryData"]), key) {
                errors.push(FieldError::invalid(field, key, "duplicate of key present in binaryData"));
            }
            size += value.as_str().map_or(0, str::len);
        }
        for (key, value) in wire::entries(new, "binaryData") {
            errors.extend(key_errors(key, &format!("binaryData[{key}]")));
            size += base64_size(value);
        }
        if size > DATA_MAX {
            errors.push(meta::too_long("", DATA_MAX));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = immutable_errors(new, old, &["data", "binaryData"]);
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

/// See [`SECRET`].
#[derive(Clone, Copy, Debug)]
pub struct Secret;

impl Strategy for Secret {
    /// `stringData` is a convenience of writers: it goes into `data` and is never shown.
    fn default(&self, object: &mut Value) {
        if let Some(Value::Object(strings)) = object.as_object_mut().and_then(|map| map.remove("stringData"))
        {
            let data = wire::child(object, "data");
            for (key, value) in strings {
                wire::set(data, &key, STANDARD.encode(value.as_str().unwrap_or_default()));
            }
        }
        wire::default_zero(object, "type", "Opaque");
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut size = 0;
        for (key, value) in wire::entries(new, "data") {
            errors.extend(key_errors(key, &format!("data[{key}]")));
            size += base64_size(value);
        }
        if size > DATA_MAX {
            errors.push(meta::too_long("data", DATA_MAX));
        }
        let data = wire::at(new, &["data"]);
        let mut require = |key: &str| {
            if data.get(key).is_none() {
                errors.push(FieldError::required(format!("data[{key}]"), ""));
            }
        };
        match wire::text(new, "type") {
            "kubernetes.io/service-account-token" => {
                let key = "kubernetes.io/service-account.name";
                if wire::text(wire::at(new, &["metadata", "annotations"]), key).is_empty() {
                    errors.push(FieldError::required(format!("metadata.annotations[{key}]"), ""));
                }
            }
            "kubernetes.io/dockercfg" => require(".dockercfg"),
            "kubernetes.io/dockerconfigjson" => require(".dockerconfigjson"),
            "kubernetes.io/basic-auth"
                if data.get("username").is_none() && data.get("password").is_none() =>
            {
                require("username");
                require("password");
            }
            "kubernetes.io/ssh-auth" if wire::text(data, "ssh-privatekey").is_empty() => {
                errors.push(FieldError::required("data[ssh-privatekey]", ""));
            }
            "kubernetes.io/tls" => {
                require("tls.crt");
                require("tls.key");
            }
            _ => {}
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if !wire::same(new, old, "type") {
            errors.push(FieldError::invalid("type", wire::text(new, "type"), "field is immutable"));
        }
        errors.extend(immutable_errors(new, old, &["data"]));
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

/// See [`SERVICE_ACCOUNT`].
#[derive(Clone, Copy, Debug)]
pub struct ServiceAccount;

impl ServiceAccount {
    /// Of a reference to a Secret only the name is kept.
    fn clean(object: &mut Value) {
        for secret in wire::items_mut(object, "secrets") {
            if let Some(map) = secret.as_object_mut() {
                map.retain(|key, _| key == "name");
            }
        }
    }
}

impl Strategy for ServiceAccount {
    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        Self::clean(new);
    }

    fn prepare_update(&self, new: &mut Value, _old: &Value, _cx: &Context<'_>) {
        Self::clean(new);
    }

    fn meta_checks(&self, _cx: &Context<'_>) -> Checks {
        Checks::WHOLE_AND_CHANGE
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

fn key_errors(key: &str, field: &str) -> Vec<FieldError> {
    names::config_key(key).into_iter().map(|text| FieldError::invalid(field, key, text)).collect()
}

/// What may not change once `immutable` was true.
fn immutable_errors(new: &Value, old: &Value, keys: &[&str]) -> Vec<FieldError> {
    if !wire::flag(old, "immutable") {
        return Vec::new();
    }
    let mut errors = Vec::new();
    if !wire::flag(new, "immutable") {
        errors.push(FieldError::forbidden("immutable", IMMUTABLE));
    }
    let changed = keys.iter().filter(|key| !wire::same(new, old, key));
    errors.extend(changed.map(|key| FieldError::forbidden(*key, IMMUTABLE)));
    errors
}

/// The number of bytes a base64 text stands for.
fn base64_size(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    let padding = text.len() - text.trim_end_matches('=').len();
    (text.len() / 4 * 3).saturating_sub(padding)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{created, updated};

    #[test]
    fn sizes_are_of_what_base64_stands_for() {
        for (text, size) in [("", 0), ("Zg==", 1), ("Zm8=", 2), ("Zm9v", 3), ("Zm9vYg==", 4)] {
            assert_eq!(base64_size(&json!(text)), size);
        }
    }

    #[test]
    fn string_data_becomes_data() {
        let (secret, errors) =
            created(&SECRET, json!({"data": {"a": "eA==", "b": "eA=="}, "stringData": {"a": "y"}}));
        assert_eq!(errors, Vec::<String>::new());
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "eQ==", "b": "eA=="}}));
    }

    #[test]
    fn secrets_have_what_their_type_needs() {
        let (_, errors) = created(&SECRET, json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}));
        assert_eq!(errors, ["data[tls.key]: Required value"]);
        let (_, errors) = created(&SECRET, json!({"type": "kubernetes.io/basic-auth"}));
        assert_eq!(errors, ["data[username]: Required value", "data[password]: Required value"]);
        let old = json!({"type": "Opaque"});
        let (_, errors) = updated(&SECRET, json!({"type": "x"}), &old, "");
        assert_eq!(errors, ["type: Invalid value: \"x\": field is immutable"]);
    }

    #[test]
    fn immutable_stays_as_it_is() {
        let old = json!({"immutable": true, "data": {"a": "b"}});
        let (_, errors) = updated(&CONFIG_MAP, json!({"immutable": true, "data": {"a": "b"}}), &old, "");
        assert_eq!(errors, Vec::<String>::new());
        let (_, errors) = updated(&CONFIG_MAP, json!({"data": {"a": "c"}}), &old, "");
        assert_eq!(
            errors,
            [format!("immutable: Forbidden: {IMMUTABLE}"), format!("data: Forbidden: {IMMUTABLE}")]
        );
    }

    #[test]
    fn config_maps_have_keys_once_and_a_size() {
        let (_, errors) = created(&CONFIG_MAP, json!({"data": {"a": "b"}, "binaryData": {"a": ""}}));
        assert_eq!(errors, ["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"]);
        let (_, errors) = created(&CONFIG_MAP, json!({"data": {"a": "x".repeat(DATA_MAX + 1)}}));
        assert_eq!(errors, [": Too long: may not be more than 1048576 bytes"]);
    }

    #[test]
    fn service_accounts_refer_to_secrets_by_name() {
        let (account, _) =
            created(&SERVICE_ACCOUNT, json!({"secrets": [{"name": "a", "namespace": "b", "kind": "c"}]}));
        assert_eq!(account, json!({"secrets": [{"name": "a"}]}));
    }
}
