//! What was installed, kept in the cluster: `dyad upgrade` goes on from there.

use kube::Client;
use serde_json::{Value, json};

use crate::survey::{get, list};
use crate::{Chosen, Error, Facts, MANAGED_BY, MANAGER, PART_OF, PART_OF_VALUE, kinds};

/// The name of its ConfigMap.
pub const NAME: &str = "dyad-config";

/// What was installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The version.
    pub version: String,
    /// What was chosen, as YAML.
    pub values: String,
}

/// The ConfigMap that says it.
pub(crate) fn object(chosen: &Chosen, facts: &Facts) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": NAME,
            "namespace": facts.namespace,
            "labels": {
                "app.kubernetes.io/name": NAME, "app.kubernetes.io/version": facts.version,
                PART_OF: PART_OF_VALUE, MANAGED_BY: MANAGER,
            },
        },
        "data": {"version": facts.version, "values.yaml": chosen.to_yaml()},
    })
}

/// What a namespace's one says, if there is one.
pub(crate) async fn read(client: &Client, namespace: &str) -> Result<Option<Record>, Error> {
    let found = get(client, kinds::CONFIG_MAP, namespace, NAME).await?;
    Ok(found.map(|object| {
        let text = |key: &str| object["data"][key].as_str().unwrap_or_default().to_owned();
        Record { version: text("version"), values: text("values.yaml") }
    }))
}

/// Refuses what is meant for an installation in `namespace` when there is none but one in another: objects of the whole
/// cluster are the same, and nodes would not be cleaned.
pub(crate) async fn is_here(client: &Client, namespace: &str) -> Result<(), Error> {
    let selector = format!("app.kubernetes.io/name={NAME},{PART_OF}={PART_OF_VALUE},{MANAGED_BY}={MANAGER}");
    let records = list(client, kinds::CONFIG_MAP, &selector).await?;
    let places: Vec<&str> =
        records.iter().filter_map(|record| record["metadata"]["namespace"].as_str()).collect();
    match places.first() {
        Some(other) if !places.contains(&namespace) => Err(Error::Refused(format!(
            "Dyad is installed in namespace {other}, not in {namespace}: say --namespace {other}; to move it, \
             `dyad uninstall --namespace {other}` first"
        ))),
        _ => Ok(()),
    }
}
