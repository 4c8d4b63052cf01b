//! What is inside, as CycloneDX 1.5 says it: every package that the programs are built from, with version, licence and
//! checksum.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The programs' packages.
const ROOTS: [&str; 2] = ["dyad-cli", "dyad-cni"];

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The version of the programs.
pub(super) fn version(metadata: &Value) -> Result<String> {
    let root = list(&metadata["packages"]).find(|package| package["name"] == ROOTS[0]);
    let version = root.and_then(|package| package["version"].as_str());
    Ok(version.context("cargo metadata has no dyad-cli")?.to_owned())
}

/// IDs of packages that are part of the programs.
fn shipped(metadata: &Value) -> BTreeSet<&str> {
    let is_root = |package: &&Value| ROOTS.iter().any(|root| package["name"] == *root);
    let mut open: Vec<&str> =
        list(&metadata["packages"]).filter(is_root).filter_map(|package| package["id"].as_str()).collect();
    let mut seen: BTreeSet<&str> = open.iter().copied().collect();
    while let Some(id) = open.pop() {
        let node = list(&metadata["resolve"]["nodes"]).find(|node| node["id"] == id);
        // Neither tests nor what runs while it is built.
        let is_part = |dependency: &&Value| list(&dependency["dep_kinds"]).any(|kind| kind["kind"].is_null());
        let parts = node.into_iter().flat_map(|node| list(&node["deps"])).filter(is_part);
        for part in parts.filter_map(|dependency| dependency["pkg"].as_str()) {
            if seen.insert(part) {
                open.push(part);
            }
        }
    }
    seen
}

pub(super) fn write(metadata: &Value, version: &str) -> Result<String> {
    let lock = std::fs::read_to_string(
        std::path::Path::new(metadata["workspace_root"].as_str().unwrap_or_default()).join("Cargo.lock"),
    )?;
    let shipped = shipped(metadata);
    let component = |package: &Value| {
        let text = |field: &str| package[field].as_str().unwrap_or_default().to_owned();
        let (name, version) = (text("name"), text("version"));
        let mut component = json!({
            "type": "library", "name": name, "version": version,
            "bom-ref": format!("pkg:cargo/{name}@{version}"), "purl": format!("pkg:cargo/{name}@{version}"),
            "licenses": [{"expression": text("license").replace('/', " OR ")}],
        });
        if let Some(checksum) = checksum(&lock, &name, &version) {
            component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
        }
        component
    };
    let is_shipped = |package: &&Value| package["id"].as_str().is_some_and(|id| shipped.contains(id));
    let components: Vec<Value> = list(&metadata["packages"]).filter(is_shipped).map(component).collect();
    let bom = json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": {"type": "application", "name": "dyad", "version": version, "bom-ref": "dyad"}},
        "components": components,
    });
    Ok(serde_json::to_string_pretty(&bom)? + "\n")
}

/// The checksum that Cargo.lock has of a package.
fn checksum<'a>(lock: &'a str, name: &str, version: &str) -> Option<&'a str> {
    let begin = format!("name = \"{name}\"\nversion = \"{version}\"\n");
    let entry = lock.split("[[package]]\n").find(|entry| entry.starts_with(&begin))?;
    entry.lines().find_map(|line| line.strip_prefix("checksum = \"")?.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_with_is_not_inside() {
        let package =
            |name: &str| json!({"id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0"});
        let dep = |name: &str, kind: Value| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let packages = ["dyad-cli", "a", "b", "c"].map(package);
        let metadata = json!({
            "packages": packages,
            "resolve": {"nodes": [
                {"id": "dyad-cli", "deps": [dep("a", Value::Null), dep("b", json!("build"))]},
                {"id": "a", "deps": [dep("c", json!("dev"))]},
            ]},
        });
        assert_eq!(shipped(&metadata).into_iter().collect::<Vec<_>>(), ["a", "dyad-cli"]);
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"ab\"\n";
        assert_eq!(checksum(lock, "a", "1.0.0"), Some("ab"));
        assert_eq!(checksum(lock, "a", "1.0.1"), None);
    }
}
