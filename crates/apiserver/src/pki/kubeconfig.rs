//! What a client needs to know, in the form that kubectl reads.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Identity;

/// A kubeconfig with one cluster, one user and one context, all called `name`, the context being the current one.
/// JSON is YAML: the text of this value is a kubeconfig file. It holds the private key.
pub fn kubeconfig(name: &str, server: &str, ca_pem: &str, client: &Identity) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "clusters": [{
            "name": name,
            "cluster": { "server": server, "certificate-authority-data": STANDARD.encode(ca_pem) },
        }],
        "users": [{
            "name": name,
            "user": {
                "client-certificate-data": STANDARD.encode(&client.certificate_pem),
                "client-key-data": STANDARD.encode(&client.key_pem),
            },
        }],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
        "current-context": name,
    })
}
